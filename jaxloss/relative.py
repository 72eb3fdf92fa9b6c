"""Losses that (almost) ignore the scale of their inputs: relative errors (unit: element) and the angle of vectors."""

from __future__ import annotations

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import abs0, at_least_tiny, divide, is_constant, log1p
from jaxloss._numerics.versine import versine, versine_and_lengths
from jaxloss._platform import unmoved
from jaxloss.contract import ABOVE_MINUS_1, AT_LEAST_0, NUMBER, NUMBERS, ArrayLike, Holds, Units, loss, losses

__all__ = ["cosine_distance", "mape", "msle", "smape"]


@loss
def mape(y_true: ArrayLike, y_pred: ArrayLike, *, eps: float | ArrayLike = 1e-7, **units: Unpack[Units]) -> Array:
    """Mean absolute percentage error: `100 abs(y_pred - y_true) / max(abs(y_true), eps)`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      eps: smaller targets count as this one, at least 0; for them the loss is huge, so mask them or raise it.

    Returns:
      The mean over elements in percent; with `reduction="none"` one loss per element, shape (...). The derivative
      at y_pred = y_true is 0.

    Raises:
      ValueError: shapes that differ, a negative eps.

    Example:
      >>> print(mape([2.0, 4.0], [3.0, 3.0]))  # (50 + 25) / 2
      37.5

    Source: de Myttenaere et al. 2016, arXiv 1605.02541. Agrees with keras.losses.MeanAbsolutePercentageError, and up
    to the factor 100 with sklearn.metrics.mean_absolute_percentage_error, whose eps is 2.2e-16.
    """

    def element(y: Array, p: Array, eps: float | Array) -> Array:
        return _relative_error(y, p, eps)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"eps": (eps, AT_LEAST_0)}, elementwise=True, **units)


def _size(y: Array, eps: Array) -> Array:
    return jnp.maximum(abs0(y), at_least_tiny(eps))


def _relative_d_prediction(y: Array, p: Array, eps: Array) -> Array:
    return divide(100 * jnp.sign(p - y), _size(y, eps))


def _relative_d_target(y: Array, p: Array, eps: Array) -> Array:
    # Of abs(p - y) / abs(y): -sign(p - y) p / (y abs(y)), where nothing cancels.
    share = jnp.where(abs0(y) > eps, divide(p, jnp.where(y == 0, 1, y)), 1)
    return -share * _relative_d_prediction(y, p, eps)


def _relative_d_eps(y: Array, p: Array, eps: Array) -> Array:
    size = _size(y, eps)
    return jnp.where(abs0(y) > eps, 0, -100 * divide(divide(abs0(p - y), size), size))


@partials(_relative_d_target, _relative_d_prediction, _relative_d_eps)
def _relative_error(y: Array, p: Array, eps: Array) -> Array:
    return 100 * (jnp.abs(p - y) / _size(y, eps))


@loss
def smape(y_true: ArrayLike, y_pred: ArrayLike, *, eps: float | ArrayLike = 1e-7, **units: Unpack[Units]) -> Array:
    """Symmetric mean absolute percentage error: `200 abs(y_pred - y_true) / max(abs(y_true) + abs(y_pred), eps)`.

    It lies between 0 and 200; where the signs differ it is 200, with zero gradient.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      eps: smaller sums count as this one, at least 0.

    Returns:
      The mean over elements in percent; with `reduction="none"` one loss per element, shape (...). The derivative
      at y_pred = y_true is 0.

    Raises:
      ValueError: shapes that differ, a negative eps.

    Example:
      >>> print(smape([1.0, 0.0], [3.0, 0.0]))  # (200 * 2 / 4 + 0) / 2
      50.0

    Source: Makridakis 1993, doi 10.1016/0169-2070(93)90079-3; the form of the M4 competition. No function of optax,
    Keras or PyTorch computes it; torchmetrics has it without the factor 100.
    """

    def element(y: Array, p: Array, eps: float | Array) -> Array:
        return _symmetric_error(y, p, eps)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"eps": (eps, AT_LEAST_0)}, elementwise=True, **units)


def _mean_size(y: Array, p: Array, eps: Array) -> Array:
    half = unmoved(0.5, y)  # the sum of the sizes may overflow, not that of their halves
    return jnp.maximum(half * abs0(y) + half * abs0(p), at_least_tiny(half * eps))


def _symmetric_d_prediction(y: Array, p: Array, eps: Array) -> Array:
    # 200 sign(p - y) (abs(y) + y sign(p)) / (sum of sizes)^2 where that sum reaches eps: nothing cancels.
    size = _mean_size(y, p, eps)
    share = jnp.where(size > eps / 2, divide(abs0(y) / 2 + y * jnp.sign(p) / 2, size), 1)
    return 100 * jnp.sign(p - y) * divide(share, size)


