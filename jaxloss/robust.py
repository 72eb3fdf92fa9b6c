"""Robust regression losses: one family of the residual `e = y_pred - y_true` over its scale. The unit is an element."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._legacy import ArrayLike, Reduction, batched, check_option, check_positive, compiled
from jaxloss._math import absolute, bounded, constants, quotient, slopes
from jaxloss._special import expm1_ratio, log1p_square, separate

__all__ = ["barron", "cauchy", "charbonnier", "welsch"]


@compiled
def barron(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    alpha: float | Array = 1.0,
    scale: float | Array = 1.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """General robust loss: `b / alpha (((e / scale)^2 / b + 1)^(alpha / 2) - 1)` with `b = abs(alpha - 2)`.

    About `(e / scale)^2 / 2` for small residuals, whatever alpha is; the smaller alpha, the less large ones count.
    Members: 2 half the squared error, 1 `charbonnier`, 0 `cauchy`, -2 Geman-McClure, -inf `welsch`. Where the formula
    divides by 0, at 2, 0 and -inf, the loss is its limit, also for a traced alpha; of the derivatives by alpha only
    the one at 2 is not the limit, which is infinite, but about 0.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      alpha: the shape, any number or -inf.
      scale: the residual from which on the loss is no longer a parabola, above 0.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, an alpha that is NaN or +inf, a scale not above 0.

    Example:
      >>> print(barron([0.0], [2.0], alpha=-2.0))  # 2 * 4 / (4 + 4)
      1.0

    Source: Barron 2019, A general and adaptive robust loss function, arXiv 1701.03077. No function of optax, Keras or
    PyTorch computes it; robust_loss_pytorch does.
    """
    check_option("barron", "alpha", alpha, high=3e38)
    check_positive("barron", "scale", scale)
    member = {2: _half_square, 1: _charbonnier, 0: _cauchy, -math.inf: _welsch}.get(
        alpha if isinstance(alpha, (int, float)) else math.nan
    )

    def example(y: Array, p: Array) -> Array:
        c = jnp.asarray(scale, p.dtype)
        return _barron(bounded(p - y), jnp.asarray(alpha, p.dtype), c) if member is None else member(p - y, c)

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@compiled
def charbonnier(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    scale: float | Array = 1.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Charbonnier (pseudo-Huber) loss: `sqrt((e / scale)^2 + 1) - 1`, the member of `barron` with alpha = 1.

    Image restoration often writes `sqrt(e^2 + scale^2)`, which is `scale * charbonnier + scale`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      scale: the residual from which on the loss grows linearly, above 0.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a scale not above 0.

    Example:
      >>> print(charbonnier([0.0], [0.75]))  # sqrt(1.5625) - 1
      0.25

    Source: Charbonnier et al. 1994, doi 10.1109/ICIP.1994.413553. No function of optax, Keras or PyTorch computes it.
    """
    check_positive("charbonnier", "scale", scale)

    def example(y: Array, p: Array) -> Array:
        return _charbonnier(p - y, jnp.asarray(scale, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@compiled
def cauchy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    scale: float | Array = 1.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Cauchy (Lorentzian) loss: `log((e / scale)^2 / 2 + 1)`, the member of `barron` with alpha = 0.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      scale: the residual from which on the loss grows slowly, above 0.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a scale not above 0.

    Example:
      >>> print(f"{cauchy([0.0], [2.0]):.5f}")  # log(3)
      1.09861

    Source: Black and Anandan 1996, doi 10.1006/cviu.1996.0006. No function of optax, Keras or PyTorch computes it;
    scipy.optimize.least_squares has it with `scale * sqrt(2)` in the place of scale.
    """
    check_positive("cauchy", "scale", scale)

    def example(y: Array, p: Array) -> Array:
        return _cauchy(p - y, jnp.asarray(scale, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@compiled
def welsch(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    scale: float | Array = 1.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Welsch (Leclerc) loss: `1 - exp(-(e / scale)^2 / 2)`, the member of `barron` with alpha = -inf.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      scale: the residual at which the slope is largest, above 0; far larger ones do not count.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...), in [0, 1].

    Raises:
      ValueError: shapes that differ, a scale not above 0.

    Example:
      >>> print(f"{welsch([0.0], [1.0]):.5f}")  # 1 - exp(-1/2)
      0.39347

    Source: Dennis and Welsch 1978, doi 10.1080/03610917808812083. No function of optax, Keras or PyTorch computes it.
    """
    check_positive("welsch", "scale", scale)

    def example(y: Array, p: Array) -> Array:
        return _welsch(p - y, jnp.asarray(scale, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


# ---------------------------------------------------------------------------------------------------------------------
# The members in their own forms: exact for small residuals, finite for large ones


def _half_square(e: Array, c: Array) -> Array:
    return quotient(e, c) * (quotient(e, c) / 2)


def _cauchy(e: Array, c: Array) -> Array:
    return log1p_square(bounded(e), math.sqrt(2) * c)


def _charbonnier_by_residual(e: Array, c: Array) -> Array:
    e, c = separate(e, c)
    (one,) = constants(1, like=e)
    r = quotient(e, c)
    cut = jnp.maximum(jnp.minimum(r, one), -one)
    return cut / jnp.sqrt(one + (cut / jnp.maximum(absolute(r), one)) ** 2) / c


@slopes(_charbonnier_by_residual, lambda e, c: -quotient(e, c) * _charbonnier_by_residual(e, c))
def _charbonnier(e: Array, c: Array) -> Array:
    # sqrt(1 + r^2) - 1 = r^2 / (1 + sqrt(1 + r^2)), its parts divided by r where that is above 1
    r = jnp.abs(e) / c
    shrink, cut = 1 / jnp.maximum(r, 1), jnp.minimum(r, 1)
    return r * (cut / (shrink + jnp.sqrt(1 + (cut * shrink) ** 2)))


def _welsch_by_residual(e: Array, c: Array) -> Array:
    e, c = separate(e, c)
    half, end = constants(0.5, 64, like=e)
    r = jnp.maximum(jnp.minimum(quotient(e, c), end), -end)
    return r * jnp.exp(-half * r * r) / c


def _welsch_by_scale(e: Array, c: Array) -> Array:
    return -jnp.minimum(quotient(absolute(e), c), 64) * jnp.sign(e) * _welsch_by_residual(e, c)


@slopes(_welsch_by_residual, _welsch_by_scale)
def _welsch(e: Array, c: Array) -> Array:
    r = jnp.minimum(jnp.abs(e) / c, 64)  # there exp(-r^2 / 2) is 0 in every dtype
    return -jnp.expm1(-0.5 * r * r)


# ---------------------------------------------------------------------------------------------------------------------
# The family, for any alpha


class _Parts:
    """What value and derivatives have in common: `height = sqrt(1 + (e / width)^2)` with `width = c sqrt(b)`."""

    def __init__(self, e: Array, alpha: Array, c: Array) -> None:
        eps = jnp.finfo(e.dtype).eps
        self.e, self.c = e, c
        self.alpha = alpha = jnp.maximum(alpha, -(2.0**64))  # from there on the loss is that of -inf
        self.flat = alpha == 2
        self.b = jnp.where(self.flat, eps, absolute(alpha - 2))
        self.width = c * jnp.sqrt(self.b)
        self.far = absolute(e) > self.width
        self.log = log1p_square(e, self.width) / 2
        larger = jnp.maximum(absolute(e), self.width)
        root = jnp.sqrt(1 + quotient(jnp.minimum(absolute(e), self.width), larger) ** 2)
        self.share = quotient(e, larger) / root  # e / width / height, in [-1, 1]
        # The height itself might overflow where a small power of it does not.
        self.unit = jnp.where((alpha > 0) & (alpha <= 2), 1, self.width)
        self.base = quotient(larger, self.unit) * root
        self.parabola = self.flat | (absolute(e) < jnp.sqrt(eps) * c)

    def power(self, exponent: Array, factor: Array) -> Array:
        """factor * height^exponent: by the logarithm near 1, where that is more exact, else by a power."""
        near = factor * jnp.exp(exponent * jnp.where(self.far, 0, self.log))
        base = jnp.where(self.far, self.base, 1)
        return jnp.where(self.far, base**exponent * (factor * quotient(self.width, self.unit) ** -exponent), near)


def _barron_by_residual(e: Array, alpha: Array, c: Array) -> Array:
    parts = _Parts(e, alpha, c)
    curved = parts.share * parts.power(parts.alpha - 1, jnp.sqrt(parts.b) / c)
    return jnp.where(parts.flat, quotient(e, c) / c, curved)


def _barron_by_scale(e: Array, alpha: Array, c: Array) -> Array:
    parts = _Parts(e, alpha, c)
    root = jnp.where(parts.flat, quotient(e, c), parts.share * parts.power(parts.alpha / 2, jnp.sqrt(parts.b)))
    return -(root**2) / c


def _barron_by_alpha(e: Array, alpha: Array, c: Array) -> Array:
    parts = _Parts(e, alpha, c)
    exponent = jnp.minimum(parts.alpha * parts.log, jnp.log(jnp.finfo(e.dtype).max) - 10)
    ratio = expm1_ratio(exponent)
    by_exponent = jax.jvp(expm1_ratio, (exponent,), (jnp.ones_like(exponent),))[1]
    sign, square = jnp.sign(alpha - 2), parts.share**2
    by_width = sign * ratio * (parts.log - square / 2)
    by_power = parts.log * by_exponent * (parts.b * parts.log - sign * parts.alpha * square / 2)
    return jnp.where(parts.parabola, 0, by_width + by_power)


@slopes(_barron_by_residual, _barron_by_alpha, _barron_by_scale)
def _barron(e: Array, alpha: Array, c: Array) -> Array:
    parts = _Parts(e, alpha, c)
    exponent = parts.alpha * parts.log
    steep = exponent > 1
    near = parts.b * parts.log * expm1_ratio(jnp.where(steep, 0, exponent))
    share = parts.b / jnp.where(steep, parts.alpha, 1)
    far = parts.power(parts.alpha / 2, jnp.sqrt(share)) ** 2 - share
    return jnp.where(parts.parabola, _half_square(e, c), jnp.where(steep, far, near))
