"""The promises of the contract, one function each. Every function takes a row of `cases` and the loss to judge.

Those that any loss can be held to, also in another package, are the laws of `jaxloss.contract.check`. Here are the
others, and for all of them which rows are alike.
They know nothing about how the library is made: what they compare with is the oracle of the row, in NumPy and
float64, and the laws of the README.
To be quick, each puts all that it needs into as few compiled programs as it can.
"""

from __future__ import annotations

import functools
import inspect
import pydoc
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CLASSES, Row
from hard_inputs import judge, mixed

import jaxloss
from jaxloss._laws import APPLIES as LAW_APPLIES
from jaxloss._laws import LAWS, close, distinct, expect, graded, refuses, run, slopes, x64

__all__ = [
    "CHECKS",
    "cells",
    "check",
    "close",
    "distinct",
    "graded",
    "mostly_slow",
    "refuses",
    "run",
    "same_family",
    "same_in_family",
    "same_way",
    "slopes",
    "when",
    "x64",
]

T = TypeVar("T")
Loss = Callable[..., Any]
Check = Callable[[Row, Loss], None]
Likeness = Callable[[Row], Any]

CHECKS: dict[str, Check] = {}
APPLIES: dict[str, Callable[[Row], bool]] = {}
LIKENESS: dict[str, tuple[Likeness, Likeness]] = {}


def mostly_slow(values: Iterable[Any], *quick: Any, nightly: Iterable[Any] = ()) -> list[Any]:
    """The values for `pytest.mark.parametrize`: all but the quick ones wait for the slow tests, or for the night."""
    late = [pytest.mark.nightly if x in nightly else pytest.mark.slow for x in values]
    return [pytest.param(x, marks=[] if x in quick else mark) for x, mark in zip(values, late, strict=True)]


def when(
    cases: Iterable[T], alike: Callable[[T], Any], slow: Callable[[T], Any]
) -> Iterator[tuple[T, list[pytest.MarkDecorator]]]:
    """Each case with the marks of its test, which say when it is judged.

    Of cases that are alike the first is judged each time. Of those that are alike by `slow` as well the first is judged
    before a change lands, the others in the night.
    """
    quick, finer = set(), set()
    for case in cases:
        kind = alike(case)
        kinds = kind, slow(case)
        yield case, [] if kind not in quick else [pytest.mark.nightly if kinds in finer else pytest.mark.slow]
        quick.add(kind)
        finer.add(kinds)


def same_row(row: Row) -> Any:
    return row.id


def same_loss(row: Row) -> Any:
    return row.name


def same_family(row: Row) -> Any:
    return jaxloss.LOSSES[row.name].__module__


def same_arrays(row: Row) -> Any:
    """What the contract can tell apart: of the axes of a core, whether there are none, one or more."""
    return tuple(min(core, 2) for core in row.cores), row.differentiable, row.coupled, row.pooled


def same_way(row: Row) -> Any:
    """How the contract maps a formula: over elements, over cores, or over sets, whose members are pooled or not."""
    return any(row.cores), row.coupled, row.pooled


def same_in_family(row: Row) -> Any:
    return same_family(row), same_arrays(row)


def check(
    applies: Callable[[Row], bool] = lambda row: True,
    alike: Likeness = same_row,
    slow: Likeness = same_family,
) -> Callable[[Check], Check]:
    """Enter a promise in the table, with the rows that it concerns, and what makes two alike for it: see `when`."""

    def enter(promise: Check) -> Check:
        CHECKS[promise.__name__] = promise
        APPLIES[promise.__name__] = applies
        LIKENESS[promise.__name__] = alike, slow
        return promise

    return enter


# ---------------------------------------------------------------------------------------------------------------------
# The laws of `jaxloss.contract.check`

ALIKE: dict[str, Likeness] = {
    "shapes": same_in_family,
    "masks_and_weights_refused": same_in_family,
    "one_trace": same_way,
    "value": same_loss,
    "transformations": same_way,
    "one_example": same_way,
    "gradient": same_arrays,
    "traced_options": same_in_family,
    "precision": same_way,
    "nan_is_loud": same_family,
    "reductions": same_way,
    "mask": same_way,
    "weights": same_way,
    "zero_weight": same_way,
    "from_the_left": same_way,
    "nothing_left": same_way,
    "automatic_sharding": same_way,
    "explicit_sharding": same_way,
    "inside_shard_map": same_way,
}
# Before a change lands, a law is tried with one row of each family; with more if it is about numbers; and with none but
# the quick ones if the contract sees to it in the same way for every formula.
SLOW: dict[str, Likeness] = {"value": same_row, "gradient": same_loss}
SLOW |= dict.fromkeys(("one_trace", "reductions", "weights", "zero_weight", "from_the_left"), same_way)
SLOW |= dict.fromkeys(("transformations", "one_example", "automatic_sharding", "inside_shard_map"), same_way)
for name, law in LAWS.items():
    check(LAW_APPLIES[name], ALIKE[name], SLOW.get(name, same_family))(law)


