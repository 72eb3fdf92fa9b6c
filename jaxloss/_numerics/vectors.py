"""Length and angle of vectors of any size: from the smallest floats to the largest, and exact for small angles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import saved_for_backward, stop_gradient_where
from jaxloss._numerics.elementary import abs0
from jaxloss._platform import cpu, gpu, tpu


class Length(NamedTuple):
    """The length of a vector times a scale, a constant that keeps it and its square far from the ends of the floats."""

    scaled: Array
    scale: Array

    @property
    def itself(self) -> Array:
        """The length, infinite where no float holds it."""
        return self.scaled / jax.lax.stop_gradient(self.scale)  # a derivative of 0, but times an infinite one

    @property
    def divisor(self) -> Array:
        """The scaled length, but 1 in place of 0."""
        return jnp.where(self.scaled == 0, 1, self.scaled)

    def direction(self, x: Array) -> Array:
        """The vector over its length."""
        # No entry is below -1. The bound is there to have each rounded: where one instruction multiplies and subtracts,
        # the difference of equal vectors would not be 0.
        return jnp.maximum(x * self.scale / self.divisor, -2)


def _fit(square: Array, middling: Any, small: Any, large: Any) -> Array:
    """What belongs to a vector of this squared length."""
    far = float(jnp.finfo(square.dtype).max) ** 0.8
    return jnp.where(square < 1 / far, small, jnp.where(square > far, large, middling)).astype(square.dtype)


def _scales(dtype: Any) -> list[float]:
    return [2.0 ** int(power * jnp.finfo(dtype).maxexp) for power in (0, 0.6, -0.6)]


def _lengths_by_largest(*vectors: Array) -> list[Length]:
    """Of the same scales, since derivatives of the other form may be taken of these lengths."""
    found = []
    for x in vectors:
        length, inner = cpu.length(x)
        scale = _fit((length / inner) ** 2, *_scales(x.dtype))
        found.append(Length(length * (scale / inner), scale))
    return found


@tpu.instead(tpu.sums)
def _sums(terms: list[Array]) -> list[Array]:
    return [jnp.sum(x) for x in terms]


def _lengths_in_double(*vectors: Array) -> list[Length]:
    squares = [jnp.sum(x * x) for x in vectors]
    scales = [_fit(x.astype(jnp.float32), *_scales(jnp.float32)).astype(x.dtype) for x in squares]
    return [Length(jnp.sqrt(square) * scale, scale) for square, scale in zip(squares, scales, strict=True)]


@gpu.in_double(_lengths_in_double)
@cpu.instead(_lengths_by_largest)
def _lengths(*vectors: Array) -> list[Length]:
    # To scale by the largest entry would take a pass of its own. So the squares are summed at three scales in one, and
    # what is taken is the sum that lies far from both ends.
    dtype = vectors[0].dtype
    scales = _scales(dtype)
    terms = [(x * scale) ** 2 for x in vectors for scale in scales]
    sums = _sums(terms)
    return [
        Length(jnp.sqrt(_fit(squares[0], *squares)), _fit(squares[0], *scales))
        for squares in (sums[i : i + 3] for i in range(0, len(sums), 3))
    ]


@jax.custom_jvp
def lengths(*vectors: Array) -> list[Length]:
    """The length of each of these vectors."""
    return _lengths(*vectors)


@lengths.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[list[Length], list[Length]]:
    found = [Length(*map(saved_for_backward, length)) for length in lengths(*primals)]
    slopes = [
        jnp.sum(length.direction(x) * length.scale * dx)
        for x, dx, length in zip(primals, tangents, cpu.opaque(found), strict=True)
    ]
    return found, [Length(slope, jnp.zeros_like(slope)) for slope in slopes]


# ---------------------------------------------------------------------------------------------------------------------
# The angle of two vectors

# Half the squared distance of the unit vectors is exact for small angles, but needs the lengths first: two passes. In
# double precision one pass is enough: there
#     1 - cos = (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|)   where   |x| - |y| = (|x|^2 - |y|^2) / (|x| + |y|)
# is wrong by 1e-16 |x - y|^2 / (|x| |y|), and 1 - x.y / (|x| |y|) by 1e-16: less than what the rounding of unit vectors
# costs in single precision, 1e-7 times the angle, or 1e-14 of the smallest. The first is for vectors near each other.


def versine(x: Array, y: Array, measured: bool = False) -> Array:
    """1 - cos(x, y): exact for small angles, and never negative.

    It is 1 with derivative 0 if one of the vectors is 0. measured: whether the `lengths` are needed besides.
    """
    way = _BY_LENGTHS if measured else _AT_ONCE
    one, other = lengths(x, y)
    extreme = _extreme(one.itself) | _extreme(other.itself)
    value = stop_gradient_where([extreme, extreme], functools.partial(_versine, way), x, y)
    return jnp.where((one.scaled == 0) | (other.scaled == 0), 1, value)


def _extreme(size: Array) -> Array:
    """Where second derivatives, of 1 / size^2, may overflow or vanish."""
    bound = float(jnp.finfo(size.dtype).tiny) ** 0.3
    return (size < bound) | (size > 1 / bound)


class _Way(NamedTuple):
    """How to find the angle of two vectors x and y."""

    versine: Callable[[Array, Array], Array]
    along: Callable[..., list[Array]]  # of x, y and their lengths: 1 - cos, as the step between them along each
    slopes: Callable[..., list[Array]]  # of those and `along`: the derivatives, over the scales of the lengths


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _versine(way: _Way, x: Array, y: Array) -> Array:
    return way.versine(x, y)


@_versine.defjvp
def _(way: _Way, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    found = cpu.opaque(lengths(*primals))
    along = [saved_for_backward(x) for x in way.along(*primals, *found)]
    slopes = way.slopes(*primals, *found, *along)
    terms = [jnp.sum(s * (size.scale * dx)) for s, size, dx in zip(slopes, found, tangents, strict=True)]
    return _versine(way, *primals), terms[0] + terms[1]


def _half_square_of_units(x: Array, y: Array) -> Array:
    return _half_square_between(*(length.direction(v) for length, v in zip(lengths(x, y), (x, y), strict=True)))


@cpu.instead(lambda u, v: cpu.end_loop(jnp.sum((v - u) ** 2)) / 2)
def _half_square_between(u: Array, v: Array) -> Array:
    return jnp.sum((v - u) ** 2) / 2


def _along_units(x: Array, y: Array, one: Length, other: Length) -> list[Array]:
    u, v = one.direction(x), other.direction(y)
    return [jnp.sum(a * (a - b)) for a, b in ((u, v), (v, u))]


def _slopes_of_units(x: Array, y: Array, one: Length, other: Length, *along: Array) -> list[Array]:
    # Of the step from the other only what is orthogonal to x counts, by projection: its rounding errors go with it.
    u, v = one.direction(x), other.direction(y)
    return [((u - v) - along[0] * u) / one.divisor, ((v - u) - along[1] * v) / other.divisor]


class _Products(NamedTuple):
    """Of two vectors in double precision, whose own numbers are single: nothing here overflows or vanishes."""

    xx: Array
    yy: Array
    xy: Array
    apart: Array  # |x - y|^2
    both: Array  # |x| |y|, but 1 in place of 0

    @classmethod
    def of(cls, x: Array, y: Array) -> _Products:
        # A sum each: together those of columns would be stored.
        xx, yy, xy, apart = (jnp.sum(terms) for terms in (x * x, y * y, x * y, (x - y) ** 2))
        both = jnp.sqrt(xx * yy)
        # So that the first three are one number if the vectors are equal.
        xy = jnp.where(apart < both, (xx + yy - apart) / 2, xy)
        return cls(xx, yy, xy, apart, jnp.where(both == 0, 1, both))


def _versine_in_double(x: Array, y: Array) -> Array:
    xx, yy, xy, apart, both = _Products.of(x, y)
    longer = (xx - yy) / jnp.where(xx + yy == 0, 1, jnp.sqrt(xx) + jnp.sqrt(yy))
    return jnp.maximum(jnp.where(apart < both, (apart - longer**2) / (2 * both), 1 - xy / both), 0)


def _slopes_in_double(x: Array, y: Array, one: Length, other: Length, *_: Array) -> list[Array]:
    # No sum is needed: what is rounded here is a billion times smaller than what is asked for.
    products = _Products.of(x, y)
    xx, yy, xy, both = products.xx, products.yy, products.xy, products.both
    by_x, by_y = x * (xy / jnp.where(xx == 0, 1, xx)) - y, y * (xy / jnp.where(yy == 0, 1, yy)) - x
    return [by_x / (both * one.scale), by_y / (both * other.scale)]


_BY_LENGTHS = _Way(_half_square_of_units, _along_units, _slopes_of_units)
_IN_DOUBLE = _Way(_versine_in_double, lambda x, y, *_: [_versine_in_double(x, y)] * 2, _slopes_in_double)
_AT_ONCE = _Way(*(gpu.in_double(form)(other) for form, other in zip(_IN_DOUBLE, _BY_LENGTHS, strict=True)))


@jax.vmap
def unit(x: Array) -> Array:
    """The rows over their lengths; zeros remain, with derivative 0."""
    (length,) = lengths(x)
    return jnp.where(length.scaled == 0, 0, length.direction(x))


def versine_of_units(u: Array, v: Array) -> Array:
    """`versine` of vectors that are units, or 0."""
    shorter = jnp.minimum(jnp.max(jnp.abs(u)), jnp.max(jnp.abs(v)))
    return jnp.where(jax.lax.stop_gradient(shorter) == 0, 1, jnp.sum((u - v) ** 2) / 2)


# ---------------------------------------------------------------------------------------------------------------------
# Distances


def distance(x: Array, y: Array, power: int = 2) -> Array:
    """sum(abs(x - y)^power)^(1 / power), with derivative 0 where the two are equal."""
    return distances(x, y, power=power)[0]


def distances(x: Array, *others: Array, power: int = 2) -> list[Array]:
    """Those of x from each of the others: together, since x is read once then."""
    steps = [_difference(x, y) for y in others]
    if power == 1:
        return [jnp.sum(abs0(e)) for e in steps]
    sizes = _sizes if power == 2 else lambda *steps: [_norm(power, e) for e in steps]
    return stop_gradient_where([_extreme(size) for size in sizes(*steps)], sizes, *steps)


@jax.custom_jvp
def _difference(x: Array, y: Array) -> Array:
    """x - y, but the largest number in place of an infinite one, so that it still has a direction."""
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.clip(x - y, -largest, largest)


_difference.defjvp(lambda primals, tangents: (_difference(*primals), tangents[0] - tangents[1]))


@jax.custom_jvp
def half_square(x: Array, y: Array) -> Array:
    """Half the square of their distance. Its derivative is x - y, also where that of the distance ends."""
    size = distance(x, y)
    return size * (size / 2)


half_square.defjvp(
    lambda primals, tangents: (half_square(*primals), jnp.sum((primals[0] - primals[1]) * (tangents[0] - tangents[1])))
)


def _sizes(*steps: Array) -> list[Array]:
    return [length.itself for length in lengths(*steps)]


def _norm(power: int, e: Array) -> Array:
    largest, tiny = jax.lax.stop_gradient(jnp.max(jnp.abs(e))), float(jnp.finfo(e.dtype).tiny)
    nothing = largest < tiny
    # The smallest stay below 1, so that a derivative, divided by the constant and then multiplied, does not vanish.
    scale = 1 / jnp.where(nothing, 1, jnp.clip(largest, tiny * 2.0 ** (40 / power), 1 / tiny))
    total = jnp.sum(abs0(jnp.where(nothing, 0, e) * scale) ** power)
    return jnp.where(nothing, 0, jnp.where(nothing, 1, total) ** (1 / power) / scale)
