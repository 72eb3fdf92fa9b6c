"""What the losses of sequences need for sums over paths: exact logarithms, and states that a scan can carry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.order import beside

# The logarithm of "never": finite, so that differences of two of them are no NaN.
NEVER = -1e37

# A logarithm as a whole number and a part near 0. One float would round a logarithm of -300 at its fifth decimal, and
# the differences of such numbers decide where the paths go; whole numbers are not rounded at all.
Log: TypeAlias = tuple[Array, Array]


def log_one_at(where: Array, dtype: Any) -> Log:
    """log 1 at some places, log 0 at the others."""
    return jnp.where(where, 0, jnp.full((), NEVER, dtype)), jnp.zeros(where.shape, dtype)


def log_mul(x: Log, factor: Array) -> Log:
    """The product with exp(factor), which is at most 1."""
    part = x[1] + factor
    whole = jax.lax.stop_gradient(jnp.round(part))
    return x[0] + whole, part - whole


@jax.custom_jvp
def log_add(a: Log, b: Log) -> tuple[Log, Array]:
    """exp(a) + exp(b), and the share of exp(a) in the sum."""
    ahead = (a[0] - b[0]) + (a[1] - b[1])
    larger = on_both(lambda a, b: jnp.where(ahead >= 0, a, b), a, b)
    smaller = jnp.exp(-jnp.abs(ahead))
    share = 1 / (1 + smaller)
    return (larger[0], larger[1] + jnp.log1p(smaller)), jnp.where(ahead >= 0, share, smaller * share)


@log_add.defjvp
def _(primals: tuple[Log, Log], tangents: tuple[Log, Log]) -> tuple[tuple[Log, Array], tuple[Log, Array]]:
    total, share = log_add(*primals)
    (_, da), (_, db) = tangents  # the whole numbers count as constants
    return (total, share), ((jnp.zeros_like(total[0]), share * da + (1 - share) * db), share * (1 - share) * (da - db))


def on_both(function: Callable[..., Array], *numbers: Any) -> Log:
    whole, part = (function(*parts) for parts in zip(*numbers, strict=True))
    return whole, part


def log_div(x: Log, divisor: Array) -> Log:
    return jnp.maximum(x[0] - divisor, NEVER), x[1]


def minus_log(x: Log, scale: Array, feasible: Array, impossible: float) -> tuple[Array, Array]:
    """-log(x exp(scale)), or what an impossible sequence costs; and whether it is possible."""
    loss = -((scale + x[0]) + x[1])
    possible = feasible & (loss < -NEVER / 2)
    rounded_up = jax.lax.stop_gradient(jnp.maximum(loss, 0) - loss)
    return jnp.where(possible, loss + rounded_up, impossible), possible


def choose(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, condition), new, old)


def entry_at(place: Array, x: Array) -> Array:
    return jnp.sum(jnp.where(place, x, 0))


def logsumexp_in_two(z: Array) -> tuple[Array, Array]:
    """The logsumexp over the last axis in two parts: the maximum, which counts as a constant, and the rest."""
    largest = jax.lax.stop_gradient(jnp.max(z, axis=-1))
    shift = jnp.where(jnp.isneginf(largest), 0, largest)
    sum_exp = jnp.sum(jnp.exp(z - shift[..., None]), axis=-1)
    return shift, jnp.log(jnp.where(sum_exp == 0, 1, sum_exp))


def shifted(x: Array, first: Any) -> Array:
    """x moved one place to the right, with a new first entry; the last entry is lost."""
    return beside(x, -1, first)


def padded(x: Array) -> Array:
    return jnp.pad(x, (0, 1))


def count(n: int) -> Array:
    return jnp.arange(n, dtype=jnp.int32)
