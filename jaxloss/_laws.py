"""What the contract promises, as laws that any loss can be held to: `check`, and the tests of the losses here.

A law knows nothing about how a loss is made: it compares with an oracle, the formula once more in NumPy and float64.
To be quick, each law puts all that it needs into as few compiled programs as it can.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxloss._platform import x64
from jaxloss.sharding import mean_over

Arrays = tuple[Any, ...]
Loss = Callable[..., Any]


def check(
    loss: Loss,
    example_inputs: Callable[[np.random.Generator, tuple[int, ...]], Sequence[Any]],
    oracle: Callable[..., Any],
    *,
    options: Mapping[str, Any] | None = None,
    coupled: bool = False,
    pooled: bool = False,
    detached: Sequence[int] = (),
    constant: Sequence[str] = (),
    frozen: bool = False,
    rtol: float = 1e-6,
) -> None:
    """Hold a loss to the contract: for the tests of whoever writes one with `jaxloss.contract`.

    The losses are compared with those of the oracle: eagerly, compiled, under vmap and scan, with weights, masks and
    each reduction, in half precision and float64. Masking must equal leaving out, whatever lies under the mask, NaN
    too. Gradients must be those of the oracle by differences, also by traced options, in reverse and forward mode and
    of second order. Where shapes or a mask are wrong, errors must name the loss and the argument. With more than one
    device (`jax.config.update("jax_num_cpu_devices", 8)` before the first use makes eight), a batch that is spread over
    them must give what the whole one gives, in meshes of both kinds and inside `jax.shard_map`.

    It tries what `example_inputs` draws, so it does not see the ends of the domain, nor options near theirs: try those
    yourself, for NaN in values and gradients. Nor does it spread the members of one set over devices.

    Example::

        def quartic_oracle(y, p, scale=1.0):
            return ((p - y) / scale) ** 4

        def inputs(rng, batch):
            return rng.normal(size=batch), rng.normal(size=batch)

        check(quartic, inputs, quartic_oracle, options={"scale": 0.5})

    Args:
      loss: with the signature of the contract.
      example_inputs: `(rng, batch) -> arrays`, drawn inputs of so many examples, inside the domain and at least 1e-3
        from any kink; for the batch () those of one example.
      oracle: `(*arrays, **options) -> losses`, the formula in NumPy, with any batch axes in front. It gets float64.
      options: keyword arguments of both. The floats and arrays among them are also tried as traced arrays.
      coupled: whether examples see one another, each with a loss of its own: members of a set, along the first axis.
      pooled: whether the first axis holds the members of sets that have one loss each. The inputs then have an axis of
        sets after it, as many as there are devices.
      detached: places of floating arrays that the definition does not differentiate.
      constant: names of options that cannot be traced.
      frozen: whether the definition takes a factor for a constant, so that differences of the gradient are not its
        derivative.
      rtol: how far a float32 result may be from the oracle, relatively; a gradient twice as far.

    Raises:
      AssertionError: with each law that does not hold, and what was found.
    """
    names = tuple(inspect.signature(loss).parameters)[: len(example_inputs(np.random.default_rng(0), (2,)))]
    case = Case(
        id=loss.__name__,
        inputs=example_inputs,
        oracle=oracle,
        options=options or {},
        names=names,
        coupled=coupled,
        pooled=pooled,
        detached=detached,
        constant=constant,
        frozen=frozen,
        rtol=rtol,
    )
    broken = []
    for name, judge in LAWS.items():
        try:
            if APPLIES[name](case):
                judge(case, loss)
        except Exception as error:
            broken.append((name, error))
    if broken:
        told = "\n".join(f"{name}: {type(error).__name__}: {error}" for name, error in broken)
        raise AssertionError(f"{case.name} breaks {len(broken)} laws of the contract.\n{told}") from broken[0][1]


@dataclass(frozen=True)
class Case:
    """A loss with given options, and all that the laws must know of it.

    id: the loss, then a hyphen and what is special here: "huber", "huber-delta".
    inputs: `(rng, batch shape) -> arrays`; for the batch shape () it returns the arrays of one example.
    oracle: `(*arrays, **options) -> one loss for each unit`, float64.
    options: keyword arguments. The laws also give the floats and arrays among them as traced arrays.
    names: what the loss calls its arrays.
    coupled: units see one another (a batch of anchors), so repeating a unit changes the others.
    pooled: a unit is made of the whole first axis (pixels), so the losses have no such axis.
    detached: places of floating arrays that the definition does not differentiate.
    constant: floats among the options that cannot be traced.
    frozen: the definition takes a factor for a constant, so that the second derivative is not that of the gradient.
    rtol: how far a result in float32 may be from the oracle.
    """

    id: str
    inputs: Callable[[np.random.Generator, tuple[int, ...]], Sequence[Any]]
    oracle: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ("y_true", "y_pred")
    coupled: bool = False
    pooled: bool = False
    detached: Sequence[int] = ()
    constant: Sequence[str] = ()
    frozen: bool = False
    rtol: float = 1e-6

    @property
    def name(self) -> str:
        return self.id.partition("-")[0]

    @property
    def _example(self) -> list[np.ndarray]:
        """One example, or a set of one."""
        arrays = self.inputs(np.random.default_rng(0), (1,) if self.coupled else ())
        return [np.asarray(x)[0] if self.coupled else np.asarray(x) for x in arrays]

    @property
    def cores(self) -> tuple[int, ...]:
        """How many axes of each array belong to one example."""
        return tuple(x.ndim for x in self._example)

    @property
    def differentiable(self) -> tuple[int, ...]:
        return tuple(i for i, x in enumerate(self._example) if i not in self.detached and x.dtype.kind == "f")

    @property
    def traceable(self) -> dict[str, Any]:
        """The options that may be arrays, as NumPy arrays of float64.

        New ones: while a jaxpr holds what an array became without x64, jax 0.10 to 0.12 use that with x64, too.
        """
        return {
            key: np.array(value, np.float64)
            for key, value in self.options.items()
            if isinstance(value, float | np.ndarray) and key not in self.constant
        }

    def make(self, batch: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Arrays:
        arrays = self.inputs(np.random.default_rng([seed, *batch]), batch)
        return tuple(np.asarray(x).astype(dtype if np.asarray(x).dtype.kind == "f" else np.int32) for x in arrays)

    def close(self, got: Any, want: Any, what: str) -> None:
        """Whether float32 results are those of the oracle."""
        close(got, want, what, self.rtol, self.rtol / 10)

    def losses(self, arrays: Sequence[Any], **options: Any) -> np.ndarray:
        """The losses of the units by the oracle."""
        exact = [np.asarray(x) if np.asarray(x).dtype.kind in "iu" else np.asarray(x, np.float64) for x in arrays]
        return np.asarray(self.oracle(*exact, **{**self.options, **options}), np.float64)


Law = Callable[[Case, Loss], None]
LAWS: dict[str, Law] = {}
APPLIES: dict[str, Callable[[Case], bool]] = {}


def law(applies: Callable[[Case], bool] = lambda case: True) -> Callable[[Law], Law]:
    """Enter a law in the table, with the cases that it is about."""

    def enter(judge: Law) -> Law:
        LAWS[judge.__name__] = judge
        APPLIES[judge.__name__] = applies
        return judge

    return enter


# ---------------------------------------------------------------------------------------------------------------------
# Tools


def expect(holds: Any, message: str) -> None:
    """An assertion that Python's -O leaves alone."""
    if not holds:
        raise AssertionError(message)


