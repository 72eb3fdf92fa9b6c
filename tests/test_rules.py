"""Nothing is silent: options, integers, domains and what clients give are taken as meant, or refused with the cure.

One function for each rule, for each of what it is tried on. `python -m tests.test_rules` prints the table: rule, tried,
passed.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from operator import setitem
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import conftest  # noqa: F401
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from cases import ROWS, Row
from contract import close, distinct, refuses, run, same_family, when, x64
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss
from jaxloss import contract as kit
from jaxloss._names import NAMES as NAMES_OF

jl: Any = jaxloss  # much of what is tried here is no type that a checker lets pass
RULES: dict[str, list[Any]] = {}


def rule(
    title: str,
    cases: Iterable[Any] = ((),),
    alike: Callable[..., Any] | None = None,
    slow: Callable[..., Any] | None = None,
    seldom: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a rule in the table, with what it is tried on: tuples of arguments, the first of which name the case.

    alike: what makes two cases alike, of which the first is tried each time; by default their name.
    slow: what makes two of the others alike, by default nothing: see `when`.
    seldom: whether all of them wait for the slow tests.
    """

    def enter(test: Callable[..., None]) -> Callable[..., None]:
        tuples = [case if isinstance(case, tuple) else (case,) for case in cases]

        def name(case: tuple[Any, ...]) -> str:
            return "-".join(str(getattr(x, "id", x)) for x in case if isinstance(x, (str, Row))) or test.__name__

        def of_case(likeness: Callable[..., Any] | None, default: Callable[..., Any]) -> Callable[..., Any]:
            return (lambda case: likeness(*case)) if likeness else default

        for case, marks in when(tuples, of_case(alike, name), of_case(slow, id)):
            marks = marks or [pytest.mark.slow] * seldom
            param = pytest.param(test, case, id=f"{title.split()[0]} {name(case)}", marks=marks)
            RULES.setdefault(title, []).append(param)
        return test

    return enter


# ---------------------------------------------------------------------------------------------------------------------
# Options

# One value for each of three units, inside the domain of the option.
KNOBS = {
    "delta": [0.5, 1.0, 2.0],
    "beta": [0.3, 0.8, 2.0],
    "gamma": [0.5, 1.5, 3.0],
    "alpha": [0.2, 0.5, 0.9],
    "level": [0.1, 0.5, 0.9],
    "label_smoothing": [0.0, 0.2, 0.5],
    "pos_weight": [0.5, 1.0, 3.0],
    "z_loss": [0.0, 1e-2, 0.5],
    "epsilon": [-1.0, 0.5, 2.0],
    "power": [0.3, 0.7, 1.0],
    "weight": [0.2, 0.5, 0.9],
    "temperature": [0.5, 1.0, 3.0],
    "scale": [0.5, 1.0, 3.0],
    "eps": [0.1, 0.2, 0.5],
    "margin": [0.5, 1.0, 3.0],
    "df": [0.5, 1.0, 3.0],
}
FAMILIES = ("regression", "classification", "focal", "divergence")


def of(*families: str) -> list[Row]:
    """One row of each loss of these families: from logits, where it takes them."""
    rows = [row for row in ROWS if jl.LOSSES[row.name].__module__.removeprefix("jaxloss.") in families]
    return list({row.name: row for row in sorted(rows, key=lambda row: row.options.get("from_logits", False))}.values())


ROW_OF = {row.name: row for row in of(*FAMILIES)}
PER_CLASS = {("categorical_focal", "alpha"), ("sparse_focal", "alpha")}


def options_of(rows: Iterable[Row]) -> list[tuple[Row, str]]:
    return [
        (row, key)
        for row in rows
        for key in KNOBS
        if key in inspect.signature(jl.LOSSES[row.name]).parameters and (row.name, key) not in PER_CLASS
    ]


PAIRS = options_of(ROW_OF.values())


def by_unit(row: Row, arrays: Any, key: str, knob: np.ndarray) -> np.ndarray:
    """The oracle, of each unit with an option of its own."""
    knob = np.broadcast_to(knob, row.losses(arrays).shape)
    want = np.zeros(knob.shape)
    for i in np.ndindex(knob.shape):
        want[i] = row.losses(tuple(x[i] for x in arrays), **{key: knob[i]})
    return want


@rule("1 options match the units from the right", PAIRS, alike=lambda row, key: same_family(row))
def options(row: Row, key: str) -> None:
    """(K,) is one for each column, the shape of all units one for each; any other shape is refused."""
    loss, arrays = jl.LOSSES[row.name], row.make((2, 3))
    column = np.array(KNOBS[key], np.float32)
    each = np.stack([column, column[::-1]])
    fixed = {k: v for k, v in row.options.items() if k != key}

    def call(knob: Any, *arrays: Any, reduction: str = "none") -> Any:
        return loss(*arrays, **fixed, **{key: knob}, reduction=reduction)

    def total(*given: Any) -> Any:
        return call(*given, reduction="sum")

    def all_ways(column: Any, each: Any, arrays: Any) -> Any:
        by = tuple(range(len(arrays) + 1))
        by = tuple(i for i in by if i == 0 or i - 1 in row.differentiable)
        one = jax.vmap(jax.vmap(jax.value_and_grad(total, by)))(each, *arrays)  # of a single unit, with a number
        return {
            "list": call(KNOBS[key], *arrays),
            "column": call(column, *arrays),
            "swept": jax.vmap(lambda c: call(c, *arrays))(each),
            "each": (call(each, *arrays), jax.grad(total, by)(each, *arrays)),
            "one": one,
            "by column": jax.grad(total)(column, *arrays),
            "by rows": jnp.sum(jax.grad(total)(jnp.stack([column, column]), *arrays), 0),
        }

    got = run(all_ways, column, each, arrays)
    close(got["list"], by_unit(row, arrays, key, column), "a list")
    close(got["column"], by_unit(row, arrays, key, column), "(K,)")
    close(got["swept"], np.stack([by_unit(row, arrays, key, c) for c in each]), "vmap over (K,)")
    close(got["each"][0], by_unit(row, arrays, key, each), "all units")
    close(got["each"], got["one"], "value and gradients, against one unit at a time", rtol=2e-6)
    close(got["by column"], got["by rows"], "the gradient by (K,)", rtol=2e-6)
    for wrong, cure in (
        (column[:1], f"{key}[0]"),
        (column[:2], f"{key}[:, None]"),
        (each[:, :1], "broadcast_to"),
        (each[None], f"{key}[0]"),
        (each.T, f"{key}.T"),
    ):
        words = (f"{row.name}: {key} has shape {wrong.shape}", "the losses have shape (2, 3)", "(3,)", cure)
        refuses(ValueError, words, call, wrong, *arrays)
    with pytest.raises(ValueError, match=key):
        call(np.ones((1,), np.float32), *(x[0] for x in arrays))


def numbers_of(row: Row) -> dict[str, float]:
    """The options that are numbers, as the row or else the signature has them."""
    loss = jl.LOSSES[row.name]
    given = {p.name: row.options.get(p.name, p.default) for p in inspect.signature(loss).parameters.values()}
    return {key: x for key, x in given.items() if isinstance(x, float)}


# Of each loss the row with the most options.
WITH_SEVERAL = [
    row
    for row in {row.name: row for row in sorted(ROWS, key=lambda row: len(numbers_of(row)))}.values()
    if len(numbers_of(row)) > 1
]


@rule("1 options match the units from the right", WITH_SEVERAL)
def one_option_traced(row: Row) -> None:
    """Each option may be traced while those beside it are constants."""
    loss, arrays, numbers = row.judged(jl.LOSSES[row.name]), row.make((2,)), numbers_of(row)

    def one_traced(arrays: Any, traced: Any) -> Any:
        one = lambda **options: loss(*arrays, **{**row.options, **numbers, **options}, reduction="none")  # noqa: E731
        return one(), {key: one(**{key: x}) for key, x in traced.items()}

    constant, traced = run(one_traced, arrays, {key: np.float32(x) for key, x in numbers.items()})
    close(traced, dict.fromkeys(numbers, constant), "one option traced", rtol=2e-6)


@rule("1 options match the units from the right", [(row, AxisType.Explicit) for row in of("regression", "focal")[-2:]])
def options_over_devices(row: Row, kind: AxisType) -> None:
    """An option with an axis fits units that are spread over a mesh."""
    key = next(key for name, key in PAIRS if name.id == row.id)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind, kind))
    arrays = row.make((2, 4))
    knob = np.linspace(0.3, 0.9, 4, dtype=np.float32)

    def both(knob: Any, *arrays: Any) -> Any:
        return jax.value_and_grad(lambda k, *a: jl.LOSSES[row.name](*a, **{**row.options, key: k}))(knob, *arrays)

    want = run(both, knob, *arrays)
    spread = [jax.device_put(x, NamedSharding(mesh, P("data", "model"))) for x in arrays]
    for at in (P(), P("model")):
        close(run(both, jax.device_put(knob, NamedSharding(mesh, at)), *spread), want, f"the option over {at}")


@rule(
    "1 options match the units from the right",
    [(key, chunk) for key in ("label_smoothing", "z_loss", "softcap") for chunk in (None, 1, 4)],
    alike=lambda key, chunk: chunk is not None,
)
def options_of_tokens(key: str, chunk: int | None) -> None:
    """The options of linear_cce, whatever its chunks: equal to those of one token at a time, NaN under the mask."""
    rng = np.random.default_rng(0)
    labels, mask = rng.integers(0, 5, (4, 3)), np.arange(12).reshape(4, 3) % 4 != 1
    hidden, kernel = rng.normal(size=(4, 3, 6)).astype(np.float32), rng.normal(size=(6, 5)).astype(np.float32)
    column = np.array(
        {"label_smoothing": [0, 0.2, 0.5], "z_loss": [0, 0.01, 0.5], "softcap": [1, 2, 5]}[key], np.float32
    )
    each = np.stack([column, column[::-1], column, column + np.float32(0.125)])
    spoiled = np.where(mask, each, np.float32(np.nan))

    def call(knob: Any, hidden: Any, kernel: Any, **more: Any) -> Any:
        return jl.linear_cce(labels, hidden, kernel, **{key: knob}, chunk=chunk, **more)

    def singly(knob: Any, hidden: Any, kernel: Any) -> Any:
        def one(y: Any, h: Any, k: Any) -> Any:
            return jl.linear_cce(y, h, kernel, **{key: k})

        return jax.vmap(jax.vmap(one))(labels, hidden, knob)

    def mean_singly(*given: Any) -> Any:
        return jnp.sum(jnp.where(mask, singly(*given), 0)) / float(mask.sum())

    def all_ways(column: Any, each: Any, spoiled: Any, hidden: Any, kernel: Any) -> Any:
        masked = lambda *a: call(*a, where=mask)  # noqa: E731
        got = (
            call(column, hidden, kernel, reduction="none"),
            call(each, hidden, kernel, reduction="none"),
            jax.value_and_grad(masked, (0, 1, 2))(spoiled, hidden, kernel),
            jax.grad(lambda *a: call(*a, where=mask, reduction=jl.mean_of_means((0, 1))), (0, 1))(
                spoiled, hidden, kernel
            ),
        )
        value, slopes = jax.value_and_grad(mean_singly, (0, 1, 2))(each, hidden, kernel)
        want = (
            singly(jnp.broadcast_to(column, (4, 3)), hidden, kernel),
            singly(each, hidden, kernel),
            (value, slopes),
            slopes[:2],
        )
        return got, want

    got, want = run(all_ways, column, each, spoiled, hidden, kernel)
    close(got, want, key, rtol=2e-5, atol=1e-6)
    words = (f"linear_cce: {key} has shape (4,)", "the losses have shape (4, 3)", f"{key}[:, None]")
    refuses(ValueError, words, call, each[:, 0], hidden, kernel)
    refuses(ValueError, (f"linear_cce: {key} has shape (1,)",), call, column[:1], hidden, kernel)


