"""Regression losses of the residual `e = y_pred - y_true`. The unit is an element."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import ArrayLike, Reduction, batched, check_option, compiled
from jaxloss._math import absolute, barrier, slopes

__all__ = ["huber", "mae", "mse"]


@compiled
def mse(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Mean squared error: `e^2`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> print(mse([[0.0], [1.0]], [[1.0], [1.0]]))  # (1 + 0) / 2
      0.5

    Source: Gauss 1821, Theoria combinationis. Agrees with keras.losses.MeanSquaredError,
    torch.nn.functional.mse_loss and optax.squared_error (optax.l2_loss is half of it).
    """

    def example(y: Array, p: Array) -> Array:
        return (p - y) ** 2

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@compiled
def mae(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Mean absolute error: `abs(e)`, with derivative 0 at e = 0.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> print(mae([[0.0], [0.0]], [[1.0], [1.0]]))  # (1 + 1) / 2
      1.0

    Source: Laplace 1774. Agrees with keras.losses.MeanAbsoluteError and torch.nn.functional.l1_loss.
    """

    def example(y: Array, p: Array) -> Array:
        return absolute(p - y)

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
    """Huber loss: `e^2 / 2` where `abs(e) <= delta`, else `delta (abs(e) - delta / 2)`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      delta: where the parabola goes over into straight lines, at least 0.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a negative delta.

    Example:
      >>> print(huber([[0], [1]], [[0.6], [0.4]]))  # 0.6^2 / 2
      0.18

    Source: Huber 1964, doi 10.1214/aoms/1177703732. Agrees with keras.losses.Huber, torch.nn.functional.huber_loss
    and optax.huber_loss.
    """
    check_option("huber", "delta", delta, low=0)

    def example(y: Array, p: Array) -> Array:
        return _huber(p - y, jnp.asarray(delta, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


def _clipped(e: Array, delta: Array) -> Array:
    delta = barrier(delta)  # see `constants`
    return jnp.minimum(jnp.maximum(e, -delta), delta)


@slopes(_clipped, lambda e, delta: jnp.maximum(jnp.abs(e) - delta, 0))
def _huber(e: Array, delta: Array) -> Array:
    curved = jnp.minimum(jnp.abs(e), delta)  # without selects, which would slow the loop
    return curved * (jnp.abs(e) - curved / 2)
