"""Losses of masks: how well the pixels of a class, in truth and in the prediction, overlap.

The inputs are (..., K), K classes last; `axis` names the pixel axes, so `axis=(1, 2)` for (batch, height, width, K).
All other axes are units: an example and a class, or a class alone if `axis=(0, 1, 2)` pools the batch. Where the last
axis is a pixel axis too, as in (batch, height, width), there is a single class. Integer label maps are given as
`jax.nn.one_hot(labels, K)`.

Logits are those of a softmax over the classes, or of a sigmoid if there is only one. For classes that may overlap, give
`jax.nn.sigmoid(logits)`: no logarithm follows, so nothing is lost.

`where` says which *pixels* exist. It matches the inputs from the left, as in (batch, height, width); what lies under it
may be NaN, and has gradient 0. A unit without pixels does not exist: it costs 0 and is not counted by the mean.

`TP = sum y p`, `FP = sum (1 - y) p` and `FN = sum y (1 - p)` over the pixels of a unit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._legacy import (
    ArrayLike,
    Reduction,
    _check_axis,
    _check_dtype,
    _check_shapes,
    _sharded_as,
    _spread,
    batched,
    check_mask,
    check_option,
    checking,
    compiled,
    in_explicit_mesh,
    widened,
)
from jaxloss._math import absolute, is_binary, is_probability, poisoned, rounding
from jaxloss._special import positive, raised, ratio

__all__ = ["dice", "focal_tversky", "generalized_dice", "jaccard", "lovasz_hinge", "lovasz_softmax", "tversky"]


@compiled
def dice(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    smooth: float | Array = 0.0,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Dice loss: `1 - (TP + s) / (TP + (FP + FN) / 2 + s)`; at s = 0, `1 - 2 sum(y p) / (sum y + sum p)`.

    It is `tversky` at 1/2, 1/2. A class that is absent from the target costs 1, or 0 if nothing at all of it is
    predicted (0 / 0 counts as a perfect match). To leave absent classes out: `weights=jnp.any(y_true > 0, axis)`.

    Args:
      y_true: (..., K) targets in [0, 1], one-hot over the classes.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      axis: the pixel axes.
      where: which pixels exist, see `jaxloss.segmentation`.
      weights, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss a class of an example, of the shape without
      the pixel axes.

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative `smooth`. TypeError: `y_pred` of integer dtype.
      A target or a probability outside [0, 1] (by more than rounding) makes its unit NaN, with zero gradient.

    Example:
      >>> y = [[1.0], [1.0], [0.0], [0.0]]
      >>> p = [[1.0], [0.5], [0.5], [0.0]]
      >>> print(dice(y, p, axis=0))  # 1 - 2 * 1.5 / (2 + 2)
      0.25

    Source: Milletari et al. 2016, arXiv 1606.04797, with plain sums in the denominator. Agrees with
    keras.losses.Dice but for its epsilon, and with optax.losses.dice_loss of logits at the same `smooth`.
    """
    check_option("dice", "smooth", smooth, low=0)

    def unit(y: Array, p: Array) -> Array:
        return _tversky(y, p, 0.5, 0.5, smooth)

    return _of_pixels(unit, y_true, y_pred, axis, weights, where, reduction, from_logits=from_logits)


