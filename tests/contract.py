"""The promises of the contract, one function each. Every function takes a row of `cases` and the loss to judge.

They know nothing about how the library is made: what they compare with is the oracle of the row, in NumPy and
float64, and the laws of the README.
To be quick, each puts all that it needs into as few compiled programs as it can.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import pydoc
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import CLASSES, Row
from hard_inputs import judge, mixed
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

Loss = Callable[..., Any]
Check = Callable[[Row, Loss], None]

CHECKS: dict[str, Check] = {}
APPLIES: dict[str, Callable[[Row], bool]] = {}
LIKENESS: dict[str, Callable[[Row], Any]] = {}


def check(
    applies: Callable[[Row], bool] = lambda row: True, alike: Callable[[Row], Any] = lambda row: row.id
) -> Callable[[Check], Check]:
    """Enter a promise in the table, with the rows that it concerns, and what makes two rows alike for it.

    Of rows that are alike, the first is judged each time, the others when the slow tests run.
    """

    def enter(promise: Check) -> Check:
        CHECKS[promise.__name__] = promise
        APPLIES[promise.__name__] = applies
        LIKENESS[promise.__name__] = alike
        return promise

    return enter


def same_loss(row: Row) -> Any:
    return row.name


def same_family(row: Row) -> Any:
    return jaxloss.LOSSES[row.name].__module__


def same_arrays(row: Row) -> Any:
    """What the contract can tell apart: of the axes of a core, whether there are none, one or more."""
    return tuple(min(core, 2) for core in row.cores), row.differentiable, row.coupled, row.pooled


def same_layout(row: Row) -> Any:
    return row.cores, row.differentiable, row.coupled, row.pooled, bool(row.traceable), "class_weights" in row.options


def same_in_family(row: Row) -> Any:
    return same_family(row), same_arrays(row)


# ---------------------------------------------------------------------------------------------------------------------
# Tools


def x64() -> contextlib.AbstractContextManager[Any]:
    """64-bit numbers inside the block. jax 0.7.2 has only the experimental name, new versions only the other one."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax import experimental

    return experimental.enable_x64(True)  # pyright: ignore


def run(function: Callable[..., Any], *args: Any) -> Any:
    """What the compiled function returns, as NumPy arrays."""
    return jax.tree.map(np.asarray, jax.jit(function)(*args))


def close(got: Any, want: Any, what: str, rtol: float = 1e-6, atol: float = 1e-7) -> None:
    """Equal trees: the same shapes, finite, and values within the tolerance."""
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want), f"{what}: {len(got)} results instead of {len(want)}"
    for g, w in zip(got, want, strict=True):
        assert np.shape(g) == np.shape(w), f"{what}: shape {np.shape(g)} instead of {np.shape(w)}"
        g, w = np.asarray(g).astype(np.float64), np.asarray(w).astype(np.float64)
        assert np.isfinite(w).all(), f"{what}: the expected value is not finite: {w}"
        np.testing.assert_allclose(g, w, rtol, atol, err_msg=what)


def refuses(
    error: type[Exception], words: tuple[str, ...], call: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    """The call raises exactly this kind of error, and the message has all the words."""
    try:
        result = call(*args, **kwargs)
    except Exception as caught:
        raised = caught
    else:
        raise AssertionError(f"no {error.__name__} about {words}, but the result {result}")
    assert type(raised) is error, f"{type(raised).__name__} instead of {error.__name__}: {raised}"
    missing = [word for word in words if word not in str(raised)]
    assert not missing, f"the message lacks {missing}: {raised}"


def graded(row: Row, loss: Loss, arrays: Any, cotangents: Any = None, **given: Any) -> Any:
    """The loss and its derivatives by all arrays that have one; with cotangents, the losses and those of their sum."""
    if cotangents is None:
        return jax.value_and_grad(lambda *a: loss(*a, **row.options, **given), row.differentiable)(*arrays)

    def summed(*arrays: Any) -> Any:
        losses = loss(*arrays, **row.options, **given, reduction="none")
        return jnp.sum(jnp.asarray(cotangents, losses.dtype) * losses), losses

    (_, losses), slopes = jax.value_and_grad(summed, row.differentiable, has_aux=True)(*arrays)
    return losses, slopes


def differences(function: Callable[..., Any], points: list[np.ndarray], step: float = 1e-4) -> list[np.ndarray]:
    """The derivative of a scalar function by each array, by central differences of the fourth order."""
    slopes = []
    for k, point in enumerate(points):
        slope = np.zeros(point.shape)
        for i in np.ndindex(point.shape):
            value = {}
            for n in (-2, -1, 1, 2):
                moved = np.array(point, np.float64)
                moved[i] += n * step
                value[n] = function(*points[:k], moved, *points[k + 1 :])
            slope[i] = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * step)
        slopes.append(slope)
    return slopes


