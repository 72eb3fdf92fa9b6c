"""What is known of the losses of embeddings."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import laws
from laws import Domain, Limit, Subject, drawn, each

from cases import exact as np
from cases.common import ANY_REAL, BOTH, DRAWN_LABELS, FRACTION, OF_RESIDUALS, ONE, SCORE, SIGN, VECTORS
from cases.relative import HARD_VECTORS
from cases.row import CLASSES, EXTREMES, LARGEST, REAL, Row, every, joined, signed

# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def triplets(rng, batch):
    return tuple(rng.normal(size=(*batch, CLASSES)) / 3 for _ in range(3))


def soft_pairs(rng, batch):
    return rng.uniform(0.05, 0.95, batch), *(rng.normal(size=(*batch, CLASSES)) / 2 for _ in range(2))


def sign_pairs(rng, batch):
    return rng.choice([-1.0, 1.0], batch), *(rng.normal(size=(*batch, CLASSES)) for _ in range(2))


def sign_number(rng, batch):
    return rng.choice([-1.0, 1.0], batch), 2 * rng.normal(size=batch)


def sign_scores(rng, batch):
    return rng.choice([-1.0, 1.0], batch), *(2 * rng.normal(size=batch) for _ in range(2))


def vectors(rng, batch):
    return rng.normal(size=(*batch, CLASSES)), rng.normal(size=(*batch, CLASSES))


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def distance(x, y, power=2):
    return (np.abs(x - y) ** power).sum(-1) if power == 1 else root((np.abs(x - y) ** power).sum(-1), power)


def root(x, power):
    return np.sqrt(x) if power == 2 else x ** (1 / power)


def cosine(x, y):
    product = np.sqrt((x**2).sum(-1)) * np.sqrt((y**2).sum(-1))
    return np.where(product > 0, (x * y).sum(-1) / np.where(product > 0, product, 1), 0)


def triplet(a, p, n, margin=1.0, power=2, swap=False):
    apart = np.minimum(distance(a, n, power), distance(p, n, power)) if swap else distance(a, n, power)
    return np.maximum(margin + distance(a, p, power) - apart, 0)


def contrastive(y, a, b, margin=1.0):
    return y * ((a - b) ** 2).sum(-1) / 2 + (1 - y) * np.maximum(margin - distance(a, b), 0) ** 2 / 2


def cosine_embedding(y, a, b, margin=0.0):
    cos = cosine(a, b)
    return np.where(y == 1, 1 - cos, np.maximum(cos - margin, 0))


def hinge_embedding(y, d, margin=1.0):
    return np.where(y == 1, d, np.maximum(margin - d, 0))


def margin_ranking(y, a, b, margin=0.0):
    return np.maximum(margin - np.where(y == 0, -1, y) * (a - b), 0)


def byol(y, p):
    return 2 - 2 * cosine(y, p)


# Of sets: (..., n, d), each member with every other


def scores(a, b):
    return np.einsum("...id,...jd->...ij", a, b)


def column(option):
    return np.asarray(option)[..., None]


def info_nce(q, k, temperature=0.07, chunk=None):
    z = scores(q, k) / column(temperature)
    return np.logaddexp.reduce(z, -1) - np.diagonal(z, axis1=-2, axis2=-1)


def clip(a, b, temperature=0.07, chunk=None):
    return (info_nce(a, b, temperature) + info_nce(b, a, temperature)) / 2


def siglip(a, b, temperature=0.1, bias=-10.0, chunk=None):
    z = scores(a, b) / column(temperature) + column(bias)
    s = 2 * np.eye(z.shape[-1]) - 1
    return np.log1p(np.exp(-s * z)).sum(-1)


def nt_xent(a, b, temperature=0.5, chunk=None):
    n = a.shape[-2]
    x = np.concatenate([a, b], -2)
    x = x / np.sqrt((x**2).sum(-1, keepdims=True))
    t = np.asarray(temperature)
    z = scores(x, x) / column(np.concatenate([t, t], -1) if t.ndim else t)
    positive = np.take_along_axis(z, ((np.arange(2 * n) + n) % (2 * n)).reshape((1,) * (z.ndim - 2) + (-1, 1)), -1)
    each = np.logaddexp.reduce(np.where(np.eye(2 * n) == 1, -np.inf, z), -1) - positive[..., 0]
    return (each[..., :n] + each[..., n:]) / 2


def sup_con(labels, x, temperature=0.1, chunk=None):
    x = x / np.sqrt((x**2).sum(-1, keepdims=True))
    other = np.eye(x.shape[-2]) == 0
    alike = other & (labels[..., :, None] == labels[..., None, :])
    z = np.where(other, scores(x, x) / column(temperature), -np.inf)
    count = alike.sum(-1)
    surprise = np.where(alike, np.logaddexp.reduce(z, -1)[..., None] - np.where(other, z, 0), 0)
    return np.where(count > 0, surprise.sum(-1) / np.maximum(count, 1), 0)


def of_labels(labels, x):
    """The cosines of all pairs; which are others of the same label, and which of another one."""
    x = x / np.sqrt((x**2).sum(-1, keepdims=True))
    same = labels[..., :, None] == labels[..., None, :]
    return scores(x, x), same & (np.eye(x.shape[-2]) == 0), ~same


def multi_similarity(labels, x, alpha=2.0, beta=50.0, base=0.5):
    s, alike, unlike = of_labels(labels, x)
    alpha, beta, base = map(column, (alpha, beta, base))
    near = np.where(alike, np.exp(-alpha * (s - base)), 0).sum(-1)
    far = np.where(unlike, np.exp(beta * (s - base)), 0).sum(-1)
    return np.log1p(near) / alpha[..., 0] + np.log1p(far) / beta[..., 0]


def circle(labels, x, margin=0.4, gamma=80.0):
    s, alike, unlike = of_labels(labels, x)
    held = of_labels(labels, still(x))[0]
    m, gamma = column(margin), column(gamma)
    near = np.where(alike, np.exp(-gamma * np.maximum(1 + m - held, 0) * (s - 1 + m)), 0).sum(-1)
    far = np.where(unlike, np.exp(gamma * np.maximum(held + m, 0) * (s - m)), 0).sum(-1)
    return np.log1p(near * far)


# Of sets as a whole: (n, ..., d), each feature with every other


def two_views(rng, batch):
    """No two members are almost the same in a feature: of two members a correlation is a ratio of their differences."""
    steps = np.broadcast_to(8 * np.arange(batch[0] if batch else 1).reshape(-1, *[1] * len(batch)), (*batch, SETS))
    steps = np.broadcast_to(steps[..., None], (*batch, SETS, CLASSES))
    return tuple(rng.permuted(steps, axis=0) + rng.normal(size=steps.shape) for _ in range(2))


def narrow_views(rng, batch):
    """Of features whose spread is far from where the hinge of VICReg begins: below it, and some above."""
    scale = np.where(np.arange(CLASSES) % 2, 0.25, 4.0)
    return tuple(x * scale / 8 / max(batch[0] if batch else 1, 1) for x in two_views(rng, batch))


def barlow_twins(a, b, redundancy=0.005, axis=0):
    a, b = (x - x.mean(0) for x in (a, b))
    sizes = [np.sqrt((x**2).sum(0)) for x in (a, b)]
    size = sizes[0][..., :, None] * sizes[1][..., None, :]
    c = np.einsum("n...i,n...j->...ij", a, b)
    c = np.where(size > 1e-12, c / np.where(size > 1e-12, size, 1), 0)
    own = np.eye(a.shape[-1])
    return (own * (1 - c) ** 2 + redundancy * (1 - own) * c**2).sum((-1, -2))


def vicreg(a, b, invariance=25.0, variance=25.0, covariance=1.0, std=1.0, eps=1e-4, axis=0):
    total, own = invariance * ((a - b) ** 2).mean(0).mean(-1), np.eye(a.shape[-1])
    for x in (a - a.mean(0), b - b.mean(0)):
        c = np.einsum("n...i,n...j->...ij", x, x) / max(len(x) - 1, 1)
        spread = np.sqrt(np.diagonal(c, axis1=-2, axis2=-1) + eps)
        total = total + variance * np.maximum(std - spread, 0).mean(-1)
        total = total + covariance * ((1 - own) * c**2).sum((-1, -2)) / a.shape[-1]
    return total


SETS = 8  # as many as the test mesh has devices
GRID = 32


def still(x):
    """Embeddings of the grid where they are, without the small steps by which differences are taken."""
    return np.held(x) if np.is_exact(x) else np.round(GRID * x) / GRID


def in_pairs(rng, batch):
    labels = np.broadcast_to(np.arange(batch[-1]) // 2 % 2, batch) if batch else np.zeros((), int)
    return labels.astype(int), rng.normal(size=(*batch, CLASSES))


def in_pairs_on_grid(rng, batch):
    labels, x = in_pairs(rng, batch)
    return labels, np.round(GRID * x) / GRID


def labelled(rng, batch):
    labels = np.zeros(batch, int) if not batch or batch[-1] < 8 else np.broadcast_to(np.arange(batch[-1]) >= 4, batch)
    return labels.astype(int), rng.normal(size=(*batch, CLASSES))


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs

FAR = [[0.0] * 4, [1.0, 0, 0, 0], [1e-3, 1, 2, 3], [1e4, 0, -1e4, 0], [1e-30, 0, 0, 1e-30], [1e15, 2e15, 0, 1]]
FAR += [[x / 4, -x / 4, 0, small] for x, _, small in EXTREMES] + [[normal, normal, 0, 0] for _, normal, _ in EXTREMES]


def thrice(vectors):
    """Every vector as anchor and as positive, beside a few negatives.

    Of a far anchor that is not its own positive, two distances may be almost equal: their difference has fewer digits.
    """
    a, p = every(vectors, vectors)
    kept = (np.abs(a).max(-1) < 10) | (a == p).all(-1)
    a, p = a[kept], p[kept]
    negatives = np.array([[0.0] * 4, [0.5, 0.5, 0, 0], [0, 0, 1e15, 0]])
    return joined(*((a, p, np.broadcast_to(n, a.shape)) for n in negatives))


def with_target(targets, pair):
    """Each pair with every target."""
    return joined(*((np.full(len(pair[0]), target), *pair) for target in targets))


SIGNS = (1.0, -1.0, 0.0)
NUMBERS = [*signed([0.0, 1e-30, 0.5, 1.0, 1e4, *LARGEST]), 2.0]
MARGINS = ({"margin": -1.0}, {"margin": float("nan")})
ZERO = [0.0] * 4
TEMPERATURES = ({"temperature": 0.0}, {"temperature": -1.0}, {"temperature": float("nan")})
WRONG_SIGNS = ([2.0, -0.5, float("nan")], [[1.0] * 4] * 3, [[0.5, 1, 2, 3]] * 3)

ROWS = (
    Row(
        "triplet",
        triplets,
        triplet,
        names=("anchor", "positive", "negative"),
        hard=thrice(FAR),
        ties=([ZERO, ZERO], [ZERO, [0.0, 3, 4, 0]], [[1.0, 0, 0, 0], [6.0, 0, 0, 0]]),
        refused=(*MARGINS, {"power": 0}, {"power": 1.5}),
    ),
    Row(
        "triplet-sum of sizes",
        triplets,
        triplet,
        {"power": 1, "margin": 8.0, "swap": True},
        names=("anchor", "positive", "negative"),
    ),
    Row("triplet-cubes", triplets, triplet, {"power": 3, "margin": 4.0}, names=("anchor", "positive", "negative")),
    Row(
        "contrastive",
        soft_pairs,
        contrastive,
        {"margin": 1.5},
        names=("y_true", "first", "second"),
        hard=with_target((0.0, 1.0, 0.25), every(FAR, FAR)),
        outside=([2.0, -1.0], [[1.0] * 4] * 2, [[0.5] * 4] * 2),
        refused=MARGINS,
    ),
    Row(
        "cosine_embedding",
        sign_pairs,
        cosine_embedding,
        {"margin": 0.25},
        names=("y_true", "first", "second"),
        detached=(0,),
        hard=with_target(SIGNS, every(HARD_VECTORS, HARD_VECTORS)),
        outside=WRONG_SIGNS,
        ties=([1.0, -1.0, -1.0], [ZERO, ZERO, [1.0, 0, 0, 0]], [ZERO, [1.0, 2, 3, 4], ZERO]),
        refused=({"margin": -2.0}, {"margin": 1.5}),
    ),
    Row(
        "hinge_embedding",
        sign_number,
        hinge_embedding,
        detached=(0,),
        hard=every(SIGNS, NUMBERS),
        outside=([2.0, -0.5], [1.0, 1.0]),
        ties=([-1.0, 0.0], [1.0, 1.0]),
        refused=MARGINS,
    ),
    Row("hinge_embedding-margin", sign_number, hinge_embedding, {"margin": 2.5}, detached=(0,)),
    Row(
        "margin_ranking",
        sign_scores,
        margin_ranking,
        names=("y_true", "first", "second"),
        detached=(0,),
        hard=with_target(SIGNS, REAL),
        outside=([2.0, -0.5], [1.0, 1.0], [0.0, 0.0]),
        ties=([1.0, -1.0], [0.0, 2.5], [0.0, 2.5]),
        refused=MARGINS,
    ),
    Row(
        "margin_ranking-margin",
        sign_scores,
        margin_ranking,
        {"margin": 1.5},
        names=("y_true", "first", "second"),
        detached=(0,),
    ),
    *(
        Row(
            name + kind, make, oracle, {"temperature": 1.5, **more, **chunk}, names=names, coupled=True, refused=refused
        )
        for kind, chunk, refused in (("", {}, (*TEMPERATURES, {"chunk": 0})), ("-chunk", {"chunk": 1}, ()))
        for name, make, oracle, names, more in (
            ("info_nce", vectors, info_nce, ("queries", "keys"), {}),
            ("clip", vectors, clip, ("first", "second"), {}),
            ("siglip", vectors, siglip, ("first", "second"), {"bias": -0.5}),
            ("nt_xent", vectors, nt_xent, ("first", "second"), {}),
            ("sup_con", labelled, sup_con, ("labels", "embeddings"), {}),
        )
    ),
    Row(
        "multi_similarity",
        in_pairs,
        multi_similarity,
        {"alpha": 1.5, "beta": 3.0, "base": 0.25},
        names=("labels", "embeddings"),
        coupled=True,
        refused=({"alpha": 0.0}, {"beta": -1.0}, {"base": float("nan")}),
    ),
    Row(
        "circle",
        in_pairs_on_grid,
        circle,
        {"margin": 0.25, "gamma": 2.0},
        names=("labels", "embeddings"),
        coupled=True,
        frozen=True,
        refused=({"margin": -0.5}, {"margin": 1.5}, {"gamma": 0.0}),
    ),
    Row(
        "barlow_twins",
        two_views,
        barlow_twins,
        {"redundancy": 0.25, "axis": 0},
        names=("first", "second"),
        pooled=True,
        refused=({"redundancy": -0.5},),
    ),
    Row(
        "vicreg",
        narrow_views,
        vicreg,
        {"invariance": 1.5, "variance": 2.0, "covariance": 0.5, "std": 1.25, "eps": 0.125, "axis": 0},
        names=("first", "second"),
        pooled=True,
        refused=({"invariance": -0.5}, {"covariance": -1.0}, {"std": -1.0}, {"eps": 0.0}, {"eps": -1.0}),
    ),
    Row("byol", vectors, byol, detached=(0,), hard=every(HARD_VECTORS, HARD_VECTORS), ties=([ZERO], [ZERO])),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

AXIS = {"axis": 0}
TRIPLETS = Domain(
    st.tuples(each(ANY_REAL, laws.K), each(ANY_REAL, laws.K), each(ANY_REAL, laws.K)),
    (*OF_RESIDUALS, "relabelled"),
    moves=(0, 1, 2),
)
SOFT_PAIRS = Domain(
    st.tuples(each(FRACTION), each(ANY_REAL, laws.K), each(ANY_REAL, laws.K)),
    (*OF_RESIDUALS, "relabelled"),
    moves=(1, 2),
    swap=lambda arrays: (arrays[0], arrays[2], arrays[1]),
    relabel=lambda arrays, order: (arrays[0], *(x[..., order] for x in arrays[1:])),
)
TWO_SETS = Domain(
    st.tuples(each(SCORE, laws.K), each(SCORE, laws.K)),  # the units are the members of one set
    ("least", "non_negative", "homogeneous", "symmetric", "relabelled"),
)
VIEWS = dataclasses.replace(
    TWO_SETS,
    draw=st.tuples(drawn(SCORE, laws.PIXELS, laws.UNITS, laws.K), drawn(SCORE, laws.PIXELS, laws.UNITS, laws.K)),
    pixels=True,
)
LABELLED_SETS = dataclasses.replace(
    TWO_SETS,
    draw=st.tuples(DRAWN_LABELS, each(SCORE, laws.K)),
    laws=("least", "non_negative", "homogeneous", "relabelled"),
    relabel=lambda arrays, order: (arrays[0], arrays[1][..., order]),
)
SIGN_PAIRS = dataclasses.replace(SOFT_PAIRS, draw=st.tuples(each(SIGN), each(ANY_REAL, laws.K), each(ANY_REAL, laws.K)))
SIGN_NUMBERS = Domain(st.tuples(each(SIGN), each(ANY_REAL)), ("convex", "least", "non_negative", "homogeneous"))
SIGN_SCORES = Domain(
    st.tuples(each(SIGN), each(SCORE), each(SCORE)),
    OF_RESIDUALS,
    moves=(1, 2),
    swap=lambda arrays: (-arrays[0], arrays[2], arrays[1]),
)
EMBEDDED = {"non_negative": True, "relabelled": True}
DIRECTIONS = {"convex": "it is at most 2", "translated": "only directions count"}
IN_THE_LIMIT = {"least": "0 is the limit of certain embeddings"}
TEMPERED = {**IN_THE_LIMIT, "homogeneous": "the temperature is a scale"}


def products(a, b):
    a, b = np.abs(a).sum(-1), np.abs(b).sum(-1)
    return 1 + a * b.max() + b * a.max()


def second_and_fourth_powers(a, b):
    squares = ((np.abs(a) + np.abs(b)) ** 2).sum((0, -1))
    return 25 * (2 + squares) + squares**2


LAWS = (
    Subject(
        "info_nce",
        TWO_SETS,
        EMBEDDED,
        {**TEMPERED, "symmetric": "the queries choose among the keys"},
        {"temperature": 1.0},
        products,
    ),
    Subject("clip", TWO_SETS, {**EMBEDDED, "symmetric": True}, TEMPERED, {"temperature": 1.0}, products),
    Subject(
        "siglip",
        TWO_SETS,
        EMBEDDED,
        {**TEMPERED, "symmetric": "the loss of a member is that of its row, not of its column"},
        {"temperature": 1.0},
        lambda a, b: laws.UNITS * (10 + products(a, b)),
    ),
    Subject(
        "sup_con",
        LABELLED_SETS,
        {**EMBEDDED, "homogeneous": (0, (1,))},
        IN_THE_LIMIT,
        {"temperature": 0.5},
        lambda labels, x: 8.0,
    ),
    Subject(
        "multi_similarity",
        LABELLED_SETS,
        {**EMBEDDED, "homogeneous": (0, (1,))},
        {"least": "even the best cosines cost something, and not all of them are possible together"},
        size=lambda labels, x: 8.0,
    ),
    Subject(
        "circle",
        LABELLED_SETS,
        {**EMBEDDED, "homogeneous": (0, (1,))},
        {"least": "even the best cosines cost something, and not all of them are possible together"},
        {"gamma": 4.0},
        lambda labels, x: 32.0,
    ),
    Subject(
        "barlow_twins",
        VIEWS,
        {**EMBEDDED, "symmetric": True, "homogeneous": (0, BOTH)},
        {"least": "two views that are equal still cost what their features have in common"},
        AXIS,
        size=lambda a, b: laws.K * 8.0,
    ),
    Subject(
        "vicreg",
        VIEWS,
        {**EMBEDDED, "symmetric": True},
        {
            "least": "two views that are equal still cost what their features have in common",
            "homogeneous": "the standard deviation is a length",
        },
        AXIS,
        size=second_and_fourth_powers,
    ),
    Subject(
        "nt_xent",
        TWO_SETS,
        {**EMBEDDED, "symmetric": True, "homogeneous": (0, BOTH)},
        IN_THE_LIMIT,
        size=lambda a, b: 8.0,  # terms of size 1 / temperature, after cosines that are rounded themselves
    ),
    Subject(
        "triplet",
        TRIPLETS,
        {**EMBEDDED, "convex": True, "translated": True},
        {
            "least": "it has no least point but where it is 0",
            "homogeneous": "the margin is a length",
            "symmetric": "the anchor is in both distances",
        },
        size=lambda a, p, n: 1 + np.abs([a - p, a - n]).max((0, -1)),
    ),
    Subject(
        "triplet-no margin",
        TRIPLETS,
        {**EMBEDDED, "convex": True, "translated": True, "homogeneous": (1, (0, 1, 2))},
        {"least": "it has no least point but where it is 0", "symmetric": "the anchor is in both distances"},
        {"margin": 0.0},
        lambda a, p, n: np.abs([a - p, a - n]).max((0, -1)),
    ),
    Subject(
        "contrastive",
        SOFT_PAIRS,
        {**EMBEDDED, "translated": True, "symmetric": True},
        {
            "convex": "from one point a pair may be pushed apart in every direction",
            "least": "alike or not, the target says where",
            "homogeneous": "the margin is a length",
        },
        size=ONE,
    ),
    Subject(
        "cosine_embedding",
        SIGN_PAIRS,
        {**EMBEDDED, "homogeneous": (0, (1, 2)), "symmetric": True},
        {**DIRECTIONS, "least": "alike or not, the target says where"},
        size=ONE,
    ),
    Subject(
        "hinge_embedding",
        SIGN_NUMBERS,
        {"convex": True},
        {
            "least": "where y = 1 it has no bound below",
            "non_negative": "where y = 1 it is the number itself",
            "homogeneous": "the margin is a length",
        },
    ),
    Subject(
        "margin_ranking",
        SIGN_SCORES,
        {
            "convex": True,
            "least": (lambda y, a, b: b, 0.0),
            "non_negative": True,
            "homogeneous": (1, (1, 2)),
            "translated": True,
            "symmetric": True,
        },
    ),
    Subject(
        "byol",
        VECTORS,
        {
            "least": (lambda y, p: 2 * y, lambda y, p: 2.0 * (np.abs(y).max(-1) < laws.TINY)),
            **EMBEDDED,
            "homogeneous": (0, BOTH),
            "symmetric": True,
        },
        DIRECTIONS,
        size=ONE,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS: tuple[Limit, ...] = ()