def run(function: Callable[..., Any], *args: Any) -> Any:
    """What the compiled function returns, as NumPy arrays."""
    return jax.tree.map(np.asarray, jax.jit(function)(*args))


def close(got: Any, want: Any, what: str, rtol: float = 1e-6, atol: float = 1e-7) -> None:
    """Equal trees: the same shapes, finite, and values within the tolerance."""
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    expect(len(got) == len(want), f"{what}: {len(got)} results instead of {len(want)}")
    for g, w in zip(got, want, strict=True):
        expect(np.shape(g) == np.shape(w), f"{what}: shape {np.shape(g)} instead of {np.shape(w)}")
        g, w = np.asarray(g).astype(np.float64), np.asarray(w).astype(np.float64)
        expect(np.isfinite(w).all(), f"{what}: the expected value is not finite: {w}")
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
    expect(type(raised) is error, f"{type(raised).__name__} instead of {error.__name__}: {raised}")
    missing = [word for word in words if word not in str(raised)]
    expect(not missing, f"the message lacks {missing}: {raised}")


def graded(case: Case, loss: Loss, arrays: Any, cotangents: Any = None, **given: Any) -> Any:
    """The loss and its derivatives by all arrays that have one; with cotangents, the losses and those of their sum."""
    if cotangents is None:
        return jax.value_and_grad(lambda *a: loss(*a, **case.options, **given), case.differentiable)(*arrays)

    def summed(*arrays: Any) -> Any:
        losses = loss(*arrays, **case.options, **given, reduction="none")
        return jnp.sum(jnp.asarray(cotangents, losses.dtype) * losses), losses

    (_, losses), slopes = jax.value_and_grad(summed, case.differentiable, has_aux=True)(*arrays)
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