def slopes(row: Row, arrays: tuple[Any, ...], cotangents: np.ndarray, options: dict[str, Any] | None = None) -> list:
    """The derivative of the oracle's sum(cotangents * losses) by the differentiable arrays, then by the options."""
    places, options = row.differentiable, options or {}

    def summed(*points: np.ndarray) -> float:
        moved = list(arrays)
        for place, point in zip(places, points, strict=False):
            moved[place] = point
        return float(
            (cotangents * row.losses(tuple(moved), **dict(zip(options, points[len(places) :], strict=True)))).sum()
        )

    return differences(summed, [np.asarray(x, np.float64) for x in (*(arrays[i] for i in places), *options.values())])


def distinct(shape: tuple[int, ...]) -> np.ndarray:
    """Positive weights, no two of them equal."""
    return 0.5 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4


def weighted_mean(losses: Any, weights: Any) -> Any:
    return jnp.sum(losses * weights) / jnp.sum(weights)


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


@check(alike=same_arrays)
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
        return np.array([0, 1, 1, 0])
    if targets.min() < 0 or targets.max() > 1:
        return np.round(targets)
    return np.round(targets) if row.pooled else (targets == targets.max(-1, keepdims=True)).astype(targets.dtype)


@check(alike=same_loss)
def shapes(row: Row, loss: Loss) -> None:
    """Nothing is broadcast: an error names the loss, both shapes and the likely cure."""
    arrays = row.make((3,))

    def refused(i: int, x: np.ndarray, *words: str) -> None:
        given = [*arrays[:i], x, *arrays[i + 1 :]]
        refuses(ValueError, (row.name, *(str(g.shape) for g in given), *words), loss, *given, **row.options)

    for i, x in enumerate(arrays):
        refused(i, x[..., None], f"did you mean {row.names[i]}.squeeze(-1)?")
        refused(i, x[:2])
        refused(i, x[:1])
        refused(i, x[0])
        if len({a.shape for a in arrays}) == 1:
            refused(i, x[..., :1] if x.ndim > 1 else x[:1])
    if max(row.cores) == 1 and "axis" in inspect.signature(loss).parameters:
        empty = [x[..., :0] if core else x for x, core in zip(arrays, row.cores, strict=True)]
        options = {k: v[:0] if isinstance(v, np.ndarray) else v for k, v in row.options.items()}
        refuses(ValueError, (row.name, "(3, 0)", "at least one"), loss, *empty, **options)


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
    if jaxloss.LOSSES[row.name].__module__ in ("jaxloss.classification", "jaxloss.focal", "jaxloss.margin"):
        swapped = [*arrays[:-1], arrays[-1].astype(np.int32)]
        refuses(TypeError, (row.name, row.names[-1], "swapped"), loss, *swapped, **row.options)


@check(alike=same_loss)
def masks_and_weights_refused(row: Row, loss: Loss) -> None:
    """A mask is bool, and both match the units from the left."""
    arrays = row.make((3, 2))
    units = row.losses(arrays).shape
    for mask in (np.ones(units, np.int32), np.ones(units, np.float32)):
        refuses(TypeError, (row.name, "where", "bool"), loss, *arrays, **row.options, where=mask)
    for wrong in ((2,), (1,), (3, 1), (1, 2), (*units, 1)):
        if wrong == units[: len(wrong)]:  # the units of a pooled row begin with another axis
            continue
        shown = (row.name, str(wrong), str(units))
        refuses(ValueError, (*shown, "weights"), loss, *arrays, **row.options, weights=np.ones(wrong))
        if not row.pooled:
            refuses(ValueError, (*shown, "where"), loss, *arrays, **row.options, where=np.ones(wrong, bool))


