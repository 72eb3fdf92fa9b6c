"""Numbers in twice single precision: a float, and what it lacks of the exact number.

For sums that cancel where a machine has no doubles. The error of a sum of two floats is a float (Knuth 1969, The Art of
Computer Programming 2, 4.2.2), that of a product too: split into halves of 12 bits, both factors have exact products
(Dekker 1971, doi 10.1007/BF01397083).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Twofold(NamedTuple):
    """The sum of both, of which the second is at most what the first is rounded by."""

    main: Array
    rest: Array

    @classmethod
    def product(cls, x: Array, y: Array) -> Twofold:
        """x y, of floats in single precision: exact, if it is above 1e-24."""
        # The bound has it rounded: one instruction that multiplies and subtracts would find no error.
        main = jnp.maximum(x * y, -float(jnp.finfo(x.dtype).max))
        (a, b), (c, d) = halves(x), halves(y)
        return cls(main, ((a * c - main) + a * d + b * c) + b * d)

    def __add__(self, other: Twofold) -> Twofold:  # pyright: ignore
        total = self.main + other.main
        share = total - self.main
        rest = ((self.main - (total - share)) + (other.main - share)) + (self.rest + other.rest)
        return Twofold._near(total, rest)

    def __sub__(self, other: Twofold) -> Twofold:
        return self + Twofold(-other.main, -other.rest)

    def __mul__(self, other: Twofold) -> Twofold:  # pyright: ignore
        main, rest = Twofold.product(self.main, other.main)
        return Twofold._near(main, rest + (self.main * other.rest + self.rest * other.main))

    def __truediv__(self, other: Twofold) -> Twofold:
        # A quotient of equal numbers is 1 also on machines that approximate quotients.
        main = jnp.where(self.main == other.main, 1, self.main / other.main)
        rest = self - other * Twofold(main, jnp.zeros_like(main))
        return Twofold._near(main, rest.main / other.main)

    def shifted(self, *powers: Array) -> Twofold:
        """Times powers of two, one after the other."""
        return Twofold(*(functools.reduce(jnp.multiply, powers, number) for number in self))

    def or_one(self) -> Twofold:
        """1 in place of 0, for a divisor."""
        return self._replace(main=jnp.where(self.main == 0, 1, self.main))

    @classmethod
    def _near(cls, main: Array, rest: Array) -> Twofold:
        total = main + rest
        return cls(total, rest - (total - main))


def halves(x: Array) -> tuple[Array, Array]:
    """The first 12 bits of a float in single precision, and the others."""
    upper = jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.int32) & ~0xFFF, x.dtype)
    return upper, x - upper