def _symmetric_d_eps(y: Array, p: Array, eps: Array) -> Array:
    size = _mean_size(y, p, eps)
    return jnp.where(size > eps / 2, 0, -50 * divide(divide(abs0(p - y), size), size))


@partials(lambda y, p, eps: _symmetric_d_prediction(p, y, eps), _symmetric_d_prediction, _symmetric_d_eps)
def _symmetric_error(y: Array, p: Array, eps: Array) -> Array:
    return jnp.minimum(100 * (jnp.abs(p - y) / _mean_size(y, p, eps)), 200)


@loss
def msle(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Mean squared logarithmic error: `(log(1 + y_pred) - log(1 + y_true))^2`.

    Args:
      y_true: (...) targets above -1.
      y_pred: (...) predictions above -1.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ.
      A number of -1 or less makes its element NaN, with zero gradient.

    Example:
      >>> print(f"{msle([0.0], [1.0]):.5f}")  # log(2)^2
      0.48045

    Source: Kaggle 2012, Herbal and Online Product Sales ("RMSLE"). Agrees with sklearn.metrics.mean_squared_log_error,
    and for numbers of at least 1e-7 with keras.losses.MeanSquaredLogarithmicError, which raises smaller ones to that.
    """

    def element(y: Array, p: Array) -> Array:
        return _squared_log_quotient(y, p)

    above = Holds("number", ABOVE_MINUS_1)
    return losses(element, {"y_true": (y_true, above), "y_pred": (y_pred, above)}, elementwise=True, **units)


def _plus_1(x: Array) -> Array:
    """1 + x, which for x > -1 is never as small as this."""
    return jnp.maximum(1 + x, float(jnp.finfo(x.dtype).eps) / 4)


@partials(lambda y, p: -1 / _plus_1(y), lambda y, p: 1 / _plus_1(p))
def _log_quotient(y: Array, p: Array) -> Array:
    """log(1 + p) - log(1 + y) = sign(e) log(1 + abs(e) / (1 + min(y, p))), e = p - y: exact where p is almost y."""
    e = p - y
    below = _plus_1(jnp.minimum(y, p))
    overflows = jnp.abs(e) > below * (jnp.finfo(e.dtype).max / 256)
    ratio = jnp.abs(e) * jnp.where(overflows, 2.0**-64, 1) / below
    return jnp.sign(e) * (log1p(ratio) + jnp.where(overflows, 64 * math.log(2), 0))


def _squared_d_prediction(y: Array, p: Array) -> Array:
    return divide(-2 * _log_quotient(p, y), _plus_1(p))


@partials(lambda y, p: _squared_d_prediction(p, y), _squared_d_prediction)
def _squared_log_quotient(y: Array, p: Array) -> Array:
    return _log_quotient(y, p) ** 2


@loss
def cosine_distance(
    y_true: ArrayLike, y_pred: ArrayLike, *, eps: float | ArrayLike = 0.0, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """Cosine distance: `1 - (y_true . y_pred) / (norm(y_true) norm(y_pred))`, between 0 and 2.

    A vector of zeros has distance 1 from every other, with zero gradient. The distance is exact for small angles, and
    never negative.

    Args:
      y_true: (..., d) target vectors.
      y_pred: (..., d) predicted vectors.
      eps: smaller norms count as this one, at least 0: it bounds the derivative for short vectors.
      axis: where the components lie.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative eps.

    Example:
      >>> print(cosine_distance([[1.0, 0.0]], [[3.0, 4.0]]))  # 1 - 3 / 5
      0.4

    Source: Salton, Wong and Yang 1975, doi 10.1145/361219.361220. Agrees with optax.cosine_distance, with
    1 - torch.nn.functional.cosine_similarity (whose eps is 1e-8), and with 1 + keras.losses.CosineSimilarity.
    """

    def vectors(y: Array, p: Array, eps: float | Array) -> Array:
        if is_constant(eps, 0):
            return versine(y, p)
        apart, *sizes = versine_and_lengths(y, p)
        left = math.prod(size.scaled / jnp.maximum(size.divisor, eps * size.scale) for size in sizes)
        return (1 - left) + left * apart

    inputs = {"y_true": (y_true, NUMBERS), "y_pred": (y_pred, NUMBERS)}
    return losses(vectors, inputs, options={"eps": (eps, AT_LEAST_0)}, axis=axis, **units)
