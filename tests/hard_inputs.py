"""Hard inputs: losses and gradients against exact arithmetic, at the numbers that the inputs are after rounding.

The inputs are those of `Row.hard`; what they must give says the oracle of the row, in the arithmetic of
`cases/exact.py`. A case is one unit of one dtype, and either its loss or its gradient. What misses it must be listed in
`Row.excused`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import Row, exact
from cases.exact import mp

# How far a result may be from the exact one, in units of the rounding of the dtype that is computed in: an element
# relative to itself; a unit made of several numbers relative to the largest of itself (of its gradient) and 1.
ELEMENT, ROW = 8.0, 16.0

MIXED = 3000  # units that are made of the hard inputs at random

FLUSHED = "a subnormal number of float32, which XLA's CPU compiler takes for 0; right for that"


@dataclasses.dataclass
class Result:
    """How many cases were tried, the worst error of a loss and of a gradient, and what missed its limit.

    What `Row.excused` lists is counted apart, as (pattern, message). The patterns that met anything are in met.
    """

    tried: int = 0
    worst: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0])
    missed: list[str] = dataclasses.field(default_factory=list)
    excused: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    met: set[str] = dataclasses.field(default_factory=set)


def judge(row: Row, loss: Callable[..., Any], dtypes: Sequence[Any] = (np.float32, np.float16)) -> Result:
    """The losses of a row at its hard inputs, their gradients, and whether the second derivatives are numbers."""

    rows = _with_hard_options(row)
    batches = [_rounded(row, dtype) for dtype in dtypes]
    program = jax.jit(lambda batches: [[_orders(row, loss, b) for b in batches] for row in rows])
    got = jax.tree.map(np.asarray, program(batches))
    result = Result()
    wide = any(np.dtype(dtype) == np.float64 for dtype in dtypes)
    with mp.workprec(mp.prec * (1 + wide)):  # what cancels must vanish beside the smallest number of the dtype
        for row, results in zip(rows, got, strict=True):
            _judge(row, batches, results, result)
    for pattern, reason in row.excused:
        # What names dtypes is met by those, all else by float32 and float16.
        named = set(re.findall(r"b?float\d+", pattern)) or {"float32"}
        if pattern not in result.met and named & {np.dtype(dtype).name for dtype in dtypes}:
            result.missed.append(f"listed as a miss, but kept: {pattern} ({reason})")
    return result


def _with_hard_options(row: Row) -> list[Row]:
    return [row, *(dataclasses.replace(row, options={**row.options, **more}) for more in row.hard_options)]


def _orders(row: Row, loss: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    """The losses, the derivatives of their sum, and the derivatives of those along one direction."""

    def first(*arrays: Any) -> Any:
        def summed(*arrays: Any) -> Any:
            losses = loss(*arrays, **row.options, reduction="none")
            return jnp.sum(losses), losses

        return jax.grad(summed, row.differentiable, has_aux=True)(*arrays)

    tangents = tuple(
        # Of length 1 for each unit: for the smallest numbers a derivative along more would overflow by itself.
        jnp.full_like(x, (i in row.differentiable) / math.prod(x.shape[1:]) ** 0.5)
        if x.dtype.kind != "i"
        else np.zeros(x.shape, jax.dtypes.float0)
        for i, x in enumerate(arrays)
    )
    slopes, second, losses = jax.jvp(first, tuple(arrays), tangents, has_aux=True)
    return losses, slopes, second


def mixed(row: Row, loss: Callable[..., Any], units: int = MIXED, seed: int = 0) -> list[str]:
    """What is NaN where the numbers of the hard inputs, and any between them, meet at random."""
    rng = np.random.default_rng(seed)
    arrays = [_mixture(rng, np.asarray(x), units) for x in row.hard]
    messages = []
    for varied in _with_hard_options(row):
        losses, slopes, second = jax.tree.map(np.asarray, jax.jit(functools.partial(_orders, varied, loss))(arrays))
        found = [("loss", losses)]
        for what, derivatives in (("gradient", slopes), ("second derivative", second)):
            found += [(f"{what} by {row.names[i]}", x) for i, x in zip(row.differentiable, derivatives, strict=True)]
        for what, x in found:
            bad = np.flatnonzero(np.isnan(x).reshape(units, -1).any(-1))
            messages += [f"{what} is NaN at {_at(varied, arrays, unit)}, {len(bad)} times" for unit in bad[:1, None]]
    return messages


def _mixture(rng: np.random.Generator, hard: np.ndarray, units: int) -> np.ndarray:
    pool = np.unique(hard[np.isfinite(hard)])
    if hard.dtype.kind != "f" or set(pool) <= {-1.0, 0.0, 1.0}:  # labels, signs, one-hot rows
        return hard[rng.integers(len(hard), size=units)].astype(np.float32 if hard.dtype.kind == "f" else np.int32)
    between = np.concatenate([s * 10.0 ** rng.uniform(-45, 39, 200) for s in (1, -1)] + [rng.normal(size=100)])
    between = between[(between > pool.min()) & (between < pool.max())]
    entries = rng.choice(np.concatenate([np.repeat(pool, 3), between]), (units, *hard.shape[1:]))
    equal = rng.random((units, *(1,) * (hard.ndim - 1))) < 0.3  # rows of numbers that are alike
    first = entries if hard.ndim == 1 else entries[:, :1]
    return np.where(equal & (rng.random(entries.shape) < 0.5), first, entries).astype(np.float32)


def _judge(row: Row, batches: Any, got: Any, result: Result) -> None:
    for arrays, (losses, slopes, second) in zip(batches, got, strict=True):
        want_losses, want_slopes = expected(row, arrays)
        _judge_losses(row, arrays, losses, want_losses, result)
        for i, got_slopes, bounds, bent in zip(row.differentiable, slopes, want_slopes, second, strict=True):
            _judge_slopes(row, arrays, i, got_slopes, bounds, result)
            for unit in np.unique(np.argwhere(np.isnan(bent))[:, 1 if row.pooled else 0]):
                _miss(row, f"second derivative by {row.names[i]} is NaN at {_at(row, arrays, (unit,))}", result)


def _rounded(row: Row, dtype: Any) -> list[np.ndarray]:
    """The hard inputs in a dtype, each unit once, without those that it cannot hold."""
    given = [np.asarray(x) for x in row.hard]
    if dtype == np.float64:  # what float32 rounds up from 1 would lie outside the domain
        given = [np.where(x == 1 + 2.0**-23, 1 + 2.0**-52, x) if x.dtype.kind == "f" else x for x in given]
    with np.errstate(over="ignore", under="ignore"):
        arrays = [x.astype(dtype) if x.dtype.kind == "f" else x.astype(np.int32) for x in given]
    axis = 1 if row.pooled else 0
    held = [
        (np.isfinite(a.astype(np.float64)) | ~np.isfinite(x)) & ((a != 0) | (x == 0))
        for a, x in zip(arrays, given, strict=True)
    ]
    fits = np.all([h.all(tuple(i for i in range(h.ndim) if i != axis)) for h in held], 0)
    units = [[x.tobytes() for x in np.moveaxis(a, axis, 0)] for a in arrays]
    seen = dict(zip(zip(*units, strict=True), range(len(fits)), strict=True))  # many are equal after rounding
    kept = [i for i in seen.values() if fits[i]]
    return [x.take(kept, axis) for x in arrays]


def expected(
    row: Row, arrays: Sequence[np.ndarray], sides: int = 2, textbook: bool = False
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """The exact losses, and the bounds of each derivative of their sum: where there are kinks, of some of its slopes.

    The first two sides take the first and the last of equal numbers wherever two are compared, others any of them.

    textbook: without what the library says of the logarithms of probabilities near 0.
    """
    wide = any(x.dtype == np.float64 for x in arrays)
    options = {k: _option(v, wide) for k, v in {**_defaults(row), **row.options}.items()}
    given = [
        x if x.dtype.kind == "i" else exact.inputs(x, i if i in row.differentiable else None)
        for i, x in enumerate(arrays)
    ]
    rng = np.random.default_rng(0)
    losses, slopes = np.empty(0), []
    with exact.textbook() if textbook else exact.of_dtype(np.float64 if wide else np.float32):
        for first in (lambda: True, lambda: False, *[lambda: bool(rng.integers(2))] * (sides - 2)):
            exact.ties.first, exact.ties.met = first, False
            losses = np.asarray(np.frompyfunc(exact.exact, 1, 1)(row.oracle(*given, **options)), object)
            slopes.append([_slopes_of_sum(losses, i, arrays[i].shape) for i in row.differentiable])
            if not exact.ties.met:
                break
    return losses, [(np.minimum.reduce(s), np.maximum.reduce(s)) for s in zip(*slopes, strict=True)]


def _defaults(row: Row) -> dict[str, Any]:
    parameters = inspect.signature(row.oracle).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _option(value: Any, wide: bool) -> Any:
    """A float as the loss sees it, exactly."""
    if not isinstance(value, float):
        return value
    return exact.exact(value if wide else np.float32(value))


def _slopes_of_sum(losses: np.ndarray, array: int, shape: tuple[int, ...]) -> np.ndarray:
    slopes = np.full(shape, mp.zero, object)
    for loss in losses.flat:
        for (i, *at), slope in loss.slopes.items():
            if i == array:
                slopes[tuple(at)] = slopes[tuple(at)] + slope
    return slopes


def _judge_losses(row: Row, arrays: Any, got: np.ndarray, want: np.ndarray, result: Result) -> None:
    assert got.shape == want.shape, f"{row.id}: losses of shape {got.shape} instead of {want.shape}"
    element = _is_element(row)
    for unit in np.ndindex(want.shape):
        value = exact.exact(want[unit]).value
        scale = abs(value) if element else max(1, abs(value))
        error = _error(got[unit], value, value, got.dtype, got.dtype, scale)
        if error > _limit(row) and (flushed := _flushed(row, arrays, unit)):
            other = exact.exact(expected(row, flushed)[0][0]).value
            scale = abs(other) if element else max(1, abs(other))
            if _error(got[unit], other, other, got.dtype, got.dtype, scale) <= _limit(row):
                _excuse_flushed(result, "loss")
                continue
        _enter(row, arrays, 0, error, "loss", unit, got[unit], value, result)


def _judge_slopes(row: Row, arrays: Any, i: int, got: np.ndarray, bounds: Any, result: Result) -> None:
    """One case for each unit: its worst entry. Between two slopes at a kink any derivative is right."""
    core = 0 if row.pooled else np.ndim(row.make(())[i])
    assert got.shape == bounds[0].shape, f"{row.id}: a gradient of shape {got.shape} instead of {bounds[0].shape}"
    for unit in np.ndindex(got.shape[: got.ndim - core]):
        error, entry, want = _worst(row, got[unit], [b[unit] for b in bounds])
        if error > ELEMENT and not row.pooled:
            alone = [x[unit[0] : unit[0] + 1] for x in arrays]
            bounds_of_many = expected(row, alone, sides=40)[1][row.differentiable.index(i)]
            error, entry, want = _worst(row, got[unit], [b[0] for b in bounds_of_many])
        if error > _limit(row) and (flushed := _flushed(row, arrays, unit)):
            bounds_of_many = expected(row, flushed, sides=40)[1][row.differentiable.index(i)]
            if _worst(row, got[unit], [b[0] for b in bounds_of_many])[0] <= _limit(row):
                _excuse_flushed(result, "gradient")
                continue
        what = f"gradient by {row.names[i]}{list(entry) if entry else ''}"
        _enter(row, arrays, 1, error, what, unit, got[unit][entry], want, result)


def _flushed(row: Row, arrays: Any, unit: Any) -> list[np.ndarray] | None:
    """A unit as XLA's CPU compiler may read it, with 0 for the subnormal numbers of float32; None if it has none."""
    if row.pooled or any(x.dtype == np.float64 for x in arrays):
        return None
    alone = [x[unit[0] : unit[0] + 1] for x in arrays]
    tiny = jnp.finfo(np.float32).tiny
    flushed = [x if x.dtype.kind == "i" else np.where(np.abs(x) < tiny, np.zeros_like(x), x) for x in alone]
    return flushed if any((x != y).any() for x, y in zip(alone, flushed, strict=True)) else None