def slopes(case: Case, arrays: tuple[Any, ...], cotangents: np.ndarray, options: dict[str, Any] | None = None) -> list:
    """The derivative of the oracle's sum(cotangents * losses) by the differentiable arrays, then by the options."""
    places, options = case.differentiable, options or {}

    def summed(*points: np.ndarray) -> float:
        moved = list(arrays)
        for place, point in zip(places, points, strict=False):
            moved[place] = point
        return float(
            (cotangents * case.losses(tuple(moved), **dict(zip(options, points[len(places) :], strict=True)))).sum()
        )

    return differences(summed, [np.asarray(x, np.float64) for x in (*(arrays[i] for i in places), *options.values())])


def distinct(shape: tuple[int, ...]) -> np.ndarray:
    """Positive weights, no two of them equal."""
    return 0.5 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 4


def weighted_mean(losses: Any, weights: Any) -> Any:
    return jnp.sum(losses * weights) / jnp.sum(weights)


# ---------------------------------------------------------------------------------------------------------------------
# How it is called


@law()
def shapes(case: Case, loss: Loss) -> None:
    """Nothing is broadcast: an error names the loss, both shapes and the likely cure."""
    arrays = case.make((3,))

    def refused(i: int, x: np.ndarray, *words: str) -> None:
        given = [*arrays[:i], x, *arrays[i + 1 :]]
        refuses(ValueError, (case.name, *(str(g.shape) for g in given), *words), loss, *given, **case.options)

    for i, x in enumerate(arrays if len(arrays) > 1 else ()):  # one alone has nothing to match
        refused(i, x[..., None], f"did you mean {case.names[i]}.squeeze(-1)?")
        refused(i, x[:2])
        refused(i, x[:1])
        refused(i, x[0])
        if len({a.shape for a in arrays}) == 1:
            refused(i, x[..., :1] if x.ndim > 1 else x[:1])
    if max(case.cores) == 1 and "axis" in inspect.signature(loss).parameters:
        empty = [x[..., :0] if core else x for x, core in zip(arrays, case.cores, strict=True)]
        options = {k: v[:0] if isinstance(v, np.ndarray) else v for k, v in case.options.items()}
        refuses(ValueError, (case.name, "(3, 0)", "at least one"), loss, *empty, **options)


@law()
def masks_and_weights_refused(case: Case, loss: Loss) -> None:
    """A mask is bool, and both match the units from the left."""
    arrays = case.make((3, 2))
    units = case.losses(arrays).shape
    for mask in (np.ones(units, np.int32), np.ones(units, np.float32)):
        refuses(TypeError, (case.name, "where", "bool"), loss, *arrays, **case.options, where=mask)
    for wrong in ((2,), (1,), (3, 1), (1, 2), (*units, 1)):
        if wrong == units[: len(wrong)]:  # the units of a pooled row begin with another axis
            continue
        shown = (case.name, str(wrong), str(units))
        refuses(ValueError, (*shown, "weights"), loss, *arrays, **case.options, weights=np.ones(wrong))
        if not case.pooled:
            refuses(ValueError, (*shown, "where"), loss, *arrays, **case.options, where=np.ones(wrong, bool))


@law()
def one_trace(case: Case, loss: Loss) -> None:
    """A second call with the same shapes and constants traces nothing, whatever its traced options are."""
    traces = []

    def counted(losses: Any, weights: Any) -> Any:
        traces.append(losses)
        return jnp.sum(losses * weights)

    def call(seed: int) -> None:
        options = {key: jnp.asarray(value * (1 + seed / 8), jnp.float32) for key, value in case.traceable.items()}
        loss(*case.make((2,), seed=seed), **{**case.options, **options}, reduction=counted)

    call(0)
    before = len(traces)
    expect(before, "the reduction was never called")
    call(1)
    expect(len(traces) == before, "the second call was traced again")


# ---------------------------------------------------------------------------------------------------------------------
# What it computes


@law()
def value(case: Case, loss: Loss) -> None:
    """The losses are those of the formula, eagerly and compiled, whichever axis holds the classes."""
    arrays = case.make((3, 2))
    want = case.losses(arrays)
    axes = [0, 1, 2, -3] if "axis" in inspect.signature(loss).parameters and max(case.cores) == 1 else []

    def along(axis: int) -> list[Any]:
        return [np.moveaxis(x, -1, axis) if core else x for x, core in zip(arrays, case.cores, strict=True)]

    moved = {axis: along(axis) for axis in axes}
    got = run(
        lambda arrays, moved: (
            loss(*arrays, **case.options, reduction="none"),
            [loss(*m, **case.options, axis=axis, reduction="none") for axis, m in moved.items()],
        ),
        arrays,
        moved,
    )
    eager = loss(*arrays, **case.options, reduction="none")
    expect(isinstance(eager, jax.Array), f"the result is a {type(eager).__name__}")
    expect(eager.dtype == np.float32, f"float32 inputs give {eager.dtype}")
    case.close(eager, want, "eager")
    case.close(got[0], want, "compiled")
    close(got[0], eager, "compiled against eager", rtol=3e-7)
    case.close(got[1], [want] * len(axes), "another axis")
    if axes:
        refuses(ValueError, (case.name, "axis"), loss, *arrays, **case.options, axis=3)