# ---------------------------------------------------------------------------------------------------------------------
# How it is called


@check(alike=same_loss)
def signature(row: Row, loss: Loss) -> None:
    """The arrays first, all else by keyword, the shared options last; editors and help see it."""
    parameters = inspect.signature(loss).parameters
    assert loss.__name__ == row.name
    assert tuple(parameters)[: len(row.names)] == row.names
    for name, p in parameters.items():
        if name in row.names:
            assert p.kind is p.POSITIONAL_OR_KEYWORD, f"{name} is {p.kind.description}"
            assert p.default is p.empty, f"{name} has a default"
        else:
            assert p.kind is p.KEYWORD_ONLY, f"{name} is {p.kind.description}"
    shared = {name: parameters[name].default for name in tuple(parameters)[-3:]}
    assert shared == {"weights": None, "where": None, "reduction": "mean"}
    assert list(shared) == ["weights", "where", "reduction"]
    assert set(row.options) <= set(parameters)
    shown = pydoc.plain(pydoc.render_doc(loss))
    assert all(name in shown for name in parameters), shown
    arrays = row.make((2,))
    refuses(TypeError, (), loss, *arrays, None)
    refuses(TypeError, (), loss, *arrays, no_such_option=1)


@check(alike=same_loss)
def documentation(row: Row, loss: Loss) -> None:
    """A docstring with the unit, an example, the source, and whether another library has the loss."""
    text = " ".join((inspect.getdoc(loss) or "").split())
    for part in ("Args:", "Returns:", "Raises:", "Example:", "Source:"):
        assert part in text, f"the docstring has no {part}"
    assert "TODO" not in text, "the docstring has a gap"
    assert re.search("[Aa]grees? with|No function of", text), "the docstring does not say what it agrees with"


@check(alike=same_way, slow=same_arrays)
def lists(row: Row, loss: Loss) -> None:
    """Nested lists and tuples, NumPy arrays and jax arrays are the same; so are Python numbers for elements."""
    arrays = row.make((2,))
    want = row.losses(arrays)
    nested = [x.tolist() for x in arrays]
    pairs = [tuple(x) for x in nested]
    options = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.options.items()}
    for given in (arrays, nested, pairs, [jnp.asarray(x) for x in arrays]):
        close(loss(*given, **options, reduction="none"), want, f"given as {type(given[0]).__name__}")
    if not row.pooled:
        one = loss(*nested, **options, weights=[3, 2], where=[True, False])
        alone = want[0] if row.coupled is False else row.losses(tuple(x[:1] for x in arrays))[0]
        close(one, np.mean(alone), "weights and where as lists")
    if not any(row.cores):
        arrays = row.make(())
        close(loss(*[x.item() for x in arrays], **row.options), row.losses(arrays), "Python numbers")


@check(
    lambda row: row.labels is not None or 0 in row.differentiable or 0 in row.detached,
    alike=lambda row: (same_family(row), row.labels, any(row.cores)),
)
def integers(row: Row, loss: Loss) -> None:
    """Targets and labels of any integer dtype, and bool targets; no arithmetic happens in that dtype."""
    arrays = list(row.make((4,)))
    place = row.labels or 0
    arrays[place] = _whole(row, arrays[place])
    positive = bool(arrays[place].min() >= 0)
    dtypes = [np.int8, np.int16] + [np.uint8, np.uint32] * positive
    dtypes += [np.bool_] * (row.labels is None and set(np.unique(arrays[place])) <= {0, 1})
    variants = [[x.astype(d) if i == place else x for i, x in enumerate(arrays)] for d in dtypes]
    got = run(lambda variants: [loss(*v, **row.options, reduction="none") for v in variants], variants)
    for dtype, losses in zip(dtypes, got, strict=True):
        close(losses, row.losses(tuple(arrays)), f"{np.dtype(dtype)}")
        assert losses.dtype == np.float32
    with x64():
        dtypes = [np.int64] + [np.uint64] * positive
        variants = [[x.astype(d) if i == place else x for i, x in enumerate(arrays)] for d in dtypes]
        got = run(lambda variants: [loss(*v, **row.options, reduction="none") for v in variants], variants)
    for losses in got:
        close(losses, row.losses(tuple(arrays)), "64 bits")
        assert losses.dtype == np.float32


