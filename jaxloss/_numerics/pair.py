"""Two boxes compared, without an epsilon: no size, place or overlap of them gives NaN."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._numerics.elementary import angle, at_least_tiny, divide_or_zero
from jaxloss._platform import kernels


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


def compare(target: Array, box: Array) -> Pair:
    """From the corners x1 y1 x2 y2 of both. A corner that is not finite makes `missed` NaN."""
    (a1, b1, a2, b2), (x1, y1, x2, y2) = _corners(target), _corners(box)
    x, y = _Side.of(x1, x2, a1, a2), _Side.of(y1, y2, b1, b2)
    # Every loss here is that of the same boxes in other units, so the unit may count as a constant.
    per_unit = _inverse_unit(jnp.maximum(x.around, y.around))
    x, y = (_Side(*(length * per_unit for length in side)) for side in (x, y))
    iou, missed = _agreement(x, y)
    covered = jax.nn.relu(x.length) * jax.nn.relu(y.length) + jax.nn.relu(x.target) * jax.nn.relu(y.target)
    overlap = (x.shared > 0) & (y.shared > 0)
    return Pair(
        x.length,
        y.length,
        x.target,
        y.target,
        dw=x.growth,
        dh=y.growth,
        dx=x.offset,
        dy=y.offset,
        around_w=x.around,
        around_h=y.around,
        spare=jnp.where(overlap, x.beyond * y.short + x.short * y.beyond, x.around * y.around - covered),
        iou=iou,
        missed=missed,
    )


@jax.custom_jvp
def _corners(box: Array) -> list[Array]:
    return [box[i] for i in range(4)]


@_corners.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[list[Array], list[Array]]:
    # Transposed, it puts four derivatives together.
    places = jnp.arange(4)
    return _corners(*primals), [kernels.cut(jnp.sum(jnp.where(places == i, tangents[0], 0))) for i in range(4)]


# ---------------------------------------------------------------------------------------------------------------------
# Intervals: one axis of two boxes


def _share(ahead: Array) -> Array:
    """How much of a maximum moves with the first of two numbers, by how far that is ahead: at a tie, half."""
    half = jnp.full_like(ahead, 0.5)
    return half + half * jnp.sign(ahead)


@jax.custom_jvp
def _larger(a: Array, b: Array) -> Array:
    return jnp.maximum(a, b)


@_larger.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _larger(a, b), db + _share(a - b) * (da - db)


@jax.custom_jvp
def _smaller(a: Array, b: Array) -> Array:
    return jnp.minimum(a, b)


@_smaller.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    return _smaller(a, b), da + _share(a - b) * (db - da)


class _Side(NamedTuple):
    """Two intervals: what they have in common, and what not."""

    length: Array
    target: Array
    growth: Array  # length - target
    offset: Array  # from the centre to that of the target
    shared: Array  # negative if they are apart
    around: Array  # the length that holds both; in an inverted box the low end is the higher one
    beyond: Array  # how far the interval reaches beyond the target, and how much of the target it leaves out
    short: Array

    @classmethod
    def of(cls, low: Array, high: Array, target_low: Array, target_high: Array) -> _Side:
        first, last = _smaller(low, target_low), _larger(high, target_high)
        start, end = _larger(low, target_low), _smaller(high, target_high)
        # Differences of coordinates are exact where the boxes are near each other; those of centres or areas are not.
        return cls(
            high - low,
            target_high - target_low,
            growth=(high - target_high) - (low - target_low),
            offset=((high - target_high) + (low - target_low)) / -2,
            shared=end - start,
            around=_larger(last, start) - _smaller(first, end),
            beyond=(last - target_high) + (target_low - first),
            short=(start - target_low) + (target_high - end),
        )


def _inverse_unit(size: Array) -> Array:
    """2 / size to 4 / size, a power of two: no product with it rounds, and the square of the size cannot overflow.

    The exponent of a float is its first bits after the sign, plus a bias. Those of x and of such a number add up to
    all ones. It is 0 where the size is infinite or NaN.
    """
    size = at_least_tiny(jax.lax.stop_gradient(size))
    bits = jax.lax.bitcast_convert_type(size, jnp.int64 if size.dtype == jnp.float64 else jnp.int32)
    exponent = np.asarray(np.inf, size.dtype).view(bits.dtype)
    return jax.lax.bitcast_convert_type(~bits & exponent, size.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# IoU


@jax.custom_jvp
def _agreement(x: _Side, y: _Side) -> tuple[Array, Array]:
    """IoU, and 1 - IoU."""
    shared, union, apart = _areas(x, y)
    disjoint = shared <= 0  # which NaN is not
    return jnp.where(disjoint, 0, shared / union), jnp.where(disjoint, 1, apart / union)


def _areas(x: _Side, y: _Side) -> tuple[Array, Array, Array]:
    """Of the intersection, of the union, and of what belongs to one box alone; only the first if they are disjoint."""
    w, h = jnp.maximum(x.shared, 0), jnp.maximum(y.shared, 0)
    # A sum of positive products: length_x length_y - w h = (length_x - w) length_y + w (length_y - h), and so on.
    apart = x.beyond * y.length + x.short * y.target + w * (y.beyond + y.short)
    return w * h, w * h + apart, apart


def _agreement_slope(primals: tuple[_Side, _Side], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    # With S = w h and U = A + A' - S, 1 - S / U changes by (IoU (dA + dA') - (1 + IoU) dS) / U.
    x, y = primals
    iou, missed = _agreement(x, y)
    _, union, _ = _areas(x, y)
    inverse = divide_or_zero(((x.shared > 0) & (y.shared > 0)).astype(union.dtype), union)
    slope = jnp.zeros_like(iou)
    for other, moved in ((y, tangents[0]), (x, tangents[1])):
        # The inverse first: the derivative of a logarithm, times it, might overflow.
        for rate, t in (
            (inverse * iou * other.length, moved.length),
            (inverse * iou * other.target, moved.target),
            (-inverse * (1 + iou) * other.shared, moved.shared),
        ):
            if not isinstance(t, SymbolicZero):
                slope += rate * t
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
    unit = jnp.where(point, 0, _inverse_unit(jnp.maximum(w, h)))
    return w * unit, jnp.where(point, 1, h * unit), unit


@jax.custom_jvp
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
            if not isinstance(t, SymbolicZero):
                slope += rate * side * t
    return _squared_turn(*sides), slope


_squared_turn.defjvp(_squared_turn_slope, symbolic_zeros=True)
