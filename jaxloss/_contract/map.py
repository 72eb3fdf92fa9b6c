"""From the formula for one example to the loss of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import domains, values
from jaxloss._contract.domains import Domain
from jaxloss._contract.reduce import reduce
from jaxloss._contract.refuse import Input, check_constant, check_inputs, check_option_shape, check_units
from jaxloss._contract.types import (
    ArrayLike,
    Finding,
    Holds,
    Reduction,
    checking,
    current_loss,
    current_notes,
    debugging_nans,
    widen,
)
from jaxloss._numerics.derivatives import SAVED, saved_for_backward
from jaxloss._numerics.elementary import widened
from jaxloss._platform import cpu, mesh

PER_CLASS = Holds(core=1)


def losses(
    formula: Callable[..., Array],
    inputs: Mapping[str, tuple[ArrayLike, Holds]],
    *,
    options: Mapping[str, tuple[Any, Domain | Holds]] | None = None,
    axis: int | tuple[int, ...] = -1,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
    sibling: str | None = None,
    rules: Callable[..., Sequence[Finding]] | None = None,
) -> Any:
    """The loss of a batch, from the formula for one example.

    Args:
      formula: from the core of each input, by position, and the options, by keyword, to one number. Inputs come as
        float32 (or float64), labels as integers. An option comes as it was given if it is a Python number, else as a
        scalar: that of the unit.
      inputs: by the names that the caller knows, each with what it holds. Their batch axes must have equal shapes;
        nothing is broadcast.
      options: by name, each with its domain: one number, or an array whose shape is a trailing part of the units'
        shape. `PER_CLASS` in place of a domain: one number for each entry of the core, the same for all units.
      axis: where the core of the inputs lies, if it has one axis; a tuple says it of several.
      weights: a factor for each unit; its shape is a leading part of the units' shape. A unit of weight 0 whose loss is
        NaN or inf makes the result NaN, since leaving it out would cost a pass; `where=weights != 0` beside it does.
      where: which units exist (bool), of a shape as for `weights`. The law: masking equals leaving out.
      reduction: "mean", "sum", "none", "sum_over_batch_size" (the sum over the number of units), "sum_and_weight" (the
        pair of sum(w l) and sum(w)), or a function `(losses, weights) -> result`, where the result is any tree.
      sibling: the loss that takes the other kind of target, labels or rows, for errors that say so.
      rules: what several inputs must fulfil together, as a function of the cores of one example; for `checked`.

    Raises:
      ValueError: shapes that differ, an axis out of range, an unknown reduction, a constant outside its domain.
      TypeError: a dtype that an input cannot have, a mask that is not bool.
    """
    given = check_inputs([(name, x, holds) for name, (x, holds) in inputs.items()], axis, sibling)
    shape = given[0].batch
    knobs = [_Option.of(name, value, domain, given, shape) for name, (value, domain) in (options or {}).items()]
    weights, where = check_units(shape, weights, where, reduction)
    if checking.value:
        values.inspect(given, where, rules)
        for knob in knobs:
            if knob.traced:
                values.inspect_option(knob.name, knob.value, knob.domain)
        if weights is not None:
            values.inspect_weights(weights, where)

    wide = any(x.dtype == jnp.float64 and not x.weak_type for x in (entry.x for entry in given))
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
    traced = [knob for knob in knobs if knob.traced]
    constant = {knob.name: knob.value for knob in knobs if not knob.traced}
    alone = all(entry.holds.core == 0 for entry in given)
    slacks = [entry.holds.domain.slack(entry.x.dtype) for entry in given]

    def example(*arrays: Array) -> Array:
        cores, tuned = list(arrays[: len(given)]), arrays[len(given) :]
        margins = [
            _margin(entry.holds, x, slack, cores[-1]) for entry, x, slack in zip(given, cores, slacks, strict=True)
        ]
        # Cut off at the inputs, since 0 times a NaN of the derivative is NaN; of one number that costs nothing.
        cut = [margin for margin in margins if margin is not None] if alone else []
        for i, (entry, margin) in enumerate(zip(given, margins, strict=True)):
            if jnp.issubdtype(cores[i].dtype, jnp.floating):
                own = [margin] if margin is not None and entry.holds.outside == "entry" else cut
                cores[i] = functools.reduce(_no_gradient_outside, own, cores[i])
        usable = {knob.name: knob.domain.usable(x) for knob, x in zip(traced, tuned, strict=True)}
        loss = formula(*cores, **constant, **usable)
        for entry, margin in zip(given, margins, strict=True):
            if margin is not None:
                loss = nan_outside(margin, loss, whole=entry.holds.outside == "unit" and not alone)
        for knob, x in zip(traced, tuned, strict=True):
            margin = knob.domain.margin(x)
            loss = loss if margin is None else jnp.where(jnp.min(margin) >= 0, loss, jnp.nan)
        return loss.astype(dtype)

    def unit(exists: Array | None, *arrays: Array) -> Array:
        cores = [widen(x, entry.holds.kind, dtype) for entry, x in zip(given, arrays[: len(given)], strict=True)]
        tuned = [
            mesh.laid_out_as(x.astype(dtype), cores[-1]) if knob.per_class else x.astype(dtype)
            for knob, x in zip(traced, arrays[len(given) :], strict=True)
        ]
        if exists is None:
            return example(*cores, *tuned)
        _, closed_over = jax.closure_convert(example, *cores, *tuned)
        # The derivative with respect to an option sums over all units, so that no unit may hold what makes it NaN.
        # And jax.debug_nans would report what an eager gradient keeps of them.
        mask = _harmless if tuned or closed_over or debugging_nans() else _masked
        loss = example(*(mask(exists, x) for x in cores), *tuned)
        return jnp.where(mesh.laid_out_as(exists, loss), loss, 0)

    # One vmap for each batch axis, from the last to the first: a reshape to one batch axis would undo shardings.
    mapped = unit
    for i in reversed(range(len(shape))):
        exists_axis = 0 if where is not None and i < where.ndim else None
        places = [entry.batch_axes[i] - i for entry in given]
        mapped = jax.vmap(mapped, in_axes=(exists_axis, *places, *(knob.mapped(i, len(shape)) for knob in traced)))

    # The derivative is recomputed from the inputs: nothing as large as they are is stored for it.
    policy = jax.checkpoint_policies.save_only_these_names(SAVED)
    again = jax.checkpoint(lambda *arrays: mapped(*cpu.reread(arrays)), policy=policy, prevent_cse=False)
    found = again(where, *(entry.x for entry in given), *(knob.value for knob in traced))
    if checking.value:
        values.inspect_losses(found)
    return reduce(found, weights, where, reduction)


class _Option(NamedTuple):
    """An option of a loss, as it was given."""

    name: str
    value: Any
    domain: Domain
    per_class: bool

    @classmethod
    def of(
        cls, name: str, value: Any, domain: Domain | Holds, inputs: Sequence[Input], shape: tuple[int, ...]
    ) -> _Option:
        per_class = isinstance(domain, Holds)
        option = cls(name, value, domain.domain if isinstance(domain, Holds) else domain, per_class)
        current_notes().domains[name] = option.domain
        if not option.traced:
            check_constant(name, value, option.domain)
            return option
        array = jnp.asarray(value)
        if per_class:
            last = inputs[-1]
            classes = tuple(n for i, n in enumerate(last.x.shape) if i not in last.batch_axes)
            if array.shape != classes:
                raise ValueError(
                    f"{current_loss()}: {name} has shape {array.shape}, expected {classes}: one for each class."
                )
        else:
            check_option_shape(name, array.shape, shape)
        if not per_class:
            array = mesh.laid_out_as_units(array, inputs[-1].x, inputs[-1].batch_axes)
        return option._replace(value=array)

    @property
    def traced(self) -> bool:
        return self.value is not None and (self.per_class or not isinstance(self.value, (bool, int, float, str)))

    def mapped(self, axis: int, ndim: int) -> int | None:
        """Where `jax.vmap` over this axis of the units finds the option."""
        return None if self.per_class or axis < ndim - jnp.ndim(self.value) else 0


# ---------------------------------------------------------------------------------------------------------------------
# Outside the domain


def _margin(holds: Holds, x: Array, slack: float, scores: Array) -> Array | None:
    """How far inside the domain each entry of an input lies."""
    if holds.domain is domains.LABEL and holds.core == 0:
        return jnp.where((x >= 0) & (x < scores.shape[-1]), 1.0, -1.0)
    if holds.outside == "formula" or not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    return holds.domain.margin(jax.lax.stop_gradient(widened(x)), slack)


def nan_outside(margin: Array, loss: Array, whole: bool = True) -> Array:
    """The loss, but NaN where an entry is outside, which is where its margin is negative.

    whole: whether the gradient of the loss is 0 there, too.
    """
    if not whole and margin.ndim:
        return loss + jax.lax.stop_gradient(jnp.where(jnp.min(margin) >= 0, 0, jnp.nan).astype(loss.dtype))
    if not whole:
        return loss + jax.lax.stop_gradient(_zero_or_nan(margin).astype(loss.dtype))
    if margin.ndim:
        # Saved, one number for each row: found again, it would cost the derivative a second pass.
        return jnp.where(saved_for_backward(jnp.min(margin)) >= 0, loss, jnp.nan)
    return _nan_unless(margin, loss) if margin.dtype == loss.dtype else jnp.where(margin >= 0, loss, jnp.nan)


def _no_gradient_outside(x: Array, margin: Array) -> Array:
    return jnp.where(margin >= 0, x, jax.lax.stop_gradient(x))


@jax.custom_jvp
def _nan_unless(margin: Array, loss: Array) -> Array:
    return loss + _zero_or_nan(margin)


@_nan_unless.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return _nan_unless(*primals), jnp.where(primals[0] >= 0, tangents[1], 0)


@cpu.instead(lambda margin: 0 * jnp.sqrt(jnp.minimum(margin, 1)))
def _zero_or_nan(margin: Array) -> Array:
    return jnp.where(margin >= 0, 0, jnp.nan).astype(margin.dtype)


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
