"""Negative log-likelihoods of counts and of amounts that may be 0, whose mean is predicted. The unit is an element."""

from __future__ import annotations

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import (
    HALF_LOG_TWO_PI,
    at_least_tiny,
    atanh_rest,
    d_expm1_ratio,
    digamma,
    divide,
    expm1_ratio,
    log1p,
    saturate,
    stirling,
    stirling_slope,
)
from jaxloss.contract import AMOUNT, LOG_AMOUNT, ArrayLike, Units, between, loss, losses

__all__ = ["negative_binomial_nll", "poisson_nll", "tweedie"]

# In all of this file y is the count, m the mean, and x the prediction: m, or log m with `log_rate`.

# Below this mean the derivative is the one at this mean, so that 1 / m and its square stay finite in float32.
LEAST_MEAN = 1e-12


def _mean_and_log(x: Array, log_rate: bool) -> tuple[Array, Array]:
    """m, which may be infinite, and log m, which is finite: 0 times it is 0."""
    if log_rate:
        return _exp(x), jnp.maximum(x, -jnp.finfo(x.dtype).max)
    return x, _log(x)


def _log(x: Array) -> Array:
    return jnp.log(at_least_tiny(x))


def _exp(x: Array) -> Array:
    """exp(x), which is infinite where it overflows also if a sum takes it in before it is rounded."""
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.exp(x) + jax.lax.stop_gradient(largest * jnp.maximum(x - math.log(largest), 0))


# ---------------------------------------------------------------------------------------------------------------------
# What the likelihoods share: the deviance of Poisson, and the factorial

# For positive y and z = y - d,
#   phi(y, z) = y log(y / z) - y + z,
# half the unit deviance of Poisson, is 0 at y = z and positive elsewhere. With v = d / (y + z) the logarithm is
# 2 atanh(v), and 2 y = (1 + v) (y + z), so that
#   phi / d = y / d log(y / z) - 1 = (1 + v) atanh(v) / v - 1 = v + (1 + v) (atanh(v) / v - 1).
# The first form is exact for y and z a factor of 2 or more apart, the last one for those that are closer (Loader 2000).

CLOSE = 1 / 3


def _half_spread(y: Array, d: Array) -> Array:
    """v = d / (y + z), of a sum that may overflow."""
    return 0.5 * (d / at_least_tiny(y - d / 2))


def _close_share(v: Array) -> Array:
    return v + (1 + v) * (v**2 * atanh_rest(v**2))


def _deviance_share(y: Array, d: Array, log_ratio: Array) -> Array:
    """phi(y, y - d) / d, from log_ratio = log(y / (y - d))."""
    v = _half_spread(y, d)
    close = jnp.abs(v) <= CLOSE
    return jnp.where(close, _close_share(v), y / jnp.where(close, 1, d) * log_ratio - 1)


def _excess(y: Array) -> Array:
    """log(y!) - y log y + y, which is positive, and 0 for y = 0."""
    # From 1 on by Stirling's formula for gamma(y), below by that for gamma(y + 1), less its value at y = 0.
    below = y < 1
    remainder = stirling(1 / jnp.where(below, y + 1, y))
    some = jnp.minimum(y, 1)
    log_factorial = (some + 0.5) * log1p(some) - some + jnp.sign(some) * (remainder - (1 - HALF_LOG_TWO_PI))
    few = log_factorial - some * _log(some) + some
    return jnp.where(below, few, remainder + jnp.log(jnp.maximum(y, 1)) / 2 + HALF_LOG_TWO_PI)


# ---------------------------------------------------------------------------------------------------------------------
# Poisson