@rule("1 options match the units from the right")
def options_checked() -> None:
    """`checked` says which entry of an option is outside."""
    y, p = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    words = ("huber: delta must be at least 0: 1 of 3 is not, the first at index (1,), which is -1.",)
    refuses(jl.BadValueError, words, jl.checked(jl.huber), y, p, delta=np.array([0.5, -1, 2], np.float32))


@rule(
    "2 several quantiles",
    [("quantile", jl.quantile, (2, 3)), ("expectile", jl.expectile, (2, 3)), ("one axis", jl.quantile, (2,))],
)
def quantiles(_: str, loss: Any, batch: tuple[int, ...]) -> None:
    """Each target serves its predictions at all levels: units (..., Q), as if it were repeated."""
    rng = np.random.default_rng(0)
    levels = np.array([0.1, 0.5, 0.8, 0.9], np.float32)
    y, p = rng.normal(size=batch).astype(np.float32), rng.normal(size=(*batch, 4)).astype(np.float32)
    where, weights = rng.uniform(size=batch) < 0.7, rng.uniform(size=(*batch, 4)).astype(np.float32)

    def both(y: Any, p: Any, levels: Any) -> Any:
        given = {"level": levels, "where": where, "weights": weights}
        return loss(y, p, level=levels, reduction="none"), jax.value_and_grad(loss, (0, 1))(y, p, **given)

    def one_by_one(y: Any, p: Any, levels: Any) -> Any:
        losses = [loss(y, p[..., i], level=levels[i], reduction="none") for i in range(4)]
        return jnp.stack(losses, -1)

    def mean_one_by_one(y: Any, p: Any) -> Any:
        kept = weights * where[..., None]
        return jnp.sum(one_by_one(y, p, levels) * kept) / jnp.sum(kept)

    got, want = run(
        lambda y, p, levels: (
            both(y, p, levels),
            (one_by_one(y, p, levels), jax.value_and_grad(mean_one_by_one, (0, 1))(y, p)),
        ),
        y, p, levels,
    )  # fmt: skip
    close(got, want, "several levels", rtol=2e-6)
    close(loss(y.tolist(), p.tolist(), level=levels.tolist(), reduction="none"), want[0], "lists")
    refuses(ValueError, ("y_true has shape", "y_pred has shape"), loss, y, p, level=levels[:2])
    refuses(ValueError, ("y_true has shape", "y_pred has shape"), loss, y, p, level=0.5)


@rule("2 several quantiles")
def quantiles_over_devices() -> None:
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    y, p = np.zeros(4, np.float32), np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    levels = np.array([0.1, 0.5, 0.8, 0.9], np.float32)
    both = jax.value_and_grad(lambda y, p: jl.quantile(y, p, level=levels), (0, 1))
    spread = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (y, p)]
    close(run(both, *spread), run(both, y, p), "an explicit mesh")


@rule("2 several quantiles")
def quantiles_are_learnt() -> None:
    """Three predictions of one constant converge to three quantiles, not to three medians."""
    y, levels = np.linspace(0, 1, 101, dtype=np.float32), np.array([0.1, 0.5, 0.9], np.float32)

    def step(q: Any, _: Any) -> Any:
        return q - 0.05 * jax.grad(lambda q: 3 * jl.quantile(y, jnp.tile(q, (101, 1)), level=levels))(q), None

    q = jax.jit(lambda q: jax.lax.scan(step, q, None, 400)[0])(jnp.full(3, 0.5))
    np.testing.assert_allclose(q, levels, atol=0.02)


SMALL_WEIGHTS = [
    ("logits", 1.0, -1000.0, True, 1e-3 * 1000),
    ("probabilities", 1.0, 1e-6, False, -1e-3 * math.log(1e-6)),
    ("an infinite logit", 1.0, -np.inf, True, np.inf),
    ("the right one", 1.0, np.inf, True, 0.0),
]


@rule("2 small weights of the positive class", SMALL_WEIGHTS)
def small_positive_weights(_: str, y: float, score: float, from_logits: bool, want: float) -> None:
    value, slope = jax.value_and_grad(lambda s: jl.bce(y, s, from_logits=from_logits, pos_weight=1e-3))(
        np.float32(score)
    )
    if np.isinf(want):
        assert value == want
        assert np.isfinite(slope)
    else:
        close(value, np.float32(want), "the loss", rtol=3e-7)


@rule("2 small weights of the positive class")
def weights_at_infinite_logits() -> None:
    """Learnt, like label smoothing: no NaN where a term is 0 times infinity."""
    for y, z, want in ((0.0, -np.inf, 0), (1.0, np.inf, 0), (0.0, np.inf, 0), (1.0, -np.inf, np.inf)):

        def call(weight: Any, smoothing: Any, y: float = y, z: float = z) -> Any:
            return jl.bce(y, z, from_logits=True, pos_weight=weight, label_smoothing=smoothing)

        by_weight, by_smoothing = jax.grad(call, (0, 1))(np.float32(2), np.float32(0))
        assert by_weight == want
        assert np.isfinite(by_smoothing)


# ---------------------------------------------------------------------------------------------------------------------
# What counts as a number

LABELS = np.array([0, 2])
SCORES = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], np.float32)
HOT = np.eye(3, dtype=np.float32)[LABELS]
ONES = np.ones(2, np.float32)


class Parameter:
    """As `flax.nnx.Param`: an array to jax.numpy, which can also be called and be an array to NumPy."""

    def __init__(self, value: Any) -> None:
        self.value = jnp.asarray(value)

    def __jax_array__(self) -> Any:
        return self.value

    def __array__(self, *_: Any) -> np.ndarray:
        raise AssertionError("copied to the host")

    def __call__(self) -> None:
        raise AssertionError("called")

    __hash__ = None  # pyright: ignore


SAME: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any], dict[str, Any]]] = [
    ("np.float64", jl.huber, (ONES, 3 * ONES), {"delta": np.float64(1.5)}, {"delta": 1.5}),
    ("np.float32", jl.huber, (ONES, 3 * ONES), {"delta": np.float32(1.5)}, {"delta": 1.5}),
    ("bfloat16", jl.huber, (ONES, 3 * ONES), {"delta": jnp.bfloat16(1.5)}, {"delta": 1.5}),
    ("np.int64", jl.huber, (ONES, 3 * ONES), {"delta": np.int64(1)}, {"delta": 1}),
    ("0-d array", jl.huber, (ONES, 3 * ONES), {"delta": np.array(1.5)}, {"delta": 1.5}),
    ("0-d integers", jl.huber, (ONES, 3 * ONES), {"delta": np.array(1)}, {"delta": 1}),
    ("np.True_", jl.sparse_cce, (LABELS, SCORES), {"from_logits": np.True_}, {"from_logits": True}),
    ("0-d bool", jl.sparse_cce, (LABELS, SCORES), {"from_logits": np.array(True)}, {"from_logits": True}),
    ("bool of jax", jl.sparse_cce, (LABELS, SCORES), {"from_logits": jnp.array(True)}, {"from_logits": True}),
    ("np.str_", jl.mse, (ONES, SCORES[0, :2]), {"reduction": np.str_("sum")}, {"reduction": "sum"}),
    ("axis", jl.cce, (HOT.T, SCORES.T), {"axis": np.int64(0)}, {"axis": 0}),
    ("Parameter as option", jl.huber, (ONES, 3 * ONES), {"delta": Parameter(1.5)}, {"delta": 1.5}),
    ("Parameter as class weights", jl.cce, (HOT, SCORES), {"class_weights": Parameter([1.0, 2, 3])},
     {"class_weights": [1.0, 2, 3]}),
    ("Parameter as weights", jl.mse, (ONES, 3 * ONES), {"weights": Parameter(ONES)}, {}),
    ("limit", jl.generalized_cce, (HOT, SCORES), {"power": np.float64(0)}, {"power": 0}),
    ("long double", jl.huber, (ONES, 3 * ONES), {"delta": np.longdouble(1.5)}, {"delta": 1.5}),
    ("long doubles", jl.mse, (ONES, 3 * ONES), {"weights": ONES.astype(np.longdouble)}, {}),
    ("bytes in the order of a file", jl.mse, (ONES, 3 * ONES), {"weights": ONES.astype(">f4")}, {}),
    ("masked array without a mask", jl.mse, (ONES, 3 * ONES), {"weights": np.ma.array(ONES)}, {}),
]  # fmt: skip


@rule("3 NumPy scalars are numbers", SAME)
def scalars(_: str, loss: Callable[..., Any], arrays: Any, given: dict[str, Any], plain: dict[str, Any]) -> None:
    """What NumPy, jax and flax give for a number, a bool or a string is one; in `checked` as well."""
    want = loss(*arrays, **plain)
    close(loss(*arrays, **given), want, "as given")
    close(jl.checked(loss)(*arrays, **given), want, "checked")
    close(jax.jit(lambda *arrays: loss(*arrays, **given))(*arrays), want, "compiled")


@rule("3 NumPy scalars are numbers")
def axes_as_lists() -> None:
    """Several axes may be a list, a range or an array."""
    arrays = np.zeros((1, 2, 2), np.float32), np.full((1, 2, 2), 0.5, np.float32)
    want = jl.dice(*arrays, axis=(1, 2))
    for axis in ([1, 2], range(1, 3), np.array([1, 2]), (np.int64(1), 2)):
        given: Any = {"axis": axis}
        close(loss_of_axes(*arrays, **given), want * 0, "another form of axes")


@kit.loss
def loss_of_axes(y_true: Any, y_pred: Any, *, axis: int | tuple[int, ...], **units: Any) -> Any:
    assert axis == (1, 2)
    return kit.losses(lambda y, p: y, {"y_true": (y_true, kit.NUMBER), "y_pred": (y_pred, kit.NUMBER)})


@rule(
    "3 NumPy scalars are numbers",
    [(np.dtype(x.dtype).name, x) for x in (np.float64(7.5), np.float32(7.5), np.int64(7))],
)
def scalars_out_of_range(_: str, level: Any) -> None:
    """Such a number outside its range is refused at once, as that of Python is: the first time and the next."""
    for _again in range(2):
        refuses(ValueError, ("quantile: level must be between 0 and 1, got 7",), jl.quantile, ONES, ONES, level=level)
    with pytest.raises(ValueError, match=r"level must be between 0 and 1"):
        jax.jit(lambda p: jl.quantile(ONES, p, level=level))(ONES)


@rule("3 NumPy scalars are numbers")
def no_program_for_each_float() -> None:
    """Floats of NumPy are traced: another value is no other program."""
    traces = []

    def counted(losses: Any, weights: Any) -> Any:
        traces.append(losses)
        return jnp.sum(losses)

    for delta in np.linspace(0.1, 0.9, 3):
        jl.huber(ONES, ONES, delta=delta, reduction=counted)
    assert len(traces) == 1


@rule("3 NumPy scalars are numbers")
def nothing_is_transferred() -> None:
    """An array on a device stays there, whatever holds it."""
    inputs = Parameter(ONES), Parameter(3 * ONES)
    options = {"delta": Parameter(0.5)}
    want = jl.huber(*inputs, **options)
    with jax.transfer_guard("disallow"):
        got = jl.huber(*inputs, **options)
    close(got, want, "under a transfer guard")


