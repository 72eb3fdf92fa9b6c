"""Length and angle of vectors of any size: exact also for small angles, with no pass over them more than needed."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.derivatives import saved_for_backward
from jaxloss._platform import cpu


class Polar(NamedTuple):
    """Of two vectors the lengths, each times a scale that keeps it far from the ends of the floats, and their cosine.

    The scales count as constants. A vector of zeros has the length 0, and the cosine 0 with every other.
    """

    x_length: Array
    y_length: Array
    cos: Array
    x_scale: Array
    y_scale: Array

    def divisors(self) -> tuple[Array, Array]:
        """The lengths, but 1 in place of 0."""
        return tuple(jnp.where(length == 0, 1, length) for length in self[:2])

    def is_extreme(self) -> Array:
        """Whether the second derivative of the cosine, of 1 / length^2, may overflow or vanish."""
        bound = float(jnp.finfo(self.cos.dtype).tiny) ** 0.3
        lengths = [self.x_length / self.x_scale, self.y_length / self.y_scale]
        return functools.reduce(jnp.logical_or, [(x < bound) | (x > 1 / bound) for x in lengths])

    def directions(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The vectors of length 1."""
        x_length, y_length = self.divisors()
        return x * self.x_scale / x_length, y * self.y_scale / y_length


def _sums(rows: Any) -> Any:
    """The sum of each row, all in one pass."""
    leaves, structure = jax.tree.flatten(rows)
    zeros = [jnp.zeros((), x.dtype) for x in leaves]
    found = jax.lax.reduce(leaves, zeros, lambda sums, terms: [s + t for s, t in zip(sums, terms, strict=True)], (0,))
    return jax.tree.unflatten(structure, found)


@cpu.instead(lambda x, y: Polar(*cpu.polar(x, y)))
def _polar(x: Array, y: Array) -> Polar:
    # To scale by the largest entry would take a pass of its own. So all is summed at three scales, and what is taken is
    # the sum that lies far from both ends of the floats.
    power = int(0.6 * jnp.finfo(x.dtype).maxexp)
    scales = {-1: 2.0**-power, 0: 1.0, 1: 2.0**power}
    pairs = {-2: (-1, -1), -1: (-1, 0), 0: (0, 0), 1: (0, 1), 2: (1, 1)}
    xs, ys = ({i: v * scale for i, scale in scales.items()} for v in (x, y))
    x_squares, y_squares, products = _sums(
        [
            {i: v * v for i, v in xs.items()},
            {i: v * v for i, v in ys.items()},
            {k: xs[i] * ys[j] for k, (i, j) in pairs.items()},
        ]
    )

    def at(place: Array, sums: dict[int, Any]) -> Array:
        found = sums[0]
        for i in sums.keys() - {0}:
            found = jnp.where(place == i, sums[i], found)
        return found

    def place_of(squares: dict[int, Array]) -> Array:
        far = float(jnp.finfo(x.dtype).max) ** 0.8
        return (squares[0] < 1 / far).astype(jnp.int32) - (squares[0] > far).astype(jnp.int32)

    x_place, y_place = place_of(x_squares), place_of(y_squares)
    product = at(x_place + y_place, products)
    x_length, y_length = jnp.sqrt(at(x_place, x_squares)), jnp.sqrt(at(y_place, y_squares))
    x_scale, y_scale = (at(place, scales).astype(x.dtype) for place in (x_place, y_place))
    found = Polar(x_length, y_length, product, x_scale, y_scale)
    x_divisor, y_divisor = found.divisors()
    return found._replace(cos=product / x_divisor / y_divisor)


@jax.custom_jvp
def polar(x: Array, y: Array) -> Polar:
    return _polar(x, y)


@polar.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Polar, Polar]:
    found = Polar(*map(saved_for_backward, polar(*primals)))
    own = cpu.opaque(found)
    (u, v), (x_length, y_length) = own.directions(*primals), own.divisors()
    dx, dy = tangents[0] * own.x_scale, tangents[1] * own.y_scale
    d_cos = jnp.sum((v - own.cos * u) / x_length * dx) + jnp.sum((u - own.cos * v) / y_length * dy)
    still = jnp.zeros_like(d_cos)
    return found, Polar(jnp.sum(u * dx), jnp.sum(v * dy), d_cos, still, still)


@jax.custom_jvp
def versine(x: Array, y: Array) -> Array:
    """1 - cos(x, y), as half the squared distance of the unit vectors: exact for small angles, and never negative."""
    u, v = polar(x, y).directions(x, y)
    return jnp.sum((v - u) ** 2) / 2


@versine.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    return versine(*primals), -jax.jvp(lambda x, y: polar(x, y).cos, primals, tangents)[1]
