"""What XLA's compiler for a GPU needs.

What two sums share, if it is not cheap, it computes once and stores, be it larger than all that it is made of, as are
the comparisons of any two items of a list. So each sum compares numbers of its own (`apart`): `python -m
benchmarks.accelerators --target h100 --only list_mle` without and with it says 28 and 1.2.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._platform import choice, cpu

instead = functools.partial(choice.instead, "gpu")


def _unknown(x: Array, n: int | Array) -> Array:
    return jnp.where(jax.lax.optimization_barrier(n) > 0, x, jnp.zeros((), x.dtype))


@instead(_unknown)
@cpu.instead(_unknown)  # that compiler has the same habit
def apart(x: Array, n: int | Array) -> Array:
    """x, which the compiler does not know to be the same as x, or as x apart for another n > 0."""
    return x
