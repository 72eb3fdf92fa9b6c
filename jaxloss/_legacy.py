"""The contract that every loss keeps, in one place.

A loss states its formula for ONE example. `batched` checks the arguments, maps the formula over the batch, and
masks, weighs and reduces the result; `compiled` makes the public function a program that is traced once for each
kind of call. Whoever has read one loss and this file has read them all.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

P = ParamSpec("P")
R = TypeVar("R")

ArrayLike: TypeAlias = jax.typing.ArrayLike | list[Any] | tuple[Any, ...]
"""An array of jax or NumPy, a Python number, or a (nested) list of numbers."""

Reduction: TypeAlias = Literal["mean", "sum", "none", "sum_over_batch_size"] | Callable[[Array, Array], Array]
"""A name, or a function `(losses, weights) -> result`; both arrays have one entry a unit."""

Kind: TypeAlias = Literal["number", "score", "label", "length", "logits"]
"""What an input is: any number; a prediction, so of floating dtype; an integer class label; a number of
entries that count; a row of logits."""

Domain: TypeAlias = Literal[
    "any",
    "number",
    "logits",
    "label",
    "at least 0",
    "above -1",
    "sign",
    "binary",
    "one-hot",
    "probability",
    "distribution",
    "log probability",
    "log distribution",
    "box",
]
"""Which values an input may hold: what `jaxloss.checked` looks at. `_rules` in `_checked.py` says what each means."""

Finding: TypeAlias = tuple[str, Array, Array]
"""A rule ("y_true must be 0 or 1"), where it holds, and what to show where it does not."""

REDUCTIONS = ("mean", "sum", "none", "sum_over_batch_size")

# Programs kept for each loss, one for each set of constant options: new lambdas at every step must not fill the memory.
PROGRAMS = 128

# Whether losses look at the values of their inputs, see `_checked.py`. A part of the keys of jax's caches.
from jaxloss._contract.declare import declared  # noqa: E402
from jaxloss._contract.types import checking  # noqa: E402

# ---------------------------------------------------------------------------------------------------------------------
# compiled


def compiled(loss: Callable[P, R]) -> Callable[P, R]:
    """Jit a loss without hiding its signature from `help`, editors and type checkers.

    Arrays (and lists, which become arrays) are traced. A Python number, bool, string or function given to an option is
    a compile-time constant: another value is another program.
    """
    name = loss.__name__
    parameters = inspect.signature(loss).parameters.values()
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    operands = frozenset([*positional, "weights", "where"])

    @functools.lru_cache(maxsize=PROGRAMS, typed=True)
    def program(**constants: Any) -> Callable[..., R]:
        given = functools.partial(loss, **constants)

        @functools.wraps(loss)
        def body(*args: Any, **options: Any) -> R:
            if checking.value:
                from jaxloss import _checked

                return _checked.reporting(given, *args, **options)
            return given(*args, **options)

        return jax.jit(body, inline=True)

    @functools.wraps(loss)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        arrays = [as_array(name, positional, i, x) for i, x in enumerate(args)]
        if not kwargs:
            return program()(*arrays)
        constants, options = {}, {}
        for key, value in kwargs.items():
            if value is None or (key not in operands and _is_constant(key, value)):
                constants[key] = value
            else:
                value = as_array(name, (key,), 0, value)
                # As a NumPy constant of a larger program it could not be lowered with and without x64 in one process.
                options[key] = value if key in operands else jnp.asarray(value)
        return program(**constants)(*arrays, **options)

    if name in sys.modules[loss.__module__].__dict__.get("__all__", ()):
        declared.append(call)
    return call


def _is_constant(key: str, value: Any) -> bool:
    if isinstance(value, (bool, int, float, str)):
        return not isinstance(value, np.generic)
    return callable(value) or (key == "axis" and isinstance(value, tuple))


def as_array(loss: str, names: Sequence[str], index: int, value: Any) -> Any:
    """What jit can trace: arrays as they are, lists as arrays (jit would take a list for a tree of scalars)."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return value
    if isinstance(value, (bool, int, float)):
        return value
    name = names[index] if index < len(names) else f"argument {index + 1}"
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:  # a list of traced scalars
        array = jnp.asarray(value)
    except ValueError as error:
        raise ValueError(f"{loss}: {name} is no array: {error}") from None
    if array.dtype.kind not in "biufcV":  # V: bfloat16 and its kin
        raise TypeError(f"{loss}: {name} must be an array of numbers or a list of them, got {type(value).__name__}.")
    return array