@compiled
def tversky(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    alpha: float | Array = 0.5,
    beta: float | Array = 0.5,
    from_logits: bool = False,
    smooth: float | Array = 0.0,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Tversky loss: `1 - (TP + s) / (TP + alpha FP + beta FN + s)`.

    alpha weighs false positives and beta false negatives: a larger beta finds more of a small class. A class that is
    absent from the target costs 1, or 0 if nothing at all of it is predicted.

    Args:
      y_true: (..., K) targets in [0, 1], one-hot over the classes.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      alpha: the weight of false positives, at least 0.
      beta: the weight of false negatives, at least 0.
      from_logits: whether `y_pred` holds logits.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      axis: the pixel axes.
      where: which pixels exist, see `jaxloss.segmentation`.
      weights, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss a class of an example, of the shape without
      the pixel axes.

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative option. TypeError: `y_pred` of integer dtype.
      A target or a probability outside [0, 1] (by more than rounding) makes its unit NaN, with zero gradient.

    Example:
      >>> y = [[1.0], [1.0], [0.0], [0.0]]
      >>> p = [[1.0], [0.5], [0.5], [0.0]]
      >>> print(tversky(y, p, axis=0, alpha=0.0, beta=1.0))  # 1 - 1.5 / (1.5 + 0.5)
      0.25

    Source: Salehi et al. 2017, arXiv 1706.05721. Agrees with optax.losses.dice_loss of logits at the same alpha, beta
    and smooth; keras.losses.Tversky up to 3.15.1 swaps alpha and beta.
    """
    check_option("tversky", "alpha", alpha, low=0)
    check_option("tversky", "beta", beta, low=0)
    check_option("tversky", "smooth", smooth, low=0)

    def unit(y: Array, p: Array) -> Array:
        return _tversky(y, p, alpha, beta, smooth)

    return _of_pixels(unit, y_true, y_pred, axis, weights, where, reduction, from_logits=from_logits)


@compiled
def focal_tversky(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    gamma: float | Array = 4 / 3,
    alpha: float | Array = 0.3,
    beta: float | Array = 0.7,
    from_logits: bool = False,
    smooth: float | Array = 0.0,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Focal Tversky loss: `tversky^(1 / gamma)`, which raises the gradients of units that fit well already.

    Where the loss is 0, so is the gradient (the slope of the power has no bound there).

    Args:
      y_true: (..., K) targets in [0, 1], one-hot over the classes.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      gamma: positive; 1 to 3 in the paper. Below 1 the units that fit badly have the larger gradients.
      alpha, beta: the weights of false positives and of false negatives, at least 0.
      from_logits: whether `y_pred` holds logits.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      axis: the pixel axes.
      where: which pixels exist, see `jaxloss.segmentation`.
      weights, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss a class of an example, of the shape without
      the pixel axes.

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative option. TypeError: `y_pred` of integer dtype.
      A target or a probability outside [0, 1] (by more than rounding) makes its unit NaN, with zero gradient.

    Example:
      >>> y = [[1.0], [1.0], [0.0], [0.0]]
      >>> p = [[1.0], [0.5], [0.5], [0.0]]
      >>> print(focal_tversky(y, p, axis=0, alpha=0.0, beta=1.0, gamma=0.5))  # 0.25^2
      0.0625

    Source: Abraham and Khan 2018, arXiv 1810.07842, whose alpha is the weight of false negatives. No function of optax,
    Keras or PyTorch computes it.
    """
    check_option("focal_tversky", "gamma", gamma, low=1e-6)
    check_option("focal_tversky", "alpha", alpha, low=0)
    check_option("focal_tversky", "beta", beta, low=0)
    check_option("focal_tversky", "smooth", smooth, low=0)

    def unit(y: Array, p: Array) -> Array:
        return raised(_tversky(y, p, alpha, beta, smooth), 1 / jnp.asarray(gamma, p.dtype))

    return _of_pixels(unit, y_true, y_pred, axis, weights, where, reduction, from_logits=from_logits)


@compiled
def jaccard(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    smooth: float | Array = 0.0,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Jaccard (soft IoU) loss: `1 - (TP + s) / (TP + FP + FN + s)`.

    It is `tversky` at 1, 1. A class that is absent from the target costs 1, or 0 if nothing at all of it is predicted.

    Args:
      y_true: (..., K) targets in [0, 1], one-hot over the classes.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      axis: the pixel axes.
      where: which pixels exist, see `jaxloss.segmentation`.
      weights, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss a class of an example, of the shape without
      the pixel axes.

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative `smooth`. TypeError: `y_pred` of integer dtype.
      A target or a probability outside [0, 1] (by more than rounding) makes its unit NaN, with zero gradient.

    Example:
      >>> y = [[1.0], [1.0], [0.0], [0.0]]
      >>> p = [[1.0], [0.5], [0.5], [0.0]]
      >>> print(jaccard(y, p, axis=0))  # 1 - 1.5 / (1.5 + 0.5 + 0.5)
      0.4

    Source: Rahman and Wang 2016, doi 10.1007/978-3-319-50835-1_22. No function of optax, Keras or PyTorch computes it.
    """
    check_option("jaccard", "smooth", smooth, low=0)

    def unit(y: Array, p: Array) -> Array:
        return _tversky(y, p, 1.0, 1.0, smooth)

    return _of_pixels(unit, y_true, y_pred, axis, weights, where, reduction, from_logits=from_logits)


@compiled
def generalized_dice(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Generalised Dice loss: `1 - 2 sum_k w_k TP_k / sum_k w_k (sum y_k + sum p_k)`.

    `w_k = 1 / (sum y_k)^2`, so that rare classes count as much as common ones. An absent class has the
    largest weight of those present, so that what is predicted of it still costs; without any class all are equal.

    Args:
      y_true: (..., K) targets in [0, 1], one-hot over the classes.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits.
      axis: the pixel axes.
      where: which pixels exist, see `jaxloss.segmentation`.
      weights, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples; with `reduction="none"` one loss an example, of the shape without pixel and class axes.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype.
      A target or a probability outside [0, 1] (by more than rounding) makes its unit NaN, with zero gradient.

    Example:
      >>> y = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
      >>> p = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
      >>> loss = generalized_dice(y, p, axis=0)
      >>> print(f"{loss:.6f}")  # w = 1, 1 / 9: 1 - 2 (1 + 2 / 9) / (1 + 2 + 5 / 9)
      0.312500

    Source: Sudre et al. 2017, arXiv 1707.03237. No function of optax, Keras or PyTorch computes it.
    """

    def unit(y: Array, p: Array) -> Array:
        pixels = tuple(range(y.ndim - 1))
        true_positive, false_positive, false_negative = _counts(y, p, lambda x: jnp.sum(x, pixels))
        size = true_positive + false_negative
        smallest = jnp.min(size, initial=jnp.inf, where=size > 0)
        # In units of the largest weight: 1 / size^2 itself may leave the range of the dtype.
        w = jnp.where(size > 0, ratio(jnp.where(size > 0, smallest, 1), size) ** 2, 1)
        wrong = w * (false_positive + false_negative)
        return ratio(jnp.sum(wrong), jnp.sum(2 * w * true_positive + wrong))

    return _of_pixels(unit, y_true, y_pred, axis, weights, where, reduction, from_logits=from_logits, over_classes=True)


@compiled
def lovasz_hinge(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Lovasz hinge: the Lovasz extension of `1 - IoU`, at the hinge losses `max(0, 1 - (2 y - 1) z)`.

    The errors are sorted, the largest first; `loss = sum_i e_i (J_i - J_(i-1))`, where J_i is the Jaccard loss of a
    prediction that is wrong at the first i pixels. A class that is absent from the target costs its largest error.

    Args:
      y_true: (..., K) targets 0 or 1, one-hot over the classes.
      y_pred: (..., K) logits z of each class alone.
      axis: the pixel axes.
      where: which pixels exist, see `jaxloss.segmentation`.
      weights, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss a class of an example, of the shape without
      the pixel axes.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype.
      A target that is neither 0 nor 1 makes its unit NaN, with zero gradient.

    Example:
      >>> print(lovasz_hinge([1.0, 0.0], [0.5, -2.0], axis=0))  # errors 0.5, 0: 0.5 * 1
      0.5

    Source: Berman, Rannen Triki and Blaschko 2018, arXiv 1705.08790. No function of optax, Keras or PyTorch computes
    it.
    """

    def unit(y: Array, z: Array) -> Array:
        y = jax.lax.stop_gradient(y)
        return _lovasz(y, positive(1 - (2 * y - 1) * z))

    return _of_pixels(
        unit, y_true, y_pred, axis, weights, where, reduction, from_logits=False, margins=True, binary=True
    )


@compiled
def lovasz_softmax(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Lovasz-softmax: the Lovasz extension of `1 - IoU`, at the errors `abs(y - p)`.

    As `lovasz_hinge`, with probabilities. The mean of the paper leaves absent classes out:
    `weights=jnp.any(y_true > 0, axis)`.

    Args:
      y_true: (..., K) targets 0 or 1, one-hot over the classes.
      y_pred: (..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits.
      axis: the pixel axes.
      where: which pixels exist, see `jaxloss.segmentation`.
      weights, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss a class of an example, of the shape without
      the pixel axes.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype.
      A target that is neither 0 nor 1, or a probability outside [0, 1], makes its unit NaN, with zero gradient.

    Example:
      >>> y = [[1.0], [1.0], [0.0], [0.0]]
      >>> p = [[0.9], [0.5], [0.25], [0.0]]
      >>> print(lovasz_softmax(y, p, axis=0))  # 0.5 * 1 / 2 + 0.25 * (2 / 3 - 1 / 2) + 0.1 * (1 - 2 / 3)
      0.325

    Source: Berman, Rannen Triki and Blaschko 2018, arXiv 1705.08790. No function of optax, Keras or PyTorch computes
    it.
    """

    def unit(y: Array, p: Array) -> Array:
        y = jax.lax.stop_gradient(y)
        return _lovasz(y, absolute(y - p))

    return _of_pixels(unit, y_true, y_pred, axis, weights, where, reduction, from_logits=from_logits, binary=True)


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


def _of_pixels(
    unit: Callable[[Array, Array], Array],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    axis: int | tuple[int, ...],
    weights: ArrayLike | None,
    where: ArrayLike | None,
    reduction: Reduction,
    *,
    from_logits: bool,
    margins: bool = False,
    binary: bool = False,
    over_classes: bool = False,
) -> Array:
    """The loss of a batch, from the formula for the pixels of one unit.

    Args:
      unit: of targets and probabilities of a class to its loss; of an example, if `over_classes`.
      margins: whether the formula takes logits.
      binary: whether targets must be 0 or 1.
    """
    loss = unit.__qualname__.partition(".")[0]
    names, inputs = ("y_true", "y_pred"), [jnp.asarray(y_true), jnp.asarray(y_pred)]
    _check_dtype(loss, "y_true", inputs[0], "number")
    _check_dtype(loss, "y_pred", inputs[1], "score")
    core = axis if isinstance(axis, tuple) else (axis,)
    batch_axes = [_check_axis(loss, core, name, x, len(core)) for name, x in zip(names, inputs, strict=True)]
    _check_shapes(loss, names, inputs, (len(core),) * 2, batch_axes)
    targets, scores = inputs
    has_classes = scores.ndim - 1 in batch_axes[1]
    core = tuple(a % scores.ndim for a in core)
    if over_classes and has_classes:
        core = (*core, scores.ndim - 1)

    # A pixel that does not exist becomes one that is rightly not predicted: no formula here notices such a pixel.
    pixels = exists = None
    if where is not None:
        pixels = _pixel_mask(loss, where, scores)
    if checking.value:
        from jaxloss._checked import inspect

        domains = "binary" if binary else "probability", "number" if from_logits or margins else "probability"
        inspect(loss, names, inputs, domains, (0, 0), (range(scores.ndim),) * 2, pixels)
    if pixels is not None:
        exists = jnp.any(pixels, axis=core)
        targets, scores = _select(pixels, targets, 0), _select(pixels, scores, -1 if margins else 0)
    slack = rounding(targets), rounding(scores)
    if from_logits:
        scores = widened(scores)
        scores = jax.nn.softmax(scores) if has_classes and scores.shape[-1] > 1 else jax.nn.sigmoid(scores)
        scores = scores if pixels is None else _select(pixels, scores, 0)

    if over_classes and not has_classes:
        core, targets, scores = (*core, scores.ndim), targets[..., None], scores[..., None]

    @functools.wraps(unit)
    def example(y: Array, p: Array) -> Array:
        valid = is_binary(y) if binary else is_probability(y, slack[0])
        if not margins:
            valid &= is_probability(p, slack[1])
        return poisoned(jnp.all(valid), unit(y, p))

    return batched(
        example,
        (targets, scores),
        core_ndims=(len(core),) * 2,
        kinds=("number", "score"),
        domains=("any", "any"),  # seen already, before the mask was applied
        axis=core,
        weights=weights,
        where=exists,
        reduction=reduction,
    )


def _pixel_mask(loss: str, where: ArrayLike, scores: Array) -> Array:
    pixels = check_mask(loss, where)
    if pixels.shape != scores.shape[: pixels.ndim]:
        raise ValueError(
            f"{loss}: where has shape {pixels.shape}, y_pred has shape {scores.shape}. where masks pixels and must "
            "match y_pred from the left, as in (batch, height, width)."
        )
    return _spread(pixels, scores.shape)


def _select(pixels: Array, x: Array, fill: int) -> Array:
    return jnp.where(_sharded_as(x, pixels), x, jnp.asarray(fill, x.dtype))


def _counts(y: Array, p: Array, sum_of: Callable[[Array], Array] = jnp.sum) -> tuple[Array, Array, Array]:
    """True positives, false positives, false negatives: each a sum of positive numbers, so that nothing cancels."""
    return sum_of(y * p), sum_of((1 - y) * p), sum_of(y * (1 - p))


def _tversky(y: Array, p: Array, alpha: float | Array, beta: float | Array, smooth: float | Array) -> Array:
    true_positive, false_positive, false_negative = _counts(y, p)
    a, b, s = (jnp.asarray(x, p.dtype) for x in (alpha, beta, smooth))
    wrong = a * false_positive + b * false_negative
    return ratio(wrong, true_positive + wrong + s)


def _lovasz(y: Array, errors: Array) -> Array:
    """sum_i e_i (J_i - J_(i-1)) over the errors from the largest to the smallest; a step of J has a closed form."""
    y, errors = _replicated(y.ravel()), _replicated(errors.ravel())
    order = jnp.argsort(-jax.lax.stop_gradient(errors))
    y, errors = y[order], errors[order]
    left = jnp.sum(y) - jnp.cumsum(y)  # pixels of the class that are not among the first i
    union = jnp.sum(y) + jnp.cumsum(1 - y)
    # At a pixel of the class J rises by 1 / union. At another pixel it rises by left / (union (union - 1)), but by 1 at
    # the first of all if the class is absent.
    other = jnp.where(union > 1, ratio(left, union * (union - 1)), 1)
    return jnp.sum(errors * jnp.where(y == 1, ratio(jnp.ones_like(union), union), other))


def _replicated(x: Array) -> Array:
    # Explicit shardings have no rule for sorting along an axis that is spread over devices.
    if not in_explicit_mesh(x):
        return x
    everywhere = jax.sharding.NamedSharding(jax.typeof(x).sharding.mesh, jax.sharding.PartitionSpec(None))
    return jax.sharding.reshard(x, everywhere)
