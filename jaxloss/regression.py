"""Regression losses of the residual `e = y_pred - y_true`. The unit is an element."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jaxloss._contract import ArrayLike, Reduction, batched, check_option, check_positive, compiled
from jaxloss._math import absolute, barrier, constants, is_zero, quotient, slopes, softplus
from jaxloss._special import above, above_zero, atanh_rest, blend

__all__ = ["balanced_l1", "expectile", "huber", "log_cosh", "mae", "mse", "quantile", "smooth_l1"]


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


@compiled
def smooth_l1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    beta: float | Array = 1.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Smooth L1 loss: `e^2 / (2 beta)` where `abs(e) < beta`, else `abs(e) - beta / 2`: `huber` over its delta.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      beta: where the parabola goes over into straight lines of slope 1, at least 0; with 0 the loss is `mae`.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a negative beta.

    Example:
      >>> print(smooth_l1([0.0, 0.0], [1.0, 3.0], beta=2.0))  # (1^2 / 4 + 3 - 1) / 2
      1.125

    Source: Girshick 2015, Fast R-CNN, arXiv 1504.08083. Agrees with torch.nn.functional.smooth_l1_loss.
    """
    check_option("smooth_l1", "beta", beta, low=0)

    def example(y: Array, p: Array) -> Array:
        return absolute(p - y) if is_zero(beta) else _smooth_l1(p - y, jnp.asarray(beta, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


def _smooth_l1_slope(e: Array, beta: Array) -> Array:
    width = above_zero(barrier(beta))  # see `constants`
    return jnp.maximum(jnp.minimum(e, width), -width) / width


@slopes(_smooth_l1_slope, lambda e, beta: -(_smooth_l1_slope(e, beta) ** 2) / 2)
def _smooth_l1(e: Array, beta: Array) -> Array:
    width = above_zero(beta)
    curved = jnp.minimum(jnp.abs(e), width)
    return (jnp.abs(e) - curved) + curved * (curved / width) / 2


@compiled
def balanced_l1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    alpha: float | Array = 0.5,
    gamma: float | Array = 1.5,
    beta: float | Array = 1.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Balanced L1 loss, of slope `alpha log(1 + b abs(e) / beta)` up to `abs(e) = beta`, and gamma from there on.

    So it is `alpha / b (b abs(e) + beta) log(1 + b abs(e) / beta) - alpha abs(e)`, then
    `gamma abs(e) + gamma beta / b - alpha beta`, where `b = exp(gamma / alpha) - 1` makes the slopes meet.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      alpha: how much small residuals count, above 0.
      gamma: the largest slope, above 0.
      beta: the residual from which the slope is gamma, at least 0.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, alpha or gamma not above 0, a negative beta.

    Example:
      >>> print(f"{balanced_l1([0.0], [1.0]):.5f}")  # 1.5 + 1.5 / (exp(3) - 1) - 0.5
      1.07859

    Source: Pang et al. 2019, Libra R-CNN, arXiv 1904.02701, where beta is 1; this is the integral of the slope above
    for every beta. Agrees with mmdet's balanced_l1_loss at beta = 1; for another beta the slope of that one jumps.
    """
    check_positive("balanced_l1", "alpha", alpha)
    check_positive("balanced_l1", "gamma", gamma)
    check_option("balanced_l1", "beta", beta, low=0)

    constant = isinstance(alpha, (int, float)) and isinstance(gamma, (int, float))
    formula = _balanced_l1(steep=not constant or bool(gamma / alpha > STEEP))

    def example(y: Array, p: Array) -> Array:
        return formula(p - y, *(jnp.asarray(option, p.dtype) for option in (alpha, gamma, beta)))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


# Above this ratio of gamma to alpha, b = exp(ratio) - 1 is exp(ratio); it is far below what overflows.
STEEP = 60.0


def _balanced_l1(steep: bool) -> Callable[..., Array]:
    """The loss as a function of e, alpha, gamma and beta; steep if gamma may be so much larger that b overflows."""

    @slopes(
        lambda x, ratio: 1 / above_zero(1 / jnp.expm1(ratio) + x),
        lambda x, ratio: (1 + 1 / jnp.expm1(ratio)) * quotient(x, above_zero(1 / jnp.expm1(ratio) + x)),
    )
    def log_of(x: Array, ratio: Array) -> Array:
        """log(1 + b x) for x in [0, 1]."""
        if not steep:
            return jnp.log1p(jnp.expm1(ratio) * x)
        direct = jnp.log1p(jnp.expm1(jnp.minimum(ratio, STEEP)) * x)
        return jnp.where(ratio > STEEP, softplus(ratio + jnp.log(x)), direct)

    def parts(size: Array, alpha: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
        """For size = abs(e): x = min(size / beta, 1), log(1 + b x), and 1 / b (never b, which may overflow)."""
        width = above_zero(beta)
        x = quotient(jnp.minimum(size, width), width)
        return x, log_of(x, gamma / alpha), 1 / jnp.expm1(gamma / alpha)

    def by_residual(e: Array, *options: Array) -> Array:
        alpha, gamma, beta = barrier(options)  # see `constants`
        # Its own derivative is not 0 at 0: there the sign is that of the side that abs is differentiated on.
        (zero,) = constants(0, like=e)
        return jnp.where(e >= zero, alpha, -alpha) * parts(jnp.abs(e), alpha, gamma, beta)[1]

    def by_alpha(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
        x, log, inverse = parts(absolute(e), alpha, gamma, beta)
        return beta * ((inverse + x) * log - x - gamma / alpha * (1 + inverse) * (x - inverse * log))

    def by_gamma(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
        x, log, inverse = parts(absolute(e), alpha, gamma, beta)
        return beta * (1 + inverse) * (x - inverse * log) + jnp.maximum(absolute(e) - beta, 0)

    def by_beta(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
        x, log, inverse = parts(absolute(e), alpha, gamma, beta)
        return alpha * (inverse * log - x)

    @slopes(by_residual, by_alpha, by_gamma, by_beta)
    def loss(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
        x, log, inverse = parts(absolute(e), alpha, gamma, beta)
        # The integral of log(1 + b t) from 0 to x, for small x without cancellation.
        u = jnp.minimum(x / above_zero(inverse), 1)
        v = u / (2 + u)
        near = inverse * (u * v + 2 * (1 + u) * v**3 * atanh_rest(v**2))
        area = blend(above(x, inverse), (inverse + x) * log - x, near)
        return alpha * above_zero(beta) * area + gamma * jnp.maximum(jnp.abs(e) - beta, 0)

    return loss


@compiled
def log_cosh(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Logarithm of the hyperbolic cosine: `log(cosh(e))`, about `e^2 / 2` for small and `abs(e) - log 2` for large e.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> print(f"{log_cosh([0.0, 0.0], [1.0, -1.0]):.5f}")  # log((exp(1) + exp(-1)) / 2)
      0.43378

    Source: Green 1990, doi 10.1109/42.52985. Agrees with keras.losses.LogCosh and optax.log_cosh, which lose small
    residuals to cancellation.
    """

    def example(y: Array, p: Array) -> Array:
        return _log_cosh(p - y)

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


@slopes(lambda e: jnp.tanh(e))
def _log_cosh(e: Array) -> Array:
    # Up to 1, cosh(e) = 1 + less^2 / (2 (1 + less)). Beyond, with more = abs(e) - 1,
    # cosh(e) / cosh(1) = exp(more) (1 + share (exp(-2 more) - 1)), share = exp(-2) / (1 + exp(-2)).
    less = jnp.expm1(-jnp.minimum(jnp.abs(e), 1))
    more = jnp.maximum(jnp.abs(e) - 1, 0)
    near = less * less / (2 + 2 * less)
    far = jnp.expm1(-2 * more) / (1 + math.exp(2))
    return more + jnp.log1p(near + far + near * far)


@compiled
def quantile(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    level: float | Array = 0.5,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Quantile (pinball) loss: `level abs(e)` where `y_pred < y_true`, else `(1 - level) abs(e)`.

    Its mean is least at the quantile of the targets; at level 0.5, the median, it is half of `mae`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      level: which quantile is sought, in [0, 1].
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...). The derivative at e = 0 is 0.

    Raises:
      ValueError: shapes that differ, a level outside [0, 1].

    Example:
      >>> print(quantile([1.0, 0.0], [0.0, 1.0], level=0.75))  # (0.75 + 0.25) / 2
      0.5

    Source: Koenker and Bassett 1978, doi 10.2307/1913643. Agrees with sklearn.metrics.mean_pinball_loss.
    """
    check_option("quantile", "level", level, 0, 1)

    def example(y: Array, p: Array) -> Array:
        return _quantile(p - y, jnp.asarray(level, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


def _quantile_slope(e: Array, level: Array) -> Array:
    level = barrier(level)  # see `constants`
    return jnp.where(e > 0, 1 - level, -level) * jnp.abs(jnp.sign(e))


@slopes(_quantile_slope, lambda e, level: -e)
def _quantile(e: Array, level: Array) -> Array:
    return jnp.maximum(-level * e, (1 - level) * e)


@compiled
def expectile(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    level: float | Array = 0.5,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Expectile loss: `level e^2` where `y_pred < y_true`, else `(1 - level) e^2`.

    Its mean is least at the expectile of the targets; at level 0.5, the mean, it is half of `mse`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      level: which expectile is sought, in [0, 1].
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, a level outside [0, 1].

    Example:
      >>> print(expectile([2.0, 0.0], [0.0, 2.0], level=0.75))  # (0.75 * 4 + 0.25 * 4) / 2
      2.0

    Source: Newey and Powell 1987, doi 10.2307/1911031. No function of optax, Keras or PyTorch computes it.
    """
    check_option("expectile", "level", level, 0, 1)

    def example(y: Array, p: Array) -> Array:
        return _expectile(p - y, jnp.asarray(level, p.dtype))

    return batched(example, (y_true, y_pred), weights=weights, where=where, reduction=reduction)


def _expectile_slope(e: Array, level: Array) -> Array:
    zero, one, two = constants(0, 1, 2, like=e)
    level = barrier(level)
    return two * (one - level) * jnp.maximum(e, zero) + two * level * jnp.minimum(e, zero)


@slopes(_expectile_slope, lambda e, level: -e * jnp.abs(e))
def _expectile(e: Array, level: Array) -> Array:
    return ((1 - level) * jnp.maximum(e, 0) + level * jnp.minimum(e, 0)) * e
