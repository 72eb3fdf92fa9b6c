"""The loss of a set whose members see one another: pixels of an image, tokens, anchors of a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._contract import domains
from jaxloss._contract.frame import Frame
from jaxloss._contract.masks import harmless
from jaxloss._contract.outside import zero_or_nan
from jaxloss._contract.reduce import spread
from jaxloss._contract.types import Holds
from jaxloss._numerics.derivatives import saved_for_backward
from jaxloss._numerics.elementary import widened
from jaxloss._platform import mesh, tpu


def loss_of_set(
    formula: Callable[[Array, Sequence[Array], Sequence[Array]], Array],
    frame: Frame,
    slacks: Sequence[float],
    exists: Array | None,
    cores: Sequence[Array],
    tuned: Sequence[Array],
    axis_name: Hashable | None,
    spreads_nan: bool,
    selects: bool,
) -> tuple[Array, Array]:
    """The losses of a set, NaN outside the domain, and which of them exist."""
    shape, count, whole = frame.set_shape, len(cores), exists is None
    exists = jnp.ones(shape, bool) if exists is None else spread(exists, shape)
    exists = mesh.laid_out_along(range(len(shape)), exists, cores[-1])
    any_of = functools.partial(tpu.any_beside, cores[0]) if spreads_nan else tpu.any_of
    some = jnp.ones((), bool) if whole else mesh.anywhere(any_of(exists), axis_name)
    filled = cores if whole else _filled(exists, cores)
    inside = jnp.ones((), bool) if spreads_nan else _inside(frame, filled, slacks, axis_name)

    def losses_of(exists: Array, *arrays: Array) -> Array:
        cores = _marked(frame, arrays[:count], slacks) if spreads_nan else arrays[:count]
        return formula(exists, cores, arrays[count:])

    given = cores if selects else filled
    loss = _with_quiet_nan(losses_of, frame, inside & some, selects and not whole, exists, *given, *tuned)
    if not spreads_nan:
        loss = jnp.where(mesh.laid_out_as(_across(inside, loss), loss), loss, jnp.nan)
    return loss, mesh.moved_as(spread(exists, loss.shape), loss) if frame.per_member else _across(some, loss)


def _filled(exists: Array, cores: Sequence[Array]) -> list[Array]:
    """The inputs, harmless where a member does not exist."""
    return [harmless(spread(exists, x.shape), x) for x in cores]


def _across(x: Array, losses: Array) -> Array:
    """What holds for a set, or for each class of it, repeated for all its losses."""
    return jnp.broadcast_to(x, losses.shape)


def _margins(frame: Frame, cores: Sequence[Array], slacks: Sequence[float]) -> list[Array | None]:
    return [
        _margin(entry.holds, x, slack, cores[-1]) for entry, x, slack in zip(frame.inputs, cores, slacks, strict=True)
    ]


def _margin(holds: Holds, x: Array, slack: float, scores: Array) -> Array | None:
    """How far inside its domain each entry is, negative outside; None where every number is inside."""
    if holds.domain is domains.LABEL:
        return jnp.where((x >= 0) & (x < scores.shape[-1]), 0.0, -1.0)
    if not (holds.domain.has_margin and jnp.issubdtype(x.dtype, jnp.floating)):
        return None
    return holds.domain.margin(jax.lax.stop_gradient(widened(x)), slack)


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
    # Prefer one that has a domain: it is read anyway.
    bearer = max(floating, key=lambda i: (cores[i].ndim, margins[i] is not None, i))
    x, margin = cores[bearer], _least(known)
    margin = mesh.laid_out_as(jnp.expand_dims(margin, range(margin.ndim, x.ndim)), x)
    return [*cores[:bearer], _nan_where_outside(margin, x), *cores[bearer + 1 :]]


@jax.custom_jvp
def _nan_where_outside(margin: Array, x: Array) -> Array:
    return x + zero_or_nan(margin).astype(x.dtype)


_nan_where_outside.defjvp(lambda primals, tangents: (_nan_where_outside(*primals), tangents[1]))


def _with_quiet_nan(
    function: Callable[..., Array], frame: Frame, kept: Array, fill: bool, exists: Array, *arrays: Array
) -> Array:
    """function(exists, *arrays), with a derivative of 0 where the result is NaN or is not kept.

    A select after the function is not enough for that: its derivative of 0 would be multiplied by the NaN inside.

    fill: whether the derivative, unlike the value, needs the inputs to be filled where a member does not exist.
    """
    # The tangent of what the devices share differs from one to the next where it is set to 0 for one of them.
    kept, exists, arrays = mesh.varying((kept, exists, arrays))
    function, closed_over = jax.closure_convert(function, exists, *arrays)
    # Names of their own: a rule that held the frame would hold the tracers of its inputs.
    per_member, by_class, count = frame.per_member, bool(frame.outputs) and not frame.per_member, len(frame.inputs)
    alone = [entry.holds.alone for entry in frame.inputs]
    alone += [x.shape == frame.outputs for x in arrays[len(alone) :]] + [False] * len(closed_over)

    @jax.custom_jvp
    def value(kept: Array, exists: Array, *arrays: Array) -> Array:
        return function(exists, *arrays)

    @value.defjvp
    def _(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        (kept, exists, *point), moved = primals, list(tangents[2:])
        if fill:
            cores, moves = (tuple(x[:count]) for x in (point, moved))
            point[:count], moved[:count] = jax.jvp(lambda *x: _filled(exists, x), cores, moves)
        loss = value(kept, exists, *point)
        fine = loss == loss
        if per_member:  # the formula may have gathered the members
            fine = fine | ~mesh.moved_as(spread(exists, loss.shape), loss)
        fine = saved_for_backward(fine & mesh.laid_out_as(_across(kept, loss), loss))
        whole = jnp.all(fine)
        moved = [
            tangent
            if tangent.dtype == jax.dtypes.float0
            else _zero_unless(fine if by_class and each else whole, tangent, x)
            for tangent, x, each in zip(moved, point, alone, strict=True)
        ]
        slope = jax.jvp(lambda *point: function(exists, *point), tuple(point), tuple(moved))[1]
        return loss, _zero_unless(fine, slope, loss)

    return value(kept, exists, *arrays, *closed_over)


def _zero_unless(fine: Array, tangent: Array, primal: Array) -> Array:
    """The tangent of a primal where it is fine, laid out as the primal is: a tangent cannot be compared."""
    return jnp.where(mesh.laid_out_as(jnp.broadcast_to(fine, primal.shape), primal), tangent, 0)
