"""What is known of the classification losses."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import laws
import scipy.special
from laws import Domain, Limit, Subject, above_0, each, of
from scipy.special import xlogy

from cases import exact as np
from cases.common import (
    BINARY,
    DRAWN_LABELS,
    FRACTION,
    LABEL_LOGITS,
    LOGITS,
    NORMALISED,
    OF_CLASSES,
    OF_LOGITS,
    ONE,
    PROBABILITY,
    ROW_OF_P,
    ROWS_OF_SCORES,
    ROWS_OF_SHARES,
    SIMPLICES,
    SMALL,
    TARGET_LOGIT,
    at_label,
    log_of,
    relabel_label,
    traced_one_hot,
    without,
)
from cases.excuses import absorbed, overflows, vanishes
from cases.row import ANY, BELOW_ONE, CLASSES, EXTREMES, LARGEST, SMALLEST, Row, every, joined, signed

# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def probability(rng, batch):
    return rng.uniform(0.05, 0.95, batch), rng.uniform(0.05, 0.95, batch)


def logit(rng, batch):
    return rng.uniform(0.05, 0.95, batch), 3 * rng.normal(size=batch)


def simplex(rng, batch):
    return rng.dirichlet(np.full(CLASSES, 2.0), batch) + 0.01


def distributions(rng, batch):
    return simplex(rng, batch), simplex(rng, batch)


def distribution_logits(rng, batch):
    return simplex(rng, batch), 3 * rng.normal(size=(*batch, CLASSES))


def one_hot_distribution(rng, batch):
    return np.eye(CLASSES)[rng.integers(0, CLASSES, batch)], simplex(rng, batch)


def one_hot_logits(rng, batch):
    return np.eye(CLASSES)[rng.integers(0, CLASSES, batch)], 3 * rng.normal(size=(*batch, CLASSES))


def label_distribution(rng, batch):
    return rng.integers(0, CLASSES, batch), simplex(rng, batch)


def label_logits(rng, batch):
    return rng.integers(0, CLASSES, batch), 3 * rng.normal(size=(*batch, CLASSES))


# ---------------------------------------------------------------------------------------------------------------------
# Formulas

CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0])


def log_softmax(z):
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_normalised(p):
    total = p.sum(-1, keepdims=True)
    return np.log_probability(np.where(total > 0, p / np.where(total > 0, total, 1), 1 / p.shape[-1]))


def cce(q, scores, from_logits=False, label_smoothing=0.0, class_weights=1.0, z_loss=0.0):
    log_p = log_softmax(scores) if from_logits else log_normalised(scores)
    q = class_weights * ((1 - label_smoothing) * q + label_smoothing / q.shape[-1])
    cross_entropy = -(q * np.where((q == 0) & np.isneginf(log_p), 0, log_p)).sum(-1)
    return cross_entropy + z_loss * (scores - log_p).max(-1) ** 2 if z_loss else cross_entropy


def sparse_cce(label, scores, **options):
    return cce(np.eye(scores.shape[-1])[label], scores, **options)


def bce(y, score, from_logits=False, label_smoothing=0.0, pos_weight=1.0):
    y = (1 - label_smoothing) * y + label_smoothing / 2
    if from_logits:
        log_p, log_not_p = -np.logaddexp(0, -score), -np.logaddexp(0, score)
    else:
        log_p, log_not_p = np.log_probability(score), np.log_complement(score)
    return -(pos_weight * y * log_p + (1 - y) * log_not_p)


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs


HARD_PROBABILITY = joined(
    every([0.0, 1.0, 0.5], [0.0, 1.0, 0.5, 1e-38, 1e-30, 1e-7, 1 + 2.0**-23, *BELOW_ONE, *SMALLEST]),
    every([*BELOW_ONE, *SMALLEST], [0.5, 1.0]),
    (SMALLEST, SMALLEST),
    (BELOW_ONE, BELOW_ONE),
)
HARD_LOGIT = joined(
    every([0.0, 1.0, 0.5], [0.0, 1e-30, 20.0, 88.0, -88.0, 104.0, -104.0, 1e4, -1e4, 3e38, -3e38, *signed(ANY)]),
    every([*BELOW_ONE, *SMALLEST], [1.0, -1.0]),
)

DISTRIBUTIONS = [*np.eye(CLASSES), [0.5, 0.5, 0, 0], [0.0] * 4]
LABELS = np.arange(CLASSES)
HARD_PROBABILITIES = [*np.eye(CLASSES), [0.0] * 4, [0.5, 0.5, 0, 0], [1e-38, 1, 0, 0], [1e-30, 1 - 2.0**-24, 0, 1e-7]]
HARD_PROBABILITIES += (
    [[x, 1, 0, 0] for x in SMALLEST] + [[1 - x, x, 0, 0] for x in BELOW_ONE] + [[x] + [0.0] * 3 for x in SMALLEST]
)
HARD_LOGITS = [
    *([0.0] * 4, [1e4] * 4, [-1e4] * 4, [1e4, -1e4, 0, 1], [20, 19, 18, 3], [1e-30, 0, -1e-30, 0]),
    *([88, -88, 0, 1], [1e8] * 4, [1.7e38, -1.7e38, 0, 1], [3e38] * 4),
    *([x] * 4 for x in signed(LARGEST)),
    *([0, largest, normal, small] for largest, normal, small in EXTREMES),
    *([normal, -normal, small, -small] for _, normal, small in EXTREMES),
]
# Their difference is no float32 any more: the loss is infinite, but its derivatives are not.
FAR_APART = [[3e38, -3e38, 0, 1], *([x, -x, 0, 1] for x in LARGEST)]
# A class that a model excludes has the logit -inf: exact as long as the target is another one.
EXCLUDED = [-np.inf, 1, 2, 0], [-np.inf, -np.inf, -np.inf, 1e4]


# ---------------------------------------------------------------------------------------------------------------------
# Rows

# The ends of its range: a 0 that is traced is no constant to leave out.
SMOOTHED = ({"label_smoothing": np.zeros(())}, {"label_smoothing": 1.0})
SMOOTHINGS = ({"label_smoothing": -0.1}, {"label_smoothing": 1.5}, {"label_smoothing": float("nan")})
Z_LOSSES = ({"z_loss": float("inf")}, {"z_loss": float("nan")})
WRONG_LENGTHS = ({"class_weights": [1.0, 2.0, 3.0]}, {"class_weights": [2.0]}, {"class_weights": 2.0})
FROM_LOGITS = {"from_logits": True}
WEIGHTED = {"label_smoothing": 0.1, "class_weights": CLASS_WEIGHTS}
ALL = {**FROM_LOGITS, **WEIGHTED, "z_loss": 0.01}

negative = [[-0.2, 0.4, 0.4, 0.4]]

HALVES = (
    "gradient by y_pred .* y_true 0.5, y_pred (1.0000000031710769e-30|9.98402083170343e-31)",
    "the difference of two numbers that rounding makes equal, at a soft target",
)

ROWS = (
    Row(
        "cce-probabilities",
        distributions,
        cce,
        hard=every(DISTRIBUTIONS, HARD_PROBABILITIES),
        hard_options=SMOOTHED,
        outside=([[0.0, 1, 0, 0]], negative),
        refused=(*SMOOTHINGS, *WRONG_LENGTHS, *Z_LOSSES),
    ),
    Row("cce-one_hot", one_hot_distribution, cce),
    Row("cce-weighted", distributions, cce, WEIGHTED, hard=every(DISTRIBUTIONS, HARD_PROBABILITIES)),
    Row(
        "cce-logits",
        distribution_logits,
        cce,
        FROM_LOGITS,
        hard=every([[0.0, 0, 0, 1]], [*HARD_LOGITS, *EXCLUDED]),
        excused=overflows("gradient by y_true @bfloat16"),
    ),
    Row(
        "cce-one_hot_logits",
        one_hot_logits,
        cce,
        FROM_LOGITS,
        hard=every(DISTRIBUTIONS, HARD_LOGITS),
        hard_options=SMOOTHED,
        excused=overflows("loss @bfloat16", "gradient by y_true @bfloat16"),
    ),
    Row("cce-all", distribution_logits, cce, ALL, hard=every(DISTRIBUTIONS, HARD_LOGITS)),
    Row(
        "sparse_cce-probabilities",
        label_distribution,
        sparse_cce,
        labels=0,
        hard=every(LABELS, HARD_PROBABILITIES),
        hard_options=SMOOTHED,
        outside=([1], negative),
        refused=(*SMOOTHINGS, *WRONG_LENGTHS),
    ),
    Row("sparse_cce-weighted", label_distribution, sparse_cce, WEIGHTED, labels=0),
    Row(
        "sparse_cce-logits",
        label_logits,
        sparse_cce,
        FROM_LOGITS,
        labels=0,
        hard=joined(every(LABELS, HARD_LOGITS + FAR_APART), every([3], EXCLUDED)),
    ),
    Row(
        "sparse_cce-all",
        label_logits,
        sparse_cce,
        ALL,
        labels=0,
        hard=every(LABELS, HARD_LOGITS),
        hard_options=SMOOTHED,
    ),
    Row(
        "bce-probability",
        probability,
        bce,
        hard=HARD_PROBABILITY,
        hard_options=SMOOTHED,
        outside=([0.0, 1.0, 0.0, 1.0], [1.2, 1.2, -0.2, -0.2]),
        refused=(*SMOOTHINGS, {"pos_weight": -1.0}),
    ),
    Row(
        "bce-weighted",
        probability,
        bce,
        {"label_smoothing": 0.1, "pos_weight": 3.0},
        hard=HARD_PROBABILITY,
    ),
    Row(
        "bce-logit",
        logit,
        bce,
        FROM_LOGITS,
        hard=HARD_LOGIT,
        hard_options=SMOOTHED,
        excused=(HALVES, *vanishes("gradient by y_pred"), *absorbed("gradient by y_pred")),
    ),
    Row(
        "bce-all",
        logit,
        bce,
        {**FROM_LOGITS, "label_smoothing": 0.1, "pos_weight": 3.0},
        hard=HARD_LOGIT,
    ),
    Row(
        "nll",
        lambda rng, batch: (label_logits(rng, batch)[0], np.log(label_distribution(rng, batch)[1])),
        lambda label, log_p: -np.take_along_axis(log_p, label[..., None], -1)[..., 0],
        labels=0,
        hard=every(
            LABELS,
            [[0.0, -1, -2, -3], [-1e4] * 4, [-3e38, 0, -104, -1e-30], *([-x for x in (*n, 0)] for n in EXTREMES)],
        ),
        refused=WRONG_LENGTHS,
    ),
    Row(
        "nll-weighted",
        lambda rng, batch: (label_logits(rng, batch)[0], np.log(label_distribution(rng, batch)[1])),
        lambda label, log_p, class_weights: (
            -(class_weights[label] * np.take_along_axis(log_p, label[..., None], -1)[..., 0])
        ),
        {"class_weights": CLASS_WEIGHTS},
        labels=0,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

LABEL_LOGS = Domain(
    st.tuples(DRAWN_LABELS, ROWS_OF_SCORES.map(lambda x: -np.abs(x))), OF_LOGITS, moves=(1,), relabel=relabel_label
)


def entropy(q):
    return -xlogy(q, q).sum(-1)


def binary_entropy(y):
    return -xlogy(y, y) - xlogy(1 - y, 1 - y)


def far_logit(y):
    with np.errstate(divide="ignore"):
        return np.clip(scipy.special.logit(laws.exact(y)), -200, 200)


OF_LOGIT = {**BINARY, "least": (lambda y, z: far_logit(y), lambda y, z: binary_entropy(y))}

LAWS = (
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
        "nll",
        LABEL_LOGS,
        {"convex": True, "non_negative": True, "relabelled": True},
        {"least": "it is linear", "shifted": "nothing is normalised"},
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LABELLED_SHARES = Domain(st.tuples(DRAWN_LABELS, ROWS_OF_SHARES), ())


def two_logits(y, z):
    return jnp.stack([1 - y, y], -1), jnp.stack([0 * z, z], -1)


LIMITS = (
    Limit(
        "bce-cce of two classes",
        TARGET_LOGIT,
        of("bce", **FROM_LOGITS),
        lambda y, z: of("cce", **FROM_LOGITS)(*two_logits(y, z)),
        size=ONE,
    ),
    Limit(
        "bce-of the sigmoid",
        Domain(st.tuples(each(FRACTION), each(SMALL)), ()),
        lambda y, z: of("bce")(y, jax.nn.sigmoid(z)),
        of("bce", **FROM_LOGITS),
        size=lambda y, z: np.exp(np.abs(z)),  # sigmoid(8) is 1 - exp(-8), rounded relative to 1
    ),
    Limit(
        "sparse_cce-cce",
        LABEL_LOGITS,
        of("sparse_cce", label_smoothing=0.1, z_loss=0.01, **FROM_LOGITS),
        lambda y, z: of("cce", label_smoothing=0.1, z_loss=0.01, **FROM_LOGITS)(traced_one_hot(y), z),
        size=lambda y, z: 1 + np.abs(z).max(-1),
    ),
    Limit(
        "sparse_cce-cce of probabilities",
        LABELLED_SHARES,
        of("sparse_cce"),
        lambda y, p: of("cce")(traced_one_hot(y), p),
    ),
    Limit(
        "nll-sparse_cce",
        LABEL_LOGITS,
        lambda y, z: of("nll")(y, jax.nn.log_softmax(z)),
        of("sparse_cce", **FROM_LOGITS),
        size=ONE,
    ),
)
