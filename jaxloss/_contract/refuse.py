"""What is refused while a loss is traced, so that it costs nothing afterwards: shapes, dtypes, constants, masks.

An error says the loss, the argument, what was given, what is expected, and the likely cure.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxloss._contract import domains
from jaxloss._contract.domains import Domain
from jaxloss._contract.types import REDUCTIONS, ArrayLike, Holds, Kind, Reduction, current_loss, current_notes
from jaxloss._names import OTHER_REDUCTIONS


class Input(NamedTuple):
    """An array that a loss was given, and what it should hold."""

    name: str
    x: Array
    holds: Holds
    batch_axes: Sequence[int]

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.x.shape[i] for i in self.batch_axes)

    @property
    def core(self) -> tuple[int, ...]:
        return tuple(n for i, n in enumerate(self.x.shape) if i not in self.batch_axes)


def check_inputs(
    arrays: Sequence[tuple[str, ArrayLike, Holds]], axis: int | tuple[int, ...], sibling: str | None = None
) -> list[Input]:
    """The inputs of a loss, after a check of their dtypes, axes and shapes.

    sibling: the loss that takes the other kind of target, labels or rows, for the error that says so.
    """
    inputs = [Input(name, jnp.asarray(x), check_declared(name, holds, Holds), ()) for name, x, holds in arrays]
    current_notes().kinds.update({given.name: given.holds.kind for given in inputs})
    for given in inputs:
        _check_dtype(given, inputs, sibling)
    for given in inputs:
        if given.holds.domain is domains.LABEL and not inputs[-1].holds.core:
            raise ValueError(
                f"{current_loss()}: {given.name} is declared as LABEL, a place in a row, but {inputs[-1].name} holds "
                "no rows. Did you mean ID, which is only compared with others?"
            )
    inputs = [given._replace(batch_axes=_batch_axes(given, axis)) for given in inputs]
    _check_shapes(inputs, sibling)
    return inputs


def check_declared(name: str, words: Any, *kinds: type) -> Any:
    """What the author of a loss says that an argument holds, after a check that it is of one of these types."""
    if isinstance(words, kinds):
        return words
    expected = " or ".join(kind.__name__ for kind in kinds)
    given, cure = repr(words), ""
    if isinstance(words, Domain):
        given, cure = f"the Domain {words.text!r}", " Did you mean Holds(domain=...)?"
    raise TypeError(f"{current_loss()}: {name} is declared by {given}, expected a {expected}.{cure}")


def check_pair(name: str, given: Any, word: str) -> tuple[Any, Any]:
    """What the author of a loss gives for an argument: its value, and a word for what it holds."""
    if isinstance(given, tuple) and len(given) == 2:
        return given
    shown = "an array alone" if hasattr(given, "dtype") else repr(given)
    raise TypeError(f"{current_loss()}: {name} is declared by {shown}, expected a pair, as in ({name}, {word}).")


def check_returned(loss: Any) -> Array:
    """What the formula of a loss returns: an array, or a number."""
    if isinstance(loss, Array):
        return loss
    if isinstance(loss, (np.ndarray, np.generic, int, float)):
        return jnp.asarray(loss)
    raise TypeError(f"{current_loss()}: the formula returned {type(loss).__name__}, expected an array, its loss.")


def check_real(loss: str, name: str, x: Any) -> None:
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or x.dtype == jax.dtypes.float0:
        raise TypeError(f"{loss}: {name} must hold real numbers, got {x.dtype}.")


def _check_dtype(given: Input, inputs: Sequence[Input], sibling: str | None) -> None:
    loss, (name, x, holds, _) = current_loss(), given
    kind: Kind = holds.kind
    check_real(loss, name, x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    if kind == "label" and floating:
        raise TypeError(f"{loss}: {name} must hold integer class labels, got {x.dtype}.{_label_cure(inputs, sibling)}")
    if kind in ("length", "id") and floating:
        swapped = kind == "id" and not jnp.issubdtype(inputs[-1].x.dtype, jnp.floating)
        cure = _swapped(inputs) if swapped else f" Did you mean {name}.astype(int)?"
        raise TypeError(f"{loss}: {name} must hold integers, got {x.dtype}.{cure}")
    if kind in ("score", "row") and not floating:
        raise TypeError(f"{loss}: {name} must be of floating dtype, got {x.dtype}.{_swapped(inputs)}")


def _swapped(inputs: Sequence[Input]) -> str:
    return f" Were {inputs[0].name} and {inputs[-1].name} swapped?"


def _label_cure(inputs: Sequence[Input], sibling: str | None) -> str:
    target, scores = inputs[0], inputs[-1]
    if not jnp.issubdtype(scores.x.dtype, jnp.floating):
        return _swapped(inputs)
    one_hot = f" For one-hot targets use {sibling}." if sibling else ""
    if target.x.shape == scores.x.shape:
        return one_hot
    # pandas, too, turns integer labels into floats when one is missing.
    return f" If they are labels that something cast, as Keras does, {target.name}.astype(int).{one_hot}"


def _batch_axes(given: Input, axis: Any) -> list[int]:
    """The places of the batch axes: all but those of the core."""
    loss, (name, x, holds, _) = current_loss(), given
    ndim = x.ndim
    if isinstance(axis, tuple):
        core = {a % ndim for a in axis if isinstance(a, int) and -ndim <= a < ndim}
        if len(core) != len(axis):
            raise ValueError(f"{loss}: axis {axis} must name different axes of {name}, which has {ndim}.")
        return [i for i in range(ndim) if i not in core]
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeError(f"{loss}: axis must be an int, got {axis!r}.")
    if holds.core != 1:
        if ndim < holds.core:
            raise ValueError(f"{loss}: {name} has {ndim} axes where at least {holds.core} are needed.")
        return list(range(ndim - holds.core))
    if not -ndim <= axis < ndim:
        raise ValueError(f"{loss}: axis {axis} is out of range for {name} with {ndim} axes.")
    if x.shape[axis] == 0 and jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{loss}: {name} has shape {x.shape}. Its axis {axis} must have at least one entry.")
    return [i for i in range(ndim) if i != axis % ndim]


def _check_shapes(inputs: Sequence[Input], sibling: str | None) -> None:
    whole = len({given.holds.core for given in inputs}) == 1
    compared = [given.x.shape if whole else given.batch for given in inputs]
    if not _equal(compared):
        shapes = ", ".join(f"{given.name} has shape {given.x.shape}" for given in inputs)
        rule = "Shapes must be equal" if whole else "Their batch axes must be equal"
        raise ValueError(f"{current_loss()}: {shapes}. {rule}{_cure(inputs, sibling)}")


def _equal(shapes: Sequence[tuple[int, ...]]) -> bool:
    import chex  # here, not at import time: it would double the time that `import jaxloss` takes

    if not all(isinstance(n, int) for shape in shapes for n in shape):  # sizes that `jax.export` leaves open
        return all(shape == shapes[0] for shape in shapes)
    try:
        chex.assert_equal_shape([np.broadcast_to(0, shape) for shape in shapes])
    except AssertionError:
        return False
    return True


def _cure(inputs: Sequence[Input], sibling: str | None) -> str:
    for one, other in itertools.permutations(inputs, 2):
        longer, core = one.x.shape, one.holds.core
        if longer[-1:] == (1,) and longer[: len(longer) - 1 - core] == other.x.shape[: other.x.ndim - other.holds.core]:
            return f"; did you mean {one.name}.squeeze(-1)?"
    target, scores = inputs[0], inputs[-1]
    for given in inputs:
        if given.x.shape == () and given.holds.core == 0:
            whole = next(other.batch for other in inputs if other.batch)
            return f"; did you mean jnp.broadcast_to({given.name}, {whole})?"
    for one, other in itertools.permutations(inputs, 2):
        alike = one.holds.core == other.holds.core == 0 and one.name not in ("y_true", "y_pred")
        if alike and one.x.ndim < other.x.ndim and one.x.shape == other.x.shape[: one.x.ndim]:
            places = ", ".join([":"] * one.x.ndim + ["None"] * (other.x.ndim - one.x.ndim))
            return f"; did you mean jnp.broadcast_to({one.name}[{places}], {other.x.shape})?"
    if target.holds.core == 1 and target.x.shape == (*scores.batch, 1) and _holds_integers(target):
        return f"; if {target.name} holds integer labels, {target.name}.squeeze(-1)."
    if target.holds.core == 1 and target.x.shape == scores.batch:
        classes = "x".join(str(n) for i, n in enumerate(scores.x.shape) if i not in scores.batch_axes)
        cure = f"use {sibling}" if sibling else f"jax.nn.one_hot({target.name}, {classes})"
        return f"; if {target.name} holds integer labels, {cure}."
    if sibling and target.holds.kind == "label" and target.x.shape == scores.x.shape:
        return f"; if {target.name} is one-hot, use {sibling}."
    if (scores.holds.core, scores.x.shape[1:2]) == (2, target.batch) and target.holds.core == 1:
        return f"; did you mean {scores.name}.swapaxes(0, 1)?"
    single = scores.holds.kind == "score" and scores.holds.core == target.holds.core == 0
    if single and scores.x.shape[:-1] == target.x.shape and _holds_integers(target):
        return f"; if {target.name} holds integer labels, use sparse_cce, or jax.nn.one_hot({target.name}, K)."
    if len(inputs) == 3 and (target.holds.core, scores.holds.core) == (0, 1) and scores.x.shape == target.batch[:-1]:
        return f"; {target.name} comes first here."
    if target.holds.core == 0 and scores.holds.core == 1:
        axes = axes_beyond(target.x.shape, scores.x.shape)
        if len(axes) == 1 and axes[0] in scores.batch_axes:
            return f"; did you mean axis={axes[0]}?"
    return "; nothing is broadcast."


def axes_beyond(part: tuple[int, ...], shape: tuple[int, ...]) -> list[int]:
    """The axes without which the shape is that of the part: where the classes of labels may lie."""
    return [i for i in range(len(shape)) if (*shape[:i], *shape[i + 1 :]) == part]


def check_separate(inputs: Sequence[Input]) -> None:
    """A mask can leave out one of the losses of a row only if no other is made of the same entry."""
    for name, _, holds, _ in inputs:
        if holds.core and not holds.alone:
            raise ValueError(
                f"{current_loss()}: where masks single losses of a row, but each may depend on all of {name}. Mask "
                f"whole rows; or declare {name} with alone=True, if entry and loss belong to each other."
            )


def _holds_integers(given: Input) -> bool:
    return jnp.issubdtype(given.x.dtype, jnp.integer)


def check_members(scores: Input, members: int | tuple[int, ...]) -> tuple[int, ...]:
    """Which of the batch axes hold members, given as axes of the last input."""
    axes, ndim = members if isinstance(members, tuple) else (members,), scores.x.ndim
    found = {a % ndim for a in axes if isinstance(a, int) and -ndim <= a < ndim}
    if len(found) != len(axes):
        raise ValueError(
            f"{current_loss()}: axis {members} must name different axes of {scores.name}, which has shape "
            f"{scores.x.shape}: they hold the members of a set."
        )
    if not found.issubset(scores.batch_axes):
        raise ValueError(
            f"{current_loss()}: axis {members} of {scores.name}, which has shape {scores.x.shape}, must not be that "
            "of the classes or of the entries of a vector."
        )
    return tuple(i for i, axis in enumerate(scores.batch_axes) if axis in found)


def check_constant(name: str, value: Any, domain: Domain) -> None:
    """Refuse a constant option outside its domain; traced ones make the loss NaN, and are seen in checked mode."""
    if isinstance(value, (bool, int, float)) and not domain.holds(value):
        raise ValueError(f"{current_loss()}: {name} must be {domain.text}, got {value}.")


def check_chunk(chunk: int | None, name: str, shape: tuple[int, ...], instead: str) -> None:
    """Refuse a chunk that is no whole number above 0, and a batch that is to be cut although its size is left open."""
    if not all(isinstance(n, int) for n in shape):
        raise ValueError(
            f"{current_loss()}: {name} has shape {shape}. To cut it into chunks its sizes must be known. Export it for "
            f"given sizes, or {instead}."
        )
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool)):
        raise TypeError(f"{current_loss()}: chunk must be an int or None, got {chunk!r}.")
    check_constant("chunk", chunk, Domain("at least 1", low=1))


def check_option_shape(name: str, shape: tuple[int, ...], units: tuple[int, ...]) -> None:
    """An option matches the units from the right, as trailing axes do in NumPy, but is not broadcast."""
    if shape == units[max(len(units) - len(shape), 0) :]:
        return
    column = f", or {units[-1:]}, one for each entry of the last axis" if len(units) > 1 else ""
    raise ValueError(
        f"{current_loss()}: {name} has shape {shape}, the losses have shape {units}. An option is one number, or an "
        f"array that matches the losses from the right: of shape {units}{column}.{_option_cure(name, shape, units)}"
    )


def _option_cure(name: str, shape: tuple[int, ...], units: tuple[int, ...]) -> str:
    if shape[1:] == units[max(len(units) - len(shape) + 1, 0) :] and shape[0] == 1:
        cure = f"{name}[0]"
    elif shape[:-1] == units and shape[-1] == 1:
        cure = f"{name}[..., 0]"
    elif len(shape) == 2 and shape[::-1] == units:
        cure = f"{name}.T"
    elif shape == units[: len(shape)]:
        cure = (
            f"jnp.broadcast_to({name}[{', '.join([':'] * len(shape) + ['None'] * (len(units) - len(shape)))}], {units})"
        )
    elif len(shape) == len(units) and all(n in (1, m) for n, m in zip(shape, units, strict=True)):
        cure = f"jnp.broadcast_to({name}, {units})"
    else:
        return ""
    return f" Did you mean {cure}?"


def check_units(
    shape: tuple[int, ...],
    weights: ArrayLike | None,
    where: ArrayLike | None,
    reduction: Reduction,
    masked: tuple[int, ...] | None = None,
) -> tuple[Array | None, Array | None]:
    """The weights and the mask as arrays, after a check that they fit the units, and that the reduction is known.

    masked: the shape that the mask must fit, if it is one of members.
    """
    loss = current_loss()
    if where is not None:
        where = check_mask(where)
        _check_leads("where", where, shape if masked is None else masked, "losses" if masked is None else "members")
    if weights is not None:
        weights = jnp.asarray(weights)
        if weights.ndim:
            _check_leads("weights", weights, shape, "losses")
    # One of ours that was not made. Other classes, such as a named tuple, are functions like any other.
    if isinstance(reduction, type) and hasattr(reduction, "zero_for_nothing"):
        raise TypeError(f"{loss}: reduction is the class {reduction.__name__}. Did you mean {reduction.__name__}()?")
    if not callable(reduction) and reduction not in REDUCTIONS:
        meant = OTHER_REDUCTIONS.get(str(reduction), str(reduction).lower())
        cure = f' Did you mean "{meant}"?' if meant in REDUCTIONS else ""
        raise ValueError(f"{loss}: reduction must be one of {REDUCTIONS} or a function, got {reduction!r}.{cure}")
    return weights, where


def check_mask(where: ArrayLike) -> Array:
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(
            f"{current_loss()}: where must be bool, got {mask.dtype}. "
            "Did you mean weights=, or where=mask.astype(bool)?"
        )
    return mask


def _check_leads(name: str, x: Array, shape: tuple[int, ...], what: str) -> None:
    if x.shape == shape[: x.ndim]:
        return
    cure = f"{name} must match them from the left, as in (batch,) for (batch, time)."
    if x.shape[-1:] == (1,) and x.shape[:-1] == shape[: x.ndim - 1]:
        cure += f" Did you mean {name}.squeeze(-1)?"
    elif x.shape == shape[len(shape) - x.ndim :]:
        cure += f" Did you mean jnp.broadcast_to({name}, {shape})?"
    raise ValueError(f"{current_loss()}: {name} has shape {x.shape}, the {what} have shape {shape}. {cure}")
