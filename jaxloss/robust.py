"""Robust regression losses: one family of the residual `e = y_pred - y_true` over its scale. The unit is an element."""

from __future__ import annotations

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import (
    abs0,
    d_expm1_ratio,
    divide,
    exp_moment,
    exp_rest,
    expm1_ratio,
    legs,
    log1p_of_fraction,
    log1p_square,
    saturate,
)
from jaxloss.contract import NUMBER, POSITIVE, ArrayLike, Domain, Units, loss, losses

__all__ = ["barron", "cauchy", "charbonnier", "welsch"]

SHAPE = Domain("finite or -inf", high=3e38, infinite=(-math.inf,))


@loss
def barron(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    alpha: float | ArrayLike = 1.0,
    scale: float | ArrayLike = 1.0,
    **units: Unpack[Units],
) -> Array:
    """General robust loss: `b / alpha (((e / scale)^2 / b + 1)^(alpha / 2) - 1)` with `b = abs(alpha - 2)`.

    About `(e / scale)^2 / 2` for small residuals, whatever alpha is; the smaller alpha, the less large ones count.
    Members: 2 half the squared error, 1 `charbonnier`, 0 `cauchy`, -2 Geman-McClure, -inf `welsch`. Where the formula
    is undefined, at 2, 0 and -inf, the loss is its limit, for a traced alpha too. So is the derivative with respect to
    alpha, except at 2: there the limit is infinite, and the derivative is 0.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      alpha: the shape, any number or -inf.
      scale: the residual beyond which the loss is no longer a parabola, above 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, an alpha that is NaN or +inf, a scale not above 0.

    Example:
      >>> print(barron([0.0], [2.0], alpha=-2.0))  # 2 * 4 / (4 + 4)
      1.0

    Source: Barron 2019, A general and adaptive robust loss function, arXiv 1701.03077. No function of optax, Keras or
    PyTorch computes it; robust_loss_pytorch does.
    """
    member = {2: _half_square, 1: _charbonnier, 0: _cauchy, -math.inf: _welsch}.get(
        alpha if isinstance(alpha, (int, float)) else math.nan
    )

    def element(y: Array, p: Array, alpha: float | Array, scale: float | Array) -> Array:
        return _barron(saturate(p - y), alpha, scale) if member is None else member(p - y, scale)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(
        element, inputs, options={"alpha": (alpha, SHAPE), "scale": (scale, POSITIVE)}, elementwise=True, **units
    )


@loss
def charbonnier(
    y_true: ArrayLike, y_pred: ArrayLike, *, scale: float | ArrayLike = 1.0, **units: Unpack[Units]
) -> Array:
    """Charbonnier (pseudo-Huber) loss: `sqrt((e / scale)^2 + 1) - 1`, the member of `barron` with alpha = 1.

    Image restoration often writes `sqrt(e^2 + scale^2)`, which is `scale * charbonnier + scale`. The pseudo-Huber loss
    usually has a factor more: scipy.special.pseudo_huber is `scale^2 * charbonnier`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      scale: the residual beyond which the loss grows linearly, above 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a scale not above 0.

    Example:
      >>> print(charbonnier([0.0], [0.75]))  # sqrt(1.5625) - 1
      0.25

    Source: Charbonnier et al. 1994, doi 10.1109/ICIP.1994.413553. No function of optax, Keras or PyTorch computes it.
    """

    def element(y: Array, p: Array, scale: float | Array) -> Array:
        return _charbonnier(p - y, scale)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"scale": (scale, POSITIVE)}, elementwise=True, **units)


@loss
def cauchy(y_true: ArrayLike, y_pred: ArrayLike, *, scale: float | ArrayLike = 1.0, **units: Unpack[Units]) -> Array:
    """Cauchy (Lorentzian) loss: `log((e / scale)^2 / 2 + 1)`, the member of `barron` with alpha = 0.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      scale: the residual beyond which the loss grows slowly, above 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a scale not above 0.

    Example:
      >>> print(f"{cauchy([0.0], [2.0]):.5f}")  # log(3)
      1.09861

    Source: Black and Anandan 1996, doi 10.1006/cviu.1996.0006. No function of optax, Keras or PyTorch computes it;
    scipy.optimize.least_squares has `scale^2` times it, with `f_scale = scale * sqrt(2)`.
    """

    def element(y: Array, p: Array, scale: float | Array) -> Array:
        return _cauchy(p - y, scale)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"scale": (scale, POSITIVE)}, elementwise=True, **units)


