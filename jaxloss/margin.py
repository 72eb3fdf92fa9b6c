"""Margin losses: of scores `z` that must be on the correct side by a margin. At their kinks the derivative is 0.

Targets `y` are signs (unit: element), labels, one-hot rows or sets of classes (unit: example, of `K` classes). They
only choose sides, so the derivative with respect to them is 0; the two losses that take soft targets, `sparsemax` and
`multilabel_soft_margin`, have one.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import no_slope, partials, saved_for_backward
from jaxloss._numerics.elementary import bce_of_logit, relu0, softplus
from jaxloss._numerics.rows import Row, is_at, row_total, take_label
from jaxloss._platform import apart, cpu, gpu, mesh
from jaxloss.contract import (
    AT_LEAST_0,
    BINARY,
    LABEL,
    LOGIT,
    ONE_HOT,
    SCORE,
    SIGN,
    TARGET,
    ArrayLike,
    Holds,
    Units,
    current_loss,
    loss,
    losses,
)

__all__ = [
    "categorical_hinge",
    "hinge",
    "multi_margin",
    "multilabel_margin",
    "multilabel_soft_margin",
    "perceptron",
    "soft_margin",
    "sparsemax",
    "squared_hinge",
]


SCORES = Holds("score", LOGIT, core=1)


def _sign(y: Array) -> Array:
    """A target of -1 or +1; 0 counts as -1, so that bool targets work."""
    return y + (y * y - 1)


@partials(
    no_slope,
    lambda y, z, margin: jnp.where(margin > _sign(y) * z, -_sign(y), 0),
    lambda y, z, margin: jnp.where(margin > _sign(y) * z, 1.0, 0.0),
)
def _hinge(y: Array, z: Array, margin: Array) -> Array:
    return jnp.maximum(margin - _sign(y) * z, 0)


@partials(
    no_slope,
    lambda y, z, margin: -2 * _sign(y) * relu0(margin - _sign(y) * z),
    lambda y, z, margin: 2 * relu0(margin - _sign(y) * z),
)
def _squared_hinge(y: Array, z: Array, margin: Array) -> Array:
    return jnp.maximum(margin - _sign(y) * z, 0) ** 2


@partials(no_slope, lambda y, z: -_sign(y) * jax.nn.sigmoid(-_sign(y) * z))
def _soft_margin(y: Array, z: Array) -> Array:
    return softplus(-_sign(y) * z)


@loss
def hinge(y_true: ArrayLike, y_pred: ArrayLike, *, margin: float | ArrayLike = 1.0, **units: Unpack[Units]) -> Array:
    """Hinge loss: `max(0, margin - y z)`, with derivative 0 at the kink `y z = margin`.

    Args:
      y_true: (...) targets -1 or +1; 0 counts as -1, so that 0/1 and bool targets work.
      y_pred: (...) scores.
      margin: how far on the right side a score must lie to cost nothing, at least 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a negative margin. TypeError: `y_pred` of integer dtype.
      Any other target makes its element NaN, with zero gradient.

    Example:
      >>> print(hinge([1, -1], [0.5, 0.5]))  # (0.5 + 1.5) / 2
      1.0

    Source: Cortes and Vapnik 1995, doi 10.1007/BF00994018. Agrees with keras.losses.Hinge, and with
    optax.losses.hinge_loss for targets -1 and +1.
    """

    def element(y: Array, z: Array, margin: float | Array) -> Array:
        return _hinge(y, z, margin)

    inputs = {"y_true": (y_true, SIGN), "y_pred": (y_pred, SCORE)}
    return losses(element, inputs, options={"margin": (margin, AT_LEAST_0)}, elementwise=True, **units)


@loss
def squared_hinge(
    y_true: ArrayLike, y_pred: ArrayLike, *, margin: float | ArrayLike = 1.0, **units: Unpack[Units]
) -> Array:
    """Squared hinge loss: `max(0, margin - y z)^2`.

    Args:
      y_true: (...) targets -1 or +1; 0 counts as -1, so that 0/1 and bool targets work.
      y_pred: (...) scores.
      margin: how far on the right side a score must lie to cost nothing, at least 0.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ, a negative margin. TypeError: `y_pred` of integer dtype.
      Any other target makes its element NaN, with zero gradient.

    Example:
      >>> print(squared_hinge([1, -1], [0.5, 0.5]))  # (0.25 + 2.25) / 2
      1.25

    Source: Cortes and Vapnik 1995, doi 10.1007/BF00994018, with the exponent 2. Agrees with
    keras.losses.SquaredHinge.
    """

    def element(y: Array, z: Array, margin: float | Array) -> Array:
        return _squared_hinge(y, z, margin)

    inputs = {"y_true": (y_true, SIGN), "y_pred": (y_pred, SCORE)}
    return losses(element, inputs, options={"margin": (margin, AT_LEAST_0)}, elementwise=True, **units)


@loss
def perceptron(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Perceptron loss: `max(0, -y z)`, a hinge of margin 0.

    At the kink z = 0 the derivative is 0, so a model that starts with all scores 0 does not move.

    Args:
      y_true: (...) targets -1 or +1; 0 counts as -1, so that 0/1 and bool targets work.
      y_pred: (...) scores.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      Any other target makes its element NaN, with zero gradient.

    Example:
      >>> print(perceptron([1, -1], [0.5, 0.5]))  # (0 + 0.5) / 2
      0.25

    Source: Rosenblatt 1958, doi 10.1037/h0042519. Agrees with optax.losses.perceptron_loss for targets -1 and +1.
    """

    def element(y: Array, z: Array) -> Array:
        return _hinge(y, z, 0.0)

    return losses(element, {"y_true": (y_true, SIGN), "y_pred": (y_pred, SCORE)}, elementwise=True, **units)


