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

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.declare import compiled
from jaxloss._contract.reduce import spread
from jaxloss._contract.refuse import check_constant
from jaxloss._contract.types import current_loss
from jaxloss._numerics.elementary import (
    WHOLE_POWERS,
    abs0,
    at_least_tiny,
    divide_or_zero,
    is_constant,
    power0,
    power_series,
)
from jaxloss._numerics.pair import Pair, aspect, compare, distance, log_iou
from jaxloss.contract import AT_LEAST_0, BOXES, FRACTION, POSITIVE, ArrayLike, Units, at_least, loss, losses

__all__ = [
    "alpha_iou",
    "ciou",
    "diou",
    "eiou",
    "focal_eiou",
    "from_cxcywh",
    "giou",
    "iou",
    "iou_log",
    "siou",
    "update_iou_loss_mean",
    "wiou_v1",
    "wiou_v2",
    "wiou_v3",
]


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


@loss
def iou(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """IoU loss: `1 - IoU`; no gradient where the boxes do not overlap.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(iou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # 1 - 8 / 16
      0.5

    Source: Yu et al. 2016, arXiv 1608.01471, in the form of Rezatofighi et al. 2019, arXiv 1902.09630. Agrees with
    `1 - torchvision.ops.box_iou` where that does not divide by 0.
    """

    def pair(b: Pair) -> Array:
        return b.missed

    return _of_pairs(pair, y_true, y_pred, few=True, **units)


@loss
def iou_log(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Logarithmic IoU loss: `-log IoU`; boxes that do not overlap cost inf, with gradient 0.

    Mask such boxes, or use a loss that is finite for them: the mean of a batch with one of them is inf.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(iou_log([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # log 2
      0.6931472

    Source: Yu et al. 2016, arXiv 1608.01471. No function of optax, Keras, PyTorch or torchvision computes it.
    """

    def pair(b: Pair) -> Array:
        return -log_iou(b)

    return _of_pairs(pair, y_true, y_pred, few=True, **units)


@loss
def giou(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Generalised IoU loss: `1 - IoU + (|C| - U) / |C|`, which also pulls separate boxes together.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(giou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 4.0]))  # 1 + (16 - 12) / 16
      1.25

    Source: Rezatofighi et al. 2019, arXiv 1902.09630. Agrees with torchvision.ops.generalized_box_iou_loss at
    eps=0.
    """

    def pair(b: Pair) -> Array:
        return b.missed + sum(_penalties(b, "giou"))

    return _of_pairs(pair, y_true, y_pred, **units)


@loss
def diou(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Distance IoU loss: `1 - IoU + rho^2 / c^2`.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(diou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]))  # 1 + 2^2 / (4^2 + 2^2)
      1.2

    Source: Zheng et al. 2020, arXiv 1911.08287. Agrees with torchvision.ops.distance_box_iou_loss at eps=0.
    """

    def pair(b: Pair) -> Array:
        return b.missed + sum(_penalties(b, "diou"))

    return _of_pairs(pair, y_true, y_pred, **units)


@loss
def ciou(
    y_true: ArrayLike, y_pred: ArrayLike, *, gate: float | ArrayLike | None = None, **units: Unpack[Units]
) -> Array:
    """Complete IoU loss: `1 - IoU + rho^2 / c^2 + alpha v`, which also compares the aspects of the boxes.

    `v = 4 / pi^2 (arctan(wg / hg) - arctan(w / h))^2` and `alpha = v / (1 - IoU + v)`, which the derivative treats as a
    constant. The aspect ratio of a point counts as 0. Nothing is clamped, and the derivative of v is the true one: the
    paper prints it with the wrong sign.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      gate: alpha is 0 where IoU < gate: 0.5 in the second paper; None, as in the first one, for no gate.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a gate outside [0, 1].

    Example:
      >>> print(ciou([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]))  # equal aspects: as diou
      1.2

    Source: Zheng et al. 2020, arXiv 1911.08287; with the gate Zheng et al. 2020, arXiv 2005.03572. Agrees with
    torchvision.ops.complete_box_iou_loss at eps=0, where that has no NaN.
    """

    def pair(b: Pair, gate: float | Array | None) -> Array:
        return b.missed + sum(_penalties(b, "ciou", gate))

    return _of_pairs(pair, y_true, y_pred, {"gate": (gate, FRACTION)}, **units)


@loss
def eiou(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Efficient IoU loss: `1 - IoU + rho^2 / c^2 + (w - wg)^2 / cw^2 + (h - hg)^2 / ch^2`.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> print(eiou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # 1 / 2 + 1 / 32 + (2 / 4)^2
      0.78125

    Source: Zhang et al. 2021, arXiv 2101.08158. Not the "Extended IoU" of Peng et al. 2021, which mmdet calls EIoULoss.
    No function of optax, Keras, PyTorch or torchvision computes it.
    """

    return _of_pairs(_eiou, y_true, y_pred, **units)


@loss
def focal_eiou(
    y_true: ArrayLike, y_pred: ArrayLike, *, gamma: float | ArrayLike = 0.5, detach: bool = True, **units: Unpack[Units]
) -> Array:
    """Focal EIoU loss: `IoU^gamma eiou`; 0 with gradient 0 where the boxes do not overlap.

    By default the derivative treats the weight as a constant. Were it differentiated, boxes of equal size that overlap
    little would be pushed apart.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      gamma: at least 0; the larger, the more the well-placed boxes count.
      detach: whether the weight is a constant for the derivative.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a negative gamma.

    Example:
      >>> print(focal_eiou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0], gamma=1.0))  # 1 / 2 * 0.78125
      0.390625

    Source: Zhang et al. 2021, arXiv 2101.08158, which leaves the derivative of the weight open. No function of optax,
    Keras, PyTorch or torchvision computes it.
    """

    def pair(b: Pair, gamma: float | Array) -> Array:
        weight = power0(b.iou, gamma)
        return (jax.lax.stop_gradient(weight) if detach else weight) * _eiou(b)

    return _of_pairs(pair, y_true, y_pred, {"gamma": (gamma, AT_LEAST_0)}, **units)


@loss
def alpha_iou(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    power: float | ArrayLike = 3,
    base: Literal["iou", "giou", "diou", "ciou"] = "iou",
    **units: Unpack[Units],
) -> Array:
    """Power IoU losses: `1 - IoU^a`, plus each penalty of the base to the power a.

    With a = 1 it is the base itself. The base "ciou" has the penalty `(alpha v)^a`, with the alpha of `ciou`.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      power: a > 0; above 1, boxes that already fit well have the larger gradients.
      base: the loss whose terms are raised to the power.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a power that is not
      positive, an unknown base.

    Example:
      >>> print(alpha_iou([0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]))  # 1 - (1 / 2)^3
      0.875

    Source: He et al. 2021, arXiv 2110.13675. No function of optax, Keras, PyTorch or torchvision computes it.
    """
    if base not in BASES:
        raise ValueError(f"{current_loss()}: base must be one of {BASES}, got {base!r}.")

    def pair(b: Pair, power: float | Array) -> Array:
        return _missed_by(b, power) + sum(power0(penalty, power) for penalty in _penalties(b, base))

    return _of_pairs(pair, y_true, y_pred, {"power": (power, POSITIVE)}, few=base == "iou", **units)


@loss
def siou(y_true: ArrayLike, y_pred: ArrayLike, *, theta: float | ArrayLike = 4, **units: Unpack[Units]) -> Array:
    """SIoU loss: `1 - IoU + (Delta + Omega) / 2`, of the direction, the distance and the shape.

    With the offset (dx, dy) of the centres: `L = 2 |dx dy| / (dx^2 + dy^2)`, the sine of twice its angle;
    `Delta = 2 - exp(-(2 - L) (dx / cw)^2) - exp(-(2 - L) (dy / ch)^2)`; and
    `Omega = (1 - exp(-|w - wg| / max(w, wg)))^theta`, plus the same of the heights.

    As published: at equal distance a diagonal offset costs less than one along an axis, contrary to the paper's stated
    intent.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      theta: how much the shape counts, at least 1; the paper has 2 to 6.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, theta below 1.

    Example:
      >>> print(siou([0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]))
      0.0

    Source: Gevorgyan 2022, arXiv 2205.12740, whose cw and ch of the distance are the sides of C. Agrees with YOLOv6 and
    with mmdet.SIoULoss at neg_gamma=True; mmdet's default has another sign, which rewards distance.
    """

    def pair(b: Pair, theta: float | Array) -> Array:
        # The direction is scale-free: in units of the longer part of the offset, no square underflows.
        unit = jax.lax.stop_gradient(jnp.maximum(jnp.abs(b.dx), jnp.abs(b.dy)))
        across, down = divide_or_zero(abs0(b.dx), unit), divide_or_zero(abs0(b.dy), unit)
        tempo = 2 - divide_or_zero(2 * across * down, across * across + down * down)
        offsets = divide_or_zero(b.dx, b.around_w), divide_or_zero(b.dy, b.around_h)
        far = sum(-jnp.expm1(-tempo * offset * offset) for offset in offsets)
        changes = (b.dw, b.w, b.target_w), (b.dh, b.h, b.target_h)
        unlike = [divide_or_zero(abs0(change), jnp.maximum(side, target)) for change, side, target in changes]
        shape = sum(power0(-jnp.expm1(-x), theta) for x in unlike)
        return b.missed + (far + shape) / 2

    return _of_pairs(pair, y_true, y_pred, {"theta": (theta, at_least(1))}, **units)


# ---------------------------------------------------------------------------------------------------------------------
# WIoU


@loss
def wiou_v1(y_true: ArrayLike, y_pred: ArrayLike, **units: Unpack[Units]) -> Array:
    """Wise IoU loss, v1: `exp(rho^2 / c^2) (1 - IoU)`, where c is a constant for the derivative.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4.

    Example:
      >>> loss = wiou_v1([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0])
      >>> print(f"{loss:.6f}")  # exp(4 / 20)
      1.221403

    Source: Tong et al. 2023, arXiv 2301.10051. Agrees with the authors' code, which has NaN for boxes without area.
    """

    return _of_pairs(_wiou_v1, y_true, y_pred, **units)


@loss
def wiou_v2(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    iou_loss_mean: float | ArrayLike,
    gamma: float | ArrayLike = 0.5,
    **units: Unpack[Units],
) -> Array:
    """Wise IoU loss, v2: `(L / mean)^gamma wiou_v1`; the weight is a constant for the derivative.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      iou_loss_mean: the running mean of L, see `update_iou_loss_mean`.
      gamma: at least 0; the larger, the less the boxes count that already fit.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a negative mean or gamma.

    Example:
      >>> loss = wiou_v2([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], iou_loss_mean=0.25)
      >>> print(f"{loss:.6f}")  # sqrt(1 / 0.25) exp(4 / 20)
      2.442806

    Source: Tong et al. 2023, arXiv 2301.10051. Agrees with the authors' code, which has NaN for boxes without area.
    """

    def pair(b: Pair, iou_loss_mean: float | Array, gamma: float | Array) -> Array:
        weight = _relative(b, iou_loss_mean) ** jnp.asarray(gamma, b.missed.dtype)
        return jax.lax.stop_gradient(weight) * _wiou_v1(b)

    options = {"iou_loss_mean": (iou_loss_mean, AT_LEAST_0), "gamma": (gamma, AT_LEAST_0)}
    return _of_pairs(pair, y_true, y_pred, options, **units)


@loss
def wiou_v3(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    iou_loss_mean: float | ArrayLike,
    alpha: float | ArrayLike = 1.9,
    delta: float | ArrayLike = 3.0,
    **units: Unpack[Units],
) -> Array:
    """Wise IoU loss, v3: `r wiou_v1`, where `r = b / (delta alpha^(b - delta))` and `b = L / mean`.

    The derivative takes r for a constant. It is largest at b = 1 / log(alpha); boxes that fit well and boxes that fit
    very badly count little.

    Args:
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      iou_loss_mean: the running mean of L, see `update_iou_loss_mean`.
      alpha: at least 1; the larger, the faster the weight of bad boxes falls. At 1 it does not fall.
      delta: the b at which r = 1, positive.

    Returns:
      The mean over boxes; with `reduction="none"` one loss per box, shape (...).

    Raises:
      ValueError: shapes that differ, or a last axis that is not of size 4, a negative mean, an alpha
      below 1, a delta that is not positive.

    Example:
      >>> loss = wiou_v3([0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], iou_loss_mean=1 / 3)
      >>> print(f"{loss:.6f}")  # b = delta, so r = 1: exp(4 / 20)
      1.221403

    Source: Tong et al. 2023, arXiv 2301.10051. Agrees with the authors' code, which has NaN for boxes without area.
    Its second version has alpha = 1.7 and delta = 2.7.
    """

    def pair(b: Pair, iou_loss_mean: float | Array, alpha: float | Array, delta: float | Array) -> Array:
        relative = _relative(b, iou_loss_mean)
        weight = relative / delta * jnp.exp((delta - relative) * jnp.log(alpha))  # no power: it would overflow
        return jax.lax.stop_gradient(weight) * _wiou_v1(b)

    options = {"iou_loss_mean": (iou_loss_mean, AT_LEAST_0), "alpha": (alpha, at_least(1)), "delta": (delta, POSITIVE)}
    return _of_pairs(pair, y_true, y_pred, options, **units)


@compiled
def update_iou_loss_mean(
    iou_loss_mean: float | ArrayLike,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    momentum: float | ArrayLike,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Array:
    """The next running mean: `(1 - momentum) mean + momentum (mean of 1 - IoU over the boxes)`.

    A pure function: keep the mean with the other state of the training, and begin with 1. Without a box the mean stays
    as it is. No gradient passes.

    Args:
      iou_loss_mean: the mean up to now.
      y_true: (..., 4) target boxes, x1 y1 x2 y2.
      y_pred: (..., 4) predicted boxes.
      momentum: in [0, 1], the share of the new batch. The authors have 0.01; or `1 - 0.05^(1 / n)` for n batches until
        the mean has forgotten all but 5 % of its beginning.
      where: (...) which boxes exist (bool).
      axis_name: inside `jax.shard_map`, the mesh axis over which the boxes are spread: all devices get the mean of all.

    Returns:
      The next mean, a scalar.

    Example:
      >>> print(update_iou_loss_mean(1.0, [[0.0, 0.0, 4.0, 4.0]], [[0.0, 0.0, 4.0, 2.0]], momentum=0.5))
      0.75

    Source: Tong et al. 2023, arXiv 2301.10051.
    """
    check_constant("momentum", momentum, FRACTION)
    found = iou(y_true, y_pred, where=where, reduction="none")
    exist = jnp.ones_like(found) if where is None else spread(jnp.asarray(where).astype(found.dtype), found.shape)
    total, count = jnp.sum(found), jnp.sum(exist)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    mean, rate = (jnp.asarray(x, found.dtype) for x in (iou_loss_mean, momentum))
    batch_mean = jnp.where(count > 0, divide_or_zero(total, count), mean)
    return jax.lax.stop_gradient(mean + rate * (batch_mean - mean))


# ---------------------------------------------------------------------------------------------------------------------
# Pieces


def _of_pairs(
    formula: Callable[..., Array],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    options: Mapping[str, tuple[Any, Any]] | None = None,
    few: bool = False,
    **units: Unpack[Units],
) -> Array:
    """The loss of a batch of boxes, from the formula for one pair.

    few: whether that reads the IoU alone, and so is short unless it has an option, which is a power.
    """

    def example(target: Array, box: Array, **options: Any) -> Array:
        if box.shape != (4,):
            raise ValueError(f"{current_loss()}: the last axis must hold x1, y1, x2, y2, but its size is {box.size}.")
        return formula(compare(target, box, few), **options)

    inputs = {"y_true": (y_true, CORNERS), "y_pred": (y_pred, CORNERS)}
    return losses(example, inputs, options=options, long=not few or bool(options), **units)


CORNERS = BOXES._replace(kind="stored")
BASES = ("iou", "giou", "diou", "ciou")


def _missed_by(b: Pair, power: float | Array) -> Array:
    """1 - IoU^power by the logarithm of the IoU, so that nothing cancels where that is almost 1.

    Nor does anything in (1 - IoU) (1 + IoU + ... + IoU^(n - 1)), which is 1 - IoU^n.
    """
    if is_constant(power, *WHOLE_POWERS):
        return b.missed * power_series(b.iou, [1.0] * int(power))
    some = jnp.where(b.iou > 0, log_iou(b), 0)
    return jnp.where(b.iou > 0, -jnp.expm1(jnp.asarray(power, some.dtype) * some), b.missed)


def _penalties(b: Pair, base: str, gate: float | Array | None = None) -> list[Array]:
    """What a loss adds to 1 - IoU, term by term."""
    if base == "iou":
        return []
    if base == "giou":
        return [divide_or_zero(b.spare, b.around_w * b.around_h)]
    return [distance(b)] if base == "diou" else [distance(b), aspect(b, gate)]


def _eiou(b: Pair) -> Array:
    wider, higher = divide_or_zero(b.dw, b.around_w), divide_or_zero(b.dh, b.around_h)
    return b.missed + distance(b) + wider * wider + higher * higher


def _wiou_v1(b: Pair) -> Array:
    diagonal = jax.lax.stop_gradient(b.around_w * b.around_w + b.around_h * b.around_h)
    return jnp.exp(divide_or_zero(b.dx * b.dx + b.dy * b.dy, diagonal)) * b.missed


def _relative(b: Pair, iou_loss_mean: float | Array) -> Array:
    """L / mean; finite for a mean of 0."""
    return b.missed / at_least_tiny(jnp.asarray(iou_loss_mean, b.missed.dtype))