@loss
def poisson_nll(
    y_true: ArrayLike, rate: ArrayLike, *, log_rate: bool = False, full: bool = False, **units: Unpack[Units]
) -> Array:
    """Poisson negative log-likelihood: `rate - y_true log(rate)`.

    There is no epsilon: 0 log 0 is 0, and a rate of 0 where something was counted has the logarithm of the smallest
    normal number, so a finite loss. The derivative with respect to the rate is exact down to 1e-12 and bounded there.

    Args:
      y_true: (...) counts, at least 0; they need not be whole.
      rate: (...) predicted means, at least 0, or their logarithms if `log_rate`.
      log_rate: whether `rate` holds logarithms; no rate can then be negative.
      full: whether the constant `log(y_true!)` is added.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ. A negative count or rate makes its element NaN.

    Example:
      >>> print(f"{poisson_nll([2.0], [1.0], full=True):.5f}")  # 1 - 2 log(1) + log(2!)
      1.69315

    Source: McCullagh and Nelder, Generalized Linear Models (1989), 6.2. If full it agrees with
    -scipy.stats.poisson.logpmf. Else it agrees with keras.losses.Poisson and torch.nn.functional.poisson_nll_loss (the
    latter with its log_input=True for log_rate=True), which add an epsilon to the rate. The full form of PyTorch
    replaces `log(y_true!)` by an approximation.
    """

    def element(y: Array, x: Array) -> Array:
        return _poisson(y, x, log_rate=log_rate, full=full)

    inputs = {"y_true": (y_true, AMOUNT), "rate": (rate, LOG_AMOUNT if log_rate else AMOUNT)}
    return losses(element, inputs, long=full, elementwise=True, **units)


def _poisson_d_count(y: Array, x: Array, *, log_rate: bool, full: bool) -> Array:
    _, log_m = _mean_and_log(x, log_rate)
    return digamma(y + 1) - log_m if full else -log_m


def _poisson_d_prediction(y: Array, x: Array, *, log_rate: bool, full: bool) -> Array:
    if log_rate:
        return _exp(x) - y
    m = jnp.maximum(x, LEAST_MEAN)
    return divide(m - y, m)


@partials(_poisson_d_count, _poisson_d_prediction)
def _poisson(y: Array, x: Array, *, log_rate: bool, full: bool) -> Array:
    m, log_m = _mean_and_log(x, log_rate)
    if not full:
        # Where exp(x) overflows, the loss is infinite whatever is subtracted.
        return m - jnp.minimum(y * log_m, jnp.finfo(y.dtype).max) if log_rate else m - y * log_m
    # m - y log m + log(y!) = phi(y, m) + (log(y!) - y log y + y): neither is negative, so that nothing cancels.
    return (y - m) * _deviance_share(y, y - m, _log(y) - log_m) + _excess(y)


# ---------------------------------------------------------------------------------------------------------------------
# Negative binomial


@loss
def negative_binomial_nll(
    y_true: ArrayLike,
    mean: ArrayLike,
    dispersion: ArrayLike,
    *,
    log_rate: bool = False,
    full: bool = False,
    **units: Unpack[Units],
) -> Array:
    """Negative binomial negative log-likelihood of counts with variance `mean + dispersion mean^2` ("NB2").

    With `n = 1 / dispersion` it is `log gamma(n) - log gamma(n + y_true) - n log(n / (n + mean)) -
    y_true log(mean / (n + mean))`. The smaller the dispersion, the closer it comes to `poisson_nll`; nothing cancels
    on the way there.

    Args:
      y_true: (...) counts, at least 0; they need not be whole.
      mean: (...) predicted means, at least 0, or their logarithms if `log_rate`.
      dispersion: (...) predicted dispersions, at least 0; one for all is `jnp.full_like(mean, dispersion)`.
      log_rate: whether `mean` holds logarithms.
      full: whether the constant `log(y_true!)` is added.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ. A negative count, mean or dispersion makes its element NaN.

    Example:
      >>> print(f"{negative_binomial_nll([1.0], [2.0], [0.5]):.5f}")  # n = 2: -log(2 (2 / 4)^2 (2 / 4))
      1.38629

    Source: Lawless 1987, doi 10.2307/3314912; Hilbe, Negative Binomial Regression (2011). If full it agrees with
    -scipy.stats.nbinom.logpmf(y_true, n, p), `n = 1 / dispersion`, `p = 1 / (1 + dispersion mean)`, and with
    torch.distributions.NegativeBinomial(n, probs=1 - p).
    """

    def element(y: Array, x: Array, a: Array) -> Array:
        return _negative_binomial(y, x, a, log_rate=log_rate, full=full)

    inputs = {
        "y_true": (y_true, AMOUNT),
        "mean": (mean, LOG_AMOUNT if log_rate else AMOUNT),
        "dispersion": (dispersion, AMOUNT),
    }
    return losses(element, inputs, long=True, elementwise=True, **units)


