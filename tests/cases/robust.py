"""What is known of the robust losses."""

from __future__ import annotations

import jax.numpy as jnp
from laws import Limit, Subject, of, times

from cases import exact as np
from cases.common import BOUNDED, LENGTH, MODERATE, REALS, RESIDUAL, without
from cases.excuses import overflows
from cases.regression import HARD_REALS, TIES, reals, residual
from cases.row import Row


def barron(y, p, alpha=1.0, scale=1.0):
    z = ((p - y) / scale) ** 2
    if alpha == 2:
        return z / 2
    if alpha == 0:
        return np.log1p(z / 2)
    if alpha == -np.inf:
        return -np.expm1(-z / 2)
    b = abs(alpha - 2)
    return b / alpha * np.expm1(alpha / 2 * np.log1p(z / b))


def charbonnier(y, p, scale=1.0):
    return barron(y, p, 1.0, scale)


def cauchy(y, p, scale=1.0):
    return barron(y, p, 0.0, scale)


def welsch(y, p, scale=1.0):
    return barron(y, p, -np.inf, scale)


SCALES = ({"scale": 0.0}, {"scale": -1.0}, {"scale": float("nan")})
GIVEN = {"hard": HARD_REALS, "ties": TIES, "refused": SCALES}

ROWS = (
    Row(
        "barron",
        reals,
        barron,
        {"alpha": 1.4, "scale": 0.7},
        hard=HARD_REALS,
        ties=TIES,
        refused=(*SCALES, {"alpha": float("nan")}, {"alpha": float("inf")}),
        excused=overflows("gradient by y_true", "gradient by y_pred"),
    ),
    Row("charbonnier", reals, charbonnier, {"scale": 0.7}, **GIVEN),
    Row("cauchy", reals, cauchy, {"scale": 0.7}, **GIVEN, excused=overflows("loss")),
    Row("welsch", reals, welsch, {"scale": 0.7}, **GIVEN),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

ROBUST = without(RESIDUAL, "convex")

LAWS = (
    Subject("barron", REALS, RESIDUAL, LENGTH, {"alpha": 1.4, "scale": 0.7}),
    Subject("barron-bounded", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"alpha": -2.5, "scale": 0.7}),
    Subject("charbonnier", REALS, RESIDUAL, LENGTH, {"scale": 0.7}),
    Subject("cauchy", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"scale": 0.7}),
    Subject("welsch", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"scale": 0.7}),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS = (
    Limit("barron-mse", REALS, times(2, of("barron", alpha=2.0)), of("mse")),
    Limit("barron-charbonnier", REALS, of("barron", alpha=1.0, scale=0.7), of("charbonnier", scale=0.7)),
    Limit("barron-cauchy", REALS, of("barron", alpha=0.0, scale=0.7), of("cauchy", scale=0.7)),
    Limit("barron-welsch", REALS, of("barron", alpha=float("-inf"), scale=0.7), of("welsch", scale=0.7)),
    Limit("barron-traced mse", REALS, lambda y, p: 2 * of("barron", alpha=jnp.full((), 2.0))(y, p), of("mse")),
    Limit(
        "barron-traced charbonnier",
        REALS,
        lambda y, p: of("barron", alpha=jnp.full((), 1.0), scale=0.7)(y, p),
        of("charbonnier", scale=0.7),
    ),
    Limit(
        "barron-traced cauchy",
        REALS,
        lambda y, p: of("barron", alpha=jnp.full((), 0.0), scale=0.7)(y, p),
        of("cauchy", scale=0.7),
    ),
    Limit(
        "barron-traced welsch",
        REALS,
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
)