# ---------------------------------------------------------------------------------------------------------------------
# batched


def batched(
    example: Callable[..., Array],
    arrays: Sequence[ArrayLike],
    *,
    weights: ArrayLike | None,
    where: ArrayLike | None,
    reduction: Reduction,
    core_ndims: Sequence[int] = (0, 0),
    kinds: Sequence[Kind] = ("number", "number"),
    axis: int | tuple[int, ...] = -1,
    names: Sequence[str] = ("y_true", "y_pred"),
    domains: Sequence[Domain | None] | None = None,
    rules: Callable[..., Sequence[Finding]] | None = None,
) -> Array:
    """Turn the formula for one example into the loss of a batch.

    Args:
      example: the formula, from the core of each array to one number. It may use traced options by closure.
      arrays: the inputs; their batch axes must have equal shapes, nothing is broadcast.
      weights: a factor for each unit; its shape is a leading part of the units' shape. A unit of weight 0 whose loss is
        NaN or inf makes the result NaN, since leaving it out would cost a pass; `where=weights != 0` beside it does.
      where: which units exist (bool), of a shape as for `weights`. The law: masking equals leaving out.
      reduction: "mean", "sum", "none", "sum_over_batch_size", or a function `(losses, weights) -> result`.
      core_ndims: how many axes of each array belong to one example; the others are batch axes.
      kinds: what each array holds. Numbers are widened to float32 (or float64) before the formula sees them; integer
        labels stay integers; logits stay as they are, since the formulas find their maximum before they widen them.
      axis: where the core axis of the inputs lies, if there is one; a tuple says it of several.
      names: what the caller calls the arrays, for error messages.
      domains: which values each array may hold, for checked mode; None is what its kind says: labels are classes,
        logits may be -inf, and numbers are finite.
      rules: further ones that concern several arrays, as a function of the cores of one example.

    Raises:
      ValueError: shapes that differ, an axis out of range, an unknown reduction.
      TypeError: a dtype that the input's kind excludes, a mask that is not bool.
    """
    loss = example.__qualname__.partition(".")[0]
    inputs = [jnp.asarray(a) for a in arrays]
    for name, x, kind in zip(names, inputs, kinds, strict=True):
        _check_dtype(loss, name, x, kind)
    batch_axes = [_check_axis(loss, axis, *given) for given in zip(names, inputs, core_ndims, strict=True)]
    shape = _check_shapes(loss, names, inputs, core_ndims, batch_axes)
    weights, where = check_units(loss, shape, weights, where, reduction)
    if checking.value:
        from jaxloss import _checked

        by_kind: dict[Kind, Domain] = {"label": "label", "logits": "logits", "length": "any"}
        given = domains or [None] * len(inputs)
        allowed: list[Domain] = [d or by_kind.get(k, "number") for d, k in zip(given, kinds, strict=True)]
        _checked.inspect(loss, names, inputs, allowed, core_ndims, batch_axes, where, rules)

    wide = any(x.dtype == jnp.float64 and not x.weak_type for x in inputs)
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)

    def unit(exists: Array | None, *cores: Array) -> Array:
        cores = tuple(_widen(x, kind, dtype) for x, kind in zip(cores, kinds, strict=True))
        if exists is None:
            return example(*cores).astype(dtype)
        _, options = jax.closure_convert(example, *cores)
        # A derivative by a traced option sums over all units, so that no unit may hold what makes it NaN.
        loss = example(*((_harmless if options else _masked)(exists, x) for x in cores)).astype(dtype)
        return jnp.where(_sharded_as(loss, exists), loss, 0)

    # One vmap a batch axis, from the last to the first: a reshape to one batch axis would undo shardings.
    mapped = unit
    for i in reversed(range(len(shape))):
        exists_axis = 0 if where is not None and i < where.ndim else None
        mapped = jax.vmap(mapped, in_axes=(exists_axis, *(batch[i] - i for batch in batch_axes)))
    # The derivative is recomputed from the inputs: nothing as large as they are is stored for it.
    mapped = jax.checkpoint(mapped, policy=jax.checkpoint_policies.save_only_these_names("jaxloss"))
    losses = mapped(where, *inputs)
    if checking.value:
        report_nan(loss, losses)
    return reduce(losses, weights, where, reduction)


