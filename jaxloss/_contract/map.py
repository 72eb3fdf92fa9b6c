"""From the formula for one example, or for one set of members, to the loss of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from jaxloss._contract import domains, values
from jaxloss._contract.domains import Domain
from jaxloss._contract.frame import Frame
from jaxloss._contract.reduce import reduce, spread
from jaxloss._contract.refuse import check_constant, check_inputs, check_members, check_units
from jaxloss._contract.types import ArrayLike, Finding, Holds, Reduction, checking, current_loss, widen, widened
from jaxloss._platform import cpu, mesh

PER_CLASS = Holds(core=1)


def losses(
    formula: Callable[..., Array],
    inputs: Mapping[str, tuple[ArrayLike, Holds]],
    *,
    options: Mapping[str, tuple[Any, Domain | Holds]] | None = None,
    axis: int | tuple[int, ...] = -1,
    members: int | tuple[int, ...] = (),
    outputs: int = 0,
    axis_name: Hashable | None = None,
    spreads_nan: bool = False,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
    sibling: str | None = None,
    rules: Callable[..., Sequence[Finding]] | None = None,
) -> Any:
    """The loss of a batch, from the formula for one example, or for one set whose members see one another.

    Args:
      formula: from the core of each input, by position, and the options, by keyword, to one number. Inputs come as
        float32 (or float64), labels as integers. An option comes as it was given if it is a Python number, else as a
        scalar: that of the unit.
      inputs: by the names that the caller knows, each with what it holds. Their batch axes must have equal shapes;
        nothing is broadcast.
      options: by name, each with its domain: one number, or an array whose shape is a trailing part of the units'
        shape. `PER_CLASS` in place of a domain: one number for each entry of the core, the same for all units.
      axis: where the core of the inputs lies, if it has one axis; a tuple says it of several.
      members: the axes of the last input that hold the members of a set (pixels, tokens, anchors), among the batch axes
        of all inputs. The formula sees the whole set, arrays with the axes of the members before those of the core,
        and gets as `exists` which members there are (bool). Those that do not exist hold ones (labels zeros); to leave
        them out is the task of the formula. It returns one loss for the set (the units lack the member axes) or an
        array of one for each member. A value outside its domain makes the whole set NaN. Where a loss is NaN, or no
        member exists, the gradient is 0, whatever the derivative of the formula is.
      outputs: how many further axes the result of the formula has, if it gives several losses at once, as one for each
        class: the last axes of the units. An option comes as an array of that shape, if it has these axes.
      axis_name: inside `jax.shard_map`, the mesh axes over which the members of a set are spread. A formula that pairs
        members gets those of all devices by `all_members(x, axis_name=axis_name)`.
      spreads_nan: promises, with `members`, that a NaN in any floating input makes each loss NaN that depends on it, as
        sums do and comparisons do not. What lies outside its domain then costs no pass of its own.
      weights: a factor for each unit; its shape is a leading part of the units' shape. A unit of weight 0 whose loss is
        NaN or inf makes the result NaN, since leaving it out would cost a pass; `where=weights != 0` beside it does.
      where: which units exist (bool), of a shape as for `weights`. The law: masking equals leaving out. With `members`
        it says which members exist, and matches the batch axes from the left; a set without any does not exist.
      reduction: "mean", "sum", "none", "sum_over_batch_size", or a function `(losses, weights) -> result`.
      sibling: the loss that takes the other kind of target, labels or rows, for errors that say so.
      rules: what several inputs must fulfil together, as a function of the cores of one example; for `checked`.

    Raises:
      ValueError: shapes that differ, an axis out of range, an unknown reduction, a constant outside its domain.
      TypeError: a dtype that an input cannot have, a mask that is not bool.
    """
    given = check_inputs([(name, x, holds) for name, (x, holds) in inputs.items()], axis, sibling)
    wide = any(x.dtype == jnp.float64 and not x.weak_type for x in (entry.x for entry in given))
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
    knobs = [_Option.of(name, value, domain, given[-1].core) for name, (value, domain) in (options or {}).items()]
    constant = {knob.name: knob.value for knob in knobs if not knob.traced}
    traced = [knob for knob in knobs if knob.traced]
    slacks = [entry.holds.domain.slack(entry.x.dtype) for entry in given]

    def evaluated(exists: Array | None, cores: Sequence[Array], tuned: Sequence[Array]) -> Array:
        by_name = {knob.name: x for knob, x in zip(traced, tuned, strict=True)}
        return formula(*cores, **constant, **by_name, **({} if exists is None else {"exists": exists}))

    def outline(exists: Array | None, *cores: Array) -> Array:
        """The formula, for the shape of what it returns."""
        cores = tuple(widen(x, entry.holds.kind, dtype) for x, entry in zip(cores, given, strict=True))
        return evaluated(exists, cores, [jnp.ones(given[-1].core if knob.per_class else (), dtype) for knob in traced])

    frame = Frame(given, check_members(given[-1], members))
    if frame.members or outputs:
        frame = frame.returning(outline, outputs)
    traced = [knob.fitted(frame) for knob in traced]
    weights, where = check_units(frame.units, weights, where, reduction, frame.batch if frame.members else None)
    there = None if where is None else frame.existing_units(where, axis_name)
    if checking.value:
        values.inspect(given, where, rules)
        for knob in traced:
            values.inspect_option(knob.name, knob.value, knob.domain)
        if weights is not None:
            values.inspect_weights(weights, there)
    if 0 in frame.set_shape:
        return reduce(jnp.zeros(frame.units, dtype), weights, jnp.zeros(frame.units, bool), reduction)

    def example(*arrays: Array) -> Array:
        cores, tuned = arrays[: len(given)], arrays[len(given) :]
        loss = evaluated(None, cores, tuned)
        for entry, x, slack in zip(given, cores, slacks, strict=True):
            loss = _nan_outside(entry.holds, x, slack, cores[-1], loss, outputs > 0 and entry.holds.alone)
        return with_tuned(loss, tuned)

    def with_tuned(loss: Array, tuned: Sequence[Array]) -> Array:
        for knob, x in zip(traced, tuned, strict=True):
            margin = knob.domain.margin(x)
            loss = loss if margin is None or knob.per_class else jnp.where(margin >= 0, loss, jnp.nan)
        return loss.astype(dtype)

    def unit(exists: Array | None, *arrays: Array) -> Array:
        cores = [
            widen(frame.members_first(entry, x), entry.holds.kind, dtype)
            for entry, x in zip(given, arrays[: len(given)], strict=True)
        ]
        last = range(len(frame.members), cores[-1].ndim)
        tuned = [
            mesh.laid_out_along(last, x.astype(dtype), cores[-1]) if knob.per_class else x.astype(dtype)
            for knob, x in zip(traced, arrays[len(given) :], strict=True)
        ]
        if frame.members:
            loss, kept = _loss_of_set(evaluated, frame, slacks, exists, cores, tuned, axis_name, spreads_nan)
            loss = with_tuned(loss, tuned)
            return loss if exists is None else jnp.where(mesh.laid_out_as(kept, loss), loss, 0)
        if exists is None:
            return example(*cores, *tuned)
        _, closed_over = jax.closure_convert(example, *cores, *tuned)
        # The derivative with respect to an option sums over all units, so that no unit may hold what makes it NaN.
        mask = _harmless if tuned or closed_over else _masked
        loss = example(*(mask(exists, x) for x in cores), *tuned)
        return jnp.where(mesh.laid_out_as(exists, loss), loss, 0)

    # One vmap for each batch axis, from the last to the first: a reshape to one batch axis would undo shardings.
    mapped = unit
    for i in reversed(frame.mapped):
        before = sum(j < i for j in frame.mapped)
        exists_axis = i - before if where is not None and i < where.ndim else None
        places = [entry.batch_axes[i] - before for entry in given]
        mapped = jax.vmap(mapped, in_axes=(exists_axis, *places, *(knob.mapped(i, frame) for knob in traced)))

    # The derivative is recomputed from the inputs: nothing as large as they are is stored for it.
    policy = jax.checkpoint_policies.save_only_these_names("jaxloss")
    again = jax.checkpoint(lambda *arrays: mapped(*cpu.reread(arrays)), policy=policy, prevent_cse=False)
    found = frame.in_order(again(where, *(entry.x for entry in given), *(knob.value for knob in traced)))
    if checking.value:
        values.inspect_losses(found)
    return reduce(found, weights, there, reduction)


class _Option(NamedTuple):
    """An option of a loss, as it was given."""

    name: str
    value: Any
    domain: Domain
    per_class: bool

    @classmethod
    def of(cls, name: str, value: Any, domain: Domain | Holds, classes: tuple[int, ...]) -> _Option:
        per_class = isinstance(domain, Holds)
        option = cls(name, value, domain.domain if isinstance(domain, Holds) else domain, per_class)
        if not option.traced:
            check_constant(name, value, option.domain)
            return option
        array = jnp.asarray(value)
        if per_class and array.shape != classes:
            raise ValueError(
                f"{current_loss()}: {name} has shape {array.shape}, expected {classes}: one for each class."
            )
        return option._replace(value=array)

    def fitted(self, frame: Frame) -> _Option:
        """The option laid out as the units are, after a check of its shape."""
        units = frame.units
        if self.per_class:
            return self
        if self.value.shape != units[len(units) - self.value.ndim :]:
            raise ValueError(
                f"{current_loss()}: {self.name} has shape {self.value.shape}, the losses have shape {units}. An option "
                f"is one number, or an array that matches the losses from the right: of shape {units}"
                + (f", or {units[-1:]}, one for each entry of the last axis." if len(units) > 1 else ".")
            )
        return self._replace(value=frame.option_laid_out(self.value))

    @property
    def traced(self) -> bool:
        return not (self.value is None or isinstance(self.value, (bool, int, float, str)))

    def mapped(self, axis: int, frame: Frame) -> int | None:
        """Where `jax.vmap` over this axis of the batch finds the option, from which those before are gone."""
        if self.per_class:
            return None
        found = frame.option_axis(axis, self.value.ndim)
        gone = [frame.option_axis(i, self.value.ndim) for i in frame.mapped if i < axis]
        return None if found is None else found - sum(place is not None for place in gone)


# ---------------------------------------------------------------------------------------------------------------------
# Outside the domain


def _nan_outside(holds: Holds, x: Array, slack: float, scores: Array, loss: Array, entrywise: bool) -> Array:
    """The loss, but NaN with zero gradient where an input lies outside its domain."""
    if holds.domain is domains.LABEL and holds.core == 0:
        return jnp.where((x >= 0) & (x < scores.shape[-1]), loss, jnp.nan)
    margin = _margin(holds, x, slack, scores)
    if margin is None:
        return loss
    if x.ndim and not entrywise:
        # Stored, one number for each row: found again, it would cost the derivative a second pass.
        return jnp.where(saved_for_backward(jnp.min(margin)) >= 0, loss, jnp.nan)
    return _nan_unless(margin, loss)


def _margin(holds: Holds, x: Array, slack: float, scores: Array) -> Array | None:
    """How far inside its domain each entry is, negative outside; None where every number is inside."""
    if holds.domain is domains.LABEL and holds.core == 0:
        return jnp.where((x >= 0) & (x < scores.shape[-1]), 0.0, -1.0)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    return holds.domain.margin(jax.lax.stop_gradient(widened(x)), slack)


@jax.custom_jvp
def _nan_unless(margin: Array, loss: Array) -> Array:
    return loss + _zero_or_nan(margin)


@_nan_unless.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return _nan_unless(*primals), jnp.where(primals[0] >= 0, tangents[1], 0)


@cpu.instead(lambda margin: 0 * jnp.sqrt(jnp.minimum(margin, 1)))
def _zero_or_nan(margin: Array) -> Array:
    return jnp.where(margin >= 0, 0, jnp.nan).astype(margin.dtype)


def saved_for_backward(x: Array) -> Array:
    """Store this value of a formula (one number for each row, never a row) instead of recomputing it."""
    return checkpoint_name(x, "jaxloss")


# ---------------------------------------------------------------------------------------------------------------------
# Masks


def _masked(exists: Array, x: Array) -> Array:
    """x as it is, but with no derivative where the unit does not exist, not even that of a NaN.

    The value needs no such care: `unit` drops it. Both branches are equal, so the select is free. Half precision goes
    through float32: widened in two places it would not be the same.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    wide = widened(x)
    return jnp.where(mesh.laid_out_as(exists, x), wide, jax.lax.stop_gradient(wide)).astype(x.dtype)


