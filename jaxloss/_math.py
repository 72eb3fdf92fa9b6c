"""Functions that several families share: made so that no finite input gives NaN, in the value or any derivative."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._legacy import in_explicit_mesh, kept, settled

barrier = jax.lax.optimization_barrier

# XLA's CPU compiler stores what it sums in rows longer than this, at several times the cost.
LONG_ROW = 32_768


def slopes(*partials: Callable[..., Array]) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Give an elementwise function its partial derivatives, one for each argument, in place of automatic ones.

    They are exact where differentiating the formula would cancel, they say what happens at kinks, and one that nobody
    asks for is never computed.
    """

    def decorate(function: Callable[..., Array]) -> Callable[..., Array]:
        with_slopes = jax.custom_jvp(function)

        def rule(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
            value = with_slopes(*primals)
            terms = [
                slope(*primals) * t
                for slope, t in zip(partials, tangents, strict=True)
                if not isinstance(t, SymbolicZero)
            ]
            return value, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(value)

        with_slopes.defjvp(rule, symbolic_zeros=True)
        return with_slopes

    return decorate


def constants(*numbers: float, like: Array) -> list[Array]:
    """Numbers for a derivative that XLA cannot share with the value: for that it would write each out as an array."""
    return barrier([jnp.asarray(n, like.dtype) for n in numbers])


@slopes(lambda x: jnp.sign(x))
def absolute(x: Array) -> Array:
    """abs(x) with derivative 0 at 0, where jax.numpy has 1."""
    return jnp.abs(x)


@slopes(lambda e: jnp.ones_like(e))
def bounded(e: Array) -> Array:
    """A residual that overflows as the largest number, for losses that grow so slowly that they need not overflow."""
    largest = float(jnp.finfo(e.dtype).max)
    return jnp.maximum(jnp.minimum(e, largest), -largest)


# A probability below this has the derivative of this one: 1 / p and its square stay finite in float32.
STEEPEST = 1e-12


@slopes(lambda p: 1 / jnp.maximum(p, STEEPEST))
def log_probability(p: Array) -> Array:
    """log(p) for p in [0, 1]; at 0 that of the smallest normal number, so finite."""
    return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


@slopes(lambda p: -1 / jnp.maximum(1 - p, STEEPEST))
def log_complement(p: Array) -> Array:
    """log(1 - p) for p in [0, 1], exact for small p; at 1 that of the smallest normal number, so finite."""
    return jnp.maximum(jnp.log1p(-jnp.minimum(p, 1)), math.log(jnp.finfo(p.dtype).tiny))


@slopes(lambda x: jax.nn.sigmoid(x))
def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def poisoned(valid: Array | bool, loss: Array) -> Array:
    """NaN, with zero gradient, where an input lies outside the domain: never a plausible number."""
    return jnp.where(valid, loss, jnp.nan)


def is_label(label: Array, classes: int) -> Array:
    return (label >= 0) & (label < classes)


def is_binary(y: Array) -> Array:
    return (y == 0) | (y == 1)


def is_probability(p: Array, slack: float) -> Array:
    return (p >= -slack) & (p <= 1 + slack)


def is_zero(option: Any) -> bool:
    """Whether an option is the constant 0, so that its term can be left out of the program."""
    return isinstance(option, (int, float)) and option == 0


def smoothed(y: Array, label_smoothing: float | Array, classes: int) -> Array:
    """Targets mixed with the uniform distribution."""
    if is_zero(label_smoothing):
        return y
    a = jnp.asarray(label_smoothing, y.dtype)
    # Nothing is left of y for a = 1: 0 times an infinite derivative would be NaN.
    (y,) = rigid(a == 1, y)
    return (1 - a) * y + a / classes


def rigid(extreme: Array, *numbers: Array) -> list[Array]:
    """The same numbers for a derivative, which counts as a constant where its own derivatives would overflow.

    Infinite times 0, or less infinite, would be NaN. The select of twice the same costs the derivative nothing.
    """
    return [jnp.where(extreme, jax.lax.stop_gradient(x), x) for x in numbers]


def frozen(extreme: Array, function: Callable[..., Array], *numbers: Array) -> Array:
    """function(*numbers), which counts as a constant for derivatives where it is extreme."""
    # Both ends: an infinite derivative in between would make NaN of the 0 that comes from either.
    return rigid(extreme, function(*rigid(extreme, *numbers)))[0]


def steady(extreme: Array, function: Callable[..., Array], *arguments: Any) -> Array:
    """function(*arguments) and its derivative, which counts as a constant where it is extreme, as in `rigid`.

    For formulas whose second derivative no float can hold there: infinite terms would cancel to NaN.
    """
    function, options = jax.closure_convert(function, *arguments)
    count = len(arguments)

    @jax.custom_jvp
    def value(extreme: Array, *given: Array) -> Array:
        return function(*given)

    @value.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        extreme, *given = primals
        point = (*rigid(extreme, *given[:count]), *given[count:])
        return value(*primals), jax.jvp(function, point, tangents[1:])[1]

    return value(extreme, *arguments, *options)


def _quotient_by_numerator(x: Array, y: Array) -> Array:
    (y,) = rigid(is_minute(y), y)
    return quotient(jnp.ones_like(y), y)


def _quotient_by_denominator(x: Array, y: Array) -> Array:
    x, y = rigid(is_minute(y), x, y)
    return bounded(quotient(-quotient(x, y), y))  # without a minus between them XLA would divide by y y


def is_minute(y: Array) -> Array:
    """Whether the cube of 1 / y, or its square times the derivative of a logarithm, would overflow."""
    return jnp.abs(y) < float(jnp.finfo(y.dtype).tiny) ** 0.3


def is_huge(y: Array) -> Array:
    """Whether the cube of y would overflow."""
    return jnp.abs(y) > float(jnp.finfo(y.dtype).tiny) ** -0.3


@slopes(_quotient_by_numerator, _quotient_by_denominator)
def quotient(x: Array, y: Array) -> Array:
    """x / y, whose derivative does not square y, which could overflow or vanish."""
    return x / y


def of_share(row: Array, function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """function(p / sum(row)) for entries p; each of a row of zeros has the same share, with zero gradient."""
    total = jnp.sum(row)
    empty = total <= 0
    total = jnp.where(empty, 1, total)

    def of(p: Array, total: Array, empty: Array) -> Array:
        return function(jnp.where(empty, 1 / row.size, quotient(p, total)))

    return lambda p: steady(is_minute(total), of, p, total, empty)


@jax.custom_jvp
def surprise_of_shares(weight: Array | None, row: Array, stored: Array) -> Array:
    """sum(-w log p) of the shares p of a row, whose derivative reads the row again from `stored` (see below).

    Differentiated as it stands, XLA's CPU compiler would write three arrays of the size of the row.
    """
    full, total = _total(row)
    # No select, with which XLA's CPU compiler would not fuse the sum.
    p = reread(row, stored) / total + (1 - full) / row.size
    return -jnp.sum(_weighed(weight, jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))))


