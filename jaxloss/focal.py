"""Losses that weigh the cross-entropy by the probability of the target. `z` logits, `p` probabilities, `y` targets.

The unit is an example of `K` classes, which consumes the class axis; for `binary_focal` it is an element.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._legacy import ArrayLike, Reduction, batched, check_option, compiled
from jaxloss._math import (
    STEEPEST,
    barrier,
    finite_where_zero,
    is_huge,
    is_zero,
    log_complement,
    log_probability,
    of_share,
    poisoned,
    rounding,
    slopes,
    smoothed,
    steady,
)
from jaxloss._special import power_series
from jaxloss.classification import bce_of_logit, bce_of_probability

__all__ = ["binary_focal", "categorical_focal", "generalized_cce", "poly1"]


@compiled
def binary_focal(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    gamma: float | Array = 2.0,
    alpha: float | Array | None = None,
    label_smoothing: float | Array = 0.0,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Focal loss of two classes: `a (1 - p_t)^gamma bce(y, p)`, where `p_t = p y + (1 - p) (1 - y)`.

    It is finite for every logit and every gamma; with gamma 0 and no alpha it is `bce`.

    Args:
      y_true: (...) targets in [0, 1].
      y_pred: (...) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      gamma: at least 0; the higher, the less do well classified elements count.
      alpha: in [0, 1]; the factor a is `alpha y + (1 - alpha) (1 - y)`. Without it a = 1.
      label_smoothing: s in [0, 1]; the targets become `(1 - s) y + s / 2`.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over elements; with `reduction="none"` one loss an element, of shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. TypeError: `y_pred` of integer dtype.
      A probability outside [0, 1] (by more than rounding) makes its element NaN, with zero gradient.

    Example:
      >>> print(binary_focal([1.0, 0.0], [0.5, 0.5]))  # 0.5^2 log 2
      0.1732868

    Source: Lin, Goyal, Girshick, He and Dollar 2017, arXiv 1708.02002 (which recommends gamma 2, alpha 0.25). From
    logits it agrees with optax.losses.sigmoid_focal_loss and torchvision.ops.sigmoid_focal_loss, from probabilities
    with keras.losses.BinaryFocalCrossentropy, but for its clipping.
    """
    check_option("binary_focal", "gamma", gamma, low=0)
    check_option("binary_focal", "alpha", alpha, 0, 1)
    check_option("binary_focal", "label_smoothing", label_smoothing, 0, 1)
    slack = rounding(y_pred)

    def example(y: Array, score: Array) -> Array:
        valid: Array | bool = True
        y = smoothed(y, label_smoothing, 2)
        a = None if alpha is None else jnp.asarray(alpha, y.dtype)

        def of_logit(y: Array, z: Array) -> Array:
            return _power_of_error(y, z, gamma) * bce_of_logit(y, z) * _balance(y, a)

        if from_logits:
            loss = steady(is_huge(score), of_logit, y, score)
        else:
            valid = score * (1 - score) >= -slack
            p = jnp.where(valid, score, 0)
            error = y * (1 - p) + (1 - y) * p
            loss = _power(error, log_probability(error), gamma) * bce_of_probability(y, p, slack) * _balance(y, a)
        return poisoned(valid, loss)

    return batched(
        example,
        (y_true, y_pred),
        kinds=("number", "score"),
        domains=("probability", "number" if from_logits else "probability"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def categorical_focal(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    gamma: float | Array = 2.0,
    alpha: ArrayLike | None = None,
    label_smoothing: float | Array = 0.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Focal loss of K classes: `-sum_k a_k y_k (1 - p_k)^gamma log p_k`.

    Probabilities are normalised as in `cce`. From logits it is finite for every row and every gamma, as long as a
    class with the logit -inf has no weight; with gamma 0 and no alpha it is `cce`.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      gamma: at least 0; the higher, the less do well classified examples count.
      alpha: a, one factor for all classes, or (K,) factors; at least 0.
      label_smoothing: s in [0, 1]; the targets become `(1 - s) y + s / K`.
      axis: the class axis.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. TypeError: `y_pred` of integer dtype.
      A probability below 0 (by more than rounding) makes its example NaN, with zero gradient.

    Example:
      >>> print(categorical_focal([[0, 1, 0]], [[0.25, 0.5, 0.25]]))  # 0.5^2 log 2
      0.1732868

    Source: Lin, Goyal, Girshick, He and Dollar 2017, arXiv 1708.02002. Agrees with
    keras.losses.CategoricalFocalCrossentropy, but for its clipping; the alpha of that one is 0.25 if not given.
    """
    check_option("categorical_focal", "gamma", gamma, low=0)
    check_option("categorical_focal", "alpha", alpha, low=0)
    check_option("categorical_focal", "label_smoothing", label_smoothing, 0, 1)

    slack = rounding(y_pred)

    def example(y: Array, row: Array) -> Array:
        y = smoothed(y, label_smoothing, y.size)
        if alpha is not None:
            factors = jnp.asarray(alpha, y.dtype)
            if factors.ndim and factors.shape != y.shape:
                raise ValueError(
                    f"categorical_focal: alpha has shape {factors.shape}, expected one number or {y.shape}: one for "
                    "each class."
                )
            y = y * (factors * jnp.ones_like(y))  # laid out over the devices as the row is
        if from_logits:
            return _over_logits(_focal(gamma), y, row, jnp.asarray(gamma, row.dtype))

        def term(p: Array) -> Array:
            return -log_probability(p) * _power(1 - p, log_complement(p), gamma)

        return poisoned(jnp.min(row) >= -slack, jnp.sum(y * of_share(row, term)(row)))

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "score"),
        domains=("distribution", "logits" if from_logits else "distribution"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def poly1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    epsilon: float | Array = 1.0,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Poly-1 cross-entropy: `sum_k y_k (-log p_k + epsilon (1 - p_k))`.

    Probabilities are normalised as in `cce`. With epsilon 0 it is `cce`.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      epsilon: how much the first term of the expansion in powers of 1 - p is raised; from -1 on the loss decreases
        with p.
      axis: the class axis.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      A probability below 0 (by more than rounding) makes its example NaN, with zero gradient.

    Example:
      >>> print(poly1([[0, 1, 0]], [[0.25, 0.5, 0.25]]))  # log 2 + 0.5
      1.1931472

    Source: Leng et al. 2022, arXiv 2204.12511 (which recommends 2 for ImageNet, -1 for detection). Agrees with
    optax.losses.poly_loss_cross_entropy from logits, whose epsilon is 2 if not given.
    """
    slack = rounding(y_pred)

    def example(y: Array, row: Array) -> Array:
        raised = jnp.asarray(epsilon, row.dtype)
        if from_logits:
            return _over_logits(_POLY1, y, row, raised)

        def term(p: Array) -> Array:
            return raised * (1 - p) - log_probability(p)

        return poisoned(jnp.min(row) >= -slack, jnp.sum(y * of_share(row, term)(row)))

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "score"),
        domains=("distribution", "logits" if from_logits else "distribution"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


@compiled
def generalized_cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    power: float | Array = 0.7,
    from_logits: bool = False,
    axis: int = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Generalized cross-entropy, for noisy labels: `sum_k y_k (1 - p_k^power) / power`.

    It leads from `cce` (power 0, the limit) to `1 - p` (power 1). Probabilities are normalised as in `cce`.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      power: in [0, 1].
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      axis: the class axis.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of shape (...).

    Raises:
      ValueError: shapes that differ, a power outside [0, 1]. TypeError: `y_pred` of integer dtype.
      A probability below 0 (by more than rounding) makes its example NaN, with zero gradient.

    Example:
      >>> print(generalized_cce([[0, 1, 0]], [[0.5, 0.25, 0.25]], power=0.5))  # (1 - sqrt 0.25) / 0.5
      1.0

    Source: Zhang and Sabuncu 2018, arXiv 1805.07836. Agrees with keras.losses.CategoricalGeneralizedCrossEntropy, whose
    labels are integers, for probabilities from 1e-7 to 1 - 1e-7.
    """
    check_option("generalized_cce", "power", power, 0, 1)
    slack = rounding(y_pred)

    def example(y: Array, row: Array) -> Array:
        exponent = jnp.asarray(power, row.dtype)
        if from_logits:
            # The limit for power 0 is poly1 with epsilon 0.
            return _over_logits(_POLY1 if is_zero(power) else _GENERALIZED, y, row, exponent)

        def term(p: Array) -> Array:
            return _box_cox(-log_probability(p), exponent * jnp.ones_like(p))  # laid out over the devices as p is

        return poisoned(jnp.min(row) >= -slack, jnp.sum(y * of_share(row, term)(row)))

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        kinds=("number", "score"),
        domains=("distribution", "logits" if from_logits else "distribution"),
        axis=axis,
        weights=weights,
        where=where,
        reduction=reduction,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Two classes


def _balance(y: Array, alpha: Array | None) -> Array | float:
    return 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)


def _is_small_integer(gamma: float | Array) -> bool:
    return isinstance(gamma, (int, float)) and gamma in range(9)


def _power(error: Array, log_error: Array, gamma: float | Array) -> Array:
    """error^gamma, with bounded derivatives also where the error is 0."""
    if _is_small_integer(gamma):
        return error ** int(gamma)  # pyright: ignore[reportArgumentType]
    return jnp.exp(jnp.asarray(gamma, error.dtype) * log_error)


def _power_of_error(y: Array, z: Array, gamma: float | Array) -> Array:
    """(1 - p_t)^gamma for a logit; its derivative by the logit is nowhere greater than gamma."""
    if not _is_small_integer(gamma):
        return _real_power_of_error(y, z, jnp.asarray(gamma, z.dtype))
    n = int(gamma)  # pyright: ignore[reportArgumentType]

    @slopes(
        lambda y, z: n * _error(y, z) ** max(n - 1, 0) * _tilt(z),
        lambda y, z: n * _error(y, z) ** n * (1 - 2 * y) * _share(y, z),
    )
    def power(y: Array, z: Array) -> Array:
        return _error(y, z) ** n

    return power(y, z)


def _real_power_by_target(y: Array, z: Array, gamma: Array) -> Array:
    return gamma * _real_power_of_error(y, z, gamma) * _tilt(z) / jnp.maximum(_error(y, z), STEEPEST)


def _real_power_by_logit(y: Array, z: Array, gamma: Array) -> Array:
    return gamma * _real_power_of_error(y, z, gamma) * (1 - 2 * y) * _share(y, z)


def _real_power_by_gamma(y: Array, z: Array, gamma: Array) -> Array:
    # Where the logarithm is below that, the cross-entropy that it is multiplied with is 0.
    return jnp.maximum(_log_error(y, z), -1e4) * _real_power_of_error(y, z, gamma)


@slopes(_real_power_by_target, _real_power_by_logit, _real_power_by_gamma)
def _real_power_of_error(y: Array, z: Array, gamma: Array) -> Array:
    return jnp.exp(gamma * _log_error(y, z))


def _error(y: Array, z: Array) -> Array:
    """1 - p_t."""
    return y * jax.nn.sigmoid(-z) + (1 - y) * jax.nn.sigmoid(z)


def _tilt(z: Array) -> Array:
    """The derivative of the error by the target: sigmoid(-z) - sigmoid(z)."""
    return -jnp.tanh(z / 2)


def _small_and_wrong(y: Array, z: Array) -> tuple[Array, Array]:
    """exp(-abs(z)), and how much of the target the sign of the logit contradicts."""
    return jnp.exp(-jnp.abs(z)), jnp.where(z > 0, 1 - y, y)


def _share_by_target(y: Array, z: Array) -> Array:
    return -_share(y, z) * _tilt(z) / jnp.maximum(_error(y, z), STEEPEST)


def _share_by_logit(y: Array, z: Array) -> Array:
    return _share(y, z) * (_tilt(z) - (1 - 2 * y) * _share(y, z))


@slopes(_share_by_target, _share_by_logit)
def _share(y: Array, z: Array) -> Array:
    """sigmoid(z) sigmoid(-z) / error, for logits of any size."""
    small, wrong = _small_and_wrong(y, z)
    certain = wrong + (1 - wrong) * small == 0
    return jnp.where(certain, 1, small / jnp.where(certain, 1, wrong + (1 - wrong) * small)) / (1 + small)


@slopes(
    lambda y, z: _tilt(z) / jnp.maximum(_error(y, z), STEEPEST),
    lambda y, z: (1 - 2 * y) * _share(y, z),
)
def _log_error(y: Array, z: Array) -> Array:
    """log(1 - p_t), for logits of any size."""
    small, wrong = _small_and_wrong(y, z)
    right = wrong == 0
    return jnp.where(right, -jnp.abs(z), jnp.log(jnp.where(right, 1, wrong + (1 - wrong) * small))) - jnp.log1p(small)


# ---------------------------------------------------------------------------------------------------------------------
# K classes


class _Parts(NamedTuple):
    """Of each class of a row of logits: -log p, p, 1 - p and its logarithm; exact also where p is almost 0 or 1."""

    surprise: Array
    p: Array
    rest: Array
    log_rest: Array


class _Rule(NamedTuple):
    """The loss of a class with one option, and its derivatives by -log p and by the option."""

    loss: Callable[[_Parts, Array], Array]
    by_surprise: Callable[[_Parts, Array], Array]
    by_option: Callable[[_Parts, Array], Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _over_logits(rule: _Rule, y: Array, row: Array, option: Array) -> Array:
    """The sum over the classes of y_k times the loss; a class without weight may have the logit -inf."""
    return jnp.sum(y * finite_where_zero(y, rule.loss(_parts(row), option)))


@functools.partial(_over_logits.defjvp, symbolic_zeros=True)
def _(rule: _Rule, primals: tuple[Array, Array, Array], tangents: tuple[Any, Any, Any]) -> tuple[Array, Array]:
    y, row, option = primals
    dy, dz, d_option = tangents
    value = _over_logits(rule, y, row, option)
    parts, slope = _parts(row), jnp.zeros_like(value)
    if not isinstance(dy, SymbolicZero):
        infinite = jnp.isinf(parts.surprise)  # and would be NaN, times what does not change
        finite = parts._replace(surprise=jnp.where(infinite, 0, parts.surprise))
        constant = jax.lax.stop_gradient(rule.loss(parts, option))
        losses = jnp.where(infinite, constant, rule.loss(finite, option))
        slope += jnp.sum(finite_where_zero(y, losses) * dy)
    if not isinstance(dz, SymbolicZero):
        c = y * rule.by_surprise(parts, option)
        slope += jnp.sum((parts.p * (jnp.sum(c) - c) - c * parts.rest) * dz)  # so that nothing cancels for a one-hot y
    if not isinstance(d_option, SymbolicZero):
        slope += jnp.sum(y * finite_where_zero(y, rule.by_option(parts, option))) * d_option
    return value, slope


def _parts(row: Array) -> _Parts:
    small, excess = _exponentials(row)
    largest = _largest(row)
    rest = (excess + (1 - small)) / (1 + excess)
    return _Parts(jnp.log1p(excess) - (row - largest), small / (1 + excess), rest, _log_rest(row))


def _largest(row: Array) -> Array:
    largest = jax.lax.stop_gradient(jnp.max(row))
    return barrier(jnp.where(jnp.isneginf(largest), 0, largest))


def _exponentials(row: Array) -> tuple[Array, Array]:
    """exp(row - maximum), and their sum - 1, exact also where one logit outweighs all others."""
    below = row - _largest(row)
    small = jnp.exp(below)
    top = jax.lax.stop_gradient(below == 0).astype(row.dtype)
    return small, jnp.sum(small - top) + jnp.maximum(jnp.sum(top) - 1, 0)


@jax.custom_jvp
def _log_rest(row: Array) -> Array:
    """log(1 - p), at p = 1 that of the smallest normal number."""
    small, excess = _exponentials(row)
    return log_probability(excess + (1 - small)) - jnp.log1p(excess)


@_log_rest.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (row,), (dz,) = primals, tangents
    small, excess = _exponentials(row)
    # -p_k (dz_k - sum_{j != k} p_j dz_j / (1 - p_k)); where p_k > 1/2, the sum is made without the class itself.
    most = (small == 1) & (excess < 1)
    without = jnp.sum(jnp.where(most, 0, small * dz)) / jnp.where(excess > 0, excess, 1)
    others = dz - (jnp.sum(small * dz) - small * dz) / jnp.where(most, 1, excess + (1 - small))
    return _log_rest(row), -small / (1 + excess) * jnp.where(most, dz - without, others)


def _focal(gamma: float | Array) -> _Rule:
    """-log p (1 - p)^gamma. With s = -log p, its derivative is (1 - p)^gamma + gamma (1 - p)^(gamma - 1) p s."""
    if _is_small_integer(gamma):
        n = int(gamma)  # pyright: ignore[reportArgumentType]
        return _Rule(
            lambda parts, _: parts.surprise * parts.rest**n,
            lambda parts, _: parts.rest**n + n * parts.rest ** max(n - 1, 0) * _p_log_p(parts),
            lambda parts, _: jnp.zeros_like(parts.p),
        )

    def power(parts: _Parts, gamma: Array) -> Array:
        return jnp.exp(gamma * parts.log_rest)

    return _Rule(
        lambda parts, gamma: parts.surprise * power(parts, gamma),
        lambda parts, gamma: power(parts, gamma) * (1 + gamma * _p_log_p_over_rest(parts)),
        lambda parts, gamma: _finite_surprise(parts) * power(parts, gamma) * parts.log_rest,
    )


def _finite_surprise(parts: _Parts) -> Array:
    """-log p, but 0 where p = 0, since it is multiplied by 0 there."""
    return jnp.where(jnp.isinf(parts.surprise), 0, parts.surprise)


def _p_log_p(parts: _Parts) -> Array:
    return parts.p * _finite_surprise(parts)


def _p_log_p_over_rest(parts: _Parts) -> Array:
    """-p log p / (1 - p), by its series where p is almost 1."""
    r = parts.rest
    near = r < 1e-4
    series = parts.p * (1 + r * (1 / 2 + r * (1 / 3 + r / 4)))
    return jnp.where(near, series, _p_log_p(parts) / jnp.where(near, 1, r))


_POLY1 = _Rule(
    lambda parts, epsilon: parts.surprise + epsilon * parts.rest,
    lambda parts, epsilon: 1 + epsilon * parts.p,
    lambda parts, epsilon: parts.rest,
)

_GENERALIZED = _Rule(
    # A traced power of 0 leaves an excluded class infinite, so that it is known for one.
    lambda parts, power: jnp.where(power == 0, parts.surprise, _box_cox(_bounded(parts.surprise), power)),
    lambda parts, power: jnp.exp(-power * _bounded(parts.surprise)),
    lambda parts, power: _slope_by_power(_bounded(parts.surprise), power),
)


def _bounded(x: Array) -> Array:
    """The largest number in place of inf, so that 0 times it is 0."""
    return jnp.minimum(x, jnp.finfo(x.dtype).max)


def _slope_by_power(s: Array, power: Array) -> Array:
    x = power * s
    small = x < 0.5
    # ((1 + x) exp(-x) - 1) / x^2 = -sum_{n >= 2} (n - 1) (-x)^(n - 2) / n!
    series = power_series(-jnp.where(small, x, 0), [-(n - 1) / math.factorial(n) for n in range(2, 15)])
    large = ((1 + x) * jnp.exp(-x) - 1) / jnp.where(small, 1, power) ** 2
    return jnp.where(small, jnp.where(small, s, 0) ** 2 * series, large)


@slopes(lambda s, power: jnp.exp(-power * s), _slope_by_power)
def _box_cox(s: Array, power: Array) -> Array:
    """(1 - exp(-power s)) / power, and s for power 0, its limit."""
    x = power * s
    return jnp.where(x == 0, s, -jnp.expm1(-x) / jnp.where(x == 0, 1, power))
