"""The laws of formulas and the domains on which test_properties.py tries them; subjects.py says which loss obeys which.

A subject is a loss with given options, on a domain. The domain names the laws that make sense there; the subject says
of each whether it holds, and if not, why. A law is a function of the subject, of the drawn arrays (UNITS cases at once)
and of what else it draws.

Tolerances: a result may be off by ROUNDINGS roundings of the largest term of the formula. Most losses have no terms
that cancel, so that their own value is the largest; for the others `size` says how large the terms are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from cases import ROWS

import jaxloss

Arrays = tuple[np.ndarray, ...]
Draw = st.SearchStrategy[Any]

UNITS, K, PIXELS, FRAMES = 8, 3, 6, 3
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
    """

    draw: Draw
    laws: tuple[str, ...]
    moves: tuple[int, ...] = (0, 1)
    swap: Callable[[Arrays], Arrays] = lambda arrays: (arrays[1], arrays[0], *arrays[2:])
    relabel: Callable[[Arrays, np.ndarray], Arrays] = lambda arrays, order: tuple(x[..., order] for x in arrays)
    units: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda losses, order: losses
    pixels: bool = False


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


def simplex(weights: np.ndarray) -> np.ndarray:
    """Rows over their sums; one without any is uniform."""
    weights = weights.astype(np.float64)
    weights = np.where(weights.sum(-1, keepdims=True) > 0, weights, 1)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def above_0(p: np.ndarray) -> np.ndarray:
    """Shares whose logarithm has the true slope: below 1e-12 it is that at 1e-12."""
    return np.maximum(p, np.float32(1e-9))


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(K, dtype=np.float32)[labels]


REAL = Numbers((*whole(-4, 4), 1e-42, 1e-30, -1e-30, 1 + EPS, 1e15, -1e15), (-1e4, 1e4))
SCORE = Numbers((*whole(-4, 4), 1e-42, 1e-30, 104, -104, 1e4, -1e4), (-30, 30))
SHARE = Numbers((0, 1, 0.5, 1e-42, 1e-30, 1e-7, 1 - EPS / 2), (0, 1))
POSITIVE = Numbers((1, 2, 3, 1e-6), (1e-3, 1e4))
COUNT = Numbers(whole(0, 4), (0, 1e4))
LOG = Numbers((*whole(-4, 4), 1e-30), (-30, 30))
DISPERSION = Numbers((1, 2, 0.5), (1e-3, 4))
SIGN, BIT = Numbers((1, -1)), Numbers((0, 1))
GRID = Numbers(tuple(n / 256 for n in range(257)))  # their complements are exact

LABELS = drawn(Numbers(whole(0, K - 1)), UNITS, dtype=np.int32)
ROWS_OF_SHARES = each(SHARE, K).map(simplex)
ROWS_OF_SCORES = each(SCORE, K)

OF_RESIDUALS = ("convex", "least", "non_negative", "homogeneous", "translated", "symmetric")
OF_BINARY = ("convex", "least", "non_negative", "relabelled")
OF_LOGITS = ("convex", "least", "non_negative", "shifted", "relabelled")


def mirror(one: float) -> dict[str, Any]:
    """The two classes of a binary target change places."""
    return {"relabel": lambda arrays, order: (one - arrays[0], -arrays[1])}


def relabel_label(arrays: Arrays, order: np.ndarray) -> Arrays:
    return np.argsort(order).astype(np.int32)[arrays[0]], arrays[1][..., order]


def pairs(draw: Draw, *others: Draw) -> Draw:
    """Two of the same kind: independent, or the second the next number after the first, in each entry."""
    apart = st.tuples(draw, draw, *others)
    return st.one_of(apart, apart.map(lambda drawn: (drawn[0], np.nextafter(drawn[0], np.float32(1)), *drawn[2:])))


