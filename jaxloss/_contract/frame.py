"""Which axis is which: of the batch, of a set of members, of the units."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract.refuse import Input
from jaxloss._contract.types import current_loss
from jaxloss._platform import mesh


class Frame(NamedTuple):
    """The axes of a loss, numbered as those of the batch: the axes of each input that are not in its core.

    inputs: what the loss was given.
    members: the batch axes that the formula sees whole.
    outputs: the shape of what the formula returns for a set, or for one member of it.
    per_member: whether it returns a loss for each member.
    """

    inputs: Sequence[Input]
    members: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    per_member: bool = False

    @property
    def batch(self) -> tuple[int, ...]:
        return self.inputs[0].batch

    @property
    def mapped(self) -> tuple[int, ...]:
        """The batch axes that the formula does not see."""
        return tuple(i for i in range(len(self.batch)) if i not in self.members)

    @property
    def set_shape(self) -> tuple[int, ...]:
        return tuple(self.batch[i] for i in self.members)

    @property
    def _unit_axes(self) -> tuple[int, ...]:
        return tuple(range(len(self.batch))) if self.per_member else self.mapped

    @property
    def units(self) -> tuple[int, ...]:
        return (*(self.batch[i] for i in self._unit_axes), *self.outputs)

    def returning(self, formula: Callable[..., Array], outputs: int) -> Frame:
        """The frame, after a look at the shape of what the formula returns for a set that is not empty."""
        shape = tuple(max(n, 1) for n in self.set_shape)
        cores = [jax.ShapeDtypeStruct((*shape, *entry.core), entry.x.dtype) for entry in self.inputs]
        exists = jax.ShapeDtypeStruct(shape, bool) if self.members else None
        found = jax.eval_shape(formula, exists, *cores).shape
        first = len(found) - outputs
        if first < 0 or found[:first] not in ((), shape):
            extra = f" before the last {outputs}" if outputs else ""
            expected = f"() or {shape}, one for each member" if self.members else "()"
            raise ValueError(
                f"{current_loss()}: the formula returned an array of shape {found}; its axes{extra} must be {expected}."
            )
        return self._replace(outputs=found[first:], per_member=first > 0)

    def option_axis(self, i: int, ndim: int) -> int | None:
        """Which axis of an option of so many axes is that of the batch axis i, counted from the right of the units."""
        axis = self._unit_axes.index(i) - (len(self.units) - ndim) if i in self._unit_axes else -1
        return axis if axis >= 0 else None

    def option_laid_out(self, option: Array) -> Array:
        last = self.inputs[-1]
        core = [i for i in range(last.x.ndim) if i not in last.batch_axes]
        outputs = core if len(core) == len(self.outputs) else [None] * len(self.outputs)
        return mesh.laid_out_as_units(option, last.x, [*(last.batch_axes[i] for i in self._unit_axes), *outputs])

    def existing_units(self, where: Array, axis_name: Hashable | None) -> Array:
        """Which units exist, from the mask of the members."""
        if self.per_member or not self.members:
            return where
        return mesh.anywhere(jnp.any(where, [i for i in self.members if i < where.ndim]), axis_name)

    def members_first(self, entry: Input, x: Array) -> Array:
        """An input without its mapped axes: the axes of the members, then those of the core."""
        if not self.members:
            return x
        kept = [i for i in range(entry.x.ndim) if i not in [entry.batch_axes[j] for j in self.mapped]]
        ends = [entry.batch_axes[i] for i in self.members]
        return jnp.transpose(x, [kept.index(i) for i in (*ends, *(i for i in kept if i not in ends))])

    def in_order(self, losses: Array) -> Array:
        """Mapped losses with their axes as in the units."""
        if losses.ndim != len(self.units):
            raise ValueError(
                f"{current_loss()}: the formula returned an array of shape {losses.shape[len(self.mapped) :]} for one "
                "unit, expected one number. Did you mean its sum?"
            )
        if not self.per_member:
            return losses
        found = (*self.mapped, *self.members)
        rest = range(len(found), losses.ndim)
        return jnp.transpose(losses, [*(found.index(i) for i in range(len(found))), *rest])