def _whole(row: Row, targets: np.ndarray) -> np.ndarray:
    """Whole numbers in the domain of the targets."""
    if row.labels is not None or not any(row.cores):
        return np.array([0, 1, 1, 0]) if targets.max() > 0 else np.round(targets)
    if targets.min() < 0 or targets.max() > 1:
        return np.round(targets)
    return np.round(targets) if row.pooled else (targets == targets.max(-1, keepdims=True)).astype(targets.dtype)


@check(alike=same_loss)
def dtypes(row: Row, loss: Loss) -> None:
    """What no formula can use is a TypeError that names the argument: complex, text, None, swapped arguments."""
    arrays = row.make((3,))
    for i, x in enumerate(arrays):

        def refused(error: type[Exception], *words: str, given: Any, i: int = i) -> None:
            call = [*arrays[:i], given, *arrays[i + 1 :]]
            refuses(error, (row.name, row.names[i], *words), loss, *call, **row.options)

        refused(TypeError, given=x.astype(np.complex64))
        refused(TypeError, given=["a"] * 3)
        refused(TypeError, given=None)
        refused(ValueError, given=[[1.0], [1.0, 2.0], [1.0]])
        if i == row.labels:
            refused(TypeError, "integer", given=x.astype(np.float32))
    words = (row.name, "weights", "real")
    refuses(TypeError, words, lambda: loss(*arrays, **row.options, weights=np.ones(3, np.complex64)))
    if same_family(row) in ("jaxloss.classification", "jaxloss.focal", "jaxloss.margin"):
        swapped = [*arrays[:-1], arrays[-1].astype(np.int32)]
        refuses(TypeError, (row.name, row.names[-1], "swapped"), loss, *swapped, **row.options)


@check()
def options_refused(row: Row, loss: Loss) -> None:
    """An unknown reduction, and constants outside their range, are a ValueError that names the option."""
    arrays = row.make((3,))
    refuses(ValueError, (row.name, "reduction", "'avg'", "mean"), loss, *arrays, **row.options, reduction="avg")
    for options in row.refused:
        words = (row.name, *options)
        refuses(ValueError, words, loss, *arrays, **{**row.options, **options})


# ---------------------------------------------------------------------------------------------------------------------
# What it computes


@check(alike=same_way, slow=same_way)
def debug_modes(row: Row, loss: Loss) -> None:
    """jax.debug_nans has nothing to report, and jax.checking_leaks finds no leak."""
    hard = row.ordinary or row.make((3,))
    hard = [np.asarray(x, np.float32 if np.asarray(x).dtype.kind == "f" else np.int32) for x in hard]
    if not row.pooled:  # what overflows may use inf - inf on its way to an infinite loss
        with np.errstate(all="ignore"):
            finite = np.abs(row.losses(tuple(hard))) < np.finfo(np.float32).max
        hard = [x[finite] for x in hard]
    hard = [jnp.asarray(x) for x in hard]
    spoiled, given = row.make((3,)), {}
    if not row.pooled:
        for x in spoiled:
            x[1] = np.nan if x.dtype.kind == "f" else -100
        given = {"where": np.array([True, False, True])}
    spoiled = [jnp.asarray(x) for x in spoiled]  # a NaN of the user; made here it would be reported

    def both(*arrays: Any) -> Any:
        return graded(row, loss, arrays, **given)

    with jax.debug_nans(True):
        graded(row, loss, hard, cotangents=1)
        jax.jit(both)(*spoiled)
        both(*spoiled)
        loss(*spoiled, **row.options, **given)
    with jax.checking_leaks():
        jax.jit(lambda *a: both(*a)).lower(*spoiled)  # a new function, so that it is traced


