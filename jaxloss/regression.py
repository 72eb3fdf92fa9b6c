"""Regression losses of the residual `e = y_pred - y_true`. The unit is an element."""

from __future__ import annotations

import math
from typing import Unpack

import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import (
    abs0,
    at_least_tiny,
    atanh_rest,
    divide,
    log1p,
    log1p_of_fraction,
    power_series,
    softplus,
)
from jaxloss._platform import unmoved
from jaxloss.contract import AT_LEAST_0, FRACTION, NUMBER, POSITIVE, ArrayLike, Units, loss, losses

__all__ = ["balanced_l1", "expectile", "huber", "log_cosh", "mae", "mse", "quantile", "smooth_l1"]

# With infinity the loss is half of the squared error.
DELTA = AT_LEAST_0._replace(text="at least 0", infinite=(math.inf,))


@loss
def mse(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Mean squared error: `e^2`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> print(mse([[0.0], [1.0]], [[1.0], [1.0]]))  # (1 + 0) / 2
      0.5

    Source: Gauss 1821, Theoria combinationis. Agrees with keras.losses.MeanSquaredError,
    torch.nn.functional.mse_loss and optax.squared_error (optax.l2_loss is half of it).
    """

    def element(y: Array, p: Array) -> Array:
        return (p - y) ** 2

    return losses(element, {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}, elementwise=True, **units)


@loss
def mae(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Mean absolute error: `abs(e)`, with derivative 0 at e = 0.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> print(mae([[0.0], [0.0]], [[1.0], [1.0]]))  # (1 + 1) / 2
      1.0

    Source: Laplace 1774. Agrees with keras.losses.MeanAbsoluteError and torch.nn.functional.l1_loss.
    """

    def element(y: Array, p: Array) -> Array:
        return abs0(p - y)

    return losses(element, {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}, elementwise=True, **units)


@loss
def huber(y_true: ArrayLike, y_pred: ArrayLike, *, delta: float | ArrayLike = 1.0, **units: Unpack[Units]) -> Array:
    """Huber loss: `e^2 / 2` where `abs(e) <= delta`, else `delta (abs(e) - delta / 2)`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      delta: where the loss turns from quadratic to linear, at least 0. With infinity it never does.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a negative delta.

    Example:
      >>> print(huber([[0], [1]], [[0.6], [0.4]]))  # 0.6^2 / 2
      0.18

    Source: Huber 1964, doi 10.1214/aoms/1177703732. Agrees with keras.losses.Huber, torch.nn.functional.huber_loss
    and optax.huber_loss.
    """

    def element(y: Array, p: Array, delta: float | Array) -> Array:
        return _huber(p - y, delta)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"delta": (delta, DELTA)}, elementwise=True, **units)


@partials(lambda e, delta: jnp.clip(e, -delta, delta), lambda e, delta: jnp.maximum(jnp.abs(e) - delta, 0))
def _huber(e: Array, delta: Array) -> Array:
    # With q = min(abs(e), delta), both cases are q^2 / 2 + delta (abs(e) - q) = q (abs(e) - q / 2).
    quadratic = jnp.minimum(jnp.abs(e), delta)
    return quadratic * (jnp.abs(e) - quadratic / 2)


@loss
def smooth_l1(y_true: ArrayLike, y_pred: ArrayLike, *, beta: float | ArrayLike = 1.0, **units: Unpack[Units]) -> Array:
    """Smooth L1 loss: `e^2 / (2 beta)` where `abs(e) < beta`, else `abs(e) - beta / 2`.

    It is `huber` with delta = beta, divided by beta.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.
      beta: where the loss turns from quadratic to linear, with slope 1, at least 0; with 0 the loss is `mae`.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a negative beta.

    Example:
      >>> print(smooth_l1([0.0, 0.0], [1.0, 3.0], beta=2.0))  # (1^2 / 4 + 3 - 1) / 2
      1.125

    Source: Girshick 2015, Fast R-CNN, arXiv 1504.08083. Agrees with torch.nn.functional.smooth_l1_loss.
    """

    def element(y: Array, p: Array, beta: float | Array) -> Array:
        return _smooth_l1(p - y, beta)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"beta": (beta, AT_LEAST_0)}, elementwise=True, **units)


def _smooth_sign(e: Array, beta: Array) -> Array:
    """The derivative: the sign of e, but e / beta between -beta and beta."""
    width = at_least_tiny(beta)
    return jnp.clip(e, -width, width) / width


@partials(_smooth_sign, lambda e, beta: -(_smooth_sign(e, beta) ** 2) / 2)
def _smooth_l1(e: Array, beta: Array) -> Array:
    width = at_least_tiny(beta)
    quadratic = jnp.minimum(jnp.abs(e), width)
    return (jnp.abs(e) - quadratic) + quadratic * (quadratic / width) / 2