@loss
def welsch(y_true: ArrayLike, y_pred: ArrayLike, *, scale: float | ArrayLike = 1.0, **units: Unpack[Units]) -> Array:
    """Welsch (Leclerc) loss: `1 - exp(-(e / scale)^2 / 2)`, the member of `barron` with alpha = -inf.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      scale: the residual at which the slope is largest, above 0; far larger ones do not count.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...), in [0, 1].

    Raises:
      ValueError: shapes that differ, a scale not above 0.

    Example:
      >>> print(f"{welsch([0.0], [1.0]):.5f}")  # 1 - exp(-1/2)
      0.39347

    Source: Dennis and Welsch 1978, doi 10.1080/03610917808812083. No function of optax, Keras or PyTorch computes it.
    """

    def element(y: Array, p: Array, scale: float | Array) -> Array:
        return _welsch(p - y, scale)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"scale": (scale, POSITIVE)}, elementwise=True, **units)


# ---------------------------------------------------------------------------------------------------------------------
# The members in forms of their own: exact for small residuals, finite for large ones. Here r = e / scale.


@partials(lambda e, c: divide(divide(e, c), c), lambda e, c: -divide(divide(e, c) ** 2, c))
def _half_square(e: Array, c: Array) -> Array:
    return (e / c) * (e / c / 2)


def _cauchy(e: Array, c: float | Array) -> Array:
    return log1p_square(saturate(e), math.sqrt(2) * c)


def _charbonnier_d_residual(e: Array, c: Array) -> Array:
    # r / sqrt(1 + r^2), its parts divided by abs(r) where that is above 1
    r = divide(e, c)
    cut = jnp.clip(r, -1, 1)
    return cut / jnp.sqrt(1 + (cut / jnp.maximum(abs0(r), 1)) ** 2) / c


@partials(_charbonnier_d_residual, lambda e, c: -divide(e, c) * _charbonnier_d_residual(e, c))
def _charbonnier(e: Array, c: Array) -> Array:
    # sqrt(1 + r^2) - 1 = r^2 / (1 + sqrt(1 + r^2)), its parts divided by abs(r) where that is above 1
    r = jnp.abs(e) / c
    cut, shrink = jnp.minimum(r, 1), 1 / jnp.maximum(r, 1)
    return r * (cut / (shrink + jnp.sqrt(1 + (cut * shrink) ** 2)))


# From this r on exp(-r^2 / 2) is 0 in every dtype.
GONE = 64.0


def _welsch_d_residual(e: Array, c: Array) -> Array:
    r = jnp.clip(divide(e, c), -GONE, GONE)
    return r * jnp.exp(-r * r / 2) / c


@partials(_welsch_d_residual, lambda e, c: -jnp.clip(divide(e, c), -GONE, GONE) * _welsch_d_residual(e, c))
def _welsch(e: Array, c: Array) -> Array:
    r = jnp.minimum(jnp.abs(e) / c, GONE)
    return -jnp.expm1(-r * r / 2)


# ---------------------------------------------------------------------------------------------------------------------
# The family, for any alpha

# Take a right triangle of legs w = c sqrt(b) and e. With h = hypotenuse / w and s = e / hypotenuse, in [-1, 1],
#   loss = b / alpha (h^alpha - 1) = b L E(alpha L),    L = log h = log(1 + (e / w)^2) / 2,  E(x) = (exp(x) - 1) / x,
# of which the second form has its limit at alpha = 0, and does not cancel for small e. From dh / de = s / w,
#   d loss / de = b h^(alpha - 1) s / w = sqrt(b) / c s h^(alpha - 1),
#   d loss / dc = -e / c d loss / de = -b / c s^2 h^alpha,    since e = s h w,
# and from dL / db = -s^2 / (2 b), with k = db / dalpha = sign(alpha - 2) and A = L - s^2 / 2,
#   d loss / dalpha = k E A + L E' (b L - k alpha s^2 / 2) = k (A exp(alpha L) - 2 L^2 E'),
# since b = k (alpha - 2), and (x E)' = exp(x). For small L both terms are about L^2 and cancel. There, of
#   s^2 = 1 - exp(-2 L),  exp(x) - 2 E'(x) = x E''(x),  R(t) = (exp(t) - 1 - t - t^2 / 2) / t^3
# it follows that A = L^2 (1 - 4 L R(-2 L)), and
#   d loss / dalpha = k L^3 (alpha E''(alpha L) - 4 exp(alpha L) R(-2 L)).
# At alpha = 2 the loss is (e / c)^2 / 2 for every b, so that there b may be any small number.


