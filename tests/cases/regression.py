"""What is known of the regression losses."""

from __future__ import annotations

from laws import Limit, Subject, of, times

from cases import exact as np
from cases.common import BOTH, LENGTH, MODERATE, REALS, RESIDUAL, without
from cases.excuses import overflows
from cases.row import REAL, Row, every, joined


def reals(rng, batch):
    return rng.normal(size=batch), rng.normal(size=batch)


def mae(y, p):
    return np.abs(p - y)


def mse(y, p):
    return (p - y) ** 2


def huber(y, p, delta=1.0):
    e = np.abs(p - y)
    return np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))


def smooth_l1(y, p, beta=1.0):
    return huber(y, p, beta) / beta


def balanced_l1(y, p, alpha=0.5, gamma=1.5, beta=1.0):
    e = np.abs(p - y)
    b = np.expm1(gamma / alpha)
    inner = np.minimum(e, beta)
    inside = alpha / b * (b * inner + beta) * np.log1p(b * inner / beta) - alpha * inner
    return np.where(e < beta, inside, gamma * e + gamma * beta / b - alpha * beta)


def log_cosh(y, p):
    e = np.abs(p - y)
    return e + np.log1p(np.expm1(-2 * e) / 2)


def quantile(y, p, level=0.5):
    return np.maximum(level * (y - p), (level - 1) * (y - p))


def quantile_huber(y, p, level=0.5, delta=1.0):
    return np.abs(level - (y < p)) * huber(y, p, delta)


def expectile(y, p, level=0.5):
    return np.abs(level - (y < p)) * (y - p) ** 2


HARD_REALS = joined(every([0.0, -1e30, -65504.0, 1.7e38], [0.0, 1e-30, 1.0, 1e4, 65504.0, 1e30, -1.7e38]), REAL)
TIES = ([0.0, 2.5], [0.0, 2.5])
LEVELS = ({"level": -0.1}, {"level": 1.1}, {"level": float("nan")})

ROWS = (
    Row("mae", reals, mae, hard=HARD_REALS, ties=TIES),
    Row("mse", reals, mse, hard=HARD_REALS, ties=TIES),
    Row("huber", reals, huber, hard=HARD_REALS, ties=TIES, refused=({"delta": -1.0}, {"delta": float("nan")})),
    Row("huber-delta", reals, huber, {"delta": 0.4}, hard=HARD_REALS, excused=overflows("loss")),
    Row(
        "smooth_l1",
        reals,
        smooth_l1,
        {"beta": 0.4},
        hard=HARD_REALS,
        ties=TIES,
        refused=({"beta": -1.0}, {"beta": float("nan")}),
    ),
    Row(
        "balanced_l1",
        reals,
        balanced_l1,
        {"alpha": 0.4, "gamma": 1.2, "beta": 0.7},
        hard=HARD_REALS,
        ties=TIES,
        refused=({"alpha": 0.0}, {"gamma": float("nan")}, {"beta": -1.0}),
    ),
    Row("log_cosh", reals, log_cosh, hard=HARD_REALS, ties=TIES),
    Row(
        "quantile",
        reals,
        quantile,
        {"level": 0.3},
        hard=HARD_REALS,
        ties=TIES,
        refused=LEVELS,
        excused=overflows("loss"),
    ),
    Row(
        "quantile-delta",
        reals,
        quantile_huber,
        {"level": 0.3, "delta": 0.4},
        hard=HARD_REALS,
        ties=TIES,
        excused=overflows("loss"),
    ),
    Row(
        "expectile",
        reals,
        expectile,
        {"level": 0.3},
        hard=HARD_REALS,
        ties=TIES,
        refused=LEVELS,
        excused=overflows("gradient by y_true @bfloat16", "gradient by y_pred @bfloat16"),
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

LEVEL = {"symmetric": "the level tells the sides apart"}

LAWS = (
    Subject("mae", REALS, {**RESIDUAL, "homogeneous": (1, BOTH)}),
    Subject("mse", REALS, {**RESIDUAL, "homogeneous": (2, BOTH)}),
    Subject("huber", REALS, RESIDUAL, LENGTH, {"delta": 0.4}),
    Subject("smooth_l1", REALS, RESIDUAL, LENGTH, {"beta": 0.4}),
    Subject("balanced_l1", REALS, RESIDUAL, LENGTH),
    Subject("log_cosh", REALS, RESIDUAL, {"homogeneous": "it has the length 1"}),
    Subject("quantile", REALS, {**without(RESIDUAL, "symmetric"), "homogeneous": (1, BOTH)}, LEVEL, {"level": 0.3}),
    Subject("expectile", REALS, {**without(RESIDUAL, "symmetric"), "homogeneous": (2, BOTH)}, LEVEL, {"level": 0.3}),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits


def residual(y, p):
    return np.abs(p - y)


LIMITS = (
    Limit("mse-symmetric expectile", REALS, of("mse"), times(2, of("expectile", level=0.5))),
    Limit("mae-median", REALS, of("mae"), times(2, of("quantile", level=0.5))),
    Limit("huber-mse", REALS, times(2, of("huber", delta=1e18)), of("mse")),
    Limit(
        "huber-mae",
        REALS,
        times(2.0**20, of("huber", delta=2.0**-20)),
        of("mae"),
        within=lambda y, p: 2.0**-21,  # delta / 2
    ),
    Limit("smooth_l1-huber", REALS, of("smooth_l1", beta=0.25), times(4, of("huber", delta=0.25))),
    Limit("smooth_l1-mae", REALS, of("smooth_l1", beta=0.0), of("mae")),
    Limit("smooth_l1-mae in the limit", REALS, of("smooth_l1", beta=1e-30), of("mae"), within=lambda y, p: 1e-30),
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
)
