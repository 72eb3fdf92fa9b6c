"""Losses weighed, and made one: sum(w l) / sum(w) over the units that exist."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.types import Reduction
from jaxloss._numerics.derivatives import elementwise
from jaxloss._platform import cpu, mesh


def reduce(
    losses: Array, weights: Array | None, where: Array | None, reduction: Reduction, in_parts: bool = False
) -> Any:
    """Weigh and reduce losses that are already 0 where no unit exists.

    in_parts: whether the sum of the losses takes in what they are made of (`cpu.total`).
    """
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
    total, pair = (cpu.total if in_parts else jnp.sum)(losses), reduction == "sum_and_weight"
    if reduction == "sum":
        return total
    if weights is not None and reduction != "sum_over_batch_size":
        divisor = jnp.sum(weights) if where is None else cpu.total(weights)
    elif where is not None:
        divisor = cpu.total(where.astype(jnp.int32)).astype(losses.dtype)
    elif pair:
        return total, jnp.asarray(losses.size, losses.dtype)
    else:
        return total / (losses.size or 1)
    return (total, divisor) if pair else quotient(total, divisor)


def _over(x: Array, weight: Array) -> Array:
    nothing = weight == 0
    return jnp.where(nothing, 0, x / jnp.where(nothing, 1, weight))


@elementwise
def over(x: Array, weight: Array) -> Array:
    """x / weight, and 0 with derivatives 0 where there is no weight.

    Its automatic derivative would hold the square of the weight, which may be too small or too large for any float.
    """
    return _over(x, weight)


@over.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, weight), (dx, dweight) = primals, tangents
    return over(x, weight), _over(dx - over(x, weight) * dweight, weight)


def quotient(total: Array, divisor: Array) -> Array:
    """The mean from its two sums: 0 where no weight is left, unless a loss is NaN."""
    spoilt = (divisor == 0) & jnp.isnan(total)
    # Added, so that the derivative need not wait for the total, in a pass of its own.
    return over(total, divisor) + jax.lax.stop_gradient(jnp.where(spoilt, jnp.nan, 0))


@dataclasses.dataclass(frozen=True)
class mean_of_means:
    """The mean of each sequence, then the mean over the sequences that are not empty: each of them counts the same.

    As a reduction of losses of shape (batch, time)::

        jl.sparse_cce(tokens, logits, from_logits=True, where=mask, reduction=jl.mean_of_means())

    Inside `jax.shard_map` it is the mean over one device's sequences; under `jax.jit` over all, wherever they lie.

    Args:
      axis: the axis, or axes, of the first mean. That mean uses `weights`; the second one does not.
    """

    axis: int | tuple[int, ...] = -1
    zero_for_nothing: ClassVar[bool] = True

    def __call__(self, losses: Array, weights: Array) -> Array:
        return jnp.sum(losses * self.shares(weights))

    def shares(self, weights: Array) -> Array:
        """By what the loss of each unit is multiplied in the result."""
        within = jnp.sum(weights, self.axis, keepdims=True)
        count = jnp.maximum(jnp.sum((within != 0).astype(weights.dtype)), 1)
        return over(weights, within) / count


def _reduce_by(
    reduction: Callable[[Array, Array], Any], losses: Array, weights: Array | None, where: Array | None
) -> Any:
    if weights is None:
        weights = jnp.ones_like(losses) if where is None else where.astype(losses.dtype)
    if losses.size == 0:
        # As of one unit that does not exist, unless the result keeps the shape of the units.
        one = jnp.zeros(tuple(max(n, 1) for n in losses.shape), losses.dtype)
        if all(x.ndim == 0 for x in jax.tree.leaves(jax.eval_shape(reduction, one, one))):
            losses, weights = one, one
    # Where no weight is left, a weighted mean is 0 / 0: it counts as 0, and no derivative comes from there. But a NaN
    # remains one.
    nothing, spoilt = ~jnp.any(weights != 0), jnp.isnan(losses)
    result = reduction(jnp.where(nothing & ~spoilt, 0, losses), jnp.where(nothing, 0, weights))
    if getattr(reduction, "zero_for_nothing", False):
        return result
    return jax.tree.map(functools.partial(_zero_for_nan, nothing & ~jnp.any(spoilt)), result)


def _zero_for_nan(nothing: Array, x: Any) -> Any:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.where(mesh.everywhere(nothing, x) & jnp.isnan(x), 0, x)


def spread(x: Array, shape: tuple[int, ...]) -> Array:
    """Repeat a (batch,) array along the later axes of the units."""
    return jnp.broadcast_to(jnp.expand_dims(x, tuple(range(x.ndim, len(shape)))), shape)