def report_nan(loss: str, losses: Array) -> None:
    """In checked mode: what no rule foresaw is not silent either."""
    from jaxloss import _checked

    _checked.report(f"{loss}: the loss must be a number", ~jnp.isnan(losses), losses)


def kept(x: Array) -> Array:
    """Store this value of a formula (one number a row, never a row) for the derivative instead of recomputing it."""
    return checkpoint_name(x, "jaxloss")


@jax.custom_jvp
def settled(x: Array) -> Array:
    """A sum of a row, as it is, where more follows.

    XLA's CPU compiler makes one loop of such a sum and of what is computed of it, and with more than 32,768 rows that
    loop takes three to eight times as long. A select ends it.
    """
    return jnp.where(jnp.isnan(x), jnp.nan, x)


settled.defjvp(lambda primals, tangents: (settled(*primals), tangents[0]))


def _widen(x: Array, kind: Kind, dtype: np.dtype) -> Array:
    if kind == "logits":
        return x
    if kind in ("label", "length"):  # a narrower dtype could not even be compared with the number of classes
        return x.astype(jnp.int64 if x.dtype.itemsize == 8 else jnp.int32)
    return x.astype(dtype)


def widened(x: Array) -> Array:
    """Half precision to float32."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _masked(exists: Array, x: Array) -> Array:
    """x as it is, but with no derivative where the unit does not exist, not even that of a NaN.

    The value needs no such care: `unit` drops it, and the compiler drops the select of twice the same. So a mask costs
    no pass. Half precision goes through float32, since a CPU would widen it in two places, which are not the same.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    wide = widened(x)
    return jnp.where(_sharded_as(x, exists), wide, jax.lax.stop_gradient(wide)).astype(x.dtype)


def _harmless(exists: Array, x: Array) -> Array:
    """x where the unit exists, elsewhere a value that lies in every domain."""
    return jnp.where(_sharded_as(x, exists), x, jnp.full_like(x, jnp.issubdtype(x.dtype, jnp.floating)))


def _sharded_as(x: Array, mask: Array) -> Array:
    """The mask, laid out over the devices as x is: `where` demands that in an explicit mesh."""
    return mask | ((x != x) & False) if in_explicit_mesh(x) else mask


def in_explicit_mesh(*arrays: Array) -> bool:
    return any(jax.sharding.AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types for x in arrays)


# ---------------------------------------------------------------------------------------------------------------------
# reduce