@check()
def options_refused(row: Row, loss: Loss) -> None:
    """An unknown reduction, and constants outside their range, are a ValueError that names the option."""
    arrays = row.make((3,))
    refuses(ValueError, (row.name, "reduction", "'avg'", "mean"), loss, *arrays, **row.options, reduction="avg")
    for options in row.refused:
        words = (row.name, *options)
        refuses(ValueError, words, loss, *arrays, **{**row.options, **options})


@check(alike=same_loss)
def one_trace(row: Row, loss: Loss) -> None:
    """A second call with the same shapes and constants traces nothing, whatever its traced options are."""
    traces = []

    def counted(losses: Any, weights: Any) -> Any:
        traces.append(losses)
        return jnp.sum(losses * weights)

    def call(seed: int) -> None:
        options = {key: jnp.asarray(value * (1 + seed / 8), jnp.float32) for key, value in row.traceable.items()}
        loss(*row.make((2,), seed=seed), **{**row.options, **options}, reduction=counted)

    call(0)
    before = len(traces)
    assert before, "the reduction was never called"
    call(1)
    assert len(traces) == before, "the second call was traced again"


# ---------------------------------------------------------------------------------------------------------------------
# What it computes


@check()
def value(row: Row, loss: Loss) -> None:
    """The losses are those of the formula, eagerly and compiled, whichever axis holds the classes."""
    arrays = row.make((3, 2))
    want = row.losses(arrays)
    axes = [0, 1, 2, -3] if "axis" in inspect.signature(loss).parameters and max(row.cores) == 1 else []

    def along(axis: int) -> list[Any]:
        return [np.moveaxis(x, -1, axis) if core else x for x, core in zip(arrays, row.cores, strict=True)]

    moved = {axis: along(axis) for axis in axes}
    got = run(
        lambda arrays, moved: (
            loss(*arrays, **row.options, reduction="none"),
            [loss(*m, **row.options, axis=axis, reduction="none") for axis, m in moved.items()],
        ),
        arrays,
        moved,
    )
    eager = loss(*arrays, **row.options, reduction="none")
    assert isinstance(eager, jax.Array)
    assert eager.dtype == np.float32
    close(eager, want, "eager")
    close(got[0], want, "compiled")
    close(got[0], eager, "compiled against eager", rtol=3e-7)
    close(got[1], [want] * len(axes), "another axis")
    if axes:
        refuses(ValueError, (row.name, "axis"), loss, *arrays, **row.options, axis=3)


@check(alike=same_arrays)
def transformations(row: Row, loss: Loss) -> None:
    """vmap, scan and checkpoint do what a loop does, for the value and for the gradient."""
    batches = [row.make((3,), seed=seed) for seed in (1, 2)]
    stacked = [np.stack(x) for x in zip(*batches, strict=True)]

    def one(*arrays: Any) -> Any:
        return graded(row, loss, arrays, cotangents=1)

    def summed(*arrays: Any) -> Any:
        return loss(*arrays, **row.options, reduction="sum")

    def all_ways(batches: Any, stacked: Any) -> Any:
        return (
            [one(*b) for b in batches],
            jax.vmap(one)(*stacked),
            jax.lax.scan(lambda none, arrays: (none, one(*arrays)), None, stacked)[1],
            jax.grad(jax.checkpoint(summed), row.differentiable)(*batches[0]),
        )

    loop, mapped, scanned, recomputed = run(all_ways, batches, stacked)
    want = jax.tree.map(lambda *x: np.stack(x), *loop)
    close(mapped, want, "vmap")
    close(scanned, want, "scan")
    close(recomputed, loop[0][1], "checkpoint")


@check(alike=same_arrays)
def one_example(row: Row, loss: Loss) -> None:
    """An example without batch axes, and a batch of one, by every order of the second derivative."""
    arrays = row.make((1,) if row.pooled else (3,) if row.coupled else ())
    want = row.losses(arrays)

    def of(*points: Any) -> Any:
        full = list(arrays)
        for i, x in zip(row.differentiable, points, strict=True):
            full[i] = x
        return loss(*full, **row.options, reduction="sum")

    def all_ways(arrays: Any) -> Any:
        points = [arrays[i] for i in row.differentiable]
        by_all = tuple(range(len(points)))
        return (
            loss(*arrays, **row.options, reduction="none"),
            loss(*(x[None] for x in arrays), **row.options) if not row.pooled else jnp.mean(jnp.asarray(want)),
            jax.hessian(of, by_all)(*points),
            jax.jacrev(jax.jacrev(of, by_all), by_all)(*points),
        )

    none, mean, hessian, reverse = run(all_ways, arrays)
    close(none, want, "one example")
    close(mean, want.mean(), "a batch of one")
    close(hessian, reverse, "jax.hessian against reverse over reverse", rtol=1e-5, atol=1e-5)


