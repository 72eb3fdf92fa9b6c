"""Units and members that do not exist: what they hold reaches neither the loss nor its derivative."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._numerics.elementary import widened
from jaxloss._platform import cpu, mesh


def masked(exists: Array, x: Array) -> Array:
    """x as it is, but with no derivative where the unit does not exist, not even that of a NaN.

    The value needs no such care: it is `dropped`. Both branches are equal, so the select is free. Half precision goes
    through float32: widened in two places it would not be the same.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    wide = widened(x)
    return jnp.where(mesh.laid_out_as(exists, x), wide, jax.lax.stop_gradient(wide)).astype(x.dtype)


@jax.custom_jvp
def dropped(exists: Array, loss: Array) -> Array:
    """The loss of a unit of `masked` inputs, or 0. Its transpose is the identity, since `masked` drops the gradient."""
    return jnp.where(exists, loss, 0)


dropped.defjvp(lambda primals, tangents: (dropped(*primals), cpu.kept(tangents[1], primals[0], back=False)))


def harmless(exists: Array, x: Array) -> Array:
    """x where the unit exists, elsewhere 1 (0 for integers), in every domain but those of log-probabilities."""
    fill = jnp.full_like(x, jnp.issubdtype(x.dtype, jnp.floating))
    return jnp.where(mesh.laid_out_as(exists, x), x, fill)