def reduce(losses: Array, weights: Array | None, where: Array | None, reduction: Reduction) -> Array:
    """Weigh and reduce losses that are already 0 where no unit exists."""
    if weights is not None:
        weights = _spread(weights.astype(losses.dtype), losses.shape)
    given = weights
    if where is not None:
        where = _spread(where, losses.shape)
        weights = None if weights is None else jnp.where(where, weights, 0)

    if callable(reduction):
        return _reduce_by(reduction, losses, weights, where)
    if given is not None:
        # Masked anew: what two sums share is written out.
        losses = losses * given if where is None else jnp.where(where, losses * given, 0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return jnp.sum(losses)
    if reduction == "mean" and weights is not None:
        divisor = jnp.sum(weights) if where is None else _total_of_masked(weights)
    elif where is not None:
        divisor = _total_of_masked(where.astype(jnp.int32)).astype(losses.dtype)
    else:
        return jnp.sum(losses) / max(losses.size, 1)
    return jnp.where(divisor == 0, 0, jnp.sum(losses) / jnp.where(divisor == 0, 1, divisor))


def _reduce_by(
    reduction: Callable[[Array, Array], Array], losses: Array, weights: Array | None, where: Array | None
) -> Array:
    if weights is None:
        weights = jnp.ones_like(losses) if where is None else where.astype(losses.dtype)
    if losses.size == 0:
        one_of_each = jax.ShapeDtypeStruct(tuple(max(n, 1) for n in losses.shape), losses.dtype)
        if jax.eval_shape(reduction, one_of_each, one_of_each).ndim == 0:
            return jnp.zeros((), losses.dtype)
    # Where no weight is left, the losses are 0 and the weights so small that only their square is still a number: a
    # weighted mean is 0 / tiny = 0 instead of 0 / 0, while a sum over several devices does not notice them.
    nothing = ~jnp.any(weights != 0)
    tiny = 2 * float(jnp.finfo(losses.dtype).tiny) ** 0.5
    return reduction(jnp.where(nothing, 0, losses), jnp.where(nothing, tiny, weights))


def _spread(x: Array, shape: tuple[int, ...]) -> Array:
    """Repeat a (batch,) array along the later axes of the units."""
    return jnp.broadcast_to(jnp.expand_dims(x, tuple(range(x.ndim, len(shape)))), shape)


@jax.custom_jvp
def _total_of_masked(x: Array) -> Array:
    """The sum of masked weights, or of a mask as whole numbers.

    Twice: a plain sum XLA's CPU compiler does not fuse with the comparison that its terms are made of, so it would
    write them out, which takes ten times as long as to count a mask.
    """
    lanes = math.gcd(x.shape[-1], 8) if x.ndim else 0
    exact = jnp.issubdtype(x.dtype, jnp.integer)
    if x.size == 0 or not lanes or in_explicit_mesh(x) or not (exact or x.shape[-1] <= 1024 * lanes):
        return jnp.sum(x)
    x = x.reshape(*x.shape[:-1], -1, lanes)
    zero = jnp.zeros((), x.dtype)
    sums = jax.lax.reduce((x, x), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (x.ndim - 2,))
    return jnp.sum(jax.lax.optimization_barrier(sums)[0])


@_total_of_masked.defjvp
def _(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Any]:
    (dx,) = tangents
    return _total_of_masked(*primals), jnp.sum(dx)


# ---------------------------------------------------------------------------------------------------------------------
# checks: once, while tracing, so that they cost nothing afterwards


def check_option(loss: str, name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> None:
    """Raise a ValueError for a constant option outside [low, high]; traced ones are seen in checked mode."""
    span = f"between {low:g} and {high:g}" if np.isfinite(high) else f"at least {low:g}"
    span = "a number" if np.isinf(low) and np.isinf(high) else span
    _check_option(loss, name, value, f"must be {span}", lambda x: (low <= x) & (x <= high))


def check_positive(loss: str, name: str, value: Any) -> None:
    """Raise a ValueError for a constant option that is not above 0; traced ones are seen in checked mode."""
    _check_option(loss, name, value, "must be above 0 and finite", lambda x: (x > 0) & (x < np.inf))


def _check_option(loss: str, name: str, value: Any, rule: str, holds: Callable[[Any], Any]) -> None:
    if isinstance(value, (bool, int, float)):
        if not holds(value):
            raise ValueError(f"{loss}: {name} {rule}, got {value}.")
    elif checking.value and value is not None:
        from jaxloss import _checked

        x = jnp.asarray(value)
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
        _checked.report(f"{loss}: {name} {rule}", holds(x), x)


def _check_dtype(loss: str, name: str, x: Array, kind: Kind) -> None:
    if jnp.issubdtype(x.dtype, jnp.complexfloating) or x.dtype == jax.dtypes.float0:
        raise TypeError(f"{loss}: {name} must hold real numbers, got {x.dtype}.")
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    if kind == "label" and floating:
        hint = " For one-hot targets use cce." if loss == "sparse_cce" else ""
        raise TypeError(f"{loss}: {name} must hold integer class labels, got {x.dtype}.{hint}")
    if kind == "length" and floating:
        raise TypeError(f"{loss}: {name} must hold integers, got {x.dtype}.")
    if kind in ("score", "logits") and not floating:
        raise TypeError(f"{loss}: {name} must be of floating dtype, got {x.dtype}. Were y_true and y_pred swapped?")


def _check_axis(loss: str, axis: Any, name: str, x: Array, core_ndim: int) -> list[int]:
    """The places of the batch axes: all but those of the core."""
    ndim = x.ndim
    if isinstance(axis, tuple):
        core = {a % ndim for a in axis if isinstance(a, int) and -ndim <= a < ndim}
        if len(core) != len(axis):
            raise ValueError(f"{loss}: axis {axis} must name different axes of y_pred, which has {ndim}.")
        return [i for i in range(ndim) if i not in core]
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeError(f"{loss}: axis must be an int, got {axis!r}.")
    if core_ndim != 1:
        if ndim < core_ndim:
            raise ValueError(f"{loss}: an array of {ndim} axes was given where at least {core_ndim} are needed.")
        return list(range(ndim - core_ndim))
    if not -ndim <= axis < ndim:
        raise ValueError(f"{loss}: axis {axis} is out of range for {name} with {ndim} axes.")
    if x.shape[axis] == 0 and jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{loss}: {name} has shape {x.shape}. Its axis {axis} must have at least one entry.")
    return [i for i in range(ndim) if i != axis % ndim]


def _check_shapes(
    loss: str,
    names: Sequence[str],
    inputs: Sequence[Array],
    core_ndims: Sequence[int],
    batch_axes: Sequence[Sequence[int]],
) -> tuple[int, ...]:
    """The shape of the units, after a check that it is the same for all arrays."""
    import chex  # here, not at import time: it would double the time that `import jaxloss` takes

    shapes = [x.shape for x in inputs]
    batches = [tuple(s[i] for i in batch) for s, batch in zip(shapes, batch_axes, strict=True)]
    compared = shapes if len(set(core_ndims)) == 1 else batches
    try:
        chex.assert_equal_shape([np.broadcast_to(0, s) for s in compared])
    except AssertionError:
        given = ", ".join(f"{name} has shape {shape}" for name, shape in zip(names, shapes, strict=True))
        rule = "Shapes must be equal" if compared is shapes else "Their batch axes must be equal"
        raise ValueError(f"{loss}: {given}. {rule}{_hint(loss, names, shapes, core_ndims)}") from None
    return batches[0]


def _hint(loss: str, names: Sequence[str], shapes: Sequence[tuple[int, ...]], core_ndims: Sequence[int]) -> str:
    for i, j in itertools.permutations(range(len(names)), 2):
        longer, other = shapes[i], shapes[j]
        if longer[-1:] == (1,) and longer[: len(longer) - 1 - core_ndims[i]] == other[: len(other) - core_ndims[j]]:
            return f"; did you mean {names[i]}.squeeze(-1)?"
    if loss == "cce" and shapes[0] == shapes[1][:-1]:
        return f"; if {names[0]} holds integer labels, use sparse_cce."
    if loss == "sparse_cce" and shapes[0] == shapes[1]:
        return f"; if {names[0]} is one-hot, use cce."
    return "; nothing is broadcast."


def check_units(
    loss: str, shape: tuple[int, ...], weights: ArrayLike | None, where: ArrayLike | None, reduction: Reduction
) -> tuple[Array | None, Array | None]:
    """The weights and the mask as arrays, after a check that they fit the units, and that the reduction is known."""
    if where is not None:
        where = check_mask(loss, where)
        _check_leads(loss, "where", where, shape)
    if weights is not None:
        weights = jnp.asarray(weights)
        if weights.ndim:
            _check_leads(loss, "weights", weights, shape)
        if checking.value:
            from jaxloss import _checked

            _checked.report_weights(loss, weights, where)
    if not callable(reduction) and reduction not in REDUCTIONS:
        raise ValueError(f"{loss}: reduction must be one of {REDUCTIONS} or a function, got {reduction!r}.")
    return weights, where


def check_mask(loss: str, where: ArrayLike) -> Array:
    mask = jnp.asarray(where)
    if mask.dtype != bool:
        raise TypeError(
            f"{loss}: where must be bool, got {mask.dtype}. Did you mean weights=, or where=mask.astype(bool)?"
        )
    return mask


def _check_leads(loss: str, name: str, x: Array, shape: tuple[int, ...]) -> None:
    if x.shape != shape[: x.ndim]:
        raise ValueError(
            f"{loss}: {name} has shape {x.shape}, the losses have shape {shape}. "
            f"{name} must match them from the left, as in (batch,) for (batch, time)."
        )
