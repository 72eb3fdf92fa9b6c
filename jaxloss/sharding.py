"""Means over several devices inside `jax.shard_map`. Outside it, jit with sharded arrays needs nothing from here."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.reduce import quotient


@dataclasses.dataclass(frozen=True)
class mean_over:
    """The mean over all devices along a mesh axis: sum(w * l) / sum(w), both summed over the devices first.

    A mean of the devices' means is wrong as soon as their masks differ. For use inside `jax.shard_map` (or any other
    transformation that binds the axis name)::

        def loss(params, x, y, mask):  # the local part of the batch
            return jl.mse(y, model(params, x), where=mask, reduction=jl.mean_over("data"))

    The gradient is that of the whole batch, also where it is taken inside `jax.shard_map`. Inside `jax.pmap` or
    `jax.shard_map(..., check_vma=False)` it is the share of one device, times the number of devices: there
    `jax.lax.pmean(grads, "data")` gives the gradient of the whole batch (`psum` would be too large by that number).

    Args:
      axis_name: the mesh axis, or a tuple of them, over which the units are spread.
    """

    axis_name: Hashable
    zero_for_nothing: ClassVar[bool] = True

    def __call__(self, losses: Array, weights: Array) -> Array:
        sums = jnp.stack([jnp.sum(losses * weights), jnp.sum(weights)])
        try:
            summed = jax.lax.psum(sums, self.axis_name)
        except NameError:
            raise ValueError(
                f"mean_over: no axis {self.axis_name!r} is bound here. Give the name of an axis of the mesh, and call "
                'the loss inside jax.shard_map; with jit and sharded arrays reduction="mean" is right as it is.'
            ) from None
        return quotient(summed[0], summed[1])