@check(lambda row: not row.pooled, same_way)
def mask_of_second_derivatives(row: Row, loss: Loss) -> None:
    """What is under a mask is not noticed by the derivative of a gradient, in reverse over reverse."""
    arrays, places, mask = row.make((3,)), row.differentiable, np.array([True, False, True])

    def squared(*arrays: Any) -> Any:
        return loss(*arrays, **row.options, where=mask) ** 2

    @jax.jit
    def bends(*arrays: Any) -> Any:
        def slope(*arrays: Any) -> Any:
            return sum(jnp.sum(jnp.sin(x)) for x in jax.grad(squared, places)(*arrays))

        return jax.grad(slope, places)(*arrays)

    want = [np.asarray(x) for x in bends(*arrays)]
    expect(all(np.isfinite(x).all() and (x[1] == 0).all() for x in want), f"second derivatives are {want}")
    for x in arrays:
        x[1] = np.nan if x.dtype.kind == "f" else -100
    close([np.asarray(x) for x in bends(*arrays)], want, "second derivatives, NaN under the mask")


@check(alike=same_way, slow=same_way)
def donated(row: Row, loss: Loss) -> None:
    """A step of training may overwrite what it is given."""
    arrays = row.make((3,))
    places = row.differentiable

    def step(points: Any) -> Any:
        full = list(arrays)
        for i, x in zip(places, points, strict=True):
            full[i] = x
        value, slopes = graded(row, loss, full)
        return [x - g for x, g in zip(points, slopes, strict=True)], value

    points = [arrays[i] for i in places]
    want = run(step, points)
    buffers = [jnp.array(x) for x in points]
    close(jax.jit(step, donate_argnums=0)(buffers), want, "with donated buffers")
    assert all(x.is_deleted() for x in buffers), "the buffers were not used"


@check(alike=same_way)
def inside_scan(row: Row, loss: Loss) -> None:
    """Second derivatives in a scan are those of a loop.

    Before 0.12 jax forgets there the rules that custom_jvp gives and differentiates what they stand for: so that must
    be differentiable too, to the same end.
    """
    arrays = row.make((3,), np.float64)
    places = row.differentiable
    points = tuple(arrays[i] for i in places)
    direction = tuple(np.cos(7 * x) for x in points)
    masks = np.array([[True, False, True], [True, True, False]])
    ones = np.ones(2)  # what does not depend on the step would leave the scan

    def step(now: Any, points: Any) -> Any:
        where, one = now
        full = list(arrays)
        for i, x in zip(places, points, strict=True):
            full[i] = one * x
        return loss(*full, **row.options, where=where) ** 2

    def scan(points: Any) -> Any:
        steps = lambda total, now: (total + step(now, points), None)  # noqa: E731
        return jax.lax.scan(steps, jnp.zeros(()), (masks, ones))[0]

    def second(summed: Any, points: Any) -> Any:
        first = jax.grad(summed)
        return jax.jvp(first, (points,), (direction,))[1], jax.vjp(first, points)[1](direction)

    with x64():
        got = run(lambda points: second(scan, points), points)
        one = jax.jit(lambda now, points: second(functools.partial(step, now), points))
        loop = [one(now, points) for now in zip(masks, ones, strict=True)]
    want = jax.tree.map(lambda *x: sum(map(np.asarray, x)), *loop)
    close(got, want, "second derivatives in a scan", rtol=1e-9, atol=1e-12)


@check(lambda row: bool(row.hard), alike=same_way)  # all of them: python -m tests.report
def hard_inputs(row: Row, loss: Loss) -> None:
    """At the edges of the domain the loss and its gradient are right to the last digits, and nothing is NaN."""
    missed = judge(row, loss).missed
    assert not missed, "\n".join(missed)


@check(lambda row: bool(row.hard), alike=lambda row: None)
def hard_bfloat16(row: Row, loss: Loss) -> None:
    """The same in bfloat16."""
    missed = judge(row, loss, (jnp.bfloat16,)).missed
    assert not missed, "\n".join(missed)


@check(lambda row: bool(row.hard), alike=lambda row: None)
def hard_float64(row: Row, loss: Loss) -> None:
    """The same in float64."""
    with x64():
        missed = judge(row, loss, (np.float64,)).missed
    assert not missed, "\n".join(missed)


def entries_are_free(row: Row) -> bool:
    """Whether any number may stand beside any other: not the corners of a box, nor labels beside their lengths."""
    boxes = same_family(row) == "jaxloss.boxes"
    bound = row.pooled or row.coupled or row.shared or row.keywords or boxes
    return bool(row.hard) and not bound


