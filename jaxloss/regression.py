"""Regression losses; the unit is an element. `e = y_pred - y_true` is the residual."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxloss._contract import ArrayLike, Reduction, batched, check_option, compiled
from jaxloss._math import absolute, slopes

__all__ = ["huber", "mae", "mse"]


@compiled
def mae(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    def example(y: Array, p: Array) -> Array:
        return absolute(p - y)

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@compiled
def mse(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    def example(y: Array, p: Array) -> Array:
        return (p - y) ** 2

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@compiled
def huber(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    delta: float | Array = 1.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    check_option("huber", "delta", delta, low=0)

    def example(y: Array, p: Array) -> Array:
        return _huber(p - y, delta)

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@slopes(lambda e, delta: jnp.clip(e, -delta, delta), lambda e, delta: jnp.maximum(jnp.abs(e) - delta, 0))
def _huber(e: Array, delta: float | Array) -> Array:
    quadratic = jnp.minimum(jnp.abs(e), delta)
    return quadratic * (jnp.abs(e) - quadratic / 2)
