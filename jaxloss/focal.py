"""Losses that weigh the cross-entropy by the probability of the target. `z` logits, `p` probabilities, `y` targets.

The unit is an example of `K` classes, which consumes the class axis; for `binary_focal` it is an element.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._contract.types import STORED_TARGETS
from jaxloss._numerics.derivatives import partials
from jaxloss._numerics.elementary import (
    LEAST_PROBABILITY,
    WHOLE_POWERS,
    at_least_tiny,
    bce_of_logit,
    bce_of_probability,
    d_bce_of_logit,
    d_bce_of_probability,
    is_constant,
    log1p_of_fraction,
    log_complement,
    log_probability,
    power_series,
    saturate,
)
from jaxloss._numerics.rows import (
    Classes,
    Part,
    Row,
    Targets,
    exp_sum,
    exp_sum_alone,
    row_sum,
    smoothed,
    sum_of,
    surprisal,
    zero_at_zero,
)
from jaxloss._numerics.scores import Probabilities, weighed
from jaxloss._platform import apart, cpu
from jaxloss.contract import (
    AT_LEAST_0,
    FINITE,
    FRACTION,
    LABEL,
    LOGITS,
    PER_CLASS,
    PROBABILITIES,
    PROBABILITY,
    SCORE,
    TARGET,
    ArrayLike,
    Units,
    loss,
    losses,
)

__all__ = [
    "binary_focal",
    "categorical_focal",
    "generalized_cce",
    "poly1",
    "sparse_focal",
    "sparse_generalized_cce",
    "sparse_poly1",
]


@loss
def binary_focal(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    gamma: float | ArrayLike = 2.0,
    alpha: float | ArrayLike | None = None,
    label_smoothing: float | ArrayLike = 0.0,
    **units: Unpack[Units],
) -> Array:
    """Focal loss of two classes: `a (1 - p_t)^gamma bce(y, p)`, where `p_t = p y + (1 - p) (1 - y)`.

    It is finite for every finite logit and every gamma; with gamma 0 and no alpha it is `bce`.

    Args:
      y_true: (...) targets in [0, 1].
      y_pred: (...) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      gamma: at least 0; the higher, the smaller the weight of elements that are classified well.
      alpha: in [0, 1]; the factor a is `alpha y + (1 - alpha) (1 - y)`. Without it a = 1.
      label_smoothing: s in [0, 1]; the targets become `(1 - s) y + s / 2`.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

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

    def element(
        y: Array, score: Array, gamma: float | Array, alpha: float | Array | None, label_smoothing: float | Array
    ) -> Array:
        y = smoothed(y, label_smoothing, 2)
        focal = (_focal_of_logit if from_logits else _focal_of_probability)(gamma, balanced=alpha is not None)
        return focal(y, score, gamma, 0.5 if alpha is None else alpha)

    inputs = {"y_true": (y_true, TARGET), "y_pred": (y_pred, SCORE if from_logits else PROBABILITY)}
    options = {
        "gamma": (gamma, AT_LEAST_0),
        "alpha": (alpha, FRACTION),
        "label_smoothing": (label_smoothing, FRACTION),
    }
    return losses(element, inputs, options=options, elementwise=True, **units)


