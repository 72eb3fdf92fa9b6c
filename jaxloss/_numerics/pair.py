"""Two boxes compared, without an epsilon: no size, place or overlap of them gives NaN."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import elementwise
from jaxloss._numerics.elementary import angle, divide_or_zero, inverse_unit, widened
from jaxloss._platform import cpu, gpu, tpu


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


def compare(target: Array, box: Array, few: bool = False) -> Pair:
    """From the corners x1 y1 x2 y2 of both, as they lie in memory. A corner that is not finite makes `missed` NaN.

    few: whether no more than the IoU is asked for.
    """
    corners, target_corners = _corners(few, box), _corners(few, target)
    x_ends, y_ends = ((*corners[i::2], *target_corners[i::2]) for i in (0, 1))
    around_w, around_h = _around(*x_ends), _around(*y_ends)
    # Every loss here is that of the same boxes in other units, so the unit may count as a constant.
    unit = inverse_unit(jnp.maximum(around_w, around_h))
    x, y = _Side.of(x_ends, unit), _Side.of(y_ends, unit)
    around_w, around_h = around_w * unit, around_h * unit
    iou, missed = _agreement(x_ends, y_ends, unit)
    covered = jax.nn.relu(x.length) * jax.nn.relu(y.length) + jax.nn.relu(x.target) * jax.nn.relu(y.target)
    return Pair(
        x.length,
        y.length,
        x.target,
        y.target,
        dw=x.high - x.low,
        dh=y.high - y.low,
        dx=(x.low + x.high) / -2,
        dy=(y.low + y.high) / -2,
        around_w=around_w,
        around_h=around_h,
        spare=jnp.where(
            (x.shared > 0) & (y.shared > 0),
            x.beyond * y.short + x.short * y.beyond,
            around_w * around_h - covered,
        ),
        iou=iou,
        missed=missed,
    )


@gpu.instead(lambda rows: gpu.columns(widened(rows)), rows=True)
def _entries(row: Array) -> list[Array]:
    row = widened(row)
    return [row[i] for i in range(row.size)]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _corners(few: bool, row: Array) -> list[Array]:
    # The IoU alone is one kernel on a TPU, too, unless numbers are widened first: in float32 `--only "^iou 65536"` says
    # 1.33 with and 1.07 without arrays of their own; in bfloat16 0.72 with and 1.05 without them.
    return (_entries if few and row.dtype.itemsize > 2 else tpu.at_once(_entries))(row)


@_corners.defjvp
def _(few: bool, primals: tuple[Array], tangents: tuple[Array]) -> tuple[list[Array], list[Array]]:
    moved = cpu.instead(lambda row: cpu.entries(widened(row)))(_entries)
    if primals[0].dtype.itemsize < 4:  # derivatives that are narrowed: point 3 of gpu.py
        moved = gpu.instead(lambda row: [widened(x) for x in gpu.entries(row)])(moved)
    return _corners(False, *primals), moved(*tangents)


# ---------------------------------------------------------------------------------------------------------------------
# Intervals: one axis of two boxes


def _share(ahead: Array) -> Array:
    """How much of a maximum moves with the first of two numbers, by how far that is ahead: at a tie, half."""
    half = jnp.full_like(ahead, 0.5)
    return half + half * jnp.sign(ahead)


@elementwise
def _larger(a: Array, b: Array) -> Array:
    return jnp.maximum(a, b)


@_larger.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _larger(a, b), db + _share(a - b) * (da - db)


@elementwise
def _smaller(a: Array, b: Array) -> Array:
    return jnp.minimum(a, b)


@_smaller.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _smaller(a, b), da + _share(a - b) * (db - da)


def _around(low: Array, high: Array, target_low: Array, target_high: Array) -> Array:
    """The length that holds both. In an inverted box the low end is the higher one."""
    highest = _larger(_larger(low, high), _larger(target_low, target_high))
    return highest - _smaller(_smaller(low, high), _smaller(target_low, target_high))


class _Side(NamedTuple):
    """Two intervals, one axis of two boxes, in the unit of the pair."""

    length: Array
    target: Array
    low: Array  # from the lower end of the target to the lower end
    high: Array
    shared: Array  # negative if they are apart

    @classmethod
    def of(cls, ends: tuple[Array, ...], unit: Array) -> _Side:
        low, high, target_low, target_high = ends
        # Differences of coordinates are exact where the boxes are near each other; those of centres or areas are not.
        shared = jnp.minimum(high, target_high) - jnp.maximum(low, target_low)
        lengths = (high - low, target_high - target_low, low - target_low, high - target_high, shared)
        return cls(*(x * unit for x in lengths))

    @property
    def beyond(self) -> Array:
        """How far the predicted interval reaches beyond the target."""
        zero = jnp.zeros_like(self.low)
        return _larger(self.high, zero) - _smaller(self.low, zero)

    @property
    def short(self) -> Array:
        """How much of the target it leaves out, if they overlap."""
        zero = jnp.zeros_like(self.low)
        return _larger(self.low, zero) - _smaller(self.high, zero)


# ---------------------------------------------------------------------------------------------------------------------
# IoU


@functools.partial(elementwise, results=2)
def _agreement(x_ends: tuple[Array, ...], y_ends: tuple[Array, ...], unit: Array) -> tuple[Array, Array]:
    """IoU, and 1 - IoU, of the ends low, high, target_low, target_high along each axis; NaN if an end is not finite."""
    x, y = _Side.of(x_ends, unit), _Side.of(y_ends, unit)
    shared, union, apart = _areas(x, y)
    disjoint = shared <= 0  # which NaN is not
    return jnp.where(disjoint, 0, shared / union), jnp.where(disjoint, 1, apart / union)


def _areas(x: _Side, y: _Side) -> tuple[Array, Array, Array]:
    """Of the intersection, of the union, and of what belongs to one box alone; only the first if they are disjoint."""
    w, h = jnp.maximum(x.shared, 0), jnp.maximum(y.shared, 0)
    # A sum of positive products: length_x length_y - w h = (length_x - w) length_y + w (length_y - h), and so on.
    apart = x.beyond * y.length + x.short * y.target + w * (jnp.abs(y.low) + jnp.abs(y.high))
    return w * h, w * h + apart, apart


def _agreement_slope(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    # Moved outwards, the end of a box adds the length h of its other side to its area A, and the other side h' of the
    # intersection to S, if it lies inside the target: 1 - S / (A + A' - S) changes by (IoU h - (1 + IoU) h') / union.
    x_ends, y_ends, unit = primals
    x, y = _Side.of(x_ends, unit), _Side.of(y_ends, unit)
    iou, missed = _agreement(*primals)
    _, union, _ = _areas(x, y)
    inverse = divide_or_zero(jnp.where((x.shared > 0) & (y.shared > 0), unit, 0), union)
    slope = jnp.zeros_like(iou)
    for along, other, moved in ((x, y, tangents[0]), (y, x, tangents[1])):
        height = other.shared * (1 + iou)
        lengths = other.length, other.length, other.target, other.target
        depths = along.low, -along.high, -along.low, along.high  # how far each end lies inside
        for length, depth, sign, t in zip(lengths, depths, (-1, 1, -1, 1), moved, strict=True):
            if t is not None:
                # The inverse first: the derivative of a logarithm, times it, might overflow.
                slope += ((iou * length - _share(depth) * height) * inverse) * (sign * t)
    return (iou, missed), (-slope, slope)


_agreement.defjvp(_agreement_slope, symbolic_zeros=True)


def log_iou(b: Pair) -> Array:
    """log(iou), exact near 1 too; -inf with derivative 0 where the boxes do not overlap."""
    near = jnp.log1p(-jnp.minimum(b.missed, 0.5))
    far = jnp.where(b.iou <= 0, -jnp.inf, jnp.log(jnp.where(b.iou <= 0, 1, b.iou)))
    return jnp.where(b.missed < 0.5, near, far)


# ---------------------------------------------------------------------------------------------------------------------
# Penalties


def distance(b: Pair) -> Array:
    """The squared distance of the centres over the squared diagonal of the box around both."""
    return divide_or_zero(b.dx * b.dx + b.dy * b.dy, b.around_w * b.around_w + b.around_h * b.around_h)


def aspect(b: Pair, gate: float | Array | None) -> Array:
    """The term `alpha v` of CIoU."""
    v = _squared_turn(*(jax.nn.relu(side) for side in (b.w, b.h, b.target_w, b.target_h)))
    v = jnp.where((b.dw == 0) & (b.dh == 0), 0, v)  # else a product that is not rounded before the sum leaves an error
    alpha = jax.lax.stop_gradient(divide_or_zero(v, b.missed + v))
    if gate is not None:
        alpha = jnp.where(b.iou < gate, 0, alpha)
    return alpha * v


def _turn(w: Array, h: Array, target_w: Array, target_h: Array) -> Array:
    """atan2(h, w) less that of the target, over pi / 2: as one angle. A point has the aspect of a vertical line."""
    (w, h, _), (target_w, target_h, _) = _direction(w, h), _direction(target_w, target_h)
    return 2 / math.pi * angle(target_w * h - w * target_h, target_h * h + target_w * w)


def _direction(w: Array, h: Array) -> tuple[Array, Array, Array]:
    """The sides in units of (about) the longer one, and the inverse of that unit."""
    point = (w == 0) & (h == 0)
    unit = jnp.where(point, 0, inverse_unit(jnp.maximum(w, h)))
    return w * unit, jnp.where(point, 1, h * unit), unit


@elementwise
def _squared_turn(w: Array, h: Array, target_w: Array, target_h: Array) -> Array:
    turn = _turn(w, h, target_w, target_h)
    return turn * turn


def _squared_turn_slope(sides: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    # atan2(h, w) changes by (w dh - h dw) / (w^2 + h^2).
    turn = _turn(*sides)
    slope = jnp.zeros_like(turn)
    for at, sign in ((0, 1), (2, -1)):
        w, h, unit = _direction(*sides[at : at + 2])
        rate = sign * (4 / math.pi) * turn * unit / (w * w + h * h)
        for side, t in ((-h, tangents[at]), (w, tangents[at + 1])):
            if t is not None:
                slope += rate * side * t
    return _squared_turn(*sides), slope


_squared_turn.defjvp(_squared_turn_slope, symbolic_zeros=True)
