"""Losses of masks: how well the pixels of a class, in truth and in the prediction, overlap.

The inputs are (batch, ..., K): images with their classes last. If the classes lie elsewhere, `class_axis` says where;
with `class_axis=None` there is a single class and no axis for it. `axis` names the axes of the pixels: by default all
but the first one and that of the classes. The other axes are those of the units: an example and a class, or a class
alone where `axis=(0, 1, 2)` pools the batch of (batch, height, width, K).

`y_true` may also hold integer labels, of the shape of `y_pred` without its classes.

Logits are those of a softmax over the classes, or of a sigmoid if there is only one. For classes that may overlap, give
`jax.nn.sigmoid(logits)`: no logarithm follows, so nothing is lost.

`where` says which *pixels* exist, `pixel_weights` how much each of them counts. They match the inputs, without their
classes, as in (batch, height, width); `where` may also be a leading part of that. What lies under the mask may be NaN,
and has gradient 0. A unit without pixels does not exist: it costs 0 and is not counted by the mean.

`TP = sum y p`, `FP = sum (1 - y) p` and `FN = sum y (1 - p)` over the pixels of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.refuse import axes_beyond
from jaxloss._numerics.elementary import abs0, divide_or_zero, power0, relu0
from jaxloss._numerics.order import put_back
from jaxloss._platform import apart, cpu
from jaxloss._platform.mesh import laid_out_as
from jaxloss.contract import (
    AMOUNT,
    AT_LEAST_0,
    BINARY,
    FINITE,
    LABEL,
    LOGIT,
    PER_CLASS,
    PROBABILITY,
    TARGET,
    ArrayLike,
    Domain,
    Holds,
    Units,
    all_members,
    at_least,
    current_loss,
    loss,
    losses,
    saved_for_backward,
)

__all__ = ["dice", "focal_tversky", "generalized_dice", "jaccard", "lovasz_hinge", "lovasz_softmax", "tversky"]


@loss
def dice(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    smooth: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    pixel_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int | None = -1,
    **units: Unpack[Units],
) -> Array:
    """Dice loss: `1 - (TP + s) / (TP + (FP + FN) / 2 + s)`; at s = 0, `1 - 2 sum(y p) / (sum y + sum p)`.

    It is `tversky` at 1/2, 1/2. A class that is absent from the target costs 1, or 0 if nothing at all of it is
    predicted (0 / 0 counts as a perfect match). To leave absent classes out of the mean, take `jnp.any` over the axes
    of the pixels: `weights=jnp.any(y_true > 0, axis=(1, 2))` for (batch, height, width, K).

    Args:
      y_true: (batch, ..., K) targets in [0, 1], one-hot over the classes; or integer labels (batch, ...).
      y_pred: (batch, ..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits, for the softmax over several classes or the sigmoid of one.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      class_weights: (K,) factors of the losses of the classes.
      pixel_weights: (batch, ...) how much each pixel counts, at least 0.
      axis: the axes of the pixels, by default all but the first and that of the classes.
      class_axis: where the classes lie; None for a single class, without an axis.
      weights: a factor for each class of an example, or for each example.
      where: (batch, ...) which pixels exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss per class of an example, of the shape
      without the axes of the pixels.

    Raises:
      ValueError: shapes that differ, an axis out of range, a negative `smooth`. TypeError: `y_pred` of integer dtype.
      A target or a probability outside [0, 1] (by more than rounding) makes its unit NaN, with zero gradient.

    Example:
      >>> y = [[1.0], [1.0], [0.0], [0.0]]
      >>> p = [[1.0], [0.5], [0.5], [0.0]]
      >>> print(dice(y, p, axis=0))  # 1 - 2 * 1.5 / (2 + 2)
      0.25

    Source: Milletari et al. 2016, arXiv 1606.04797, with plain sums in the denominator. Agrees with
    optax.losses.dice_loss of logits at the same `smooth`, and with keras.losses.Dice but for its epsilon: that one
    pools all classes and examples, as all axes in `axis` and `class_axis=None` do here. DiceLoss of
    segmentation_models_pytorch pools the examples, `axis=(0, 1, 2)`, and counts absent classes as 0:
    `weights=jnp.any(y_true > 0, axis=(0, 1, 2)), reduction="sum_over_batch_size"`.
    """

    def classes(y: Array, p: Array, w: Array | float, smooth: float | Array) -> Array:
        return _tversky(y, p, w, 0.5, 0.5, smooth)

    options = {"smooth": (smooth, AT_LEAST_0)}
    images = _Images(y_true, y_pred, axis, class_axis, class_weights, pixel_weights)
    return images.losses(classes, options, from_logits=from_logits, **units)


@loss
def tversky(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    alpha: float | ArrayLike = 0.5,
    beta: float | ArrayLike = 0.5,
    from_logits: bool = False,
    smooth: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    pixel_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int | None = -1,
    **units: Unpack[Units],
) -> Array:
    """Tversky loss: `1 - (TP + s) / (TP + alpha FP + beta FN + s)`.

    alpha weighs false positives and beta false negatives: a larger beta finds more of a small class. A class that is
    absent from the target costs 1, or 0 if nothing at all of it is predicted.

    Args:
      y_true: (batch, ..., K) targets in [0, 1], one-hot over the classes; or integer labels (batch, ...).
      y_pred: (batch, ..., K) probabilities, or logits if `from_logits`.
      alpha: the weight of false positives, at least 0.
      beta: the weight of false negatives, at least 0.
      from_logits: whether `y_pred` holds logits, for the softmax over several classes or the sigmoid of one.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      class_weights: (K,) factors of the losses of the classes.
      pixel_weights: (batch, ...) how much each pixel counts, at least 0.
      axis: the axes of the pixels, by default all but the first and that of the classes.
      class_axis: where the classes lie; None for a single class, without an axis.
      weights: a factor for each class of an example, or for each example.
      where: (batch, ...) which pixels exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss per class of an example, of the shape
      without the axes of the pixels.

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

    def classes(
        y: Array, p: Array, w: Array | float, alpha: float | Array, beta: float | Array, smooth: float | Array
    ) -> Array:
        return _tversky(y, p, w, alpha, beta, smooth)

    options = {"alpha": (alpha, AT_LEAST_0), "beta": (beta, AT_LEAST_0), "smooth": (smooth, AT_LEAST_0)}
    images = _Images(y_true, y_pred, axis, class_axis, class_weights, pixel_weights)
    return images.losses(classes, options, from_logits=from_logits, **units)


@loss
def focal_tversky(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    gamma: float | ArrayLike = 4 / 3,
    alpha: float | ArrayLike = 0.3,
    beta: float | ArrayLike = 0.7,
    from_logits: bool = False,
    smooth: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    pixel_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int | None = -1,
    **units: Unpack[Units],
) -> Array:
    """Focal Tversky loss: `tversky^(1 / gamma)`, which raises the gradients of units that fit well already.

    Where the loss is 0, so is the gradient (the slope of the power has no bound there).

    Args:
      y_true: (batch, ..., K) targets in [0, 1], one-hot over the classes; or integer labels (batch, ...).
      y_pred: (batch, ..., K) probabilities, or logits if `from_logits`.
      gamma: positive; 1 to 3 in the paper. Below 1 the units that fit badly have the larger gradients.
      alpha, beta: the weights of false positives and of false negatives, at least 0.
      from_logits: whether `y_pred` holds logits, for the softmax over several classes or the sigmoid of one.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      class_weights: (K,) factors of the losses of the classes.
      pixel_weights: (batch, ...) how much each pixel counts, at least 0.
      axis: the axes of the pixels, by default all but the first and that of the classes.
      class_axis: where the classes lie; None for a single class, without an axis.
      weights: a factor for each class of an example, or for each example.
      where: (batch, ...) which pixels exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss per class of an example, of the shape
      without the axes of the pixels.

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

    def classes(
        y: Array,
        p: Array,
        w: Array,
        gamma: float | Array,
        alpha: float | Array,
        beta: float | Array,
        smooth: float | Array,
    ) -> Array:
        return power0(_tversky(y, p, w, alpha, beta, smooth), 1 / gamma)

    options = {
        "gamma": (gamma, at_least(1e-6)),
        "alpha": (alpha, AT_LEAST_0),
        "beta": (beta, AT_LEAST_0),
        "smooth": (smooth, AT_LEAST_0),
    }
    images = _Images(y_true, y_pred, axis, class_axis, class_weights, pixel_weights)
    return images.losses(classes, options, from_logits=from_logits, **units)


@loss
def jaccard(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    smooth: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    pixel_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int | None = -1,
    **units: Unpack[Units],
) -> Array:
    """Jaccard (soft IoU) loss: `1 - (TP + s) / (TP + FP + FN + s)`.

    It is `tversky` at 1, 1. A class that is absent from the target costs 1, or 0 if nothing at all of it is predicted.

    Args:
      y_true: (batch, ..., K) targets in [0, 1], one-hot over the classes; or integer labels (batch, ...).
      y_pred: (batch, ..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits, for the softmax over several classes or the sigmoid of one.
      smooth: s, at least 0; if positive, an absent class costs less, the less of it is predicted.
      class_weights: (K,) factors of the losses of the classes.
      pixel_weights: (batch, ...) how much each pixel counts, at least 0.
      axis: the axes of the pixels, by default all but the first and that of the classes.
      class_axis: where the classes lie; None for a single class, without an axis.
      weights: a factor for each class of an example, or for each example.
      where: (batch, ...) which pixels exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss per class of an example, of the shape
      without the axes of the pixels.

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

    def classes(y: Array, p: Array, w: Array | float, smooth: float | Array) -> Array:
        return _tversky(y, p, w, 1.0, 1.0, smooth)

    options = {"smooth": (smooth, AT_LEAST_0)}
    images = _Images(y_true, y_pred, axis, class_axis, class_weights, pixel_weights)
    return images.losses(classes, options, from_logits=from_logits, **units)


@loss
def generalized_dice(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    class_weights: ArrayLike | None = None,
    pixel_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int | None = -1,
    **units: Unpack[Units],
) -> Array:
    """Generalised Dice loss: `1 - 2 sum_k w_k TP_k / sum_k w_k (sum y_k + sum p_k)`.

    `w_k = 1 / (sum y_k)^2`, so that rare classes count as much as common ones. An absent class has the
    largest weight of those present, so that what is predicted of it still costs; without any class all are equal.

    Args:
      y_true: (batch, ..., K) targets in [0, 1], one-hot over the classes; or integer labels (batch, ...).
      y_pred: (batch, ..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits, for the softmax over several classes or the sigmoid of one.
      class_weights: (K,) factors of the `w_k`.
      pixel_weights: (batch, ...) how much each pixel counts, at least 0.
      axis: the axes of the pixels, by default all but the first and that of the classes.
      class_axis: where the classes lie; None for a single class, without an axis.
      weights: a factor for each example.
      where: (batch, ...) which pixels exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over examples; with `reduction="none"` one loss per example, of the shape without the axes of pixels
      and classes.

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

    def image(y: Array, p: Array, w: Array | float, class_weights: Array | None) -> Array:
        # Apart, so that probabilities that are computed from logits are not stored for both sums.
        wrong, size, predicted = _sum(w * ((1 - y) * p + y * (1 - p))), _sum(w * y), _sum(w * apart(p, 1, "gpu"))
        smallest = jnp.min(size, initial=jnp.inf, where=size > 0)
        # In units of the largest weight: 1 / size^2 itself may leave the range of the dtype.
        rarity = jnp.where(size > 0, divide_or_zero(jnp.where(size > 0, smallest, 1), size) ** 2, 1)
        rarity = _times(class_weights, rarity)
        return divide_or_zero(jnp.sum(rarity * wrong), jnp.sum(rarity * (size + predicted)))

    images = _Images(y_true, y_pred, axis, class_axis, class_weights, pixel_weights)
    return images.losses(image, from_logits=from_logits, of_all_classes=True, **units)


@loss
def lovasz_hinge(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    pixel_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int | None = -1,
    **units: Unpack[Units],
) -> Array:
    """Lovasz hinge: the Lovasz extension of `1 - IoU`, at the hinge losses `max(0, 1 - (2 y - 1) z)`.

    The errors are sorted, the largest first; `loss = sum_i e_i (J_i - J_(i-1))`, where J_i is the Jaccard loss of a
    prediction that is wrong at the first i pixels. A class that is absent from the target costs its largest error.

    Args:
      y_true: (batch, ..., K) targets 0 or 1, one-hot over the classes; or integer labels (batch, ...).
      y_pred: (batch, ..., K) logits z of each class alone.
      class_weights: (K,) factors of the losses of the classes.
      pixel_weights: (batch, ...) how much each pixel counts, at least 0.
      axis: the axes of the pixels, by default all but the first and that of the classes.
      class_axis: where the classes lie; None for a single class, without an axis.
      weights: a factor for each class of an example, or for each example.
      where: (batch, ...) which pixels exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss per class of an example, of the shape
      without the axes of the pixels.

    Raises:
      ValueError: shapes that differ, an axis out of range. TypeError: `y_pred` of integer dtype.
      A target that is neither 0 nor 1 makes its unit NaN, with zero gradient.

    Example:
      >>> print(lovasz_hinge([1.0, 0.0], [0.5, -2.0], axis=0))  # errors 0.5, 0: 0.5 * 1
      0.5

    Source: Berman, Rannen Triki and Blaschko 2018, arXiv 1705.08790. No function of optax, Keras or PyTorch computes
    it.
    """

    def classes(y: Array, z: Array, w: Array | float) -> Array:
        return _lovasz(y, relu0(1 - (2 * y - 1) * z), w)

    images = _Images(y_true, y_pred, axis, class_axis, class_weights, pixel_weights)
    return images.losses(classes, targets=BINARY, scores=FINITE, absent=-1.0, **units)


@loss
def lovasz_softmax(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    from_logits: bool = False,
    class_weights: ArrayLike | None = None,
    pixel_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int | None = -1,
    **units: Unpack[Units],
) -> Array:
    """Lovasz-softmax: the Lovasz extension of `1 - IoU`, at the errors `abs(y - p)`.

    As `lovasz_hinge`, with probabilities. The mean of the paper leaves absent classes out:
    `weights=jnp.any(y_true > 0, axis=(1, 2))` for (batch, height, width, K), so `jnp.any` over the axes of the pixels.
    The authors' code pools the batch as well by default: `axis=(0, 1, 2)`, both here and in `jnp.any`.

    Args:
      y_true: (batch, ..., K) targets 0 or 1, one-hot over the classes; or integer labels (batch, ...).
      y_pred: (batch, ..., K) probabilities, or logits if `from_logits`.
      from_logits: whether `y_pred` holds logits, for the softmax over several classes or the sigmoid of one.
      class_weights: (K,) factors of the losses of the classes.
      pixel_weights: (batch, ...) how much each pixel counts, at least 0.
      axis: the axes of the pixels, by default all but the first and that of the classes.
      class_axis: where the classes lie; None for a single class, without an axis.
      weights: a factor for each class of an example, or for each example.
      where: (batch, ...) which pixels exist (bool); the others may hold anything, even NaN.

    Returns:
      The mean over examples and classes; with `reduction="none"` one loss per class of an example, of the shape
      without the axes of the pixels.

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

    def classes(y: Array, p: Array, w: Array | float) -> Array:
        return _lovasz(y, abs0(y - p), w)

    images = _Images(y_true, y_pred, axis, class_axis, class_weights, pixel_weights)
    return images.losses(classes, targets=BINARY, from_logits=from_logits, **units)


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


class _Images(NamedTuple):
    """What all losses of this family take."""

    y_true: ArrayLike
    y_pred: ArrayLike
    axis: int | tuple[int, ...] | None
    class_axis: int | None
    class_weights: ArrayLike | None
    pixel_weights: ArrayLike | None

    def losses(
        self,
        formula: Callable[..., Array],
        options: Mapping[str, tuple[Any, Domain]] | None = None,
        *,
        targets: Domain = TARGET.domain,
        scores: Domain = PROBABILITY.domain,
        from_logits: bool = False,
        absent: float = 0.0,
        of_all_classes: bool = False,
        **units: Unpack[Units],
    ) -> Array:
        """The loss of a batch, from the formula for an image.

        Args:
          formula: from targets and probabilities, with the axes of the pixels before one of the classes, and weights of
            the pixels, to one loss for each class.
          scores: the domain of `y_pred`, if it does not hold logits.
          absent: the score of a pixel that is rightly not predicted, as one that does not exist: no formula notices it.
          of_all_classes: whether the formula takes the weights of the classes, too, and returns one loss.
        """
        y_true, y_pred = jnp.asarray(self.y_true), jnp.asarray(self.y_pred)
        shape = y_pred.shape
        pixels, class_axis = self._axes(shape, of_all_classes or from_logits or self.class_weights is not None)
        core = 0 if class_axis is None else 1
        meet = from_logits and class_axis is not None and shape[class_axis] > 1

        def image(y: Array, *rest: Array, exists: Array, class_weights: Array | None, **options: Any) -> Array:
            *weights, p = rest
            if class_axis is None:
                y, p = y[..., None], p[..., None]
            if jnp.issubdtype(y.dtype, jnp.integer):
                y = laid_out_as(jax.nn.one_hot(y, p.shape[-1], dtype=p.dtype), p)
            if from_logits:
                p = _softmax(p) if meet else jax.nn.sigmoid(p)
            there = laid_out_as(exists[..., None], p)
            y, p = jnp.where(there, y, 0), jnp.where(there, p, absent)
            w = jnp.where(there, weights[0][..., None], 0) if weights else 1.0
            if of_all_classes:
                return formula(y, p, w, class_weights=class_weights, **options)
            return _times(class_weights, formula(y, p, w, **options)).reshape(p.shape[p.ndim - core :])

        labels = False
        if class_axis is not None and y_true.ndim + 1 == y_pred.ndim:
            labels = jnp.issubdtype(y_true.dtype, jnp.integer)
            _check_class_axis(y_true.shape, shape, class_axis, labels)
        inputs = {
            "y_true": (y_true, LABEL if labels else Holds("number", targets, core, alone=True)),
            "pixel_weights": (self.pixel_weights, AMOUNT),
            "y_pred": (y_pred, Holds("score", LOGIT if from_logits else scores, core, alone=not meet)),
        }
        return losses(
            image,
            {name: given for name, given in inputs.items() if given[0] is not None},
            options={**(options or {}), "class_weights": (self.class_weights, PER_CLASS)},
            axis=-1 if class_axis is None else class_axis,
            members=pixels,
            outputs=0 if of_all_classes else core,
            spreads_nan=True,
            selects=True,
            sibling="jax.nn.one_hot(y_true, K)",
            **units,
        )

    def _axes(self, shape: tuple[int, ...], classes_matter: bool) -> tuple[tuple[int, ...], int | None]:
        """The axes of the pixels, and that of the classes, if there is one."""
        name, ndim, class_axis = current_loss(), len(shape), self.class_axis
        if class_axis is not None and not -ndim <= class_axis < ndim:
            raise ValueError(f"{name}: class_axis {class_axis} is out of range for y_pred with {ndim} axes.")
        if self.axis is None:
            pixels = tuple(i for i in range(1, ndim) if class_axis is None or i != class_axis % ndim)
            if not pixels:
                raise ValueError(
                    f"{name}: y_pred has shape {shape}, so no axis is left for pixels beside the first one and "
                    f"class_axis={class_axis}. Name them, as in axis=0; for a single class, class_axis=None."
                )
            return pixels, class_axis
        pixels = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if not pixels:
            raise ValueError(f"{name}: axis must name at least one axis of pixels, got ().")
        if class_axis is None or class_axis % ndim not in [i % ndim for i in pixels if isinstance(i, int)]:
            return pixels, class_axis
        if classes_matter:
            raise ValueError(
                f"{name}: axis {self.axis} names axis {class_axis} of y_pred, which has shape {shape}, as one of "
                f"pixels, but class_axis={class_axis} says that it holds the classes. For a single class give "
                "class_axis=None; else say where the classes lie: class_axis=1 in (batch, classes, height, width)."
            )
        return pixels, None


def _check_class_axis(pixels: tuple[int, ...], shape: tuple[int, ...], class_axis: int, labels: bool) -> None:
    """A target without an axis of classes: labels, or the mask of a single class."""
    fitting = axes_beyond(pixels, shape)
    fits = class_axis % len(shape) in fitting
    told = f"{current_loss()}: y_true has shape {pixels}, y_pred has shape {shape}"
    if fits and shape[class_axis] == 1:
        raise ValueError(
            f"{told}, so class_axis={class_axis} holds a single class; did you mean y_pred.squeeze({class_axis})? If "
            "y_true is a mask of 0 and 1, without an axis of classes, give class_axis=None as well."
        )
    if labels and len(fitting) == 1 and not fits:
        raise ValueError(
            f"{told}. The classes do not lie along axis {class_axis}; did you mean class_axis={fitting[0]}?"
        )


def _times(class_weights: Array | None, x: Array) -> Array:
    return x if class_weights is None else class_weights * x


@jax.custom_jvp
def _softmax(z: Array) -> Array:
    """The softmax over the last axis; of a row that excludes all classes, 0 for each."""
    last, info = (z.ndim - 1,), jnp.finfo(z.dtype)
    # Bounded by where they begin, since to do something to a maximum or a sum may take a pass of its own.
    largest = jax.lax.reduce(z, jnp.asarray(info.min, z.dtype), jax.lax.max, last)
    powers = jnp.exp(z - largest[..., None])
    return powers / jax.lax.reduce(powers, jnp.asarray(info.tiny, z.dtype), jax.lax.add, last)[..., None]


@_softmax.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    p = cpu.end_loop(_softmax(cpu.opaque(*primals)))
    mean = cpu.end_loop(jnp.sum(p * tangents[0], axis=-1))
    return _softmax(*primals), p * (tangents[0] - mean[..., None])


# Sums of positive numbers only, so that nothing cancels.


def _sum(x: Array) -> Array:
    """The sum over the pixels."""
    return saved_for_backward(cpu.total(x, *range(x.ndim - 1)))


def _tversky(
    y: Array, p: Array, w: Array | float, alpha: float | Array, beta: float | Array, smooth: float | Array
) -> Array:
    # Not the number 1: the value and the derivative would share it, and one compiler would store it for each pixel.
    one = cpu.reread(jnp.ones((), p.dtype))
    # alpha FP + beta FN as one sum, which takes one pass less than two.
    if isinstance(alpha, float) and isinstance(beta, float) and alpha == beta:
        wrong = alpha * _sum(w * ((one - y) * p + y * (one - p)))
    else:
        a, b = _of_classes(alpha, y), _of_classes(beta, y)
        wrong = _sum(w * (a * (one - y) * p + b * y * (one - p)))
    return divide_or_zero(wrong, _sum(w * y * p) + wrong + smooth)


def _of_classes(option: float | Array, y: Array) -> float | Array:
    """An option, with axes for the pixels if it is one for each class."""
    return jnp.expand_dims(option, range(y.ndim - 1)) if isinstance(option, Array) and option.ndim else option


# With the pixels in the order of their errors e, the largest first, of a weight w each, the loss is
#   sum_i e_i (J_i - J_(i-1)),   J_i = 1 - left_i / union_i,
# where left_i is the weight of the pixels of the class that are not among the first i, and union_i that of the pixels
# of the class and of the first i. At a pixel of the class only left falls, by w, so that J rises by w / union_i; at
# another pixel only union rises, by w, so that J rises by left_i w / (union_i (union_i - w)), but by 1 at the first of
# all if the class is absent. The steps depend on nothing but the order of the errors, so they count as constants.


def _lovasz(y: Array, errors: Array, w: Array | float) -> Array:
    rows = [_rows(x, y.shape) for x in all_members(y, errors, *([w] if isinstance(w, Array) else []))]
    return jnp.sum(rows[1] * _jaccard_steps(*jax.lax.stop_gradient(rows)), axis=-1)


def _rows(x: Array, shape: tuple[int, ...]) -> Array:
    """(pixels..., classes) as (classes, pixels)."""
    return jnp.moveaxis(jnp.broadcast_to(x, shape).reshape(-1, shape[-1]), -1, 0)


def _jaccard_steps(y: Array, errors: Array, w: Array | None = None) -> Array:
    """J_i - J_(i-1), each at its pixel."""
    place, is_class, *weights = _largest_first(errors, y > 0, *([] if w is None else [w]))
    each = weights[0] if weights else jnp.ones_like(errors)
    found = jnp.cumsum(jnp.where(is_class, each, 0), axis=-1)
    rank = jnp.broadcast_to(jnp.arange(1, y.shape[-1] + 1), y.shape)
    seen = jnp.cumsum(each, axis=-1) if weights else rank.astype(each.dtype)
    size = found[..., -1:]
    left, union = size - found, size + seen - found
    other = jnp.where(union > each, divide_or_zero(left, union) * divide_or_zero(each, union - each), jnp.sign(each))
    return put_back(place, jnp.where(is_class, divide_or_zero(each, union), other))


@cpu.instead(lambda errors, *others: cpu.in_order(-errors, *others), suits=cpu.fit_in_half_a_key)
def _largest_first(errors: Array, is_class: Array, *others: Array) -> tuple[Array, ...]:
    """The places of the errors along the last axis, the largest first; and what else there is, in this order."""
    rank = jnp.broadcast_to(jnp.arange(errors.shape[-1]), errors.shape)
    # The class rides in the last bit of the place: one array less to sort.
    _, tagged, *ordered = jax.lax.sort((-errors, 2 * rank + is_class.astype(rank.dtype), *others), num_keys=1)
    return tagged >> 1, tagged & 1 == 1, *ordered