REALS = Domain(pairs(each(REAL)), OF_RESIDUALS)
RATIOS = Domain(pairs(st.builds(np.multiply, each(SIGN), each(Numbers((1, 2, 3), (1e-3, 1e4))))), OF_RESIDUALS)
ABOVE_MINUS_1 = Domain(pairs(each(Numbers((*whole(0, 4), 1e-30, 1e15), (-0.999, 1e4)))), OF_RESIDUALS)
VECTORS = Domain(pairs(each(REAL, K)), (*OF_RESIDUALS, "relabelled"))
TRIPLETS = Domain(
    st.tuples(each(REAL, K), each(REAL, K), each(REAL, K)),
    (*OF_RESIDUALS, "relabelled"),
    moves=(0, 1, 2),
)
SOFT_PAIRS = Domain(
    st.tuples(each(GRID), each(REAL, K), each(REAL, K)),
    (*OF_RESIDUALS, "relabelled"),
    moves=(1, 2),
    swap=lambda arrays: (arrays[0], arrays[2], arrays[1]),
    relabel=lambda arrays, order: (arrays[0], *(x[..., order] for x in arrays[1:])),
)
SETS = Domain(
    st.tuples(each(SCORE, K), each(SCORE, K)),  # the units are the members of one set
    ("least", "non_negative", "homogeneous", "symmetric", "relabelled"),
)
VIEWS = dataclasses.replace(
    SETS, draw=st.tuples(drawn(SCORE, PIXELS, UNITS, K), drawn(SCORE, PIXELS, UNITS, K)), pixels=True
)
LABELLED_SETS = dataclasses.replace(
    SETS,
    draw=st.tuples(LABELS, each(SCORE, K)),
    laws=("least", "non_negative", "homogeneous", "relabelled"),
    relabel=lambda arrays, order: (arrays[0], arrays[1][..., order]),
)
SIGN_PAIRS = dataclasses.replace(SOFT_PAIRS, draw=st.tuples(each(SIGN), each(REAL, K), each(REAL, K)))
SIGN_NUMBERS = Domain(st.tuples(each(SIGN), each(REAL)), ("convex", "least", "non_negative", "homogeneous"))
SIGN_SCORES = Domain(
    st.tuples(each(SIGN), each(SCORE), each(SCORE)),
    OF_RESIDUALS,
    moves=(1, 2),
    swap=lambda arrays: (-arrays[0], arrays[2], arrays[1]),
)
SIGNS = Domain(st.tuples(each(SIGN), each(SCORE)), OF_BINARY, **mirror(0.0))
TARGET_LOGIT = Domain(st.tuples(each(GRID), each(SCORE)), OF_BINARY, **mirror(1.0))
PROBABILITY = Domain(
    st.tuples(each(GRID), each(GRID)), OF_BINARY, relabel=lambda arrays, order: tuple(1 - x for x in arrays)
)
SIMPLICES = Domain(
    pairs(ROWS_OF_SHARES),
    ("convex", "least", "non_negative", "homogeneous", "symmetric", "relabelled"),
)
LOGITS = Domain(st.tuples(ROWS_OF_SHARES, ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
ONE_HOT_LOGITS = Domain(st.tuples(LABELS.map(one_hot), ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
SET_LOGITS = Domain(st.tuples(each(BIT, K), ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
LABEL_LOGITS = Domain(st.tuples(LABELS, ROWS_OF_SCORES), OF_LOGITS, moves=(1,), relabel=relabel_label)
LABEL_LOGS = Domain(
    st.tuples(LABELS, ROWS_OF_SCORES.map(lambda x: -np.abs(x))), OF_LOGITS, moves=(1,), relabel=relabel_label
)
LOGIT_PAIRS = Domain(pairs(ROWS_OF_SCORES), (*OF_LOGITS, "symmetric"))
PLACED = Domain(pairs(each(REAL), each(POSITIVE)), OF_RESIDUALS)
OF_COUNTS = ("convex", "least", "non_negative", "homogeneous")
COUNTS = Domain(st.tuples(each(COUNT), each(POSITIVE)), OF_COUNTS)
LOG_COUNTS = Domain(st.tuples(each(COUNT), each(LOG)), OF_COUNTS)
DISPERSED = Domain(st.tuples(each(COUNT), each(POSITIVE), each(DISPERSION)), OF_COUNTS)
LOG_DISPERSED = Domain(st.tuples(each(COUNT), each(LOG), each(DISPERSION)), OF_COUNTS)


def corners(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[..., :2], box[..., :2] + box[..., 2:]], -1) / 4


def boxes(shortest: int) -> Draw:
    return st.builds(
        lambda corner, sides: corners(np.concatenate([corner, sides], -1)),
        each(Numbers(whole(-16, 16)), 2),
        each(Numbers(whole(shortest, 24)), 2),
    )


BOXES = Domain(
    st.tuples(boxes(1), boxes(0)),  # a target without area is not even like itself
    (*OF_RESIDUALS, "relabelled"),
    relabel=lambda arrays, order: tuple(x[..., [1, 0, 3, 2]] for x in arrays),  # the axes of the plane
)
MASKS = Domain(
    st.tuples(drawn(BIT, PIXELS, UNITS, K), drawn(SHARE, PIXELS, UNITS, K)),
    ("convex", "least", "non_negative", "symmetric", "relabelled"),
    units=lambda losses, order: losses[..., order] if losses.ndim == 2 else losses,
    pixels=True,
)
MASK_LOGITS = Domain(
    st.tuples(drawn(BIT, PIXELS, UNITS, K), drawn(SCORE, PIXELS, UNITS, K)),
    ("convex", "least", "non_negative", "relabelled"),
    units=MASKS.units,
    pixels=True,
)
# Log-probabilities so far from 0 that they may be translated.
LOG_P = each(Numbers((0.0, *whole(-8, 8), 1e-3), (-62, 62))).map(lambda x: x - np.float32(128))
PAIRS_AND_REFERENCE = Domain(st.tuples(LOG_P, LOG_P, LOG_P, LOG_P), ("convex", "non_negative", "translated"))
PAIRS = Domain(st.tuples(LOG_P, LOG_P), ("convex", "non_negative", "translated"))
JUDGED = Domain(st.tuples(each(BIT), LOG_P, LOG_P), ("convex", "non_negative", "translated"), moves=(1, 2))
TOKENS = Domain(
    st.tuples(
        each(Numbers(whole(-4, 4), (-4, 4))), *(each(Numbers((*whole(-4, 0), 1e-30), (-8, 8))) for _ in range(3))
    ),
    ("convex", "non_negative", "translated"),
    moves=(1, 2, 3),
)
LISTS = Domain(
    st.tuples(drawn(Numbers(whole(0, 4)), PIXELS, UNITS, K), drawn(SCORE, PIXELS, UNITS, K)),
    ("convex", "non_negative", "translated", "relabelled"),
    moves=(1,),
    relabel=lambda arrays, order: tuple(x[[*order, *range(K, PIXELS)]] for x in arrays),  # the items have no order
    pixels=True,
)
BLANK, LABEL_COUNT = 1, 2


def sequences(*core: int) -> Domain:
    return Domain(
        st.tuples(
            drawn(Numbers((0, 2)), UNITS, LABEL_COUNT, dtype=np.int32),
            each(SCORE, *core, K),
            drawn(BIT, UNITS, dtype=np.int32),
            drawn(Numbers(whole(1, FRAMES)), UNITS, dtype=np.int32),
        ),
        OF_LOGITS,
        moves=(1,),
        relabel=lambda arrays, order: (2 - arrays[0], arrays[1][..., ::-1], *arrays[2:]),  # all but the blank
    )


# ---------------------------------------------------------------------------------------------------------------------
# Subjects


@dataclass(frozen=True)
class Subject:
    """A loss with options, and its laws.

    id: the loss, then a hyphen and what is special here.
    laws: each law that holds, with what it must know: True if nothing; a function that moves predictions to where the
      law holds (convex, relabelled); the best prediction and its loss (least); the degree and which arrays it is about
      (homogeneous).
    fails: each law of the domain that does not hold, with the reason.
    size: how large the terms of the formula are, of the arrays; 0 if the loss itself is the largest.
    """

    id: str
    domain: Domain
    laws: Mapping[str, Any]
    fails: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    size: Callable[..., Any] = lambda *arrays: 0.0

    @property
    def name(self) -> str:
        return self.id.partition("-")[0]

    def loss(self, *arrays: Any) -> Any:
        row = next(row for row in ROWS if row.name == self.name)
        return row.judged(jaxloss.LOSSES[self.name])(*arrays, **self.options, reduction="none")

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


@law(lambda domain: st.integers(-8, 0 if domain is SIMPLICES else 8))
def homogeneous(s: Subject, arrays: Arrays, k: int) -> None:
    """Of degree d: arrays times a factor, the loss times its d-th power."""
    degree, places = s.laws["homogeneous"]
    if s.domain is SIMPLICES:  # the logarithm of 0 is that of a number that is not scaled
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
