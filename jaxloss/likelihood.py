"""Negative log-likelihoods of distributions with a predicted location and scale. The unit is an element."""

from __future__ import annotations

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import (
    HALF_LOG_TWO_PI,
    abs0,
    at_least_tiny,
    atanh_rest,
    divide,
    log1p_square,
    saturate,
    stirling,
    stirling_slope,
)
from jaxloss.contract import AMOUNT, AT_LEAST_0, NUMBER, POSITIVE, ArrayLike, Units, loss, losses

__all__ = ["gaussian_nll", "laplace_nll", "student_t_nll"]


@partials(lambda x, eps: jnp.ones_like(x), lambda x, eps: jnp.zeros_like(x))
def _floored(x: Array, eps: Array) -> Array:
    """max(x, eps), but with derivative 1 everywhere, so that what was raised still receives a gradient."""
    return jnp.maximum(x, at_least_tiny(eps))


def _constant(e: Array, *others: Array) -> Array:
    """The derivative with respect to eps."""
    return jnp.zeros_like(e)


@loss
def gaussian_nll(
    y_true: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    *,
    log_variance: bool = False,
    full: bool = False,
    eps: float | ArrayLike = 1e-6,
    **units: Unpack[Units],
) -> Array:
    """Gaussian negative log-likelihood: `(log v + e^2 / v) / 2` with `v = max(variance, eps)`, `e = mean - y_true`.

    Args:
      y_true: (...) observations.
      mean: (...) predicted means.
      variance: (...) predicted variances (not standard deviations), at least 0, or their logarithms if `log_variance`.
      log_variance: whether `variance` holds logarithms; no variance can then be negative.
      full: whether the constant `log(2 pi) / 2` is added.
      eps: smaller variances count as this one, at least 0. There the gradient is that at eps, so that it still pushes
        the variance up.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a negative eps. A negative variance makes its element NaN.

    Example:
      >>> print(f"{gaussian_nll([1.0], [3.0], [4.0]):.5f}")  # (log(4) + 4 / 4) / 2
      1.19315

    Source: Nix and Weigend 1994, doi 10.1109/ICNN.1994.374138. Agrees with torch.nn.functional.gaussian_nll_loss, and
    if full with -scipy.stats.norm.logpdf.
    """

    def element(y: Array, mean: Array, variance: Array, eps: float | Array) -> Array:
        loss = (_gaussian_of_log if log_variance else _gaussian)(mean - y, variance, eps)
        return loss + HALF_LOG_TWO_PI if full else loss

    inputs = {
        "y_true": (y_true, NUMBER),
        "mean": (mean, NUMBER),
        "variance": (variance, NUMBER if log_variance else AMOUNT),
    }
    return losses(element, inputs, options={"eps": (eps, AT_LEAST_0)}, elementwise=True, **units)


def _gaussian_d_residual(e: Array, variance: Array, eps: Array) -> Array:
    return saturate(divide(e, _floored(variance, eps)))


def _gaussian_d_variance(e: Array, variance: Array, eps: Array) -> Array:
    v = _floored(variance, eps)
    # v - e^2 is exact where the two are close, but e^2 may overflow.
    moderate = jnp.abs(e) < 2.0**60
    some = jnp.where(moderate, e, 0)
    # Finite and halved first: 1 / v may vanish, and 2 v overflow.
    return divide(jnp.where(moderate, divide(v - some * some, v), saturate(1 - e * saturate(divide(e, v)))) / 2, v)


@partials(_gaussian_d_residual, _gaussian_d_variance, _constant)
def _gaussian(e: Array, variance: Array, eps: Array) -> Array:
    v = _floored(variance, eps)
    return (jnp.log(v) + e * (e / v)) / 2


# With s = log v and r = exp(-s / 4), e^2 / v is the square of t = e r r. In this order it overflows only if it should,
# and e = 0 meets no infinite factor.


def _root_of_deviation(s: Array, eps: Array) -> Array:
    """r, at most that of eps."""
    largest = jnp.finfo(s.dtype).max ** 0.99
    return jnp.minimum(jnp.exp(-s / 4), jnp.minimum(jnp.asarray(eps, s.dtype) ** -0.25, largest))