@loss
def balanced_l1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    alpha: float | ArrayLike = 0.5,
    gamma: float | ArrayLike = 1.5,
    beta: float | ArrayLike = 1.0,
    **units: Unpack[Units],
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

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, alpha or gamma not above 0, a negative beta.

    Example:
      >>> print(f"{balanced_l1([0.0], [1.0]):.5f}")  # 1.5 + 1.5 / (exp(3) - 1) - 0.5
      1.07859

    Source: Pang et al. 2019, Libra R-CNN, arXiv 1904.02701, where beta is 1; this is the integral of the slope above
    for every beta. Agrees with mmdet's balanced_l1_loss at beta = 1; for another beta the slope of that one jumps.
    """

    def element(y: Array, p: Array, alpha: float | Array, gamma: float | Array, beta: float | Array) -> Array:
        return _balanced_l1(p - y, alpha, gamma, beta)

    options = {"alpha": (alpha, POSITIVE), "gamma": (gamma, POSITIVE), "beta": (beta, AT_LEAST_0)}
    return losses(
        element, {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}, options=options, elementwise=True, **units
    )


# With x = min(abs(e) / beta, 1), r = gamma / alpha and b = exp(r) - 1, the loss is the integral of its slope,
#   alpha beta A(x) + gamma max(abs(e) - beta, 0),    A(x) = integral of log(1 + b t) from 0 to x
#                                                          = (1 / b + x) log(1 + b x) - x.
# The code has 1 / b, never b, which overflows for r > 88. From dA / d(1 / b) = log(1 + b x) - b x and
# d(1 / b) / dr = -(1 + 1 / b) / b come the partials with respect to alpha and gamma.

# Above this ratio r, b = exp(r) - 1 is exp(r); it is far below what overflows.
STEEP = 60.0


@partials(
    lambda x, r: 1 / at_least_tiny(1 / jnp.expm1(r) + x),
    lambda x, r: (1 + 1 / jnp.expm1(r)) * divide(x, at_least_tiny(1 / jnp.expm1(r) + x)),
)
def _log_slope(x: Array, r: Array) -> Array:
    """log(1 + b x) for x in [0, 1]."""
    moderate = log1p(jnp.expm1(jnp.minimum(r, STEEP)) * x)
    return jnp.where(r > STEEP, softplus(r + jnp.log(x)), moderate)


def _width(beta: Array) -> Array:
    # Not a constant for the compiler, which would merge divisions by this and by 1 / b into one that overflows at 0.
    return at_least_tiny(beta) * unmoved(1, beta)


def _balanced_parts(size: Array, alpha: Array, gamma: Array, beta: Array) -> tuple[Array, Array, Array]:
    """x, log(1 + b x) and 1 / b, for size = abs(e)."""
    width = _width(beta)
    x = divide(jnp.minimum(size, width), width)
    return x, _log_slope(x, gamma / alpha), 1 / jnp.expm1(gamma / alpha)


def _balanced_d_residual(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
    # At 0 the sign that `jnp.abs` is differentiated with, so that the second derivative there is not 0.
    return jnp.where(e >= 0, alpha, -alpha) * _balanced_parts(jnp.abs(e), alpha, gamma, beta)[1]


def _balanced_d_alpha(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
    x, log, inverse = _balanced_parts(abs0(e), alpha, gamma, beta)
    return beta * ((inverse + x) * log - x - gamma / alpha * (1 + inverse) * (x - inverse * log))


def _balanced_d_gamma(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
    x, log, inverse = _balanced_parts(abs0(e), alpha, gamma, beta)
    return beta * (1 + inverse) * (x - inverse * log) + jnp.maximum(abs0(e) - beta, 0)


def _balanced_d_beta(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
    x, log, inverse = _balanced_parts(abs0(e), alpha, gamma, beta)
    return alpha * (inverse * log - x)


@partials(_balanced_d_residual, _balanced_d_alpha, _balanced_d_gamma, _balanced_d_beta)
def _balanced_l1(e: Array, alpha: Array, gamma: Array, beta: Array) -> Array:
    x, log, inverse = _balanced_parts(jnp.abs(e), alpha, gamma, beta)
    # A(x) cancels for b x < 1. With u = b x and v = u / (2 + u), so log(1 + u) = 2 atanh(v), it is
    # (u v + 2 (1 + u) v^3 rest(v^2)) / b.
    u = jnp.minimum(x * (1 / at_least_tiny(inverse)), 1)
    v = u * (1 / (2 + u))  # a quotient that is used once need not be stored
    near = inverse * (u * v + 2 * (1 + u) * v**3 * atanh_rest(v**2))
    area = jnp.where(x > inverse, (inverse + x) * log - x, near)
    return alpha * _width(beta) * area + gamma * jnp.maximum(jnp.abs(e) - beta, 0)


@loss
def log_cosh(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Logarithm of the hyperbolic cosine: `log(cosh(e))`, about `e^2 / 2` for small and `abs(e) - log 2` for large e.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> print(f"{log_cosh([0.0, 0.0], [1.0, -1.0]):.5f}")  # log((exp(1) + exp(-1)) / 2)
      0.43378

    Source: Green 1990, doi 10.1109/42.52985. Agrees with keras.losses.LogCosh and optax.log_cosh, which lose small
    residuals to cancellation.
    """

    def element(y: Array, p: Array) -> Array:
        return _log_cosh(p - y)

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, elementwise=True, **units)