@check(entries_are_free, alike=lambda row: None)
def hard_mixtures(row: Row, loss: Loss) -> None:
    """Where the numbers of the hard inputs meet at random, nothing is NaN."""
    missed = mixed(row, loss)
    assert not missed, "\n".join(missed)


@check(lambda row: bool(row.ties), alike=same_arrays, slow=same_loss)
def ties(row: Row, loss: Loss) -> None:
    """At a kink the derivative is 0."""
    arrays = [np.asarray(x, np.int32 if i == row.labels else np.float32) for i, x in enumerate(row.ties)]
    for g in run(lambda *a: graded(row, loss, a, reduction="sum")[1], *arrays):
        np.testing.assert_array_equal(g, np.zeros_like(g), "derivative at a kink")


def _spoiled(row: Row, loss: Loss, arrays: list[np.ndarray], bad: np.ndarray, zero_gradient: bool) -> None:
    """The bad units are NaN, the others as the oracle has them, with the gradient that they have alone."""

    losses, grads = run(lambda *a: graded(row, loss, a, cotangents=1), *arrays)
    good = tuple(x[~bad] for x in arrays)
    want = row.losses(good)
    assert np.isnan(losses[bad]).all(), f"a plausible loss outside the domain: {losses[bad]}"
    close(losses[~bad], want, "the other units")
    close([g[~bad] for g in grads], slopes(row, good, np.ones(want.shape)), "the gradient of the others", 2e-6, 1e-6)
    if zero_gradient:
        assert all((g[bad] == 0).all() for g in grads), "the gradient of a unit without a class is not 0"


@check(lambda row: row.labels is not None)
def labels_outside(row: Row, loss: Loss) -> None:
    """A label that is no class gives NaN, never another class; its gradient is 0 and its neighbours do not notice."""
    assert row.labels is not None
    arrays = list(row.make((6,)))
    labels = np.array([-1, 1, CLASSES, -100, 2, 2**31 - 1], np.int32)
    arrays[row.labels] = labels
    _spoiled(row, loss, arrays, (labels < 0) | (labels >= CLASSES), zero_gradient=True)

    def narrow(*labels: Any) -> Any:
        return [loss(*(x if i == row.labels else a for i, a in enumerate(arrays)), **row.options, reduction="none")
                for x in labels]  # fmt: skip

    given = [np.array([255, 1, CLASSES, 254, 2, 128], np.uint8), np.array([-1, 1, CLASSES, -128, 2, 127], np.int8)]
    inside = np.array([False, True, False, False, True, False])
    for x, losses in zip(given, run(narrow, *given), strict=True):
        assert (np.isnan(losses) == ~inside).all(), f"{x} as {x.dtype} gives {losses}"
    with x64():  # in 32 bits the large ones would be classes
        large = np.array([2**32, 1, CLASSES, -(2**32) + 1, 2, 2**63 - 1])
        losses = run(narrow, large)[0]
    assert (np.isnan(losses) == ~inside).all(), f"{large} as int64 gives {losses}"


@check(lambda row: bool(row.outside))
def outside_domain(row: Row, loss: Loss) -> None:
    """What lies outside the domain gives NaN for its unit alone, never a plausible number, and has no gradient."""
    good = row.make((2,))
    arrays = [np.concatenate([g, np.asarray(x, g.dtype)]) for g, x in zip(good, row.outside, strict=True)]
    by_entry = same_family(row) == "jaxloss.divergence"  # there an entry outside has no gradient, its neighbours have
    _spoiled(row, loss, arrays, np.arange(len(arrays[0])) >= 2, zero_gradient=not by_entry)
    if by_entry:
        low, high = (-np.inf, 0) if row.options.get("from_logs") else (0, 1)
        grads = run(lambda *a: graded(row, loss, a, cotangents=1)[1], *arrays)
        for x, g in zip(arrays, grads, strict=True):
            assert (g[(x < low) | (x > high)] == 0).all(), f"the gradient of entries outside: {g}"


# ---------------------------------------------------------------------------------------------------------------------
# Which are judged when


def cells(rows: tuple[Row, ...]) -> Iterator[tuple[str, Row, list[pytest.MarkDecorator]]]:
    """All checks with the rows that they concern, and when these are judged."""
    for name in CHECKS:
        families = set()
        for row, marks in when(filter(APPLIES[name], rows), *LIKENESS[name]):
            again = [pytest.mark.again] * (same_family(row) in families)
            families.add(same_family(row))
            yield name, row, marks + again
