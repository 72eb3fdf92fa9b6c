"""What is known of the losses that (almost) ignore the scale."""

from __future__ import annotations

import hypothesis.strategies as st
import jax.numpy as jnp
import laws
from laws import Domain, Limit, Numbers, Subject, each, of, pairs, whole

from cases import exact as np
from cases.common import AT_TARGET, BOTH, OF_RESIDUALS, ONE, PREDICTION, SIGN, VECTORS
from cases.excuses import overflows, vanishes
from cases.row import CLASSES, EXTREMES, POSITIVE, Row, every, joined


def away_from_zero(rng, batch):
    sign = rng.choice([-1.0, 1.0], batch)
    return sign * rng.uniform(0.5, 2, batch), sign * rng.uniform(0.5, 2, batch)


def above_minus_one(rng, batch):
    return rng.uniform(-0.5, 3, batch), rng.uniform(-0.5, 3, batch)


def vectors(rng, batch):
    return rng.normal(size=(*batch, CLASSES)), rng.normal(size=(*batch, CLASSES))


def mape(y, p, eps=1e-7):
    return 100 * np.abs(p - y) / np.maximum(np.abs(y), eps)


def smape(y, p, eps=1e-7):
    return 200 * np.abs(p - y) / np.maximum(np.abs(y) + np.abs(p), eps)


def msle(y, p):
    return (np.log1p(p) - np.log1p(y)) ** 2


def cosine_distance(y, p, eps=0.0):
    norms = [np.maximum(np.sqrt((x**2).sum(-1)), eps) for x in (y, p)]
    product = norms[0] * norms[1]
    return 1 - np.where(product > 0, (y * p).sum(-1) / np.where(product > 0, product, 1), 0)


HARD_RATIOS = joined(
    every([0.0, 1e-30, 1.0, -65504.0, 1.7e38], [0.0, 1e-30, 1.0, 1e4, -65504.0, 1.7e38, -1.7e38]), POSITIVE
)
HARD_LOGS = joined(every([0.0, -0.99, 1e-30, 65504.0, 1.7e38], [0.0, -0.99, 1e-30, 1e-3, 1.0, 65504.0, 3e38]), POSITIVE)
HARD_VECTORS = [
    *([0.0] * 4, [1.0, 0, 0, 0], [-1.0, 0, 0, 0], [1e-3, 1, 2, 3], [3e-3, 3, 6, 9], [1e-15, 2e-15, 0, 1e-18]),
    *([1e-30, 1e30, 0, 0], [1e38, 2e38, 3e38, -3e38], [65504.0, -65504, 65504, 0]),
    *([x, -x, 0, small] for x, _, small in EXTREMES),
    *([small, normal, -small, 0] for _, normal, small in EXTREMES),
    *([small, 0, 0, 0] for _, _, small in EXTREMES),
]
TIES = ([0.0, 2.5, -1.0], [0.0, 2.5, -1.0])
EPS = ({"eps": -1.0}, {"eps": float("nan")})

ROWS = (
    Row("mape", away_from_zero, mape, hard=HARD_RATIOS, ties=TIES, refused=EPS, excused=overflows("loss @bfloat16")),
    Row(
        "smape",
        away_from_zero,
        smape,
        hard=HARD_RATIOS,
        ties=TIES,
        refused=EPS,
        excused=vanishes("gradient by y_true", "gradient by y_pred"),
    ),
    Row(
        "msle",
        above_minus_one,
        msle,
        hard=HARD_LOGS,
        ties=([0.0, 2.5], [0.0, 2.5]),
        outside=([-2.0, -2.0, 1.0, np.inf, 1.0], [-1.5, 1.0, -2.0, 1.0, np.inf]),
    ),
    Row(
        "cosine_distance",
        vectors,
        cosine_distance,
        hard=every(HARD_VECTORS, HARD_VECTORS),
        ties=([[0.0] * 4, [0.0] * 4, [1, 2, 3, 4]], [[0.0] * 4, [1, 2, 3, 4], [0.0] * 4]),
        refused=EPS,
    ),
    Row("cosine_distance-eps", vectors, cosine_distance, {"eps": 1.5}),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

RATIOS = Domain(pairs(st.builds(np.multiply, each(SIGN), each(Numbers((1, 2, 3), (1e-3, 1e4))))), OF_RESIDUALS)
ABOVE_MINUS_1 = Domain(pairs(each(Numbers((*whole(0, 4), 1e-30, 1e15), (-0.999, 1e4)))), OF_RESIDUALS)

LAWS = (
    Subject(
        "mape",
        RATIOS,
        {"convex": True, "least": AT_TARGET, "non_negative": True, "homogeneous": (0, BOTH)},
        {"translated": "it is relative", "symmetric": "it is relative to the target"},
    ),
    Subject(
        "smape",
        RATIOS,
        {"least": AT_TARGET, "non_negative": True, "homogeneous": (0, BOTH), "symmetric": True},
        {"convex": "it is at most 200", "translated": "it is relative"},
    ),
    Subject(
        "msle",
        ABOVE_MINUS_1,
        {"least": AT_TARGET, "non_negative": True, "symmetric": True},
        {"convex": "a logarithm squared", "homogeneous": "1 is added", "translated": "it is (almost) relative"},
    ),
    Subject(
        "cosine_distance",
        VECTORS,
        {
            "least": (lambda y, p: 2 * y, lambda y, p: 1.0 * (np.abs(y).max(-1) < laws.TINY)),
            "non_negative": True,
            "homogeneous": (0, PREDICTION),
            "symmetric": True,
            "relabelled": True,
        },
        {"convex": "it is at most 2", "translated": "only directions count"},
        size=ONE,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits


def unit(x):
    x = jnp.append(x, 1 + 0 * x[:, :1], 1)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


LIMITS = (
    Limit("mape-mae", RATIOS, of("mape"), lambda y, p: 100 * of("mae")(y, p) / jnp.abs(y)),
    Limit("smape-mae", RATIOS, of("smape"), lambda y, p: 200 * of("mae")(y, p) / (jnp.abs(y) + jnp.abs(p))),
    Limit(
        "cosine_distance-mse",
        Domain(pairs(each(Numbers(whole(-1, 1), (-1, 1)), laws.K)), ()),
        lambda y, p: of("cosine_distance")(jnp.append(y, 1 + 0 * y[:, :1], 1), jnp.append(p, 1 + 0 * p[:, :1], 1)),
        lambda y, p: 1 - jnp.sum(unit(y) * unit(p), -1),
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
