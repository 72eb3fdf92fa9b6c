"""What the losses of boxes share: two boxes compared, so that no size, place or overlap gives NaN, and no epsilon."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._legacy import ArrayLike, Reduction, batched
from jaxloss._math import constants, poisoned, slopes
from jaxloss._special import angle, positive, ratio


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
    a1, b1, a2, b2 = _corners(target)
    x1, y1, x2, y2 = _corners(box)
    width, height = _around(x1, x2, a1, a2), _around(y1, y2, b1, b2)
    # Every loss here is that of the same boxes in other units, so the unit may count as a constant.
    scale = _scale(jnp.maximum(width, height))
    x_ends, y_ends = [x1, x2, a1, a2], [y1, y2, b1, b2]
    x, y = _Side.of(x_ends, scale), _Side.of(y_ends, scale)
    around_w, around_h = width * scale, height * scale
    overlap, *_ = _areas(x, y)
    iou, missed = _agreement(x_ends, y_ends, scale)
    areas = positive(x.length) * positive(y.length) + positive(x.target) * positive(y.target)
    return Pair(
        x.length,
        y.length,
        x.target,
        y.target,
        dw=x.high - x.low,
        dh=y.high - y.low,
        dx=-(x.low + x.high) / 2,
        dy=-(y.low + y.high) / 2,
        around_w=around_w,
        around_h=around_h,
        spare=jnp.where(overlap, x.beyond * y.short + x.short * y.beyond, around_w * around_h - areas),
        iou=iou,
        missed=missed,
    )


def _share(ahead: Array) -> Array:
    """How much of a maximum moves with the first of two numbers, by how far that is ahead: at a tie, half."""
    return 0.5 + 0.5 * jnp.sign(ahead)


@slopes(lambda a, b: _share(a - b), lambda a, b: _share(b - a))
def _larger(a: Array, b: Array) -> Array:
    return jnp.maximum(a, b)


def _smaller(a: Array, b: Array) -> Array:
    return -_larger(-a, -b)


def _scale(size: Array) -> Array:
    """About 1 / size: a power of two, so that no product rounds, overflows, or underflows where it matters.

    By its bits: XLA would not compute a quotient twice, and store it and all that comes of it instead.
    """
    info = np.finfo(size.dtype)
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(size), jnp.int64 if info.bits == 64 else jnp.int32)
    top = 2 * info.maxexp - 2  # the exponents of a number and its inverse add up to this
    return jax.lax.bitcast_convert_type((top - jnp.clip(bits >> info.nmant, 1, top - 1)) << info.nmant, size.dtype)


class _Side(NamedTuple):
    """Two intervals, one axis of two boxes, in units of 1 / scale."""

    length: Array
    target: Array
    low: Array  # from the lower end of the target to the lower end
    high: Array
    shared: Array  # negative if they are apart

    @classmethod
    def of(cls, ends: list[Array], scale: Array) -> _Side:
        low, high, target_low, target_high = ends
        # Differences of coordinates are exact where the boxes are near each other; those of centres or areas are not.
        shared = _smaller(high, target_high) - _larger(low, target_low)
        lengths = (high - low, target_high - target_low, low - target_low, high - target_high, shared)
        return cls(*(x * scale for x in lengths))

    # How far one interval reaches beyond the other. At ties maximum takes half of both slopes, as in the shared length.

    @property
    def beyond(self) -> Array:
        zero = jnp.zeros_like(self.low)
        return _larger(-self.low, zero) + _larger(self.high, zero)

    @property
    def short(self) -> Array:
        zero = jnp.zeros_like(self.low)
        return _larger(self.low, zero) + _larger(-self.high, zero)


def _areas(x: _Side, y: _Side) -> tuple[Array, Array, Array, Array]:
    """Whether the boxes overlap; the areas of the intersection, of the union, and of what belongs to one box alone."""
    w, h = positive(x.shared), positive(y.shared)
    # A sum of positive products: length_x length_y - w h = (length_x - w) length_y + w (length_y - h).
    apart = x.beyond * y.length + w * y.beyond + x.short * y.target + w * y.short
    union = w * h + apart
    return (x.shared > 0) & (y.shared > 0) & (union > 0), w * h, union, apart


@jax.custom_jvp
def _agreement(x_ends: list[Array], y_ends: list[Array], scale: Array) -> tuple[Array, Array]:
    """IoU, and 1 - IoU, of the ends low, high, target_low, target_high along each axis."""
    x, y = _Side.of(x_ends, scale), _Side.of(y_ends, scale)
    overlap, shared, union, apart = _areas(x, y)
    return jnp.where(overlap, ratio(shared, union), 0), jnp.where(overlap, ratio(apart, union), 1)


def _agreement_slope(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    # Moved outwards, the end of a box adds the length h of its other side to its area A, and the other side h' of the
    # intersection to S, if it lies inside the target: 1 - S / (A + A' - S) changes by (IoU h - (1 + IoU) h') / union.
    x_ends, y_ends, scale = primals
    x, y = _Side.of(x_ends, scale), _Side.of(y_ends, scale)
    overlap, shared, union, _ = _areas(x, y)
    iou, inverse = (ratio(jnp.where(overlap, n, 0), union) for n in (shared, scale))
    slope = jnp.zeros_like(iou)
    for along, other, moved in ((x, y, tangents[0]), (y, x, tangents[1])):
        height = positive(other.shared) * (1 + iou)
        lengths = other.length, other.length, other.target, other.target
        depths = along.low, -along.high, -along.low, along.high  # how far each end lies inside
        for length, depth, sign, t in zip(lengths, depths, (-1, 1, -1, 1), moved, strict=True):
            if not isinstance(t, SymbolicZero):
                # The inverse first: the derivative of a logarithm, times it, might overflow.
                slope += sign * ((iou * length - _share(depth) * height) * inverse) * t
    return _agreement(*primals), (-slope, slope)


_agreement.defjvp(_agreement_slope, symbolic_zeros=True)


@jax.custom_jvp
def _corners(box: Array) -> list[Array]:
    return [jnp.squeeze(x) for x in jax.lax.split(box, (1, 1, 1, 1))]


@_corners.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[list[Array], list[Array]]:
    # Transposed, it puts four derivatives together. XLA's CPU compiler would compute all of them for each number of
    # the result; it stores a quotient that is spread over an axis.
    (one,) = constants(1, like=tangents[0])
    places = jnp.arange(4)
    return _corners(*primals), [jnp.sum(jnp.where(places == i, tangents[0], 0)) / one for i in range(4)]


def _around(low: Array, high: Array, target_low: Array, target_high: Array) -> Array:
    """The length that holds both; the ends of an inverted box are swapped, so that its centre lies inside."""
    lowest = _smaller(jnp.where(high < low, high, low), jnp.where(target_high < target_low, target_high, target_low))
    highest = _larger(jnp.where(high < low, low, high), jnp.where(target_high < target_low, target_low, target_high))
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
    v = _squared_turn(positive(b.w), positive(b.h), positive(b.target_w), positive(b.target_h))
    v = jnp.where((b.dw == 0) & (b.dh == 0), 0, v)  # a fused multiply-add leaves a rounding error there
    alpha = jax.lax.stop_gradient(ratio(v, b.missed + v))
    if gate is not None:
        alpha = jnp.where(b.iou < jnp.asarray(gate, v.dtype), 0, alpha)
    return alpha * v


def _turn(w: Array, h: Array, target_w: Array, target_h: Array) -> Array:
    """atan2(h, w) less that of the target, over pi / 2: as one angle. A point has the aspect of a vertical line."""
    (w, h, _), (target_w, target_h, _) = _direction(w, h), _direction(target_w, target_h)
    return 2 / math.pi * angle(target_w * h - w * target_h, target_h * h + target_w * w)


def _direction(w: Array, h: Array) -> tuple[Array, Array, Array]:
    """The sides in units of (about) the longer one, and the inverse of that unit."""
    point = (w == 0) & (h == 0)
    scale = jnp.where(point, 0, _scale(jnp.maximum(w, h)))
    return w * scale, jnp.where(point, 1, h * scale), scale


@jax.custom_jvp
def _squared_turn(w: Array, h: Array, target_w: Array, target_h: Array) -> Array:
    turn = _turn(w, h, target_w, target_h)
    return turn * turn


def _squared_turn_slope(sides: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    # atan2(h, w) changes by (w dh - h dw) / (w^2 + h^2).
    turn = _turn(*sides)
    slope = jnp.zeros_like(turn)
    for at, sign in ((0, 1), (2, -1)):
        w, h, scale = _direction(*sides[at : at + 2])
        rate = sign * (4 / math.pi) * turn * scale / (w * w + h * h)
        for side, t in ((-h, tangents[at]), (w, tangents[at + 1])):
            if not isinstance(t, SymbolicZero):
                slope += rate * side * t
    return _squared_turn(*sides), slope


_squared_turn.defjvp(_squared_turn_slope, symbolic_zeros=True)
