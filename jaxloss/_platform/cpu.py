"""What XLA's CPU compiler needs, and no other. Lowered for a GPU or a TPU, nothing of this file is left.

Five habits of that compiler cost memory and time:

1. It computes once, and stores at the size of the inputs, whatever a loss and its derivative share, even the number 0.
   So a derivative reads the inputs again (`reread`) and has numbers of its own (`unshared`).
2. It puts a sum over rows into one loop with whatever follows, and with more than 32,768 rows that loop takes three to
   eight times as long. So a sum ends with `end_loop`.
3. Its fast sums allow no comparison and no select: what has one is stored first. So it is added in parts (`total`),
   which suits single numbers, pixels and pairs. The forms of rows below use minima and maxima where the readable forms
   select; `instead` puts them in place of those. Items of a list are compared a few at a time (`in_turn`).
4. Where numbers are assembled into a row, it computes all of them again for each entry of that row. So the derivatives
   with respect to the entries of a row are stored first (`entries`).
5. It sorts several arrays by a comparison that is called for each two numbers, and one array of integers without. So
   what is sorted is made one (`in_order`), and is put back by a scatter.

What they buy: `python -m benchmarks.forms`, and `python -m benchmarks.before` with a revision that lacks one.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal, Primitive
from jax.interpreters import ad, mlir

from jaxloss._platform import choice, pieces_of, x64
from jaxloss._platform.mesh import in_explicit_mesh

instead = functools.partial(choice.instead, ("cpu",))


# ---------------------------------------------------------------------------------------------------------------------
# The identity, of which this compiler makes something else


def _end_loop(x: Array) -> Array:
    return jax.lax.select(jax.lax.ne(x, x), jnp.full_like(x, jnp.nan), x)  # a select of twice the same ends the loop


_same = functools.partial(choice.same, platforms=("cpu",))


def opaque(tree: Any) -> Any:
    """Numbers or arrays that the compiler can neither share with others nor fold."""
    return jax.tree.map(functools.partial(_same, form=jax.lax.optimization_barrier), tree)


def reread(tree: Any) -> Any:
    """The inputs of a checkpointed function: as they are, but read from memory anew where it is computed again."""
    return jax.tree.map(functools.partial(_same, form=None), tree)


def end_loop(x: Array) -> Array:
    """The sum of a row, or the values of a long formula, where more follows."""
    return _same(x, form=_end_loop)


# ---------------------------------------------------------------------------------------------------------------------
# A derivative that shares nothing with the value


_kept = Primitive("jaxloss_kept")
_kept.def_impl(lambda x, keep, forth, back: jnp.where(keep, x, 0) if forth else x)
_kept.def_abstract_eval(lambda x, keep, forth, back: x)


def _kept_with(zero: Callable[[Any], Array]) -> Callable[..., Any]:
    def selected(x: Array, keep: Array, forth: bool, back: bool) -> Array:
        if not forth:
            return x
        return jax.lax.select(jnp.broadcast_to(keep, x.shape), x, jax.lax.full_like(x, zero(x.dtype)))

    return mlir.lower_fun(selected, multiple_results=False)


mlir.register_lowering(_kept, _kept_with(lambda dtype: jnp.zeros((), dtype)))
mlir.register_lowering(
    _kept, _kept_with(lambda dtype: jax.lax.optimization_barrier(jnp.zeros((), dtype))), platform="cpu"
)
choice.batch_like_first(_kept)
ad.primitive_jvps[_kept] = lambda primals, tangents, **ways: (
    _kept.bind(*primals, **ways),
    tangents[0] if isinstance(tangents[0], ad.Zero) else _kept.bind(tangents[0], primals[1], **ways),
)
ad.primitive_transposes[_kept] = lambda slope, _, keep, forth, back: [
    _kept.bind(slope, keep, forth=back, back=forth),
    None,
]


def kept(x: Array, keep: Array, back: bool = True) -> Array:
    """x where it is to be kept, else a 0 of its own; so is its transpose, where that of a select has a common 0.

    back: whether the transpose keeps, too. If not, it takes its argument as it is: what x is made of must be kept where
        x is. Transposed again it keeps, since nothing else would drop a NaN.
    """
    return _kept.bind(x, keep, forth=True, back=back)


def unshared(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same elementwise function, of numbers and arguments that it shares with no other.

    It is evaluated step by step with opaque numbers in place of its literals. Its own derivative is not kept:
    `partials` takes that of the function.
    """

    @functools.wraps(function)
    def call(*arguments: Array) -> Array:
        program = _Program.of(jax.make_jaxpr(function)(*arguments))
        literals = {_key(x): jnp.asarray(x.val, jnp.result_type(x.aval)) for x in program.literals()}
        numbers, one = _opaque_numbers((literals, jnp.ones((), arguments[0].dtype)))
        (result,) = program.evaluate([x * one for x in arguments], numbers)
        return result

    return call