def _surprise_of_shares_slope(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    weight, row, stored = primals
    d_weight, d_row, _ = tangents
    value = surprise_of_shares(weight, row, stored)
    row, slope = reread(row, stored), jnp.zeros_like(value)
    if not isinstance(d_row, SymbolicZero):
        full, total = _total(row)
        row, again, total = rigid(is_minute(total), row, reread(row, stored), total)
        (least,) = constants(STEEPEST, like=row)
        p = quotient(row, total)
        mean_slope = jnp.sum(_weighed(weight, jnp.minimum(p, least))) / least  # sum(w p / max(p, least))
        by_share = _weighed(weight, 1 / jnp.maximum(quotient(again, total), STEEPEST))
        inverse = quotient(jnp.ones_like(total), total)
        slope += full * (mean_slope * jnp.sum(d_row) - jnp.sum(by_share * d_row)) * inverse
    if weight is not None and not isinstance(d_weight, SymbolicZero):
        slope -= jnp.sum(d_weight * of_share(row, log_probability)(row))
    return value, slope


surprise_of_shares.defjvp(_surprise_of_shares_slope, symbolic_zeros=True)


def _total(row: Array) -> tuple[Array, Array]:
    """1 where the sum of a row is positive, else 0; and the sum, with 1 in place of what is not positive."""
    total = jnp.sum(row)
    full = (total > 0).astype(row.dtype)
    return full, jnp.where(total > 0, total, 1)


def _weighed(weight: Array | None, x: Array) -> Array:
    return x if weight is None else weight * x


def finite_where_zero(y: Array, x: Array) -> Array:
    """x, but 0 for an infinite x whose factor y is 0: an excluded class, of logit -inf, costs nothing."""
    return jnp.where((y == 0) & jnp.isinf(x), 0, x)


def mixed(a: Array, first: Array, second: Array) -> Array:
    """(1 - a) first + a second, where 0 times an infinite loss is 0."""
    return (1 - a) * finite_where_zero(1 - a, first) + a * finite_where_zero(a, second)


def rounding(x: Any) -> float:
    """How far rounding in the dtype of x may carry a probability outside [0, 1]."""
    dtype = jnp.result_type(x)
    return 4 * float(jnp.finfo(dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.float32).eps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def log_normaliser(row: Array, stored: Array, single: bool = True) -> tuple[Array, Array]:
    """The maximum of a row of logits, and log sum exp(row - maximum): the logsumexp in two parts.

    They stay apart because the difference of a logit and the maximum is exact where their sum would absorb it.
    The value is read from `stored`: the same row as it lies in memory, perhaps of a narrower dtype.
    `single`: whether the row has no other sums, which the compiler would find while it reads the row once.
    """
    return _normaliser(_pieces(stored), row.dtype, barrier, single)


def _normaliser(pieces: Array, dtype: Any, apart: Callable[[Array], Array], single: bool) -> tuple[Array, Array]:
    # Bounds in place of selects, with which XLA's CPU compiler would not fuse: a row of -inf has the maximum -inf, and
    # no other row has a sum below 1.
    largest = _by_piece(jnp.max, pieces).astype(dtype)
    shift = apart(jnp.maximum(largest, -jnp.finfo(dtype).max))
    sum_exp = _by_piece(jnp.sum, jnp.exp(pieces.astype(dtype) - shift))
    return shift, jnp.log(jnp.maximum(settled(sum_exp) if single else sum_exp, 1))


@log_normaliser.defjvp
def _(
    single: bool, primals: tuple[Array, Array], tangents: tuple[Array, Any]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    row, stored = primals
    shift, log_sum = map(kept, log_normaliser(row, stored, single))
    softmax = jnp.exp((row - shift) - log_sum)
    # The sum of the two parts does not depend on the shift, so that it may count as a constant.
    return (shift, log_sum), (jnp.zeros_like(shift), jnp.sum(softmax * tangents[0]))


def targets(classes: int, y: Array, label_smoothing: float | Array = 0.0, weight: Array | None = None) -> Array:
    y = smoothed(y, label_smoothing, classes)
    return _weighed(weight, y)


@jax.custom_jvp
def cross_entropy(given: dict[str, Array], row: Array, stored: Array) -> Array:
    """sum(-y log softmax(row)), read from `stored` as above; a class of logit -inf and target 0 costs nothing.

    The targets are given by the arguments of `targets`: made outside, they would be stored for the derivative.
    """
    pieces = _pieces(stored)
    y = targets(row.size, **{key: _pieces(x) if x.ndim else x for key, x in given.items()})
    # Without a barrier the CPU reads a short row once for all three of its reductions.
    apart = barrier if pieces.ndim > 1 else lambda x: x
    shift, log_sum = apart(_normaliser(pieces, row.dtype, apart, single=pieces.ndim > 1))
    surprise = log_sum - (apart(pieces).astype(row.dtype) - shift)
    # The largest number where y is 0, infinite elsewhere: a bound, since a select would not fuse.
    huge = float(jnp.finfo(row.dtype).max)
    bound = (jnp.abs(jax.lax.stop_gradient(y)) * huge + 1) * huge
    return _by_piece(jnp.sum, y * jnp.minimum(surprise, bound))


def _cross_entropy_slope(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    given, row, stored = primals
    d_given, d_row, _ = tangents
    value = cross_entropy(given, row, stored)
    row, given = reread(row, stored), {key: barrier(x) for key, x in given.items()}
    shift, log_sum = log_normaliser(row, stored, row.size > LONG_ROW)
    y, slope = targets(row.size, **given), jnp.zeros_like(value)
    if not isinstance(d_row, SymbolicZero):
        slope += jnp.sum(y) * jnp.sum(jnp.exp((row - shift) - log_sum) * d_row) - jnp.sum(y * d_row)
    if moved := {key: t for key, t in d_given.items() if not isinstance(t, SymbolicZero)}:
        _, dy = jax.jvp(lambda part: targets(row.size, **(given | part)), ({k: given[k] for k in moved},), (moved,))
        slope += jnp.sum(finite_where_zero(y, log_sum - (row - shift)) * dy)
    return value, slope


cross_entropy.defjvp(_cross_entropy_slope, symbolic_zeros=True)


@jax.custom_jvp
def reread(row: Array, stored: Array) -> Array:
    """The row, read from memory once more, so that nothing computed of it is kept for here."""
    return barrier(stored).astype(row.dtype)


@reread.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    return reread(*primals), tangents[0]


@jax.custom_jvp
def row_sum(row: Array, stored: Array, shift: Array, weight: Array | None = None) -> Array:
    """sum(w (row - shift)), read from `stored` as above."""
    pieces, shift = barrier((_pieces(stored), shift))  # sharing the difference with log_normaliser would store it
    above = pieces.astype(row.dtype) - shift
    return settled(_by_piece(jnp.sum, above if weight is None else _pieces(weight) * above))


@row_sum.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    row, stored, shift, weight = primals
    d_row, _, d_shift, d_weight = tangents
    value = row_sum(row, stored, shift, weight)
    if weight is None:
        return value, jnp.sum(d_row) - row.size * d_shift
    return value, jnp.sum(weight * d_row + (row - shift) * d_weight) - jnp.sum(weight) * d_shift


def _pieces(row: Array) -> Array:
    """A long row as a matrix of pieces, where its length has a fitting divisor and it is not split over devices."""
    length = row.shape[-1]
    if length <= LONG_ROW or in_explicit_mesh(row):
        return row
    counts = [n for n in range(-(-length // 8192), length // 512) if length % n == 0]
    if not counts:
        return row
    count = next((n for n in counts if n % 8 == 0), counts[0])  # 8 shards keep whole pieces
    return barrier(row.reshape(count, length // count))


def _by_piece(reduce: Callable[..., Array], pieces: Array) -> Array:
    return reduce(pieces) if pieces.ndim == 1 else reduce(settled(reduce(pieces, axis=-1)))


@jax.custom_jvp
def pick(row: Array, label: Array, stored: Array) -> Array:
    """row[label]; of the last or first entry for a label outside the row.

    Reading one entry of a computed row would write all of it to memory first, so it is read from `stored`: the same
    row, as it lies in memory, perhaps of a narrower dtype. The derivative compares instead of scattering, and so does
    the value if the row may be spread over devices.
    """
    if in_explicit_mesh(row, label):
        return entry(row, label)
    return barrier(stored)[jnp.clip(label, 0, stored.size - 1)].astype(row.dtype)


@pick.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, Any, Any]) -> tuple[Array, Array]:
    row, label, stored = primals
    return pick(row, label, stored), jnp.sum(jnp.where(is_at(label, row), tangents[0], 0))


@jax.custom_jvp
def entry(row: Array, label: Array) -> Array:
    """row[label], found by comparing, since the row may be spread over devices; 0 for a label outside the row.

    By bounds, infinite at the label and minus infinite elsewhere: a select before a sum would be stored.
    """
    if row.size > 1 / jnp.finfo(row.dtype).eps:  # the places are no longer exact
        return jnp.sum(jnp.where(is_at(label, row), row, 0))
    away = jnp.abs(_pieces(jnp.arange(row.size, dtype=row.dtype)) - label.astype(row.dtype))
    named = _by_piece(jnp.max, jnp.minimum(_pieces(row), jnp.inf * (0.5 - jnp.minimum(away, 1))))
    return jnp.where(is_label(label, row.size), named, 0)


@entry.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    row, label = primals
    # A product: transposed, a select has zeros as large as a chunk of logits, which linear_cce would store.
    return entry(row, label), jnp.sum(is_at(label, row).astype(row.dtype) * tangents[0])


def is_at(label: Array, row: Array) -> Array:
    """Which entry of a row (the last axis) the label names."""
    # One row of numbers: as large as x they would be a constant of a loop, which XLA keeps in memory.
    places = jnp.arange(row.shape[-1], dtype=label.dtype)
    return jnp.expand_dims(places, tuple(range(row.ndim - 1))) == label[..., None]
