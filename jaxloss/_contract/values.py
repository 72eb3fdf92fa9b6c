"""Checked mode: what values the inputs of a loss may hold, and one error that names those that do not.

In checked mode (`checking` in `types.py`) a loss looks at its inputs and hands what it finds to `checkify`. Outside
it nothing of this is traced. The mode is a context that jax counts among the keys of its caches, so that a program
that was traced without checks is never taken for one with them, nor the other way round.
"""

from __future__ import annotations

import contextvars
import functools
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.custom_batching import custom_vmap

from jaxloss._contract import domains
from jaxloss._contract.domains import Domain
from jaxloss._contract.from_numpy import fits_32_bits, hides_entries, of_numpy
from jaxloss._contract.reduce import spread
from jaxloss._contract.refuse import Input
from jaxloss._contract.types import PROGRAMS, Finding, P, R, checking, current_loss, widen
from jaxloss._numerics.elementary import widened
from jaxloss._platform import mesh, tied


class BadValueError(ValueError):
    """An input of a loss holds values that the loss is not defined for; raised by what `jaxloss.checked` returns."""


# ---------------------------------------------------------------------------------------------------------------------
# checked


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a loss, or a function that calls losses, raise an error for bad values, also where it is compiled.

    Bad values are labels that are no class, probabilities outside [0, 1] or rows of them that do not sum to 1 (by more
    than rounding: 1e-3 for the sum, more for what half precision can hold), NaN, infinities other than the -inf of an
    excluded class, inverted boxes, negative counts, rates, scales and variances, targets other than -1 and +1 (and 0)
    where a sign is needed, sequences that are too short for their labels, and traced options outside their range. What
    `where` masks is never one, nor is a negative weight.

    The result is that of the function, compiled as by `jax.jit`. It costs a look at all inputs and, at each call, a
    wait for the devices, so it is for finding errors. Wrap the outermost function: `checked(jax.jit(step))`,
    `checked(jax.value_and_grad(loss))`, `checked(jax.vmap(loss))`. Eager `jax.grad` and `jax.vmap` may also come last,
    as in `jax.grad(checked(loss))`. Where several losses or inputs are bad, the first one is reported; inside
    `jax.shard_map`, its index is that in its shard. Under `jax.vmap` jax computes both branches of a `jax.lax.cond`, so
    both are looked at.

    Args:
      function: a loss, or any function of arrays that jax can compile. As for a loss, a Python number, bool, string
        or function among its arguments is a constant: another value is another program.

    Returns:
      A function of the same signature.

    Raises:
      BadValueError: (a ValueError) when called with bad values: the argument, the rule, how many entries break it,
      and the first of them.
      TypeError: where the function changes an argument in place, as a step of flax.nnx does: the change would be lost.
      RuntimeError: when called inside `jax.jit`, `jax.lax.scan` and the like, from where no error can come out.

    Example:
      >>> import jaxloss
      >>> labels, logits = np.array([2, 0, 3]), np.zeros((3, 3), np.float32)
      >>> try:
      ...     checked(jaxloss.sparse_cce)(labels, logits, from_logits=True)
      ... except ValueError as error:
      ...     print(error)
      sparse_cce: y_true must be in 0..2: 1 of 3 is not, the first at index (2,), which is 3. Leave others out with
      where=, as in where=y_true != -100.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if checking.value:  # the outermost one reports
            return function(*args, **kwargs)
        kwargs = getattr(function, "settled", lambda options: options)(kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))
        leaves = [_leaf(x) for x in leaves]
        traced = [
            isinstance(x, jax.Array) or (isinstance(x, np.ndarray) and fits_32_bits(x) and not hides_entries(x))
            for x in leaves
        ]
        arrays = [x for x, trace in zip(leaves, traced, strict=True) if trace]
        rest = [_ARRAY if trace else x for x, trace in zip(leaves, traced, strict=True)]
        # What does not fit must reach the loss as it is, which knows a label from a number.
        program = _program if all(isinstance(x, Hashable) for x in rest) else _program.__wrapped__
        with checking(True):
            error, (result, changed) = program(function, structure, *rest)(arrays)
        _raise(error)
        if not all(_equal(arrays[i], x) for i, x in changed.items()):
            raise TypeError(
                "jaxloss.checked: the function changes an argument in place, and that change would be lost. Let it "
                "return what it changes. With flax.nnx: nnx.split the model before, nnx.merge it inside, return "
                "nnx.state(model), and give that to nnx.update."
            )
        return result

    return call


def _leaf(x: Any) -> Any:
    """What counts as an array, as one."""
    if isinstance(x, (jax.Array, str)) or hides_entries(x):
        return x
    if hasattr(x, "__jax_array__"):
        return x.__jax_array__()
    return of_numpy(x) if hasattr(x, "__array__") else x


_ARRAY = object()  # stands for an array among the arguments


