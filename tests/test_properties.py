"""Properties: laws that must hold whatever the numbers are, on inputs that hypothesis draws and shrinks.

Structural laws hold for every row of the cases: what a mask, weights, an order and a batch mean. The laws of formulas
and their limits are declared loss by loss, below the rows. Each law of a loss is compiled once, for arrays of one
shape, and tried on many drawn ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from cases import LIMITS, ROWS, SUBJECTS, Row
from laws import ALSO_DRAWN, EPS, LAWS, ROUNDINGS, Limit, Numbers, Subject, drawn, exact

import jaxloss

MANY, FEW = 40, 5

UNITS = 6


def tried(examples: int, *strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
    """Run a check on so many draws, the same ones each time."""
    settings = hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=[
            hypothesis.HealthCheck.too_slow,
            hypothesis.HealthCheck.data_too_large,
        ],  # the first draw includes compiling
    )
    return lambda check: settings(hypothesis.given(*strategies)(check))()


# ---------------------------------------------------------------------------------------------------------------------
# Structural laws

BY_ID = {row.id: row for row in ROWS}
KINDS = ("none", "mean", "sum", "sum_over_batch_size")


class Programs:
    """What the structural laws of a row call: each is compiled once."""

    def __init__(self, row: Row, loss: Callable[..., Any] | None = None) -> None:
        self.row = row
        self.axis = 1 if row.pooled else 0  # along which units lie
        self.arrays = row.make((UNITS,))
        loss = loss or row.judged(jaxloss.LOSSES[row.name])
        self.loss = functools.partial(loss, **row.options)
        self.units = row.losses(self.arrays).shape
        self.exists = (UNITS,)  # pixels, if pooled

        def reduced(arrays: Any, weights: Any, where: Any, kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
            given = {"weights": weights, "where": where}
            return {kind: self.loss(*arrays, **given, reduction=kind) for kind in kinds}

        def both(arrays: Any, weights: Any, where: Any) -> dict[str, Any]:
            plain = {"plain": self.loss(*arrays), "plain sum": self.loss(*arrays, reduction="sum")}
            return reduced(arrays, weights, where) | plain

        def few(arrays: Any, weights: Any, where: Any) -> dict[str, Any]:
            return reduced(arrays, weights, where, kinds=("none",)) | {"plain": self.loss(*arrays)}

        self.reduced = jax.jit(both)
        self.few = jax.jit(few)  # for two more dtypes
        self.mapped = jax.jit(jax.vmap(functools.partial(reduced, kinds=("none", "mean"))))
        self.slices = jax.jit(
            lambda arrays: [self.loss(*(x[:n] for x in arrays), reduction="none") for n in range(1, UNITS + 1)]
        )

    def __call__(self, arrays: Any, weights: Any = None, where: Any = None, few: bool = False) -> dict[str, np.ndarray]:
        weights = np.ones(self.units, np.float32) if weights is None else weights
        where = np.ones(self.exists, bool) if where is None else where
        return jax.tree.map(exact, (self.few if few else self.reduced)(arrays, weights, where))

    @functools.cached_property
    def hard(self) -> tuple[np.ndarray, ...]:
        """The hard inputs of the row, of those with a loss that weights may multiply."""
        if not self.row.hard or self.row.pooled:
            return ()
        batch = tuple(np.asarray(x).astype(a.dtype) for x, a in zip(self.row.ordinary, self.arrays, strict=True))
        with np.errstate(all="ignore"):
            moderate = np.abs(self.row.losses(batch)) < 1e30
        moderate &= [all(np.abs(x[i]).max(initial=0) < 1e30 for x in batch) for i in range(len(moderate))]
        return tuple(x[moderate] for x in batch)

    @functools.cached_property
    def draw(self) -> st.SearchStrategy[Any]:
        """Ordinary inputs of the row, hard ones among them."""
        count = len(self.hard[0]) if self.hard else 0
        place = st.tuples(st.integers(0, UNITS - 1), st.integers(0, max(count - 1, 0)))
        return st.builds(self.make, st.integers(0, 2**16), st.lists(place, max_size=4 if count else 0))

    def make(self, seed: int, places: list[tuple[int, int]]) -> tuple[np.ndarray, ...]:
        arrays = self.row.make((UNITS,), seed=seed)
        for unit, place in places:
            for x, hard in zip(arrays, self.hard, strict=True):
                x[unit] = hard[place]
        return arrays

    @functools.cached_property
    def weights(self) -> st.SearchStrategy[Any]:
        return drawn(Numbers((1, 0, 2), (0.125, 8)), *self.units)

    @functools.cached_property
    def masks(self) -> st.SearchStrategy[Any]:
        return drawn(Numbers((1, 0)), *self.exists, dtype=np.bool_)


programs = functools.cache(lambda id: Programs(BY_ID[id]))

STRUCTURE: dict[str, Callable[[Programs, Any], None]] = {}
DRAWN: dict[str, Callable[[Programs], st.SearchStrategy[Any]]] = {}
APPLIES: dict[str, Callable[[Row], bool]] = {}


def structural(also: Callable[[Programs], st.SearchStrategy[Any]], applies: Callable[[Row], bool] = lambda row: True):
    """Enter a law of all rows, with what it draws."""

    def enter(law: Callable[[Programs, Any], None]) -> Callable[[Programs, Any], None]:
        STRUCTURE[law.__name__] = law
        DRAWN[law.__name__] = also
        APPLIES[law.__name__] = applies
        return law

    return enter


def same(got: Any, want: Any, size: Any, what: str) -> None:
    """Equal but for ROUNDINGS roundings of numbers of this size: each unit is the result of the same formula."""
    bad = ~(np.abs(got - want) <= ROUNDINGS * EPS * size)
    assert not bad.any(), f"{what}: {np.asarray(got)[bad]} instead of {np.broadcast_to(want, np.shape(got))[bad]}"


def magnitude(losses: np.ndarray) -> np.ndarray:
    """A loss near 0 may be the logarithm of a number near 1, whose rounding it carries."""
    return np.maximum(np.abs(losses), 1)


def reductions_follow(got: dict[str, np.ndarray], l: np.ndarray, w: np.ndarray, m: np.ndarray) -> None:
    """All reductions, from the losses and weights of the units in float64."""
    w = w * m
    terms = (w * magnitude(l)).sum()
    same(got["none"], w * l, w * magnitude(l), "none")
    same(got["sum"], (w * l).sum(), terms, "sum")
    same(got["mean"], (w * l).sum() / max(w.sum(), 1e-30), terms / max(w.sum(), 1e-30), "mean")
    same(got["sum_over_batch_size"], (w * l).sum() / max(m.sum(), 1), terms / max(m.sum(), 1), "sum_over_batch_size")


@structural(lambda p: st.tuples(p.draw, p.weights, p.masks))
def masked(p: Programs, draws: Any) -> None:
    """A mask is a slice: what it leaves out may be anything, the other units do not notice; also if nothing is left."""
    arrays, weights, where = draws
    spoiled = tuple(np.where(spread(where, x), x, np.nan if x.dtype.kind == "f" else -100) for x in arrays)
    spoiled = tuple(s.astype(x.dtype) for s, x in zip(spoiled, arrays, strict=True))
    got = p(spoiled, weights, where)
    if not (p.row.pooled or p.row.coupled):
        reductions_follow(got, p(arrays)["none"], exact(weights), where)
        return
    count, first = int(where.sum()), np.argsort(~where, kind="stable")
    if not count:
        reductions_follow(got, np.zeros(p.units), exact(weights), np.zeros(p.units, bool))
        return
    kept = exact(p.slices(tuple(x[first] for x in arrays))[count - 1])
    if p.row.coupled:
        kept = np.concatenate([kept, np.zeros((UNITS - count, *kept.shape[1:]))])[np.argsort(first)]
    reductions_follow(got, kept, exact(weights), spread(where, kept) if p.row.coupled else np.ones(p.units, bool))


def spread(where: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.broadcast_to(where.reshape(-1, *[1] * (x.ndim - 1)), x.shape)


@structural(
    lambda p: st.tuples(p.draw, st.lists(st.integers(0, UNITS - 1), min_size=UNITS, max_size=UNITS)),
    applies=lambda row: not row.coupled,
)
def repeated(p: Programs, draws: Any) -> None:
    """Integer weights repeat units: a batch drawn from another, and that other one weighed by how often."""
    arrays, rows = draws
    counts = np.bincount(rows, minlength=p.units[0]).astype(np.float32)
    often = p(tuple(np.take(x, [*rows, *range(UNITS, p.units[0])], p.axis) for x in arrays))
    if p.row.pooled:  # its units are more than the pixels
        counts[UNITS:] += 1
    weighed = p(arrays, np.broadcast_to(counts.reshape(-1, *[1] * (len(p.units) - 1)), p.units))
    size = magnitude(often["none"])
    same(weighed["sum"], often["sum"], size.sum(), "sum")
    same(weighed["mean"], often["mean"], size.mean(), "mean")


@structural(lambda p: st.tuples(p.draw, p.weights, p.masks, st.permutations(range(UNITS)).map(np.array)))
def permuted(p: Programs, draws: Any) -> None:
    """The order of the batch means nothing (of pooled units, that of the pixels)."""
    arrays, weights, where, order = draws
    moved = tuple(x[order] for x in arrays)
    base = p(arrays, weights, where)
    got = p(moved, weights if p.row.pooled else weights[order], where[order])
    w = exact(weights)
    size = w * magnitude(p(arrays)["none"])
    size, exists = (size, 1) if p.row.pooled else (size * spread(where, w), where.sum())
    same(got["none"], base["none"] if p.row.pooled else base["none"][order], size.max(initial=0), "none")
    same(got["sum"], base["sum"], size.sum(), "sum")
    same(got["mean"], base["mean"], size.sum() / max((w * exists).sum(), 1e-30) if p.row.pooled else size.max(), "mean")


@structural(lambda p: st.lists(st.tuples(p.draw, p.weights, p.masks), min_size=2, max_size=2))
def mapped(p: Programs, draws: Any) -> None:
    """vmap is a loop."""
    want = [p(*one) for one in draws]
    got = jax.tree.map(exact, p.mapped(*jax.tree.map(lambda *x: np.stack(x), *draws)))
    for i, (one, (arrays, _, _)) in enumerate(zip(want, draws, strict=True)):
        size = 8 * magnitude(p(arrays)["none"]).sum()  # weights are at most 8
        for kind, values in got.items():
            same(values[i], one[kind], size, f"{kind} of batch {i}")


@structural(lambda p: st.tuples(p.draw, p.weights, p.masks))
def summed(p: Programs, draws: Any) -> None:
    """The sum is the mean times the weight, and sum_over_batch_size times the number of units."""
    arrays, weights, where = draws
    if p.row.pooled:
        where = np.ones(p.exists, bool)
    got = p(arrays, weights, where)
    exists = np.ones(p.units, bool) if p.row.pooled else spread(where, weights)
    w = exact(weights) * exists
    size = (w * magnitude(p(arrays)["none"])).sum()
    same(got["mean"] * w.sum(), got["sum"], size, "mean times weight")
    same(got["sum_over_batch_size"] * exists.sum(), got["sum"], size, "sum_over_batch_size times units")
    same(got["none"].sum(), got["sum"], size, "the sum of none")
    plain = magnitude(p(arrays)["none"]).sum()
    same(got["plain"] * np.prod(p.units), got["plain sum"], plain, "mean times units, without weights")


@structural(lambda p: st.tuples(p.draw, st.sampled_from([np.float16, ml_dtypes.bfloat16])))
def halved(p: Programs, draws: Any) -> None:
    """Half precision is the exact loss of the rounded inputs: nothing is computed in half precision."""
    arrays, half = draws
    with np.errstate(over="ignore"):
        narrow = tuple(x.astype(half) if x.dtype.kind == "f" else x for x in arrays)
    finite = np.all([np.isfinite(exact(x)).reshape(UNITS, -1).all(1) for x in narrow], 0)
    for x, ordinary in zip(narrow, p.row.make((UNITS,), half), strict=True):
        x[~finite] = ordinary[~finite]
    with np.errstate(all="ignore"):
        want = p.row.losses(narrow)
    got = p(narrow, few=True)
    np.testing.assert_allclose(got["none"], want, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(got["plain"], want.mean(), rtol=1e-6, atol=2e-6 + 1e-6 * np.abs(want).mean())


# ---------------------------------------------------------------------------------------------------------------------
# All cells: a law and a loss

CELLS: dict[tuple[str, str], Callable[[int], None]] = {}


def _cell(law: str, id: str, check: Callable[..., None], draw: Callable[[], Any]) -> None:
    CELLS[law, id] = lambda examples: tried(examples, draw())(check)


def _structural(law: str, row: Row) -> None:
    def holds(draws: Any) -> None:
        STRUCTURE[law](programs(row.id), draws)

    _cell(law, row.id, holds, lambda: DRAWN[law](programs(row.id)))


def _formula(law: str, subject: Subject) -> None:
    def holds(draws: Any) -> None:
        LAWS[law](subject, *draws)

    _cell(law, subject.id, holds, lambda: st.tuples(subject.domain.draw, ALSO_DRAWN[law](subject.domain)))


def _limit(limit: Limit) -> None:
    _cell("limit", limit.id, limit.judge, lambda: limit.domain.draw)


for _row in ROWS:  # the laws of a row one after the other: whoever judges the row compiles its programs once
    for _law in STRUCTURE:
        if APPLIES[_law](_row):
            _structural(_law, _row)
for _subject in SUBJECTS:
    for _law in _subject.laws:
        _formula(_law, _subject)
for _one in LIMITS:
    _limit(_one)


def table() -> list[tuple[str, str]]:
    """Every law with every configuration of a loss that is held to it; the loss is what stands before the hyphen."""
    return list(CELLS)


# Judged each time: one cell of each law, and those of a few losses.
QUICK_LOSSES = ("huber", "cce-logits", "giou")


def cells() -> list[Any]:
    seen, marked = set(), []
    for law, id in CELLS:
        marked.append(pytest.param(law, id, MANY, id=f"{law}-{id}", marks=[pytest.mark.nightly]))
        if id in QUICK_LOSSES or law not in seen:
            marked.append(pytest.param(law, id, FEW, id=f"{law}-{id}-quick"))
        seen.add(law)
    return marked


@pytest.mark.parametrize(("law", "id", "examples"), cells())
def test_property(law: str, id: str, examples: int):
    CELLS[law, id](examples)


def test_nothing_is_forgotten():
    """Every loss is in the tables; of each law that makes sense, a subject says whether it holds, and else why."""
    forgotten = [
        f"{name}: no subject among the LAWS of its family" for name in set(jaxloss.LOSSES) - {s.name for s in SUBJECTS}
    ]
    for s in SUBJECTS:
        forgotten += [f"{s.id}: holds and fails: {law}" for law in set(s.laws) & set(s.fails)]
        said = set(s.laws) | set(s.fails)
        forgotten += [f"{s.id}: {law}" for law in said ^ set(s.domain.laws)]
        forgotten += [f"{s.id}: no reason for {law}" for law, reason in s.fails.items() if not reason]
    assert not forgotten, "\n".join(forgotten)
    for group in (SUBJECTS, LIMITS):
        ids = [one.id for one in group]
        assert len(ids) == len(set(ids)), "two have the same id"


def breaks(check: Callable[[Any], None], draw: st.SearchStrategy[Any]) -> None:
    """Some draw fails the check."""

    def fails(draws: Any) -> bool:
        try:
            check(draws)
        except AssertionError:
            return True
        return False

    settings = hypothesis.settings(
        max_examples=200, derandomize=True, database=None, deadline=None, phases=[hypothesis.Phase.generate]
    )
    hypothesis.find(draw, fails, settings=settings)


def _position_counts(y: Any, p: Any, **given: Any) -> Any:
    return jaxloss.mse(y, p, **given) + jaxloss.mse(y[:1], p[:1], reduction="sum")


def _mask_not_in_the_divisor(y: Any, p: Any, where: Any = None, **given: Any) -> Any:
    weights = given.pop("weights", 1.0)
    return jaxloss.mse(y, p, weights=weights if where is None else jnp.where(where, weights, 0), **given)


def _squared_weights(y: Any, p: Any, weights: Any = 1.0, **given: Any) -> Any:
    return jaxloss.mse(y, p, weights=weights * weights, **given)


def _sum_twice(y: Any, p: Any, reduction: Any = "mean", **given: Any) -> Any:
    return jaxloss.mse(y, p, **given, reduction=reduction) * (2 if reduction == "sum" else 1)


def _in_half_precision(y: Any, p: Any, **given: Any) -> Any:
    return jaxloss.mse(0 * y, p - y, **given)


@pytest.mark.parametrize(
    ("law", "wrong"),
    [
        ("masked", _mask_not_in_the_divisor),
        ("masked", _position_counts),
        ("repeated", _squared_weights),
        ("permuted", _position_counts),
        ("summed", _sum_twice),
        ("halved", _in_half_precision),
    ],
)
def test_structure_catches(law: str, wrong: Callable[..., Any]):
    """A wrong loss breaks the law."""
    wronged = Programs(BY_ID["mse"], wrong)

    breaks(lambda draws: STRUCTURE[law](wronged, draws), DRAWN[law](wronged))


# The laws that can be tried without knowing more.
TESTABLE = {"convex", "non_negative", "shifted", "translated", "symmetric", "relabelled"}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("law", "subject"),
    [pytest.param(law, s, id=f"{law}-{s.id}") for s in SUBJECTS for law in s.fails if law in TESTABLE],
)
def test_exceptions_are_real(law: str, subject: Subject):
    """What is said not to hold does fail for some input: the law would notice a loss that breaks it."""

    breaks(
        lambda draws: LAWS[law](subject, *draws),
        st.tuples(subject.domain.draw, ALSO_DRAWN[law](subject.domain)),
    )