BEYOND = [
    ("list", jl.mae, ([3_000_000_000], [3e9]), {}, 0.0),
    ("a number", jl.mae, (3_000_000_000, 3e9), {}, 0.0),
    ("int64", jl.mae, (np.array([-(2**62)]), np.array([2.0**62], np.float32)), {}, 2.0**63),
    ("uint64", jl.mae, (np.array([2**64 - 2**40], np.uint64), np.zeros(1, np.float32)), {}, 2.0**64 - 2.0**40),
    ("beyond 64 bits", jl.mae, ([2**70], [0.0]), {}, 2.0**70),
    ("weights", jl.mae, ([0.0, 1.0], [1.0, 2.0]), {"weights": [2**31, 2**33], "reduction": "sum"}, 2.0**31 + 2.0**33),
    ("an option", jl.huber, ([0.0], [1e10]), {"delta": 2**31}, 2.0**31 * (1e10 - 2.0**30)),
    ("an option in a list", jl.huber, ([0.0], [1e10]), {"delta": [2**31]}, 2.0**31 * (1e10 - 2.0**30)),
]


@rule("4 integers do not wrap", BEYOND)
def integers(_: str, loss: Callable[..., Any], arrays: Any, options: dict[str, Any], want: float) -> None:
    """Where a number is wanted an integer of any size is one, eagerly and compiled."""
    close(loss(*arrays, **options), np.float64(want), "eager")
    close(jax.jit(lambda: loss(*arrays, **options))(), np.float64(want), "compiled")


@rule(
    "4 integers do not wrap",
    [("list", [2**32, 1]), ("int64", np.array([-(2**32), 1])), ("uint64", np.array([2**63, 1], np.uint64))],
)
def labels_beyond(_: str, labels: Any) -> None:
    """A label that would wrap around to a class is outside the domain."""
    losses, slope = jax.value_and_grad(
        lambda p: (jl.sparse_cce(labels, p, reduction="sum"), jl.sparse_cce(labels, p, reduction="none")), has_aux=True
    )(SCORES)
    assert np.isnan(losses[1][0])
    assert losses[1][1] == np.float32(np.log(2))
    assert (slope[0] == 0).all()
    refuses(jl.BadValueError, ("y_true must be in 0..2: 1 of 2 is not",), jl.checked(jl.sparse_cce), labels, SCORES)


OF_TARGETS = [(name,) for name in ("cce", "categorical_focal", "poly1", "generalized_cce")]


@rule("4 dtypes that differ", OF_TARGETS)
def targets_wider_than_logits(name: str) -> None:
    """As `jax.nn.one_hot` makes them where jax has 64 bits."""
    z, y = np.array([[0.0, 1.0, 2.0]], np.float32), np.eye(3)[[1]]

    def slope(y: Any, z: Any) -> Any:
        return jax.grad(lambda z: getattr(jl, name)(y, z, from_logits=True))(z)

    with x64():
        got = slope(y, z)
    close(got, slope(y.astype(np.float32), z), "the gradient", rtol=2e-6)


@rule("4 dtypes that differ")
def learnt_margins() -> None:
    y, z, margin = np.array([1, -1], np.float32), np.array([0.5, 0.5], np.float32), np.float32(1)
    with x64():
        for loss, slope in ((jl.hinge, 1.0), (jl.squared_hinge, 2.0)):
            close(jax.grad(lambda m, loss=loss: loss(y, z, margin=m))(margin), np.float32(slope), loss.__name__)


# ---------------------------------------------------------------------------------------------------------------------
# Names and errors

KEYWORDS = [
    (jl.mse, "sample_weight", "weights?"),
    (jl.mse, "weight", "weights?"),
    (jl.sparse_cce, "weight", "class_weights, one for each class, or weights"),
    (jl.poly1, "class_weights", "weights=class_weights[y_true]?"),
    (jl.binary_focal, "pos_weight", "alpha?"),
    (jl.multilabel_soft_margin, "pos_weight", "weights=jnp.where(y_true > 0, pos_weight, 1)?"),
    (jl.poisson_nll, "y_pred", "rate?"),
    (jl.laplace_nll, "y_pred", "location?"),
    (jl.ctc, "target_lengths", "label_lengths?"),
    (jl.ctc, "zero_infinity", 'infeasible="zero"?'),
    (jl.sup_con, "y_true", "labels?"),
    (jl.kl_divergence, "log_target", "from_logs=True?"),
    (jl.quantile, "tau", "level?"),
    (jl.nt_xent, "tau", "temperature?"),
    (jl.nll, "from_logits", "jax.nn.log_softmax(logits)"),
    (jl.js_divergence, "from_logits", "jax.nn.softmax(logits)"),
    (jl.hinge, "from_logits", "Leave it out"),
    (jl.sparse_focal, "label_smoothing", "Use categorical_focal"),
    (jl.dpo, "reference_free", "simpo and orpo"),
    (jl.mse, "mask", "where?"),
    (jl.sparse_cce, "ignore_index", "where=y_true != ignore_index?"),
    (jl.mse, "predictions", "y_pred?"),
    (jl.cce, "labels", "y_true?"),
    (jl.bce, "logits", "y_pred, with from_logits=True"),
    (jl.triplet, "labels", "It takes anchor, positive, negative"),
    (jl.huber, "dleta", "delta?"),
    (jl.bce, "from_logit", "from_logits?"),
    (jl.cce, "label_smooth", "label_smoothing?"),
    (jl.mse, "nonsense", "It takes y_true, y_pred, weights, where, reduction."),
]


@rule("8 keywords and names", [(key, loss, cure) for loss, key, cure in KEYWORDS])
def keywords(key: str, loss: Callable[..., Any], cure: str) -> None:
    words = (f"{loss.__name__}() got an unexpected keyword argument '{key}'.", cure)
    refuses(TypeError, words, loss, ONES, ONES, **{key: 1})


NAMES = [
    ("cross_entropy", "sparse_cce"),
    ("l1_loss", "mae"),
    ("kl_div", "kl_divergence"),
    ("nll_loss", "nll"),
    ("binary_cross_entropy_with_logits", "bce(..., from_logits=True)"),
    ("softmax_cross_entropy_with_integer_labels", "sparse_cce(..., from_logits=True)"),
    ("squared_error", "mse"),
    ("SparseCategoricalCrossentropy", "sparse_cce"),
    ("MeanSquaredError", "mse"),
    ("CTCLoss", "ctc"),
    ("hubr", "huber"),
    ("focal_loss", "binary_focal, categorical_focal or sparse_focal?"),
    ("l2_loss", "mse, which is twice"),
    ("ppo", "grpo"),
    ("giou_loss", "giou?"),
    ("DiceLoss", "dice?"),
    ("pinball_loss", "quantile?"),
    ("xent", "sparse_cce(..., from_logits=True)?"),
    ("SupConLoss", "sup_con?"),
]


@rule("8 keywords and names", NAMES)
def names(name: str, ours: str) -> None:
    refuses(AttributeError, (f"module 'jaxloss' has no attribute '{name}'. Did you mean {ours}",), getattr, jl, name)


@rule("8 keywords and names")
def one_table() -> None:
    """Each name that a docstring agrees with is in the table, and each loss of the table exists."""
    for library, table in NAMES_OF.items():
        for name, (ours, _) in table.items():
            assert ours in jl.LOSSES, (library, name)
    known = {name.split(".")[-1] for table in NAMES_OF.values() for name in table}
    for ours, loss in jl.LOSSES.items():
        text = " ".join((loss.__doc__ or "").split()).partition("Source:")[2]
        found = re.findall(r"\b(?:keras\.losses|torch\.nn\.functional|optax(?:\.losses)?)\.(\w+)", text)
        assert set(found) <= known, f"{ours}: {set(found) - known}"
    assert not hasattr(jl, "__wrapped__")
    assert set(dir(jl)) >= set(jl.__all__)


