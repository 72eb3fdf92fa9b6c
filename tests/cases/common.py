"""Domains, and what is said of laws, that several families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np
from laws import EPS, UNITS, Arrays, Domain, K, Numbers, drawn, each, exact, one_hot, pairs, whole

# ---------------------------------------------------------------------------------------------------------------------
# Domains


def simplex(weights: np.ndarray) -> np.ndarray:
    """Rows over their sums; one without any is uniform."""
    weights = weights.astype(np.float64)
    weights = np.where(weights.sum(-1, keepdims=True) > 0, weights, 1)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


ANY_REAL = Numbers((*whole(-4, 4), 1e-42, 1e-30, -1e-30, 1 + EPS, 1e15, -1e15), (-1e4, 1e4))
SCORE = Numbers((*whole(-4, 4), 1e-42, 1e-30, 104, -104, 1e4, -1e4), (-30, 30))
POSITIVE = Numbers((1, 2, 3, 1e-6), (1e-3, 1e4))
SHARE = Numbers((0, 1, 0.5, 1e-42, 1e-30, 1e-7, 1 - EPS / 2), (0, 1))
SIGN, BIT = Numbers((1, -1)), Numbers((0, 1))
FRACTION = Numbers(tuple(n / 256 for n in range(257)))  # their complements are exact

DRAWN_LABELS = drawn(Numbers(whole(0, K - 1)), UNITS, dtype=np.int32)
ROWS_OF_SHARES = each(SHARE, K).map(simplex)
ROWS_OF_SCORES = each(SCORE, K)

OF_RESIDUALS = ("convex", "least", "non_negative", "homogeneous", "translated", "symmetric")
OF_BINARY = ("convex", "least", "non_negative", "relabelled")
OF_LOGITS = ("convex", "least", "non_negative", "shifted", "relabelled")


def mirror(one: float) -> dict[str, Any]:
    """The two classes of a binary target change places."""
    return {"relabel": lambda arrays, order: (one - arrays[0], -arrays[1])}


def relabel_label(arrays: Arrays, order: np.ndarray) -> Arrays:
    return np.argsort(order).astype(np.int32)[arrays[0]], arrays[1][..., order]


REALS = Domain(pairs(each(ANY_REAL)), OF_RESIDUALS)
VECTORS = Domain(pairs(each(ANY_REAL, K)), (*OF_RESIDUALS, "relabelled"))
TARGET_LOGIT = Domain(st.tuples(each(FRACTION), each(SCORE)), OF_BINARY, **mirror(1.0))
PROBABILITY = Domain(
    st.tuples(each(FRACTION), each(FRACTION)), OF_BINARY, relabel=lambda arrays, order: tuple(1 - x for x in arrays)
)
SIMPLICES = Domain(
    pairs(ROWS_OF_SHARES),
    ("convex", "least", "non_negative", "homogeneous", "symmetric", "relabelled"),
    shares=True,
)
LOGITS = Domain(st.tuples(ROWS_OF_SHARES, ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
LABEL_LOGITS = Domain(st.tuples(DRAWN_LABELS, ROWS_OF_SCORES), OF_LOGITS, moves=(1,), relabel=relabel_label)
SMALL = Numbers((*whole(-4, 4), 1e-30, 1e-3), (-8, 8))
MODERATE = Domain(pairs(each(Numbers((*whole(-4, 4), 1e-30, 1e-3), (-100, 100)))), ())
MODERATE_LOGITS = Domain(pairs(each(SMALL, K)), ())


def traced_one_hot(labels: Any) -> Any:
    return jax.nn.one_hot(labels, K)


# ---------------------------------------------------------------------------------------------------------------------
# Laws


def log_of(q: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(exact(q), 1e-200))


def at_label(label: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return 200 * one_hot(label)


def without(laws: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: held for name, held in laws.items() if name not in names}


AT_TARGET = (lambda y, *others: y, 0.0)
ONE = lambda *arrays: 1.0  # noqa: E731  a logarithm near 0 carries the rounding of a number near 1
BOTH, PREDICTION = (0, 1), (1,)

# Laws that hold.
RESIDUAL = {"convex": True, "least": AT_TARGET, "non_negative": True, "translated": True, "symmetric": True}
BINARY = {"convex": True, "non_negative": True, "relabelled": True}
OF_CLASSES = {"convex": True, "non_negative": True, "shifted": True, "relabelled": True}
ROW_OF_P = {"non_negative": True, "homogeneous": (0, PREDICTION), "relabelled": True}
CONVEX = {"convex": True, "non_negative": True, "translated": True}

# Laws that do not, and why.
LENGTH = {"homogeneous": "an option is a length: it must be scaled too"}
BOUNDED = {"convex": "its slope falls for large residuals"}
NORMALISED = {"symmetric": "only the prediction is in a logarithm"}
