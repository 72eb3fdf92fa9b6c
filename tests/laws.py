"""The laws that a formula obeys, and which loss obeys which: what test_properties.py tries on drawn inputs.

A subject is a loss with given options, on a domain. The domain names the laws that make sense there; the subject says
of each whether it holds, and if not, why. A law is a function of the subject, of the drawn arrays (UNITS cases at once)
and of what else it draws.

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
from cases import ROWS
from scipy.special import gammaln, logit, xlogy

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
        x = np.full(shape, numbers.pool[0]) if seed == 0 else numbers.many(np.random.default_rng(seed), shape)
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
    return st.tuples(draw, draw, *others)


REALS = Domain(pairs(each(REAL)), OF_RESIDUALS)
RATIOS = Domain(pairs(st.builds(np.multiply, each(SIGN), each(Numbers((1, 2, 3), (1e-3, 1e4))))), OF_RESIDUALS)
ABOVE_MINUS_1 = Domain(pairs(each(Numbers((*whole(0, 4), 1e-30, 1e15), (-0.999, 1e4)))), OF_RESIDUALS)
VECTORS = Domain(pairs(each(REAL, K)), (*OF_RESIDUALS, "relabelled"))
SIGNS = Domain(st.tuples(each(SIGN), each(SCORE)), OF_BINARY, **mirror(0.0))
TARGET_LOGIT = Domain(st.tuples(each(GRID), each(SCORE)), OF_BINARY, **mirror(1.0))
PROBABILITY = Domain(pairs(each(GRID)), OF_BINARY, relabel=lambda arrays, order: tuple(1 - x for x in arrays))
SIMPLICES = Domain(
    pairs(ROWS_OF_SHARES),
    ("convex", "least", "non_negative", "homogeneous", "symmetric", "relabelled"),
)
LOGITS = Domain(st.tuples(ROWS_OF_SHARES, ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
ONE_HOT_LOGITS = Domain(st.tuples(LABELS.map(one_hot), ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
SET_LOGITS = Domain(st.tuples(each(BIT, K), ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
LABEL_LOGITS = Domain(st.tuples(LABELS, ROWS_OF_SCORES), OF_LOGITS, moves=(1,), relabel=relabel_label)
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
    bad = ~(got >= low - slack)  # so that NaN is bad
    none_bad(bad, f"{s.id} is below what it should be", arrays, s.domain.pixels, got, low)


def near(s: Subject, arrays: Arrays, got: np.ndarray, want: np.ndarray) -> None:
    tolerance = s.tolerance(arrays, want)
    bad = ~((np.abs(got - want) <= tolerance) | (got == want))
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
    exactly = not callable(value) and s.size(*arrays) == 0
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


# ---------------------------------------------------------------------------------------------------------------------
# Which loss obeys which law


def entropy(q: np.ndarray) -> np.ndarray:
    return -xlogy(q, q).sum(-1)


def binary_entropy(y: np.ndarray) -> np.ndarray:
    return -xlogy(y, y) - xlogy(1 - y, 1 - y)


def far_logit(y: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.clip(logit(exact(y)), -200, 200)


def log_of(q: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(exact(q), 1e-200))


def at_label(label: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return 200 * one_hot(label)


AT_TARGET = (lambda y, *others: y, 0.0)
ONE = lambda *arrays: 1.0  # noqa: E731  a logarithm near 0 carries the rounding of a number near 1

RESIDUAL = {"convex": True, "least": AT_TARGET, "non_negative": True, "translated": True, "symmetric": True}
LENGTH = {"homogeneous": "an option is a length: it must be scaled too"}
ROBUST = {law: held for law, held in RESIDUAL.items() if law != "convex"}
BOUNDED = {"convex": "its slope falls for large residuals"}
LEVEL = {"symmetric": "the level tells the sides apart"}
BOTH, PREDICTION = (0, 1), (1,)


def without(laws: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: held for name, held in laws.items() if name not in names}


REGRESSION = (
    Subject("mae", REALS, {**RESIDUAL, "homogeneous": (1, BOTH)}),
    Subject("mse", REALS, {**RESIDUAL, "homogeneous": (2, BOTH)}),
    Subject("huber", REALS, RESIDUAL, LENGTH, {"delta": 0.4}),
    Subject("smooth_l1", REALS, RESIDUAL, LENGTH, {"beta": 0.4}),
    Subject("balanced_l1", REALS, RESIDUAL, LENGTH),
    Subject("log_cosh", REALS, RESIDUAL, {"homogeneous": "it has the length 1"}),
    Subject("quantile", REALS, {**without(RESIDUAL, "symmetric"), "homogeneous": (1, BOTH)}, LEVEL, {"level": 0.3}),
    Subject("expectile", REALS, {**without(RESIDUAL, "symmetric"), "homogeneous": (2, BOTH)}, LEVEL, {"level": 0.3}),
    Subject("barron", REALS, RESIDUAL, LENGTH, {"alpha": 1.4, "scale": 0.7}),
    Subject("barron-bounded", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"alpha": -2.5, "scale": 0.7}),
    Subject("charbonnier", REALS, RESIDUAL, LENGTH, {"scale": 0.7}),
    Subject("cauchy", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"scale": 0.7}),
    Subject("welsch", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"scale": 0.7}),
    Subject(
        "mape",
        RATIOS,
        {"convex": True, "least": AT_TARGET, "non_negative": True, "homogeneous": (0, BOTH)},
        {"translated": "it is relative", "symmetric": "it is relative to the target"},
    ),
    Subject(
        "smape",
        RATIOS,
        {"least": AT_TARGET, "non_negative": True, "homogeneous": (0, BOTH), "symmetric": True},
        {"convex": "it is at most 200", "translated": "it is relative"},
    ),
    Subject(
        "msle",
        ABOVE_MINUS_1,
        {"least": AT_TARGET, "non_negative": True, "symmetric": True},
        {"convex": "a logarithm squared", "homogeneous": "1 is added", "translated": "it is (almost) relative"},
    ),
    Subject(
        "cosine_distance",
        VECTORS,
        {
            "least": (lambda y, p: 2 * y, lambda y, p: 1.0 * (np.abs(y).max(-1) < TINY)),
            "non_negative": True,
            "homogeneous": (0, PREDICTION),
            "symmetric": True,
            "relabelled": True,
        },
        {"convex": "it is at most 2", "translated": "only directions count"},
        size=ONE,
    ),
)

BINARY = {"convex": True, "non_negative": True, "relabelled": True}
OF_LOGIT = {**BINARY, "least": (lambda y, z: far_logit(y), lambda y, z: binary_entropy(y))}
FOCUS = {
    "convex": "the weight falls where the error does",
    "least": "of a soft target the least loss is elsewhere: no proper score",
}
BINARY_LOSSES = (
    Subject("bce-logit", TARGET_LOGIT, OF_LOGIT, options={"from_logits": True}, size=ONE),
    Subject(
        "bce-probability",
        PROBABILITY,
        {
            **BINARY,
            "convex": lambda p: np.clip(p, 1e-9, 1),  # below 1e-12 a slope is that at 1e-12
            "least": (lambda y, p: y, lambda y, p: binary_entropy(y)),
        },
        size=ONE,
    ),
    Subject(
        "bce-pos_weight",
        TARGET_LOGIT,
        without(BINARY, "relabelled"),
        {"least": "the weight moves it", "relabelled": "one class is weighed"},
        {"from_logits": True, "pos_weight": 3.0},
        ONE,
    ),
    Subject("binary_focal-logit", TARGET_LOGIT, without(BINARY, "convex"), FOCUS, {"from_logits": True}, size=ONE),
    Subject("binary_focal-probability", PROBABILITY, without(BINARY, "convex"), FOCUS, size=ONE),
    Subject("hinge", SIGNS, {**BINARY, "least": (lambda y, z: y, 0.0)}),
    Subject("squared_hinge", SIGNS, {**BINARY, "least": (lambda y, z: 0.75 * y, 0.0)}, options={"margin": 0.75}),
    Subject("perceptron", SIGNS, {**BINARY, "least": (lambda y, z: 0 * y, 0.0)}),
    Subject("soft_margin", SIGNS, {**BINARY, "least": (lambda y, z: 200 * y, 0.0)}),
    Subject("sparsemax", TARGET_LOGIT, {**BINARY, "least": (lambda y, z: 2 * y - 1, 0.0)}),
)

OF_CLASSES = {"convex": True, "non_negative": True, "shifted": True, "relabelled": True}
FROM_LOGITS = {"from_logits": True}
POLY = {"convex": "1 - p is not convex in the logits", "least": FOCUS["least"]}
NORMALISED = {"symmetric": "only the prediction is in a logarithm"}
ROW_OF_P = {"non_negative": True, "homogeneous": (0, PREDICTION), "relabelled": True}
CLASS_LOSSES = (
    Subject(
        "cce-logits",
        LOGITS,
        {**OF_CLASSES, "least": (lambda q, z: log_of(q), lambda q, z: entropy(q))},
        options=FROM_LOGITS,
        size=ONE,
    ),
    Subject(
        "cce-probabilities",
        SIMPLICES,
        {**ROW_OF_P, "convex": above_0, "least": (lambda q, p: q, lambda q, p: entropy(q))},
        NORMALISED,
        size=ONE,
    ),
    Subject("sparse_cce-logits", LABEL_LOGITS, {**OF_CLASSES, "least": (at_label, 0.0)}, options=FROM_LOGITS, size=ONE),
    Subject(
        "sparse_cce-smoothed",
        LABEL_LOGITS,
        OF_CLASSES,
        {"least": "smoothing moves it"},
        {**FROM_LOGITS, "label_smoothing": 0.1},
        ONE,
    ),
    Subject(
        "linear_cce",
        LABEL_LOGITS,
        {**OF_CLASSES, "least": (at_label, 0.0)},
        options={"kernel": np.eye(K, dtype=np.float32)},
        size=ONE,
    ),
    Subject(
        "nll",
        LABEL_LOGITS,
        {"convex": True, "relabelled": True},
        {
            "least": "it is linear",
            "non_negative": "numbers above 0 are no log-probabilities, but are taken as they are",
            "shifted": "nothing is normalised",
        },
    ),
    Subject("categorical_focal-logits", LOGITS, without(OF_CLASSES, "convex"), FOCUS, FROM_LOGITS, ONE),
    Subject(
        "categorical_focal-probabilities",
        SIMPLICES,
        {**ROW_OF_P, "convex": above_0},
        {**NORMALISED, "least": FOCUS["least"]},
        size=ONE,
    ),
    Subject("poly1-logits", LOGITS, without(OF_CLASSES, "convex"), POLY, FROM_LOGITS, ONE),
    Subject(
        "poly1-probabilities",
        SIMPLICES,
        {**ROW_OF_P, "convex": above_0},
        {**NORMALISED, "least": FOCUS["least"]},
        size=ONE,
    ),
    Subject("generalized_cce-logits", LOGITS, without(OF_CLASSES, "convex"), POLY, FROM_LOGITS, ONE),
    Subject(
        "generalized_cce-probabilities",
        SIMPLICES,
        {**ROW_OF_P, "convex": above_0},
        {**NORMALISED, "least": FOCUS["least"]},
        size=ONE,
    ),
    Subject("categorical_hinge", ONE_HOT_LOGITS, {**OF_CLASSES, "least": (lambda y, z: y, 0.0)}),
    Subject("multi_margin", LABEL_LOGITS, {**OF_CLASSES, "least": (at_label, 0.0)}),
    Subject("multi_margin-squared", LABEL_LOGITS, {**OF_CLASSES, "least": (at_label, 0.0)}, options={"power": 2}),
    Subject("multilabel_margin", SET_LOGITS, {**OF_CLASSES, "least": (lambda y, z: y, 0.0)}),
    Subject(
        "multilabel_soft_margin",
        SET_LOGITS,
        {**without(OF_CLASSES, "shifted"), "least": (lambda y, z: 400 * y - 200, 0.0)},
        {"shifted": "each class is decided alone"},
    ),
)

DIVERGENCE = {"convex": above_0, "least": AT_TARGET, "homogeneous": (1, BOTH), "relabelled": True}
ALMOST_0 = (lambda q, p: q, lambda q, p: 0 * q[:, 0])  # the mixture of q with itself is rounded
SIGN_OF_SUMS = {"non_negative": "nothing is normalised: the rounding of the sums decides the sign"}
DIVERGENCES = (
    Subject("kl_divergence", SIMPLICES, DIVERGENCE, {**SIGN_OF_SUMS, **NORMALISED}, size=ONE),
    Subject(
        "js_divergence",
        SIMPLICES,
        {**DIVERGENCE, "least": ALMOST_0, "symmetric": True},
        {"non_negative": "differences of logarithms are rounded"},
        size=ONE,
    ),
    Subject(
        "js_divergence-weight",
        SIMPLICES,
        {**DIVERGENCE, "least": ALMOST_0},
        {"non_negative": "differences of logarithms are rounded", "symmetric": "the weight tells the sides apart"},
        {"weight": 0.3},
        ONE,
    ),
    Subject(
        "total_variation",
        SIMPLICES,
        {**DIVERGENCE, "convex": True, "non_negative": True, "symmetric": True},
    ),
    Subject(
        "distillation",
        LOGIT_PAIRS,
        {**OF_CLASSES, "least": AT_TARGET},
        {"symmetric": "the teacher weighs"},
        {"temperature": 2.0},
        size=ONE,
    ),
)


def gaussian_terms(y: np.ndarray, mean: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 1 + np.abs(np.log(v)) + (y - mean) ** 2 / v


def laplace_terms(y: np.ndarray, location: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1 + np.abs(np.log(b)) + np.abs(y - location) / b


def student_terms(y: np.ndarray, location: np.ndarray, s: np.ndarray) -> np.ndarray:
    return 1 + np.abs(np.log(s)) + 2.5 * np.log1p(((y - location) / s) ** 2 / 4)


def poisson_terms(y: np.ndarray, rate: np.ndarray) -> np.ndarray:
    return 1 + rate + y * np.abs(np.log(rate))


def log_poisson_terms(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 1 + np.exp(x) * (1 + np.abs(x)) + y * np.abs(x)


def nb_terms(y: np.ndarray, mean: np.ndarray, a: np.ndarray) -> np.ndarray:
    return 1 + (y + 1 / a) * np.log1p(a * mean) + y * (np.abs(np.log(mean)) + np.log1p(a * y) + 1)


def nb_value(y: np.ndarray, mean: np.ndarray, a: np.ndarray) -> np.ndarray:
    n = 1 / a
    return gammaln(n) - gammaln(n + y) + n * np.log1p(a * mean) + y * np.log1p(a * mean) - xlogy(y, a * mean)


LIKELY = {"least": None, "translated": True, "symmetric": True}
UNBOUNDED = {"non_negative": "a density may exceed 1", "homogeneous": "the logarithm of the scale is added"}
NO_CONSTANT = {"non_negative": "the term of the target alone is left out"}
SCALED_COUNT = {"homogeneous": "the logarithm of the factor is added"}


def best_rate(y: np.ndarray, rate: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return np.maximum(y, 1e-12)  # below, the logarithm of the rate need not be small against it


LIKELIHOODS = (
    Subject(
        "gaussian_nll",
        PLACED,
        {**LIKELY, "convex": True, "least": (lambda y, m, v: y, lambda y, m, v: np.log(v) / 2)},
        UNBOUNDED,
        size=gaussian_terms,
    ),
    Subject(
        "laplace_nll",
        PLACED,
        {**LIKELY, "convex": True, "least": (lambda y, l, b: y, lambda y, l, b: np.log(b))},
        UNBOUNDED,
        size=laplace_terms,
    ),
    Subject(
        "student_t_nll",
        PLACED,
        {**LIKELY, "least": (lambda y, l, s: y, lambda y, l, s: np.log(s))},
        {**UNBOUNDED, **BOUNDED},
        size=student_terms,
    ),
    Subject(
        "poisson_nll",
        COUNTS,
        {"convex": True, "least": (best_rate, lambda y, r: y - xlogy(y, y))},
        {**NO_CONSTANT, **SCALED_COUNT},
        size=poisson_terms,
    ),
    Subject(
        "poisson_nll-log_rate",
        LOG_COUNTS,
        {"convex": True, "least": (lambda y, x: log_of(np.maximum(y, 1e-30)), lambda y, x: y - xlogy(y, y))},
        {**NO_CONSTANT, "homogeneous": "logarithms"},
        {"log_rate": True},
        log_poisson_terms,
    ),
    Subject(
        "negative_binomial_nll",
        DISPERSED,
        {"least": (best_rate, lambda y, m, a: nb_value(y, np.maximum(y, 1e-12), a))},
        {"convex": "its slope falls for large means", **NO_CONSTANT, **SCALED_COUNT},
        size=nb_terms,
    ),
    Subject(
        "negative_binomial_nll-log_rate",
        LOG_DISPERSED,
        {"convex": True},
        {
            "least": "as for negative_binomial_nll",
            **NO_CONSTANT,
            "homogeneous": "logarithms",
        },
        {"log_rate": True},
        lambda y, x, a: nb_terms(y, np.exp(x), a),
    ),
    Subject(
        "tweedie",
        COUNTS,
        {
            "least": (best_rate, lambda y, m: np.maximum(y, 1e-12) ** 0.5 * 2 + y * np.maximum(y, 1e-12) ** -0.5 * 2),
            "non_negative": True,
            "homogeneous": (0.5, BOTH),
        },
        {"convex": "a power below 1 of the mean is added"},
    ),
    Subject(
        "tweedie-deviance",
        COUNTS,
        {"least": (lambda y, m: y, 0.0), "non_negative": True, "homogeneous": (0.5, BOTH)},
        {"convex": "a power below 1 of the mean is added"},
        {"full": True},
    ),
    Subject(
        "tweedie-almost gamma",
        COUNTS,
        {"least": (lambda y, m: y, 0.0), "non_negative": True, "homogeneous": (2 - 1.99, BOTH)},
        {"convex": "a power below 1 of the mean is added"},
        {"full": True, "power": 1.99},
    ),
)

BOX_LAWS = {
    "least": AT_TARGET,
    "non_negative": True,
    "homogeneous": (0, BOTH),
    "translated": True,
    "symmetric": True,
    "relabelled": True,
}
OVERLAP = {"convex": "a quotient of areas"}


def with_sides(box: np.ndarray) -> np.ndarray:
    """The aspect of a point is that of a vertical line, by convention."""
    return box + np.array([0, 0, 1, 1], np.float32)


WITH: dict[str, dict[str, Any]] = {
    "alpha_iou": {"power": 2.5, "base": "giou"},
    "ciou-gate": {"gate": 0.5},
    "wiou_v2": {"iou_loss_mean": 0.6},
    "wiou_v3": {"iou_loss_mean": 0.6},
}
BOX_LOSSES = tuple(
    Subject(id, BOXES, {**BOX_LAWS, "relabelled": with_sides if id == "ciou" else True}, OVERLAP, WITH.get(id, {}))
    for id in (
        *("iou", "iou_log", "giou", "diou", "ciou", "ciou-gate", "eiou", "focal_eiou", "alpha_iou", "siou"),
        *("wiou_v1", "wiou_v2", "wiou_v3"),
    )
)

MASK_LAWS = {"least": AT_TARGET, "non_negative": True, "symmetric": True, "relabelled": True}
SIZES = {"convex": "the prediction is in the denominator"}
SIDES = {"symmetric": "false positives and false negatives count differently"}
STEP = {"symmetric": "a target is 0 or 1"}
AXIS = {"axis": 0}
MASK_LOSSES = (
    Subject("dice", MASKS, MASK_LAWS, SIZES, AXIS),
    Subject("jaccard", MASKS, MASK_LAWS, SIZES, AXIS),
    Subject("tversky", MASKS, without(MASK_LAWS, "symmetric"), {**SIZES, **SIDES}, {**AXIS, "alpha": 0.3, "beta": 0.7}),
    Subject("focal_tversky", MASKS, without(MASK_LAWS, "symmetric"), {**SIZES, **SIDES}, AXIS),
    Subject(
        "generalized_dice",
        MASKS,
        without(MASK_LAWS, "symmetric"),
        {**SIZES, "symmetric": "the sizes of the targets weigh"},
        AXIS,
    ),
    Subject("lovasz_softmax", MASKS, {**without(MASK_LAWS, "symmetric"), "convex": True}, STEP, AXIS, size=ONE),
    Subject(
        "lovasz_hinge",
        MASK_LOGITS,
        {"convex": True, "least": (lambda y, z: 2 * y - 1, 0.0), "non_negative": True, "relabelled": True},
        options=AXIS,
    ),
)

OF_PATHS = {
    "convex": "the logarithm of a sum over paths is convex too, and subtracted",
    "least": "0 is the limit of certain logits",
}
SEQUENCE_LOSSES = tuple(
    Subject(
        name,
        sequences(*core),
        without(OF_CLASSES, "convex"),
        OF_PATHS,
        {"blank": BLANK},
        lambda labels, logits, *lengths: 1 + np.ptp(logits, axis=-1).reshape(UNITS, -1).sum(-1),
    )
    for name, core in (("ctc", (FRAMES,)), ("rnnt", (FRAMES, LABEL_COUNT + 1)))
)

SUBJECTS = (
    *BINARY_LOSSES,
    *CLASS_LOSSES,
    *DIVERGENCES,
    *REGRESSION,
    *LIKELIHOODS,
    *BOX_LOSSES,
    *MASK_LOSSES,
    *SEQUENCE_LOSSES,
)