@law()
def transformations(case: Case, loss: Loss) -> None:
    """vmap, scan and checkpoint do what a loop does, for the value and for the gradient."""
    batches = [list(case.make((3,), seed=seed)) for seed in (1, 2)]
    common = case.differentiable[0]  # the same in both, so that `vmap` may leave it unmapped
    batches[1][common] = batches[0][common]
    stacked = [np.stack(x) for x in zip(*batches, strict=True)]

    def one(*arrays: Any) -> Any:
        return graded(case, loss, arrays, cotangents=1)

    def summed(*arrays: Any) -> Any:
        return loss(*arrays, **case.options, reduction="sum")

    def in_common(x: Any, stacked: Any) -> Any:
        places = [None if i == common else 0 for i in range(len(stacked))]
        return jax.vmap(summed, places)(*stacked[:common], x, *stacked[common + 1 :])

    def all_ways(batches: Any, stacked: Any) -> Any:
        return (
            [one(*b) for b in batches],
            jax.vmap(one)(*stacked),
            jax.lax.scan(lambda none, arrays: (none, one(*arrays)), None, stacked)[1],
            jax.grad(jax.checkpoint(summed), case.differentiable)(*batches[0]),
            jax.jacrev(in_common)(batches[0][common], stacked) if len(stacked) > 1 else None,
        )

    loop, mapped, scanned, recomputed, shared = run(all_ways, batches, stacked)
    want = jax.tree.map(lambda *x: np.stack(x), *loop)
    close(mapped, want, "vmap")
    close(scanned, want, "scan")
    close(recomputed, loop[0][1], "checkpoint")
    if shared is not None:
        close(shared, want[1][0], "vmap with an array in common")


@law()
def one_example(case: Case, loss: Loss) -> None:
    """An example without batch axes, and a batch of one, by every order of the second derivative."""
    alone = not (case.pooled or case.coupled)
    # A set of one has nothing to compare itself with.
    arrays = case.make(() if alone else (3,) if case.coupled else (1,))
    want = case.losses(arrays)

    def of(*points: Any) -> Any:
        full = list(arrays)
        for i, x in zip(case.differentiable, points, strict=True):
            full[i] = x
        return loss(*full, **case.options, reduction="sum")

    def all_ways(arrays: Any) -> Any:
        points = [arrays[i] for i in case.differentiable]
        by_all = tuple(range(len(points)))
        return (
            loss(*arrays, **case.options, reduction="none"),
            loss(*(x[None] for x in arrays), **case.options) if alone else jnp.mean(jnp.asarray(want)),
            jax.hessian(of, by_all)(*points),
            jax.jacrev(jax.jacrev(of, by_all), by_all)(*points),
        )

    none, mean, hessian, reverse = run(all_ways, arrays)
    case.close(none, want, "one example")
    case.close(mean, want.mean(), "a batch of one")
    close(hessian, reverse, "jax.hessian against reverse over reverse", rtol=1e-5, atol=1e-5)


@law()
def gradient(case: Case, loss: Loss) -> None:
    """By arrays and traced options: reverse, forward and second order agree with differences, in float64."""
    arrays = case.make((2,), np.float64)
    cotangents = distinct(case.losses(arrays).shape).astype(np.float64)
    places, traced = case.differentiable, case.traceable
    points = [*(arrays[i] for i in places), *traced.values()]
    rng = np.random.default_rng(0)
    # What is exactly 0, as most of a one-hot row, may be the end of its domain, across which nothing can be compared.
    direction = [np.where(p == 0, 0, rng.normal(size=np.shape(p))) for p in points]

    def summed(*points: Any) -> Any:
        moved = list(arrays)
        for place, point in zip(places, points, strict=False):
            moved[place] = point
        options = {**case.options, **dict(zip(traced, points[len(places) :], strict=True))}
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
    first = slopes(case, arrays, cotangents, traced)
    second = [
        (8 * (np.asarray(b) - np.asarray(a)) - (np.asarray(bb) - np.asarray(aa))) / (12 * step)
        for aa, a, b, bb in zip(*near.values(), strict=True)
    ]
    tolerance = {"rtol": 1e-7, "atol": 1e-8}
    close(got["reverse"], first, "reverse mode", **tolerance)
    close(
        got["forward"], sum((f * d).sum() for f, d in zip(first, direction, strict=True)), "forward mode", **tolerance
    )
    if case.frozen:  # there the gradient is that of a function with a factor held, its differences are not
        return
    close(got["forward over reverse"], second, "second order, forward over reverse", **tolerance)
    close(got["reverse over reverse"], second, "second order, reverse over reverse", **tolerance)


