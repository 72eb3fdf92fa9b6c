"""Losses of bounding boxes. The unit is a box: four numbers x1 y1 x2 y2 in any unit of length, with x1 <= x2, y1 <= y2.

`I` is the area that the predicted box and the target share, `U` the area of their union, `IoU = I / U`, `C` the
smallest box around both (sides cw and ch, area |C|, diagonal c), rho the distance of the centres. The predicted box has
the sides w and h, the target wg and hg.

No denominator has an epsilon: 0 / 0 counts as 0. So every loss is the same in pixels and in normalised coordinates,
whatever the size of the boxes, and identical boxes cost exactly 0 with gradient 0. Boxes that share no area have
IoU = 0, also two points at the same place. An inverted box (x2 < x1 or y2 < y1) counts as one without area. Where boxes
touch or edges coincide, the derivative lies between those of both sides.

Each loss compares a target with its prediction. Every target with every prediction, for matching, is two `vmap`s::

    pairwise = jax.vmap(jax.vmap(jaxloss.giou, in_axes=(None, 0)), in_axes=(0, None))
    costs = pairwise(targets, predictions)  # (m, 4), (n, 4) -> (m, n)
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._boxes import Pair, aspect, distance, each_pair, log_iou
from jaxloss._legacy import ArrayLike, Reduction, check_option, compiled
from jaxloss._math import absolute
from jaxloss._special import raised, ratio

__all__ = ["alpha_iou", "ciou", "diou", "eiou", "focal_eiou", "giou", "iou", "iou_log", "siou"]


def from_cxcywh(boxes: ArrayLike) -> Array:
    """Boxes (..., 4) of centre, width and height as corners x1 y1 x2 y2.

    Example:
      >>> print(from_cxcywh([5.0, 5.0, 4.0, 2.0]))
      [3. 4. 7. 6.]
    """
    boxes = jnp.asarray(boxes)
    if not jnp.issubdtype(boxes.dtype, jnp.floating):
        boxes = boxes.astype(jnp.float32)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


@compiled
def iou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """IoU loss: `1 - IoU`; no gradient where the boxes do not overlap.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(iou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # 1 - 8 / 16
      0.5

    Source: Yu et al. 2016, arXiv 1608.01471, in the form of Rezatofighi et al. 2019, arXiv 1902.09630. Agrees with
    `1 - torchvision.ops.box_iou` where that does not divide by 0.
    """

    def example(b: Pair) -> Array:
        return b.missed

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def iou_log(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Logarithmic IoU loss: `-log IoU`; boxes that do not overlap cost inf, with gradient 0.

    Mask such boxes, or use a loss that is finite for them: the mean of a batch with one of them is inf.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(iou_log([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # log 2
      0.6931472

    Source: Yu et al. 2016, arXiv 1608.01471. No function of optax, Keras, PyTorch or torchvision computes it.
    """

    def example(b: Pair) -> Array:
        return -log_iou(b)

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def giou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Generalised IoU loss: `1 - IoU + (|C| - U) / |C|`, which also pulls separate boxes together.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(giou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 4.0]))  # 1 + (16 - 12) / 16
      1.25

    Source: Rezatofighi et al. 2019, arXiv 1902.09630. Agrees with torchvision.ops.generalized_box_iou_loss at
    eps=0.
    """

    def example(b: Pair) -> Array:
        return b.missed + sum(_penalties(b, "giou"))

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def diou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Distance IoU loss: `1 - IoU + rho^2 / c^2`.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(diou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]))  # 1 + 2^2 / (4^2 + 2^2)
      1.2

    Source: Zheng et al. 2020, arXiv 1911.08287. Agrees with torchvision.ops.distance_box_iou_loss at eps=0.
    """

    def example(b: Pair) -> Array:
        return b.missed + sum(_penalties(b, "diou"))

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def ciou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    gate: float | Array | None = None,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Complete IoU loss: `1 - IoU + rho^2 / c^2 + alpha v`, which also compares the aspects of the boxes.

    `v = 4 / pi^2 (arctan(wg / hg) - arctan(w / h))^2` and `alpha = v / (1 - IoU + v)`, which the derivative takes for a
    constant. The aspect of a point counts as 0. Nothing is clamped, and the derivative of v is the true one: the paper
    prints it with the wrong sign.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      gate: alpha is 0 where IoU < gate: 0.5 in the second paper; None, as in the first one, for no gate.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a gate outside [0, 1].

    Example:
      >>> print(ciou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]))  # equal aspects: as diou
      1.2

    Source: Zheng et al. 2020, arXiv 1911.08287; with the gate Zheng et al. 2020, arXiv 2005.03572. Agrees with
    torchvision.ops.complete_box_iou_loss at eps=0, where that has no NaN.
    """
    check_option("ciou", "gate", gate, 0, 1)

    def example(b: Pair) -> Array:
        return b.missed + sum(_penalties(b, "ciou", gate))

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def eiou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Efficient IoU loss: `1 - IoU + rho^2 / c^2 + (w - wg)^2 / cw^2 + (h - hg)^2 / ch^2`.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(eiou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # 1 / 2 + 1 / 32 + (2 / 4)^2
      0.78125

    Source: Zhang et al. 2021, arXiv 2101.08158. Not the "Extended IoU" of Peng et al. 2021, which mmdet calls EIoULoss.
    No function of optax, Keras, PyTorch or torchvision computes it.
    """

    def example(b: Pair) -> Array:
        return _eiou(b)

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def focal_eiou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    gamma: float | Array = 0.5,
    detach: bool = True,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Focal EIoU loss: `IoU^gamma eiou`; 0 with gradient 0 where the boxes do not overlap.

    The derivative takes the weight for a constant. Were it differentiated, boxes of equal size with
    IoU < gamma / (1 + gamma) would be pushed apart.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      gamma: at least 0; the larger, the more the well-placed boxes count.
      detach: whether the weight is a constant for the derivative.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a negative gamma.

    Example:
      >>> print(focal_eiou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0], gamma=1.0))  # 1 / 2 * 0.78125
      0.390625

    Source: Zhang et al. 2021, arXiv 2101.08158, which leaves the derivative of the weight open. No function of optax,
    Keras, PyTorch or torchvision computes it.
    """
    check_option("focal_eiou", "gamma", gamma, low=0)

    def example(b: Pair) -> Array:
        weight = raised(b.iou, gamma)
        return (jax.lax.stop_gradient(weight) if detach else weight) * _eiou(b)

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def alpha_iou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    power: float | Array = 3,
    base: Literal["iou", "giou", "diou", "ciou"] = "iou",
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Power IoU losses: `1 - IoU^a`, plus each penalty of the base to the power a.

    With a = 1 it is the base itself. The base "ciou" has the penalty `(alpha v)^a`, with the alpha of `ciou`.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      power: a > 0; above 1, boxes that already fit well have the larger gradients.
      base: the loss whose terms are raised to the power.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a power
      that is not positive, an unknown base.

    Example:
      >>> print(alpha_iou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # 1 - (1 / 2)^3
      0.875

    Source: He et al. 2021, arXiv 2110.13675. No function of optax, Keras, PyTorch or torchvision computes it.
    """
    check_option("alpha_iou", "power", power, low=1e-6)
    if base not in BASES:
        raise ValueError(f"alpha_iou: base must be one of {BASES}, got {base!r}.")

    def example(b: Pair) -> Array:
        missed = b.missed
        if not (isinstance(power, int | float) and power == 1):
            missed = jnp.where(
                b.iou > 0, -jnp.expm1(jnp.asarray(power, missed.dtype) * jnp.where(b.iou > 0, log_iou(b), 0)), 1
            )
        return missed + sum(raised(penalty, power) for penalty in _penalties(b, base))

    return each_pair(example, y_true, y_pred, weights, where, reduction)