@functools.lru_cache(maxsize=PROGRAMS, typed=True)
def _program(function: Callable[..., Any], structure: Any, *rest: Any) -> Callable[..., Any]:
    from jax.experimental import checkify  # here, not at import time

    def run(arrays: list[Array]) -> Any:
        given = iter(arrays)
        args, kwargs = jax.tree.unflatten(structure, [next(given) if x is _ARRAY else x for x in rest])
        result = function(*args, **kwargs)
        after, same = jax.tree.flatten((args, kwargs))
        after = [x for x, given in zip(after, rest, strict=False) if given is _ARRAY] if same == structure else arrays
        # Some transformations of objects put back what did not change: only its value tells.
        return result, {i: x for i, (x, before) in enumerate(zip(after, arrays, strict=True)) if x is not before}

    # User checks only: the automatic ones take legitimate infinities for errors, and fail in some versions of jax.
    return jax.jit(checkify.checkify(run, errors=checkify.user_checks))


def _equal(before: Array, after: Array) -> bool:
    """Whether an argument is what it was; not known of one that is traced."""
    if isinstance(after, Tracer):
        return True
    if jnp.issubdtype(before.dtype, jax.dtypes.prng_key):
        before, after = jax.random.key_data(before), jax.random.key_data(after)
    same = before.shape == after.shape and before.dtype == after.dtype
    return same and bool(jnp.all((before == after) | ((before != before) & (after != after))))


def _raise(error: Any) -> None:
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(error)):
        raise RuntimeError(
            "jaxloss.checked: an error cannot come out of a function that jax traces (jit, scan, checkpoint, ...). "
            "Wrap the outermost function, as in jaxloss.checked(jax.jit(step))."
        )
    message = error.get()
    if message is not None:
        found = _FOUND.match(message)
        raise BadValueError(_sentence(*found.groups()) if found else message)


# checkify carries the numbers to the host; the words are put around them there.
_CURE = "\v"
_NUMBERS = "\t{}\t{}\t{}\t{}\t{}"
_FOUND = re.compile(r"(?:at mapped index ([\d, ]+): )?([^\t]*)\t(\d+)\t(\d+)\t\[([^\]]*)\]\t(\d+)\t(\S+)")


def _sentence(shard: str | None, rule: str, bad: str, total: str, shape: str, place: str, value: str) -> str:
    axes = [int(n) for n in shape.split() if int(n) >= 0]
    value = value if value.lstrip("-").isdigit() else f"{float(value):.7g}"
    rule, _, cure = rule.partition(_CURE)
    cure = cure and f" {cure}"
    if not axes:
        return f"{rule}, got {value}.{cure}"
    index = tuple(map(int, np.unravel_index(int(place), axes)))
    at = f"{index}" if shard is None else f"{index} of shard {shard.split()[-1]}"
    many = f"{bad} of {total} {'is' if bad == '1' else 'are'} not"
    return f"{rule}: {many}, the first at index {at}, which is {value}.{cure}"


# ---------------------------------------------------------------------------------------------------------------------
# What a loss finds in its inputs


def inspect(
    inputs: Sequence[Input],
    where: Array | None,
    rules: Callable[..., Sequence[Finding]] | None = None,
    classes: int | None = None,
) -> None:
    """Look at all inputs, and report each rule that some unit breaks.

    rules: of one example, if they concern several inputs.
    classes: how many there are; the last axis of the last input by default.
    """
    texts: list[tuple[str, int | None]] = []

    def example(*cores: Array) -> list[tuple[Array, Array]]:
        count = classes if classes is not None or not inputs[-1].holds.core else cores[-1].shape[-1]
        found = [
            (finding, i)
            for i, (given, x) in enumerate(zip(inputs, cores, strict=True))
            for finding in _findings(given.name, given.holds.domain, x, count)
        ]
        found += [(finding, None) for finding in (rules(*cores) if rules else ())]
        texts[:] = [(text, i) for (text, *_), i in found]
        return [(holds, shown) for (_, holds, shown), _ in found]

    arrays = [given.x for given in inputs]
    arrays = [x if jnp.issubdtype(x.dtype, jnp.floating) else widen(x, "label", x.dtype) for x in arrays]
    mapped = example
    for axis in reversed(range(len(inputs[0].batch_axes))):
        mapped = jax.vmap(mapped, in_axes=tuple(given.batch_axes[axis] - axis for given in inputs))
    for (holds, shown), (text, i) in zip(mapped(*arrays), texts, strict=True):
        exists = None if where is None else spread(where, holds.shape)
        if i is not None and holds.ndim == arrays[i].ndim:  # the index shall be that of the input as it was given
            batch = inputs[i].batch_axes
            there = [*batch, *(a for a in range(holds.ndim) if a not in batch)]
            order = [there.index(a) for a in range(holds.ndim)]
            holds, shown = jnp.transpose(holds, order), jnp.transpose(shown, order)
            exists = None if exists is None else jnp.transpose(exists, order)
        report(text, holds, shown, exists)