@check(alike=same_arrays)
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
        loss(*spoiled, **row.options, **given)
    with jax.checking_leaks():
        jax.jit(lambda *a: both(*a)).lower(*spoiled)  # a new function, so that it is traced


@check(alike=same_arrays)
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


@check(alike=same_loss)
def gradient(row: Row, loss: Loss) -> None:
    """By arrays and traced options: reverse, forward and second order agree with differences, in float64."""
    arrays = row.make((2,), np.float64)
    cotangents = distinct(row.losses(arrays).shape).astype(np.float64)
    places, traced = row.differentiable, row.traceable
    points = [*(arrays[i] for i in places), *traced.values()]
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=p.shape) for p in points]

    def summed(*points: Any) -> Any:
        moved = list(arrays)
        for place, point in zip(places, points, strict=False):
            moved[place] = point
        options = {**row.options, **dict(zip(traced, points[len(places) :], strict=True))}
        return jnp.sum(cotangents * loss(*moved, **options, reduction="none"))

    def orders(points: Any, direction: Any) -> Any:
        first = jax.grad(summed, argnums=tuple(range(len(points))))
        along = lambda *p: sum(jnp.vdot(g, d) for g, d in zip(first(*p), direction, strict=True))  # noqa: E731
        return {
            "reverse": list(first(*points)),
            "forward": jax.jvp(summed, points, direction)[1],
            "forward over reverse": list(jax.jvp(first, points, direction)[1]),
            "reverse over reverse": list(jax.grad(along, argnums=tuple(range(len(points))))(*points)),
        }

    with x64():
        program = jax.jit(orders)
        got = program(points, direction)
        step = 1e-4
        near = {
            n: program([p + n * step * d for p, d in zip(points, direction, strict=True)], direction)["reverse"]
            for n in (-2, -1, 1, 2)
        }
    first = slopes(row, arrays, cotangents, traced)
    second = [
        (8 * (np.asarray(b) - np.asarray(a)) - (np.asarray(bb) - np.asarray(aa))) / (12 * step)
        for aa, a, b, bb in zip(*near.values(), strict=True)
    ]
    tolerance = {"rtol": 1e-7, "atol": 1e-8}
    close(got["reverse"], first, "reverse mode", **tolerance)
    close(
        got["forward"], sum((f * d).sum() for f, d in zip(first, direction, strict=True)), "forward mode", **tolerance
    )
    if row.frozen:  # there the gradient is that of a function with a factor held, its differences are not
        return
    close(got["forward over reverse"], second, "second order, forward over reverse", **tolerance)
    close(got["reverse over reverse"], second, "second order, reverse over reverse", **tolerance)


@check(alike=same_family)
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


@check(lambda row: bool(row.traceable))
def traced_options(row: Row, loss: Loss) -> None:
    """An option given as an array equals the constant, and can be swept by vmap."""
    arrays = row.make((3,))
    traced = {key: np.asarray(value, np.float32) for key, value in row.traceable.items()}
    others = {key: _another(row, key, value) for key, value in traced.items()}
    lists = {key: value.tolist() for key, value in traced.items()}

    # The arrays are arguments: XLA of jax 0.7.2 folds constants of such programs wrongly.
    def all_ways(arrays: Any, traced: Any) -> Any:
        one = lambda options: loss(*arrays, **{**row.options, **options}, reduction="none")  # noqa: E731
        return one(lists), one(traced), jax.vmap(one)({k: jnp.stack([v, others[k]]) for k, v in traced.items()})

    constant, array, swept = run(all_ways, arrays, traced)
    close(constant, row.losses(arrays), "constants")
    close(array, constant, "arrays")
    close(swept[0], constant, "vmap")
    close(swept[1], row.losses(arrays, **others), "vmap, the second")


def _another(row: Row, key: str, value: np.ndarray) -> np.ndarray:
    """Another value of an option that lies in its domain: half of it, or half the way to a default above 0."""
    default = inspect.signature(jaxloss.LOSSES[row.name]).parameters[key].default
    between = isinstance(default, float) and default > 0 and default != row.options[key]
    return (value + np.float32(default)) / 2 if between else value / 2