@law(lambda case: bool(case.traceable))
def traced_options(case: Case, loss: Loss) -> None:
    """An option given as an array equals the constant, and can be swept by vmap."""
    arrays = case.make((3,))
    traced = {key: np.asarray(value, np.float32) for key, value in case.traceable.items()}
    others = {key: _another(case, loss, key, value) for key, value in traced.items()}
    lists = {key: value.tolist() for key, value in traced.items()}

    # The arrays are arguments: jax 0.7.2 computes constants of such programs wrongly while it compiles.
    def all_ways(arrays: Any, traced: Any) -> Any:
        one = lambda options: loss(*arrays, **{**case.options, **options}, reduction="none")  # noqa: E731
        return one(lists), one(traced), jax.vmap(one)({k: jnp.stack([v, others[k]]) for k, v in traced.items()})

    constant, array, swept = run(all_ways, arrays, traced)
    case.close(constant, case.losses(arrays), "constants")
    close(array, constant, "arrays")
    close(swept[0], constant, "vmap")
    case.close(swept[1], case.losses(arrays, **others), "vmap, the second")


def _another(case: Case, loss: Loss, key: str, value: np.ndarray) -> np.ndarray:
    """Another value of an option that lies in its domain: half of it, or half the way to a default above 0."""
    default = inspect.signature(loss).parameters[key].default
    between = isinstance(default, float) and default > 0 and not np.array_equal(default, case.options[key])
    return (value + np.float32(default)) / 2 if between else value / 2


@law()
def precision(case: Case, loss: Loss) -> None:
    """Half precision is computed and summed in float32, float64 stays float64, gradients have the input's dtype."""
    halves = {np.dtype(d): case.make((3,), d) for d in (jnp.float16, jnp.bfloat16, np.float32)}
    large = case.make((2049,), np.float16)
    units = case.losses(case.make((3,)))
    cotangents = distinct(units.shape)

    def compared(got: Any, arrays: Any, dtype: Any, wide: Any, rtol: float, slope_rtol: float) -> None:
        losses, grads = got
        expect(losses.dtype == wide, f"{dtype} inputs give {losses.dtype}")
        expect(all(g.dtype == dtype for g in grads), f"{dtype} inputs have gradients of {[g.dtype for g in grads]}")
        close(losses, case.losses(arrays), f"{dtype}", rtol=rtol, atol=rtol)
        close(grads, slopes(case, arrays, cotangents), f"gradient for {dtype}", rtol=slope_rtol, atol=1e-6)

    def mixed(arrays: Any) -> Any:
        one = [x.astype(jnp.bfloat16) if i % 2 and x.dtype.kind == "f" else x for i, x in enumerate(arrays)]
        return loss(*one, **case.options)

    def all_ways(halves: list[Any], large: Any) -> Any:  # as a constant it would be computed with while compiling
        each = [graded(case, loss, arrays, cotangents) for arrays in halves]
        return each, loss(*large, **case.options), mixed(halves[-1])

    got, mean, other = run(all_ways, list(halves.values()), large)
    for (dtype, arrays), result in zip(halves.items(), got, strict=True):
        compared(result, arrays, dtype, np.float32, case.rtol, max(2 * case.rtol, float(jnp.finfo(dtype).eps)))
    case.close(mean, case.losses(large).mean(), "the mean of many float16")
    expect(other.dtype == np.float32, "mixed inputs")

    with x64():
        # New arrays, for the reason that `traceable` has.
        anew = {key: x.copy() if isinstance(x, np.ndarray) else x for key, x in case.options.items()}
        case = replace(case, options=anew)
        doubles, singles = case.make((3,), np.float64), halves[np.dtype(np.float32)]
        wide, narrow = run(
            lambda wide, narrow: (
                graded(case, loss, wide, cotangents),
                graded(case, loss, narrow, cotangents),
            ),
            doubles,
            singles,
        )
    compared(wide, doubles, np.float64, np.float64, 1e-12, 1e-7)
    compared(narrow, singles, np.float32, np.float32, case.rtol, 2 * case.rtol)


@law()
def nan_is_loud(case: Case, loss: Loss) -> None:
    """A NaN in one array, where nothing masks it, never becomes a plausible loss."""
    arrays = case.make((3,))
    spoiled = {}
    for i, x in enumerate(arrays):
        if x.dtype.kind == "f":
            spoiled[case.names[i]] = [a.copy() for a in arrays]
            spoiled[case.names[i]][i][1] = np.nan
    got = run(lambda s: {name: loss(*a, **case.options, reduction="none") for name, a in s.items()}, spoiled)
    for name, losses in got.items():
        unit = losses if case.pooled else losses[1]
        expect(np.isnan(unit).any(), f"{name} is NaN, the loss {unit}")


# ---------------------------------------------------------------------------------------------------------------------
# Units: reduced, weighted, masked


