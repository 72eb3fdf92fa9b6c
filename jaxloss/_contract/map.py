"""From the formula for one example, or for one set of members, to the loss of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import values
from jaxloss._contract.domains import Domain
from jaxloss._contract.frame import Frame
from jaxloss._contract.masks import dropped, harmless, masked
from jaxloss._contract.outside import guarded
from jaxloss._contract.reduce import reduce, spread
from jaxloss._contract.refuse import (
    check_constant,
    check_declared,
    check_inputs,
    check_members,
    check_option_shape,
    check_pair,
    check_returned,
    check_separate,
    check_units,
)
from jaxloss._contract.sets import loss_of_set
from jaxloss._contract.types import (
    ArrayLike,
    Finding,
    Holds,
    Reduction,
    checking,
    current_loss,
    current_notes,
    debugging_nans,
    is_half,
    widen,
)
from jaxloss._numerics.derivatives import SAVED
from jaxloss._platform import cpu, gpu, mesh

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
    selects: bool = False,
    elementwise: bool = False,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
    sibling: str | None = None,
    long: bool = False,
    rules: Callable[..., Sequence[Finding]] | None = None,
) -> Any:
    """The loss of a batch, from the formula for one example, or for one set whose members see one another.

    Args:
      formula: from the core of each input, by position, and the options, by keyword, to one number. Inputs come as
        float32, or all as float64 if one of them is, and labels as integers; but a "row" or "stored" input in half
        precision comes as it is, unless some input is float64. An option comes as it was given if it is a Python
        number, else as a scalar: that of the unit.
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
      selects: promises, with `members`, that the loss of a set, or of a member that exists, does not depend on what a
        member holds that does not, be it NaN: a select leaves it out, a product with 0 does not. Those members then
        hold what they were given where no derivative is taken, which spares a pass over the inputs.
      elementwise: promises, of inputs that are single numbers, that the formula is made of elementwise functions alone.
        It is then called once, with whole arrays, which cuts the time to trace by about a third.
      weights: a factor for each unit; its shape is a leading part of the units' shape. A unit of weight 0 whose loss is
        NaN or inf makes the result NaN, since leaving it out would cost a pass; `where=weights != 0` beside it does.
      where: which units exist (bool), of a shape as for `weights`. The law: masking equals leaving out. With `members`
        it says which members exist, and matches the batch axes from the left; a set without any does not exist. With
        `outputs` it reaches their axes only if no loss is made of what another is (`alone`).
      reduction: "mean", "sum", "none", "sum_over_batch_size" (the sum over the number of units), "sum_and_weight" (the
        pair of sum(w l) and sum(w)), or a function `(losses, weights) -> result`, where the result is any tree.
      sibling: the loss that takes the other kind of target, labels or rows, for errors that say so.
      long: whether the formula is so long that its values are worth a pass of their own, before they are summed.
      rules: what several inputs must fulfil together, as a function of the cores of one example; for `checked`.

    Raises:
      ValueError: shapes that differ, an axis out of range, an unknown reduction, a constant outside its domain.
      TypeError: a dtype that an input cannot have, a mask that is not bool.
    """
    given = check_inputs([(name, *check_pair(name, pair, "NUMBER")) for name, pair in inputs.items()], axis, sibling)
    # An array of NumPy, say, beside one that an explicit mesh spreads.
    alike = mesh.laid_out_together([entry.x for entry in given], [entry.batch_axes for entry in given])
    given = [entry._replace(x=x) for entry, x in zip(given, alike, strict=True)]
    wide = any(x.dtype == jnp.float64 and not x.weak_type for x in (entry.x for entry in given))
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
    declared = {name: check_pair(name, pair, "POSITIVE") for name, pair in (options or {}).items()}
    knobs = [_Option.of(name, value, domain, given[-1].core) for name, (value, domain) in declared.items()]
    constant = {knob.name: knob.value for knob in knobs if not knob.traced}
    traced = [knob for knob in knobs if knob.traced]
    slacks = [entry.holds.domain.slack(entry.x.dtype) for entry in given]

    def returned(*cores: Array, **options: Any) -> Array:
        return check_returned(formula(*cores, **options))

    inside = guarded(returned, [entry.holds for entry in given], slacks, dtype)

    def by_name(tuned: Sequence[Array]) -> dict[str, Any]:
        return constant | {knob.name: knob.domain.usable(x) for knob, x in zip(traced, tuned, strict=True)}

    def evaluated(exists: Array | None, cores: Sequence[Array], tuned: Sequence[Array]) -> Array:
        return returned(*cores, **by_name(tuned), **({} if exists is None else {"exists": exists}))

    def outline(exists: Array | None, *cores: Array) -> Array:
        """The formula, for the shape of what it returns."""
        cores = tuple(widen(x, entry.holds.kind, dtype) for x, entry in zip(cores, given, strict=True))
        return evaluated(exists, cores, [jnp.ones(given[-1].core if knob.per_class else (), dtype) for knob in traced])

    of_numbers = members == () and not any(entry.holds.core for entry in given)
    if elementwise and not of_numbers:
        raise ValueError(f"{current_loss()}: elementwise=True is for inputs that are single numbers, without members.")

    frame = Frame(given, check_members(given[-1], members))
    if frame.members or outputs:
        frame = frame.returning(outline, outputs)
    traced = [knob.fitted(frame) for knob in traced]
    weights, where = check_units(frame.units, weights, where, reduction, frame.batch if frame.members else None)
    if where is not None:
        if outputs and not frame.members and where.ndim > len(frame.batch):
            check_separate(given)
        own = given[0].batch_axes
        where = mesh.laid_out_together([where, given[0].x], [range(min(where.ndim, len(own))), own])[0]
    if checking.value:
        values.inspect(given, where, rules)
        for knob in traced:
            values.inspect_option(knob.name, knob.value, knob.domain)
        if weights is not None:
            values.inspect_weights(weights, None if where is None else frame.existing_units(where, axis_name))
    if 0 in frame.set_shape:
        return reduce(jnp.zeros(frame.units, dtype), weights, jnp.zeros(frame.units, bool), reduction)

    def example(*arrays: Array) -> Array:
        cores, tuned = arrays[: len(given)], arrays[len(given) :]
        return with_tuned(inside(*cores, **by_name(tuned)), tuned)

    def with_tuned(loss: Array, tuned: Sequence[Array]) -> Array:
        for knob, x in zip(traced, tuned, strict=True):
            allowed = knob.domain.holds(x)
            loss = jnp.where(jnp.all(allowed) if knob.per_class else allowed, loss, jnp.nan)
        loss = gpu.end_row(loss.astype(dtype), [math.prod((*frame.set_shape, *entry.core)) for entry in given])
        return cpu.end_loop(loss) if long and where is None else loss  # a mask ends it as well

    def unit(exists: Array | None, *arrays: Array) -> tuple[Array, Array | None]:
        """The loss; and of sets with a mask, which losses exist."""
        cores = [frame.members_first(entry, x) for entry, x in zip(given, arrays[: len(given)], strict=True)]
        cores = [
            # `guarded` wants such rows as they are.
            x if entry.holds.core and is_half(x) and not frame.members else widen(x, entry.holds.kind, dtype)
            for entry, x in zip(given, cores, strict=True)
        ]
        last = range(len(frame.members), cores[-1].ndim)
        tuned = [
            mesh.laid_out_along(last, x.astype(dtype), cores[-1]) if knob.per_class else x.astype(dtype)
            for knob, x in zip(traced, arrays[len(given) :], strict=True)
        ]
        if frame.members:
            loss, kept = loss_of_set(evaluated, frame, slacks, exists, cores, tuned, axis_name, spreads_nan, selects)
            loss, kept = with_tuned(loss, tuned), mesh.laid_out_as(kept, loss)
            return (loss, None) if exists is None else (jnp.where(kept, loss, 0), kept)
        if exists is None:
            return example(*cores, *tuned), None
        _, closed_over = jax.closure_convert(example, *cores, *tuned)
        # The derivative with respect to an option sums over all units, so that no unit may hold what makes it NaN.
        # And jax.debug_nans would report what an eager gradient keeps of them.
        if tuned or closed_over or debugging_nans():
            loss = example(*(harmless(exists, x) for x in cores), *tuned)
            return jnp.where(mesh.laid_out_as(exists, loss), loss, 0), None
        loss = example(*(masked(exists, x) for x in cores))
        return dropped(mesh.laid_out_as(exists, loss), loss), None

    def whole(exists: Array | None, *arrays: Array) -> tuple[Array, None]:
        cores, tuned = arrays[: len(given)], arrays[len(given) :]
        exists = None if exists is None else spread(exists, frame.units)
        tuned = [mesh.laid_out_as(jnp.broadcast_to(x, frame.units), cores[-1]) for x in tuned]
        loss, _ = unit(exists, *cores, *tuned)
        if loss.shape != frame.units:
            raise ValueError(
                f"{current_loss()}: the formula returned an array of shape {loss.shape} for elements of shape "
                f"{frame.units}, so it is not elementwise."
            )
        return loss, None

    # One vmap for each batch axis, from the last to the first: a reshape to one batch axis would undo shardings.
    mapped, axes = (whole, ()) if elementwise else (unit, frame.mapped)
    for i in reversed(axes):
        before = sum(j < i for j in frame.mapped)
        exists_axis = i - before if where is not None and i < where.ndim else None
        places = [entry.batch_axes[i] - before for entry in given]
        mapped = jax.vmap(mapped, in_axes=(exists_axis, *places, *(knob.mapped(i, frame) for knob in traced)))

    # The derivative is recomputed from the inputs: nothing as large as they are is stored for it. Outside of `jax.jit`
    # it is one program, too: jax.checkpoint alone would take one operation after the other there, and `jax_debug_nans`
    # would judge what selects leave out.
    again = jax.checkpoint(
        jax.jit(lambda *arrays: mapped(*cpu.reread(arrays))),
        policy=jax.checkpoint_policies.save_only_these_names(SAVED),
        prevent_cse=False,
    )
    with mesh.current(*(entry.x for entry in given)):
        found, kept = again(where, *(entry.x for entry in given), *(knob.value for knob in traced))
        found, there = frame.in_order(found), where if kept is None else frame.in_order(kept)
    if checking.value:
        values.inspect_losses(found)
    in_parts = of_numbers and not (outputs or long)
    return reduce(found, weights, there, reduction, in_parts)


class _Option(NamedTuple):
    """An option of a loss, as it was given."""

    name: str
    value: Any
    domain: Domain
    per_class: bool

    @classmethod
    def of(cls, name: str, value: Any, domain: Domain | Holds, classes: tuple[int, ...]) -> _Option:
        domain = check_declared(name, domain, Domain, Holds)
        per_class = isinstance(domain, Holds)
        option = cls(name, value, domain.domain if isinstance(domain, Holds) else domain, per_class)
        current_notes().domains[name] = option.domain
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
        check_option_shape(self.name, self.value.shape, units)
        return self._replace(value=frame.option_laid_out(self.value))

    @property
    def traced(self) -> bool:
        return self.value is not None and (self.per_class or not isinstance(self.value, (bool, int, float, str)))

    def mapped(self, axis: int, frame: Frame) -> int | None:
        """Where `jax.vmap` over this axis of the batch finds the option, from which those before are gone."""
        if self.per_class:
            return None
        found = frame.option_axis(axis, self.value.ndim)
        gone = [frame.option_axis(i, self.value.ndim) for i in frame.mapped if i < axis]
        return None if found is None else found - sum(place is not None for place in gone)