def _harmless(exists: Array, x: Array) -> Array:
    """x where the unit exists, elsewhere a value that lies in every domain."""
    fill = jnp.full_like(x, jnp.issubdtype(x.dtype, jnp.floating))
    return jnp.where(mesh.laid_out_as(exists, x), x, fill)


# ---------------------------------------------------------------------------------------------------------------------
# Sets of members


def _loss_of_set(
    formula: Callable[[Array, Sequence[Array], Sequence[Array]], Array],
    frame: Frame,
    slacks: Sequence[float],
    exists: Array | None,
    cores: Sequence[Array],
    tuned: Sequence[Array],
    axis_name: Hashable | None,
    spreads_nan: bool,
) -> tuple[Array, Array]:
    """The losses of a set, NaN outside the domain, and which of them exist."""
    shape, count, whole = frame.set_shape, len(cores), exists is None
    exists = jnp.ones(shape, bool) if exists is None else spread(exists, shape)
    exists = mesh.laid_out_along(range(len(shape)), exists, cores[-1])
    some = jnp.ones((), bool) if whole else mesh.anywhere(jnp.any(exists), axis_name)
    cores = cores if whole else [_harmless(spread(exists, x.shape), x) for x in cores]
    inside = jnp.ones((), bool) if spreads_nan else _inside(frame, cores, slacks, axis_name)

    def losses_of(exists: Array, *arrays: Array) -> Array:
        cores = _marked(frame, arrays[:count], slacks) if spreads_nan else arrays[:count]
        return formula(exists, cores, arrays[count:])

    loss = _with_quiet_nan(losses_of, frame, inside & some, exists, *cores, *tuned)
    if not spreads_nan:
        loss = jnp.where(mesh.laid_out_as(_across(inside, loss), loss), loss, jnp.nan)
    return loss, spread(exists, loss.shape) if frame.per_member else _across(some, loss)