@law()
def reductions(case: Case, loss: Loss) -> None:
    """All reductions, with weights and a mask and without, follow from the losses of the units."""
    arrays = case.make((3, 2))
    l = case.losses(arrays)
    weights, mask = distinct(l.shape), np.arange(l.size).reshape(l.shape) % 3 != 1
    given = {"plain": {}, "weights": {"weights": weights}}
    if not (case.pooled or case.coupled):  # there the mask changes the losses themselves
        given = {"plain": {}, "both": {"weights": weights, "where": mask}}
    kinds = ("mean", "sum", "none", "sum_over_batch_size", weighted_mean, lambda l, w: jnp.stack([l, w]))
    got = run(
        lambda arrays, given: {
            key: [loss(*arrays, **case.options, **g, reduction=kind) for kind in kinds] for key, g in given.items()
        },
        arrays,
        given,
    )
    for key, g in given.items():
        m = g.get("where", np.ones(l.shape, bool))
        w = g.get("weights", np.ones(l.shape)) * m
        mean, total, none, over_size, by_user, both = got[key]
        case.close(mean, (w * l).sum() / w.sum(), f"mean, {key}")
        case.close(total, (w * l).sum(), f"sum, {key}")
        case.close(none, w * l, f"none, {key}")
        case.close(over_size, (w * l).sum() / m.sum(), f"sum_over_batch_size, {key}")
        case.close(by_user, (w * l).sum() / w.sum(), f"a function, {key}")
        case.close(both, np.stack([l * m, w]), f"what a function receives, {key}")


@law()
def mask(case: Case, loss: Loss) -> None:
    """A mask leaves units out: nothing under it is noticed, by the value or by any gradient, and its gradient is 0."""
    arrays = case.make((4,))
    traced = {key: np.asarray(value, np.float32) for key, value in case.traceable.items()}
    m = np.array([True, False, True, False])
    weights = distinct(case.losses(arrays).shape)
    kept = tuple(x[m] for x in arrays)
    places = case.differentiable

    def derived(where: Any, arrays: Any, traced: Any, weights: Any) -> Any:
        def scalar(diff: Any, traced: Any, weights: Any) -> Any:
            full = list(arrays)
            for i, x in zip(places, diff, strict=True):
                full[i] = x
            return loss(*full, **{**case.options, **traced}, weights=weights, where=where)

        none = loss(*arrays, **case.options, where=where, reduction="none")
        return none, jax.value_and_grad(scalar, argnums=(0, 1, 2))([arrays[i] for i in places], traced, weights)

    masked = jax.jit(lambda arrays, weights: derived(m, arrays, traced, weights))
    unit_weights = weights if case.pooled else weights[m]
    # (l - mean) / sum(w) is a difference, whose terms are rounded.
    term = np.abs(case.losses(kept)).max() / unit_weights.sum()
    none, (value, (slopes, by_options, by_weights)) = run(
        lambda arrays: derived(None, arrays, traced, unit_weights), kept
    )

    for poison in (None, np.nan, np.inf, -np.inf):
        spoiled = [x.copy() for x in arrays]
        spoiled_weights = weights.copy()
        if poison is not None:
            for x in spoiled:
                x[~m] = poison if x.dtype.kind == "f" else -100
            if not case.pooled:
                spoiled_weights[~m] = poison
        losses, (v, (g, o, w)) = jax.tree.map(np.asarray, masked(spoiled, spoiled_weights))
        what = f"{poison} under the mask"
        close(losses if case.pooled else losses[m], none, f"losses, {what}")
        expect(case.pooled or (losses[~m] == 0).all(), f"losses under the mask, {what}")
        close(v, value, f"value, {what}")
        close([x[m] for x in g], slopes, f"gradient, {what}")
        close(o, by_options, f"gradient by the options, {what}", rtol=2 * case.rtol)
        close(w if case.pooled else w[m], by_weights, f"gradient by the weights, {what}", atol=1e-6 * term)
        under = [*(x[~m] for x in g), *([] if case.pooled else [w[~m]])]
        expect(all((x == 0).all() for x in under), f"the gradient under the mask is {under}, {what}")