@loss
def categorical_focal(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    gamma: float | ArrayLike = 2.0,
    alpha: ArrayLike | None = None,
    label_smoothing: float | ArrayLike = 0.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Focal loss of K classes: `-sum_k a_k y_k (1 - p_k)^gamma log p_k`.

    Probabilities are normalised as in `cce`. From logits it is finite for every row and every gamma, as long as a
    class with the logit -inf has no weight; with gamma 0 and no alpha it is `cce`.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      gamma: at least 0; the higher, the smaller the weight of examples that are classified well.
      alpha: a, one factor for all classes, or (K,) factors; at least 0.
      label_smoothing: s in [0, 1]; the targets become `(1 - s) y + s / K`.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, options out of range. TypeError: `y_pred` of integer dtype.
      A probability below 0 or above 1 (by more than rounding) makes its example NaN, with zero gradient.

    Example:
      >>> print(categorical_focal([[0, 1, 0]], [[0.25, 0.5, 0.25]]))  # 0.5^2 log 2
      0.1732868

    Source: Lin, Goyal, Girshick, He and Dollar 2017, arXiv 1708.02002. Agrees with
    keras.losses.CategoricalFocalCrossentropy, but for its clipping; the alpha of that one is 0.25 if not given.
    """

    def example(
        y: Array, scores: Array, gamma: float | Array, alpha: float | Array | None, label_smoothing: float | Array
    ) -> Array:
        row = Row.of(scores)
        targets = Targets.of(y, label_smoothing, alpha, row)
        return _over_classes(_focal(_power(gamma)), targets, row, gamma, from_logits)

    inputs = {"y_true": (y_true, STORED_TARGETS), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    options = {
        "gamma": (gamma, AT_LEAST_0),
        "alpha": (alpha, PER_CLASS._replace(domain=AT_LEAST_0) if np.ndim(alpha) else AT_LEAST_0),  # pyright: ignore
        "label_smoothing": (label_smoothing, FRACTION),
    }
    return losses(example, inputs, options=options, axis=axis, sibling="sparse_focal", **units)


@loss
def poly1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    epsilon: float | ArrayLike = 1.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Poly-1 cross-entropy: `sum_k y_k (-log p_k + epsilon (1 - p_k))`.

    Probabilities are normalised as in `cce`. With epsilon 0 it is `cce`.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      epsilon: what is added to the coefficient, 1, of the first term of the expansion in powers of 1 - p. At -1 or
        above the loss falls as p rises.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, an epsilon that is not finite. TypeError: `y_pred` of integer dtype.
      A probability below 0 or above 1 (by more than rounding) makes its example NaN, with zero gradient.

    Example:
      >>> print(poly1([[0, 1, 0]], [[0.25, 0.5, 0.25]]))  # log 2 + 0.5
      1.1931472

    Source: Leng et al. 2022, arXiv 2204.12511 (which recommends 2 for ImageNet, -1 for detection). Agrees with
    optax.losses.poly_loss_cross_entropy from logits, whose epsilon is 2 if not given.
    """

    def example(y: Array, scores: Array, epsilon: float | Array) -> Array:
        return _over_classes(_POLY1, Targets(y), Row.of(scores), epsilon, from_logits)

    inputs = {"y_true": (y_true, STORED_TARGETS), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    return losses(example, inputs, options={"epsilon": (epsilon, FINITE)}, axis=axis, sibling="sparse_poly1", **units)


@loss
def generalized_cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    power: float | ArrayLike = 0.7,
    from_logits: bool = False,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Generalized cross-entropy, for noisy labels: `sum_k y_k (1 - p_k^power) / power`.

    It leads from `cce` (power 0, the limit) to `1 - p` (power 1). Probabilities are normalised as in `cce`.

    Args:
      y_true: (..., K) target distributions, one-hot or soft.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      power: in [0, 1].
      from_logits: whether `y_pred` holds logits; they are more exact than probabilities.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, a power outside [0, 1]. TypeError: `y_pred` of integer dtype.
      A probability below 0 or above 1 (by more than rounding) makes its example NaN, with zero gradient.

    Example:
      >>> print(generalized_cce([[0, 1, 0]], [[0.5, 0.25, 0.25]], power=0.5))  # (1 - sqrt 0.25) / 0.5
      1.0

    Source: Zhang and Sabuncu 2018, arXiv 1805.07836. Agrees with keras.losses.CategoricalGeneralizedCrossEntropy, whose
    labels are integers and whose power is 0.5 if not given, for rows that add up to 1, from 1e-7 to 1 - 1e-7.
    """

    def example(y: Array, scores: Array, power: float | Array) -> Array:
        return _over_classes(_GENERALIZED, Targets(y), Row.of(scores), power, from_logits)

    inputs = {"y_true": (y_true, STORED_TARGETS), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    return losses(
        example, inputs, options={"power": (power, FRACTION)}, axis=axis, sibling="sparse_generalized_cce", **units
    )


@loss
def sparse_focal(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    gamma: float | ArrayLike = 2.0,
    alpha: ArrayLike | None = None,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Focal loss of K classes with integer labels: `-a[y] (1 - p[y])^gamma log p[y]`.

    It is `categorical_focal` of the one-hot, without smoothing.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits, gamma, alpha, axis: as for `categorical_focal`.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that do not fit, options out of range. TypeError: labels of floating dtype, or `y_pred` of
      integer dtype. A label outside 0..K-1 makes its example NaN, with zero gradient; so does a probability outside
      [0, 1] (by more than rounding).

    Example:
      >>> print(sparse_focal([1], [[0.25, 0.5, 0.25]]))  # 0.5^2 log 2
      0.1732868

    Source: as for `categorical_focal`. No function of optax, Keras or PyTorch computes it.
    """

    def example(label: Array, scores: Array, gamma: float | Array, alpha: float | Array | None) -> Array:
        loss = _of_label(_focal(_power(gamma)), label, scores, gamma, from_logits)
        if isinstance(alpha, Array) and alpha.ndim:
            return weighed(loss, alpha, label)
        return loss if alpha is None else zero_at_zero(jnp.asarray(alpha, loss.dtype), loss)

    inputs = {"y_true": (y_true, LABEL), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    options = {
        "gamma": (gamma, AT_LEAST_0),
        "alpha": (alpha, PER_CLASS._replace(domain=AT_LEAST_0) if np.ndim(alpha) else AT_LEAST_0),  # pyright: ignore
    }
    return losses(example, inputs, options=options, axis=axis, sibling="categorical_focal", **units)


@loss
def sparse_poly1(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    epsilon: float | ArrayLike = 1.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Poly-1 cross-entropy with integer labels: `-log p[y] + epsilon (1 - p[y])`, equal to `poly1` of the one-hot.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits, epsilon, axis: as for `poly1`.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that do not fit, an epsilon that is not finite. TypeError: labels of floating dtype, or
      `y_pred` of integer dtype. A label outside 0..K-1 makes its example NaN, with zero gradient; so does a probability
      outside [0, 1] (by more than rounding).

    Example:
      >>> print(sparse_poly1([1], [[0.25, 0.5, 0.25]]))  # log 2 + 0.5
      1.1931472

    Source: as for `poly1`. No function of optax, Keras or PyTorch computes it.
    """

    def example(label: Array, scores: Array, epsilon: float | Array) -> Array:
        return _of_label(_POLY1, label, scores, epsilon, from_logits)

    inputs = {"y_true": (y_true, LABEL), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    return losses(example, inputs, options={"epsilon": (epsilon, FINITE)}, axis=axis, sibling="poly1", **units)


@loss
def sparse_generalized_cce(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    power: float | ArrayLike = 0.7,
    from_logits: bool = False,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Generalized cross-entropy with integer labels: `(1 - p[y]^power) / power`, `generalized_cce` of the one-hot.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      power, from_logits, axis: as for `generalized_cce`.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that do not fit, a power outside [0, 1]. TypeError: labels of floating dtype, or `y_pred` of
      integer dtype. A label outside 0..K-1 makes its example NaN, with zero gradient; so does a probability outside
      [0, 1] (by more than rounding).

    Example:
      >>> print(sparse_generalized_cce([0], [[0.25, 0.75]], power=0.5))  # (1 - sqrt 0.25) / 0.5
      1.0

    Source: as for `generalized_cce`. Agrees with keras.losses.CategoricalGeneralizedCrossEntropy, whose power is
    0.5 if not given, for rows that add up to 1, from 1e-7 to 1 - 1e-7.
    """

    def example(label: Array, scores: Array, power: float | Array) -> Array:
        return _of_label(_GENERALIZED, label, scores, power, from_logits)

    inputs = {"y_true": (y_true, LABEL), "y_pred": (y_pred, LOGITS if from_logits else PROBABILITIES)}
    return losses(example, inputs, options={"power": (power, FRACTION)}, axis=axis, sibling="generalized_cce", **units)


# ---------------------------------------------------------------------------------------------------------------------
# Two classes
#
# With the cross-entropy b and the error e = 1 - p_t = y (1 - p) + (1 - y) p the loss is a b e^gamma. From logits,
#   db/dz = p - y,    de/dz = (1 - 2 y) p (1 - p),    db/dy = -z,    de/dy = (1 - p) - p = -tanh(z / 2).
# e^(gamma - 1), which may be infinite, never stands alone: p (1 - p) / e is at most 1, and b / e is finite too.


def _power(gamma: float | Array) -> Callable[[Array, Array], Array]:
    """x^gamma for x >= 0, as a function of both: a few products for a small whole gamma, and a root for a half more."""
    if is_constant(gamma, 0, *WHOLE_POWERS):
        return lambda x, _: x ** int(gamma)
    if is_constant(gamma, *(n + 1 / 2 for n in WHOLE_POWERS)):
        # The derivative of a root is infinite at 0.
        return lambda x, _: x ** int(gamma) * jnp.sqrt(at_least_tiny(x))
    # 0 where x is: a power of it with a traced gamma of 0 is 1.
    return lambda x, gamma: jnp.where(x > 0, jnp.where(x > 0, x, 1) ** gamma, (gamma == 0).astype(x.dtype))


def _d_power(gamma: float | Array) -> Callable[[Array, Array], Array]:
    """gamma x^(gamma - 1), finite at 0."""
    if is_constant(gamma, 0, *WHOLE_POWERS):
        n = int(gamma)
        return lambda x, _: n * x ** max(n - 1, 0)
    power = _power(gamma)
    return lambda x, gamma: gamma * power(x, gamma) / jnp.maximum(x, LEAST_PROBABILITY)


class _Error(NamedTuple):
    """The error of a logit, for logits of any size."""

    e: Array
    log: Array
    tilt: Array  # de/dy
    pull: Array  # de/dz / e

    @classmethod
    def of(cls, y: Array, z: Array) -> _Error:
        small = jnp.exp(-jnp.abs(z))
        # How much of the target the sign of the logit contradicts. At 0 the side that `jnp.abs` is differentiated on.
        wrong = jnp.where(z >= 0, 1 - y, y)
        scaled = wrong + (1 - wrong) * small  # e (1 + small)
        certain = scaled == 0
        share = jnp.where(certain, 1, small / jnp.where(certain, 1, scaled)) / (1 + small)
        log = jnp.where(wrong == 0, -jnp.abs(z), jnp.log(jnp.where(wrong == 0, 1, scaled))) - log1p_of_fraction(small)
        return cls(scaled / (1 + small), log, -jnp.tanh(z / 2), (1 - 2 * y) * share)


def _balance(y: Array, alpha: Array, balanced: bool) -> tuple[Array | float, Array | float]:
    """The factor a and its derivative da/dy."""
    return (alpha * y + (1 - alpha) * (1 - y), 2 * alpha - 1) if balanced else (1.0, 0.0)


def _focal_of_logit(gamma: float | Array, balanced: bool) -> Callable[..., Array]:
    power = _power(gamma)

    def finite_bce(y: Array, z: Array) -> Array:
        return saturate(bce_of_logit(y, z))  # of an infinite logit it meets factors of 0

    def d_target(y: Array, z: Array, gamma: Array, alpha: Array) -> Array:
        error, (a, slope_a) = _Error.of(y, z), _balance(y, alpha, balanced)
        # The cross-entropy last, and once: it may be as large as the largest number.
        slope = a * gamma * (power(error.e, gamma) / at_least_tiny(error.e)) * error.tilt
        rest = slope_a * power(error.e, gamma)
        return (slope + rest) * finite_bce(y, z) - a * power(error.e, gamma) * saturate(z)

    def d_logit(y: Array, z: Array, gamma: Array, alpha: Array) -> Array:
        error, (a, _) = _Error.of(y, z), _balance(y, alpha, balanced)
        return a * power(error.e, gamma) * (d_bce_of_logit(y, z) + gamma * (finite_bce(y, z) * error.pull))

    def d_gamma(y: Array, z: Array, gamma: Array, alpha: Array) -> Array:
        error, (a, _) = _Error.of(y, z), _balance(y, alpha, balanced)
        # Where the logarithm is below that, the cross-entropy that it is multiplied with is 0.
        return finite_bce(y, z) * a * power(error.e, gamma) * jnp.maximum(error.log, -1e4)

    def d_alpha(y: Array, z: Array, gamma: Array, alpha: Array) -> Array:
        return finite_bce(y, z) * power(_Error.of(y, z).e, gamma) * (2 * y - 1)

    @partials(d_target, d_logit, d_gamma, d_alpha)
    def focal(y: Array, z: Array, gamma: Array, alpha: Array) -> Array:
        error = y * jax.nn.sigmoid(-z) + (1 - y) * jax.nn.sigmoid(z)
        return bce_of_logit(y, z) * power(error, gamma) * _balance(y, alpha, balanced)[0]

    return focal


def _focal_of_probability(gamma: float | Array, balanced: bool) -> Callable[..., Array]:
    power, d_power = _power(gamma), _d_power(gamma)

    def error(y: Array, p: Array) -> Array:
        return y * (1 - p) + (1 - y) * p

    def along(slope_b: Array, slope_e: Array, y: Array, p: Array, gamma: Array) -> Array:
        """The derivative of b e^gamma along a direction in which b and e have these slopes."""
        e = error(y, p)
        return power(e, gamma) * slope_b + d_power(e, gamma) * bce_of_probability(y, p) * slope_e

    def d_target(y: Array, p: Array, gamma: Array, alpha: Array) -> Array:
        a, slope_a = _balance(y, alpha, balanced)
        slope = along(log_complement(p) - log_probability(p), 1 - 2 * p, y, p, gamma)
        return a * slope + slope_a * (bce_of_probability(y, p) * power(error(y, p), gamma))

    def d_probability(y: Array, p: Array, gamma: Array, alpha: Array) -> Array:
        return _balance(y, alpha, balanced)[0] * along(d_bce_of_probability(y, p), 1 - 2 * y, y, p, gamma)

    def d_gamma(y: Array, p: Array, gamma: Array, alpha: Array) -> Array:
        e = error(y, p)
        return bce_of_probability(y, p) * power(e, gamma) * log_probability(e) * _balance(y, alpha, balanced)[0]

    def d_alpha(y: Array, p: Array, gamma: Array, alpha: Array) -> Array:
        return bce_of_probability(y, p) * power(error(y, p), gamma) * (2 * y - 1)

    @partials(d_target, d_probability, d_gamma, d_alpha)
    def focal(y: Array, p: Array, gamma: Array, alpha: Array) -> Array:
        return bce_of_probability(y, p) * power(error(y, p), gamma) * _balance(y, alpha, balanced)[0]

    return focal


# ---------------------------------------------------------------------------------------------------------------------
# K classes
#
# Each loss is sum_k y_k f(p_k), and f is most exact as a function of s = -log p, p and 1 - p together. Since
# ds_k / dz_j = p_j - [j = k], the derivative with respect to the logits is, with c = y df/ds,
#   p_j sum(c) - c_j  =  p_j (sum(c) - c_j) - c_j (1 - p_j),
# where for a one-hot y nothing cancels.


class _Rule(NamedTuple):
    """The loss f of a class, with one option, and its derivatives with respect to s and to the option.

    shares: whether what f and df/ds have in common would be stored for both.
    """

    f: Callable[[Classes, Array], Array]
    d_s: Callable[[Classes, Array], Array]
    d_option: Callable[[Classes, Array], Array]
    shares: bool = False


def _over_classes(rule: _Rule, targets: Targets, row: Row, option: float | Array, from_logits: bool) -> Array:
    option = jnp.asarray(option, row.wide.dtype)
    if from_logits:
        return _over_logits(rule, targets.made(), row, option, None)

    return Probabilities(row).total(lambda p, t, option: t.made() * _of_probability(rule, p, option), targets, option)


def _of_label(rule: _Rule, label: Array, scores: Array, option: float | Array, from_logits: bool) -> Array:
    """f of one class: all that it needs of the row is the surprisal there, whose derivative is exact."""
    row = Row.of(scores)
    option = jnp.asarray(option, row.wide.dtype)
    if not from_logits:
        return Probabilities(row).at(label, lambda p: _of_probability(rule, p, option))

    @partials(
        lambda s, option: rule.d_s(_of_surprisal(s), option),
        lambda s, option: rule.d_option(_of_surprisal(s), option),
    )
    def f(s: Array, option: Array) -> Array:
        return rule.f(_of_surprisal(s), option)

    return f(surprisal(row, label, exp_sum(row)), option)


def _of_surprisal(s: Array) -> Classes:
    return Classes(s, jnp.exp(-s), -jnp.expm1(-s))


def _of_probability(rule: _Rule, p: Array, option: Array) -> Array:
    def d_p(p: Array, option: Array) -> Array:
        # ds/dp = -1 / p is bounded, but not what else df/ds has with the factor p.
        k = _classes(p)._replace(p=jnp.maximum(p, LEAST_PROBABILITY))
        return -rule.d_s(k, option) / k.p

    @partials(d_p, lambda p, option: rule.d_option(_classes(p), option))
    def f(p: Array, option: Array) -> Array:
        return rule.f(_classes(p), option)

    return f(p, option)


def _classes(p: Array) -> Classes:
    return Classes(-log_probability(p), p, 1 - p)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _over_logits(rule: _Rule, y: Array, row: Row, option: Array, sums: Part | None) -> Array:
    """A class without weight may have the logit -inf. Where nothing is differentiated, it finds the sums itself."""

    def term(y: Array, z: Array, largest: Array, excess: Array, option: Array) -> Array:
        return zero_at_zero(y, rule.f(Classes.at(z, largest, excess), option))

    return sum_of(term)(y, row.wide, *(exp_sum_alone(row) if sums is None else sums), option)


@functools.partial(_over_logits.defjvp, symbolic_zeros=True)
def _(rule: _Rule, primals: tuple[Array, Row, Array, Part | None], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    y, row, option, sums = primals
    dy, d_row, d_option, _ = tangents
    sums = exp_sum(row) if sums is None else sums
    value = _over_logits(rule, y, row, option, sums)
    slope = jnp.zeros_like(value)
    if not isinstance(dy, SymbolicZero):
        classes = Classes.at(row.wide, *sums)
        infinite = jnp.isinf(classes.s)  # and would be NaN, times what does not change
        finite = classes._replace(s=jnp.where(infinite, 0, classes.s))
        constant = jax.lax.stop_gradient(rule.f(classes, option))
        f = jnp.where(infinite, constant, rule.f(finite, option))
        slope += jnp.sum(jnp.where((y == 0) & jnp.isinf(f), 0, f) * dy)
    if not isinstance(d_row.wide, SymbolicZero):

        def c(y: Array, z: Array, largest: Array, excess: Array, option: Array) -> Array:
            return y * rule.d_s(Classes.at(z, largest, excess), option)

        def d_logits(total: Array, y: Array, z: Array, largest: Array, excess: Array, option: Array) -> Array:
            k, own = Classes.at(z, largest, excess), c(y, z, largest, excess, option)
            return k.p * (total - own) - own * k.rest

        total = row_sum(cpu.unshared(c)(y, row.again(), *sums, option))
        z = apart(row.again(), 1, "gpu") if rule.shares else row.again()
        slope += jnp.sum(cpu.unshared(d_logits)(total, y, z, *sums, option) * d_row.wide)
    if not isinstance(d_option, SymbolicZero):
        by_option = rule.d_option(Classes.at(row.wide, *sums), option)
        slope += jnp.sum(zero_at_zero(y, by_option)) * d_option
    return value, slope


def _focal(power: Callable[[Array, Array], Array]) -> _Rule:
    """f = s (1 - p)^gamma, df/ds = (1 - p)^gamma (1 + gamma p s / (1 - p))."""
    return _Rule(
        lambda k, gamma: k.s * power(k.rest, gamma),
        lambda k, gamma: power(k.rest, gamma) * (1 + gamma * _p_s_over_rest(k)),
        lambda k, gamma: _zero_if_infinite(k.s) * power(k.rest, gamma) * log_probability(k.rest),
        shares=True,
    )


def _p_s_over_rest(k: Classes) -> Array:
    """p s / (1 - p), by its series where p is almost 1."""
    near = k.rest < 1e-4
    series = k.p * (1 + k.rest * (1 / 2 + k.rest * (1 / 3 + k.rest / 4)))
    return jnp.where(near, series, k.p * _zero_if_infinite(k.s) / jnp.where(near, 1, k.rest))


def _zero_if_infinite(s: Array) -> Array:
    """s, but 0 where p = 0, since it is multiplied by 0 there."""
    return jnp.where(jnp.isinf(s), 0, s)


# f = s + epsilon (1 - p)
_POLY1 = _Rule(
    lambda k, epsilon: k.s + epsilon * k.rest,
    lambda k, epsilon: 1 + epsilon * k.p,
    lambda k, epsilon: k.rest,
)

# f = (1 - exp(-power s)) / power
_GENERALIZED = _Rule(
    # A power of 0 leaves an excluded class infinite, so that it is known for one.
    lambda k, power: jnp.where(power == 0, k.s, _box_cox(saturate(k.s), power)),
    lambda k, power: jnp.exp(-power * saturate(k.s)),
    lambda k, power: _box_cox_d_power(saturate(k.s), power),
)


def _box_cox_d_power(s: Array, power: Array) -> Array:
    x = power * s
    small = x < 0.5
    # ((1 + x) exp(-x) - 1) / x^2 = -sum_{n >= 2} (n - 1) (-x)^(n - 2) / n!
    series = power_series(-jnp.where(small, x, 0), [-(n - 1) / math.factorial(n) for n in range(2, 15)])
    large = ((1 + x) * jnp.exp(-x) - 1) / jnp.where(small, 1, power) ** 2
    return jnp.where(small, jnp.where(small, s, 0) ** 2 * series, large)


@partials(lambda s, power: jnp.exp(-power * s), _box_cox_d_power)
def _box_cox(s: Array, power: Array) -> Array:
    """(1 - exp(-power s)) / power, and s for power 0, its limit."""
    x = power * s
    return jnp.where(x == 0, s, -jnp.expm1(-x) / jnp.where(x == 0, 1, power))