@check(alike=same_arrays)
def precision(row: Row, loss: Loss) -> None:
    """Half precision is computed and summed in float32, float64 stays float64, gradients have the input's dtype."""
    halves = {np.dtype(d): row.make((3,), d) for d in (jnp.float16, jnp.bfloat16, np.float32)}
    large = row.make((2049,), np.float16)
    units = row.losses(row.make((3,)))
    cotangents = distinct(units.shape)

    def compared(got: Any, arrays: Any, dtype: Any, wide: Any, rtol: float, slope_rtol: float) -> None:
        losses, grads = got
        assert losses.dtype == wide, f"{dtype} inputs give {losses.dtype}"
        assert all(g.dtype == dtype for g in grads), f"{dtype} inputs have gradients of {[g.dtype for g in grads]}"
        close(losses, row.losses(arrays), f"{dtype}", rtol=rtol, atol=rtol)
        close(grads, slopes(row, arrays, cotangents), f"gradient for {dtype}", rtol=slope_rtol, atol=1e-6)

    def mixed(arrays: Any) -> Any:
        one = [x.astype(jnp.bfloat16) if i % 2 and x.dtype.kind == "f" else x for i, x in enumerate(arrays)]
        return loss(*one, **row.options)

    def all_ways(halves: list[Any], large: Any) -> Any:  # a constant, XLA would compute with it while compiling
        each = [graded(row, loss, arrays, cotangents) for arrays in halves]
        return each, loss(*large, **row.options), mixed(halves[-1])

    got, mean, other = run(all_ways, list(halves.values()), large)
    for (dtype, arrays), result in zip(halves.items(), got, strict=True):
        compared(result, arrays, dtype, np.float32, 1e-6, max(2e-6, float(jnp.finfo(dtype).eps)))
    close(mean, row.losses(large).mean(), "the mean of many float16")
    assert other.dtype == np.float32, "mixed inputs"

    with x64():
        doubles, singles = row.make((3,), np.float64), halves[np.dtype(np.float32)]
        wide, narrow = run(
            lambda wide, narrow: (
                graded(row, loss, wide, cotangents),
                graded(row, loss, narrow, cotangents),
            ),
            doubles,
            singles,
        )
    compared(wide, doubles, np.float64, np.float64, 1e-12, 1e-7)
    compared(narrow, singles, np.float32, np.float32, 1e-6, 2e-6)


@check(lambda row: bool(row.hard), alike=same_family)  # all of them: python -m tests.report
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


@check(lambda row: bool(row.ties))
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


@check(alike=same_family)
def nan_is_loud(row: Row, loss: Loss) -> None:
    """A NaN in one array, where nothing masks it, never becomes a plausible loss."""
    arrays = row.make((3,))
    spoiled = {}
    for i, x in enumerate(arrays):
        if x.dtype.kind == "f":
            spoiled[row.names[i]] = [a.copy() for a in arrays]
            spoiled[row.names[i]][i][1] = np.nan
    got = run(lambda s: {name: loss(*a, **row.options, reduction="none") for name, a in s.items()}, spoiled)
    for name, losses in got.items():
        unit = losses if row.pooled else losses[1]
        assert np.isnan(unit).any(), f"{name} is NaN, the loss {unit}"


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
# Units: reduced, weighted, masked


@check(alike=same_arrays)
def reductions(row: Row, loss: Loss) -> None:
    """All reductions, with weights and a mask and without, follow from the losses of the units."""
    arrays = row.make((3, 2))
    l = row.losses(arrays)
    weights, mask = distinct(l.shape), np.arange(l.size).reshape(l.shape) % 3 != 1
    given = {"plain": {}, "weights": {"weights": weights}}
    if not (row.pooled or row.coupled):  # there the mask changes the losses themselves
        given = {"plain": {}, "both": {"weights": weights, "where": mask}}
    kinds = ("mean", "sum", "none", "sum_over_batch_size", weighted_mean, lambda l, w: jnp.stack([l, w]))
    got = run(
        lambda arrays, given: {
            key: [loss(*arrays, **row.options, **g, reduction=kind) for kind in kinds] for key, g in given.items()
        },
        arrays,
        given,
    )
    for key, g in given.items():
        m = g.get("where", np.ones(l.shape, bool))
        w = g.get("weights", np.ones(l.shape)) * m
        mean, total, none, over_size, by_user, both = got[key]
        close(mean, (w * l).sum() / w.sum(), f"mean, {key}")
        close(total, (w * l).sum(), f"sum, {key}")
        close(none, w * l, f"none, {key}")
        close(over_size, (w * l).sum() / m.sum(), f"sum_over_batch_size, {key}")
        close(by_user, (w * l).sum() / w.sum(), f"a function, {key}")
        close(both, np.stack([l * m, w]), f"what a function receives, {key}")