@law()
def weights(case: Case, loss: Loss) -> None:
    """mean = sum(w l) / sum(w): scaling changes nothing, a 0 is a mask, an integer repeats the unit."""
    arrays = case.make((3,))
    l = case.losses(arrays)
    w = distinct(l.shape)
    counts = np.array([2, 0, 3])
    separate = not (case.coupled or case.pooled)
    repeated = [np.repeat(x, counts, 0) for x in arrays]
    where = counts > 0

    both = functools.partial(graded, case, loss)

    def all_ways(arrays: Any, repeated: Any) -> Any:
        some = {"where": both(arrays, where=where), "0 and 1": both(arrays, weights=where)} if separate else {}
        often = {"counts": both(arrays, weights=counts), "rows": loss(*repeated, **case.options)} if separate else {}
        return {"w": both(arrays, weights=w), "8 w": both(arrays, weights=8 * w), **some, **often}

    got = run(all_ways, arrays, repeated)
    case.close(got["w"][0], (w * l).sum() / w.sum(), "weighted mean")
    close(
        got["w"][1],
        slopes(case, arrays, w / w.sum()),
        "gradient of the weighted mean",
        rtol=2 * case.rtol,
        atol=case.rtol,
    )
    close(got["8 w"], got["w"], "eight times the weights")
    if separate:
        close(got["0 and 1"], got["where"], "weights of 0 and 1 against where")
        close(got["counts"][0], got["rows"], "integer weights against repeated rows")


@law(lambda case: not (case.coupled or case.pooled))
def zero_weight(case: Case, loss: Loss) -> None:
    """A NaN of weight 0 is not hidden, unless a mask beside the weights says so; its weight has a derivative."""
    arrays = case.make((4,))
    weights = distinct((4,))
    weights[1] = 0
    spoiled = [x.copy() for x in arrays]
    for x in spoiled:
        x[1] = np.nan if x.dtype.kind == "f" else -100

    def all_ways(arrays: Any, spoiled: Any, weights: Any) -> Any:
        both = functools.partial(graded, case, loss)
        return (
            [loss(*spoiled, **case.options, weights=w) for w in (weights, 0 * weights)],
            both(arrays, weights=weights),
            both(spoiled, weights=weights, where=weights != 0),
            jax.grad(lambda w: loss(*arrays, **case.options, weights=w, reduction="sum"))(weights),
        )

    loud, clean, masked, by_weights = run(all_ways, arrays, spoiled, weights)
    expect(np.isnan(loud).all(), f"a NaN of weight 0 is hidden: {loud}")
    expect(all((g[1] == 0).all() for g in masked[1]), f"derivative under weight 0: {masked[1]}")
    close(masked, clean, "weights with where=weights != 0")
    l = case.losses(arrays).reshape(4, -1).sum(1)  # of several losses at once, those of a unit
    close(by_weights, l, "derivative of the sum by the weights", rtol=2 * case.rtol, atol=case.rtol)


@law(lambda case: not case.pooled)
def from_the_left(case: Case, loss: Loss) -> None:
    """(batch,) weights and masks fit (batch, time): they mean the same for all times. A 2 x 2 batch tells the sides."""
    arrays = case.make((2, 2))
    w, m = np.array([1.0, 3.0], np.float32), np.array([True, False])
    l, kept = case.losses(arrays), case.losses(tuple(x[m] for x in arrays))[0]

    def means(arrays: Any) -> Any:
        return (
            loss(*arrays, **case.options, weights=w),
            loss(*arrays, **case.options, weights=w, reduction="none"),
            loss(*arrays, **case.options, weights=np.float32(2.0), reduction="sum"),
            loss(*arrays, **case.options, where=m),
            loss(*arrays, **case.options, where=m, weights=w[None] * w[:, None]),
        )

    by_weights, none, by_number, by_mask, by_both = run(means, arrays)
    w = w.reshape(2, *(1 for _ in kept.shape[1:]))  # of several losses at once the last axes are theirs
    case.close(by_weights, (w[:, None] * l).mean() / w.mean(), "weights of shape (batch,)")
    case.close(none, w[:, None] * l, "weights of shape (batch,), none")
    case.close(by_number, 2 * l.sum(), "one weight for all")
    case.close(by_mask, kept.mean(), "where of shape (batch,)")
    case.close(by_both, (w * kept).mean() / w.mean(), "where of shape (batch,), weights of shape (batch, time)")


@law()
def nothing_left(case: Case, loss: Loss) -> None:
    """An empty batch, or one that is masked away, gives 0 with a gradient of 0 for every reduction to a scalar."""
    arrays = [x.copy() for x in case.make((2,))]
    for x in arrays:
        x[:] = np.nan if x.dtype.kind == "f" else -100
    empty, units = case.make((0,)), case.losses(case.make((2,))).shape
    kinds = {
        "mean": "mean",
        "sum": "sum",
        "sum_over_batch_size": "sum_over_batch_size",
        "a weighted mean": weighted_mean,
        "sum(w l) / sum(w w)": lambda l, w: jnp.sum(w * l) / jnp.sum(w * w),
    }

    both = functools.partial(graded, case, loss)

    def all_ways(empty: Any, masked: Any) -> Any:
        none = np.zeros(2, bool)
        ones = np.ones(units if case.pooled else 2)
        cases = {"an empty batch": (empty, {}), "all masked": (masked, {"where": none})}
        got = {
            (key, case): both(arrays, reduction=kind, **given)
            for case, (arrays, given) in cases.items()
            for key, kind in kinds.items()
        }
        return {**got, ("mean", "all masked, weighted"): both(masked, where=none, weights=ones)}

    for what, (value, grads) in run(all_ways, empty, arrays).items():
        expect(value.shape == (), what)
        expect(value == 0, f"{what}: {value}")
        expect(all((g == 0).all() for g in grads), f"gradient, {what}: {grads}")


