"""Losses weighed, and made one: sum(w l) / sum(w) over the units that exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.types import Reduction
from jaxloss._platform import cpu


def reduce(losses: Array, weights: Array | None, where: Array | None, reduction: Reduction) -> Any:
    """Weigh and reduce losses that are already 0 where no unit exists."""
    if weights is not None:
        weights = spread(weights.astype(losses.dtype), losses.shape)
    given = weights
    if where is not None:
        where = spread(where, losses.shape)
        weights = None if weights is None else jnp.where(where, weights, 0)

    if callable(reduction):
        return _reduce_by(reduction, losses, weights, where)
    if given is not None:
        # Masked anew, rather than multiplied by the masked weights: NaN times 0 is NaN.
        losses = losses * given if where is None else jnp.where(where, losses * given, 0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return jnp.sum(losses)
    if reduction == "mean" and weights is not None:
        divisor = jnp.sum(weights) if where is None else _total_of_masked(weights)
    elif where is not None:
        divisor = _total_of_masked(where.astype(jnp.int32)).astype(losses.dtype)
    else:
        return jnp.sum(losses) / max(losses.size, 1)
    return jnp.where(divisor == 0, 0, jnp.sum(losses) / jnp.where(divisor == 0, 1, divisor))


def _reduce_by(
    reduction: Callable[[Array, Array], Any], losses: Array, weights: Array | None, where: Array | None
) -> Any:
    if weights is None:
        weights = jnp.ones_like(losses) if where is None else where.astype(losses.dtype)
    if losses.size == 0:
        one_of_each = jax.ShapeDtypeStruct(tuple(max(n, 1) for n in losses.shape), losses.dtype)
        if jax.eval_shape(reduction, one_of_each, one_of_each).ndim == 0:
            return jnp.zeros((), losses.dtype)
    # Where no weight is left, the losses are 0 and the weights so small that only their square is still a number: a
    # weighted mean is 0 / tiny = 0 instead of 0 / 0, while a sum over several devices does not notice them.
    nothing = ~jnp.any(weights != 0)
    tiny = 2 * float(jnp.finfo(losses.dtype).tiny) ** 0.5
    return reduction(jnp.where(nothing, 0, losses), jnp.where(nothing, tiny, weights))


def spread(x: Array, shape: tuple[int, ...]) -> Array:
    """Repeat a (batch,) array along the later axes of the units."""
    return jnp.broadcast_to(jnp.expand_dims(x, tuple(range(x.ndim, len(shape)))), shape)


@jax.custom_jvp
@cpu.instead(cpu.total_of_masked)
def _total_of_masked(x: Array) -> Array:
    """The sum of masked weights, or of a mask as whole numbers."""
    return jnp.sum(x)


@_total_of_masked.defjvp
def _(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Any]:
    return _total_of_masked(*primals), jnp.sum(tangents[0])