@check(alike=same_in_family)
def mask(row: Row, loss: Loss) -> None:
    """A mask leaves units out: nothing under it is noticed, by the value or by any gradient, and its gradient is 0."""
    arrays = row.make((4,))
    traced = {key: np.asarray(value, np.float32) for key, value in row.traceable.items()}
    m = np.array([True, False, True, False])
    weights = distinct(row.losses(arrays).shape)
    kept = tuple(x[m] for x in arrays)
    places = row.differentiable

    def derived(where: Any, arrays: Any, traced: Any, weights: Any) -> Any:
        def scalar(diff: Any, traced: Any, weights: Any) -> Any:
            full = list(arrays)
            for i, x in zip(places, diff, strict=True):
                full[i] = x
            return loss(*full, **{**row.options, **traced}, weights=weights, where=where)

        none = loss(*arrays, **row.options, where=where, reduction="none")
        return none, jax.value_and_grad(scalar, argnums=(0, 1, 2))([arrays[i] for i in places], traced, weights)

    masked = jax.jit(lambda arrays, weights: derived(m, arrays, traced, weights))
    unit_weights = weights if row.pooled else weights[m]
    none, (value, (slopes, by_options, by_weights)) = run(
        lambda arrays: derived(None, arrays, traced, unit_weights), kept
    )

    for poison in (None, np.nan, np.inf, -np.inf):
        spoiled = [x.copy() for x in arrays]
        spoiled_weights = weights.copy()
        if poison is not None:
            for x in spoiled:
                x[~m] = poison if x.dtype.kind == "f" else -100
            if not row.pooled:
                spoiled_weights[~m] = poison
        losses, (v, (g, o, w)) = jax.tree.map(np.asarray, masked(spoiled, spoiled_weights))
        what = f"{poison} under the mask"
        close(losses if row.pooled else losses[m], none, f"losses, {what}")
        assert row.pooled or (losses[~m] == 0).all(), f"losses under the mask, {what}"
        close(v, value, f"value, {what}")
        close([x[m] for x in g], slopes, f"gradient, {what}")
        close(o, by_options, f"gradient by the options, {what}", rtol=2e-6)
        close(w if row.pooled else w[m], by_weights, f"gradient by the weights, {what}")
        under = [*(x[~m] for x in g), *([] if row.pooled else [w[~m]])]
        assert all((x == 0).all() for x in under), f"the gradient under the mask is {under}, {what}"


@check(alike=same_arrays)
def weights(row: Row, loss: Loss) -> None:
    """mean = sum(w l) / sum(w): scaling changes nothing, a 0 is a mask, an integer repeats the unit."""
    arrays = row.make((3,))
    l = row.losses(arrays)
    w = distinct(l.shape)
    counts = np.array([2, 0, 3])
    separate = not (row.coupled or row.pooled)
    repeated = [np.repeat(x, counts, 0) for x in arrays]
    where = counts > 0

    both = functools.partial(graded, row, loss)

    def all_ways(arrays: Any, repeated: Any) -> Any:
        some = {"where": both(arrays, where=where), "0 and 1": both(arrays, weights=where)} if separate else {}
        often = {"counts": both(arrays, weights=counts), "rows": loss(*repeated, **row.options)} if separate else {}
        return {"w": both(arrays, weights=w), "8 w": both(arrays, weights=8 * w), **some, **often}

    got = run(all_ways, arrays, repeated)
    close(got["w"][0], (w * l).sum() / w.sum(), "weighted mean")
    close(got["w"][1], slopes(row, arrays, w / w.sum()), "gradient of the weighted mean", rtol=2e-6, atol=1e-6)
    close(got["8 w"], got["w"], "eight times the weights")
    if separate:
        close(got["0 and 1"], got["where"], "weights of 0 and 1 against where")
        close(got["counts"][0], got["rows"], "integer weights against repeated rows")


