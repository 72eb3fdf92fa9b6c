"""Batches cut into chunks and joined again: for what would be too large if made for the whole batch at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._platform import mesh


def in_chunks(rows: Callable[..., Any], each: Any, options: Any, common: Any, chunk: int | None) -> Any:
    """rows(each, options, common) for a chunk of the rows of `each` and `options` at a time; what is common is whole.

    Nothing that the rows make of a chunk is kept: the derivative goes through each chunk again, and so do further ones.
    """
    return through_chunks(lambda *given: (rows(*given), ()), each, options, common, chunk)[0]


def through_chunks(
    rows: Callable[..., tuple[Any, Any]],
    each: Any,
    options: Any,
    common: Any,
    chunk: int | None,
    combine: Callable[[Array, Array], Array] = jnp.add,
    start: float = 0,
) -> tuple[Any, Any]:
    """The same for rows that also return something of all rows of a chunk, to be combined over the chunks.

    Only for sums does the derivative store nothing. The last chunk is padded by rows of 0 or False, options of 1.
    """
    n = jax.tree.leaves(each)[0].shape[0]
    counts = (1,) if chunk is None else chunk_counts((n,), chunk)
    if counts == (1,):
        return rows(each, options, common)
    each, options, common = mesh.varying((each, options, common))
    again = jax.checkpoint(lambda each, options: rows(each, options, common), prevent_cse=False)
    chunks = cut(each, counts), cut(options, counts, fill=1)

    def step(together: Any, chunk: Any) -> tuple[Any, Any]:
        found, more = again(*chunk)
        return jax.tree.map(combine, together, more), found

    kinds = jax.eval_shape(again, *jax.tree.map(lambda x: x[0], chunks))[1]
    nothing = jax.tree.map(lambda x: jnp.full(x.shape, start, x.dtype), kinds)
    together, found = jax.lax.scan(step, mesh.varying(nothing, like=chunks), chunks)
    return join(found, (n,), counts), together


def chunk_counts(shape: tuple[int, ...], chunk: int) -> tuple[int, ...]:
    """How many chunks to cut each batch axis into, so that a chunk has about the given number of units.

    The last axes are cut first, and at first none into pieces shorter than 8: an axis that is spread over devices
    should keep a part on each of them.
    """
    counts = [1] * len(shape)
    for least in (8, 1):
        for i in reversed(range(len(shape))):
            units = math.prod(-(-size // count) for size, count in zip(shape, counts, strict=True))
            if units > chunk:
                wanted = counts[i] * -(-units // chunk)
                counts[i] = max(counts[i], chunk_count(shape[i], max(1, min(wanted, shape[i] // least))))
    return tuple(counts)


def chunk_count(size: int, least: int) -> int:
    """A number of chunks that divides an axis, if there is one of about the right size; else the last is padded."""
    fitting = [n for n in range(least, min(2 * least, size) + 1) if size % n == 0]
    return next((n for n in fitting if size // n % 8 == 0), fitting[0] if fitting else least)


def cut(tree: Any, counts: tuple[int, ...], fill: int = 0) -> Any:
    """Chunks along a new first axis. Each takes every count-th unit: so each device goes through its own units.

    fill: what pads the last units. Options of units take ones, with which no formula makes a NaN.
    """
    n = len(counts)

    def cut_one(x: Array) -> Array:
        core = x.shape[n:]
        lengths = [-(-size // count) for size, count in zip(x.shape, counts, strict=False)]
        padding = [(0, k * c - size) for k, c, size in zip(lengths, counts, x.shape, strict=False)]
        if any(after for _, after in padding):
            x = jnp.pad(x, [*padding, *[(0, 0)] * len(core)], constant_values=fill)
        x = x.reshape(*itertools.chain(*zip(lengths, counts, strict=True)), *core)
        x = jnp.moveaxis(x, range(1, 2 * n, 2), range(n))
        return x.reshape(math.prod(counts), *lengths, *core)

    return jax.tree.map(cut_one, tree)


def join(tree: Any, shape: tuple[int, ...], counts: tuple[int, ...]) -> Any:
    """The inverse of `cut`."""
    n = len(counts)

    def join_one(x: Array) -> Array:
        lengths, core = x.shape[1 : n + 1], x.shape[n + 1 :]
        x = jnp.moveaxis(x.reshape(*counts, *lengths, *core), range(n), range(1, 2 * n, 2))
        x = x.reshape(*(k * c for k, c in zip(lengths, counts, strict=True)), *core)
        return x[tuple(slice(size) for size in shape)]

    return jax.tree.map(join_one, tree)