# One step for all of them, where `opaque` takes one for each.
_opaque_numbers = instead(jax.lax.optimization_barrier)(lambda numbers: numbers)


def _key(literal: Literal) -> str:
    number = getattr(literal.val, "item", lambda: literal.val)()
    return f"{number!r} {literal.aval}"  # not the number itself: 0 is equal to -0


class _Program(NamedTuple):
    """A program, and those of the steps that have one, such as `jnp.where`: they are evaluated in their place."""

    jaxpr: Any
    constants: Sequence[Any]
    inner: Mapping[int, _Program]

    @classmethod
    def of(cls, program: Any) -> _Program:
        inside = {n: found for n, step in enumerate(program.jaxpr.eqns) if (found := _inner(step))}
        return cls(program.jaxpr, program.consts, {n: cls.of(x) for n, x in inside.items()})

    def literals(self) -> Iterator[Literal]:
        """The numbers of the program, those of inner programs among them."""
        for n, step in enumerate(self.jaxpr.eqns):
            yield from (x for x in step.invars if isinstance(x, Literal))
            if n in self.inner:
                yield from self.inner[n].literals()
        yield from (x for x in self.jaxpr.outvars if isinstance(x, Literal))

    def evaluate(self, arguments: Sequence[Any], numbers: Mapping[str, Array]) -> list[Any]:
        known = dict(zip(self.jaxpr.constvars, self.constants, strict=True))
        known |= dict(zip(self.jaxpr.invars, arguments, strict=True))

        def read(x: Any) -> Any:
            return numbers[_key(x)] if isinstance(x, Literal) else known[x]

        for n, step in enumerate(self.jaxpr.eqns):
            given = [read(x) for x in step.invars]
            if n in self.inner:
                results = self.inner[n].evaluate(given, numbers)
            else:
                results = step.primitive.bind(*given, **step.params)
                results = results if step.primitive.multiple_results else [results]
            known |= dict(zip(step.outvars, results, strict=True))
        return [read(x) for x in self.jaxpr.outvars]


def _inner(step: Any) -> Any:
    """The program of a step, or of a function with a rule."""
    if "of" in step.params:  # of `derivatives.elementwise`
        function = functools.partial(step.params["of"].values, step.params["structure"])
        return jax.make_jaxpr(function)(*(x.aval for x in step.invars))
    return next((step.params[name] for name in ("jaxpr", "call_jaxpr") if name in step.params), None)


# ---------------------------------------------------------------------------------------------------------------------
# Rows and sums


def entries(row: Array) -> list[Array]:
    """The entries of a short row of tangents, in a form whose transpose stores what it puts together."""
    places, one = jnp.arange(row.size), jax.lax.optimization_barrier(jnp.ones((), row.dtype))
    # A quotient that is spread over an axis is stored.
    return [jnp.sum(jnp.where(places == i, row, 0)) / one for i in range(row.size)]


# What is summed in rows longer than this is stored, at several times the cost.
LONG_ROW = 32_768