def _excuse_flushed(result: Result, what: str) -> None:
    result.tried += 1
    result.excused.append((FLUSHED, what))


def _worst(row: Row, got: np.ndarray, bounds: Any) -> tuple[float, tuple[int, ...], Any]:
    """The largest error among the derivatives of a unit, where it is, and what had to be there."""
    low, high = (np.asarray(b, object) for b in bounds)
    wide = np.dtype(np.float64 if got.dtype == np.float64 else np.float32)
    sizes = [abs(x) for x in (*low.flat, *high.flat) if mp.isfinite(x)]
    scale = max(sizes, default=mp.zero)
    scale = scale if _is_element(row) else max(1, scale)
    got = np.asarray(got)
    errors = {e: _error(got[e], low[e], high[e], got.dtype, wide, scale) for e in np.ndindex(got.shape)}
    worst = max(errors, key=lambda e: errors[e])
    return errors[worst], worst, low[worst] if low[worst] == high[worst] else (low[worst], high[worst])


def _is_element(row: Row) -> bool:
    return not any(row.cores) and not row.pooled


def _error(got: Any, low: Any, high: Any, dtype: Any, wide: Any, scale: Any) -> float:
    """How far a result lies outside its bounds, in units of eps times scale, after what its dtype rounds."""
    got = mp.mpf(float(got))
    if mp.isnan(low) or mp.isnan(high):
        return 0.0 if mp.isnan(got) else float("inf")
    if mp.isnan(got):
        return float("inf")
    info = jnp.finfo(dtype)
    largest = float(info.max)
    nearest = min(max(got, low), high)
    eps = float(jnp.finfo(wide).eps)
    if abs(nearest) > largest * (1 - ROW * eps):  # the true result overflows, or is about to
        return 0.0 if abs(got) > largest * (1 - 2 * ROW * eps) and got * nearest > 0 else float("inf")
    if got == nearest:
        return 0.0
    if mp.isinf(got):
        return float("inf")
    rounding = 0 if dtype == wide else 0.51 * float(info.eps) * abs(nearest)
    # Subnormal results of float32, and what is smaller, may be flushed to 0.
    smallest = float(info.smallest_subnormal) if dtype == np.float16 else float(info.tiny)
    excess = abs(got - nearest) - rounding - smallest
    return 0.0 if excess <= 0 else float(excess / (eps * scale)) if scale else float("inf")


