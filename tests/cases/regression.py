"""Rows of the regression losses."""

from __future__ import annotations

import numpy as np

from cases.row import Row, every

def reals(rng, batch):
    return rng.normal(size=batch), rng.normal(size=batch)


def mae(y, p):
    return np.abs(p - y)


def mse(y, p):
    return (p - y) ** 2


def huber(y, p, delta=1.0):
    e = np.abs(p - y)
    return np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))


HARD_REALS = every([0.0, -1e30, -65504.0, 1.7e38], [0.0, 1e-30, 1.0, 1e4, 65504.0, 1e30, -1.7e38])

ROWS = (
    Row("mae", reals, mae, hard=HARD_REALS, ties=([0.0, 2.5], [0.0, 2.5])),
    Row("mse", reals, mse, hard=HARD_REALS, ties=([0.0, 2.5], [0.0, 2.5])),
    Row(
        "huber",
        reals,
        huber,
        hard=HARD_REALS,
        ties=([0.0, 2.5], [0.0, 2.5]),
        refused=({"delta": -1.0}, {"delta": float("nan")}),
    ),
    Row("huber-delta", reals, huber, {"delta": 0.4}, hard=HARD_REALS),
)