def total(x: Array, *axes: int) -> Array:
    """The sum over these axes, or all, of numbers that take a select to make.

    A plain sum takes in none, so what has one is stored first. Here eight parts are added, in a loop that takes in
    anything, and only their sum is stored.
    """
    return _total_over(tuple(i % x.ndim for i in axes) or tuple(range(x.ndim)))(x)


@functools.cache
def _total_over(axes: tuple[int, ...]) -> Callable[[Array], Array]:
    form = functools.partial(_sum_in_parts, axes)
    return instead(form, one_device=True)(functools.partial(jnp.sum, axis=axes))


PARTS = 8


def _sum_in_parts(axes: tuple[int, ...], x: Array) -> Array:
    # A size may be one that `jax.export` leaves open.
    axis = next((i for i in axes if isinstance(x.shape[i], int) and x.shape[i] >= 8 * PARTS), None)
    if axis is None or in_explicit_mesh(x):
        return jnp.sum(x, axes)
    before, after, all_of_it = x.shape[:axis], x.shape[axis + 1 :], len(axes) == x.ndim
    if len(after) > 1:  # one axis after it, since a loop over a short one is slow
        x = jax.lax.reshape(x, (*x.shape[: axis + 1], math.prod(after)))
    parts = _blocks(x) if axis == x.ndim - 1 else None
    x, floating = _added(parts or _slices(x, axis)), jnp.issubdtype(x.dtype, jnp.floating)
    x = _end_loop(x) if floating else x  # before the shape changes, which would be a loop of its own
    x = jax.lax.reshape(x, (*before, math.prod(x.shape[axis:]) if parts else x.shape[axis], *after))
    return _sum_by_pieces(x) if floating and all_of_it else jnp.sum(x, axes)


