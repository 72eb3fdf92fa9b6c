"""What a GPU has and needs, and no other machine.

1. Double precision, of use to single-precision programs too: an A100 or H100 computes with rows in double as fast as
   it reads them. A sum of doubles needs no scale against overflow, and loses nothing to cancellation that a float would
   hold. So the lengths of vectors and their angle, elsewhere two passes, take one pass here (`in_double`):
   `python -m benchmarks.accelerators --target h100 --only cosine` without and with it says 2.0 and 1.0, which are bytes
   over those of the best peer, as below wherever there is no unit; and lengths of columns take one sum in place of
   three (`--only "barlow.*value$"`, 1.2 to 1.5 and 0.8 to 0.9). On cards that have one unit for doubles to 32 or 64 for
   floats it takes about as long as two passes.
2. What two sums share, or a sum and the derivative, its compiler computes once and stores if it is not cheap, be it
   larger than all that it is made of: the comparisons of any two items of a list, the exponentials of a row. So each
   reads numbers of its own (`apart`), and so does every derivative of `partials`: without and with it `--only
   distillation` says 2.5 and 1.0, `--only binary_focal` 2.0 and 1.0. Where a few numbers are compared with many, such
   as the items of a list with all others, it would store their disguise as well. So the numbers themselves are stored,
   unless they are inputs, and read again (`read_again`): `--only "list_mle.* float32"` says 7 to 8 without, 0.9 to 1.2
   if disguised and 0.8 to 1.1 with it. And a sum over pairs is one over all of them, since it would store one for each
   item (`_sum_of_pairs` in ranking.py): `--only "ranknet.* value$"` says 1.6 to 2.0 without and 0.9 to 1.0 with both.
3. Where numbers are narrowed and put together into a row, it stores what they share and computes them from the inputs,
   read once more. So the derivatives by the entries of a row in half precision are there before that (`entries`), in
   one pass with the value, and as narrow as the row: `--only "giou.*bfloat16 value.grad"` says 1.3 without and 1.0 with
   it.
4. Of each sum over a row of more than 16,384 numbers it stores some hundred parts. So such a row is summed in pieces of
   up to 8192, which one kernel reads: of `--only "cce logits 4096x32768"` it stores 10.5 and 0.7 MB.
   And what is computed for a sum over long columns it stores before that, unless they are summed in pieces of up to 64
   (`sum_of_columns`): `--only "(barlow|vicreg).* where.*value$"` says 1.2 to 1.3 without and 0.8 with it.
5. A shorter row stays in one kernel, as in a softmax: read once, it gives its largest entry or its sum, and sums of the
   entries less the one or over the other. Three things must hold. The first number has one use, to be taken off the
   entries or to divide them; it is not joined of parts; and the results of all rows are not summed in the same step. So
   values that nobody differentiates have such a form (`in_one_kernel`), and where the loss of a row is known, a kernel
   ends (`end_row`): `--only "(focal|poly1|distillation).* 8192x1000"` says 0.5 to 2.0 without and 0.3 to 1.0 with it,
   in value.
6. It stores the result of a step whose numbers are only given another shape afterwards, as when a column of a matrix
   becomes a vector: such a step is fused with nothing. So the entries of all rows are every fourth number of a flat
   array (`columns`): `--only "iou_log.*value$"` says 1.4 to 1.7 without and 1.0 with it.

To see why it leaves two steps apart, set `XLA_FLAGS="--xla_dump_to=FOLDER --xla_dump_hlo_pass_re=priority-fusion"` and
look for "producer_ineligible" in the file `*priority_fusion_dump*`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxloss._platform import at_most, choice, mesh, pieces_of, x64

instead = functools.partial(choice.instead, ("gpu",))


def in_double(form: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`instead`, with a form that gets single precision as double. Of arguments in double there is no such form."""

    def widened(*args: Any) -> Any:
        with x64():
            results = form(*jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, args))
            return jax.tree.map(lambda x: x.astype(jnp.float32), results)

    return instead(widened, suits=lambda args: all(x.dtype in (jnp.float32, bool) for x in args))


def read_again(x: Array, n: int) -> Array:
    """x, as another array in memory than x, and than x with another n > 0."""

    def form(x: Array) -> Array:
        return functools.reduce(lambda x, _: jax.lax.optimization_barrier(x), range(n), x)

    return choice.same(x, form=form, platforms=("gpu",))


def columns(rows: Array) -> list[Array]:
    """The first entries of all rows, the second ones, and so on."""
    *batch, size = rows.shape
    # Where the type of an array says how it is spread, older jax has no slice along an axis that is.
    if not batch or not isinstance(batch[-1], int) or mesh.in_explicit_mesh(rows):
        return [rows[..., i] for i in range(size)]
    flat = rows.reshape(*batch[:-1], batch[-1] * size)
    return [flat[..., i::size] for i in range(size)]


def entries(row: Array) -> list[Array]:
    """The entries of a short row of tangents, in a form whose transpose stores what it puts together."""
    return list(jax.lax.optimization_barrier([row[i] for i in range(row.size)]))


LONG_ROW = 16_384


def in_one_kernel(form: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`instead`, with a form of a value alone, which nobody differentiates, for rows that one kernel takes whole."""
    return instead(form, columns=False, suits=lambda args: all(at_most(x.shape[-1], LONG_ROW) for x in args if x.ndim))


def end_row(loss: Array, sizes: Sequence[int]) -> Array:
    """The loss of rows of these sizes. The kernel that finds it ends here, unless all rows are short.

    The losses of short ones, such as boxes, would be much to store.
    """
    if all(at_most(size, 63) for size in sizes):
        return loss
    return choice.same(loss, form=jax.lax.optimization_barrier, platforms=("gpu",))


def by_piece(reduce: Callable[..., Any], row: Any) -> Any:
    """reduce(row, -1), of an array or a tuple of arrays with rows along the last axis: a long row in two steps."""
    count = pieces_of(jax.tree.leaves(row)[0], LONG_ROW)
    if count == 1:
        return reduce(row, -1)

    def form(row: Any) -> Any:
        pieces = jax.tree.map(lambda x: x.reshape(*x.shape[:-1], count, x.shape[-1] // count), row)
        return reduce(jax.lax.optimization_barrier(reduce(pieces, -1)), -1)

    return instead(form)(lambda row: reduce(row, -1))(row)


def sum_of_columns(x: Array) -> Array:
    """The sum over the first axis, for forms: of what is computed, and would be stored before a sum in one step."""
    count = pieces_of(x, 64, 64, axis=0)
    return jnp.sum(jax.lax.optimization_barrier(jnp.sum(x.reshape(count, -1, *x.shape[1:]), axis=1)), axis=0)
