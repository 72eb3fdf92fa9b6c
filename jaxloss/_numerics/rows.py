"""Sums over a row of logits, as exact near certainty as far from it, and none of which stores an array of its size.

For a row z with the largest entry m, all derive from `exp(z - m)` and from the excess e, which is their sum less 1: the
logsumexp is `m + log1p(e)`. Where one class is almost certain, e is tiny and keeps its digits, while the sum 1 + e
would lose them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._numerics.derivatives import saved_for_backward
from jaxloss._numerics.elementary import is_constant, widened
from jaxloss._platform import accelerated, cpu, gpu, mesh, tpu


class Row(NamedTuple):
    """A row of numbers twice: widened, which is what is differentiated, and as it lies in memory, which is read."""

    wide: Array
    stored: Array

    @classmethod
    def of(cls, stored: Array) -> Row:
        return cls(widened(stored), stored)

    @property
    def size(self) -> int:
        return self.wide.shape[-1]

    def again(self) -> Array:
        """The row, read once more: for a derivative, so that nothing computed for the value is stored for it."""
        return cpu.opaque(self.stored).astype(self.wide.dtype)


def row_sum(row: Array) -> Array:
    """The sum of a row that may be long."""
    return gpu.by_piece(jnp.sum, row)


def row_total(row: Array) -> Array:
    """`row_sum`, of what takes a select to make."""
    return gpu.by_piece(cpu.total, row)


def sum_of(term: Callable[..., Array]) -> Callable[..., Array]:
    """The sum of a term of the entries of rows, which may be in a tree, and of single numbers."""
    return cpu.instead(cpu.sum_of(term))(lambda *given: row_sum(term(*given)))


# ---------------------------------------------------------------------------------------------------------------------
# The normaliser


# In one pass: m and e of two parts of a row give those of both, and one entry z has m = z and e = 0. If m > n, all of
# the other part lies below the top, so that its sum, f + 1, joins what exceeds 1, times exp(n - m). Nothing is
# subtracted. Of no entries the sum is 0, so e is -1, whatever m. An entry of -inf counts as none, with a finite m: a
# compiler may join any two entries, and the difference of two infinite ones is NaN.

Part: TypeAlias = tuple[Array, ...]


def joined(part: Part, other: Part) -> Part:
    (m, e), (n, f) = part, other
    below = (1 + jnp.where(m >= n, f, e)) * jnp.exp(-jnp.abs(m - n))
    return jnp.maximum(m, n), jnp.where(m >= n, e, f) + below


def part_of(z: Array) -> Part:
    """m and e of one entry."""
    # Not by `isneginf`, which a loss may need of the same entries: what both share, a GPU stores.
    lowest = -jnp.finfo(z.dtype).max
    return jnp.maximum(z, lowest), -(z < lowest).astype(z.dtype)


def over_parts(join: Callable[[Part, Part], Part], z: Array, *terms: Array) -> Part:
    """m and e of rows, along the last axis, and the sums that `join` makes of these terms."""
    numbers = -jnp.finfo(z.dtype).max, -1, *(0 for _ in terms)

    def reduce(parts: Part, axis: int) -> Part:
        starts = tuple(jnp.asarray(x, z.dtype) for x in numbers)
        return tuple(jax.lax.reduce(parts, starts, join, (parts[0].ndim + axis,)))

    return gpu.by_piece(reduce, (*part_of(z), *terms))


def _exp_sum_at_once(row: Row) -> Part:
    largest, excess = over_parts(joined, row.wide)
    return largest, jnp.maximum(excess, 0)


@cpu.instead(cpu.exp_sum, rows=True)
def _exp_sum_in_turn(row: Row) -> Part:
    z = row.wide
    # A row of -inf has a finite maximum too, and its exponentials are 0.
    largest = jax.lax.stop_gradient(jnp.max(jnp.maximum(z, -jnp.finfo(z.dtype).max)))
    below = z - largest
    small, at_top = jnp.exp(below), (below == 0).astype(z.dtype)
    # Of a row that is computed, and not read from memory, the compiler may compute the largest entry twice and round it
    # differently. Then none is at the top, and it is among the others. A row of -inf has neither.
    others, top = _sums([small * (1 - at_top), small * at_top])
    excess = others + (top - 1)
    return largest, jnp.where(excess < 0, 0, excess)


@gpu.instead(tpu.sums)
def _sums(terms: list[Array]) -> list[Array]:
    """Of one computation of the row: what is at the top for one sum is at the top for the other."""
    # On a TPU both are in the kernel that multiplies, and so of one computation; as one sum they would not be in it.
    return [jnp.sum(x) for x in terms]


_exp_sum = accelerated(_exp_sum_at_once)(_exp_sum_in_turn)


def exp_sum(row: Row) -> tuple[Array, Array]:
    """m and e, saved for the derivative. The logsumexp does not depend on where it is split: m counts as a constant."""
    largest, excess = _exp_sum_ruled(row)
    return saved_for_backward(largest), saved_for_backward(excess)


def _exp_sum_in_one_kernel(row: Row) -> Part:
    z = row.wide
    # Bounded once it is found: one kernel needs the maximum of the very entries that it is taken off.
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.max(z), -jnp.finfo(z.dtype).max))
    below = z - largest
    small = jnp.exp(below)
    # Each sum may compute the row anew, and by rounding see the largest entry at the top or below it. So the number of
    # entries at the top is the difference of two sums, not a sum of its own.
    others, total = jnp.sum(jnp.where(below == 0, 0, small)), jnp.sum(small)
    return largest, jnp.maximum(others + (jnp.round(total - others) - 1), 0)


@gpu.in_one_kernel(_exp_sum_in_one_kernel)
def exp_sum_alone(row: Row) -> Part:
    """m and e for a value that is not differentiated, of rows that are read again for it."""
    return _exp_sum(row)


@jax.custom_jvp
def _exp_sum_ruled(row: Row) -> tuple[Array, Array]:
    return _exp_sum(row)


@_exp_sum_ruled.defjvp
def _(primals: tuple[Row], tangents: tuple[Row]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    (row,), (d_row,) = primals, tangents
    largest, excess = exp_sum(row)
    return (largest, excess), (jnp.zeros_like(largest), jnp.sum(jnp.exp(row.wide - largest) * d_row.wide))


def normaliser(row: Row) -> tuple[Array, Array]:
    """m and log1p(e), whose sum is the logsumexp.

    They stay apart because the difference of a logit and m is exact, where their sum would absorb it.
    """
    largest, excess = exp_sum(row)
    return largest, jnp.log1p(excess)


class Classes(NamedTuple):
    """Of each class of a row: s = -log p, p, and 1 - p; exact also where p is almost 0 or 1."""

    s: Array
    p: Array
    rest: Array

    @classmethod
    def at(cls, z: Array, largest: Array, excess: Array) -> Classes:
        below = z - largest
        small = jnp.exp(below)
        return cls(jnp.log1p(excess) - below, small / (1 + excess), (excess + (1 - small)) / (1 + excess))


# ---------------------------------------------------------------------------------------------------------------------
# What a row says of one class, and of all


def entropy(row: Row, largest: Array, log_sum: Array) -> Array:
    """-sum_k p_k log p_k, from the normaliser; an excluded class, of logit -inf, adds nothing."""

    def term(z: Array, largest: Array, log_sum: Array) -> Array:
        below = z - largest
        return jnp.exp(below - log_sum) * jnp.where(jnp.isneginf(below), 0, below)

    return log_sum - sum_of(term)(row.wide, largest, log_sum)


@jax.custom_jvp
def surprisal(row: Row, label: Array, sums: Part) -> Array:
    """-log softmax(z)[label], with m and e of the row."""
    largest, excess = sums
    return jnp.log1p(excess) - (take_label(row, label) - largest)


@surprisal.defjvp
def _(primals: tuple[Row, Array, Part], tangents: tuple[Row, Any, Any]) -> tuple[Array, Array]:
    (row, label, (largest, excess)), (d_row, *_) = primals, tangents
    value = saved_for_backward(surprisal(*primals))
    softmax = jnp.exp(row.wide - largest) * (1 / (1 + excess))
    # Of the label p - 1, which is expm1(-s): by subtraction nothing would be left of it where p is almost 1.
    return value, jnp.sum(jnp.where(is_at(label, row.wide), jnp.expm1(-value), softmax) * d_row.wide)


class Prediction(NamedTuple):
    """What a row says of its label.

    surprisal: -log softmax(z)[label].
    correct: 1 where no entry exceeds that of the label, else 0.
    largest, excess: m and e of the row.
    """

    surprisal: Array
    correct: Array
    largest: Array
    excess: Array


@jax.custom_jvp
def predict(row: Row, label: Array) -> Prediction:
    """All in one look at a row that may be spread over devices."""
    largest, excess, below = _look(row, label)
    return Prediction(jnp.log1p(excess) - below, (below >= 0).astype(below.dtype), largest, excess)


def _look_at_once(row: Row, label: Array) -> Part:
    # The label by its index, since a sum that finds it would be a pass of its own.
    largest, excess = _exp_sum_at_once(row)
    return largest, excess, take_label(row, label) - largest


@gpu.instead(_look_at_once)
def _look(row: Row, label: Array) -> Part:
    """m and e of the row, and how far the entry of its label lies above m."""
    # A TPU finds the largest of a row while it multiplies for the row, but not what is joined of parts.
    largest, excess = _exp_sum_in_turn(row)
    return largest, excess, _label_below(row.wide, label, largest)


@cpu.instead(lambda x, label, largest: cpu.find_label(x, label) - largest)
def _label_below(x: Array, label: Array, largest: Array) -> Array:
    # A sum of differences, so that the pass that finds the excess finds it too.
    return jnp.sum(jnp.where(is_at(label, x), x - largest, 0))


@predict.defjvp
def _(primals: tuple[Row, Array], tangents: tuple[Row, Any]) -> tuple[Prediction, Prediction]:
    (row, label), (d_row, _) = primals, tangents
    seen = predict(row, label)
    small = jnp.exp(row.wide - seen.largest)
    # Of the label p - 1, as in `surprisal`.
    slope = jnp.where(is_at(label, row.wide), jnp.expm1(-seen.surprisal), small / (1 + seen.excess))
    constant = jnp.zeros_like(seen.largest)
    moved = Prediction(jnp.sum(slope * d_row.wide), constant, constant, jnp.sum(small * d_row.wide))
    return seen, moved


@jax.custom_jvp
def sum_below(row: Row, largest: Array, weight: Array | None = None) -> Array:
    """sum_k w_k (z_k - m); an excluded class, of logit -inf, adds nothing if its weight is 0."""
    return _sum_below(row, largest, weight)


@cpu.instead(cpu.sum_below)
def _sum_below(row: Row, largest: Array, weight: Array | None) -> Array:
    below = row.stored.astype(row.wide.dtype) - largest
    return row_sum(below if weight is None else zero_at_zero(weight, below))


@sum_below.defjvp
def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    row, largest, weight = primals
    d_row, d_largest, d_weight = tangents
    value = sum_below(row, largest, weight)
    if weight is None:
        return value, jnp.sum(d_row.wide) - row.size * d_largest
    return value, jnp.sum(weight * d_row.wide + (row.wide - largest) * d_weight) - jnp.sum(weight) * d_largest


class Targets(NamedTuple):
    """Dense targets and what is done to them: `w ((1 - a) y + a / K)`. None stands for what is left out.

    They go into `cross_entropy` in parts, since made outside they would be stored for the derivative.
    """

    y: Array
    smoothing: Array | None = None
    weight: Array | None = None

    @classmethod
    def of(cls, y: Array, label_smoothing: float | Array, weight: float | Array | None, row: Row) -> Targets:
        dtype, smooths = row.wide.dtype, not is_constant(label_smoothing, 0)
        smoothing = jnp.asarray(label_smoothing, dtype) if smooths else None
        return cls(y, smoothing, None if weight is None else jnp.asarray(weight, dtype))

    def made(self) -> Array:
        y = widened(self.y)
        if self.smoothing is not None:
            y = smoothed(y, self.smoothing, y.size)
        return y if self.weight is None else self.weight * y


_sum_of_targets = sum_of(Targets.made)


def cross_entropy(targets: Targets, row: Row, columns: bool = False) -> Array:
    """-sum_k t_k log softmax(z)_k; a class of logit -inf and target 0 costs nothing.

    columns: whether the rows lay across the axes of their batch before the caller turned them, which `jax.vmap` does
        not show.
    """
    return _crossed(columns, targets, row)[0]


def _cross_at_once(targets: Targets, row: Row) -> Part:
    # As sum(t) log1p(e) + sum(t (m - z)). Where m rises, the latter rises by as much for each t.
    t, z = targets.made(), row.wide

    def crossed(part: Part, other: Part) -> Part:
        (m, e, total, below), (n, f, rest, under) = part, other
        rising = zero_at_zero(jnp.where(m >= n, rest, total), jnp.abs(m - n))
        return *joined((m, e), (n, f)), total + rest, below + under + rising

    m, e, total, below = over_parts(crossed, z, t, zero_at_zero(t, part_of(z)[0] - z))
    excess = jnp.maximum(e, 0)
    return total * jnp.log1p(excess) + below, m, excess


@cpu.instead(lambda targets, row: _cross_by(cpu.cross_entropy, targets, row))
def _cross_in_turn(targets: Targets, row: Row) -> Part:
    return _cross_by(_cross_entropy, targets, row)


def _cross_by(cross_entropy: Callable[..., Array], targets: Targets, row: Row) -> Part:
    largest, excess = _exp_sum(row)
    return cross_entropy(targets, row, (largest, jnp.log1p(excess))), largest, excess


def _cross_entropy(targets: Targets, row: Row, log_sum: tuple[Array, Array]) -> Array:
    s = log_sum[1] - (row.stored.astype(row.wide.dtype) - log_sum[0])
    return jnp.sum(zero_at_zero(targets.made(), s))


_cross = accelerated(_cross_at_once, columns=False)(_cross_in_turn)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _crossed(columns: bool, targets: Targets, row: Row) -> Part:
    """The cross entropy, and m and e of the row."""
    return (_cross_in_turn if columns else _cross)(targets, row)


def _cross_entropy_d_logits(t: Array, below: Array, excess: Array, inverse: Array, total: Array) -> Array:
    """sum(t) p - t, as (sum(t) - t) p - t (1 - p), so that nothing cancels for a one-hot t."""
    small = jnp.exp(below)
    return ((total - t) * small - t * (excess + (1 - small))) * inverse


def _crossed_jvp(columns: bool, primals: tuple[Targets, Row], tangents: tuple[Any, Any]) -> tuple[Part, Part]:
    (targets, row), (d_targets, d_row) = primals, tangents
    value, *sums = _crossed(columns, targets, row)
    largest, excess = map(saved_for_backward, sums)
    targets = cpu.opaque(targets)
    t, below = targets.made(), row.again() - largest
    slope, rise = jnp.zeros_like(value), jnp.zeros_like(value)
    if not isinstance(d_row.wide, SymbolicZero):
        total = _sum_of_targets(cpu.opaque(targets))  # widened once for both, they would be stored
        d_logits = cpu.unshared(_cross_entropy_d_logits)(t, below, excess, 1 / (1 + excess), total)
        slope += jnp.sum(d_logits * d_row.wide)
        rise += jnp.sum(jnp.exp(below) * d_row.wide)
    moved = {k: v for k, v in d_targets._asdict().items() if v is not None and not isinstance(v, SymbolicZero)}
    if moved:
        at = {k: getattr(targets, k) for k in moved}
        dt = jax.jvp(lambda part: targets._replace(**part).made(), (at,), (moved,))[1]
        slope += jnp.sum(jnp.where((t == 0) & jnp.isinf(below), 0, jnp.log1p(excess) - below) * dt)
    return (value, largest, excess), (slope, jnp.zeros_like(value), rise)


_crossed.defjvp(_crossed_jvp, symbolic_zeros=True)


def smoothed(y: Array, label_smoothing: float | Array, classes: int) -> Array:
    """Targets mixed with the uniform distribution."""
    if is_constant(label_smoothing, 0):
        return y
    a = jnp.asarray(label_smoothing, y.dtype)
    # Nothing is left of y for a = 1: 0 times an infinite derivative would be NaN.
    y = jnp.where(a == 1, jax.lax.stop_gradient(y), y)
    return (1 - a) * y + a / classes


def zero_at_zero(factor: Array, x: Array) -> Array:
    """factor * x, but 0 where the factor is 0 and x infinite: an excluded class, of logit -inf, costs nothing."""
    return factor * jnp.where((factor == 0) & jnp.isinf(x), 0, x)


# ---------------------------------------------------------------------------------------------------------------------
# One entry


@jax.custom_jvp
def take_label(row: Row, label: Array) -> Array:
    """row[label]; of the first or last entry for a label outside the row.

    Read from memory, since reading one entry of a computed row would write all of it first. The derivative compares
    instead of scattering, and so does the value if the row may be spread over devices.
    """
    if mesh.in_explicit_mesh(row.wide, label):
        return find_label(row.wide, label)
    return cpu.opaque(row.stored)[jnp.clip(label, 0, row.size - 1)].astype(row.wide.dtype)


@take_label.defjvp
def _(primals: tuple[Row, Array], tangents: tuple[Row, Any]) -> tuple[Array, Array]:
    row, label = primals
    return take_label(row, label), jnp.sum(jnp.where(is_at(label, row.wide), tangents[0].wide, 0))


@jax.custom_jvp
def find_label(x: Array, label: Array) -> Array:
    """x[label], found by comparing, since the row may be spread over devices; 0 for a label outside the row."""
    return _find_label(x, label)


@cpu.instead(cpu.find_label)
def _find_label(x: Array, label: Array) -> Array:
    return jnp.sum(jnp.where(is_at(label, x), x, 0))


@find_label.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    x, label = primals
    # A product: transposed, a select has zeros as large as a chunk of logits, which linear_cce would store.
    return find_label(x, label), jnp.sum(is_at(label, x).astype(x.dtype) * tangents[0])


def is_at(label: Array, x: Array) -> Array:
    """Which entry of a row (the last axis) the label names."""
    # One row of numbers: as large as x they would be a constant of a loop, which is kept in memory.
    places = jnp.arange(x.shape[-1], dtype=label.dtype)
    return jnp.expand_dims(places, tuple(range(x.ndim - 1))) == label[..., None]