# Write a for the dispersion, n = 1 / a, and
#   p = log(1 + a m),    q = log(1 + a y),    f = log(m / (1 + a m)) = log m - p.
# As a goes to 0 the loss becomes m - y log m, but all terms of
#   loss = log gamma(n) - log gamma(n + y) + n p - y (f + log a)
# grow without bound. By Stirling's formula for both gammas, with s = stirling(1 / n) - stirling(1 / (n + y)),
#   log gamma(n) - log gamma(n + y) = y log a - ((n + y) q - y) + q / 2 + s,
# where (n + y) q - y = phi(n + y, n), with the phi of above. So log a cancels by algebra:
#   loss = n p - y f - phi(n + y, n) + q / 2 + s.                                                                  (1)
# If full, log(y!) = y log y - y + excess(y) is added. Let d = (y - m) / (1 + a m), what is left of the residual. If
# n + y is divided in the ratio of n to m, the parts are n + d and y - d, so that log(n + d) = log n + q - p and
# log(y - d) = f + q. Therefore
#   loss = phi(y, y - d) + phi(n, n + d) + excess(y) + q / 2 + s,                                                  (2)
# of which no term is negative. The derivatives of (1), where dn / da = -n^2 and r = 1 / (n + y), are
#   d loss / dlog m = -d,
#   d loss / dy = -f - q + r / 2 + r^2 stirling'(r),
#   d loss / da = n y r / 2 + stirling'(a) - (n r)^2 stirling'(r) - n phi(n, n + d).


def _dispersion(dispersion: Array) -> tuple[Array, Array]:
    """a and n. A smaller a makes no difference: its products with counts that float32 tells apart are below eps."""
    a = jnp.maximum(dispersion, float(jnp.finfo(dispersion.dtype).eps) ** 4)
    return a, 1 / a


def _log1p_product(a: Array, x: Array, log_x: Array) -> Array:
    """p for x = m, q for x = y: log(1 + a x), also where the product overflows."""
    huge = 2.0**80
    return log1p(jnp.minimum(a * x, huge)) + jnp.maximum(jnp.log(a) + log_x - math.log(huge), 0)


def _log_fitted(a: Array, m: Array, log_m: Array) -> Array:
    """f, as min(log m, -log a) - log(1 + min(a m, 1 / (a m)))."""
    return jnp.minimum(log_m, -jnp.log(a)) - log1p(jnp.minimum(a * m, 1 / (a * m)))


def _inverse_sum(y: Array, a: Array, n: Array) -> Array:
    """r, also where n vanishes."""
    return jnp.minimum(1 / (n + y), a)


def _remaining(y: Array, x: Array, a: Array, n: Array, log_rate: bool) -> Array:
    """d; for large m, where products overflow, as n (y - m) / (n + m), its parts perhaps divided by m."""
    if not log_rate:
        large = x > 1
        return jnp.where(large, n, 1) * divide(y - x, jnp.where(large, n + x, 1 + a * x))
    large = x > 20
    m = jnp.exp(jnp.where(large, -x, x))  # where large, 1 / m
    return jnp.where(large, n, 1) * divide(jnp.where(large, y * m - 1, y - m), 1 + jnp.where(large, n, a) * m)


