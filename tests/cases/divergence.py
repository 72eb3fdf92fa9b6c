"""What is known of the divergences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import laws
from laws import Domain, Limit, Subject, above_0, of, pairs

from cases import exact as np
from cases.classification import log_softmax
from cases.common import (
    AT_TARGET,
    BOTH,
    MODERATE_LOGITS,
    NORMALISED,
    OF_CLASSES,
    OF_LOGITS,
    ONE,
    ROWS_OF_SCORES,
    SIMPLICES,
)
from cases.row import BELOW_ONE, CLASSES, EXTREMES, LARGEST, SMALLEST, Row, every, joined, signed

# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def distribution(rng, batch):
    return 0.96 * rng.dirichlet(np.full(CLASSES, 2.0), batch) + 0.01


def distributions(rng, batch):
    return distribution(rng, batch), distribution(rng, batch)


def log_distributions(rng, batch):
    return np.log(distribution(rng, batch)), np.log(distribution(rng, batch))


def distribution_log(rng, batch):
    return distribution(rng, batch), np.log(distribution(rng, batch))


def distribution_logits(rng, batch):
    return distribution(rng, batch), 2 * rng.normal(size=(*batch, CLASSES))


def teacher_student(rng, batch):
    return 2 * rng.normal(size=(*batch, CLASSES)), 2 * rng.normal(size=(*batch, CLASSES))


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def times(q, log_ratio):
    return np.where(q == 0, 0, q * np.where(q == 0, 0, log_ratio))


def with_logs(x, from_logs):
    return (np.exp(x), np.where(np.isneginf(x), 0, x)) if from_logs else (x, np.log_probability(x))


def kl_divergence(q, p, from_logs=False, from_logits=False):
    q, log_q = with_logs(q, from_logs is True)
    log_p = log_softmax(p) if from_logits else with_logs(p, from_logs)[1]
    return times(q, log_q - log_p).sum(-1)


def js_divergence(q, p, weight=0.5, from_logs=False):
    (q, log_q), (p, log_p) = with_logs(q, from_logs), with_logs(p, from_logs)
    m = weight * q + (1 - weight) * p
    log_m = np.log_probability(m)
    terms = weight * q * (log_q - log_m) + (1 - weight) * p * (log_p - log_m)
    return np.where(m == 0, 0, terms).sum(-1)


def total_variation(q, p):
    return np.abs(q - p).sum(-1) / 2


def distillation(teacher, student, temperature=1.0):
    log_q = log_softmax(teacher / temperature)
    excluded = np.isneginf(log_q)
    log_p = np.where(excluded, 0, log_softmax(student / temperature))
    return temperature**2 * (np.exp(log_q) * (np.where(excluded, 0, log_q) - log_p)).sum(-1)


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs


HARD = [*np.eye(CLASSES)[:2], [0.5, 0.5, 0, 0], [0.25] * 4, [0, 1e-30, 1, 1e-7], [0.0] * 4]
HARD += [[x, 1, 0, 0] for x in SMALLEST] + [[1 - x, x, 0, 0] for x in BELOW_ONE]
HARD_LOGITS = [[0.0] * 4, [1e4, -1e4, 0, 1], [-1e4, 1e4, 0, 1], [1e4] * 4, [20, 19, 18, 3], [1e-3, 0, 0, 1e-30]]
HARD_LOGITS += [[x] * 4 for x in signed(LARGEST)] + [[0, *numbers] for numbers in EXTREMES]
HARD_LOGITS += [[normal, -normal, small, -small] for _, normal, small in EXTREMES]
with np.errstate(divide="ignore"):
    HARD_LOGS = np.log([[0.5, 0.5, 0, 0], [0.25, 0.75, 0, 0], [0.25, 0.25, 0.25, 0.25]])
FINITE_LOGS = [np.full(4, np.log(0.25)), np.full(4, -1e4), np.log([1e-30, 1e-30, 0.5, 0.5])]
FINITE_LOGS += [[-x for x in (small, largest, largest, largest)] for largest, _, small in EXTREMES]
EXCLUDED = [[-np.inf, 1, 2, 0], [-np.inf, 1e4, -1e4, 0]]

# ---------------------------------------------------------------------------------------------------------------------
# Rows

LOGS = {"from_logs": True}
NO_DISTRIBUTION = (
    [[0.2, 0.8, 0, 0], [0.2, 0.8, 0, 0], [-0.2, 0.4, 0.4, 0.4]],
    [[1.2, 0, 0, 0], [-0.2, 1, 0, 0], [0.25] * 4],
)

ROWS = (
    Row("kl_divergence", distributions, kl_divergence, hard=every(HARD, HARD), outside=NO_DISTRIBUTION),
    Row(
        "kl_divergence-logs",
        log_distributions,
        kl_divergence,
        LOGS,
        hard=joined(every(HARD_LOGS[:2], [*HARD_LOGS, *FINITE_LOGS]), every(HARD_LOGS[2:], FINITE_LOGS)),
        outside=([np.full(4, -1.0)], [[0.0, 1, 2, 3]]),
    ),
    Row(
        "kl_divergence-log_pred",
        distribution_log,
        kl_divergence,
        {"from_logs": "pred"},
        hard=every(HARD, FINITE_LOGS),
        refused=({"from_logs": "true"}, {"from_logits": True}),
    ),
    Row("kl_divergence-logits", distribution_logits, kl_divergence, {"from_logits": True}),
    Row(
        "js_divergence",
        distributions,
        js_divergence,
        {"weight": 0.3},
        hard=every(HARD, HARD),
        outside=NO_DISTRIBUTION,
        refused=({"weight": -0.1}, {"weight": 1.1}, {"weight": float("nan")}),
    ),
    Row(
        "js_divergence-logs",
        log_distributions,
        js_divergence,
        LOGS,
        hard=every(HARD_LOGS, [*HARD_LOGS, *FINITE_LOGS]),
    ),
    Row(
        "total_variation",
        distributions,
        total_variation,
        hard=every(HARD, HARD),
        outside=NO_DISTRIBUTION,
        ties=(HARD, HARD),
    ),
    Row(
        "distillation",
        teacher_student,
        distillation,
        {"temperature": 2.0},
        hard=joined(every(HARD_LOGITS, HARD_LOGITS), every(EXCLUDED, EXCLUDED)),
        ties=(HARD_LOGITS, HARD_LOGITS),
        refused=({"temperature": 0.0}, {"temperature": float("nan")}),
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

LOGIT_PAIRS = Domain(pairs(ROWS_OF_SCORES), (*OF_LOGITS, "symmetric"))
DIVERGENCE = {"convex": above_0, "least": AT_TARGET, "homogeneous": (1, BOTH), "relabelled": True}
SIGN_OF_SUMS = {"non_negative": "nothing is normalised: the rounding of the sums decides the sign"}

LAWS = (
    Subject("kl_divergence", SIMPLICES, DIVERGENCE, {**SIGN_OF_SUMS, **NORMALISED}, size=ONE),
    Subject(
        "js_divergence",
        SIMPLICES,
        {**DIVERGENCE, "non_negative": True, "symmetric": True},
        size=ONE,
    ),
    Subject(
        "js_divergence-weight",
        SIMPLICES,
        {**DIVERGENCE, "non_negative": True},
        {"symmetric": "the weight tells the sides apart"},
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

# ---------------------------------------------------------------------------------------------------------------------
# Limits


def largest(a, b):
    return np.maximum(np.abs(a), np.abs(b)).max(-1)


LIMITS = (
    Limit(
        "kl_divergence-cce",
        SIMPLICES,
        of("kl_divergence"),
        lambda q, p: of("cce")(q, p) - of("cce")(q, q),
        size=lambda q, p: 1 - (q * np.log(np.maximum(p, laws.TINY))).sum(-1),
    ),
    Limit(
        "kl_divergence-of logarithms",
        MODERATE_LOGITS,
        lambda a, b: of("kl_divergence", from_logs=True)(jax.nn.log_softmax(a), jax.nn.log_softmax(b)),
        of("distillation"),
        size=lambda a, b: 1 + np.ptp(a, -1) + np.ptp(b, -1),
    ),
    Limit(
        "js_divergence-kl_divergence",
        SIMPLICES,
        of("js_divergence"),
        lambda q, p: (of("kl_divergence")(q, (q + p) / 2) + of("kl_divergence")(p, (q + p) / 2)) / 2,
        size=ONE,
    ),
    Limit(
        "js_divergence-of logarithms",
        MODERATE_LOGITS,
        lambda a, b: of("js_divergence", from_logs=True)(jax.nn.log_softmax(a), jax.nn.log_softmax(b)),
        lambda a, b: of("js_divergence")(jax.nn.softmax(a), jax.nn.softmax(b)),
        size=lambda a, b: 1 + np.ptp(a, -1) + np.ptp(b, -1),
    ),
    Limit("total_variation-mae", SIMPLICES, of("total_variation"), lambda q, p: jnp.sum(of("mae")(q, p), -1) / 2),
    Limit(
        "distillation-mse",
        MODERATE_LOGITS,
        of("distillation", temperature=2.0**12),
        # Half the variance of the differences of the logits.
        lambda a, b: jnp.var(a - b, axis=-1) / 2,
        # The cumulants of third order: differences up to 16, three times, over the temperature.
        # What is squared is a difference of logits, rounded at their size.
        size=lambda a, b: (np.ptp(a - b, -1) + 8 * laws.EPS * largest(a, b)) * largest(a, b),
        within=lambda a, b: (np.ptp(a, -1) + np.ptp(b, -1)) * np.ptp(a - b, -1) ** 2 * 2.0**-12,
    ),
)
