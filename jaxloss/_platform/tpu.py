"""What XLA's compiler for a TPU needs, and no other.

1. It reads an array of short rows, such as boxes, once for every five or so numbers that it computes of their entries,
   and slowly each time. So the entries are taken `at_once`, into arrays of their own: `python -m
   benchmarks.accelerators` without and with it says 1.8 and 0.7 for giou with its gradient: cycles over those of the
   best peer, as below.
2. It makes one pass for each of several sums over the same array, but a single pass if they are one reduction (`sums`).
   Over columns a GPU lacks the memory for that: its compiler fails.
3. It reduces bools in a pass of their own, but a maximum of floats in the pass of other sums, if these are over arrays
   of the same shape. So `any` is computed as a maximum (`any_of`, `any_beside`): `--only "list_softmax where"` says 1.4
   and 1.0, `--only "dice where.* bfloat16"` 1.12 and 1.04.
4. It makes a comparison that several results need once, keeps it, and then makes a pass for each result. So each result
   compares numbers of its own (`apart`): `--only dpo` says 1.8 and 1.0.
5. What several products multiply it computes and lays out anew for each of them, unless it is there `at_once`: `--only
   "linear_cce where.* float32 value.grad"` says 1.17 and 1.09.
6. It has no doubles, but computing with two floats for a number (`_numerics/twofold.py`) takes it no longer than
   reading the inputs. So the angle of two vectors takes one pass here, too: `--only cosine` says 2.0 and 1.0.
7. It gathers and scatters one number after the other, and estimates neither. So what was sorted is sorted back, and
   what stands at one place of a sorted row reaches its neighbours in steps: `put_back` and `at_place` in
   `_numerics/order.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._platform import choice

instead = functools.partial(choice.instead, ("tpu",))


def at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, all of whose results are there before anything is computed of one."""
    return instead(lambda *args: jax.lax.optimization_barrier(function(*args)))(function)


def sums(terms: list[Array]) -> list[Array]:
    """The sum of each of these rows, in one pass."""
    zeros = [jnp.zeros((), x.dtype) for x in terms]
    return list(jax.lax.reduce(terms, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (0,)))


@instead(lambda x: jnp.max(x.astype(jnp.float32), initial=0) > 0)
def any_of(x: Array) -> Array:
    """`jnp.any(x)`."""
    return jnp.any(x)


def any_beside(row: Array, x: Array) -> Array:
    """`jnp.any(x)`, found in the pass of sums over a row, whose first axes are those of x."""

    def form(row: Array, x: Array) -> Array:
        spread = jnp.broadcast_to(jnp.expand_dims(x, range(x.ndim, row.ndim)), row.shape)
        # What is not there counts by its number, lest the compiler find that all classes have the same.
        found = jnp.max(jnp.where(spread, 1, jnp.where(row > 0, 0.0, -1.0)), range(x.ndim)) > 0
        return found[(0,) * found.ndim]

    return instead(form)(lambda _, x: jnp.any(x))(row, x)