def _enter(
    row: Row, arrays: Any, kind: int, error: float, what: str, unit: Any, got: Any, want: Any, result: Result
) -> None:
    result.tried += 1
    limit = _limit(row)
    if not error <= limit:
        shown = mp.nstr(want, 10) if not isinstance(want, tuple) else [mp.nstr(x, 10) for x in want]
        place = _at(row, arrays, unit)
        message = f"{what} is {got!r} instead of {shown} ({error:.3g} eps, limit {limit:g}) at {place}"
        _miss(row, message, result)
    else:
        result.worst[kind] = max(result.worst[kind], error)


def _limit(row: Row) -> float:
    return ELEMENT if _is_element(row) else ROW


def is_nan(message: str) -> bool:
    """Whether what was got is NaN."""
    return "nan" in message.lower().partition(" instead of ")[0].partition(" at ")[0]


def _miss(row: Row, message: str, result: Result) -> None:
    """A NaN is never excused."""
    patterns = [pattern for pattern, _ in row.excused if re.search(pattern, message) and not is_nan(message)]
    result.met.update(patterns)
    if patterns:
        result.excused.append((patterns[0], message))
    else:
        result.missed.append(message)


def _at(row: Row, arrays: Any, unit: Any) -> str:
    if row.pooled:
        return str(unit)
    shown = ", ".join(f"{name} {x[unit[0]].tolist()}" for name, x in zip(row.names, arrays, strict=True))
    varied = {key for more in row.hard_options for key in more}
    shown += "".join(f", {key} {value}" for key, value in row.options.items() if key in varied)
    return f"{shown} ({next(x.dtype for x in arrays if x.dtype.kind != 'i')})"