def _slices(x: Array, axis: int) -> list[Array]:
    """Equal parts of x along an axis. The last may begin in the one before it: what both have is 0 in the last."""
    size = x.shape[axis]
    n = -(-size // PARTS)
    *others, last = [jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i in (min(i * n, size - n) for i in range(PARTS))]
    if PARTS * n > size:
        places = jax.lax.broadcasted_iota(jnp.int32, last.shape, axis)
        last = jax.lax.select(places < PARTS * n - size, jnp.zeros_like(last), last)
    return [*others, last]


def _blocks(x: Array) -> list[Array] | None:
    """Parts of rows for which a loop reads a row from its beginning to its end, if their length has fitting divisors.

    Of a row that is no longer than some pages of memory, eight places far apart would be read at a time, slowly.
    """
    size = x.shape[-1]
    for parts, vectors in itertools.product((8, 10, 9, 7, 6, 5, 4), range(2, 9)):
        if size <= 1024 * PARTS and size % (parts * 8 * vectors) == 0:
            blocks = jax.lax.reshape(x, (*x.shape[:-1], size // (parts * 8 * vectors), parts, 8 * vectors))
            return [jax.lax.index_in_dim(blocks, i, -2, keepdims=False) for i in range(parts)]
    return None


def _added(parts: list[Array]) -> Array:
    n = len(parts) // 2
    return jax.lax.add(_added(parts[:n]), _added(parts[n:])) if n else parts[0]


def _sum_by_pieces(x: Array) -> Array:
    """Of a large array, in double precision at the end: millions of terms, added in single precision, lose a digit."""
    pieces = _pieces(x.ravel())
    if pieces.ndim == 1:
        return jnp.sum(x)
    sums = jnp.sum(pieces, 1)
    with x64():
        return jnp.sum(sums.astype(jnp.float64)).astype(x.dtype)


# The forms of `_numerics.rows` for this compiler: long rows in pieces, bounds in place of selects.


def _pieces(row: Array) -> Array:
    """Long rows as matrices of pieces, where their length has a fitting divisor and is not split over devices."""
    count = pieces_of(row, LONG_ROW)
    if count == 1:
        return row
    return jax.lax.optimization_barrier(row.reshape(*row.shape[:-1], count, row.shape[-1] // count))


def _by_piece(reduce: Callable[..., Array], pieces: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Reduced over the last of these axes (all, for one row) and then over the first, if there are two."""
    axes = axes or tuple(range(pieces.ndim))
    return reduce(pieces, axes) if len(axes) == 1 else reduce(_end_loop(reduce(pieces, axes[1:])), axes[:1])


def sum_of(term: Callable[..., Array]) -> Callable[..., Array]:
    """That of `_numerics.rows`: a long row passes the caches in pieces."""

    def by_piece(*given: Any) -> Array:
        return _by_piece(jnp.sum, term(*_in_pieces(given)))

    return by_piece


def _in_pieces(tree: Any) -> Any:
    return jax.tree.map(lambda x: _pieces(x) if x.ndim else x, tree)


def exp_sum(row: Any) -> tuple[Array, Array]:
    """Of rows along the last axis. One fast sum; only if some row is almost certain, a second one without its top."""
    pieces, dtype = _pieces(row.stored), row.wide.dtype
    axes = tuple(range(row.wide.ndim - 1, pieces.ndim))
    apart = jax.lax.optimization_barrier
    # The maximum of a row of -inf is -inf.
    largest = apart(jnp.maximum(_by_piece(jnp.max, pieces, axes).astype(dtype), -jnp.finfo(dtype).max))
    total = _end_loop(_by_piece(jnp.sum, jnp.exp(pieces.astype(dtype) - _along(largest, pieces)), axes))

    def without_top() -> Array:
        top = _along(largest, pieces)
        # Read twice, since what is used twice is stored.
        below, again = (x.astype(dtype) - top for x in (pieces, jax.lax.optimization_barrier(pieces)))
        kept = jnp.minimum(-float(jnp.finfo(dtype).max) * again, 1)  # 0 at the top, else 1
        return _end_loop(jnp.sum(jnp.exp(below) * kept, axes))

    certain = total < 1.25  # so there is no tie at the top
    others = jax.lax.cond(jnp.any(certain), without_top, lambda: total)
    return largest, jnp.where(certain, others, jnp.maximum(total - 1, 0))


def _along(x: Array, pieces: Array) -> Array:
    """One number for each row, in one step: a shape with an axis of 1 in between would be computed by itself."""
    return jax.lax.broadcast_in_dim(x, pieces.shape, tuple(range(x.ndim)))


def cross_entropy(targets: Any, row: Any, log_sum: tuple[Array, Array]) -> Array:
    dtype = row.wide.dtype
    pieces = _pieces(row.stored)
    t = _in_pieces(targets).made()
    # Sharing the difference with the normaliser would store it.
    largest, log_sum, pieces = jax.lax.optimization_barrier((*log_sum, pieces))
    surprisal = log_sum - (pieces.astype(dtype) - largest)
    return _by_piece(jnp.sum, t * jnp.minimum(surprisal, _bound(t)))


def _bound(factor: Array) -> Array:
    """What makes an infinite number 0 where its factor is 0: 0 there, infinity where it is above 0."""
    # A number of its own: shared with the check of a domain, it would be stored for each entry.
    huge = jax.lax.optimization_barrier(jnp.finfo(factor.dtype).max.astype(factor.dtype))
    return factor * huge * huge


def finite_at_zero(x: Array, factor: Array) -> Array:
    """x, which is at most 0, but 0 in its place where its factor is 0."""
    return jnp.maximum(x, -_bound(factor))


def sum_below(row: Any, largest: Array, weight: Array | None) -> Array:
    # Sharing the difference with the normaliser would store it.
    pieces, largest = jax.lax.optimization_barrier((_pieces(row.stored), largest))
    below = pieces.astype(row.wide.dtype) - largest
    if weight is not None:
        weight = _pieces(weight)
        below = weight * finite_at_zero(below, weight)
    return _end_loop(_by_piece(jnp.sum, below))


def find_label(x: Array, label: Array) -> Array:
    """By bounds, infinite at the label and minus infinite elsewhere: a select before a sum would be stored."""
    places = jnp.arange(x.size, dtype=label.dtype)
    if x.size > 1 / jnp.finfo(x.dtype).eps:  # the places are no longer exact
        return jnp.sum(jnp.where(places == label, x, 0))
    away = jnp.abs(_pieces(places.astype(x.dtype)) - label.astype(x.dtype))
    named = _by_piece(jnp.max, jnp.minimum(_pieces(x), jnp.inf * (0.5 - jnp.minimum(away, 1))))
    return jnp.where((label >= 0) & (label < x.size), named, 0)


def length(
    rows: Array, unit_of: Callable[[Array], Array], sizes: Callable[..., Array], *parts: Array
) -> tuple[Array, Array]:
    """For `_numerics.vectors`: the lengths of rows, scaled, and their scales.

    Every sum is a pass here. So the scale, which comes from the largest entry, is 1 if that will do for all rows.

    unit_of: a power of two for each size, so that a vector has the same length whatever the others of the batch are.
    sizes: of the entries, from these parts: made anew for each sum, since what two share would be stored.
    """
    safe = float(jnp.finfo(rows.dtype).max) ** 0.6
    squares = _end_loop(jnp.sum(rows**2, -1))

    def scaled() -> tuple[Array, Array]:
        largest, info = jnp.max(sizes(*parts), -1), jnp.finfo(rows.dtype)
        none, scale = largest < info.tiny, unit_of(jnp.minimum(largest, info.max))
        scale, *again = jax.lax.optimization_barrier((scale, *parts))
        length = jnp.sqrt(_end_loop(jnp.sum((sizes(*again) * scale[..., None]) ** 2, -1)))
        return jnp.where(none, 0, length), jnp.where(none, 1, scale)

    fine = jnp.all((squares > 1 / safe) & (squares < safe))
    length, scale = jax.lax.cond(fine, lambda: (jnp.sqrt(squares), jnp.ones_like(squares)), scaled)
    # Opaque, since what is scaled in two passes would be stored.
    return length, opaque(scale)


# ---------------------------------------------------------------------------------------------------------------------
# Lists and sorts


def in_turn(function: Callable[[Any], Array], items: Any) -> Array:
    """What a function makes of each item, such as a sum over the others, some items at a time."""
    size, few = jax.tree.leaves(items)[0].shape[0], 16
    # A size may be one that `jax.export` leaves open.
    if not isinstance(size, int) or size <= few:
        return jax.vmap(function)(items)
    return jax.lax.map(function, items, batch_size=few)


def fit_in_half_a_key(args: Any) -> bool:
    return args[0].dtype in (jnp.float32, jnp.int32)


def in_order(key: Array, *others: Array) -> tuple[Array, ...]:
    """The places of keys in ascending order, and others in this order.

    The bits of a float are its sign and an integer that rises with its size. So it becomes an integer, 0 and -0 the
    same, and NaN of either sign the last; and with its place each makes one integer of 64 bits.
    """
    place = jnp.broadcast_to(jnp.arange(key.shape[-1]), key.shape)
    bits = jax.lax.bitcast_convert_type(key, jnp.int32)
    if jnp.issubdtype(key.dtype, jnp.floating):
        bits = jax.lax.select(bits < 0, jnp.iinfo(jnp.int32).min - bits, bits)
        bits = jnp.where(jnp.isnan(key), jnp.iinfo(jnp.int32).max, bits)
    with x64():
        joined = jax.lax.sort(bits.astype(jnp.int64) << 32 | place.astype(jnp.int64), is_stable=False)
        place = (joined & 0xFFFFFFFF).astype(place.dtype)
    return place, *(jnp.take_along_axis(x, place, -1, mode="promise_in_bounds") for x in others)


def put_back(place: Array, x: Array) -> Array:
    """Each number of a row to its place."""
    return jnp.put_along_axis(jnp.zeros_like(x), place, x, -1, inplace=False, mode="promise_in_bounds")