def _across(x: Array, losses: Array) -> Array:
    """What holds for a set, or for each class of it, repeated for all its losses."""
    return jnp.broadcast_to(x, losses.shape)


def _margins(frame: Frame, cores: Sequence[Array], slacks: Sequence[float]) -> list[Array | None]:
    return [
        _margin(entry.holds, x, slack, cores[-1]) for entry, x, slack in zip(frame.inputs, cores, slacks, strict=True)
    ]


def _least(margins: Sequence[Array]) -> Array:
    """The least margin of all inputs: one array, so that they are read once."""
    widest = max(margins, key=lambda x: x.ndim)
    same = [mesh.laid_out_as(jnp.expand_dims(x, range(x.ndim, widest.ndim)), widest) for x in margins]
    return functools.reduce(jnp.minimum, [x.astype(widest.dtype) for x in same])


def _inside(frame: Frame, cores: Sequence[Array], slacks: Sequence[float], axis_name: Hashable | None) -> Array:
    """Whether all members lie in their domains, or which classes of all members."""
    known = [(x, entry.holds) for x, entry in zip(_margins(frame, cores, slacks), frame.inputs, strict=True)]
    known = [(x, holds) for x, holds in known if x is not None]
    if not known:
        return jnp.ones((), bool)
    ndim, margins = len(frame.members), [x for x, _ in known]
    if len({x.shape for x in margins if x.ndim > ndim}) > 1:
        margins = [jnp.min(x, range(ndim, x.ndim)) for x in margins]
    least = jnp.min(_least(margins), range(ndim))
    by_class = frame.outputs and all(holds.alone or not holds.core for _, holds in known)
    least = saved_for_backward(least if by_class else jnp.min(least))
    return ~mesh.anywhere(~(least >= 0), axis_name)


