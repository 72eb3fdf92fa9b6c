"""What is known of the ranking losses: (items, list, list) arrays, of which a loss sees all items of a list at once."""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import laws
from laws import Domain, Limit, Numbers, Subject, drawn, of, times

from cases import exact as np
from cases.classification import FROM_LOGITS
from cases.common import CONVEX, ONE, SCORE, SMALL, without
from cases.row import LARGEST, NORMAL, SMALLEST, Row, every

EXAMPLES, MORE = 8, 2  # as many as the test mesh has devices, and a second axis of lists

# ---------------------------------------------------------------------------------------------------------------------
# Inputs: some items are equally relevant


def graded(rng, batch):
    return rng.integers(0, 4, (*batch, EXAMPLES, MORE)) * 1.0, 2 * rng.normal(size=(*batch, EXAMPLES, MORE))


def paired(rng, batch):
    """As `graded`, but of a long list only the beginning: a thousand items have a million pairs."""
    return graded(rng, tuple(min(n, 64) for n in batch))


def shares(rng, batch):
    return rng.random((*batch, EXAMPLES, MORE)), 2 * rng.normal(size=(*batch, EXAMPLES, MORE))


# ---------------------------------------------------------------------------------------------------------------------
# Formulas, of one list


def each(oracle):
    """The oracle of one list, for a batch of them along the later axes."""

    @functools.wraps(oracle)
    def losses(y, z, axis=0, **options):
        one = [
            oracle(*pair, **options)
            for pair in zip(*(x.reshape(len(x), -1).T for x in map(np.asarray, (y, z))), strict=True)
        ]
        return np.reshape(np.array(one), z.shape[1:])

    return losses


def pairs(y):
    return y[:, None] > y[None, :]


def mean_over_pairs(y, costs):
    count = pairs(y).sum()
    return np.where(pairs(y), costs, 0).sum() / max(count, 1)


@each
def list_softmax(y, z):
    return (y * (np.logaddexp.reduce(z) - z)).sum()


@each
def ranknet(y, z):
    return mean_over_pairs(y, np.logaddexp(0, z[None, :] - z[:, None]))


@each
def pairwise_hinge(y, z, margin=1.0):
    return mean_over_pairs(y, np.maximum(0, margin - (z[:, None] - z[None, :])))


@each
def list_mle(y, z):
    """The items are drawn, the most relevant first; of equal ones that are drawn, all have lost the same share."""
    loss = -z.sum()
    for i in range(len(y)):
        equal, drawn = z[y == y[i]], (y[:i] == y[i]).sum()
        left = np.concatenate([equal + np.log(1 - drawn / len(equal)), z[y < y[i]]])
        loss = loss + np.logaddexp.reduce(left)
    return loss


def ndcg(y, discounts):
    gains = np.expm1(np.log(2) * y)
    ideal = (np.sort(gains)[::-1] / np.log2(2.0 + np.arange(len(y)))).sum()
    return gains, ideal, (gains * discounts).sum()


@each
def approx_ndcg(y, z, temperature=1.0):
    before = 1 / (1 + np.exp((z[:, None] - z[None, :]) / temperature))
    ranks = 1 + np.where(np.eye(len(z)) == 1, 0, before).sum(1)
    _, ideal, reached = ndcg(y, np.log(2) / np.log(1 + ranks))
    return 1 - reached / ideal if ideal > 0 else 0 * z.sum()


@each
def lambda_rank(y, z):
    """The discounts of two items are in the mean over all ways to put equal scores into an order."""
    gains, ideal, _ = ndcg(y, 0 * z)
    discounts = 1 / np.log2(2.0 + np.arange(len(y)))
    first, last = (z[None, :] > z[:, None]).sum(1), len(z) - (z[None, :] < z[:, None]).sum(1)
    loss = 0 * z.sum()
    for i, j in np.argwhere(pairs(y)):
        ways = [
            abs(discounts[a] - discounts[b])
            for a in range(first[i], last[i])
            for b in range(first[j], last[j])
            if a != b
        ]
        loss = loss + np.mean(ways) * (gains[i] - gains[j]) / ideal * np.logaddexp(0, z[j] - z[i])
    return loss


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs: lists of four

Y = [[3.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 4], [0, 0, 0, 1], [0, 2, 1, 2]]
Z = [
    *([0.0] * 4, [1e4, -1e4, 0, 1], [-1e4, 1e4, 0, 1], [20, 17, 0, 1], [0, 1, 1, 20], [88, -88, 104, -104], [1e30] * 4),
    *([x] * 4 for x in (*LARGEST, *SMALLEST)),
    *([x, -x, 2 * x, -2 * x] for x in NORMAL),  # not of smaller ones, which are 0 to some compilers
    *([x, 0, 0, 0] for x in LARGEST),
]
HARD = tuple(x.T for x in map(np.asarray, every(Y, Z)))
EXPONENTS = np.array([[0.0, 1, 200, 200], [300, 0, 1, 2], [0, 1e-3, 1e-30, 0]]).T
HARD_GAINS = tuple(np.concatenate(x, 1) for x in zip(HARD, (EXPONENTS, np.array([[0.0, 1, 2, 3]] * 3).T), strict=True))
AXIS = {"axis": 0}