def _negative_binomial_d_count(y: Array, x: Array, dispersion: Array, *, log_rate: bool, full: bool) -> Array:
    a, n = _dispersion(dispersion)
    m, log_m = _mean_and_log(x, log_rate)
    q, f, r = _log1p_product(a, y, _log(y)), _log_fitted(a, m, log_m), _inverse_sum(y, a, n)
    slope = -(f + q) + r / 2 + r * (r * stirling_slope(r))
    return slope + digamma(y + 1) if full else slope


def _negative_binomial_d_prediction(y: Array, x: Array, dispersion: Array, *, log_rate: bool, full: bool) -> Array:
    if log_rate:
        return -_remaining(y, x, *_dispersion(dispersion), log_rate)
    m = jnp.maximum(x, LEAST_MEAN)
    return divide(saturate(divide(m - y, m)), 1 + dispersion * m)


def _negative_binomial_d_dispersion(y: Array, x: Array, dispersion: Array, *, log_rate: bool, full: bool) -> Array:
    a, n = _dispersion(dispersion)
    m, log_m = _mean_and_log(x, log_rate)
    p, q = _log1p_product(a, m, log_m), _log1p_product(a, y, _log(y))
    r, d = _inverse_sum(y, a, n), _remaining(y, x, a, n, log_rate)
    total = at_least_tiny(n + y)
    gammas = stirling_slope(a) - divide(n, total) ** 2 * stirling_slope(r)
    return n * divide(y, total) / 2 + gammas + d * (n * _deviance_share(n, -d, p - q))


@partials(_negative_binomial_d_count, _negative_binomial_d_prediction, _negative_binomial_d_dispersion)
def _negative_binomial(y: Array, x: Array, dispersion: Array, *, log_rate: bool, full: bool) -> Array:
    a, n = _dispersion(dispersion)
    m, log_m = _mean_and_log(x, log_rate)
    p, q, f = _log1p_product(a, m, log_m), _log1p_product(a, y, _log(y)), _log_fitted(a, m, log_m)
    r = _inverse_sum(y, a, n)
    # Of equal numbers nothing is left, not even rounding: a compiler may round two calls of one function differently.
    rest = q / 2 + jnp.where(a > r, stirling(a) - stirling(r), 0)
    if full:
        d = _remaining(y, x, a, n, log_rate)
        return d * (_deviance_share(y, d, _log(y) - f - q) - _deviance_share(n, -d, p - q)) + _excess(y) + rest
    # n p is at least m - a m^2 / 2, also where a m underflows. And phi(n + y, n) is n q + y (q - 1) where n and y are
    # not close: with f, so that the logarithms come before the product with y, which may overflow.
    v = _half_spread(n + y, y)
    close = v <= CLOSE
    by_mean = jnp.maximum(n * p, m * (1 - a * m / 2)) - jnp.where(close, 0, n * q)
    return by_mean - y * (f + jnp.where(close, _close_share(v), q - 1)) + rest


# ---------------------------------------------------------------------------------------------------------------------
# Tweedie


@loss
def tweedie(
    y_true: ArrayLike,
    mean: ArrayLike,
    *,
    power: float | ArrayLike = 1.5,
    log_rate: bool = False,
    full: bool = False,
    **units: Unpack[Units],
) -> Array:
    """Tweedie loss, for a variance in proportion to `mean^p`: `mean^(2 - p) / (2 - p) - y_true mean^(1 - p) / (1 - p)`.

    With p = 1 it is `poisson_nll`, with p = 2 that of the gamma distribution, `log(mean) + y_true / mean`; between
    them lie amounts that are often exactly 0 (claims, rain). The likelihood has no closed form; this quasi-likelihood
    has the same derivative with respect to the mean.

    Args:
      y_true: (...) amounts, at least 0.
      mean: (...) predicted means, at least 0, or their logarithms if `log_rate`.
      power: p, between 1 and 2.
      log_rate: whether `mean` holds logarithms.
      full: whether `y_true^(2 - p) / ((1 - p) (2 - p))` is added, which makes the loss half the unit deviance: 0 where
        mean = y_true, and without cancellation near there. For p = 2 the targets must be above 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a power outside [1, 2]. A negative amount or mean makes its element NaN.

    Example:
      >>> print(tweedie([1.0], [4.0]))  # 4^0.5 / 0.5 + 4^-0.5 / 0.5
      5.0

    Source: Jorgensen 1987, doi 10.1111/j.2517-6161.1987.tb01685.x. Agrees with the Tweedie objectives of LightGBM,
    XGBoost and scikit-learn (log_rate=True); if full it is half of sklearn.metrics.mean_tweedie_deviance.
    """

    def element(y: Array, x: Array, power: float | Array) -> Array:
        # The differences from a constant are taken before they are rounded.
        u, w = 2 - power, 1 - power
        return _tweedie_full(y, x, u, w, log_rate=log_rate) if full else _tweedie(y, x, u, w, log_rate=log_rate)

    inputs = {"y_true": (y_true, AMOUNT), "mean": (mean, LOG_AMOUNT if log_rate else AMOUNT)}
    return losses(element, inputs, options={"power": (power, between(1, 2))}, long=full, elementwise=True, **units)