def _triangle(e: Array, alpha: Array, c: Array) -> tuple[Array, Array, Array, Array]:
    """b, w, L and s."""
    b = jnp.maximum(abs0(alpha - 2), jnp.finfo(e.dtype).eps)
    w = c * jnp.sqrt(b)
    longer, ratio = legs(e, w)
    return b, w, log1p_square(e, w) / 2, divide(e, longer) / jnp.sqrt(1 + ratio**2)


def _times_power_of_h(factor: Array, exponent: Array, e: Array, alpha: Array, w: Array) -> Array:
    """factor h^exponent, as factor (longer / w)^exponent (1 + ratio^2)^(exponent / 2)."""
    longer, ratio = legs(e, w)
    # For alpha in (0, 2] the exponents are in (-1, 1], so that powers of both legs are finite where their ratio is not.
    unit = jnp.where((alpha > 0) & (alpha <= 2), 1, w)
    powers = divide(longer, unit) ** exponent * (factor * divide(w, unit) ** -exponent)
    return powers * jnp.exp(exponent / 2 * log1p_of_fraction(ratio**2))


def _limited(alpha: Array) -> Array:
    """From here on the loss is that of -inf."""
    return jnp.maximum(alpha, -(2.0**64))


def _barron_d_residual(e: Array, alpha: Array, c: Array) -> Array:
    alpha = _limited(alpha)
    b, w, _, s = _triangle(e, alpha, c)
    return s * _times_power_of_h(jnp.sqrt(b) / c, alpha - 1, e, alpha, w)


def _barron_d_alpha(e: Array, alpha: Array, c: Array) -> Array:
    alpha = _limited(alpha)
    _, _, log, s = _triangle(e, alpha, c)
    x = jnp.minimum(alpha * log, jnp.log(jnp.finfo(e.dtype).max) - 10)
    small, near = log < 0.25, jnp.abs(x) < 0.5
    rest, second = exp_rest(jnp.where(small, -2 * log, 0), 3), exp_moment(jnp.where(near, x, 0), 3)
    a = jnp.where(small, log**2 * (1 - 4 * log * rest), log - s**2 / 2)
    both_small = log**3 * (alpha * second - 4 * jnp.exp(x) * rest)
    return jnp.sign(alpha - 2) * jnp.where(small & near, both_small, a * jnp.exp(x) - 2 * log**2 * d_expm1_ratio(x))


def _barron_d_scale(e: Array, alpha: Array, c: Array) -> Array:
    alpha = _limited(alpha)
    b, w, _, s = _triangle(e, alpha, c)
    return -((s * _times_power_of_h(jnp.sqrt(b), alpha / 2, e, alpha, w)) ** 2) / c


def _parabolic(e: Array, c: Array) -> Array:
    """Where the loss is that of alpha = 2 to the last digit."""
    return abs0(e) < math.sqrt(jnp.finfo(e.dtype).eps) * c


@partials(_barron_d_residual, _barron_d_alpha, _barron_d_scale)
def _barron(e: Array, alpha: Array, c: Array) -> Array:
    alpha = _limited(alpha)
    b, w, log, _ = _triangle(e, alpha, c)
    steep = alpha * log > 1
    near = b * log * expm1_ratio(jnp.where(steep, 0, alpha * log))
    share = b / jnp.where(steep, alpha, 1)
    far = _times_power_of_h(jnp.sqrt(share), alpha / 2, e, alpha, w) ** 2 - share
    return jnp.where(_parabolic(e, c), _half_square(e, c), jnp.where(steep, far, near))