ROWS = (
    Row("list_softmax", shares, list_softmax, AXIS, pooled=True, hard=HARD),
    Row("ranknet", paired, ranknet, AXIS, pooled=True, detached=(0,), hard=HARD),
    Row(
        "pairwise_hinge",
        paired,
        pairwise_hinge,
        {"margin": 1.5, **AXIS},
        pooled=True,
        detached=(0,),
        hard=HARD,
        ties=([[1.0, 2.0], [0.0, 0.5]], [[2.0, 0.0], [0.5, -1.5]]),
        refused=({"margin": -1.0}, {"margin": float("nan")}),
    ),
    Row("list_mle", paired, list_mle, AXIS, pooled=True, detached=(0,), hard=HARD),
    Row(
        "approx_ndcg",
        paired,
        approx_ndcg,
        {"temperature": 0.5, **AXIS},
        pooled=True,
        detached=(0,),
        hard=HARD_GAINS,
        refused=({"temperature": 0.0}, {"temperature": -1.0}),
    ),
    Row("lambda_rank", paired, lambda_rank, AXIS, pooled=True, detached=(0,), hard=HARD_GAINS),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

LISTS = Domain(
    st.tuples(
        drawn(Numbers(laws.whole(0, 4)), laws.PIXELS, laws.UNITS, laws.K), drawn(SCORE, laws.PIXELS, laws.UNITS, laws.K)
    ),
    ("convex", "non_negative", "translated", "relabelled"),
    moves=(1,),
    relabel=lambda arrays, order: tuple(
        x[[*order, *range(laws.K, laws.PIXELS)]] for x in arrays
    ),  # the items have no order
    pixels=True,
)


def range_of_scores(y, z):
    """How far the scores of a list lie apart, as often as they are summed."""
    return (1 + y.sum(0) + len(z)) * (1 + np.ptp(z, axis=0))


OF_LISTS = {**CONVEX, "relabelled": True}
COUNTED_RANKS = {"convex": "the ranks change the weights of the pairs"}

LAWS = (
    Subject("list_softmax", LISTS, OF_LISTS, options=AXIS, size=range_of_scores),
    Subject("ranknet", LISTS, OF_LISTS, options=AXIS, size=ONE),
    Subject("pairwise_hinge", LISTS, OF_LISTS, options=AXIS, size=ONE),
    Subject("list_mle", LISTS, OF_LISTS, options=AXIS, size=range_of_scores),
    Subject(
        "approx_ndcg",
        LISTS,
        without(OF_LISTS, "convex"),
        {"convex": "it is at most 1"},
        AXIS,
        ONE,
    ),
    Subject("lambda_rank", LISTS, without(OF_LISTS, "convex"), COUNTED_RANKS, AXIS, range_of_scores),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

RELEVANT = Numbers((0.0, 1.0), (0, 1))
SCORED = Domain(st.tuples(drawn(RELEVANT, laws.PIXELS, laws.UNITS), drawn(SMALL, laws.PIXELS, laws.UNITS)), ())
TWO_ITEMS = Domain(laws.pairs(laws.each(SMALL)), ())


def of_two(name, **options):
    """The loss of lists of two items, of which the first one is more relevant."""
    return lambda a, b: of(name, axis=0, **options)(jnp.stack([1 + 0 * a, 0 * b]), jnp.stack([a, b]))


LIMITS = (
    Limit(
        "list_softmax-cce",
        SCORED,
        of("list_softmax", axis=0),
        of("cce", axis=0, **FROM_LOGITS),
        size=lambda y, z: np.float64(200),
    ),
    Limit("ranknet-soft_margin", TWO_ITEMS, of_two("ranknet"), lambda a, b: of("soft_margin")(0 * a + 1, a - b)),
    Limit(
        "pairwise_hinge-hinge",
        TWO_ITEMS,
        of_two("pairwise_hinge", margin=0.5),
        lambda a, b: of("hinge", margin=0.5)(0 * a + 1, a - b),
    ),
    Limit("list_mle-ranknet", TWO_ITEMS, of_two("list_mle"), of_two("ranknet"), size=ONE),
    Limit(
        "lambda_rank-ranknet",
        TWO_ITEMS,
        of_two("lambda_rank"),
        times(1 - float(np.log(2) / np.log(3)), of_two("ranknet")),
    ),
    Limit(
        "approx_ndcg-a sigmoid",
        TWO_ITEMS,
        of_two("approx_ndcg"),
        lambda a, b: 1 - jnp.log(2.0) / jnp.log(2 + jax.nn.sigmoid(b - a)),
        size=ONE,
    ),
)