def _power(x: Array, k: Array, log_rate: bool) -> Array:
    """m^k, which is finite where k is negative: 0 times it is 0."""
    if not log_rate:
        return jnp.maximum(x, 0) ** k  # the square root, where k is a constant 1/2, of a number that can have one
    power = jnp.exp(k * x)
    return jnp.where(k < 0, jnp.minimum(power, jnp.finfo(x.dtype).max), power)


def _floored(x: Array, log_rate: bool, least: float = LEAST_MEAN) -> Array:
    return x if log_rate else jnp.maximum(x, least)


def _tweedie_d_prediction(y: Array, x: Array, u: Array, w: Array, *, log_rate: bool) -> Array:
    if log_rate:
        return _power(x, u, log_rate) - y * _power(x, w, log_rate)
    m = _floored(x, log_rate)
    return saturate(divide(m - y, m)) * m**w


# The loss is R(m, u) - y R(m, w), where u = 2 - p, w = 1 - p, and R(m, k) = m^k / k. Where an exponent is 0, R(m, 0) is
# log m: R differs from its limit by the constant 1 / k, so that the derivative m^(k - 1) is the same for all k.


def _power_over_exponent(x: Array, k: Array, log_rate: bool) -> Array:
    _, log_m = _mean_and_log(x, log_rate)
    return jnp.where(k == 0, log_m, _power(_floored(x, log_rate), k, log_rate) / jnp.where(k == 0, 1, k))


def _power_over_exponent_d_exponent(x: Array, k: Array, log_rate: bool) -> Array:
    _, log_m = _mean_and_log(x, log_rate)
    some = jnp.where(k == 0, 1, k)
    far = _power(_floored(x, log_rate), k, log_rate) * (log_m - 1 / some) / some
    return jnp.where(k == 0, log_m**2 / 2, far)


@partials(
    lambda y, x, u, w, *, log_rate: -_power_over_exponent(x, w, log_rate),
    _tweedie_d_prediction,
    lambda y, x, u, w, *, log_rate: _power_over_exponent_d_exponent(x, u, log_rate),
    lambda y, x, u, w, *, log_rate: -y * _power_over_exponent_d_exponent(x, w, log_rate),
)
def _tweedie(y: Array, x: Array, u: Array, w: Array, *, log_rate: bool) -> Array:
    _, log_m = _mean_and_log(x, log_rate)
    # 0^u is 0, while a small power of the smallest number is not small.
    first = _power(x, u, log_rate) / jnp.where(u == 0, 1, u)
    tiny = float(jnp.finfo(x.dtype).tiny)
    second = y * _power(_floored(x, log_rate, tiny), w, log_rate) / jnp.where(w == 0, 1, w)
    return jnp.where(u == 0, log_m, first) - jnp.where(w == 0, y * log_m, second)


