"""Rows of the robust losses."""

from __future__ import annotations

from cases import exact as np
from cases.excuses import overflows
from cases.regression import HARD_REALS, TIES, reals
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
