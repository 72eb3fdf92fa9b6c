"""What XLA's compiler for a TPU needs, and no other.

1. It reads an array of short rows, such as boxes, once for every five or so numbers that it computes of their entries,
   and slowly each time. So the entries are taken `at_once`, into arrays of their own: `python -m
   benchmarks.accelerators` without and with it says 1.8 and 0.7 for giou with its gradient.
2. It makes a pass for each of several sums of the same array, but for one of all of them together (`sums`). A GPU lacks
   the memory for that, of columns: its compiler fails.
3. It reduces bools in a pass of their own, a maximum of floats in that of other sums. So whether there is any is a
   maximum (`any_of`): `--only "list_softmax where"` says 1.4 and 1.0.
4. A comparison that several results need it makes once and keeps, and then it makes a pass for each result. So each
   compares numbers of its own (`apart`): `--only dpo` says 1.8 and 1.0.
5. It has no doubles, but two floats for a number (`_numerics/twofold.py`) take it no longer than to read what they are
   made of. So the angle of two vectors takes one pass there, too: `--only cosine` says 2.0 and 1.0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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


def any_of(x: Array, axis: Sequence[int] | None = None) -> Array:
    """`jnp.any`."""
    form = instead(lambda x: jnp.max(x.astype(jnp.float32), axis, initial=0) > 0)
    return form(lambda x: jnp.any(x, axis))(x)
