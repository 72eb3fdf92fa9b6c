"""What explicit meshes need, and `jax.shard_map`: there an array's type says how it lies over the devices.

Outside an explicit mesh the functions that lay arrays out change nothing; `whole_along` is for automatic axes.
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


def moved_as(x: Array, other: Array) -> Array:
    """x, which may be laid out in any way, as another array of its shape is."""
    if not in_explicit_mesh(x, other):
        return x
    kind = jax.typeof(other).sharding
    return replicated(x)[0] if kind.mesh.empty else jax.sharding.reshard(x, kind)


def laid_out_together(arrays: Sequence[Array], axes: Sequence[Sequence[int]]) -> list[Array]:
    """Arrays that share axes, each laid out along those of them where it is whole as the first that is spread there.

    axes: the places of the shared axes in each; a mask may lack the last of them.
    """
    mesh = mesh_of(*arrays)
    if mesh is None:
        return list(arrays)
    specs = [[*kind.spec, *[None] * (x.ndim - len(kind.spec))] for x in arrays for kind in [jax.typeof(x).sharding]]
    common: dict[int, Any] = {}
    for spec, places in zip(specs, axes, strict=True):
        for i, place in enumerate(places):
            if spec[place] is not None:
                common.setdefault(i, spec[place])

    def laid_out(x: Array, spec: list[Any], places: Sequence[int]) -> Array:
        wanted = list(spec)
        for i, place in enumerate(places):
            if spec[place] is None and i in common and common[i] not in wanted:
                wanted[place] = common[i]
        return x if wanted == spec else jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*wanted)))

    return list(map(laid_out, arrays, specs, axes))


def laid_out_along(axes: Sequence[int], x: Array, other: Array) -> Array:
    """x with the layout that another array has along these axes."""
    if not in_explicit_mesh(other):
        return x
    return laid_out_as(x, jnp.max(other, [i for i in range(other.ndim) if i not in axes]))


def laid_out_as_units(option: Array, x: Array, axes: Sequence[int | None]) -> Array:
    """An option with the layout of the units' trailing axes, which are these axes of x, or None of them."""
    if not option.ndim or not in_explicit_mesh(x):
        return option
    kind = jax.typeof(x).sharding
    spec = [None if axis is None else kind.spec[axis] for axis in axes][-option.ndim :]
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


def all_members(*arrays: Array, axis_name: Any = None) -> tuple[Array, ...]:
    """Arrays of members, with those of all devices: for a formula that pairs members with one another.

    In an explicit mesh each device gets them whole. Inside `jax.shard_map` they are gathered along their first axis,
    over the mesh axes in `axis_name`, if given. Elsewhere they are as they were.
    """
    if axis_name is not None:
        return tuple(jax.lax.all_gather(x, axis_name, tiled=True) for x in arrays)
    return replicated(*arrays)


def summed_around(term: Callable[[Any], Array], mine: Any, axis_name: Any) -> Array:
    """Inside `jax.shard_map`: the sum of term(arrays) over the devices, of which each gave its own as `mine`.

    They come from one device after the other, and again for the derivative, so that none holds those of all.
    """
    count = jax.lax.psum(1, axis_name)

    def moved_by(distance: int) -> Callable[[Any], Any]:
        ring = [(i, (i + distance) % count) for i in range(count)]
        return lambda tree: jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, ring), tree)

    moves, mine = [moved_by(distance) for distance in range(1, count)], varying(mine)

    # What it gets is not one of the states of the loop, which the derivative would keep.
    @jax.checkpoint
    def next_term(distance: Array) -> Array:
        return term(jax.lax.switch(distance, moves, mine))

    def step(total: Array, distance: Array) -> tuple[Array, None]:
        return total + next_term(distance), None

    total = jax.checkpoint(term)(mine)
    return jax.lax.scan(step, total, jnp.arange(count - 1))[0] if moves else total


def anywhere(condition: Array, axis_name: Any) -> Array:
    """Whether a condition holds on any of the devices along these axes of the mesh."""
    if axis_name is None:
        return condition
    return jax.lax.psum(condition.astype(jnp.int32), axis_name) > 0


def current(*arrays: Array) -> contextlib.AbstractContextManager[Any]:
    """Make the mesh of arrays the current one, as a scan demands that is mapped: jax does not take it from arrays."""
    mesh = mesh_of(*arrays)
    if mesh is not None and jax.sharding.get_abstract_mesh().empty:
        return jax.sharding.use_abstract_mesh(mesh)
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


def whole_along(axis: int, x: Array) -> Array:
    """The same array, whole along an axis on each device, where the compiler lays it out; other axes stay as they are.

    Before a loop, so that the compiler gathers the array there and not in each step.
    """
    mesh: Any = jax.typeof(x).sharding.mesh
    mesh = jax.sharding.get_abstract_mesh() if mesh.empty else mesh
    if AxisType.Auto not in mesh.axis_types:
        return x
    spec = [None if i == axis else PartitionSpec.UNCONSTRAINED for i in range(x.ndim)]
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


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