@partials(lambda e: jnp.tanh(e))
def _log_cosh(e: Array) -> Array:
    # With m the smaller of abs(e) and 1, and more = abs(e) - m, cosh(e) is exp(more) times
    # cosh(m) + (exp(-2 more) - 1) / (2 exp(1)).
    m = jnp.minimum(jnp.abs(e), 1)
    more = jnp.abs(e) - m
    terms = 5 if e.dtype == jnp.float32 else 9
    near = m * m * power_series(m * m, [1 / math.factorial(k) for k in range(2, 2 * terms + 1, 2)])  # cosh(m) - 1
    return more + log1p_of_fraction(near + (jnp.exp(-2 * more) - 1) / (2 * math.e))


@loss
def quantile(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    level: float | ArrayLike = 0.5,
    delta: float | ArrayLike | None = None,
    **units: Unpack[Units],
) -> Array:
    """Quantile (pinball) loss: `level abs(e)` where `y_pred < y_true`, else `(1 - level) abs(e)`.

    Its mean is least at the quantile of the targets; at level 0.5, the median, it is half of `mae`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions, or (..., Q) of several quantiles of the same targets.
      level: which quantile is sought, in [0, 1]; (Q,) levels for several.
      delta: if given, the `huber` loss of e takes the place of abs(e), with this delta; at least 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...) or (..., Q). The derivative at
      e = 0 is 0.

    Raises:
      ValueError: shapes that differ, options out of range.

    Example:
      >>> print(quantile([1.0, 0.0], [0.0, 1.0], level=0.75))  # (0.75 + 0.25) / 2
      0.5

    Source: Koenker and Bassett 1978, doi 10.2307/1913643; with delta: Dabney et al. 2017, arXiv 1710.10044.
    Agrees with sklearn.metrics.mean_pinball_loss and, with delta, with rlax.quantile_regression_loss.
    """

    def element(y: Array, p: Array, level: float | Array, delta: float | Array | None) -> Array:
        if delta is None:
            return _quantile(p - y, level)
        return jnp.where(p > y, 1 - level, level) * _huber(p - y, delta)

    inputs = {"y_true": (_for_each_level(y_true, y_pred, level), NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(
        element, inputs, options={"level": (level, FRACTION), "delta": (delta, DELTA)}, elementwise=True, **units
    )


def _for_each_level(y_true: ArrayLike, y_pred: ArrayLike, level: ArrayLike) -> ArrayLike:
    """The targets, each of which serves its predictions at all levels."""
    y, p = jnp.asarray(y_true), jnp.asarray(y_pred)
    several = p.shape[:-1] == y.shape and jnp.asarray(level).shape == p.shape[-1:] != ()
    return jnp.broadcast_to(y[..., None], p.shape) if several else y


@partials(lambda e, level: jnp.where(e > 0, 1 - level, -level) * jnp.abs(jnp.sign(e)), lambda e, level: -e)
def _quantile(e: Array, level: Array) -> Array:
    return jnp.maximum(-level * e, (1 - level) * e)


@loss
def expectile(y_true: ArrayLike, y_pred: ArrayLike, *, level: float | ArrayLike = 0.5, **units: Unpack[Units]) -> Array:
    """Expectile loss: `level e^2` where `y_pred < y_true`, else `(1 - level) e^2`.

    Its mean is least at the expectile of the targets; at level 0.5, the mean, it is half of `mse`.

    Args:
      y_true: (...) targets.
      y_pred: (...) predictions, or (..., Q) of several expectiles of the same targets.
      level: which expectile is sought, in [0, 1]; (Q,) levels for several.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...) or (..., Q).

    Raises:
      ValueError: shapes that differ, a level outside [0, 1].

    Example:
      >>> print(expectile([2.0, 0.0], [0.0, 2.0], level=0.75))  # (0.75 * 4 + 0.25 * 4) / 2
      2.0

    Source: Newey and Powell 1987, doi 10.2307/1911031. No function of optax, Keras or PyTorch computes it.
    """

    def element(y: Array, p: Array, level: float | Array) -> Array:
        return _expectile(p - y, level)

    inputs = {"y_true": (_for_each_level(y_true, y_pred, level), NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"level": (level, FRACTION)}, elementwise=True, **units)


@partials(
    lambda e, level: 2 * (1 - level) * jnp.maximum(e, 0) + 2 * level * jnp.minimum(e, 0),
    lambda e, level: -e * jnp.abs(e),
)
def _expectile(e: Array, level: Array) -> Array:
    return ((1 - level) * jnp.maximum(e, 0) + level * jnp.minimum(e, 0)) * e