def _gaussian_of_log_d_residual(e: Array, s: Array, eps: Array) -> Array:
    r = _root_of_deviation(s, eps)
    return saturate(saturate(e) * r * r * r * r)


def _gaussian_of_log_d_log(e: Array, s: Array, eps: Array) -> Array:
    r = _root_of_deviation(s, eps)
    t = saturate(e) * r * r
    return saturate((1 - t) * ((1 + t) / 2))


@partials(_gaussian_of_log_d_residual, _gaussian_of_log_d_log, _constant)
def _gaussian_of_log(e: Array, s: Array, eps: Array) -> Array:
    r = _root_of_deviation(s, eps)
    t = saturate(e) * r * r
    return jnp.maximum(s, jnp.log(eps)) / 2 + t * (t / 2)


@loss
def laplace_nll(
    y_true: ArrayLike,
    location: ArrayLike,
    scale: ArrayLike,
    *,
    full: bool = False,
    eps: float | ArrayLike = 1e-6,
    **units: Unpack[Units],
) -> Array:
    """Laplace negative log-likelihood: `log b + abs(e) / b` with `b = max(scale, eps)`, `e = location - y_true`.

    Args:
      y_true: (...) observations.
      location: (...) predicted medians.
      scale: (...) predicted mean absolute deviations, at least 0.
      full: whether the constant `log 2` is added.
      eps: smaller scales count as this one, at least 0. There the gradient is that at eps, so that it still pushes the
        scale up.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...). The derivative with respect to
      the location at e = 0 is 0.

    Raises:
      ValueError: shapes that differ, a negative eps. A negative scale makes its element NaN.

    Example:
      >>> print(f"{laplace_nll([1.0], [5.0], [2.0]):.5f}")  # log(2) + 4 / 2
      2.69315

    Source: Laplace 1774. If full it agrees with -scipy.stats.laplace.logpdf and torch.distributions.Laplace.
    """

    def element(y: Array, location: Array, scale: Array, eps: float | Array) -> Array:
        loss = _laplace(location - y, scale, eps)
        return loss + math.log(2) if full else loss

    inputs = {"y_true": (y_true, NUMBER), "location": (location, NUMBER), "scale": (scale, AMOUNT)}
    return losses(element, inputs, options={"eps": (eps, AT_LEAST_0)}, elementwise=True, **units)


def _laplace_d_scale(e: Array, scale: Array, eps: Array) -> Array:
    b = _floored(scale, eps)
    return divide(1 - divide(abs0(e), b), b)


@partials(lambda e, scale, eps: divide(jnp.sign(e), _floored(scale, eps)), _laplace_d_scale, _constant)
def _laplace(e: Array, scale: Array, eps: Array) -> Array:
    b = _floored(scale, eps)
    return jnp.log(b) + jnp.abs(e) / b


@loss
def student_t_nll(
    y_true: ArrayLike,
    location: ArrayLike,
    scale: ArrayLike,
    *,
    df: float | ArrayLike = 4.0,
    full: bool = False,
    eps: float | ArrayLike = 1e-6,
    **units: Unpack[Units],
) -> Array:
    """Student's t negative log-likelihood: `log s + (df + 1) / 2 log(1 + (e / s)^2 / df)`.

    Here `s = max(scale, eps)` and `e = location - y_true`.

    Args:
      y_true: (...) observations.
      location: (...) predicted centres.
      scale: (...) predicted scales, at least 0; the variance is `s^2 df / (df - 2)` where df > 2.
      df: degrees of freedom, above 0; the smaller, the less outliers count.
      full: whether to add the terms that depend on df alone: `log gamma(df / 2) - log gamma((df + 1) / 2) +
        log(pi df) / 2`. They are needed to learn df.
      eps: smaller scales count as this one, at least 0. There the gradient is that at eps, so that it still pushes the
        scale up.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a df not above 0, a negative eps. A negative scale makes its element NaN.

    Example:
      >>> print(f"{student_t_nll([0.0], [2.0], [1.0]):.5f}")  # 5 / 2 log(1 + 4 / 4)
      1.73287

    Source: Lange, Little and Taylor 1989, doi 10.1080/01621459.1989.10478852, who recommend df = 4. If full it agrees
    with -scipy.stats.t.logpdf and torch.distributions.StudentT.
    """

    def element(y: Array, location: Array, scale: Array, df: float | Array, eps: float | Array) -> Array:
        n = jnp.asarray(df, y.dtype)
        loss = _student_t(saturate(location - y), scale, eps, n)
        return loss + _student_t_constant(n) if full else loss

    inputs = {"y_true": (y_true, NUMBER), "location": (location, NUMBER), "scale": (scale, AMOUNT)}
    return losses(element, inputs, options={"df": (df, POSITIVE), "eps": (eps, AT_LEAST_0)}, elementwise=True, **units)