def _findings(name: str, domain: Domain, x: Array, classes: int | None) -> Iterator[Finding]:
    """What the core of one example must be; NaN breaks every rule."""
    if domain is domains.LABEL:
        assert classes is not None
        yield f"{name} must be {domain.text.format(last=classes - 1)}{_CURE}{domain.cure}", (x >= 0) & (x < classes), x
        return
    slack = domain.slack(x.dtype)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    if domain != domains.ANY:
        yield f"{name} must be {domain.text}{_CURE}{domain.cure}", domain.holds(x, slack), x
    if domain is domains.BOX:
        sides = x[2:] - x[:2]
        yield f"the width and height of the boxes in {name} must be at least 0{_CURE}{domain.cure}", sides >= 0, sides
    if domain.sum:
        total = jnp.sum(widened(domain.sum(x)))
        near = 8 * _rounding(x) if domain.rounds else 0
        yield f"the sum of each row of {name} must be 1", jnp.abs(total - 1) <= jnp.maximum(near, 1e-3), total


def _rounding(row: Array) -> Array:
    """The eps of the dtype that a row was made in, which may be one of half precision, widened since."""
    info = jnp.finfo(row.dtype)
    eps = jnp.full((), info.eps, jnp.float32)
    for half in map(jnp.finfo, (jnp.float16, jnp.bfloat16)):
        if half.nmant < info.nmant:
            kept = jax.lax.reduce_precision(row, info.nexp, half.nmant) == row
            eps = jnp.where(jnp.all(kept), jnp.float32(half.eps), eps)
    return eps


def inspect_option(name: str, value: Any, domain: Domain) -> None:
    """Look at a traced option."""
    x = jnp.asarray(value)
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    report(f"{name} must be {domain.text}", domain.holds(x), x)


def inspect_weights(weights: Array, where: Array | None) -> None:
    exists = None
    if where is not None and weights.ndim:
        exists = jnp.any(where, axis=tuple(range(weights.ndim, where.ndim)))
        exists = spread(exists, weights.shape)
    report("weights must be finite", jnp.isfinite(weights), weights, exists)


def inspect_losses(losses: Array) -> None:
    """Also report NaNs that no rule predicted."""
    report("the loss must be a number", ~jnp.isnan(losses), losses)


def report(rule: str, holds: Array, shown: Array, exists: Array | None = None) -> None:
    """Tell checkify how many entries break the rule, and which is the first of them."""
    from jax.experimental import checkify

    exists = jnp.ones_like(holds) if exists is None else exists
    shown = jax.lax.stop_gradient(widened(shown) if jnp.issubdtype(shown.dtype, jnp.floating) else shown)
    found = _first(*mesh.replicated(~holds & exists, exists, shown))
    rule = f"{current_loss()}: {rule}"

    def branch(bad: Array, *found: Array) -> Array:
        checkify.check(bad == 0, re.sub("([{}])", r"\1\1", rule) + _NUMBERS, bad, *found)
        return jnp.zeros((), bool)

    # The same branch twice, since in shard_map both must be of the same type.
    told = jax.lax.cond(found[0] == 0, branch, branch, *found)
    if (reports := _reports.get()) is not None:
        reports.append(told)


# The reports of the loss that is being traced.
_reports: contextvars.ContextVar[list[Array] | None] = contextvars.ContextVar("_reports", default=None)


def reporting(loss: Callable[..., R], *args: Any, **options: Any) -> R:
    """The result of a loss, so that it depends on its reports.

    Where jax differentiates a scan, it drops a check without a word, since nothing depends on it. Here the result does,
    and the cond in `report` is kept as a whole where jax separates what it differentiates.
    """
    reports: list[Array] = []
    before = _reports.set(reports)
    try:
        return tied(loss(*args, **options), reports)
    finally:
        _reports.reset(before)


AXES = 8  # of an array; what is left over is -1


@custom_vmap
def _first(bad: Array, exists: Array, shown: Array) -> tuple[Array, ...]:
    """How many entries are bad, of how many, the shape of the array, the place of the first one in it, its value."""
    # Scalars, since an array would be a constant, which custom_vmap cannot have inside a mapped lax.cond.
    shape = jnp.stack([jnp.full((), n, jnp.int32) for n in (*bad.shape, *[-1] * (AXES - bad.ndim))])
    bad, shown = bad.ravel(), shown.ravel()
    place = jnp.argmax(bad).astype(jnp.int32) if bad.size else jnp.zeros((), jnp.int32)
    value = shown[place] if bad.size else jnp.zeros((), shown.dtype)
    return jnp.sum(bad, dtype=jnp.int32), jnp.sum(exists, dtype=jnp.int32), shape, place, value


@_first.def_vmap
def _(size: int, mapped: list[bool], *arrays: Array) -> tuple[Any, tuple[bool, ...]]:
    """One look at the whole batch, so that vmap changes neither the count nor what an index means."""
    arrays = tuple(x if m else jnp.broadcast_to(x, (size, *x.shape)) for x, m in zip(arrays, mapped, strict=True))
    return _first(*arrays), (False,) * 5