Mistake = tuple[str, type[Exception], Callable[..., Any], tuple[Any, ...], dict[str, Any], tuple[str, ...]]
MISTAKES: list[Mistake] = [
    ("swapped labels", TypeError, jl.sparse_cce, (SCORES, LABELS), {}, ("y_true", "float32", "swapped?")),
    ("swapped targets", TypeError, jl.cce, (SCORES, HOT.astype(int)), {}, ("y_pred", "int32", "swapped?")),
    ("float labels", TypeError, jl.sparse_cce, (ONES, SCORES), {}, ("y_true", "float32", "y_true.astype(int)")),
    ("one-hot", TypeError, jl.sparse_cce, (HOT, SCORES), {}, ("y_true", "float32", "use cce")),
    ("labels to kl_divergence", ValueError, jl.kl_divergence, (LABELS, SCORES), {},
     ("(2,)", "(2, 3)", "jax.nn.one_hot(y_true, 3)")),
    ("labels to cce", ValueError, jl.cce, (LABELS, SCORES), {}, ("(2,)", "(2, 3)", "use sparse_cce")),
    ("classes first", ValueError, jl.dice, (np.zeros((2, 5, 5), int), np.ones((2, 3, 5, 5), np.float32)), {},
     ("(2, 5, 5)", "(2, 3, 5, 5)", "did you mean class_axis=1?")),
    ("a mask of floats for one class", ValueError, jl.dice, (np.ones((2, 4, 4)), np.ones((2, 4, 4, 1), np.float32)), {},
     ("(2, 4, 4, 1)", "y_pred.squeeze(-1)?", "class_axis=None as well")),
    ("labels to bce", ValueError, jl.bce, (LABELS, SCORES), {}, ("use sparse_cce, or jax.nn.one_hot(y_true, K)",)),
    ("time first", ValueError, jl.ctc, (np.ones((2, 3), int), np.zeros((7, 2, 5), np.float32)), {},
     ("did you mean logits.swapaxes(0, 1)?",)),
    ("targets last", ValueError, jl.contrastive, (SCORES, SCORES, LABELS), {}, ("y_true comes first here",)),
    ("embeddings first", TypeError, jl.sup_con, (SCORES, LABELS), {}, ("labels and embeddings swapped?",)),
    ("logits first", TypeError, jl.ctc, (np.zeros((2, 7, 5), np.float32), np.ones((2, 3), int)), {},
     ("labels and logits swapped?",)),
    ("a single vector", ValueError, jl.info_nce, (ONES, ONES), {}, ("keys, which has shape (2,)", "members")),
    ("a reduction of PyTorch", ValueError, jl.kl_divergence, (SCORES, SCORES), {"reduction": "batchmean"},
     ("got 'batchmean'", 'mean "mean"?')),
    ("no reduction", ValueError, jl.mse, (ONES, ONES), {"reduction": None}, ("got None", 'mean "none"?')),
    ("axis forgotten", ValueError, jl.sparse_cce, (np.zeros((2, 8, 8), int), np.zeros((2, 3, 8, 8), np.float32)), {},
     ("(2, 8, 8)", "(2, 3, 8, 8)", "did you mean axis=1?")),
    ("labels of (n, 1)", ValueError, jl.kl_divergence, (LABELS[:, None], SCORES), {},
     ("(2, 1)", "(2, 3)", "y_true.squeeze(-1)")),
    ("a scalar variance", ValueError, jl.gaussian_nll, (ONES, ONES, 1.0), {},
     ("variance has shape ()", "jnp.broadcast_to(variance, (2,))")),
    ("a mask for one class", ValueError, jl.dice, (np.ones((2, 4), int), np.ones((2, 4, 1), np.float32)), {},
     ("(2, 4)", "(2, 4, 1)", "y_pred.squeeze(-1)?", "class_axis=None as well")),
    ("a reduction that is not made", TypeError, jl.mse, (ONES, ONES), {"reduction": jl.mean_of_means},
     ("the class mean_of_means", "mean_of_means()?")),
    ("ragged", ValueError, jl.mse, ([[1.0], [1.0, 2.0]], ONES), {}, ("y_true is no array", "Pad its rows", "where=")),
    ("mask by position", TypeError, jl.mse, (ONES, ONES, ONES > 0), {}, ("2 arrays by position", "where=mask")),
    ("weights of (n, 1)", ValueError, jl.mse, (SCORES, SCORES), {"weights": np.ones((2, 1))},
     ("(2, 1)", "(2, 3)", "weights.squeeze(-1)")),
    ("weights of columns", ValueError, jl.mse, (SCORES, SCORES), {"weights": np.ones(3)},
     ("(3,)", "(2, 3)", "jnp.broadcast_to(weights, (2, 3))")),
    ("list of strings", TypeError, jl.mse, (["a", "b"], ONES), {}, ("y_true", "'a'", "np.unique(y_true")),
    ("array of strings", TypeError, jl.sparse_cce, (np.array(["a", "b"]), SCORES), {}, ("y_true", "'a'", "np.unique")),
    ("objects", TypeError, jl.mse, (np.array([1, object()], object), ONES), {}, ("y_true", "holds object")),
    ("missing", TypeError, jl.sparse_cce, ([0, None], SCORES), {}, ("y_true", "NoneType", "where=")),
    ("missing in a tuple", TypeError, jl.sparse_cce, ((0, None), SCORES), {}, ("y_true", "NoneType", "where=")),
    ("dates", TypeError, jl.mse, (ONES, np.array(["2020", "2021"], "M8[D]")), {}, ("y_pred", "dates", "timedelta64")),
    ("masked array", TypeError, jl.mse, (np.ma.array(ONES, mask=[False, True]), ONES), {},
     ("y_true", "masked array", "y_true.data, with where=~y_true.mask")),
    ("masked weights", TypeError, jl.mse, (ONES, ONES), {"weights": np.ma.array(ONES, mask=[False, True])},
     ("weights", "masked array")),
    ("sparse", TypeError, jl.mse, (ONES, scipy.sparse.coo_array([1.0, 0])), {},
     ("y_pred", "coo_array", "y_pred.todense()")),
    ("a key", TypeError, jl.mse, (jax.random.key(0), ONES), {}, ("y_true", "jax.random")),
    ("a dict", TypeError, jl.cce, (HOT, SCORES), {"class_weights": {0: 1.0}}, ("class_weights", "dict")),
    ("outputs of a model", TypeError, jl.mse, (ONES, {"logits": ONES}), {}, ("y_pred", "dict", "'logits'")),
    ("several results", TypeError, jl.mse, (ONES, (ONES, None)), {}, ("y_pred is a tuple", "y_pred[0]?")),
    ("an advantage for each sequence", ValueError, jl.grpo, (ONES, -SCORES, -SCORES), {},
     ("advantages has shape (2,)", "jnp.broadcast_to(advantages[:, None], (2, 3))?")),
    ("an option as text", TypeError, jl.huber, (ONES, ONES), {"delta": "1"}, ("delta must be a number", "'1'")),
    ("an option of None", TypeError, jl.huber, (ONES, ONES), {"delta": None}, ("delta must be a number", "None")),
    ("a flag of None", TypeError, jl.bce, (ONES, ONES), {"from_logits": None},
     ("from_logits must be True or False", "None")),
    ("a flag as text", TypeError, jl.bce, (ONES, ONES), {"from_logits": "no"},
     ("from_logits must be True or False", "'no'")),
    ("a traced constant", TypeError, jax.jit(jl.sparse_cce), (LABELS, SCORES), {"from_logits": True},
     ("from_logits must be a constant", "functools.partial(sparse_cce, from_logits=...)")),
    ("a traced axis", TypeError, jax.jit(jl.cce), (HOT, SCORES), {"axis": -1}, ("axis must be a constant",)),
    ("jnp.max", ValueError, jl.mse, (ONES, ONES), {"reduction": jnp.max}, ('"mean"', "lambda losses, weights")),
    ("jnp.average", ValueError, jl.mse, (ONES, ONES), {"reduction": jnp.average}, ('"mean"', "lambda losses, weights")),
]  # fmt: skip


@rule("9 errors say the cure")
def classes_of_others_reduce() -> None:
    class Both(NamedTuple):
        losses: Any
        weights: Any

    found = jl.mse(ONES, 2 * ONES, reduction=Both)
    close((found.losses, found.weights), (ONES, ONES), "a named tuple is a function")