@check(lambda row: not (row.coupled or row.pooled), alike=same_arrays)
def zero_weight(row: Row, loss: Loss) -> None:
    """A NaN of weight 0 is not hidden, unless a mask beside the weights says so; its weight has a derivative."""
    arrays = row.make((4,))
    weights = distinct((4,))
    weights[1] = 0
    spoiled = [x.copy() for x in arrays]
    for x in spoiled:
        x[1] = np.nan if x.dtype.kind == "f" else -100

    def all_ways(arrays: Any, spoiled: Any, weights: Any) -> Any:
        both = functools.partial(graded, row, loss)
        return (
            loss(*spoiled, **row.options, weights=weights),
            both(arrays, weights=weights),
            both(spoiled, weights=weights, where=weights != 0),
            jax.grad(lambda w: loss(*arrays, **row.options, weights=w, reduction="sum"))(weights),
        )

    loud, clean, masked, by_weights = run(all_ways, arrays, spoiled, weights)
    assert np.isnan(loud), f"a NaN of weight 0 is hidden: {loud}"
    assert all((g[1] == 0).all() for g in masked[1]), f"derivative under weight 0: {masked[1]}"
    close(masked, clean, "weights with where=weights != 0")
    close(by_weights, row.losses(arrays), "derivative of the sum by the weights", rtol=2e-6, atol=1e-6)


@check(lambda row: not row.pooled, alike=same_arrays)
def from_the_left(row: Row, loss: Loss) -> None:
    """(batch,) weights and masks fit (batch, time): they mean the same for all times. A 2 x 2 batch tells the sides."""
    arrays = row.make((2, 2))
    l = row.losses(arrays)
    w, m = np.array([1.0, 3.0], np.float32), np.array([True, False])

    def means(arrays: Any) -> Any:
        return (
            loss(*arrays, **row.options, weights=w),
            loss(*arrays, **row.options, weights=w, reduction="none"),
            loss(*arrays, **row.options, weights=np.float32(2.0), reduction="sum"),
            loss(*arrays, **row.options, where=m),
            loss(*arrays, **row.options, where=m, weights=w[None] * w[:, None]),
        )

    by_weights, none, by_number, by_mask, by_both = run(means, arrays)
    close(by_weights, (w[:, None] * l).sum() / (2 * w.sum()), "weights of shape (batch,)")
    close(none, w[:, None] * l, "weights of shape (batch,), none")
    close(by_number, 2 * l.sum(), "one weight for all")
    close(by_mask, l[0].mean(), "where of shape (batch,)")
    close(by_both, (w * l[0]).sum() / w.sum(), "where of shape (batch,), weights of shape (batch, time)")


@check(alike=same_arrays)
def nothing_left(row: Row, loss: Loss) -> None:
    """An empty batch, or one that is masked away, gives 0 with a gradient of 0 for every reduction to a scalar."""
    arrays = [x.copy() for x in row.make((2,))]
    for x in arrays:
        x[:] = np.nan if x.dtype.kind == "f" else -100
    empty, units = row.make((0,)), row.losses(row.make((2,))).shape
    kinds = {
        "mean": "mean",
        "sum": "sum",
        "sum_over_batch_size": "sum_over_batch_size",
        "a weighted mean": weighted_mean,
        "sum(w l) / sum(w w)": lambda l, w: jnp.sum(w * l) / jnp.sum(w * w),
    }

    both = functools.partial(graded, row, loss)

    def all_ways(empty: Any, masked: Any) -> Any:
        none = np.zeros(2, bool)
        ones = np.ones(units if row.pooled else 2)
        cases = {"an empty batch": (empty, {}), "all masked": (masked, {"where": none})}
        got = {
            (key, case): both(arrays, reduction=kind, **given)
            for case, (arrays, given) in cases.items()
            for key, kind in kinds.items()
        }
        return {**got, ("mean", "all masked, weighted"): both(masked, where=none, weights=ones)}

    for what, (value, grads) in run(all_ways, empty, arrays).items():
        assert value.shape == (), what
        assert value == 0, f"{what}: {value}"
        assert all((g == 0).all() for g in grads), f"gradient, {what}: {grads}"