def _marked(frame: Frame, cores: Sequence[Array], slacks: Sequence[float]) -> list[Array]:
    """The inputs, of which one is NaN where any of them lies outside its domain."""
    margins = _margins(frame, cores, slacks)
    known = [x for x in margins if x is not None]
    if not known:
        return list(cores)
    floating = [i for i, x in enumerate(cores) if jnp.issubdtype(x.dtype, jnp.floating)]
    # One that has a domain, so that no other is read where it was not before.
    bearer = max(floating, key=lambda i: (cores[i].ndim, margins[i] is not None, i))
    x, margin = cores[bearer], _least(known)
    margin = mesh.laid_out_as(jnp.expand_dims(margin, range(margin.ndim, x.ndim)), x)
    return [*cores[:bearer], _nan_where_outside(margin, x), *cores[bearer + 1 :]]


@jax.custom_jvp
def _nan_where_outside(margin: Array, x: Array) -> Array:
    return x + _zero_or_nan(margin).astype(x.dtype)


_nan_where_outside.defjvp(lambda primals, tangents: (_nan_where_outside(*primals), tangents[1]))


def _with_quiet_nan(function: Callable[..., Array], frame: Frame, kept: Array, exists: Array, *arrays: Array) -> Array:
    """function(exists, *arrays), with a derivative of 0 where the result is NaN or is not kept.

    A select after the function is not enough for that: its derivative of 0 would be multiplied by the NaN inside.
    """
    function, closed_over = jax.closure_convert(function, exists, *arrays)
    by_class = frame.outputs and not frame.per_member
    alone = [entry.holds.alone for entry in frame.inputs]
    alone += [x.shape == frame.outputs for x in arrays[len(alone) :]] + [False] * len(closed_over)

    @jax.custom_jvp
    def value(kept: Array, exists: Array, *arrays: Array) -> Array:
        return function(exists, *arrays)

    @value.defjvp
    def _(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        kept, exists, *point = primals
        loss = value(*primals)
        fine = loss == loss
        fine = fine | ~spread(exists, loss.shape) if frame.per_member else fine
        fine = saved_for_backward(fine & mesh.laid_out_as(_across(kept, loss), loss))
        whole = jnp.all(fine)
        moved = [
            tangent
            if tangent.dtype == jax.dtypes.float0
            else _zero_unless(fine if by_class and each else whole, tangent)
            for tangent, each in zip(tangents[2:], alone, strict=True)
        ]
        slope = jax.jvp(lambda *point: function(exists, *point), tuple(point), tuple(moved))[1]
        return loss, _zero_unless(fine, slope)

    return value(kept, exists, *arrays, *closed_over)


def _zero_unless(fine: Array, x: Array) -> Array:
    return jnp.where(mesh.laid_out_as(jnp.broadcast_to(fine, x.shape), x), x, 0)
