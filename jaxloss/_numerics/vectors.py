"""Lengths and distances of vectors of any size, from the smallest floats to the largest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import elementwise, gradient_where, saved_for_backward, stop_gradient_where
from jaxloss._numerics.elementary import abs0, inverse_unit
from jaxloss._platform import apart, cpu, gpu, tpu


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

    @property
    def unit(self) -> Array:
        """The power of two that takes the length to between 2 and 4, or as near as such a float can."""
        tiny = float(jnp.finfo(self.scale.dtype).tiny)
        return jnp.clip(inverse_unit(self.scaled) * jax.lax.stop_gradient(self.scale), tiny, 1 / tiny)

    def divisor_in(self, unit: Array) -> Array:
        """The length times this power of two, and not 0."""
        return self.divisor * (unit / jax.lax.stop_gradient(self.scale))

    def direction(self, x: Array) -> Array:
        """The vector over its length."""
        # No entry is below -1. The bound is there to have each rounded: where one instruction multiplies and subtracts,
        # the difference of equal vectors would not be 0. It is -2, made of numbers of the row: a constant that several
        # sums share may be stored for each entry.
        divisor = self.divisor
        bound = jax.lax.stop_gradient(-1 - self.scaled / divisor)
        return jnp.maximum(x * self.scale / divisor, bound)

    def unit_vector(self, x: Array) -> Array:
        """The vector over its length; zeros remain, with derivative 0."""
        return jnp.where(self.scaled == 0, 0, self.direction(x))


def _fit(square: Array, middling: Any, small: Any, large: Any) -> Array:
    """What belongs to a vector of this squared length."""
    far = float(jnp.finfo(square.dtype).max) ** 0.8
    return jnp.where(square < 1 / far, small, jnp.where(square > far, large, middling)).astype(square.dtype)


def _scales(dtype: Any) -> list[float]:
    return [2.0 ** int(power * jnp.finfo(dtype).maxexp) for power in (0, 0.6, -0.6)]


def rescaled(length: Array, scale: Array) -> Length:
    """Of the scales that all forms have, since derivatives of another form may be taken of these lengths."""
    new = _fit((length / scale) ** 2, *_scales(length.dtype))
    return Length(length * (new / scale), new)


def _lengths_by_largest(*vectors: Array) -> list[Length]:
    return [rescaled(*cpu.length(x, inverse_unit, jnp.abs, x)) for x in vectors]


@tpu.instead(tpu.sums)
def _sums(terms: list[Array]) -> list[Array]:
    return [jnp.sum(x) for x in terms]


def lengths_in_double(*vectors: Array) -> list[Length]:
    squares = [jnp.sum(x * x) for x in vectors]
    scales = [_fit(x.astype(jnp.float32), *_scales(jnp.float32)).astype(x.dtype) for x in squares]
    return [Length(jnp.sqrt(square) * scale, scale) for square, scale in zip(squares, scales, strict=True)]


@gpu.in_double(lengths_in_double)
@cpu.instead(_lengths_by_largest, rows=True)
def lengths_of_each(*vectors: Array) -> list[Length]:
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


Form = Callable[..., list[Length]]


Made = Callable[..., list[Array]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def lengths_as(form: Form, made: Made, *parts: Array) -> list[Length]:
    """The length of each of the vectors that are made of these parts, as this form finds it from the parts."""
    return form(*parts)


@lengths_as.defjvp
def _(
    form: Form, made: Made, primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[list[Length], list[Length]]:
    found = [Length(*map(saved_for_backward, length)) for length in lengths_as(form, made, *primals)]
    slopes = [
        jnp.sum(length.direction(x) * length.scale * dx)
        for x, dx, length in zip(*jax.jvp(made, primals, tangents), cpu.opaque(found), strict=True)
    ]
    return found, [Length(slope, jnp.zeros_like(slope)) for slope in slopes]


def as_they_are(*vectors: Array) -> list[Array]:
    return list(vectors)


@jax.vmap
def unit(x: Array) -> Array:
    """The rows over their lengths; zeros remain, with derivative 0."""
    (length,) = lengths_as(lengths_of_each, as_they_are, x)
    return length.unit_vector(x)


# ---------------------------------------------------------------------------------------------------------------------
# Distances


def distance(x: Array, y: Array, power: int = 2) -> Array:
    """sum(abs(x - y)^power)^(1 / power), with derivative 0 where the two are equal."""
    return distances(x, y, power=power)[0]


def distances(x: Array, *others: Array, power: int = 2) -> list[Array]:
    """Those of x from each of the others: together, since x is read once then."""
    if power == 2:
        found = lengths_as(_lengths_of_steps, _steps, x, *others)
        return [_size(x, y, length) for y, length in zip(others, found, strict=True)]
    steps = _steps(x, *others)
    if power == 1:
        return [jnp.sum(abs0(e)) for e in steps]
    norm = functools.partial(_norm, power)
    return [stop_gradient_where([is_extreme(norm(e))], norm, e) for e in steps]


def is_extreme(size: Array) -> Array:
    """Where second derivatives, of 1 / size^2, may overflow or vanish."""
    bound = float(jnp.finfo(size.dtype).tiny) ** 0.3
    return (size < bound) | (size > 1 / bound)


def constant_if_extreme(tree: Any, *lengths: Length) -> Any:
    """What a derivative is made of, but constant where the derivative of that, the second, may overflow or vanish."""

    def moderate(*numbers: Array) -> Array:
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        extreme = [is_extreme(Length(*pair).itself) for pair in pairs]
        return ~functools.reduce(jnp.logical_or, extreme)

    numbers = [x for length in lengths for x in length]
    return jax.tree.map(lambda x: gradient_where(moderate, x, *numbers), tree)


@elementwise
def _difference(x: Array, y: Array) -> Array:
    """x - y, but the largest number in place of an infinite one, so that it still has a direction."""
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.clip(x - y, -largest, largest)


_difference.defjvp(lambda primals, tangents: (_difference(*primals), tangents[0] - tangents[1]))


def _steps(x: Array, *others: Array) -> list[Array]:
    return [_difference(x, y) for y in others]


def _sizes_of_step(x: Array, y: Array, most: Array) -> Array:
    return jnp.minimum(jnp.abs(x - y), most)


def _lengths_of_steps_by_largest(x: Array, *others: Array) -> list[Length]:
    # An infinite step has an infinite square, so that it is bounded only where the scale is needed. The bound is one of
    # the parts, since it, too, would be stored if two sums shared it.
    most = jnp.full((), jnp.finfo(x.dtype).max)
    return [rescaled(*cpu.length(x - y, inverse_unit, _sizes_of_step, x, y, most)) for y in others]


@cpu.instead(_lengths_of_steps_by_largest, rows=True)
def _lengths_of_steps(x: Array, *others: Array) -> list[Length]:
    return lengths_of_each(*_steps(x, *others))


@jax.custom_jvp
def half_square(x: Array, y: Array) -> Array:
    """Half the square of their distance. Its derivative is x - y, also where that of the distance ends."""
    size = distance(x, y)
    return size * (size / 2)


half_square.defjvp(
    lambda primals, tangents: (half_square(*primals), jnp.sum((primals[0] - primals[1]) * (tangents[0] - tangents[1])))
)


@jax.custom_jvp
def _size(x: Array, y: Array, length: Length) -> Array:
    """The length of the step between two vectors, whose second derivative is 0 where no float may hold it."""
    return length.itself


@_size.defjvp
def _(primals: tuple[Array, Array, Length], tangents: tuple[Array, Array, Length]) -> tuple[Array, Array]:
    (x, y, length), (dx, dy, _) = primals, tangents
    # A GPU would store the step that the length is made of: `--only "triplet.* float32 value.grad"` says 1.1, and 1.0.
    step = _difference(apart(x, 1, "gpu"), apart(y, 1, "gpu"))
    step, length = constant_if_extreme((step, cpu.opaque(length)), length)
    return _size(*primals), jnp.sum(length.direction(step) * (dx - dy))


def _norm(power: int, e: Array) -> Array:
    largest, tiny = jax.lax.stop_gradient(jnp.max(jnp.abs(e))), float(jnp.finfo(e.dtype).tiny)
    nothing = largest < tiny
    # The smallest stay below 1, so that a derivative, divided by the constant and then multiplied, does not vanish.
    scale = 1 / jnp.where(nothing, 1, jnp.clip(largest, tiny * 2.0 ** (40 / power), 1 / tiny))
    total = jnp.sum(abs0(jnp.where(nothing, 0, e) * scale) ** power)
    return jnp.where(nothing, 0, jnp.where(nothing, 1, total) ** (1 / power) / scale)
