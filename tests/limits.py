"""Losses that become one another: at certain options, in a limit, or of certain inputs.

Each pair is judged on drawn inputs. In a limit the two may differ by what the series of the formula leaves; that is
said of each, as a function of the inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import laws
import numpy as np
from laws import Domain, Numbers, each, exact, pairs, whole
from subjects import ONE, gaussian_terms, log_poisson_terms, nb_terms, poisson_terms, student_terms

import jaxloss

NONE = {"reduction": "none"}


@dataclass(frozen=True)
class Limit:
    """A loss, and what it equals.

    id: the loss, then a hyphen and what it becomes.
    left, right: functions of the arrays, one loss a unit each.
    size: how large the terms of the formulas are, of the arrays; 0 if the losses themselves are the largest.
    within: how far the two may differ beside rounding, of the arrays.
    """

    id: str
    domain: Domain
    left: Callable[..., Any]
    right: Callable[..., Any]
    size: Callable[..., Any] = lambda *arrays: 0.0
    within: Callable[..., Any] = lambda *arrays: 0.0

    @property
    def name(self) -> str:
        return self.id.partition("-")[0]

    @functools.cached_property
    def program(self) -> Callable[..., Any]:
        return jax.jit(lambda *arrays: (self.left(*arrays), self.right(*arrays)))

    def judge(self, arrays: laws.Arrays) -> None:
        left, right = map(exact, self.program(*arrays))
        assert left.shape == right.shape, f"{self.id}: shapes {left.shape} and {right.shape}"
        given = tuple(map(exact, arrays))
        size = np.abs(left) + np.abs(right) + self.size(*given)
        tolerance = laws.ROUNDINGS * (laws.EPS * size + laws.TINY) + self.within(*given)
        with np.errstate(invalid="ignore"):  # infinite losses
            bad = ~((np.abs(left - right) <= tolerance) | (left == right))
        laws.none_bad(bad, f"{self.id}: the two differ", arrays, self.domain.pixels, left, right)


def of(name: str, **options: Any) -> Callable[..., Any]:
    """The losses of a loss with options."""
    return functools.partial(jaxloss.LOSSES[name], **options, **NONE)


def times(factor: float, losses: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: factor * losses(*arrays)


def onehot(labels: Any) -> Any:
    return jax.nn.one_hot(labels, laws.K)


def largest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(a), np.abs(b)).max(-1)


def residual(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.abs(p - y)


FROM_LOGITS = {"from_logits": True}
AXIS = {"axis": 0}
SMALL = Numbers((*whole(-4, 4), 1e-30, 1e-3), (-8, 8))
MODERATE = Domain(pairs(each(Numbers((*whole(-4, 4), 1e-30, 1e-3), (-100, 100)))), ())
LABELLED_SHARES = Domain(st.tuples(laws.LABELS, laws.ROWS_OF_SHARES), ())
MODERATE_LOGITS = Domain(pairs(each(SMALL, laws.K)), ())
BINARY_LOGIT = Domain(st.tuples(each(laws.BIT), each(laws.SCORE)), ())
BINARY_SCORES = Domain(st.tuples(laws.LABELS.map(lambda x: x % 2), each(laws.SCORE, 2)), ())
BOOLEAN_MASKS = Domain(laws.MASKS.draw.map(lambda arrays: (arrays[0], np.round(arrays[1]))), (), pixels=True)

REGRESSION = (
    Limit("mse-symmetric expectile", laws.REALS, of("mse"), times(2, of("expectile", level=0.5))),
    Limit("mae-median", laws.REALS, of("mae"), times(2, of("quantile", level=0.5))),
    Limit("huber-mse", laws.REALS, times(2, of("huber", delta=1e18)), of("mse")),
    Limit(
        "huber-mae",
        laws.REALS,
        times(2.0**20, of("huber", delta=2.0**-20)),
        of("mae"),
        within=lambda y, p: 2.0**-21,  # delta / 2
    ),
    Limit("smooth_l1-huber", laws.REALS, of("smooth_l1", beta=0.25), times(4, of("huber", delta=0.25))),
    Limit("smooth_l1-mae", laws.REALS, of("smooth_l1", beta=0.0), of("mae")),
    Limit("smooth_l1-mae in the limit", laws.REALS, of("smooth_l1", beta=1e-30), of("mae"), within=lambda y, p: 1e-30),
    Limit("smooth_l1-mse", MODERATE, times(2**11, of("smooth_l1", beta=2.0**10)), of("mse")),
    Limit(
        "balanced_l1-smooth_l1",
        MODERATE,
        of("balanced_l1", alpha=2.0**20, gamma=1.5, beta=0.5),
        times(1.5, of("smooth_l1", beta=0.5)),
        # With x = b e / beta the slope alpha log(1 + x) is alpha x (1 - x / 2 ...), b = gamma / alpha (1 + ...).
        within=lambda y, p: 2.0**-19 * (1 + residual(y, p)),
    ),
    Limit("log_cosh-mae", MODERATE, of("log_cosh"), of("mae"), within=lambda y, p: np.log(2)),
    Limit("barron-mse", laws.REALS, times(2, of("barron", alpha=2.0)), of("mse")),
    Limit("barron-charbonnier", laws.REALS, of("barron", alpha=1.0, scale=0.7), of("charbonnier", scale=0.7)),
    Limit("barron-cauchy", laws.REALS, of("barron", alpha=0.0, scale=0.7), of("cauchy", scale=0.7)),
    Limit("barron-welsch", laws.REALS, of("barron", alpha=float("-inf"), scale=0.7), of("welsch", scale=0.7)),
    Limit("barron-traced mse", laws.REALS, lambda y, p: 2 * of("barron", alpha=jnp.full((), 2.0))(y, p), of("mse")),
    Limit(
        "barron-traced charbonnier",
        laws.REALS,
        lambda y, p: of("barron", alpha=jnp.full((), 1.0), scale=0.7)(y, p),
        of("charbonnier", scale=0.7),
    ),
    Limit(
        "barron-traced cauchy",
        laws.REALS,
        lambda y, p: of("barron", alpha=jnp.full((), 0.0), scale=0.7)(y, p),
        of("cauchy", scale=0.7),
    ),
    Limit(
        "barron-traced welsch",
        laws.REALS,
        lambda y, p: of("barron", alpha=jnp.full((), -jnp.inf), scale=0.7)(y, p),
        of("welsch", scale=0.7),
    ),
    *(
        Limit(
            f"{name}-mse",
            MODERATE,
            times(2.0**31, of(name, scale=2.0**15)),
            of("mse"),
            within=lambda y, p: residual(y, p) ** 4 * 2.0**-30,  # the next term, (e / scale)^4, has a factor <= 1/2
        )
        for name in ("charbonnier", "cauchy", "welsch")
    ),
    Limit("mape-mae", laws.RATIOS, of("mape"), lambda y, p: 100 * of("mae")(y, p) / jnp.abs(y)),
    Limit("smape-mae", laws.RATIOS, of("smape"), lambda y, p: 200 * of("mae")(y, p) / (jnp.abs(y) + jnp.abs(p))),
    Limit(
        "cosine_distance-mse",
        Domain(pairs(each(Numbers(whole(-1, 1), (-1, 1)), laws.K)), ()),
        lambda y, p: of("cosine_distance")(jnp.append(y, 1 + 0 * y[:, :1], 1), jnp.append(p, 1 + 0 * p[:, :1], 1)),
        lambda y, p: 1 - jnp.sum(_unit(y) * _unit(p), -1),
        size=lambda y, p: 1.0,
    ),
    Limit(
        "msle-mse of logarithms",
        Domain(pairs(each(Numbers((*whole(0, 4), 1e-3), (-0.9, 100)))), ()),
        of("msle"),
        lambda y, p: of("mse")(jnp.log1p(y), jnp.log1p(p)),
        size=lambda y, p: np.maximum(np.log1p(y) ** 2, np.log1p(p) ** 2),
    ),
)


def _unit(x: Any) -> Any:
    x = jnp.append(x, 1 + 0 * x[:, :1], 1)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def two_logits(y: Any, z: Any) -> Any:
    return jnp.stack([1 - y, y], -1), jnp.stack([0 * z, z], -1)


CLASSES = (
    Limit(
        "bce-cce of two classes",
        laws.TARGET_LOGIT,
        of("bce", **FROM_LOGITS),
        lambda y, z: of("cce", **FROM_LOGITS)(*two_logits(y, z)),
        size=ONE,
    ),
    Limit(
        "bce-of the sigmoid",
        Domain(st.tuples(each(laws.GRID), each(SMALL)), ()),
        lambda y, z: of("bce")(y, jax.nn.sigmoid(z)),
        of("bce", **FROM_LOGITS),
        size=lambda y, z: np.exp(np.abs(z)),  # sigmoid(8) is 1 - exp(-8), rounded relative to 1
    ),
    Limit(
        "binary_focal-bce", laws.TARGET_LOGIT, of("binary_focal", gamma=0.0, **FROM_LOGITS), of("bce", **FROM_LOGITS)
    ),
    Limit("binary_focal-bce of probabilities", laws.PROBABILITY, of("binary_focal", gamma=0.0), of("bce")),
    Limit(
        "binary_focal-traced bce",
        laws.TARGET_LOGIT,
        lambda y, z: of("binary_focal", gamma=jnp.zeros(()), **FROM_LOGITS)(y, z),
        of("bce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit(
        "categorical_focal-cce",
        laws.LOGITS,
        of("categorical_focal", gamma=0.0, **FROM_LOGITS),
        of("cce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit("categorical_focal-cce of probabilities", laws.SIMPLICES, of("categorical_focal", gamma=0.0), of("cce")),
    Limit("poly1-cce", laws.LOGITS, of("poly1", epsilon=0.0, **FROM_LOGITS), of("cce", **FROM_LOGITS), size=ONE),
    Limit("poly1-cce of probabilities", laws.SIMPLICES, of("poly1", epsilon=0.0), of("cce")),
    Limit(
        "generalized_cce-cce",
        laws.LOGITS,
        of("generalized_cce", power=0.0, **FROM_LOGITS),
        of("cce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit(
        "generalized_cce-cce in the limit",
        laws.SIMPLICES,
        of("generalized_cce", power=1e-6),
        of("cce"),
        size=ONE,
        within=lambda q, p: 88**2 * 1e-6,  # power log(p)^2 / 2
    ),
    Limit(
        "generalized_cce-1 - p",
        laws.SIMPLICES,
        of("generalized_cce", power=1.0),
        lambda q, p: jnp.sum(q * (1 - p / jnp.sum(p, -1, keepdims=True)), -1),
        size=ONE,
    ),
    Limit(
        "sparse_cce-cce",
        laws.LABEL_LOGITS,
        of("sparse_cce", label_smoothing=0.1, z_loss=0.01, **FROM_LOGITS),
        lambda y, z: of("cce", label_smoothing=0.1, z_loss=0.01, **FROM_LOGITS)(onehot(y), z),
        size=lambda y, z: 1 + np.abs(z).max(-1),
    ),
    Limit("sparse_cce-cce of probabilities", LABELLED_SHARES, of("sparse_cce"), lambda y, p: of("cce")(onehot(y), p)),
    Limit(
        "nll-sparse_cce",
        laws.LABEL_LOGITS,
        lambda y, z: of("nll")(y, jax.nn.log_softmax(z)),
        of("sparse_cce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit(
        "linear_cce-sparse_cce",
        laws.LABEL_LOGITS,
        lambda y, z: of("linear_cce")(y, z, np.eye(laws.K, dtype=np.float32)),
        of("sparse_cce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit("perceptron-hinge", laws.SIGNS, of("perceptron"), of("hinge", margin=0.0)),
    Limit("squared_hinge-hinge", laws.SIGNS, of("squared_hinge"), lambda y, z: of("hinge")(y, z) ** 2),
    Limit("hinge-0 and 1", BINARY_LOGIT, of("hinge"), lambda y, z: of("hinge")(2 * y - 1, z)),
    Limit("soft_margin-bce", BINARY_LOGIT, of("soft_margin"), of("bce", **FROM_LOGITS)),
    Limit(
        "multilabel_soft_margin-bce",
        laws.SET_LOGITS,
        of("multilabel_soft_margin"),
        lambda y, z: jnp.mean(of("bce", **FROM_LOGITS)(y, z), -1),
    ),
    Limit(
        "categorical_hinge-hinge",
        BINARY_SCORES,
        lambda y, z: of("categorical_hinge")(jax.nn.one_hot(y, 2), z),
        lambda y, z: of("hinge")(jnp.where(y > 0, 1.0, -1.0), z[:, 1] - z[:, 0]),
        size=lambda y, z: np.abs(z).max(-1),
    ),
    Limit(
        "multi_margin-hinge",
        BINARY_SCORES,
        of("multi_margin"),
        lambda y, z: of("hinge")(jnp.where(y > 0, 1.0, -1.0), z[:, 1] - z[:, 0]) / 2,
        size=lambda y, z: np.abs(z).max(-1),
    ),
    Limit(
        "multilabel_margin-multi_margin",
        laws.LABEL_LOGITS,
        lambda y, z: of("multilabel_margin")(onehot(y), z),
        of("multi_margin"),
        size=lambda y, z: np.abs(z).max(-1),
    ),
)

DIVERGENCES = (
    Limit(
        "kl_divergence-cce",
        laws.SIMPLICES,
        of("kl_divergence"),
        lambda q, p: of("cce")(q, p) - of("cce")(q, q),
        size=lambda q, p: 1 - (q * np.log(np.maximum(p, laws.TINY))).sum(-1),
    ),
    Limit(
        "kl_divergence-of logarithms",
        MODERATE_LOGITS,
        lambda a, b: of("kl_divergence", from_logs=True)(jax.nn.log_softmax(a), jax.nn.log_softmax(b)),
        of("distillation"),
        size=lambda a, b: 1 + np.ptp(a, -1) + np.ptp(b, -1),
    ),
    Limit(
        "js_divergence-kl_divergence",
        laws.SIMPLICES,
        of("js_divergence"),
        lambda q, p: (of("kl_divergence")(q, (q + p) / 2) + of("kl_divergence")(p, (q + p) / 2)) / 2,
        size=ONE,
    ),
    Limit(
        "js_divergence-of logarithms",
        MODERATE_LOGITS,
        lambda a, b: of("js_divergence", from_logs=True)(jax.nn.log_softmax(a), jax.nn.log_softmax(b)),
        lambda a, b: of("js_divergence")(jax.nn.softmax(a), jax.nn.softmax(b)),
        size=lambda a, b: 1 + np.ptp(a, -1) + np.ptp(b, -1),
    ),
    Limit("total_variation-mae", laws.SIMPLICES, of("total_variation"), lambda q, p: jnp.sum(of("mae")(q, p), -1) / 2),
    Limit(
        "distillation-mse",
        MODERATE_LOGITS,
        of("distillation", temperature=2.0**12),
        # Half the variance of the differences of the logits.
        lambda a, b: jnp.var(a - b, axis=-1) / 2,
        # The cumulants of third order: differences up to 16, three times, over the temperature.
        # What is squared is a difference of logits, rounded at their size.
        size=lambda a, b: (np.ptp(a - b, -1) + 8 * laws.EPS * largest(a, b)) * largest(a, b),
        within=lambda a, b: (np.ptp(a, -1) + np.ptp(b, -1)) * np.ptp(a - b, -1) ** 2 * 2.0**-12,
    ),
)

LIKELIHOODS = (
    Limit("gaussian_nll-mse", laws.REALS, times(2, lambda y, p: of("gaussian_nll")(y, p, 0 * p + 1)), of("mse")),
    Limit(
        "gaussian_nll-of logarithms",
        Domain(pairs(each(SMALL), each(Numbers((0, 1, -1, 2), (-6, 6)))), ()),
        of("gaussian_nll", log_variance=True),
        lambda y, m, s: of("gaussian_nll")(y, m, jnp.exp(s)),
        size=lambda y, m, s: (1 + np.abs(s)) * gaussian_terms(y, m, np.exp(s)),
    ),
    Limit("laplace_nll-mae", laws.REALS, lambda y, p: of("laplace_nll")(y, p, 0 * p + 1), of("mae")),
    Limit(
        "student_t_nll-cauchy",
        laws.PLACED,
        of("student_t_nll", df=1.0),
        lambda y, l, s: jnp.log(s) + of("cauchy", scale=0.5**0.5)((y - l) / s, 0 * s),
        size=student_terms,
    ),
    Limit(
        "student_t_nll-gaussian_nll",
        Domain(pairs(each(SMALL), each(Numbers((1, 2), (0.5, 4)))), ()),
        of("student_t_nll", df=1e8, full=True),
        lambda y, l, s: of("gaussian_nll", full=True)(y, l, s**2),
        size=gaussian_terms,
        within=lambda y, l, s: 1e-8 * (1 + ((y - l) / s) ** 2) ** 2,
    ),
    Limit(
        "poisson_nll-of logarithms",
        laws.LOG_COUNTS,
        of("poisson_nll", log_rate=True),
        lambda y, x: of("poisson_nll")(y, jnp.exp(x)),
        size=log_poisson_terms,
    ),
    Limit("tweedie-poisson_nll", laws.COUNTS, of("tweedie", power=1.0), of("poisson_nll")),
    Limit(
        "tweedie-gamma",
        laws.COUNTS,
        of("tweedie", power=2.0),
        lambda y, m: jnp.log(m) + y / m,
        size=lambda y, m: 1 + np.abs(np.log(m)) + y / m,
    ),
    Limit(
        "tweedie-poisson_nll in the limit",
        laws.COUNTS,
        of("tweedie", power=1 + 2.0**-20, full=True),
        lambda y, m: of("poisson_nll")(y, m) - of("poisson_nll")(y, jnp.maximum(y, 1e-30)),
        size=lambda y, m: poisson_terms(y, m) + poisson_terms(y, np.maximum(y, 1e-30)),
        # The derivative by the power is at most (y + m) times the square of a logarithm between 1e-6 and 1e4.
        within=lambda y, m: 2.0**-20 * (1 + y + m) * 200,
    ),
    Limit(
        "tweedie-of logarithms",
        Domain(st.tuples(each(laws.COUNT), each(SMALL)), ()),
        of("tweedie", log_rate=True),
        lambda y, x: of("tweedie")(y, jnp.exp(x)),
    ),
    Limit(
        "negative_binomial_nll-poisson_nll",
        laws.COUNTS,
        lambda y, m: of("negative_binomial_nll")(y, m, 0 * m),
        of("poisson_nll"),
        size=poisson_terms,
    ),
    Limit(
        "negative_binomial_nll-of logarithms",
        laws.LOG_DISPERSED,
        of("negative_binomial_nll", log_rate=True),
        lambda y, x, a: of("negative_binomial_nll")(y, jnp.exp(x), a),
        size=lambda y, x, a: nb_terms(y, np.exp(x), a) + (y + np.exp(x)) * (1 + np.abs(x)),
    ),
)

BOXES = (
    *(
        Limit(f"alpha_iou-{base}", laws.BOXES, of("alpha_iou", power=1, base=base), of(base))
        for base in ("iou", "giou", "diou", "ciou")
    ),
    *(
        Limit(
            f"alpha_iou-traced {base}",
            laws.BOXES,
            lambda y, p, base=base: of("alpha_iou", power=jnp.ones(()), base=base)(y, p),
            of(base),
        )
        for base in ("iou", "giou", "diou", "ciou")
    ),
    Limit(
        "iou_log-iou",
        laws.BOXES,
        lambda y, p: jnp.exp(-of("iou_log")(y, p)),
        lambda y, p: 1 - of("iou")(y, p),
        ONE,
    ),
    Limit("ciou-gate 0", laws.BOXES, of("ciou", gate=0.0), of("ciou")),
    Limit("ciou-diou", laws.BOXES, of("ciou", gate=1.0), of("diou")),
    Limit("focal_eiou-eiou", laws.BOXES, of("focal_eiou", gamma=0.0), of("eiou")),
    Limit("focal_eiou-attached", laws.BOXES, of("focal_eiou", gamma=0.7, detach=False), of("focal_eiou", gamma=0.7)),
    Limit("wiou_v2-wiou_v1", laws.BOXES, of("wiou_v2", gamma=0.0, iou_loss_mean=0.6), of("wiou_v1")),
    Limit(
        "wiou_v3-wiou_v2",
        laws.BOXES,
        of("wiou_v3", alpha=1.0, delta=1.0, iou_loss_mean=0.6),
        of("wiou_v2", gamma=1.0, iou_loss_mean=0.6),
    ),
)

MASKS = (
    Limit("dice-tversky", laws.MASKS, of("dice", **AXIS), of("tversky", alpha=0.5, beta=0.5, **AXIS)),
    Limit("jaccard-tversky", laws.MASKS, of("jaccard", **AXIS), of("tversky", alpha=1.0, beta=1.0, **AXIS)),
    Limit(
        "jaccard-dice",
        laws.MASKS,
        of("jaccard", **AXIS),
        lambda y, p: 2 * of("dice", **AXIS)(y, p) / (1 + of("dice", **AXIS)(y, p)),
    ),
    Limit(
        "dice-smooth 0",
        laws.MASKS,
        of("dice", smooth=1e-37, **AXIS),
        of("dice", **AXIS),
        ONE,
        lambda y, p: 1e-3,
    ),
    Limit(
        "focal_tversky-tversky",
        laws.MASKS,
        of("focal_tversky", gamma=1.0, **AXIS),
        of("tversky", alpha=0.3, beta=0.7, **AXIS),
    ),
    Limit(
        "generalized_dice-dice",
        laws.MASKS,
        lambda y, p: of("generalized_dice", **AXIS)(y[..., :1], p[..., :1]),
        lambda y, p: of("dice", **AXIS)(y[..., 0], p[..., 0]),
    ),
    Limit("lovasz_softmax-jaccard", BOOLEAN_MASKS, of("lovasz_softmax", **AXIS), of("jaccard", **AXIS), ONE),
    Limit(
        "lovasz_hinge-jaccard",
        BOOLEAN_MASKS,
        lambda y, p: of("lovasz_hinge", **AXIS)(y, 2 * p - 1),  # an error is 0 or 2
        times(2, of("jaccard", **AXIS)),
        ONE,
    ),
)

SEQUENCES = (
    Limit(
        "ctc-sparse_cce",
        laws.LABEL_LOGITS,
        # One frame, one label that is not the blank: a class is added for that.
        lambda y, z: of("ctc", blank=0)(y[:, None] + 1, jnp.pad(z, ((0, 0), (1, 0)))[:, None]),
        lambda y, z: of("sparse_cce", **FROM_LOGITS)(y + 1, jnp.pad(z, ((0, 0), (1, 0)))),
        size=ONE,
    ),
    Limit(
        "ctc-no label",
        MODERATE_LOGITS,
        lambda a, b: of("ctc")(jnp.zeros((laws.UNITS, 0), jnp.int32), jnp.stack([a, b], 1)),
        lambda a, b: sum(of("sparse_cce", **FROM_LOGITS)(jnp.zeros(laws.UNITS, jnp.int32), z) for z in (a, b)),
        size=ONE,
    ),
    Limit(
        "rnnt-no label",
        MODERATE_LOGITS,
        lambda a, b: of("rnnt")(jnp.zeros((laws.UNITS, 0), jnp.int32), jnp.stack([a, b], 1)[:, :, None]),
        lambda a, b: sum(of("sparse_cce", **FROM_LOGITS)(jnp.zeros(laws.UNITS, jnp.int32), z) for z in (a, b)),
        size=ONE,
    ),
)


def alone(policy: Any, old: Any) -> Any:
    """Without a reference, and with the advantage 1, the ratio, however large."""
    return -of("grpo", epsilon=1e30)(jnp.ones_like(policy), policy, old)


PREFERENCES = (
    Limit(
        "dpo-bce",
        laws.PAIRS_AND_REFERENCE,
        of("dpo", beta=0.5, label_smoothing=0.25),
        lambda c, r, rc, rr: of("bce", **FROM_LOGITS)(jnp.full_like(c, 0.75), 0.5 * ((c - rc) - (r - rr))),
        size=lambda c, r, rc, rr: np.abs((c - rc) - (r - rr)),
    ),
    Limit(
        "dpo-simpo",
        laws.PAIRS,
        lambda c, r: of("dpo", beta=2.0)(c, r, jnp.zeros_like(c), jnp.zeros_like(r)),
        of("simpo", beta=2.0, gamma=0.0),
    ),
    Limit(
        "kto-both kinds",
        laws.PAIRS,
        lambda p, r: of("kto", beta=0.5, kl=3.0)(jnp.ones_like(p), p, r),
        lambda p, r: 1 - of("kto", beta=0.5, kl=3.0)(jnp.zeros_like(p), p, r),
        size=lambda p, r: 1.0,
    ),
    Limit("grpo-the ratio", laws.PAIRS, alone, lambda p, old: jnp.exp(p - old)),
    Limit(
        "orpo-soft margin of logits",
        Domain(pairs(each(Numbers((-1.0, -2.0, -0.5), (-8, -0.1)))), ()),
        lambda p, q: of("orpo", beta=1.0)(p, q) + p,
        # The odds of a probability are the exponential of its logit.
        lambda p, q: jax.nn.softplus((q - jnp.log(-jnp.expm1(q))) - (p - jnp.log(-jnp.expm1(p)))),
        size=lambda p, q: 1 + np.abs(p) + np.abs(q),
    ),
)

RELEVANT = Numbers((0.0, 1.0), (0, 1))
SCORED = Domain(
    st.tuples(laws.drawn(RELEVANT, laws.PIXELS, laws.UNITS), laws.drawn(SMALL, laws.PIXELS, laws.UNITS)), ()
)
TWO_ITEMS = Domain(pairs(each(SMALL)), ())


def of_two(name: str, **options: Any) -> Callable[..., Any]:
    """The loss of lists of two items, of which the first one is more relevant."""
    return lambda a, b: of(name, axis=0, **options)(jnp.stack([1 + 0 * a, 0 * b]), jnp.stack([a, b]))


RANKINGS = (
    Limit(
        "list_softmax-cce",
        SCORED,
        of("list_softmax", axis=0),
        of("cce", axis=0, **FROM_LOGITS),
        size=lambda y, z: np.float64(200),
    ),
    Limit("ranknet-soft_margin", TWO_ITEMS, of_two("ranknet"), lambda a, b: of("soft_margin")(0 * a + 1, a - b)),
    Limit(
        "pairwise_hinge-hinge",
        TWO_ITEMS,
        of_two("pairwise_hinge", margin=0.5),
        lambda a, b: of("hinge", margin=0.5)(0 * a + 1, a - b),
    ),
    Limit("list_mle-ranknet", TWO_ITEMS, of_two("list_mle"), of_two("ranknet"), size=ONE),
    Limit(
        "lambda_rank-ranknet",
        TWO_ITEMS,
        of_two("lambda_rank"),
        times(1 - float(np.log(2) / np.log(3)), of_two("ranknet")),
    ),
    Limit(
        "approx_ndcg-a sigmoid",
        TWO_ITEMS,
        of_two("approx_ndcg"),
        lambda a, b: 1 - jnp.log(2.0) / jnp.log(2 + jax.nn.sigmoid(b - a)),
        size=ONE,
    ),
)

LIMITS = (*REGRESSION, *CLASSES, *DIVERGENCES, *LIKELIHOODS, *BOXES, *MASKS, *SEQUENCES, *PREFERENCES, *RANKINGS)
