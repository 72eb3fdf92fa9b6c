"""The laws of formulas, which test_properties.py tries; `cases` says of each loss which it obeys, and where.

A subject is a loss with given options, on a domain. The domain names the laws that make sense there; the subject says
of each whether it holds, and if not, why. A law is a function of the subject, of the drawn arrays (UNITS cases at once)
and of what else it draws. A limit says which loss equals which other one.

Tolerances: a result may be off by ROUNDINGS roundings of the largest term of the formula. Most losses have no terms
that cancel, so that their own value is the largest; for the others `size` says how large the terms are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import jaxloss

Arrays = tuple[np.ndarray, ...]
Draw = st.SearchStrategy[Any]

UNITS, K, PIXELS = 8, 3, 6
EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)  # what is smaller, the processor may round to 0
ROUNDINGS = 8


# ---------------------------------------------------------------------------------------------------------------------
# Domains


@dataclass(frozen=True)
class Domain:
    """Where arrays lie, and which laws make sense there.

    draw: the arrays, float32 or integers.
    laws: the names of the laws.
    moves: places of the arrays to which a translation or a shift adds the same.
    swap: the arrays with target and prediction exchanged.
    relabel: the arrays after a permutation of the classes.
    units: how the losses of the units move with the classes.
    pixels: whether the first axis holds pixels instead of units.
    shares: whether the entries are shares: at most 1, and the logarithm of 0 is that of a number above it.
    """

    draw: Draw
    laws: tuple[str, ...]
    moves: tuple[int, ...] = (0, 1)
    swap: Callable[[Arrays], Arrays] = lambda arrays: (arrays[1], arrays[0], *arrays[2:])
    relabel: Callable[[Arrays, np.ndarray], Arrays] = lambda arrays, order: tuple(x[..., order] for x in arrays)
    units: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda losses, order: losses
    pixels: bool = False
    shares: bool = False


@dataclass(frozen=True)
class Numbers:
    """What an entry may be: one of a pool, the simplest first, or any number between two bounds."""

    pool: tuple[float, ...]
    bounds: tuple[float, float] | None = None

    @functools.cached_property
    def one(self) -> Draw:
        pool = st.sampled_from([float(np.float32(x)) for x in self.pool])
        if self.bounds is None:
            return pool
        low, high = (float(np.float32(x)) for x in self.bounds)
        return st.one_of(pool, st.floats(low, high, width=32))

    def many(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        pooled = rng.choice(self.pool, shape)
        if self.bounds is None:
            return pooled
        low, high = self.bounds
        near = rng.uniform(max(low, -4), min(high, 4), shape)
        return np.choose(rng.integers(0, 4, shape), [pooled, pooled, near, rng.uniform(low, high, shape)])


def drawn(numbers: Numbers, *shape: int, dtype: Any = np.float32) -> Draw:
    """Arrays of the simplest number or, to try many at once, of a drawn seed; some entries are drawn one by one."""

    def array(seed: int, entries: list[tuple[int, float]]) -> np.ndarray:
        x = np.full(shape, float(numbers.pool[0])) if seed == 0 else numbers.many(np.random.default_rng(seed), shape)
        for place, value in entries:
            x.flat[place] = value
        return x.astype(dtype)

    entry = st.tuples(st.integers(0, math.prod(shape) - 1), numbers.one)
    return st.builds(array, st.integers(0, 2**16), st.lists(entry, max_size=3))


def each(numbers: Numbers, *core: int) -> Draw:
    """The same for all units."""
    return drawn(numbers, UNITS, *core)


def whole(low: int, high: int) -> tuple[float, ...]:
    """Whole numbers, the smallest first."""
    return tuple(sorted(range(low, high + 1), key=abs))


def above_0(p: np.ndarray) -> np.ndarray:
    """Shares whose logarithm has the true slope: below 1e-12 it is that at 1e-12."""
    return np.maximum(p, np.float32(1e-9))


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(K, dtype=np.float32)[labels]


def pairs(draw: Draw, *others: Draw) -> Draw:
    """Two of the same kind: independent, or the second the next number after the first, in each entry."""
    apart = st.tuples(draw, draw, *others)
    return st.one_of(apart, apart.map(lambda drawn: (drawn[0], np.nextafter(drawn[0], np.float32(1)), *drawn[2:])))


# ---------------------------------------------------------------------------------------------------------------------
# Subjects


def of(name: str, **options: Any) -> Callable[..., Any]:
    """The losses of a loss with options."""
    return functools.partial(jaxloss.LOSSES[name], **options, reduction="none")


def times(factor: float, losses: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: factor * losses(*arrays)


@dataclass(frozen=True)
class Subject:
    """A loss with options, and its laws.

    id: the loss, then a hyphen and what is special here.
    laws: each law that holds, with what it must know: True if nothing; a function that moves predictions to where the
      law holds (convex, relabelled); the best prediction and its loss (least); the degree and which arrays it is about
      (homogeneous).
    fails: each law of the domain that does not hold, with the reason.
    size: how large the terms of the formula are, of the arrays; 0 if the loss itself is the largest.
    keywords: names of the last arrays, if the loss takes them by keyword.
    """

    id: str
    domain: Domain
    laws: Mapping[str, Any]
    fails: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    size: Callable[..., Any] = lambda *arrays: 0.0
    keywords: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.id.partition("-")[0]

    def loss(self, *arrays: Any) -> Any:
        first = len(arrays) - len(self.keywords)
        named = dict(zip(self.keywords, arrays[first:], strict=True))
        return of(self.name, **self.options)(*arrays[:first], **named)

    @functools.cached_property
    def program(self) -> Callable[..., Any]:
        return jax.jit(self.loss)

    @functools.cached_property
    def slope_program(self) -> Callable[..., Any]:
        def both(*arrays: Any) -> Any:
            def summed(x: Any) -> Any:
                losses = self.loss(arrays[0], x, *arrays[2:])
                return jnp.sum(losses), losses

            return jax.grad(summed, has_aux=True)(arrays[1])

        return jax.jit(both)

    def inside(self, law: str) -> Callable[[np.ndarray], np.ndarray]:
        """Predictions, moved to where the law holds."""
        entry = self.laws.get(law)
        return entry if entry is not None and entry is not True else lambda x: x

    def losses(self, *arrays: np.ndarray) -> np.ndarray:
        return exact(self.program(*arrays))

    def tolerance(self, arrays: Arrays, *losses: Any) -> np.ndarray:
        """ROUNDINGS roundings of the largest term, and what is rounded to 0."""
        size = sum((np.abs(l) for l in losses), exact(self.size(*map(exact, arrays))))
        return ROUNDINGS * (EPS * size + TINY)


def exact(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def none_bad(bad: np.ndarray, what: str, arrays: Arrays, pixels: bool, got: np.ndarray, want: np.ndarray) -> None:
    """Say of the first bad unit what it got, and of what."""
    if bad.any():
        first = tuple(np.argwhere(bad)[0])
        given = [x[:, first[0]] if pixels else x[first[0]] for x in arrays]
        shown = ", ".join(np.array2string(np.asarray(x), floatmode="unique", separator=", ") for x in given)
        raise AssertionError(f"{what}: {got[first]!r}, {np.broadcast_to(want, got.shape)[first]!r} of {shown}")


def at_least(s: Subject, arrays: Arrays, got: np.ndarray, low: np.ndarray, slack: np.ndarray | float) -> None:
    with np.errstate(invalid="ignore"):  # infinite losses
        bad = ~((got >= low - slack) | (got == low))  # so that NaN is bad
    none_bad(bad, f"{s.id} is below what it should be", arrays, s.domain.pixels, got, low)


def near(s: Subject, arrays: Arrays, got: np.ndarray, want: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):  # infinite losses
        bad = ~((np.abs(got - want) <= s.tolerance(arrays, want)) | (got == want))
    none_bad(bad, f"{s.id} is not what it should be", arrays, s.domain.pixels, got, want)


# ---------------------------------------------------------------------------------------------------------------------
# Laws

Law = Callable[[Subject, Arrays, Any], None]
LAWS: dict[str, Law] = {}
ALSO_DRAWN: dict[str, Callable[[Domain], Draw]] = {}


def law(also: Callable[[Domain], Draw] = lambda domain: st.none()) -> Callable[[Law], Law]:
    """Enter a law in the table, with what it draws besides the arrays."""

    def enter(law: Law) -> Law:
        LAWS[law.__name__] = law
        ALSO_DRAWN[law.__name__] = also
        return law

    return enter


def on_grid(x: np.ndarray) -> np.ndarray:
    """Multiples of 1/64, so few that their sums are exact."""
    return np.clip(np.round(x * 64), -(2**14), 2**14).astype(np.float32) / 64


@law(lambda domain: domain.draw.map(lambda arrays: arrays[1]))
def convex(s: Subject, arrays: Arrays, other: np.ndarray) -> None:
    """Every tangent lies below the loss, also the one that the derivative at a kink gives."""
    inside = s.inside("convex")
    arrays, other = (arrays[0], inside(arrays[1]), *arrays[2:]), inside(other)
    slope, there = map(exact, s.slope_program(*arrays))
    moved = (arrays[0], other, *arrays[2:])
    got = s.losses(*moved)

    def by_unit(x: np.ndarray) -> np.ndarray:
        return (x.sum(0) if s.domain.pixels else x).reshape(*there.shape, -1).sum(-1)

    a, b = exact(arrays[1]), exact(other)
    # The slope is rounded too: as a whole, and, where the loss has terms of size 1, as a difference of shares.
    terms = by_unit((np.abs(slope) + (s.tolerance(arrays) > ROUNDINGS * TINY).any()) * (np.abs(a) + np.abs(b)))
    slack = s.tolerance(arrays, there, terms) + s.tolerance(moved, got)
    at_least(s, arrays, got, there + by_unit(slope * (b - a)), slack)


@law()
def least(s: Subject, arrays: Arrays, _: None) -> None:
    """The loss is nowhere less than at the target, and there it is the number known."""
    best, value = s.laws["least"]
    there = (arrays[0], np.asarray(best(*arrays), np.float32), *arrays[2:])
    want = exact(value(*map(exact, arrays)) if callable(value) else value)
    at_target, got = s.losses(*there), s.losses(*arrays)
    if callable(value):
        near(s, there, at_target, want)
    else:
        none_bad(at_target != want, f"{s.id} is not {value} at the target", there, s.domain.pixels, at_target, want)
    exactly = not callable(value) and np.max(s.size(*arrays)) == 0
    at_least(s, arrays, got, want, 0 if exactly else s.tolerance(arrays, got, want))


@law()
def non_negative(s: Subject, arrays: Arrays, _: None) -> None:
    """No rounding makes it negative."""
    at_least(s, arrays, s.losses(*arrays), exact(0), 0)


@law(lambda domain: each(Numbers(whole(-512, 512))))
def shifted(s: Subject, arrays: Arrays, by: np.ndarray) -> None:
    """A number added to all logits of an example changes nothing."""
    start = tuple(on_grid(x) if i in s.domain.moves else x for i, x in enumerate(arrays))
    by = by.reshape(UNITS, *[1] * (arrays[1].ndim - 1))
    moved = tuple(x + by if i in s.domain.moves else x for i, x in enumerate(start))
    near(s, start, s.losses(*moved), s.losses(*start))


@law(lambda domain: st.integers(-8, 0 if domain.shares else 8))
def homogeneous(s: Subject, arrays: Arrays, k: int) -> None:
    """Of degree d: arrays times a factor, the loss times its d-th power."""
    degree, places = s.laws["homogeneous"]
    if s.domain.shares:  # the logarithm of 0 is that of a number that is not scaled
        arrays = (arrays[0], above_0(arrays[1]))
    arrays = tuple(np.where(np.abs(x) < 1e-30, 0, x) if i in places else x for i, x in enumerate(arrays))
    scaled = tuple(x * np.float32(2.0**k) if i in places else x for i, x in enumerate(arrays))
    near(s, scaled, s.losses(*scaled), 2.0 ** (k * degree) * s.losses(*arrays))


@law(lambda domain: st.integers(-64, 64))
def translated(s: Subject, arrays: Arrays, by: int) -> None:
    """Only differences count."""
    start = tuple(on_grid(x) if i in s.domain.moves else x for i, x in enumerate(arrays))
    moved = tuple(x + np.float32(by) if i in s.domain.moves else x for i, x in enumerate(start))
    near(s, start, s.losses(*moved), s.losses(*start))


@law()
def symmetric(s: Subject, arrays: Arrays, _: None) -> None:
    """Target and prediction may change places."""
    near(s, arrays, s.losses(*s.domain.swap(arrays)), s.losses(*arrays))


@law(lambda domain: st.permutations(range(K)).map(np.array))
def relabelled(s: Subject, arrays: Arrays, order: np.ndarray) -> None:
    """The classes have no order."""
    arrays = (arrays[0], s.inside("relabelled")(arrays[1]), *arrays[2:])
    moved = s.domain.relabel(arrays, order)
    near(s, arrays, s.losses(*moved), s.domain.units(s.losses(*arrays), order))


# ---------------------------------------------------------------------------------------------------------------------
# Limits


@dataclass(frozen=True)
class Limit:
    """A loss, and what it equals: at certain options, in a limit, or of certain inputs.

    In a limit the two may differ by what the series of the formula leaves; that is said of each.

    id: the loss, then a hyphen and what it becomes.
    left, right: functions of the arrays, one loss a unit each.
    size: how large the terms of the formulas are, of the arrays; 0 if the losses themselves are the largest.
    within: how far the two may differ beside rounding, of the arrays.
    """

    id: str
    domain: Domain
    left: Callable[..., Any]
    right: Callable[..., Any]
    size: Callable[..., Any] = lambda *arrays: 0.0
    within: Callable[..., Any] = lambda *arrays: 0.0

    @property
    def name(self) -> str:
        return self.id.partition("-")[0]

    @functools.cached_property
    def program(self) -> Callable[..., Any]:
        return jax.jit(lambda *arrays: (self.left(*arrays), self.right(*arrays)))

    def judge(self, arrays: Arrays) -> None:
        left, right = map(exact, self.program(*arrays))
        assert left.shape == right.shape, f"{self.id}: shapes {left.shape} and {right.shape}"
        given = tuple(map(exact, arrays))
        size = np.abs(left) + np.abs(right) + self.size(*given)
        tolerance = ROUNDINGS * (EPS * size + TINY) + self.within(*given)
        with np.errstate(invalid="ignore"):  # infinite losses
            bad = ~((np.abs(left - right) <= tolerance) | (left == right))
        none_bad(bad, f"{self.id}: the two differ", arrays, self.domain.pixels, left, right)
