"""1 - cos of the angle of two vectors of any size: exact for small angles, and never negative.

Half the squared distance of the unit vectors is that, but needs the lengths first: two passes. Where a machine has more
than single precision, one pass is enough, and is closer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import saved_for_backward
from jaxloss._numerics.twofold import Twofold, halves
from jaxloss._numerics.vectors import (
    Length,
    as_they_are,
    constant_if_extreme,
    lengths_as,
    lengths_in_double,
    lengths_of_each,
    rescaled,
)
from jaxloss._platform import apart, cpu, gpu, tpu


def versine(x: Array, y: Array) -> Array:
    """1 - cos(x, y), which is 1 with derivative 0 if one of the vectors is 0."""
    return versine_and_lengths(x, y)[0]


def versine_and_lengths(x: Array, y: Array) -> tuple[Array, Length, Length]:
    """`versine`, and the lengths of both vectors."""
    one, other = lengths_as(_AT_ONCE.lengths, as_they_are, x, y)
    return _or_one(_versine(x, y, [one, other]), one, other), one, other


def units_and_versine(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """The vectors over their lengths, where zeros remain, and `versine`, with its derivative by those."""
    one, other = lengths_as(_AT_ONCE.lengths, as_they_are, x, y)
    u, v = one.unit_vector(x), other.unit_vector(y)
    return u, v, _or_one(_by_units(u, v, x, y), one, other)


def _or_one(value: Array, one: Length, other: Length) -> Array:
    """1 if one of the vectors has no direction."""
    return jnp.where((one.scaled == 0) | (other.scaled == 0), 1, value)


@jax.custom_jvp
def _by_units(u: Array, v: Array, x: Array, y: Array) -> Array:
    return _half_square(u, v, x, y)


@_by_units.defjvp
def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    (u, v, _, _), (du, dv, _, _) = primals, tangents
    return _by_units(*primals), jnp.sum((u - v) * (du - dv))


class _Way(NamedTuple):
    """How to find the angle of two vectors x and y."""

    lengths: Callable[[Array, Array], list[Length]]
    versine: Callable[[Array, Array, list[Length]], Array]
    along: Callable[[Array, Array, list[Length]], list[Array]]  # 1 - cos, as the step between them along each
    # The derivatives, over the units of the lengths, of x, y, the lengths, these units, and `along`.
    slopes: Callable[[Array, Array, list[Length], list[Array], list[Array]], list[Array]]


@jax.custom_jvp
def _versine(x: Array, y: Array, found: list[Length]) -> Array:
    return _AT_ONCE.versine(x, y, found)


@_versine.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    x, y, lengths = primals
    # Numbers of their own: a vector that the value and these sums both divided by the same ones would be stored.
    own = [Length(*(apart(number, 1, "cpu") for number in length)) for length in lengths]
    x, y, found = constant_if_extreme((x, y, own), *lengths)
    along = [saved_for_backward(x) for x in _AT_ONCE.along(x, y, found)]
    units = [length.unit for length in found]
    slopes = _AT_ONCE.slopes(x, y, found, units, along)
    terms = [jnp.sum(slope * (unit * dx)) for slope, unit, dx in zip(slopes, units, tangents[:2], strict=True)]
    return _versine(*primals), terms[0] + terms[1]


# ---------------------------------------------------------------------------------------------------------------------
# By their lengths


def _versine_of_units(x: Array, y: Array, found: list[Length]) -> Array:
    return _half_square_between(found[0].direction(x), found[1].direction(y))


@cpu.instead(lambda u, v: cpu.end_loop(jnp.sum((v - u) ** 2)) / 2)
def _half_square_between(u: Array, v: Array) -> Array:
    return jnp.sum((v - u) ** 2) / 2


def _along_units(x: Array, y: Array, found: list[Length]) -> list[Array]:
    u, v = found[0].direction(x), found[1].direction(y)
    return [cpu.end_loop(jnp.sum(a * (a - b))) for a, b in ((u, v), (v, u))]


def _slopes_of_units(x: Array, y: Array, found: list[Length], units: list[Array], along: list[Array]) -> list[Array]:
    # Of the step from the other only what is orthogonal to x counts, by projection: its rounding errors go with it.
    u, v = found[0].direction(x), found[1].direction(y)
    steps = (u - v) - along[0] * u, (v - u) - along[1] * v
    return [step / length.divisor_in(unit) for step, length, unit in zip(steps, found, units, strict=True)]


_BY_LENGTHS = _Way(lengths_of_each, _versine_of_units, _along_units, _slopes_of_units)


# ---------------------------------------------------------------------------------------------------------------------
# In double precision, which a GPU has

# In one pass,
#     1 - cos = (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|)   where   |x| - |y| = (|x|^2 - |y|^2) / (|x| + |y|)
# is wrong by 1e-16 |x - y|^2 / (|x| |y|), and 1 - x.y / (|x| |y|) by 1e-16: less than what the rounding of unit vectors
# costs in single precision, 1e-7 times the angle, or 1e-14 of the smallest. The first is for vectors near each other.


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


def _versine_in_double(x: Array, y: Array, found: list[Length]) -> Array:
    xx, yy, xy, apart, both = _Products.of(x, y)
    longer = (xx - yy) / jnp.where(xx + yy == 0, 1, jnp.sqrt(xx) + jnp.sqrt(yy))
    return jnp.maximum(jnp.where(apart < both, (apart - longer**2) / (2 * both), 1 - xy / both), 0)


def _slopes_in_double(x: Array, y: Array, found: list[Length], units: list[Array], along: list[Array]) -> list[Array]:
    # No sum is needed: what is rounded here is a billion times smaller than what is asked for.
    xx, yy, xy, _, both = _Products.of(x, y)
    by_x, by_y = x * (xy / jnp.where(xx == 0, 1, xx)) - y, y * (xy / jnp.where(yy == 0, 1, yy)) - x
    return [by_x / (both * units[0]), by_y / (both * units[1])]


_IN_DOUBLE = _Way(
    lengths_in_double, _versine_in_double, lambda *given: [_versine_in_double(*given)] * 2, _slopes_in_double
)


# ---------------------------------------------------------------------------------------------------------------------
# In twice single precision, for a TPU

# It has no doubles, but by its compiler's estimate two floats for a number take it no longer than reading the vectors.
# With them
#     1 - cos = sin^2 / (1 + cos)   where   sin^2 = (|x|^2 |y|^2 - (x.y)^2) / (|x|^2 |y|^2)
# is wrong by some 1e-14, and 0 for equal vectors. Their exponents are those of single precision: so each entry is
# scaled as it is read, and where two parts of a row join, the larger one sets the scale.

_LARGE, _SCALE = 2.0**40, 2.0**80


class _Scaled(NamedTuple):
    """Of a part of a row: the scale of its largest entry, which is 1 or a step up or down.

    The inverse is kept beside it, so that joining parts takes no quotient.
    """

    scale: Array
    inverse: Array

    @classmethod
    def of(cls, x: Array) -> _Scaled:
        size, one = jnp.abs(x), jnp.ones_like(x)
        up, down = size < 1 / _LARGE, size > _LARGE
        return cls(
            jnp.where(up, _SCALE, jnp.where(down, 1 / _SCALE, one)),
            jnp.where(up, 1 / _SCALE, jnp.where(down, _SCALE, one)),
        )

    def joined(self, other: _Scaled) -> _Scaled:
        return _Scaled(jnp.minimum(self.scale, other.scale), jnp.maximum(self.inverse, other.inverse))


class _Parts(NamedTuple):
    """Of parts of two rows: their scales, and the sums of their products in these scales."""

    x: _Scaled
    y: _Scaled
    xx: Twofold
    yy: Twofold
    xy: Twofold

    @classmethod
    def of(cls, x: Array, y: Array) -> _Parts:
        """Of whole rows, in one pass."""
        # Written out: a start that is computed, as that of an entry of 0, gives NaN for rows spread over devices.
        most = _Scaled(*(jnp.asarray(number, x.dtype) for number in (_SCALE, 1 / _SCALE)))
        nothing = Twofold(*jnp.zeros((2,), x.dtype))
        start = cls(most, most, nothing, nothing, nothing)
        a, b = _Scaled.of(x), _Scaled.of(y)
        x, y = x * a.scale, y * b.scale
        parts = cls(a, b, Twofold.product(x, x), Twofold.product(y, y), Twofold.product(x, y))
        structure = jax.tree.structure(parts)

        def join(some: Sequence[Array], others: Sequence[Array]) -> tuple[Array, ...]:
            joined = jax.tree.unflatten(structure, some).joined(jax.tree.unflatten(structure, others))
            return tuple(jax.tree.leaves(joined))

        sums = jax.lax.reduce(tuple(jax.tree.leaves(parts)), tuple(jax.tree.leaves(start)), join, (0,))
        return jax.tree.unflatten(structure, sums)

    def joined(self, other: _Parts) -> _Parts:
        x, y = self.x.joined(other.x), self.y.joined(other.y)
        mine, theirs = (part.scaled(x.scale * part.x.inverse, y.scale * part.y.inverse) for part in (self, other))
        return _Parts(x, y, *(a + b for a, b in zip(mine, theirs, strict=True)))

    def scaled(self, x: Array, y: Array) -> list[Twofold]:
        """The sums, where both rows are multiplied by a power of two."""
        return [self.xx.shifted(x, x), self.yy.shifted(y, y), self.xy.shifted(x, y)]


class _UnitProducts(NamedTuple):
    """Of two vectors: their lengths, and their products in the units of these."""

    one: Length
    other: Length
    xx: Twofold
    yy: Twofold
    xy: Twofold
    both: Array  # the product of the lengths, but 1 in place of 0

    @classmethod
    def of(cls, x: Array, y: Array) -> _UnitProducts:
        total = _Parts.of(x, y)
        one, other = Length(jnp.sqrt(total.xx.main), total.x.scale), Length(jnp.sqrt(total.yy.main), total.y.scale)
        xx, yy, xy = total.scaled(one.unit * total.x.inverse, other.unit * total.y.inverse)
        both = jnp.sqrt(xx.main * yy.main)
        return cls(one, other, xx, yy, xy, jnp.where(both == 0, 1, both))


def _lengths_of_products(x: Array, y: Array) -> list[Length]:
    products = _UnitProducts.of(x, y)
    return [rescaled(*products.one), rescaled(*products.other)]


def _versine_of_products(x: Array, y: Array, found: list[Length]) -> Array:
    _, _, xx, yy, xy, both = _UnitProducts.of(x, y)
    square = xx * yy
    sine_2 = ((square - xy * xy) / square.or_one()).main
    cosine = xy.main / both
    return jnp.where(cosine > 0, jnp.maximum(sine_2, 0) / (1 + jnp.maximum(cosine, 0)), 1 - cosine)


def _slopes_of_products(x: Array, y: Array, found: list[Length], units: list[Array], along: list[Array]) -> list[Array]:
    _, _, xx, yy, xy, both = _UnitProducts.of(x, y)
    x, y = x * units[0], y * units[1]
    slopes = []
    for a, b, aa in ((x, y, xx), (y, x, yy)):
        # (a.b / a.a) a - b. Both halves of an entry have exact products with the upper half of the quotient.
        share = xy / aa.or_one()
        (upper, lower), (most, less) = halves(a), halves(share.main)
        slopes.append((((upper * most - b) + lower * most) + a * (less + share.rest)) * (1 / both))
    return slopes


_IN_TWOFOLD = _Way(
    _lengths_of_products,
    _versine_of_products,
    lambda *given: [_versine_of_products(*given)] * 2,
    _slopes_of_products,
)


def _suits_twofold(args: Sequence[Array]) -> bool:
    # In longer rows what is joined of parts takes as long as two passes.
    return all(x.dtype == jnp.float32 and x.size <= 2**15 for x in args)


_AT_ONCE = _Way(
    *(
        tpu.instead(twofold, suits=_suits_twofold)(gpu.in_double(double)(form))
        for form, double, twofold in zip(_BY_LENGTHS, _IN_DOUBLE, _IN_TWOFOLD, strict=True)
    )
)


@gpu.instead(lambda u, v, x, y: gpu.sum_of_columns((v - u) ** 2) / 2)
@tpu.instead(lambda u, v, x, y: _versine_of_products(x, y, []), suits=_suits_twofold)
def _half_square(u: Array, v: Array, x: Array, y: Array) -> Array:
    """Of the step between the unit vectors u and v of x and y, which may be columns."""
    return jnp.sum((u - v) ** 2) / 2