# Half the unit deviance is the integral of (t - y) / t^p from y to m. With t = y exp(r), s = log(m / y) and
# I(s, k) = integral of exp(k r) from 0 to s = s E(k s), E(x) = (exp(x) - 1) / x, it becomes
#   y^u (I(s, u) - I(s, w)),    of derivative -y^w I(s, w) with respect to y.
# Near s = 0 the difference cancels. Since u - w = 1, it is s^2 times the divided difference of E between u s and w s.


def _integral(s: Array, k: Array) -> Array:
    return s * expm1_ratio(k * s)


def _divided_difference(a: Array, b: Array) -> Array:
    """(E(a) - E(b)) / (a - b) for numbers in [-1, 1]: sum_k sum_i a^i b^(k - i) / (k + 2)!."""
    total, term, power = jnp.full_like(a, 0.5), jnp.ones_like(a), jnp.ones_like(a)
    for k in range(1, 11 if a.dtype == jnp.float32 else 19):
        power = power * b
        term = a * term + power
        total = total + term / math.factorial(k + 2)
    return total


def _log_mean_over(y: Array, x: Array, log_rate: bool) -> Array:
    """s = log(m / y) for y > 0, by the difference of the two where that is exact."""
    _, log_m = _mean_and_log(x, log_rate)
    s = log_m - jnp.log(y)
    if log_rate:
        return s
    excess = jnp.abs(x - y) / at_least_tiny(jnp.minimum(x, y))
    return jnp.where(excess < 1e30, jnp.sign(x - y) * log1p(excess), s)


def _power_integral_d_exponent(y: Array, x: Array, w: Array, *, log_rate: bool) -> Array:
    y = jnp.maximum(y, LEAST_MEAN)
    s = _log_mean_over(y, x, log_rate)
    return y**w * (jnp.log(y) * _integral(s, w) + s**2 * d_expm1_ratio(w * s))


# Its automatic derivative would be a difference of two numbers that overflow.
@partials(
    lambda y, x, w, *, log_rate: jnp.where(y > LEAST_MEAN, -(jnp.maximum(y, LEAST_MEAN) ** (w - 1)), 0),
    lambda y, x, w, *, log_rate: _power(_floored(x, log_rate), w if log_rate else w - 1, log_rate),
    _power_integral_d_exponent,
)
def _power_integral(y: Array, x: Array, w: Array, *, log_rate: bool) -> Array:
    """The integral of t^(w - 1) from y to m: y^w I(s, w)."""
    y = jnp.maximum(y, LEAST_MEAN)
    return y**w * _integral(_log_mean_over(y, x, log_rate), w)


def _tweedie_full_d_u(y: Array, x: Array, u: Array, w: Array, *, log_rate: bool) -> Array:
    some = jnp.maximum(y, LEAST_MEAN)
    s = _log_mean_over(some, x, log_rate)
    near = some**u * (jnp.log(some) * (_integral(s, u) - _integral(s, w)) + s**2 * d_expm1_ratio(u * s))
    return jnp.where(y == 0, _power_over_exponent_d_exponent(x, u, log_rate), near)


def _tweedie_full_d_w(y: Array, x: Array, u: Array, w: Array, *, log_rate: bool) -> Array:
    some = jnp.maximum(y, LEAST_MEAN)
    s = _log_mean_over(some, x, log_rate)
    return jnp.where(y == 0, 0, -(some**u) * s**2 * d_expm1_ratio(w * s))


@partials(
    lambda y, x, u, w, *, log_rate: -_power_integral(y, x, w, log_rate=log_rate),
    _tweedie_d_prediction,
    _tweedie_full_d_u,
    _tweedie_full_d_w,
)
def _tweedie_full(y: Array, x: Array, u: Array, w: Array, *, log_rate: bool) -> Array:
    some = jnp.where(y == 0, 1, y)
    s = _log_mean_over(some, x, log_rate)
    near = jnp.maximum(jnp.abs(u * s), jnp.abs(w * s)) < 1
    series = s**2 * _divided_difference(u * s, w * s)
    deviance = some**u * jnp.where(near, series, _integral(s, u) - _integral(s, w))
    return jnp.where(y == 0, _power(x, u, log_rate) / u, deviance)