# With w = sqrt(n) s the loss is log s + (n + 1) / 2 log(1 + (e / w)^2), and with the share q = e^2 / (e^2 + w^2)
#   d loss / de = (n + 1) e / (e^2 + w^2),    d loss / ds = (1 - (n + 1) q) / s = n (s^2 - e^2) / (e^2 + w^2) / s,
#   d loss / dn = (log(1 + (e / w)^2) - q - q / n) / 2.
# For many degrees of freedom the first two differ by little. If v = q / (2 - q), then 1 - q = (1 - v) / (1 + v), and
#   log(1 / (1 - q)) - q = 2 (atanh(v) - v / (1 + v)) = 2 v^2 (1 / (1 + v) + (atanh(v) - v) / v^2).
# The squares may overflow or vanish, so that e and w are divided by the larger of abs(e) and w.


def _student_t_parts(e: Array, scale: Array, eps: Array, n: Array) -> tuple[Array, Array, Array, Array]:
    """s, the larger of abs(e) and w, e / larger, and (e^2 + w^2) / larger^2."""
    s = _floored(scale, eps)
    w = jnp.sqrt(n) * s
    larger = jnp.maximum(abs0(e), w)
    return s, larger, divide(e, larger), 1 + divide(jnp.minimum(abs0(e), w), larger) ** 2


def _student_t_d_location(e: Array, scale: Array, eps: Array, n: Array) -> Array:
    _, larger, part, squares = _student_t_parts(e, scale, eps, n)
    return divide((n + 1) * part / squares, larger)


def _student_t_d_scale(e: Array, scale: Array, eps: Array, n: Array) -> Array:
    s, larger, part, squares = _student_t_parts(e, scale, eps, n)
    part, own = jnp.abs(part), divide(s, larger)
    return divide(n * (own - part) * ((own + part) / squares), s)


def _student_t_d_df(e: Array, scale: Array, eps: Array, n: Array) -> Array:
    s, _, part, squares = _student_t_parts(e, scale, eps, n)
    q = part**2 / squares
    return (_log_less_share(q, log1p_square(e, jnp.sqrt(n) * s)) - q / n) / 2


def _log_less_share(q: Array, log: Array) -> Array:
    """log - q, with log = log(1 / (1 - q))."""
    v = jnp.minimum(q, 0.5) / (2 - jnp.minimum(q, 0.5))
    return jnp.where(q > 0.5, log - q, 2 * v**2 * (1 / (1 + v) + v * atanh_rest(v**2)))


@partials(_student_t_d_location, _student_t_d_scale, _constant, _student_t_d_df)
def _student_t(e: Array, scale: Array, eps: Array, n: Array) -> Array:
    s = _floored(scale, eps)
    return jnp.log(s) + (n + 1) / 2 * log1p_square(e, jnp.sqrt(n) * s)


def _student_t_constant_slope(n: Array) -> Array:
    by_gammas = 2 * ((1 / (n + 1)) ** 2 * stirling_slope(2 / (n + 1)) - (1 / n) ** 2 * stirling_slope(2 / n))
    return by_gammas - _log_less_share(1 / (n + 1), jnp.log1p(1 / n)) / 2


@partials(_student_t_constant_slope)
def _student_t_constant(n: Array) -> Array:
    # For many degrees of freedom the logarithms of gamma cancel. By Stirling's formula, with h = n / 2,
    #   log gamma(h) - log gamma(h + 1/2) + log(pi n) / 2
    #     = h log(h / (h + 1/2)) + 1/2 + log(2 pi) / 2 + stirling(1 / h) - stirling(1 / (h + 1/2)).
    return HALF_LOG_TWO_PI + 0.5 - n / 2 * jnp.log1p(1 / n) + (stirling(2 / n) - stirling(2 / (n + 1)))
