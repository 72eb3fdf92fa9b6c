"""Rows of the ranking losses: (items, list, list) arrays, of which a loss sees all items of a list at once."""

from __future__ import annotations

import functools

from cases import exact as np
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
