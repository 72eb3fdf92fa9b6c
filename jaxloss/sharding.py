"""Means over several devices inside `jax.shard_map`. Outside it, jit with sharded arrays needs nothing from here."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class mean_over:
    """The mean over all devices along a mesh axis: sum(w * l) / sum(w), both summed over the devices first.

    A mean of the devices' means is wrong as soon as their masks differ. For use inside `jax.shard_map` (or any other
    transformation that binds the axis name)::

        def loss(params, x, y, mask):  # the local part of the batch
            return jl.mse(y, model(params, x), where=mask, reduction=jl.mean_over("data"))

    Args:
      axis_name: the mesh axis, or a tuple of them, over which the units are spread.
    """

    axis_name: Hashable
    zero_for_nothing: ClassVar[bool] = True

    def __call__(self, losses: Array, weights: Array) -> Array:
        summed = jax.lax.psum(jnp.stack([jnp.sum(losses * weights), jnp.sum(weights)]), self.axis_name)
        nothing = summed[1] == 0
        return jnp.where(nothing, 0, summed[0] / jnp.where(nothing, 1, summed[1]))
