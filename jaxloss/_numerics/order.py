"""Rows in order, and sums along them: for losses of an order, in time for each entry and not for each two of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._platform import cpu, mesh, tpu, x64


@cpu.instead(cpu.in_order, suits=cpu.fit_in_half_a_key)
def in_order(key: Array, *others: Array) -> tuple[Array, ...]:
    """The places of a row of keys (the last axis) in ascending order, and others in this order.

    Equal keys stay as they stand, NaN comes last.
    """
    places = jnp.broadcast_to(jnp.arange(key.shape[-1]), key.shape)
    return tuple(jax.lax.sort((key, places, *others), num_keys=1)[1:])


@cpu.instead(cpu.put_back)
def put_back(place: Array, x: Array) -> Array:
    """Each number to its place."""
    # By a sort: a TPU scatters one by one.
    return jax.lax.sort((place, x), num_keys=1, is_stable=False)[1]


def beside(rows: Any, by: int, end: float) -> Any:
    """What stands so many places after each entry of a row, or of each of several; `end` beyond the row."""
    return jax.tree.map(lambda x: jax.lax.pad(x, jnp.asarray(end, x.dtype), [(-by, by, 0)]), rows)


# ---------------------------------------------------------------------------------------------------------------------
# Sums along a row, over stretches of it


def stretches(first: Array) -> tuple[Array, Array]:
    """For each entry of a row the places at which its stretch begins and ends, by which entries are the first ones."""
    places = jnp.arange(first.size)
    last = (places == first.size - 1) | beside(first, 1, 0)
    begin = jax.lax.cummax(jnp.where(first, places, 0))
    return begin, jax.lax.cummin(jnp.where(last, places, first.size), reverse=True)


# A sum of exponentials as m and s, which stand for s exp(m): m is the largest exponent.
Sum: TypeAlias = tuple[Array, Array]


def add(x: Sum, y: Sum) -> Sum:
    (m, s), (n, t) = x, y
    top = jnp.maximum(m, n)
    return top, s * jnp.exp(m - top) + t * jnp.exp(n - top)


def sum_where(condition: Array, x: Sum) -> Sum:
    """0 elsewhere."""
    m, s = x
    return jnp.where(condition, m, -jnp.finfo(m.dtype).max), jnp.where(condition, s, 0)


def running(x: Sum, edge: Array, after: bool = False) -> Sum:
    """The sum of each entry and all before it in its stretch; or all after it.

    edge: where the stretch of each entry begins; with `after`, where it ends.
    """
    return _running(add, sum_where, x, edge, after)


def _running(join: Callable[..., Any], where: Callable[..., Any], x: Any, edge: Array, after: bool) -> Any:
    def in_turn(x: Any, edge: Array) -> Any:
        def step(state: tuple[Array, Any], entry: tuple[Array, Any]) -> tuple[tuple[Array, Any], Any]:
            (known, total), (here, term) = state, entry
            total = join(where(known == here, total), term)
            return (here, total), total

        with x64():  # as one sum of thousands of terms, it needs more digits
            entries = mesh.varying((edge, jax.tree.map(lambda part: part.astype(jnp.float64), x)))
            none = mesh.varying(jax.tree.map(lambda part: jnp.full((), -1, part.dtype), entries), entries)
            sums = jax.lax.scan(step, none, entries, reverse=after)[1]
            return jax.tree.map(lambda part, like: part.astype(like.dtype), sums, x)

    @cpu.instead(in_turn)
    def by_doubling(x: Any, edge: Array) -> Any:
        away = _away(edge)
        for by in _powers_of_two(edge.size, after):
            x = join(where(away >= abs(by), beside(x, by, 0)), x)
        return x

    return by_doubling(x, edge)


def at_place(x: Any, place: Array, after: bool = False) -> Any:
    """What stands at one place of each stretch, for all of it: at its first entry, or at its last."""

    def by_doubling(x: Any, place: Array) -> Any:
        away = _away(place)
        for by in _powers_of_two(place.size, after):
            x = jax.tree.map(functools.partial(jnp.where, away >= abs(by)), beside(x, by, 0), x)
        return x

    @tpu.instead(by_doubling)  # since it reads one number after the other
    def read(x: Any, place: Array) -> Any:
        return jax.tree.map(lambda part: jnp.take_along_axis(part, place, -1, mode="promise_in_bounds"), x)

    return read(x, place)


def totals(x: Any, begin: Array, end: Array) -> Any:
    """The sums of numbers over each stretch, for all of it."""
    sums = _running(functools.partial(jax.tree.map, jnp.add), _or_zero, x, begin, False)
    return at_place(sums, end, after=True)


def _or_zero(condition: Array, x: Any) -> Any:
    return jax.tree.map(lambda part: jnp.where(condition, part, 0), x)


def _away(place: Array) -> Array:
    return jnp.abs(jnp.arange(place.size) - place)


def _powers_of_two(size: int, after: bool) -> list[int]:
    """-1, -2, -4, ... until the row ends; or 1, 2, 4, ..."""
    steps = range((size - 1).bit_length())
    return [(1 if after else -1) << k for k in steps]