# ---------------------------------------------------------------------------------------------------------------------
# Spread over devices: eight of them, as a mesh of two by four


def _mesh(kind: AxisType) -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))


def _spread_equals_whole(row: Row, loss: Loss, kind: AxisType) -> None:
    """The batch axis over all devices; the class axis, if there is one; and both."""
    arrays = row.make((8,))
    units = row.losses(arrays).shape
    given = {"weights": distinct(units), "where": np.arange(8) % 4 != 1}
    mesh = _mesh(kind)
    layouts: list[tuple[Any, Any]] = [(("data", "model"), None)]
    if "axis" in inspect.signature(loss).parameters and max(row.cores) == 1:
        layouts += [(None, "model"), ("data", "model")]

    def place(x: np.ndarray, batch: Any, classes: Any) -> Any:
        core = [None] * (x.ndim - 2) + [classes] if x.ndim > 1 else []
        return jax.device_put(x, NamedSharding(mesh, P(batch, *core)))

    def both(arrays: Any, given: Any) -> Any:
        return graded(row, loss, arrays, **given)

    want = run(both, arrays, given)
    spread = [([place(x, *at) for x in arrays], {k: place(v, *at) for k, v in given.items()}) for at in layouts]
    got = jax.jit(lambda spread: [both(*s) for s in spread])(spread)
    for layout, result, (inputs, _) in zip(layouts, got, spread, strict=True):
        close(result, want, f"(batch, classes) over {layout}")
        if kind is AxisType.Explicit:
            for i, g in zip(row.differentiable, result[1], strict=True):
                assert g.sharding == inputs[i].sharding, f"the gradient lies as {g.sharding.spec}, {layout}"


@check(alike=same_arrays)
def automatic_sharding(row: Row, loss: Loss) -> None:
    """Arrays spread over devices, the compiler communicates."""
    _spread_equals_whole(row, loss, AxisType.Auto)


@check(alike=same_layout)
def explicit_sharding(row: Row, loss: Loss) -> None:
    """Shardings that are part of the types."""
    _spread_equals_whole(row, loss, AxisType.Explicit)


@check(lambda row: not row.coupled, alike=same_arrays)
def inside_shard_map(row: Row, loss: Loss) -> None:
    """The mean over devices whose masks differ, one of them wholly masked, differentiated inside and outside."""
    arrays = row.make((16,))
    m = np.arange(16) % 5 > 1
    m[:4] = [False, False, True, True]
    axes = ("data", "model")
    units = over = P(axes)
    if row.pooled:  # the examples are spread, and each has all its pixels
        m = np.stack([np.roll(m, i) for i in range(arrays[0].shape[1])], axis=1)
        m[:, 0] = False
        over = P(None, axes)
    w = distinct(m.shape[-1:])
    mesh = _mesh(AxisType.Auto)

    def mean(where: Any, weights: Any, *arrays: Any) -> Any:
        return loss(*arrays, **row.options, where=where, weights=weights, reduction=jaxloss.mean_over(axes))

    def by_arrays(function: Any) -> Any:
        return jax.value_and_grad(function, argnums=tuple(2 + i for i in row.differentiable))

    specs = {"mesh": mesh, "in_specs": (over, units, *[over] * len(arrays))}
    outside = by_arrays(jax.shard_map(mean, **specs, out_specs=P()))
    inside = jax.shard_map(by_arrays(mean), **specs, out_specs=(P(), over))
    whole = by_arrays(lambda m, w, *a: loss(*a, **row.options, where=m, weights=w))
    none = np.zeros_like(m)

    want = run(whole, m, w, *arrays)
    got, also, zero = run(lambda *a: (outside(m, w, *a), inside(m, w, *a), outside(none, w, *a)), *arrays)
    close(got, want, "differentiated outside")
    close(also, want, "differentiated inside")
    close(zero, jax.tree.map(np.zeros_like, want), "all devices masked", atol=0)


def cells(rows: tuple[Row, ...]) -> Iterator[tuple[str, Row, bool, bool]]:
    """All checks with the rows that they concern, and whether one like it was had before, or one of its family."""
    for name in CHECKS:
        kinds, families = set(), set()
        for row in rows:
            if APPLIES[name](row):
                kind, family = LIKENESS[name](row), same_family(row)
                yield name, row, kind in kinds, family in families
                kinds.add(kind)
                families.add(family)