@loss
def soft_margin(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Soft margin (logistic) loss: `log(1 + exp(-y z))`, for scores of any size.

    Args:
      y_true: (...) targets -1 or +1; 0 counts as -1, so that 0/1 and bool targets work.
      y_pred: (...) scores.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      Any other target makes its element NaN, with zero gradient.

    Example:
      >>> print(soft_margin([1, -1], [0.0, 0.0]))  # log 2
      0.6931472

    Source: Friedman, Hastie and Tibshirani 2000, doi 10.1214/aos/1016218223. Agrees with
    torch.nn.functional.soft_margin_loss (which overflows) for targets -1 and +1.
    """

    inputs = {"y_true": (y_true, SIGN), "y_pred": (y_pred, SCORE)}
    return losses(_soft_margin, inputs, elementwise=True, **units)


@loss
def sparsemax(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Binary sparsemax loss: `r (r + z - c)` with `c = clip(z, -1, 1)` and `r = (c + 1) / 2 - y`.

    It is 0 exactly where the sparse sigmoid `(c + 1) / 2` equals the target; its derivative with respect to z is r.
    For the target 0 it is 0 up to z = -1, then `(z + 1)^2 / 4`, and z from 1 on.

    Args:
      y_true: (...) targets in [0, 1].
      y_pred: (...) scores.

    Returns:
      The mean over elements; with `reduction="none"` one loss per element, shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      A target outside [0, 1] makes its element NaN, with zero gradient.

    Example:
      >>> print(sparsemax([1, 0], [0.0, 3.0]))  # (1 / 4 + 3) / 2
      1.625

    Source: Martins and Astudillo 2016, arXiv 1602.02068, for two classes; for soft targets Blondel, Martins and
    Niculae 2020, arXiv 1901.02324. Agrees with optax.losses.sparsemax_loss for the targets 0 and 1.
    """

    return losses(_sparsemax, {"y_true": (y_true, TARGET), "y_pred": (y_pred, SCORE)}, elementwise=True, **units)


def _sparse_sigmoid_minus(y: Array, c: Array) -> Array:
    return (c - (2 * y - 1)) / 2  # one rounding, where (c + 1) / 2 would lose a c near -1 or 1


@partials(lambda y, z: 2 * y - 1 - z, lambda y, z: _sparse_sigmoid_minus(y, jnp.clip(z, -1, 1)))
def _sparsemax(y: Array, z: Array) -> Array:
    c = jnp.clip(z, -1, 1)
    r = _sparse_sigmoid_minus(y, c)
    return r * (r + (z - c))


@loss
def categorical_hinge(
    y_true: ArrayLike, y_pred: ArrayLike, *, margin: float | ArrayLike = 1.0, axis: int = -1, **units: Unpack[Units]
) -> Array:
    """Categorical hinge loss: `max(0, margin + max_wrong z - z_right)`, with derivative 0 at the kink.

    Wrong classes that tie for the maximum share its derivative equally.

    Args:
      y_true: (..., K) one-hot targets.
      y_pred: (..., K) scores; a class that the model excludes may have -inf, if it is wrong.
      margin: by how much the right score must exceed all others to cost nothing, at least 0.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ, a negative margin. TypeError: `y_pred` of integer dtype.
      A target that is not one-hot makes its example NaN, with zero gradient.

    Example:
      >>> print(categorical_hinge([[0, 1, 0], [0, 0, 1]], [[0.0, 2.5, 1.0], [0.5, 0.0, 1.0]]))  # (0 + 0.5) / 2
      0.25

    Source: Crammer and Singer 2001, Journal of Machine Learning Research 2. Agrees with
    optax.losses.multiclass_hinge_loss, and with keras.losses.CategoricalHinge unless all wrong scores are negative:
    that function counts a 0 among them.
    """

    def example(y: Array, z: Array, margin: float | Array) -> Array:
        right = y == 1
        excess = jnp.max(jnp.where(right, -jnp.inf, z)) - cpu.total(jnp.where(right, z, 0))
        # A number for each row, as the other sums: only one class may be right.
        return jnp.where(saved_for_backward(jnp.sum(y)) == 1, relu0(margin + excess), jnp.nan)

    inputs = {"y_true": (y_true, Holds("number", ONE_HOT, core=1)), "y_pred": (y_pred, SCORES)}
    return losses(example, inputs, options={"margin": (margin, AT_LEAST_0)}, axis=axis, **units)


@loss
def multi_margin(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    power: int = 1,
    margin: float | ArrayLike = 1.0,
    axis: int = -1,
    **units: Unpack[Units],
) -> Array:
    """Multi-class margin loss: `sum_{k != y} max(0, margin - z_y + z_k)^power / K`, with derivative 0 at the kinks.

    Args:
      y_true: (...) integer labels in 0..K-1.
      y_pred: (..., K) scores; a class that the model excludes may have -inf, if it is wrong.
      power: 1 or 2.
      margin: by how much the right score must exceed another to cost nothing, at least 0.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that do not fit, a power other than 1 and 2, a negative margin. TypeError: labels of floating
      dtype, or `y_pred` of integer dtype. A label outside 0..K-1 makes its example NaN, with zero gradient.

    Example:
      >>> print(multi_margin([1, 0], [[0.0, 2.5, 2.0], [1.0, 0.0, 0.5]]))  # (0.5 / 3 + 0.5 / 3) / 2
      0.16666667

    Source: Weston and Watkins 1999, European Symposium on Artificial Neural Networks. Agrees with
    torch.nn.functional.multi_margin_loss.
    """
    if not isinstance(power, int) or power not in (1, 2):
        raise ValueError(f"{current_loss()}: power must be the number 1 or 2, got {power}.")

    def example(label: Array, z: Array, margin: float | Array) -> Array:
        terms = relu0(margin + (z - take_label(Row.of(z), label))) ** power
        return cpu.total(jnp.where(is_at(label, z), 0, terms)) / z.size

    inputs = {"y_true": (y_true, LABEL), "y_pred": (y_pred, SCORES)}
    return losses(example, inputs, options={"margin": (margin, AT_LEAST_0)}, axis=axis, **units)


@loss
def multilabel_margin(y_true: ArrayLike, y_pred: ArrayLike, *, axis: int = -1, **units: Unpack[Units]) -> Array:
    """Multi-label margin loss: `sum_{j in y} sum_{k not in y} max(0, 1 - z_j + z_k) / K`, derivative 0 at the kinks.

    Args:
      y_true: (..., K) matrix of 0 and 1, or bool: 1 where the example has the class.
      y_pred: (..., K) scores; a class that the model excludes may have -inf, if the example does not have it.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      A target other than 0 and 1 (such as a list of labels that ends in -1) makes its example NaN, with zero gradient.

    Example:
      >>> print(multilabel_margin([[1, 0, 0, 1]], [[0.1, 0.2, 0.4, 0.8]]))  # (1.1 + 1.3 + 0.4 + 0.6) / 4
      0.85

    Source: Elisseeff and Weston 2001, Advances in Neural Information Processing Systems 14, with K as divisor. Agrees
    with torch.nn.functional.multilabel_margin_loss, whose targets are lists of labels.
    """

    def example(y: Array, z: Array) -> Array:
        # Pairs of classes cannot be spread along one axis of the mesh twice.
        return _multilabel_margin(*mesh.replicated(y, z)) / z.size

    inputs = {"y_true": (y_true, Holds("number", BINARY, core=1)), "y_pred": (y_pred, SCORES)}
    return losses(example, inputs, axis=axis, **units)


def _pairs(y: Array) -> Array:
    """Of which classes the example has the first, and not the second."""
    return (y == 1)[:, None] & (y == 0)[None, :]


@jax.custom_jvp
def _multilabel_margin(y: Array, z: Array) -> Array:
    return cpu.total(jnp.where(_pairs(y), jnp.maximum(1 - (z[:, None] - z[None, :]), 0), 0))


def _in_one_sum(y: Array, z: Array) -> Array:
    """The derivative, where a pair that goes into two sums would be stored: each class finds its own pairs."""
    sign, z = _sign(y), apart(z, 1, "gpu")
    lacks = (sign[:, None] != sign[None, :]) & (sign[:, None] * (z[:, None] - z[None, :]) < 1)
    return -sign * cpu.total(lacks.astype(z.dtype), 0)


@cpu.instead(_in_one_sum)
@gpu.instead(_in_one_sum)
def _multilabel_margin_slope(y: Array, z: Array) -> Array:
    lacks = (_pairs(y) & (z[:, None] - z[None, :] < 1)).astype(z.dtype)
    return jnp.sum(lacks, axis=0) - jnp.sum(lacks, axis=1)


@_multilabel_margin.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return _multilabel_margin(*primals), jnp.sum(_multilabel_margin_slope(*primals) * tangents[1])


@loss
def multilabel_soft_margin(y_true: ArrayLike, y_pred: ArrayLike, *, axis: int = -1, **units: Unpack[Units]) -> Array:
    """Multi-label soft margin loss: the mean over the classes of `bce` from logits.

    Args:
      y_true: (..., K) matrix of targets in [0, 1]: 1 where the example has the class.
      y_pred: (..., K) logits.
      axis: the class axis.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, shape (...).

    Raises:
      ValueError: shapes that differ. TypeError: `y_pred` of integer dtype.
      A target outside [0, 1] (by more than rounding) makes its example NaN; only the entry of that target loses its
      gradient.

    Example:
      >>> print(multilabel_soft_margin([[1, 0]], [[0.0, 0.0]]))  # log 2
      0.6931472

    Source: as for `bce`. Agrees with torch.nn.functional.multilabel_soft_margin_loss.
    """

    def example(y: Array, z: Array) -> Array:
        return row_total(bce_of_logit(y, z)) / z.size

    # By entry: each has a derivative of its own.
    target = TARGET._replace(core=1, outside="entry")
    return losses(example, {"y_true": (y_true, target), "y_pred": (y_pred, SCORE._replace(core=1))}, axis=axis, **units)
