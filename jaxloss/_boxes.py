"""What the losses of boxes share: two boxes compared, so that no size, place or overlap gives NaN, and no epsilon."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import ArrayLike, Reduction, batched
from jaxloss._math import poisoned
from jaxloss._special import positive, ratio


class Pair(NamedTuple):
    """A target and a predicted box. Lengths are in units of (about) the longer side of the box around both."""

    w: Array  # the sides of the predicted box; negative if it is inverted
    h: Array
    target_w: Array
    target_h: Array
    dw: Array  # w - target_w and h - target_h
    dh: Array
    dx: Array  # from the predicted centre to that of the target
    dy: Array
    around_w: Array  # the sides of the smallest box around both
    around_h: Array
    spare: Array  # the part of its area that neither of them covers
    iou: Array
    missed: Array  # 1 - iou, exact also where the boxes almost agree


def each_pair(
    formula: Callable[[Pair], Array],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    weights: ArrayLike | None,
    where: ArrayLike | None,
    reduction: Reduction,
) -> Array:
    """The loss of a batch of boxes, from the formula for one pair."""

    @functools.wraps(formula)
    def example(target: Array, box: Array) -> Array:
        if box.shape != (4,):
            loss = formula.__qualname__.partition(".")[0]
            raise ValueError(f"{loss}: the last axis must hold x1, y1, x2, y2, but its size is {box.size}.")
        # No comparison is true of a NaN, so that it would pass for a box far away.
        return poisoned(~jnp.any(jnp.isnan(target) | jnp.isnan(box)), formula(compare(target, box)))

    return batched(
        example,
        (y_true, y_pred),
        core_ndims=(1, 1),
        domains=("box", "box"),
        weights=weights,
        where=where,
        reduction=reduction,
    )


def compare(target: Array, box: Array) -> Pair:
    # Every loss here is that of the same boxes in other units, so the unit may count as a constant. It is a power of
    # two: rounding is as without it, but no product of lengths overflows, or underflows where it matters.
    a1, b1, a2, b2 = _corners(target)
    x1, y1, x2, y2 = _corners(box)
    width, height = _around(x1, x2, a1, a2), _around(y1, y2, b1, b2)
    unit = jax.lax.stop_gradient(jnp.maximum(width, height))
    unit = jax.lax.reduce_precision(unit, 11 if unit.dtype == jnp.float64 else 8, mantissa_bits=0)
    unit = jnp.where(unit > 0, unit, 1)
    around_w, around_h = width / unit, height / unit
    w, h, target_w, target_h = (x2 - x1) / unit, (y2 - y1) / unit, (a2 - a1) / unit, (b2 - b1) / unit

    # Differences of coordinates are exact where the boxes are near each other; those of centres or areas are not.
    left, right, top, bottom = (x1 - a1) / unit, (x2 - a2) / unit, (y1 - b1) / unit, (y2 - b2) / unit
    shared_w = (jnp.minimum(x2, a2) - jnp.maximum(x1, a1)) / unit
    shared_h = (jnp.minimum(y2, b2) - jnp.maximum(y1, b1)) / unit
    overlap = (shared_w > 0) & (shared_h > 0)
    iw, ih = positive(shared_w), positive(shared_h)
    # How far each box reaches beyond the other. At ties maximum takes half of both slopes, as in the shared lengths.
    beyond_w, beyond_h = jnp.maximum(-left, 0) + jnp.maximum(right, 0), jnp.maximum(-top, 0) + jnp.maximum(bottom, 0)
    short_w, short_h = jnp.maximum(left, 0) + jnp.maximum(-right, 0), jnp.maximum(top, 0) + jnp.maximum(-bottom, 0)

    shared = iw * ih
    # The areas of one box alone, as sums of positive products: w h - iw ih = (w - iw) h + iw (h - ih).
    apart = beyond_w * h + iw * beyond_h + short_w * target_h + iw * short_h
    union = shared + apart
    overlap &= union > 0
    areas = positive(w) * positive(h) + positive(target_w) * positive(target_h)
    return Pair(
        w,
        h,
        target_w,
        target_h,
        dw=right - left,
        dh=bottom - top,
        dx=-(left + right) / 2,
        dy=-(top + bottom) / 2,
        around_w=around_w,
        around_h=around_h,
        spare=jnp.where(overlap, beyond_w * short_h + short_w * beyond_h, around_w * around_h - areas),
        iou=jnp.where(overlap, ratio(shared, union), 0),
        missed=jnp.where(overlap, ratio(apart, union), 1),
    )


def _corners(box: Array) -> list[Array]:
    # Differentiated, a split is one concatenation; four indexings would be four sums over all boxes.
    return [jnp.squeeze(x) for x in jax.lax.split(box, (1, 1, 1, 1))]


def _around(low: Array, high: Array, target_low: Array, target_high: Array) -> Array:
    """The length that holds both; the ends of an inverted box are swapped, so that its centre lies inside."""
    lowest = jnp.minimum(jnp.where(high < low, high, low), jnp.where(target_high < target_low, target_high, target_low))
    highest = jnp.maximum(
        jnp.where(high < low, low, high), jnp.where(target_high < target_low, target_low, target_high)
    )
    return highest - lowest


def log_iou(b: Pair) -> Array:
    """log(iou), exact near 1 too; -inf with derivative 0 where the boxes do not overlap."""
    near = jnp.log1p(-jnp.minimum(b.missed, 0.5))
    far = jnp.where(b.iou > 0, jnp.log(jnp.where(b.iou > 0, b.iou, 1)), -jnp.inf)
    return jnp.where(b.missed < 0.5, near, far)


def distance(b: Pair) -> Array:
    """The squared distance of the centres over the squared diagonal of the box around both."""
    return ratio(b.dx * b.dx + b.dy * b.dy, b.around_w * b.around_w + b.around_h * b.around_h)


def aspect(b: Pair, gate: float | Array | None) -> Array:
    """The term `alpha v` of CIoU."""
    w, h = _direction(b.w, b.h)
    target_w, target_h = _direction(b.target_w, b.target_h)
    # One atan2 for the difference of two; the select, since a fused multiply-add leaves a rounding error there.
    angle = jnp.arctan2(target_w * h - w * target_h, target_h * h + target_w * w)
    angle = jnp.where((b.dw == 0) & (b.dh == 0), 0, angle)
    v = (2 / jnp.pi * angle) ** 2
    alpha = jax.lax.stop_gradient(ratio(v, b.missed + v))
    if gate is not None:
        alpha = jnp.where(b.iou < jnp.asarray(gate, v.dtype), 0, alpha)
    return alpha * v


def _direction(w: Array, h: Array) -> tuple[Array, Array]:
    """The sides in units of the longer one; those of a point have the aspect 0."""
    w, h = positive(w), positive(h)
    longer = jax.lax.stop_gradient(jnp.maximum(w, h))
    return ratio(w, longer), jnp.where(longer > 0, ratio(h, longer), 1)
