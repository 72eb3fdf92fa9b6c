"""What differs by machine, each in a room of its own: `cpu.py`, `gpu.py` and `tpu.py`, explicit meshes in `mesh.py`.

How a program gets the form of its platform is in `choice.py`; what all compilers need is here.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._platform import choice, mesh


def unmoved(number: float, like: Array) -> Array:
    """A factor that no compiler moves out of a sum.

    A plain `x / 2 + y / 2` may become `(x + y) / 2`, and that sum may overflow.
    """
    return jax.lax.optimization_barrier(jnp.asarray(number, like.dtype))


# `choice.instead`, for a GPU and a TPU. There a sum that waits for another one takes a pass of its own, but what joins
# two parts of a row may be any function: so the largest entry and the sum of exponentials below it are found at once.
# For columns, a GPU stores the arrays that it joins, if they are more than two.
# `python -m benchmarks.accelerators --only "sparse_cce logits 8192"` without and with it says 1.3 and 0.7 on a TPU.
accelerated = functools.partial(choice.instead, ("gpu", "tpu"))


def whole(args: Sequence[Array]) -> bool:
    """Whether the sizes of rows are known, and no explicit mesh may spread them."""
    return all(isinstance(x.shape[-1], int) and not mesh.in_explicit_mesh(x) for x in args)


# `choice.instead`, for forms that sort a row where the readable form compares any two entries. A GPU compares them in
# one kernel that reads each entry once; each step of a sum along a sorted row would be one more. Without and with it
# `python -m benchmarks.accelerators --only list_mle` says 16 and 5 on a TPU, in value; on a CPU `python -m
# benchmarks.before 91ecbbf --only list_mle` says 0.3 to 0.6.
by_sorting = functools.partial(choice.instead, ("cpu", "tpu"), suits=whole)


def apart(x: Array, n: int | Array, *platforms: str) -> Array:
    """x, disguised: the compilers of these platforms take it for an array other than x, and than x with another n > 0.

    So what two uses would otherwise share, and store, is computed for each of them.
    """
    if isinstance(n, int):
        return choice.same(x, form=functools.partial(_unknown, n=n), platforms=platforms)
    return choice.same(x, n, form=_unknown, platforms=platforms)


def at_most(size: int, limit: int) -> bool:
    """Whether a size is known to be no more than that: `jax.export` may leave it open."""
    return isinstance(size, int) and size <= limit


def pieces_of(x: Array, whole: int, size: int = 8192, axis: int = -1) -> int:
    """How many equal pieces of up to `size` entries an axis of more than `whole` splits into; 1 if it stays whole."""
    length = x.shape[axis]
    if not isinstance(length, int) or length <= whole or mesh.in_explicit_mesh(x):
        return 1
    counts = [n for n in range(-(-length // size), 16 * length // size) if length % n == 0]
    # Each of 2, 4 or 8 devices, over which a row may be spread, keeps whole pieces.
    return max(counts, key=lambda n: math.gcd(n, 8), default=1)


def _unknown(x: Array, n: int | Array) -> Array:
    return jnp.where(jax.lax.optimization_barrier(jnp.asarray(n)) > 0, x, jnp.zeros((), x.dtype))


def tied(result: Any, others: Any) -> Any:
    """The result, so that no compiler and no transformation may compute it without the others."""
    return jax.lax.optimization_barrier((result, others))[0]


def x64() -> contextlib.AbstractContextManager[Any]:
    """64-bit numbers inside the block. jax 0.7.2 has only the experimental name, new versions only the other one."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax import experimental

    return experimental.enable_x64(True)  # pyright: ignore
