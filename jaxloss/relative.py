"""Losses that (almost) ignore the scale of their inputs: relative errors (unit: element) and the angle of vectors."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._legacy import ArrayLike, Reduction, batched, check_option, compiled, settled
from jaxloss._math import absolute, barrier, constants, is_huge, is_minute, is_zero, quotient, slopes, steady
from jaxloss._special import above, above_zero, blend, separate

__all__ = ["cosine_distance", "mape", "msle", "smape"]


@compiled
def mape(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    eps: float | Array = 1e-7,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Mean absolute percentage error: `100 abs(y_pred - y_true) / max(abs(y_true), eps)`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      eps: smaller targets count as this one, at least 0; for them the loss is huge, so mask them or raise it.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements in percent; with `reduction="none"` one loss an element, of shape (...). The derivative
      at y_pred = y_true is 0.

    Raises:
      ValueError: shapes that differ, a negative eps.

    Example:
      >>> print(mape([2.0, 4.0], [3.0, 3.0]))  # (50 + 25) / 2
      37.5

    Source: de Myttenaere et al. 2016, arXiv 1605.02541. Agrees with keras.losses.MeanAbsolutePercentageError, and up
    to the factor 100 with sklearn.metrics.mean_absolute_percentage_error, whose eps is 2.2e-16.
    """
    check_option("mape", "eps", eps, low=0)

    def example(y: Array, p: Array) -> Array:
        return _relative_error(y, p, jnp.asarray(eps, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


def _size(y: Array, eps: Array) -> Array:
    return jnp.maximum(absolute(y), above_zero(eps))


def _relative_slope(y: Array, p: Array, eps: Array) -> Array:
    y, p, eps = separate(y, p, eps)
    (percent,) = constants(100, like=y)
    return quotient(percent * jnp.sign(p - y), _size(y, eps))  # the percent first, lest the quotient underflow


def _relative_by_size(y: Array, p: Array, eps: Array) -> Array:
    y, p, eps = separate(y, p, eps)
    (percent,) = constants(100, like=y)
    return -percent * quotient(quotient(absolute(p - y), _size(y, eps)), _size(y, eps))


def _relative_by_target(y: Array, p: Array, eps: Array) -> Array:
    # Of abs(p - y) / abs(y): -sign(p - y) p / (y abs(y)), where nothing cancels.
    share = jnp.where(absolute(y) > eps, quotient(p, jnp.where(y == 0, 1, y)), 1)
    return -share * _relative_slope(y, p, eps)


def _relative_by_eps(y: Array, p: Array, eps: Array) -> Array:
    return jnp.where(absolute(y) > eps, 0, _relative_by_size(y, p, eps))


@slopes(_relative_by_target, _relative_slope, _relative_by_eps)
def _relative_error(y: Array, p: Array, eps: Array) -> Array:
    return 100 * (jnp.abs(p - y) / _size(y, eps))


@compiled
def smape(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    eps: float | Array = 1e-7,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Symmetric mean absolute percentage error: `200 abs(y_pred - y_true) / max(abs(y_true) + abs(y_pred), eps)`.

    It lies between 0 and 200; where the signs differ it is 200, with zero gradient.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      eps: smaller sums count as this one, at least 0.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements in percent; with `reduction="none"` one loss an element, of shape (...). The derivative
      at y_pred = y_true is 0.

    Raises:
      ValueError: shapes that differ, a negative eps.

    Example:
      >>> print(smape([1.0, 0.0], [3.0, 0.0]))  # (200 * 2 / 4 + 0) / 2
      50.0

    Source: Makridakis 1993, doi 10.1016/0169-2070(93)90079-3; the form of the M4 competition. No function of optax,
    Keras or PyTorch computes it; torchmetrics has it without the factor 100.
    """
    check_option("smape", "eps", eps, low=0)

    def example(y: Array, p: Array) -> Array:
        return _symmetric_error(y, p, jnp.asarray(eps, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


def _mean_size(y: Array, p: Array, eps: Array, half: Array | float = 0.5) -> Array:
    return jnp.maximum(half * absolute(y) + half * absolute(p), above_zero(half * eps))  # halved first: no overflow


def _symmetric_slope(y: Array, p: Array, eps: Array) -> Array:
    """By p: 200 sign(p - y) (abs(y) + y sign(p)) / (sum of sizes)^2 where that reaches eps: nothing cancels."""
    y, p, eps = separate(y, p, eps)
    half, percent = constants(0.5, 100, like=y)
    size = _mean_size(y, p, eps, half)
    shared = quotient(half * absolute(y) + half * y * jnp.sign(p), size)
    return percent * jnp.sign(p - y) * quotient(jnp.where(size > half * eps, shared, 1), size)


def _symmetric_by_eps(y: Array, p: Array, eps: Array) -> Array:
    size = _mean_size(y, p, eps)
    return jnp.where(size > eps / 2, 0, -50 * quotient(quotient(absolute(p - y), size), size))


@slopes(lambda y, p, eps: _symmetric_slope(p, y, eps), _symmetric_slope, _symmetric_by_eps)
def _symmetric_error(y: Array, p: Array, eps: Array) -> Array:
    (half,) = constants(0.5, like=y)  # a plain 0.5 XLA takes out of the sum, which could overflow then
    return jnp.minimum(100 * (jnp.abs(p - y) / _mean_size(y, p, eps, half)), 200)


@compiled
def msle(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Mean squared logarithmic error: `(log(1 + y_pred) - log(1 + y_true))^2`.

    Args:
      y_true: (...) targets above -1.
      y_pred: (...) predictions above -1.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ. A number below -1 makes its element NaN.

    Example:
      >>> print(f"{msle([0.0], [1.0]):.5f}")  # log(2)^2
      0.48045

    Source: Kaggle 2012, Herbal and Online Product Sales ("RMSLE"). Agrees with sklearn.metrics.mean_squared_log_error,
    and for numbers of at least 1e-7 with keras.losses.MeanSquaredLogarithmicError, which raises smaller ones to that.
    """

    def example(y: Array, p: Array) -> Array:
        return _squared_log_quotient(y, p)

    return batched(
        example,
        (y_true, y_pred),
        domains=("above -1", "above -1"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


@slopes(lambda y, p: -1 / (1 + y), lambda y, p: 1 / (1 + p))
def _log_quotient(y: Array, p: Array) -> Array:
    """log(1 + p) - log(1 + y) = sign(e) log(1 + abs(e) / (1 + min(y, p))), e = p - y: exact where p is almost y."""
    e = p - y
    below = 1 + jnp.minimum(y, p)
    overflows = above(jnp.abs(e), below * (jnp.finfo(e.dtype).max / 256))
    ratio = jnp.abs(e) * blend(overflows, 2.0**-64, 1) / below
    size = jnp.log1p(ratio) + overflows * (64 * math.log(2))
    return jnp.where(below < 0, jnp.nan, jnp.sign(e) * size)


def _by_prediction(y: Array, p: Array) -> Array:
    y, p = separate(y, p)
    return quotient(2 * _log_quotient(y, p), 1 + p)


@slopes(lambda y, p: _by_prediction(p, y), _by_prediction)
def _squared_log_quotient(y: Array, p: Array) -> Array:
    return _log_quotient(y, p) ** 2


@compiled
def cosine_distance(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    eps: float | Array = 0.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Cosine distance: `1 - (y_true . y_pred) / (norm(y_true) norm(y_pred))`, between 0 and 2.

    A vector of zeros has distance 1 from every other, with zero gradient. It is computed as half the squared distance
    of the two unit vectors, which is exact for small angles and never negative.

    Args:
      y_true: (..., d) target vectors.
      y_pred: (..., d) predicted vectors.
      eps: smaller norms count as this one, at least 0: it bounds the derivative by short vectors.
      axis: where the components lie.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative eps.

    Example:
      >>> print(cosine_distance([[1.0, 0.0]], [[3.0, 4.0]]))  # 1 - 3 / 5
      0.4

    Source: Salton, Wong and Yang 1975, doi 10.1145/361219.361220. Agrees with optax.cosine_distance, with
    1 - torch.nn.functional.cosine_similarity (whose eps is 1e-8), and with 1 + keras.losses.CosineSimilarity.
    """
    check_option("cosine_distance", "eps", eps, low=0)

    def example(y: Array, p: Array) -> Array:
        if not is_zero(eps):  # which bounds the derivatives
            return distance(y, p)
        largest = jnp.stack([jnp.max(jnp.abs(y)), jnp.max(jnp.abs(p))])
        return steady(jnp.any(is_minute(largest) | is_huge(largest)), distance, y, p)

    def distance(y: Array, p: Array) -> Array:
        (u, some_u, length_u), (v, some_v, length_v) = (_direction(x, eps) for x in (y, p))
        apart = settled(jnp.sum((v - u) ** 2)) / 2
        if not is_zero(eps):
            apart = (1 - length_u * length_v) + length_u * length_v * apart
        return jnp.where(some_u & some_v, apart, 1)

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _direction(x: Array, eps: float | Array) -> tuple[Array, Array, Array | float]:
    """x over its norm, whether there is any, and the norm over max(norm, eps)."""
    # What the vector is divided by first changes nothing but the range of the squares: a constant, whose reciprocal
    # neither overflows nor vanishes.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    tiny = float(jnp.finfo(x.dtype).tiny)
    some = ~(largest < tiny)  # a NaN is something
    largest = jnp.where(some, jnp.minimum(largest, 1 / tiny), 1)
    scaled = x / largest
    norm = jnp.sqrt(jnp.where(some, settled(jnp.sum(scaled**2)), 1))
    length = 1.0 if is_zero(eps) else norm / jnp.maximum(norm, jnp.asarray(eps, x.dtype) / largest)
    # Divided anew, lest XLA writes what was divided before to memory; the signs keep it from dividing by the product.
    return -(-(x / barrier(largest)) / norm), some, length