@compiled
def siou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    theta: float | Array = 4,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """SIoU loss: `1 - IoU + (Delta + Omega) / 2`, of the direction, the distance and the shape.

    With the offset (dx, dy) of the centres: `L = 2 |dx dy| / (dx^2 + dy^2)`, the sine of twice its angle;
    `Delta = 2 - exp(-(2 - L) (dx / cw)^2) - exp(-(2 - L) (dy / ch)^2)`; and
    `Omega = (1 - exp(-|w - wg| / max(w, wg)))^theta`, plus the same of the heights.

    As published: at equal distance a diagonal offset costs less than one along an axis, against what the paper says it
    wants.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      theta: how much the shape counts, at least 1; the paper has 2 to 6.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over boxes; with `reduction="none"` one loss a box, of shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, theta below 1.

    Example:
      >>> print(siou([0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]))
      0.0

    Source: Gevorgyan 2022, arXiv 2205.12740, whose cw and ch of the distance are the sides of C. Agrees with YOLOv6 and
    with mmdet.SIoULoss at neg_gamma=True; mmdet's default has another sign, which rewards distance.
    """
    check_option("siou", "theta", theta, low=1)

    def example(b: Pair) -> Array:
        # The direction knows no unit: in that of the offset, no square underflows.
        unit = jax.lax.stop_gradient(jnp.maximum(jnp.abs(b.dx), jnp.abs(b.dy)))
        across, down = ratio(absolute(b.dx), unit), ratio(absolute(b.dy), unit)
        tempo = 2 - ratio(2 * across * down, across * across + down * down)
        offsets = ratio(b.dx, b.around_w), ratio(b.dy, b.around_h)
        far = sum(-jnp.expm1(-tempo * offset * offset) for offset in offsets)
        changes = (b.dw, b.w, b.target_w), (b.dh, b.h, b.target_h)
        unlike = [ratio(absolute(change), jnp.maximum(side, target)) for change, side, target in changes]
        shape = sum(raised(-jnp.expm1(-x), theta) for x in unlike)
        return b.missed + (far + shape) / 2

    return each_pair(example, y_true, y_pred, weights, where, reduction)


# ---------------------------------------------------------------------------------------------------------------------
# Pieces

BASES = ("iou", "giou", "diou", "ciou")


def _penalties(b: Pair, base: str, gate: float | Array | None = None) -> list[Array]:
    """What a loss adds to 1 - IoU, term by term."""
    if base == "iou":
        return []
    if base == "giou":
        return [ratio(b.spare, b.around_w * b.around_h)]
    return [distance(b)] if base == "diou" else [distance(b), aspect(b, gate)]


def _eiou(b: Pair) -> Array:
    wider, higher = ratio(b.dw, b.around_w), ratio(b.dh, b.around_h)
    return b.missed + distance(b) + wider * wider + higher * higher