@rule("9 errors say the cure", MISTAKES)
def mistakes(
    _: str,
    error: type[Exception],
    call: Callable[..., Any],
    arrays: tuple[Any, ...],
    options: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    """Loss, argument, what was given, what is expected, the cure; in `checked` the same."""
    words = (call.__name__, *words)
    refuses(error, words, call, *arrays, **options)
    if call in jl.LOSSES.values() and not any(isinstance(x, np.ndarray) and x.dtype.kind in "UOM" for x in arrays):
        refuses(error, words, jl.checked(call), *arrays, **options)


FOUND = [
    ("logits", jl.sparse_cce, (LABELS, 8 * SCORES), {}, ("y_pred must be in [0, 1]", "from_logits=True")),
    ("logits to bce", jl.bce, (ONES, -ONES), {}, ("y_pred must be in [0, 1]", "from_logits=True")),
    (
        "logits to kl_divergence",
        jl.kl_divergence,
        (HOT, 8 * SCORES - 3),
        {},
        ("y_pred must be in [0, 1]", "jax.nn.softmax(logits)"),
    ),
    ("swapped values", jl.cce, (8 * SCORES - 3, HOT), {"from_logits": True}, ("y_true must be in [0, 1]",)),
    ("ignored labels", jl.sparse_cce, (np.array([-100, 1]), SCORES), {}, ("in 0..2", "-100", "where=y_true != -100")),
]


@rule("9 errors say the cure", FOUND)
def found_by_checked(_: str, loss: Any, arrays: Any, options: dict[str, Any], words: tuple[str, ...]) -> None:
    """What only values tell is NaN, and `checked` says the cure."""
    assert np.isnan(loss(*arrays, **options))
    refuses(jl.BadValueError, (loss.__name__, *words), jl.checked(loss), *arrays, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Domains

HALVES = np.full((3, 2), 0.5, np.float32)
LOGIT_ROWS = np.array([[0.5, -1.0], [2.0, 0.0], [-0.5, 1.5]], np.float32)
PAIR = np.eye(2, dtype=np.float32)[[0, 1, 0]]
CLASS = np.array([0, 1, 0])
FROM_LOGITS = {"from_logits": True}

OUTSIDE: list[Any] = [
    ("y_true", name, options, arrays, 0, bad)
    for name, options, arrays, bad in (
        ("bce", {}, (HALVES[:, 0], HALVES[:, 0]), [-2.0, 1.5, np.inf]),
        ("bce", FROM_LOGITS, (HALVES[:, 0], LOGIT_ROWS[:, 0]), [-1.0, 2.0, -np.inf]),
        ("binary_focal", {}, (HALVES[:, 0], HALVES[:, 0]), [-2.0, 1.5]),
        ("binary_focal", FROM_LOGITS, (HALVES[:, 0], LOGIT_ROWS[:, 0]), [-1.0, 2.0]),
        *((name, {}, (PAIR, HALVES), [-1.0]) for name in ("cce", "categorical_focal", "poly1", "generalized_cce")),
        *((name, FROM_LOGITS, (PAIR, LOGIT_ROWS), [-1.0]) for name in ("cce", "categorical_focal", "poly1")),
        ("kl_divergence", {}, (HALVES, HALVES), [-0.5, 1.5]),
        ("kl_divergence", {"from_logs": True}, (np.log(HALVES), np.log(HALVES)), [0.5]),
        ("js_divergence", {}, (HALVES, HALVES), [-0.5, 1.5]),
        ("total_variation", {}, (HALVES, HALVES), [-0.5, 1.5]),
    )
] + [
    ("y_pred", name, options, arrays, 1, bad)
    for name, options, arrays, bad in (
        ("bce", {}, (HALVES[:, 0], HALVES[:, 0]), [-2.0, 1.5]),
        ("binary_focal", {}, (HALVES[:, 0], HALVES[:, 0]), [-2.0, 1.5]),
        *((name, {}, (PAIR, HALVES), [-0.5, 1.5, 30.0]) for name in ("cce", "categorical_focal", "poly1")),
        ("generalized_cce", {}, (PAIR, HALVES), [-0.5, 1.5]),
        ("sparse_cce", {}, (CLASS, HALVES), [-0.5, 1.5, 30.0]),
        ("sparse_cce", {"label_smoothing": 0.1}, (CLASS, HALVES), [-0.5, 1.5]),
        ("nll", {}, (0 * CLASS, np.log(HALVES)), [0.5]),
        ("kl_divergence", {}, (HALVES, HALVES), [-0.5, 1.5]),
        ("js_divergence", {"from_logs": True}, (np.log(HALVES), np.log(HALVES)), [0.5]),
        ("total_variation", {}, (HALVES, HALVES), [-0.5, 1.5]),
    )
]  # fmt: skip


@rule("5 outside the domain is NaN, with zero gradient", OUTSIDE)
def outside(_: str, name: str, options: dict[str, Any], arrays: tuple[Any, ...], which: int, bad: list[float]) -> None:
    """The unit is NaN and gets no gradient, where one entry is outside; the others do not notice."""
    loss = jl.LOSSES[name]
    given = [np.stack([x] * len(bad)) for x in arrays]
    for spoiled, value in zip(given[which], bad, strict=True):
        spoiled[(1, *[0] * (spoiled.ndim - 1))] = value
    floats = tuple(i for i, x in enumerate(arrays) if x.dtype.kind == "f")

    def of_one(*arrays: Any) -> Any:
        losses = lambda *a: loss(*a, **options, reduction="none")  # noqa: E731
        return losses(*arrays), jax.grad(lambda *a: jnp.sum(losses(*a)), floats)(*arrays)

    (good, good_slopes), (losses, slopes) = run(lambda a, b: (of_one(*a), jax.vmap(of_one)(*b)), arrays, given)
    assert np.isnan(losses[:, 1]).all(), losses
    close(losses[:, [0, 2]], np.stack([good[[0, 2]]] * len(bad)), "the other units")
    by_entry = jl.LOSSES[name].__module__.endswith("divergence")
    for i, of_good, of_all in zip(floats, good_slopes, slopes, strict=True):
        close(of_all[:, [0, 2]], np.stack([of_good[[0, 2]]] * len(bad)), "the gradient of the other units")
        if not by_entry:
            assert (of_all[:, 1] == 0).all(), of_all
        elif i == which:
            assert (of_all[:, 1, 0] == 0).all(), of_all


def test_legal_targets():
    """Sums other than 1, entries above 1, and rounding are inside."""
    assert np.isfinite(jl.cce([[2.0, 0.0], [0.2, 0.3]], HALVES[:2], reduction="none")).all()
    p = np.array([1 + 2e-7, 0], np.float32)
    assert np.isfinite(jl.bce(p, p, reduction="none")).all()
    assert np.isfinite(jl.sparse_cce([0], np.array([[1.0, 0.003]], jnp.bfloat16)))
    assert jl.bce([1.0, 1.0], [0.5, 0.5], weights=[2.0, -1.0], reduction="sum") == np.float32(np.log(2))
    jl.checked(jl.bce)([1.0, 1.0], [0.5, 0.5], weights=[2.0, -1.0])


@rule("5 outside the domain is NaN, with zero gradient", [
    ("uint8 bce", jl.bce, (np.array([0, 255], np.uint8), np.array([-2, 3], np.float32)), FROM_LOGITS, [False, True]),
    ("int8 bce", jl.bce, (np.array([-1, 1], np.int8), np.array([0.4, 0.6], np.float32)), {}, [True, False]),
    ("relu", jl.sparse_cce, ([0, 1], [[3.0, 0, 1], [0, 2, 5]]), {}, [True, True]),
    ("negative target", jl.cce, ([[-1.0, 0.0]], [[0.9, 0.1]]), {}, [True]),
])  # fmt: skip
def outside_as_found(_: str, loss: Any, arrays: Any, options: dict[str, Any], bad: list[bool]) -> None:
    assert np.isnan(loss(*arrays, **options, reduction="none")).tolist() == bad


BEYOND_RANGE = {
    "delta": [-1.0, np.nan],
    "beta": [-1.0],
    "gamma": [-1.0],
    "alpha": [-1.0],
    "level": [-0.5, 2.0],
    "label_smoothing": [-0.5, 1.5],
    "pos_weight": [-1.0],
    "power": [-0.5, 1.5],
    "weight": [-0.5, 1.5],
    "temperature": [0.0, -1.0],
    "scale": [0.0, -1.0],
    "eps": [-1.0],
    "margin": [-1.0],
    "df": [0.0],
}

OUT_OF_RANGE = [
    (row, key)
    for row, key in PAIRS + options_of(of("robust", "likelihood", "margin", "relative"))
    if key in BEYOND_RANGE and key not in row.names
    if (row.name, key) not in {("barron", "alpha"), ("multi_margin", "power")}  # any number; no array
]


@rule("5 outside the domain is NaN, with zero gradient", OUT_OF_RANGE, alike=lambda row, key: same_family(row))
def option_outside(row: Row, key: str) -> None:
    """A traced option outside its range makes its units NaN, and neither they nor it have a gradient from there."""
    loss, arrays = jl.LOSSES[row.name], row.make((3,))
    inside, fixed = np.array(KNOBS[key], np.float32), {k: v for k, v in row.options.items() if k != key}
    bad = [*BEYOND_RANGE[key]]
    try:  # what is refused as a constant is outside when it is traced, too
        loss(*arrays, **fixed, **{key: np.inf})
    except ValueError:
        bad.append(np.inf)

    def both(knob: Any, arrays: Any) -> Any:
        losses = lambda k, *a: loss(*a, **fixed, **{key: k}, reduction="none")  # noqa: E731
        by = (0, *(i + 1 for i in row.differentiable))
        return losses(knob, *arrays), jax.grad(lambda *a: jnp.sum(losses(*a)), by)(knob, *arrays)

    spoiled = np.stack([inside] * len(bad))
    spoiled[:, 1] = bad
    (good, slopes), (losses, of_all) = run(
        lambda a, b, arrays: (both(a, arrays), jax.vmap(lambda k: both(k, arrays))(b)), inside, spoiled, arrays
    )
    kept = [0, 2]
    assert np.isnan(losses[:, 1]).all(), losses
    close(losses[:, kept], np.stack([good[kept]] * len(bad)), "the other units")
    for g, of_one in zip(of_all, slopes, strict=True):
        assert (g[:, 1] == 0).all(), f"gradient {g[:, 1]}"
        close(g[:, kept], np.stack([of_one[kept]] * len(bad)), "the gradient of the other units")


@rule("5 outside the domain is NaN, with zero gradient", ["mse", "sparse_cce", "linear_cce"])
def negative_weights(name: str) -> None:
    """Negative weights, as of advantages, are legal: they turn the sign, and `checked` does not complain."""
    labels, kernel = np.array([0, 2, 1]), np.eye(3, dtype=np.float32)
    y, loss = {
        "mse": (np.array([0.5, -1, 2], np.float32), lambda y, z, **units: jl.mse(y, z[:, 0], **units)),
        "sparse_cce": (labels, functools.partial(jl.sparse_cce, from_logits=True)),
        "linear_cce": (labels, lambda y, z, **units: jl.linear_cce(y, z, kernel, **units)),
    }[name]
    z, w = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32), np.array([-2, 1, -0.5], np.float32)
    each = np.asarray(loss(y, z, reduction="none"))
    slopes = np.asarray(jax.grad(lambda z: jnp.sum(loss(y, z, reduction="none")))(z))  # each row is of its own unit
    for reduction, total in (("sum", 1), ("mean", w.sum())):
        of = functools.partial(loss, y, weights=w, reduction=reduction)
        want = (w * each).sum() / total, w[:, None] * slopes / total
        close(run(jax.value_and_grad(of), z), want, reduction, rtol=1e-5)
        close(jl.checked(of)(z), want[0], f"checked, {reduction}", rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Layouts

IMAGE_LABELS = np.random.default_rng(0).integers(0, 3, (2, 4, 5))
IMAGE_HOT = np.eye(3, dtype=np.float32)[IMAGE_LABELS]
IMAGE_LOGITS = np.random.default_rng(1).normal(size=(2, 4, 5, 3)).astype(np.float32)
OF_IMAGES = [(row.name, {} if row.name == "lovasz_hinge" else FROM_LOGITS) for row in of("segmentation")]


@rule("6 layouts", OF_IMAGES, alike=lambda name, options: bool(options))
def layouts(name: str, options: dict[str, Any]) -> None:
    """Classes last or first, one-hot or labels: the same number. What cannot be told is refused with the cure."""
    loss, first = jl.LOSSES[name], lambda x: np.moveaxis(x, -1, 1)
    pixels, per_class = distinct((2, 4, 5)), np.array([1, 2, 4], np.float32)

    def both(z: Any, y: Any, **given: Any) -> Any:
        return jax.value_and_grad(lambda z: loss(y, z, **options, **given))(z)

    def all_ways(z: Any, z_first: Any) -> Any:
        return (
            both(z, IMAGE_HOT),
            both(z, IMAGE_LABELS),
            both(z_first, first(IMAGE_HOT), class_axis=1),
            both(z_first, IMAGE_LABELS, class_axis=1),
            both(z, IMAGE_HOT, axis=(1, 2)),
            both(z, IMAGE_LABELS, pixel_weights=np.full((2, 4, 5), 3, np.float32)),
            both(z, IMAGE_LABELS, pixel_weights=pixels, class_weights=per_class),
            both(z_first, IMAGE_LABELS, pixel_weights=pixels, class_weights=per_class, class_axis=-3),
            # Two rows of pixels that exist, and four of which the others weigh nothing.
            both(z, IMAGE_LABELS, pixel_weights=np.broadcast_to(np.array([1, 0, 1, 0.0])[:, None], (2, 4, 5))),
            both(z, IMAGE_LABELS, where=np.broadcast_to(np.array([1, 0, 1, 0], bool)[:, None], (2, 4, 5))),
            loss(IMAGE_LABELS, z, **options, reduction="none"),
            loss(IMAGE_LABELS, z, **options, class_weights=per_class, reduction="none"),
        )

    plain, labels, hot_first, labels_first, named, same, weighed, weighed_first, none, masked, each, by_class = run(
        all_ways, IMAGE_LOGITS, first(IMAGE_LOGITS)
    )
    back = lambda found: (found[0], np.moveaxis(found[1], 1, -1))  # noqa: E731
    for got, what in (
        (labels, "labels"),
        (back(hot_first), "classes first"),
        (back(labels_first), "labels, classes first"),
        (named, "pixels by name"),
        (same, "equal weights of all pixels"),
    ):
        close(got, plain, what, rtol=3e-6)
    close(back(weighed_first), weighed, "weights, classes first", rtol=3e-6)
    close(none[0], masked[0], "pixels that weigh nothing", rtol=3e-6)
    close(none[1], masked[1], "the gradient of pixels that weigh nothing", rtol=3e-6, atol=1e-6)
    if name != "generalized_dice":
        close(by_class, each * per_class, "weights of classes")
    else:
        assert np.isfinite(by_class).all()
        assert (by_class != each).any()
    if options:
        words = (f"{name}: axis (2, 3)", "class_axis=1 in (batch, classes, height, width)")
        refuses(ValueError, words, loss, first(IMAGE_HOT), first(IMAGE_LOGITS), axis=(2, 3), **options)
    words = (name, "class_weights has shape (2,), expected (3,)")
    refuses(ValueError, words, loss, IMAGE_LABELS, IMAGE_LOGITS, class_weights=[1.0, 2.0], **options)
    words = (name, "(2, 4, 5)", "(2, 4, 5, 3)", "jax.nn.one_hot(y_true, K)")
    refuses(ValueError, words, loss, IMAGE_LABELS.astype(np.float32), IMAGE_LOGITS, **options)
    refuses(ValueError, (name, "y_true.squeeze(-1)"), loss, IMAGE_LABELS[..., None], IMAGE_LOGITS, **options)
    words = (name, "pixel_weights has shape (2, 4)", "jnp.broadcast_to(pixel_weights[:, :, None], (2, 4, 5))?")
    refuses(ValueError, words, loss, IMAGE_LABELS, IMAGE_LOGITS, pixel_weights=np.ones((2, 4)), **options)
    outside = np.where(np.arange(2)[:, None, None] == 0, IMAGE_LABELS, 3)
    losses = loss(outside, IMAGE_LOGITS, **options, reduction="none")
    assert np.isfinite(losses[0]).all()
    assert np.isnan(losses[1]).all()


# ---------------------------------------------------------------------------------------------------------------------
# Masks and functions

NOTHING = np.zeros((2, 3), bool)
SOME = np.array([[True, True, False], [False, False, False]])
Y = np.zeros((2, 3), np.float32)
Z = np.array([[1, 2, np.nan], [np.nan, np.nan, np.nan]], np.float32)


def pair(losses: Any, weights: Any) -> Any:
    return jnp.sum(losses * weights), jnp.sum(weights)


def tree(losses: Any, weights: Any) -> Any:
    return {"mean": jnp.sum(losses * weights) / jnp.sum(weights), "count": (jnp.count_nonzero(weights),)}


def root(losses: Any, weights: Any) -> Any:
    return jnp.sqrt(jnp.sum(losses**2 * weights) / jnp.sum(weights))


FUNCTIONS = [
    ("pair", pair, (5.0, 2.0), (0.0, 0.0)),
    ("tree", tree, {"mean": 2.5, "count": (2,)}, {"mean": 0.0, "count": (0,)}),
    ("root", root, np.sqrt(8.5), 0.0),
    ("largest", lambda l, w: jnp.max(l), 4.0, 0.0),
    ("count", lambda l, w: jnp.count_nonzero(w), 2, 0),
    ("kept", lambda l, w: (l, jnp.sum(w)), (np.array([[1.0, 4, 0], [0, 0, 0]]), 2.0), (Y, 0.0)),
    ("a Python number", lambda l, w: 3.0, 3.0, 3.0),
    ("sum_and_weight", "sum_and_weight", (5.0, 2.0), (0.0, 0.0)),
    ("mean_of_means", jl.mean_of_means(), 2.5, 0.0),
]


@rule("7 masks and functions", FUNCTIONS)
def functions(_: str, reduction: Any, of_some: Any, of_none: Any) -> None:
    """A function sees weight 0 for what does not exist, also where nothing does; it returns any tree."""

    def all_ways(z: Any) -> Any:
        def first(where: Any, z: Any) -> Any:
            leaves = jax.tree.leaves(jl.mse(Y, z, where=where, reduction=reduction))
            return jnp.stack([jnp.sum(x.astype(jnp.float32)) for x in leaves])

        return (
            jl.mse(Y, z, where=SOME, reduction=reduction),
            jl.mse(Y, z, where=NOTHING, reduction=reduction),
            jax.jacrev(lambda z: first(SOME, z))(z),
            jax.jacrev(lambda z: first(NOTHING, z))(z),
        )

    some, none, slope, no_slope = run(all_ways, Z)
    close(some, of_some, "some units")
    close(none, of_none, "no unit")
    assert np.isfinite(slope).all()
    assert (no_slope == 0).all(), no_slope
    empty = np.zeros((0, 3), np.float32)
    got = jl.mse(empty, empty, reduction=reduction)
    assert jax.tree.structure(got) == jax.tree.structure(of_none)
    assert all(np.ndim(x) or x == y for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(of_none), strict=True))


@rule(
    "7 masks and functions", [("jnp.mean", jnp.mean, "mean"), ("np.mean", np.mean, "mean"), ("jnp.sum", jnp.sum, "sum")]
)
def functions_by_name(_: str, function: Any, name: Any) -> None:
    """The mean is that of the contract."""
    w = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    for given in ({}, {"weights": w}, {"where": SOME, "weights": w}):
        z = Z if "where" in given else np.ones_like(Z)
        assert jl.mse(Y, z, **given, reduction=function) == jl.mse(Y, z, **given, reduction=name)


@rule("7 masks and functions")
def functions_over_devices() -> None:
    """The caller's own sums over devices: one device without a unit is no news, all of them without is 0."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    y, z = np.zeros(8, np.float32), np.arange(8, dtype=np.float32)

    def mean(losses: Any, weights: Any) -> Any:
        # As one array: of a pair, jax 0.7.2 cannot differentiate the first alone.
        sums = jax.lax.psum(jnp.stack([jnp.sum(losses * weights), jnp.sum(weights)]), "data")
        return sums[0] / sums[1]

    def local(y: Any, z: Any, where: Any) -> Any:
        return jl.mse(y, z, where=where, reduction=mean)

    spread = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P())
    for where, want in ((z > 5, (36 + 49) / 2), (z > 9, 0)):
        value, slope = run(jax.value_and_grad(spread, 1), y, z, where)
        close(value, np.float32(want), "value")
        close(slope, np.where(where, z, 0), "gradient")


@rule("15 what clients carry by hand")
def accumulated() -> None:
    """Pairs of microbatches give the gradient of the whole: sums of sums over sums of weights."""
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 4, (6, 5)), rng.normal(size=(6, 5, 4)).astype(np.float32)
    m, w = rng.uniform(size=(6, 5)) < 0.5, rng.uniform(size=6).astype(np.float32)

    def of_part(z: Any, part: slice) -> Any:
        given = {"where": m[part], "weights": w[part], "reduction": "sum_and_weight"}
        return jl.sparse_cce(y[part], z[part], from_logits=True, **given)

    def accumulated(z: Any) -> Any:
        total, weight = (sum(x) for x in zip(*(of_part(z, slice(i, i + 2)) for i in (0, 2, 4)), strict=True))
        return total / weight

    def whole(z: Any) -> Any:
        return jl.sparse_cce(y, z, from_logits=True, where=m, weights=w)

    got, want = run(lambda z: (jax.value_and_grad(accumulated)(z), jax.value_and_grad(whole)(z)), z)
    close(got, want, "accumulated")


@rule("15 what clients carry by hand")
def means_of_sequences() -> None:
    """Each sequence that is not empty counts the same, whatever its length."""
    z = np.array([[1, 2, 3], [4, np.nan, np.nan], [np.nan] * 3], np.float32)
    m, w = ~np.isnan(z), np.array([[1, 1, 2], [3, 1, 1], [1, 1, 1]], np.float32)
    y = np.zeros_like(z)
    means = [1 / 4 + 4 / 4 + 18 / 4, 16]
    close(jl.mse(y, z, where=m, weights=w, reduction=jl.mean_of_means()), np.mean(means), "weighted")
    close(jl.mse(y, z, where=m, reduction=jl.mean_of_means(-1)), (14 / 3 + 16) / 2, "masked")
    close(jl.mse(y[:1], z[:1], reduction=jl.mean_of_means((0, 1))), 14 / 3, "both axes")
    slope = jax.grad(lambda z: jl.mse(y, z, where=m, reduction=jl.mean_of_means()))(z)
    close(slope, np.where(m, z, 0) * np.array([[1 / 3], [1], [0]]), "gradient")
    assert jl.mean_of_means(-1) == jl.mean_of_means()


@rule("15 what clients carry by hand", [("sparse_cce_stats", jl.sparse_cce_stats), ("cce_stats", jl.cce_stats)])
def statistics(name: str, with_stats: Any) -> None:
    """The loss and gradient of the loss without them, and each statistic by its formula, masked and weighed alike."""
    rng = np.random.default_rng(0)
    labels, z = rng.integers(0, 4, (3, 2)), 2 * rng.normal(size=(3, 2, 4)).astype(np.float32)
    y = labels if name.startswith("sparse") else np.eye(4, dtype=np.float32)[labels]
    mask, w = np.arange(6).reshape(3, 2) % 4 != 1, distinct((3, 2))
    options = {"label_smoothing": 0.1, "class_weights": [1.0, 2, 3, 4], "z_loss": 0.01, "where": mask, "weights": w}
    plain = getattr(jl, name.removesuffix("_stats"))

    def both(z: Any) -> Any:
        value = lambda z: plain(y, z, from_logits=True, **options)  # noqa: E731
        stats = lambda z: with_stats(y, z, **options)  # noqa: E731
        return jax.value_and_grad(value)(z), jax.value_and_grad(stats, has_aux=True)(z), jax.jacrev(stats)(z)[1]

    want, ((loss, stats), slope), of_stats = run(both, z)
    close((loss, slope), want, "the loss")
    assert all((x == 0).all() for x in of_stats)
    exact = z.astype(np.float64)
    logsumexp = np.log(np.exp(exact).sum(-1))
    p = np.exp(exact - logsumexp[..., None])
    formulas = {
        "z_loss": 0.01 * logsumexp**2,
        "logsumexp": logsumexp,
        "correct": exact.argmax(-1) == labels,
        "entropy": -(p * np.log(p)).sum(-1),
    }
    for key, units in formulas.items():
        close(getattr(stats, key), (w * mask * units).sum() / (w * mask).sum(), key)
    close(stats.cross_entropy + stats.z_loss, loss, "the parts")
    excluded = with_stats(y[:1, :1], np.where(np.arange(4) == labels[0, 0], 1, -np.inf)[None, None])[1]
    assert excluded.entropy == 0


@rule(
    "13 integer labels",
    [
        ("sparse_focal", jl.categorical_focal),
        ("sparse_poly1", jl.poly1),
        ("sparse_generalized_cce", jl.generalized_cce),
    ],
)
def integer_labels(name: str, dense: Any) -> None:
    """Equal to the loss of the one-hot, value and gradient; the error of the one names the other."""
    sparse, z = jl.LOSSES[name], 2 * np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    labels = np.array([0, 3, 2, 1, 3])
    hot = np.eye(4, dtype=np.float32)[labels]

    def both(z: Any) -> Any:
        of_labels = jax.value_and_grad(lambda z: sparse(labels, z, from_logits=True))(z)
        return of_labels, jax.value_and_grad(lambda z: dense(hot, z, from_logits=True))(z)

    of_labels, of_rows = run(both, z)
    close(of_labels, of_rows, "against the one-hot", rtol=2e-6)
    refuses(ValueError, (f"use {name}",), dense, labels, z)
    refuses(TypeError, (f"use {dense.__name__}",), sparse, hot, z)


@rule("14 divergences as they are called")
def divergences() -> None:
    """Probabilities against logarithms or logits: the same number as of two distributions."""
    q, z = SCORES, np.array([[0.5, -1.0, 2.0], [0.0, 1.0, 0.5]], np.float32)
    log_p = np.asarray(jax.nn.log_softmax(z))
    want = jl.kl_divergence(q, np.exp(log_p))
    close(jl.kl_divergence(q, log_p, from_logs="pred"), want, "logarithms")
    close(jl.kl_divergence(q, z, from_logits=True), want, "logits")
    close(jl.kl_divergence(np.log(q), z, from_logs=True, from_logits=True), want, "logarithms against logits")
    nothing = np.full_like(q, -np.inf)  # each -inf is inside the domain
    for loss in (jl.kl_divergence, jl.js_divergence):
        close(loss(nothing, nothing, from_logs=True), 0, "rows of which every logarithm is -inf")
    refuses(ValueError, ("kl_divergence: from_logs must be", "'both'"), jl.kl_divergence, q, q, from_logs="both")


# ---------------------------------------------------------------------------------------------------------------------
# Clients


@rule("16 clients")
def pickled() -> None:
    """The table of losses, and each loss, can be pickled and copied; a loss in `checked` can be copied."""
    assert copy.deepcopy(jl.checked(jl.mse))([1.0], [3.0]) == 4
    for again in (pickle.loads(pickle.dumps(jl.LOSSES)), copy.deepcopy(jl.LOSSES)):
        assert dict(again) == dict(jl.LOSSES)
    refuses(TypeError, (), setitem, jl.LOSSES, "mse", None)
    assert pickle.loads(pickle.dumps(jl.mean_of_means(0))) == jl.mean_of_means(0)


@jax.tree_util.register_pytree_node_class
class Model:
    """As a module of flax.nnx: a tree of arrays that a step may change in place."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def tree_flatten(self) -> Any:
        return (self.scale,), None

    @classmethod
    def tree_unflatten(cls, _: None, scale: Any) -> Model:
        return cls(*scale)


@rule("16 clients", [("changed", 1.0), ("put back", 0.0)])
def changed_in_place(_: str, rate: float) -> None:
    """`checked` refuses a step whose change would be lost; what is only put back is no change."""

    def step(model: Model, y: Any, z: Any) -> Any:
        value, slope = jax.value_and_grad(lambda scale: jl.mse(y, scale * z, where=SOME))(model.scale)
        model.scale = model.scale - rate * slope
        return value

    model, finite = Model(jnp.ones(())), np.nan_to_num(Z)
    if rate:
        refuses(TypeError, ("jaxloss.checked", "in place", "nnx.update"), jl.checked(step), model, Y, finite)
        jax.grad(lambda z: jl.checked(step)(model, Y, z))(jnp.ones_like(Z))
    else:
        assert jl.checked(step)(model, Y, finite) == 2.5
    assert model.scale == 1


@rule("16 clients")
def keras_weighs() -> None:
    """A loss for Keras, as help(jaxloss) has it, trains with weights of classes and of examples as Keras' own."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")

    @keras.saving.register_keras_serializable("mine")
    def sparse_cce(y_true: Any, y_pred: Any) -> Any:
        labels = y_true.reshape(y_pred.shape[:-1]).astype(int)
        return jl.sparse_cce(labels, y_pred, from_logits=True, reduction="none")

    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(32, 5)).astype(np.float32), rng.integers(0, 3, 32), rng.uniform(size=32)

    def weights_after(loss: Any, **given: Any) -> Any:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        model.compile(optimizer="sgd", loss=loss)
        model.fit(x, y, verbose=0, batch_size=16, **given)
        return model.get_weights()

    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")  # of Keras itself
        for given in ({}, {"sample_weight": w}, {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}}):
            close(weights_after(sparse_cce, **given), weights_after(theirs, **given), f"{given}")
        with pytest.raises(TypeError, match=r"sparse_cce.*as Keras does, y_true\.astype\(int\)"):
            weights_after(jl.sparse_cce)


@rule("16 clients")
def parameters_of_flax() -> None:
    """What flax.nnx gives as parameters are arrays, as inputs and as options; its steps in place are refused."""
    nnx = pytest.importorskip("flax.nnx")
    layer, x, labels = nnx.Linear(3, 3, rngs=nnx.Rngs(0)), np.eye(3, dtype=np.float32), np.arange(3)
    kernel, bias = jnp.asarray(layer.kernel[...]), jnp.asarray(layer.bias[...])
    ours = jl.linear_cce(labels, x, layer.kernel, bias=layer.bias)
    close(ours, jl.linear_cce(labels, x, kernel, bias=bias), "kernel and bias")

    def step(layer: Any, x: Any) -> Any:
        value, slopes = nnx.value_and_grad(lambda layer: jl.sparse_cce(labels, layer(x), from_logits=True))(layer)
        layer.kernel[...] -= slopes["kernel"][...]
        return value

    refuses(TypeError, ("in place", "nnx.update"), jl.checked(nnx.jit(step)), layer, x)
    assert jl.checked(nnx.jit(lambda layer, x: jl.sparse_cce(labels, layer(x), from_logits=True)))(layer, x) > 0
    graph, state = nnx.split(layer)

    def pure(state: Any, x: Any) -> Any:
        layer = nnx.merge(graph, state)
        return step(layer, x), nnx.state(layer)

    _, state = jl.checked(jax.jit(pure))(state, x)
    nnx.update(layer, state)
    assert np.abs(layer.kernel[...] - kernel).max() > 0.01


@rule(
    "16 clients",
    [(np.dtype(dtype).name, dtype) for dtype in (jnp.bfloat16, jnp.float16)],
    alike=lambda *_: "half precision",
    slow=lambda *_: "half precision",
    seldom=True,
)
def sums_in_half_precision(_: str, dtype: Any) -> None:
    """No false alarm of `checked` on what softmax and log_softmax give, as it is or widened; a wrong sum is found."""
    for classes in (10, 1000, 32_000):
        for scale in (0, 1e-3, 3, 30):
            z = jnp.asarray(scale * np.random.default_rng(0).normal(size=(8, classes)), dtype)
            p, log_p, labels = jax.nn.softmax(z), jax.nn.log_softmax(z), np.zeros(8, int)
            for widen in (lambda x: x, lambda x: x.astype(jnp.float32)):
                jl.checked(jl.sparse_cce)(labels, widen(p))
                jl.checked(jl.nll)(labels, widen(log_p))
    words = ("the sum of each row of y_pred must be 1: 1 of 1 is not",)
    refuses(jl.BadValueError, words, jl.checked(jl.sparse_cce), [0], np.array([[0.3, 0.3, 0.39]], np.float32))
    refuses(jl.BadValueError, words, jl.checked(jl.sparse_cce), [0], jnp.array([[0.3, 0.3, 0.3]], dtype))


@rule("16 clients")
def shared_labels() -> None:
    """Under vmap labels that all share are counted once."""
    z = np.zeros((5, 3, 4), np.float32)
    words = ("y_true must be in 0..3: 1 of 3 is not, the first at index (0,), which is -1.",)
    each = jax.vmap(lambda z: jl.sparse_cce(np.array([-1, 0, 1]), z, from_logits=True))
    refuses(jl.BadValueError, words, jl.checked(each), z)


@rule(
    "16 clients",
    [("bce", jl.bce, (Y, Z * 0.2)), ("mse", jl.mse, (Y, Z)), ("huber", jl.huber, (Y, Z))],
    alike=lambda *_: "elements",
)
def no_false_alarm_of_debug_nans(_: str, loss: Any, arrays: Any) -> None:
    """A NaN under a mask is reported neither of a value nor of a gradient, eager, mapped or of second order."""
    where = jnp.asarray(SOME)
    y, z = jnp.asarray(arrays[0]), jnp.asarray(arrays[1])
    call = lambda z, y, w: loss(y, z, where=w)  # noqa: E731
    with jax.debug_nans(True):
        assert np.isfinite(call(z, y, where))
        value, slope = jax.value_and_grad(call)(z, y, where)
        assert np.isfinite(slope).all()
        jax.vmap(jax.grad(call))(z, y, where)
        jax.jit(jax.grad(call))(z, y, where)
        jax.hessian(call)(z, y, where)
        refuses(FloatingPointError, (loss.__name__,), loss, y, z)
    assert value == call(z, y, where)


@rule("11 sharding", [("pmap",), ("shard_map without vma",), ("shard_map",)])
def gradients_over_devices(how: str) -> None:
    """`mean_over` differentiated inside: with the line of its help the gradient is that of the whole batch."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    x, y, m = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=16).astype(np.float32), np.arange(16) % 3 > 0
    kernel = np.ones(3, np.float32)

    def loss(kernel: Any, x: Any, y: Any, m: Any, reduction: Any) -> Any:
        return jl.mse(y, x @ kernel, where=m, reduction=reduction)

    def step(kernel: Any, *batch: Any) -> Any:
        slope = jax.grad(loss)(kernel, *batch, jl.mean_over("data"))
        return slope if how == "shard_map" else jax.lax.pmean(slope, "data")

    if how == "pmap":
        parts = [a.reshape(8, 2, *a.shape[1:]) for a in (x, y, m)]
        got = jax.pmap(step, "data", in_axes=(None, 0, 0, 0))(kernel, *parts)[0]
    else:
        specs = {"mesh": mesh, "in_specs": (P(), P("data"), P("data"), P("data")), "out_specs": P()}
        got = jax.jit(jax.shard_map(step, **specs, check_vma=how == "shard_map"))(kernel, x, y, m)
    close(got, jax.grad(loss)(kernel, x, y, m, "mean"), how, rtol=3e-6)
    text = " ".join((jl.mean_over.__doc__ or "").split())
    assert 'jax.lax.pmean(grads, "data")' in text


BESIDE = ("cosine_distance", "ctc", "dice", "giou", "ranknet", "sparse_cce-logits", "sup_con")


def _spread_but_one(function: Callable[..., Any], *arrays: Any) -> None:
    """In an explicit mesh of which the batch is spread, each in turn may come as NumPy gives it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    spread = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in arrays]
    mixed = [[*spread[:i], x, *spread[i + 1 :]] for i, x in enumerate(arrays)]
    got = jax.jit(lambda mixed: [function(*x) for x in mixed])(mixed)
    for i, result in enumerate(got):
        close(result, run(function, *arrays), f"array {i} is not spread", rtol=1e-5)


@rule("11 arrays beside those that are spread", [(row,) for row in ROWS if row.id in BESIDE])
def beside(row: Row) -> None:
    arrays = row.make((8,))

    def call(where: Any, *arrays: Any) -> Any:
        return row.judged(jl.LOSSES[row.name])(*arrays, **row.options, where=where)

    _spread_but_one(call, np.arange(8) % 4 != 1, *arrays)


@rule("11 arrays beside those that are spread")
def beside_for_functions() -> None:
    labels, x = np.arange(8) % 3, np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
    distances = np.abs(x[:, None, 0] - x[None, :, 1])
    _spread_but_one(jl.arcface, labels, x)
    _spread_but_one(jl.mining.hardest_negative, labels, distances)
    _spread_but_one(jl.mining.semi_hard_negative, labels, distances, (np.arange(8) + 3) % 8)


@rule("11 arrays beside those that are spread")
def beside_nothing_spread() -> None:
    labels, x = np.arange(8) % 3, np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        got = jl.sup_con(labels, x)
    close(got, jl.sup_con(labels, x), "a mesh, but no array in it")


@rule("11 sharding")
def wrong_axis_name() -> None:
    words = ("mean_over: no axis 'batch' is bound here", "jax.shard_map", 'reduction="mean"')
    refuses(ValueError, words, jl.mse, ONES, ONES, reduction=jl.mean_over("batch"))


# ---------------------------------------------------------------------------------------------------------------------
# Exported


ONE_OF_EACH = {row.name: row for row in reversed(ROWS) if row.name != "linear_cce"}


@rule(
    "10 a batch of any size is exported",
    [(row,) for row in ONE_OF_EACH.values()],
    alike=lambda row: any(row.cores),
    slow=same_family,
)
def exported(row: Row) -> None:
    """`jax.export` with a symbolic batch: every reduction and gradient, with a mask and weights; the numbers stay."""
    loss, arrays = row.judged(jl.LOSSES[row.name]), row.make((3, 2))
    units = row.losses(arrays).shape
    given = {"where": np.arange(6).reshape(3, 2) % 4 != 1, "weights": distinct(units)}
    batch = 1 if row.pooled else 0

    def all_ways(given: Any, *arrays: Any) -> Any:
        def call(*arrays: Any, **more: Any) -> Any:
            return loss(*arrays, **row.options, **more)

        kinds = ("none", "sum", "sum_over_batch_size", "sum_and_weight", jl.mean_of_means())
        return (
            [call(*arrays, **given, reduction=kind) for kind in kinds],
            [call(*arrays, reduction=kind) for kind in kinds],
            [call(*arrays, where=given["where"]), call(*arrays, weights=given["weights"])],
            jax.value_and_grad(lambda *a: call(*a, **given), row.differentiable)(*arrays),
        )

    (size,) = jax.export.symbolic_shape("b")

    def open_along(axis: int, x: Any) -> Any:
        return jax.ShapeDtypeStruct((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)

    kinds = (
        {"where": open_along(batch, given["where"]), "weights": open_along(0, given["weights"])},
        *(open_along(batch, x) for x in arrays),
    )
    program = jax.export.export(jax.jit(all_ways))(*kinds)
    close(jax.tree.map(np.asarray, program.call(given, *arrays)), run(all_ways, given, *arrays), "exported")


@rule(
    "10 rows of any length are exported",
    [("cce",), ("poly1",), ("distillation",), ("list_mle",)],
    alike=lambda name: name == "cce",
)
def rows_of_any_length(name: str) -> None:
    """For each machine, in value and with gradient: what is only for short rows must know how long a row is."""

    def both_ways(y: Any, z: Any) -> Any:
        return jl.LOSSES[name](y, z), jax.value_and_grad(jl.LOSSES[name], argnums=1)(y, z)

    kind = jax.ShapeDtypeStruct((2, *jax.export.symbolic_shape("k")), jnp.float32)
    program = jax.export.export(jax.jit(both_ways), platforms=("cpu", "cuda", "tpu"))(kind, kind)
    rows = np.random.default_rng(0).dirichlet(np.ones(7), (2, 2)).astype(np.float32)
    close(jax.tree.map(np.asarray, program.call(*rows)), run(both_ways, *rows), "exported")


@rule("10 a batch of any size is exported")
def chunks_need_a_size() -> None:
    """The chunks of linear_cce are cut from a batch of known size: it says so."""
    (size,) = jax.export.symbolic_shape("b")
    labels, hidden = jax.ShapeDtypeStruct((size,), jnp.int32), jax.ShapeDtypeStruct((size, 3), jnp.float32)
    words = ("linear_cce: y_true has shape (b,)", "use sparse_cce of hidden @ kernel")
    program = jax.export.export(jax.jit(lambda y, h: jl.linear_cce(y, h, np.ones((3, 5), np.float32))))
    refuses(ValueError, words, program, labels, hidden)


# ---------------------------------------------------------------------------------------------------------------------
# Many


@rule("12 more than 2^24 units", seldom=True)
def twenty_million() -> None:
    """Counts and weights of masked units are exact: in float32 ones, added one by one, end at 2^24."""
    n = 20_000_001
    kept = 2 * n // 3 + (n % 3 > 0)

    def all_ways(y: Any, p: Any) -> Any:
        where = jnp.arange(n) % 3 < 2
        w = jnp.where(where, 1.0, jnp.nan)
        square = lambda p: jl.mse(y, p, where=where)  # noqa: E731
        value, slope = jax.value_and_grad(square)(p)
        return {
            "mean": (value, jnp.sum(slope[:3]), jl.mse(y, p, where=where, weights=w)),
            "all": (jl.mse(y, p), jl.mse(y, p, weights=jnp.ones(n))),
            "pair": jl.mse(y, p, where=where, reduction="sum_and_weight"),
            "weighted pair": jl.mse(y, p, where=where, weights=w, reduction="sum_and_weight"),
            "size": jl.mse(y, p, where=where, reduction="sum_over_batch_size"),
            "labels": jl.sparse_cce(jnp.zeros(n, jnp.int32), jnp.zeros((n, 1)), where=where, from_logits=True),
        }

    # Under the mask lies NaN.
    p = jnp.where(jnp.arange(n) % 3 < 2, 2.0, jnp.nan).astype(jnp.float32)
    got = run(all_ways, jnp.zeros(n), p)
    assert np.isnan(got["all"]).all()
    rtol = 2 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(got["mean"], [4, 2 * 4 / kept, 4], rtol)
    np.testing.assert_allclose(got["pair"], [4 * kept, kept], rtol)
    np.testing.assert_allclose(got["weighted pair"], [4 * kept, kept], rtol)
    np.testing.assert_allclose(got["size"], 4, rtol)
    assert got["labels"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# What the suites of others expect, of packages that need not be here

SEVEN = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], np.float32)
HUNDREDS = 100 * np.eye(3, dtype=np.float32)
BCE_OF_SCENIC = np.logaddexp(0, [[1, -2, -3], [-4, 5, -6]])
FOCAL_OF_SCENIC = [[0.75, 0.25, 0.25], [0.25, 0.75, 0.25]] * (1 / (1 + np.exp([[-1, 2, 3], [4, -5, 6]]))) ** 2
TWO_SEQUENCES = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
WEIGHTS_OF_T5X = np.array([[0.5, 1, 0.25, 2, 0], [1, 1, 0, 0, 0]], np.float32)


def expectiles(level: float) -> Any:
    both = jax.vmap(jax.value_and_grad(lambda p: jl.expectile(0.0, p, level=level)))
    return both(SEVEN)


def quantiles_of_rlax(**options: Any) -> Any:
    """The mean over target samples, the sum over those of the source."""
    shape = (2, 2, 3)
    source, level = np.array([[-1.0, 3], [-1, 3]]), np.array([[0.2, 0.7], [0, 0.4]])
    y, p = np.broadcast_to(np.array([-3.0, 4, 2]), shape), np.broadcast_to(source[..., None], shape)
    level = np.broadcast_to(level[..., None], shape)
    losses = jl.quantile(*(x.astype(np.float32) for x in (y, p)), level=level, reduction="none", **options)
    return losses.mean(-1).sum(-1)


def dice_of_scenic(rows: slice) -> Any:
    """Two objects in quarters of an image; the first is predicted at these rows."""
    truth, seen = np.zeros((2, 1, 2, 16, 16), np.float32)
    truth[0, 0, :8, :8] = truth[0, 1, 8:, 8:] = seen[0, 0, rows, :8] = seen[0, 1, 8:, 8:] = 1
    logits = (seen - 0.5) * np.float32(1e6)
    return jl.dice(truth, jax.nn.sigmoid(logits), class_axis=1, reduction="none")


def mean_over_sequences(losses: Any, **given: Any) -> Any:
    return jl.mae(np.zeros((2, 5), np.float32), losses, where=TWO_SEQUENCES, reduction=jl.mean_of_means(), **given)


def smoothed_of_t5(losses: float, classes: int) -> float:
    """The smoothing of the T5 family is over the wrong classes only."""
    return losses * classes / (classes - 1)


WITNESSES: list[tuple[str, Callable[[], Any], Any]] = [
    ("rlax, expectile 0.5", lambda: expectiles(0.5), (SEVEN**2 / 2, SEVEN)),
    ("rlax, expectile 0", lambda: expectiles(0.0), ([0, 0, 0, 0, 0.25, 1, 4], [0, 0, 0, 0, 1, 2, 4])),
    ("rlax, expectile 1", lambda: expectiles(1.0), ([4, 1, 0.25, 0, 0, 0, 0], [-4, -2, -1, 0, 0, 0, 0])),
    (
        "rlax, expectile 0.75",
        lambda: expectiles(0.75),
        ([3, 0.75, 0.1875, 0, 0.0625, 0.25, 1], [-3, -1.5, -0.75, 0, 0.25, 0.5, 1]),
    ),
    ("rlax, l2", lambda: jl.mse(0 * SEVEN, SEVEN, reduction="none") / 2, [2, 0.5, 0.125, 0, 0.125, 0.5, 2]),
    ("rlax, log loss", lambda: jl.bce([1, 0, 1, 0], [1.0, 0.0, 0.5, 0.5], reduction="none"), [0, 0, *[np.log(2)] * 2]),
    ("rlax, quantiles", quantiles_of_rlax, [2, 2.2]),
    ("rlax, quantiles of Huber", lambda: quantiles_of_rlax(delta=2.0), [2.5, 8.5 / 3]),
    (
        "scenic, l1",
        lambda: jl.mae([[0.5, -1.3], [0.9, 1.2]], [[0.1, 0.3], [-1, 0.2]], reduction="none"),
        [[0.4, 1.6], [1.9, 1]],
    ),
    (
        "scenic, sigmoid",
        lambda: jl.bce([[0, 1, 1], [1, 0, 1]], [[1.0, 2, 3], [4, 5, 6]], from_logits=True, reduction="none"),
        BCE_OF_SCENIC,
    ),
    (
        "scenic, weights of labels",
        lambda: jl.bce(
            [[0, 1, 1], [1, 0, 1]], [[1.0, 2, 3], [4, 5, 6]], from_logits=True, reduction="none",
            weights=jnp.broadcast_to(jnp.array([1.0, 2, 3]), (2, 3)) * jnp.array([[1.0], [0]]),
        ),
        BCE_OF_SCENIC * [[1, 2, 3], [0, 0, 0]],
    ),
    (
        "scenic, focal",
        lambda: jl.binary_focal(
            [[0, 1, 1], [1, 0, 1]], [[1.0, 2, 3], [4, 5, 6]], alpha=0.25, from_logits=True, reduction="none"
        ),
        BCE_OF_SCENIC * FOCAL_OF_SCENIC,
    ),
    ("scenic, dice", lambda: dice_of_scenic(slice(8)), [[0, 0]]),
    ("scenic, dice, half", lambda: dice_of_scenic(slice(4, 12)), [[0.5, 0]]),
    ("scenic, dice, apart", lambda: dice_of_scenic(slice(8, 16)), [[1, 0]]),
    (
        "t5x, average of sequences",
        lambda: mean_over_sequences(np.arange(10, dtype=np.float32).reshape(2, 5)),
        ((0 + 1 + 2 + 3) / 4 + (5 + 6) / 2) / 2,
    ),
    (
        "t5x, average of weighted sequences",
        lambda: mean_over_sequences(np.arange(10, dtype=np.float32).reshape(2, 5), weights=WEIGHTS_OF_T5X),
        ((0 + 1 + 0.5 + 6) / 3.75 + (5 + 6) / 2) / 2,
    ),
    ("axlearn, certain", lambda: jl.sparse_cce([0, 1, 2], HUNDREDS, from_logits=True), 0),
    (
        "axlearn, smoothing of T5",
        lambda: jl.sparse_cce([0, 1, 2], 100 * np.eye(4, dtype=np.float32)[:3], from_logits=True,
                              label_smoothing=smoothed_of_t5(0.3, 4)),
        30,
    ),
    ("axlearn, z-loss", lambda: jl.sparse_cce([0, 1, 2], HUNDREDS, from_logits=True, z_loss=1.0), 1e4),
    (
        "axlearn, live targets",
        lambda: jl.sparse_cce([0, -1, 100], 0 * HUNDREDS + HUNDREDS[0], from_logits=True, where=[True, False, False]),
        0,
    ),
    (
        "axlearn, soft targets",
        lambda: jl.cce([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]], HUNDREDS, from_logits=True,
                       where=[False, True, True]),
        (20 + 90) / 2,
    ),
    ("axlearn, l1", lambda: jl.mae([5, 7, 13], [1.0, 2, 3]), 19 / 3),
    ("axlearn, squares", lambda: jl.mse([1.0, 2, 3, 4, 5], [0.0, 1, 2, 3, 4], reduction="sum_and_weight"), (5, 5)),
    (
        "axlearn, squares with weights",
        lambda: jl.mse([3, 2, 13], [7.0, 5, 11], weights=[2, 0, 1], reduction="sum_and_weight"),
        (36, 3),
    ),
    (
        "axlearn, no targets",
        lambda: jl.mse([np.nan] * 3, [0.0, 1, 2], where=[False] * 3, reduction="sum_and_weight"),
        (0, 0),
    ),
    ("axlearn, nothing", lambda: jl.mse(ONES[:0], ONES[:0], reduction="sum_and_weight"), (0, 0)),
    ("jaxopt, logistic", lambda: jl.bce([0, 1], [-1e5, 1e5], from_logits=True, reduction="none"), [0, 0]),
    ("jaxopt, multiclass", lambda: jl.sparse_cce([0], [[1e5, 0, 0]], from_logits=True), 0),
    ("jaxopt, Huber", lambda: jl.huber([0.0, 1, 4], [0.0, 1, 3], delta=0.1, reduction="none"), [0, 0, 0.095]),
    (
        "jaxopt, slope",
        lambda: jax.grad(lambda z: jl.bce([0, 1], z, from_logits=True, reduction="sum"))(jnp.full(2, 1.2)),
        [1 / (1 + np.exp(-1.2)), 1 / (1 + np.exp(-1.2)) - 1],
    ),
    (
        "levanter, large vocabulary",
        lambda: jl.linear_cce_stats(np.zeros((4, 5), int), np.ones((4, 5, 6), np.float32),
                                    np.ones((6, 12), np.float32), chunk=3)[1][:3],
        (np.log(12), 0, 6 + np.log(12)),
    ),
]  # fmt: skip


@rule("17 suites of others", WITNESSES)
def witnesses(_: str, call: Callable[[], Any], want: Any) -> None:
    """What they expect, worked out by hand where they compare with another library."""
    as_arrays = lambda x: jax.tree.map(np.asarray, x, is_leaf=lambda x: isinstance(x, list))  # noqa: E731
    close(as_arrays(call()), as_arrays(want), "what they expect", rtol=2e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("test", "case"), [case for cases in RULES.values() for case in cases])
def test_rules(test: Callable[..., None], case: tuple[Any, ...]):
    test(*case)


def main() -> int:
    print(f"{'rule':60} tried passed")
    good = True
    for title, cases in sorted(RULES.items(), key=lambda entry: int(entry[0].split()[0])):
        passed, tried = 0, len(cases)
        for case in cases:
            test, arguments = case.values
            try:
                test(*arguments)
            except pytest.skip.Exception as reason:
                print(f"  {case.id}: not tried, {reason}", file=sys.stderr)
                tried -= 1
            except Exception as error:
                print(f"  {case.id}: {error}", file=sys.stderr)
            else:
                passed += 1
        good &= passed == tried
        print(f"{title:60} {tried:5} {passed:6}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
