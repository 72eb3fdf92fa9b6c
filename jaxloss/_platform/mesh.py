"""What explicit meshes need, and `jax.shard_map`: there an array's type says how it lies over the devices.

In a mesh of automatic axes, and without one, every function here is the identity.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def in_explicit_mesh(*arrays: Array) -> bool:
    return any(AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types for x in arrays)


def mesh_of(*arrays: Array) -> Any:
    """The explicit mesh of the first array that lies in one, or None."""
    return next((jax.typeof(x).sharding.mesh for x in arrays if in_explicit_mesh(x)), None)


def laid_out_as(x: Array, *others: Array) -> Array:
    """x with the layout of these arrays, to whose shapes it may be broadcast: operators demand equal layouts."""
    if not in_explicit_mesh(*others):
        return x
    false = functools.reduce(jnp.logical_or, [(other != other) & False for other in others])
    return x | false if x.dtype == bool else x + false.astype(x.dtype)


def laid_out_as_units(option: Array, x: Array, batch_axes: Sequence[int]) -> Array:
    """An option with the layout of the units' trailing axes, which are these axes of x."""
    if not option.ndim or not in_explicit_mesh(x):
        return option
    kind = jax.typeof(x).sharding
    spec = [kind.spec[axis] for axis in batch_axes][-option.ndim :]
    return jax.sharding.reshard(option, NamedSharding(kind.mesh, PartitionSpec(*spec)))


def scalars_laid_out_as(*arrays: Array) -> Callable[[Any], Any]:
    """Lay constants out as these arrays are, but for their axes: the state of a scan may not change its layout."""
    false = functools.reduce(jnp.logical_or, [jnp.any(x != x) & False for x in arrays])
    return functools.partial(jax.tree.map, lambda x: x + false.astype(x.dtype))


def replicated(*arrays: Array) -> tuple[Array, ...]:
    """All arrays whole on each device: sorting, and finding the first of something, have no rule for a split axis."""
    mesh = mesh_of(*arrays)
    if mesh is None:
        return arrays
    return tuple(jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*[None] * x.ndim))) for x in arrays)


def current(x: Array) -> contextlib.AbstractContextManager[Any]:
    """Make the mesh of an array the current one, as a scan demands that is mapped: jax does not take it from arrays."""
    if in_explicit_mesh(x) and jax.sharding.get_abstract_mesh().empty:
        return jax.sharding.use_abstract_mesh(jax.typeof(x).sharding.mesh)
    return contextlib.nullcontext()


def automatic(run: Callable[..., Any], places: Any) -> Callable[..., Any]:
    """Let the compiler lay out what happens inside; the results lie as the arrays in `places` do (None: replicated)."""

    def in_that_mesh(*args: Any) -> Any:
        leaves = jax.tree.leaves((args, places))
        if not in_explicit_mesh(*leaves):
            return run(*args)
        mesh = next(m for m in (jax.typeof(x).sharding.mesh for x in leaves) if not m.empty)

        def place(x: Array | None) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec() if x is None else jax.typeof(x).sharding.spec)

        out = jax.tree.map(place, places, is_leaf=lambda x: x is None)
        return jax.sharding.auto_axes(run, out_sharding=out)(*args)

    return in_that_mesh


def varying(tree: Any, like: Any = None) -> Any:
    """Inside `shard_map`: everything counted as different on each device, as soon as one array of them is.

    So the sum over the devices, which the derivative with respect to a common kernel needs, happens once and not in
    each chunk.
    """
    axes = frozenset().union(*(_varying_axes(x) for x in jax.tree.leaves((tree, like))))

    def cast(x: Array) -> Array:
        missing = tuple(axes - _varying_axes(x))
        if not missing:
            return x
        if hasattr(jax.lax, "pcast"):
            return jax.lax.pcast(x, missing, to="varying")
        return jax.lax.pvary(x, missing)  # pyright: ignore  jax 0.7.2

    return jax.tree.map(cast, tree)


def everywhere(condition: Array, x: Array) -> Array:
    """Inside `shard_map`: whether a condition holds on all devices that share this value of x."""
    shared = tuple(_varying_axes(condition) - _varying_axes(x))
    return jax.lax.psum((~condition).astype(jnp.int32), shared) == 0 if shared else condition


def _varying_axes(x: Array) -> frozenset[Any]:
    """The mesh axes along which an array differs: new versions of jax and old ones keep them in different places."""
    kind = jax.typeof(x)
    return frozenset(kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying)
