"""Negative log-likelihoods of distributions whose parameters are predicted. The unit is an element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._legacy import ArrayLike, Reduction, batched, check_option, check_positive, compiled
from jaxloss._math import STEEPEST, absolute, bounded, constants, frozen, quotient, rigid, slopes
from jaxloss._special import (
    HALF_LOG_TWO_PI,
    above,
    above_zero,
    atanh_rest,
    blend,
    digamma,
    expm1_ratio,
    log1p_square,
    separate,
    stirling,
    stirling_slope,
)

__all__ = ["gaussian_nll", "laplace_nll", "negative_binomial_nll", "poisson_nll", "student_t_nll", "tweedie"]


@compiled
def gaussian_nll(
    y_true: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    *,
    full: bool = False,
    eps: float | Array = 1e-6,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Gaussian negative log-likelihood: `(log v + e^2 / v) / 2` with `v = max(variance, eps)`, `e = mean - y_true`.

    Args:
      y_true: (...) observations.
      mean: (...) predicted means.
      variance: (...) predicted variances (not standard deviations), at least 0.
      full: whether the constant `log(2 pi) / 2` is added.
      eps: smaller variances count as this one, at least 0; the derivative by them is that at eps, so that they grow.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a negative eps. A negative variance makes its element NaN.

    Example:
      >>> print(f"{gaussian_nll([1.0], [3.0], [4.0]):.5f}")  # (log(4) + 4 / 4) / 2
      1.19315

    Source: Nix and Weigend 1994, doi 10.1109/ICNN.1994.374138. Agrees with torch.nn.functional.gaussian_nll_loss, and
    if full with -scipy.stats.norm.logpdf.
    """
    check_option("gaussian_nll", "eps", eps, low=0)

    def example(y: Array, mean: Array, variance: Array) -> Array:
        loss = _gaussian(mean - y, variance, jnp.asarray(eps, y.dtype))
        return loss + HALF_LOG_TWO_PI if full else loss

    return batched(
        example,
        (y_true, mean, variance),
        core_ndims=(0, 0, 0),
        kinds=("number", "number", "number"),
        domains=("number", "number", "at least 0"),
        names=("y_true", "mean", "variance"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


@slopes(lambda x, eps: jnp.ones_like(x), lambda x, eps: jnp.zeros_like(x))
def _raised(x: Array, eps: Array) -> Array:
    """max(x, eps); the derivative is 1 everywhere, so that what was raised is not stuck."""
    return jnp.maximum(x, above_zero(eps))


def _over_variance(e: Array, v: Array) -> Array:
    ratio = quotient(e, v)
    # Infinite times a tangent of 0 would be NaN.
    return jnp.where(jnp.isinf(ratio), jnp.sign(e) * jnp.finfo(e.dtype).max, ratio)


def _far_by_variance(e: Array, v: Array) -> Array:
    square = _over_variance(e, v) ** 2
    return jnp.where(jnp.isinf(square), 0, -square)  # see `rigid`


@slopes(lambda e, v: bounded(2 * _over_variance(e, v)), _far_by_variance)
def _far(e: Array, v: Array) -> Array:
    """e^2 / v, where it may overflow."""
    return e * _over_variance(e, v)


def _gaussian_by_residual(e: Array, variance: Array, eps: Array) -> Array:
    e, variance, eps = separate(e, variance, eps)
    return _over_variance(e, _raised(variance, eps))


def _gaussian_by_variance(e: Array, variance: Array, eps: Array) -> Array:
    e, variance, eps = separate(e, variance, eps)
    one, half = constants(1, 0.5, like=e)
    v = _raised(variance, eps)
    # v - e^2 is exact where the two are almost equal, but e^2 may overflow.
    moderate = absolute(e) < 2.0**60
    m = jnp.where(moderate, e, 0)
    return half * quotient(jnp.where(moderate, quotient(v - m * m, v), one - _far(e, v)), v)


@slopes(_gaussian_by_residual, _gaussian_by_variance, lambda e, variance, eps: jnp.zeros_like(e))
def _gaussian(e: Array, variance: Array, eps: Array) -> Array:
    v = _raised(variance, eps)
    return (jnp.log(v) + e * (e / v)) / 2 + _poison(variance)


@compiled
def laplace_nll(
    y_true: ArrayLike,
    location: ArrayLike,
    scale: ArrayLike,
    *,
    full: bool = False,
    eps: float | Array = 1e-6,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Laplace negative log-likelihood: `log b + abs(e) / b` with `b = max(scale, eps)`, `e = location - y_true`.

    Args:
      y_true: (...) observations.
      location: (...) predicted medians.
      scale: (...) predicted mean absolute deviations, at least 0.
      full: whether the constant `log 2` is added.
      eps: smaller scales count as this one, at least 0; the derivative by them is that at eps, so that they grow.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...). The derivative by the
      location at e = 0 is 0.

    Raises:
      ValueError: shapes that differ, a negative eps. A negative scale makes its element NaN.

    Example:
      >>> print(f"{laplace_nll([1.0], [5.0], [2.0]):.5f}")  # log(2) + 4 / 2
      2.69315

    Source: Laplace 1774. If full it agrees with -scipy.stats.laplace.logpdf and torch.distributions.Laplace.
    """
    check_option("laplace_nll", "eps", eps, low=0)

    def example(y: Array, location: Array, scale: Array) -> Array:
        loss = _laplace(location - y, scale, jnp.asarray(eps, y.dtype))
        return loss + math.log(2) if full else loss

    return batched(
        example,
        (y_true, location, scale),
        core_ndims=(0, 0, 0),
        kinds=("number", "number", "number"),
        domains=("number", "number", "at least 0"),
        names=("y_true", "location", "scale"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _laplace_by_residual(e: Array, scale: Array, eps: Array) -> Array:
    e, scale, eps = separate(e, scale, eps)
    return quotient(jnp.sign(e), _raised(scale, eps))


def _laplace_by_scale(e: Array, scale: Array, eps: Array) -> Array:
    e, scale, eps = separate(e, scale, eps)
    (one,) = constants(1, like=e)
    b = _raised(scale, eps)
    return quotient(one - quotient(absolute(e), b), b)


@slopes(_laplace_by_residual, _laplace_by_scale, lambda e, scale, eps: jnp.zeros_like(e))
def _laplace(e: Array, scale: Array, eps: Array) -> Array:
    b = _raised(scale, eps)
    return jnp.log(b) + jnp.abs(e) / b + _poison(scale)


@compiled
def student_t_nll(
    y_true: ArrayLike,
    location: ArrayLike,
    scale: ArrayLike,
    *,
    df: float | Array = 4.0,
    full: bool = False,
    eps: float | Array = 1e-6,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Student's t negative log-likelihood: `log s + (df + 1) / 2 log(1 + (e / s)^2 / df)`.

    Here `s = max(scale, eps)` and `e = location - y_true`.

    Args:
      y_true: (...) observations.
      location: (...) predicted centres.
      scale: (...) predicted scales, at least 0; the variance is `s^2 df / (df - 2)` where df > 2.
      df: degrees of freedom, above 0; the smaller, the less outliers count.
      full: whether the terms are added that depend on df alone: `log gamma(df / 2) - log gamma((df + 1) / 2) +
        log(pi df) / 2`. Whoever learns df needs them.
      eps: smaller scales count as this one, at least 0; the derivative by them is that at eps, so that they grow.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a df not above 0, a negative eps. A negative scale makes its element NaN.

    Example:
      >>> print(f"{student_t_nll([0.0], [2.0], [1.0]):.5f}")  # 5 / 2 log(1 + 4 / 4)
      1.73287

    Source: Lange, Little and Taylor 1989, doi 10.1080/01621459.1989.10478852, who recommend df = 4. If full it agrees
    with -scipy.stats.t.logpdf and torch.distributions.StudentT.
    """
    check_positive("student_t_nll", "df", df)
    check_option("student_t_nll", "eps", eps, low=0)

    def example(y: Array, location: Array, scale: Array) -> Array:
        n = jnp.asarray(df, y.dtype)
        loss = _student_t(bounded(location - y), scale, n, jnp.asarray(eps, y.dtype))
        return loss + _student_t_constant(n) if full else loss

    return batched(
        example,
        (y_true, location, scale),
        core_ndims=(0, 0, 0),
        kinds=("number", "number", "number"),
        domains=("number", "number", "at least 0"),
        names=("y_true", "location", "scale"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _student_t_parts(e: Array, scale: Array, n: Array, eps: Array) -> tuple[Array, Array, Array, Array]:
    """s, the larger of abs(e) and the width sqrt(n) s, the ratio of the two, and e^2 / (e^2 + width^2)."""
    s = _raised(scale, eps)
    width = jnp.sqrt(n) * s
    larger = jnp.maximum(absolute(e), width)
    ratio = quotient(jnp.minimum(absolute(e), width), larger)
    return s, larger, ratio, quotient(e, larger) ** 2 / (1 + ratio**2)


def _student_t_by_residual(e: Array, scale: Array, n: Array, eps: Array) -> Array:
    e, scale, n, eps = separate(e, scale, n, eps)
    _, larger, ratio, _ = _student_t_parts(e, scale, n, eps)
    # Divided once: the compiler turns two divisions into one by the square, which overflows.
    return quotient((n + 1) * quotient(e, larger) / (1 + ratio**2), larger)


def _student_t_by_scale(e: Array, scale: Array, n: Array, eps: Array) -> Array:
    e, scale, n, eps = separate(e, scale, n, eps)
    s, _, _, share = _student_t_parts(e, scale, n, eps)
    return quotient(1 - (n + 1) * share, s)


def _student_t_by_df(e: Array, scale: Array, n: Array, eps: Array) -> Array:
    s, _, _, share = _student_t_parts(e, scale, n, eps)
    return (log1p_square(e, jnp.sqrt(n) * s) - (n + 1) / n * share) / 2


@slopes(_student_t_by_residual, _student_t_by_scale, _student_t_by_df, lambda e, scale, n, eps: jnp.zeros_like(e))
def _student_t(e: Array, scale: Array, n: Array, eps: Array) -> Array:
    s = _raised(scale, eps)
    return jnp.log(s) + (n + 1) / 2 * log1p_square(e, jnp.sqrt(n) * s) + _poison(scale)


def _student_t_constant(df: Array) -> Array:
    # The logarithms of gamma, which for many degrees of freedom would cancel, by the formula of Stirling.
    half = df / 2
    return HALF_LOG_TWO_PI + 0.5 - half * jnp.log1p(1 / df) + (stirling(half) - stirling(half + 0.5))


# ---------------------------------------------------------------------------------------------------------------------
# Counts


@compiled
def poisson_nll(
    y_true: ArrayLike,
    rate: ArrayLike,
    *,
    log_rate: bool = False,
    full: bool = False,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Poisson negative log-likelihood: `rate - y_true log(rate)`.

    There is no epsilon: 0 log 0 is 0, and a rate of 0 where something was counted has the logarithm of the smallest
    normal number, so a finite loss. The derivative by the rate is exact down to 1e-12 and bounded there.

    Args:
      y_true: (...) counts, at least 0; they need not be whole.
      rate: (...) predicted means, at least 0, or their logarithms if `log_rate`.
      log_rate: whether `rate` holds logarithms; no rate can then be negative.
      full: whether the constant `log(y_true!)` is added.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

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

    def example(y: Array, rate: Array) -> Array:
        return _poisson(log_rate, full)(y, rate)

    return batched(
        example,
        (y_true, rate),
        names=("y_true", "rate"),
        domains=("at least 0", "logits" if log_rate else "at least 0"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


@slopes(lambda x: 1 / jnp.maximum(x, STEEPEST))
def _log(x: Array) -> Array:
    """log(x) for x >= 0; at 0 that of the smallest normal number, with a derivative whose square is still finite."""
    return jnp.log(above_zero(x))


def _rate_and_log(x: Array, given_log: bool) -> tuple[Array, Array]:
    if given_log:
        largest = jnp.finfo(x.dtype).max
        # Where exp overflows, the loss is infinite without the other term; and 0 times a logarithm shall be 0.
        # Not a clip, which would keep XLA from fusing the loss with its sum.
        return jnp.exp(x), jnp.maximum(x - jnp.maximum(x - math.log(largest), 0), -largest)
    return x, _log(x)


def _poison(*numbers: Array) -> Array:
    """NaN if one is negative, else 0; a select would keep XLA from fusing the loss with its sum."""
    return 0 * jnp.sqrt(functools.reduce(jnp.minimum, numbers))


def _whole(loss: Array, least: Array) -> Array:
    """NaN where a number is negative; the select keeps XLA from fusing a part of a long formula with the sum."""
    return jnp.where(least < 0, jnp.nan, loss)


def _poisson(given_log: bool, full: bool) -> Callable[[Array, Array], Array]:
    def by_count(y: Array, x: Array) -> Array:
        return (digamma(y + 1) if full else 0) - (x if given_log else _log(x))

    def by_rate(y: Array, x: Array) -> Array:
        if given_log:
            return jnp.exp(x) - y
        least = constants(STEEPEST, like=x)[0]
        rate = jnp.maximum(x, least)
        return quotient(rate - y, rate)

    @slopes(by_count, by_rate)
    def loss(y: Array, x: Array) -> Array:
        rate, log = _rate_and_log(x, given_log)
        if full:
            return _whole(_with_factorial(y, rate, log), y if given_log else jnp.minimum(x, y))
        return rate - y * log + (_poison(y) if given_log else _poison(y, x))

    return loss


def _with_factorial(y: Array, rate: Array, log: Array) -> Array:
    """rate - y log(rate) + log(y!), by the formula of Stirling where its terms are large and cancel (Loader 2000)."""
    near = (y >= 1) & (3 * jnp.abs(y - rate) - y < rate)
    some = jnp.where(near, y, 1)
    close = _gap(some, jnp.where(near, y - rate, 0), jnp.where(near, rate, 1))
    log_factorial, excess = _factorial(y)
    # The logarithms first: for a huge y both terms would be infinite.
    many = rate + jnp.maximum(y * (jnp.log(above_zero(y)) - 1 - log), -jnp.finfo(y.dtype).max) + excess
    return jnp.where(near, close + excess, jnp.where(y < 1, rate - y * log + log_factorial, many))


def _gap(y: Array, difference: Array, other: Array) -> Array:
    """y log(y / other) - difference, difference = y - other, for numbers up to a factor 2 apart: nothing cancels."""
    (half,) = constants(0.5, like=y)  # a plain one XLA takes out of the sum, which could overflow then
    v = quotient(half * difference, above_zero(half * y + half * other))
    return difference * v + y * v * (2 * v**2 * atanh_rest(v**2))


def _factorial(y: Array) -> tuple[Array, Array]:
    """log(y!), and log(y!) - y log y + y."""
    below = y < 1
    rest = stirling(jnp.where(below, y + 1, y))
    y_log_y = y * jnp.log(above_zero(y))
    excess = rest + jnp.log(jnp.maximum(y, 1)) / 2 + HALF_LOG_TWO_PI
    small = jnp.minimum(y, 1)  # where log(y!) is almost 0, and exactly for y = 0
    log_small = (small + 0.5) * jnp.log1p(small) - small + jnp.sign(small) * (rest - (1 - HALF_LOG_TWO_PI))
    return jnp.where(below, log_small, excess + y_log_y - y), jnp.where(below, log_small - y_log_y + y, excess)


@compiled
def negative_binomial_nll(
    y_true: ArrayLike,
    mean: ArrayLike,
    dispersion: ArrayLike,
    *,
    log_rate: bool = False,
    full: bool = False,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
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
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ. A negative count, mean or dispersion makes its element NaN.

    Example:
      >>> print(f"{negative_binomial_nll([1.0], [2.0], [0.5]):.5f}")  # n = 2: -log(2 (2 / 4)^2 (2 / 4))
      1.38629

    Source: Lawless 1987, doi 10.2307/3314912; Hilbe, Negative Binomial Regression (2011). If full it agrees with
    -scipy.stats.nbinom.logpmf(y_true, n, p), `n = 1 / dispersion`, `p = 1 / (1 + dispersion mean)`, and with
    torch.distributions.NegativeBinomial(n, probs=1 - p).
    """

    def example(y: Array, mean: Array, dispersion: Array) -> Array:
        return _negative_binomial(log_rate, full)(y, mean, dispersion)

    return batched(
        example,
        (y_true, mean, dispersion),
        core_ndims=(0, 0, 0),
        kinds=("number", "number", "number"),
        domains=("at least 0", "logits" if log_rate else "at least 0", "at least 0"),
        names=("y_true", "mean", "dispersion"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


class _Counts:
    """What value and derivatives have in common; m is the mean, a the dispersion."""

    def __init__(self, y: Array, x: Array, dispersion: Array, given_log: bool) -> None:
        eps, tiny = float(jnp.finfo(y.dtype).eps), float(jnp.finfo(y.dtype).tiny)
        self.y, self.a = y, jnp.maximum(dispersion, eps**2)  # with less, the loss is that of Poisson
        self.n = jnp.maximum(1 / self.a, tiny)
        # The mean may overflow where the loss does not.
        self.m = _finite_exp(x) if given_log else x
        self.log_a, self.log_m = _log(self.a), x if given_log else _log(x)
        # Half the logarithm of what n is raised by
        self.raised = jnp.sign(y) * jnp.maximum(self.log_a + math.log(tiny), 0) / 2
        # Where a y or a m might overflow, its logarithm is the sum of two.
        limit = jax.lax.stop_gradient(1e30 * self.n)
        self.amount = self.a * jnp.minimum(y, limit)
        self.spread = 1 + self.amount
        self.log_spread = blend(above(y, limit), self.log_a + _log(y), jnp.log1p(self.amount))
        product = self.a * jnp.minimum(self.m, limit)
        self.log_widened = blend(above(self.m, limit), self.log_a + self.log_m, jnp.log1p(product))
        # (y - m) / (1 + a m) = (y - m) n / (n + m), divided first where m is large
        beyond = self.m > 1  # selects, since at 1 a maximum would have half a derivative
        large, small = self.n + jnp.where(beyond, self.m, 1), self.n + jnp.where(beyond, 1, self.m)
        far, near = self.n * quotient(y - self.m, large), (y - self.m) * quotient(self.n, small)
        self.off = jnp.where(beyond, far, near)
        self.difference = quotient(y - self.m, self.n + self.m)

    def dispersed(self) -> Array:
        """(d - log(1 + d)) / a^2 for `d = a off`, where `1 + d = spread / widened`."""

        def close(off: Array, d: Array) -> Array:
            v = d / (2 + d)
            return off**2 * (1 - 2 * v / (2 + d) * atanh_rest(v**2)) / (2 + d)

        def distant(n: Array, off: Array, log_ratio: Array) -> Array:
            return n * (off - n * log_ratio)  # n d is off, and does not overflow as d might

        d = self.difference
        near = 3 * jnp.abs(d) < jnp.abs(2 + d)
        small = jnp.where(near, self.off, 0)
        # What the derivative overflows with.
        return jnp.where(
            near,
            frozen(jnp.isinf(small**3), close, small, jnp.where(near, d, 0)),
            frozen(jnp.isinf(self.n**2 * self.off), distant, self.n, self.off, self.log_spread - self.log_widened),
        )


def _negative_binomial(given_log: bool, full: bool) -> Callable[[Array, Array, Array], Array]:
    def square_overflows(y: Array) -> Array:
        return y > float(jnp.finfo(y.dtype).max) ** 0.5

    def by_count(y: Array, x: Array, dispersion: Array) -> Array:
        c = _Counts(y, x, dispersion, given_log)
        share = quotient(jnp.ones_like(y), c.n + y)
        rest = share / 2 - stirling_slope(c.n + y) * share * share
        return (digamma(y + 1) if full else 0) - c.log_m + (c.log_widened - c.log_spread) + rest

    def by_mean(y: Array, x: Array, dispersion: Array) -> Array:
        def slope(y: Array, x: Array, dispersion: Array) -> Array:
            return -_Counts(y, x, dispersion, given_log).off

        if given_log:
            return frozen(square_overflows(y), slope, y, x, dispersion)
        mean = jnp.maximum(x, STEEPEST)
        widened = 1 + dispersion * mean
        (widened,) = rigid(jnp.isinf(widened), widened)
        return quotient(bounded(quotient(mean - y, mean)), widened)

    def by_dispersion(y: Array, x: Array, dispersion: Array) -> Array:
        def slope(y: Array, x: Array, dispersion: Array) -> Array:
            c = _Counts(y, x, dispersion, given_log)
            gammas = stirling_slope(c.n) - stirling_slope(c.n + y) * quotient(c.n, c.n + y) ** 2
            return quotient(y, c.n + y) * c.n / 2 - gammas - c.dispersed()

        return frozen(square_overflows(y), slope, y, x, dispersion)

    @slopes(by_count, by_mean, by_dispersion)
    def loss(y: Array, x: Array, dispersion: Array) -> Array:
        c = _Counts(y, x, dispersion, given_log)
        gammas = stirling(c.n) - stirling(c.n + y) + c.raised
        value = (_saddle_point if full else _direct)(c) + c.log_spread / 2 + gammas
        least = jnp.minimum(y, dispersion)
        return _whole(value, least if given_log else jnp.minimum(x, least))

    return loss


def _direct(c: _Counts) -> Array:
    """(n + y) log(1 + a m) - y log m less the integral of log(1 + a t) over t from 0 to y: small terms for any a."""
    eps = jnp.finfo(c.y.dtype).eps
    product = c.a * jnp.minimum(c.m, c.n)
    by_mean = blend(above(float(eps), product), jnp.minimum(c.m, c.n), c.n * c.log_widened)
    of_many = jnp.log(above_zero(quotient(c.m, c.n + c.m))) - c.log_a
    log_fitted = blend(above(1, product), c.log_m - c.log_widened, of_many)
    v = c.amount / (1 + c.spread)
    near = v + 2 * (c.spread / (1 + c.spread)) * v**2 * atanh_rest(v**2)
    few = above(1, c.amount)
    by_count = blend(few, near, c.log_spread - 1)
    return (by_mean - blend(few, 0, c.n * c.log_spread)) - c.y * (log_fitted + by_count)


def _saddle_point(c: _Counts) -> Array:
    """The same and log(y!), without cancellation where the mean is almost y (Loader 2000)."""
    fitted = (c.n + c.y) * quotient(c.m, c.n + c.m)
    near = 3 * jnp.abs(c.off) - c.y < fitted
    log_ratio = jnp.log(above_zero(c.y)) - c.log_spread - c.log_m + c.log_widened
    far = fitted - c.y + jnp.where(c.y == 0, 0, c.y * log_ratio)
    gap = jnp.where(near, _gap(c.y, c.off, fitted), far)
    return c.a * c.dispersed() + gap + _factorial(c.y)[1]


@compiled
def tweedie(
    y_true: ArrayLike,
    mean: ArrayLike,
    *,
    power: float | Array = 1.5,
    log_rate: bool = False,
    full: bool = False,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Tweedie loss, for a variance in proportion to `mean^p`: `mean^(2 - p) / (2 - p) - y_true mean^(1 - p) / (1 - p)`.

    With p = 1 it is `poisson_nll`, with p = 2 that of the gamma distribution, `log(mean) + y_true / mean`; between
    them lie amounts that are often exactly 0 (claims, rain). The likelihood has no closed form; this quasi-likelihood
    has the same derivative by the mean.

    Args:
      y_true: (...) amounts, at least 0.
      mean: (...) predicted means, at least 0, or their logarithms if `log_rate`.
      power: p, between 1 and 2. A traced one must lie between them, unless full.
      log_rate: whether `mean` holds logarithms.
      full: whether `y_true^(2 - p) / ((1 - p) (2 - p))` is added, which makes the loss half the unit deviance: 0 where
        mean = y_true, and without cancellation near there. For p = 2 the targets must be above 0.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a power outside [1, 2]. A negative amount or mean makes its element NaN.

    Example:
      >>> print(tweedie([1.0], [4.0]))  # 4^0.5 / 0.5 + 4^-0.5 / 0.5
      5.0

    Source: Jorgensen 1987, doi 10.1111/j.2517-6161.1987.tb01685.x. Agrees with the Tweedie objectives of LightGBM,
    XGBoost and scikit-learn (log_rate=True); if full it is half of sklearn.metrics.mean_tweedie_deviance.
    """
    check_option("tweedie", "power", power, 1, 2)

    def example(y: Array, mean: Array) -> Array:
        if not full and isinstance(power, (int, float)) and power in (1, 2):
            return (_poisson if power == 1 else _gamma)(log_rate, False)(y, mean)
        p = jnp.asarray(power, y.dtype) if isinstance(power, Array) else power
        # The differences from a constant are taken before they are rounded.
        u, w = (jnp.asarray(n - p, y.dtype) for n in (2, 1))
        return _tweedie(log_rate, full)(y, mean, u, w)

    return batched(
        example,
        (y_true, mean),
        names=("y_true", "mean"),
        domains=("at least 0", "logits" if log_rate else "at least 0"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _gamma(given_log: bool, full: bool) -> Callable[[Array, Array], Array]:
    del full

    def by_amount(y: Array, x: Array) -> Array:
        return jnp.exp(-x) if given_log else 1 / jnp.maximum(x, STEEPEST)

    def by_mean(y: Array, x: Array) -> Array:
        if given_log:
            return 1 - _times_exp(y, -x)
        mean = jnp.maximum(x, STEEPEST)
        return quotient(quotient(mean - y, mean), mean)

    @slopes(by_amount, by_mean)
    def loss(y: Array, x: Array) -> Array:
        if given_log:
            return x + _times_exp(y, -x) + _poison(y)
        return _log(x) + y / above_zero(x) + _poison(y, x)

    return loss


def _times_exp(y: Array, x: Array) -> Array:
    """y exp(x), and 0 for y = 0 even where exp overflows."""
    return y * _finite_exp(x)


def _finite_exp(x: Array) -> Array:
    return jnp.exp(jnp.minimum(x, math.log(jnp.finfo(x.dtype).max) - 1))


def _tweedie(given_log: bool, full: bool) -> Callable[[Array, Array, Array, Array], Array]:
    """The loss as a function of y, the mean or its logarithm, `u = 2 - p` and `w = 1 - p`."""

    def to_power(x: Array, exponent: Array, least: float = STEEPEST) -> Array:
        return jnp.exp(exponent * x) if given_log else jnp.maximum(x, least) ** exponent

    def log_mean(x: Array) -> Array:
        return x if given_log else _log(x)

    def amount_and_shift(y: Array, x: Array) -> tuple[Array, Array]:
        amount = jnp.maximum(y, STEEPEST)
        return amount, log_mean(x) - jnp.log(amount)

    def full_by_amount_and_w(y: Array, x: Array, w: Array) -> Array:
        amount, shift = amount_and_shift(y, x)
        return -(amount**w) * (jnp.log(amount) * _integral(shift, w) + shift**2 * _expm1_ratio_by(w * shift))

    # (amount^w - mean^w) / w: a product, of which the automatic derivative would be a difference of two that overflow.
    @slopes(
        lambda y, x, w: jnp.where(y > STEEPEST, jnp.maximum(y, STEEPEST) ** (w - 1), 0),
        lambda y, x, w: -to_power(x, w if given_log else w - 1),
        full_by_amount_and_w,
    )
    def full_by_amount(y: Array, x: Array, w: Array) -> Array:
        amount, shift = amount_and_shift(y, x)
        return -(amount**w) * _integral(shift, w)

    def by_amount(y: Array, x: Array, u: Array, w: Array) -> Array:
        return full_by_amount(y, x, w) if full else -to_power(x, w) / w

    def by_mean(y: Array, x: Array, u: Array, w: Array) -> Array:
        if given_log:
            y, x, u, w = separate(y, x, u, w)
            return jnp.exp(u * x) - _times_exp(y, w * x)
        y, x, w = separate(y, x, w)
        mean = jnp.maximum(x, constants(STEEPEST, like=x)[0])
        return bounded(quotient(mean - y, mean)) * mean**w

    def by_u(y: Array, x: Array, u: Array, w: Array) -> Array:
        if not full:
            return to_power(x, u) * (log_mean(x) - 1 / u) / u
        amount, shift = amount_and_shift(y, x)
        difference = _integral(shift, u) - _integral(shift, w)
        return amount**u * (jnp.log(amount) * difference + shift**2 * _expm1_ratio_by(u * shift))

    def by_w(y: Array, x: Array, u: Array, w: Array) -> Array:
        if not full:
            return -y * to_power(x, w) * (log_mean(x) - 1 / w) / w
        amount, shift = amount_and_shift(y, x)
        return -(amount**u) * shift**2 * _expm1_ratio_by(w * shift)

    @slopes(by_amount, by_mean, by_u, by_w)
    def loss(y: Array, x: Array, u: Array, w: Array) -> Array:
        poison = _poison(y) if given_log else _poison(y, x)
        tiny = float(jnp.finfo(x.dtype).tiny)
        first = to_power(x, u, 0) / u  # 0 for the mean 0: a small power of the smallest number is not small
        if not full:
            second = _times_exp(y, w * x) if given_log else y * to_power(x, w, tiny)
            return first - second / w + poison
        amount = jnp.where(y == 0, 1, y)
        shift = log_mean(x) - jnp.log(amount)
        if not given_log:
            ratio = x / amount
            shift = jnp.where((ratio > 1e-30) & (ratio < 1e30), jnp.log(above_zero(ratio)), shift)
            close = 3 * jnp.abs(x - amount) < x + amount
            shift = jnp.where(close, jnp.log1p((x - amount) / amount), shift)
        near = jnp.maximum(jnp.abs(u * shift), jnp.abs(w * shift)) < 1
        series = shift**2 * _divided_difference(u * shift, w * shift)
        deviance = jnp.where(near, series, _integral(shift, u) - _integral(shift, w))
        return jnp.where(y == 0, first, amount**u * deviance) + poison

    return loss


def _integral(x: Array, rate: Array) -> Array:
    """The integral of exp(rate t) over t from 0 to x."""
    return x * expm1_ratio(rate * x)


def _expm1_ratio_by(x: Array) -> Array:
    return jax.jvp(expm1_ratio, (x,), (jnp.ones_like(x),))[1]


def _divided_difference(a: Array, b: Array) -> Array:
    """(expm1_ratio(a) - expm1_ratio(b)) / (a - b) for numbers in [-1, 1]: sum_k sum_i a^i b^(k - i) / (k + 2)!."""
    total, term, power = jnp.full_like(a, 0.5), jnp.ones_like(a), jnp.ones_like(a)
    for k in range(1, 11 if a.dtype == jnp.float32 else 19):
        power = power * b
        term = a * term + power
        total = total + term / math.factorial(k + 2)
    return total