# ---------------------------------------------------------------------------------------------------------------------
# Spread over devices


def _several_devices(case: Case) -> bool:
    return jax.device_count() > 1


def _mesh(kind: AxisType) -> jax.sharding.Mesh:
    """All devices: two rows of them, if their number is even."""
    rows = 2 - jax.device_count() % 2
    return jax.make_mesh((rows, jax.device_count() // rows), ("data", "model"), axis_types=(kind, kind))


def _spread_equals_whole(case: Case, loss: Loss, kind: AxisType) -> None:
    """The batch axis over all devices; the class axis, if there is one; and both."""
    mesh = _mesh(kind)
    arrays = case.make((mesh.size,))
    units = case.losses(arrays).shape
    given = {"weights": distinct(units), "where": np.arange(mesh.size) % 4 != 1}
    layouts: list[tuple[Any, Any]] = [(("data", "model"), None)]
    classes = [x.shape[-1] for x, core in zip(arrays, case.cores, strict=True) if core == 1]
    if "axis" in inspect.signature(loss).parameters and classes and classes[0] % mesh.shape["model"] == 0:
        layouts += [(None, "model"), ("data", "model")]

    def place(x: np.ndarray, batch: Any, classes: Any) -> Any:
        core = [None] * (x.ndim - 2) + [classes] if x.ndim > 1 else []
        return jax.device_put(x, NamedSharding(mesh, P(batch, *core)))

    def both(arrays: Any, given: Any) -> Any:
        return graded(case, loss, arrays, **given)

    want = run(both, arrays, given)
    spread = [([place(x, *at) for x in arrays], {k: place(v, *at) for k, v in given.items()}) for at in layouts]
    got = jax.jit(lambda spread: [both(*s) for s in spread])(spread)
    for layout, result, (inputs, _) in zip(layouts, got, spread, strict=True):
        close(result, want, f"(batch, classes) over {layout}")
        if kind is AxisType.Explicit:
            for i, g in zip(case.differentiable, result[1], strict=True):
                expect(g.sharding == inputs[i].sharding, f"the gradient lies as {g.sharding.spec}, {layout}")


@law(_several_devices)
def automatic_sharding(case: Case, loss: Loss) -> None:
    """Arrays spread over devices, the compiler communicates."""
    _spread_equals_whole(case, loss, AxisType.Auto)


@law(_several_devices)
def explicit_sharding(case: Case, loss: Loss) -> None:
    """Shardings that are part of the types."""
    _spread_equals_whole(case, loss, AxisType.Explicit)


@law(lambda case: _several_devices(case) and not case.coupled)
def inside_shard_map(case: Case, loss: Loss) -> None:
    """The mean over devices whose masks differ, one of them wholly masked, differentiated inside and outside."""
    mesh = _mesh(AxisType.Auto)
    arrays = case.make((2 * mesh.size,))
    m = np.arange(2 * mesh.size) % 5 > 1
    m[:4] = [False, False, True, True]
    axes = ("data", "model")
    units = over = P(axes)
    if case.pooled:  # the examples are spread, and each has all its pixels
        m = np.stack([np.roll(m, i) for i in range(arrays[0].shape[1])], axis=1)
        m[:, 0] = False
        over = P(None, axes)
    w = distinct(m.shape[-1:])

    def mean(where: Any, weights: Any, *arrays: Any) -> Any:
        return loss(*arrays, **case.options, where=where, weights=weights, reduction=mean_over(axes))

    def by_arrays(function: Any) -> Any:
        return jax.value_and_grad(function, argnums=tuple(2 + i for i in case.differentiable))

    specs = {"mesh": mesh, "in_specs": (over, units, *[over] * len(arrays))}
    outside = by_arrays(jax.shard_map(mean, **specs, out_specs=P()))
    inside = jax.shard_map(by_arrays(mean), **specs, out_specs=(P(), over))
    whole = by_arrays(lambda m, w, *a: loss(*a, **case.options, where=m, weights=w))
    none = np.zeros_like(m)

    want = run(whole, m, w, *arrays)
    got, also, zero = run(lambda *a: (outside(m, w, *a), inside(m, w, *a), outside(none, w, *a)), *arrays)
    close(got, want, "differentiated outside")
    close(also, want, "differentiated inside")
    close(zero, jax.tree.map(np.zeros_like, want), "all devices masked", atol=0)
