"""What is known of the losses that weigh the cross-entropy."""

from __future__ import annotations

import jax.numpy as jnp
from laws import Limit, Subject, above_0, of

from cases import exact as np
from cases.classification import (
    CLASS_WEIGHTS,
    DISTRIBUTIONS,
    EXCLUDED,
    FROM_LOGITS,
    HALVES,
    HARD_LOGIT,
    HARD_LOGITS,
    HARD_PROBABILITIES,
    HARD_PROBABILITY,
    LABELS,
    SMOOTHED,
    SMOOTHINGS,
    bce,
    distribution_logits,
    distributions,
    label_distribution,
    label_logits,
    log_softmax,
    logit,
    one_hot_logits,
    probability,
)
from cases.common import (
    BINARY,
    LABEL_LOGITS,
    LOGITS,
    NORMALISED,
    OF_CLASSES,
    ONE,
    PROBABILITY,
    ROW_OF_P,
    SIMPLICES,
    TARGET_LOGIT,
    at_label,
    without,
)
from cases.excuses import STEEPEST, absorbed, close, overflows, vanishes
from cases.row import ANY, Row, every, joined, signed

# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def binary_focal(y, score, from_logits=False, gamma=2.0, alpha=None, label_smoothing=0.0):
    y = (1 - label_smoothing) * y + label_smoothing / 2
    if from_logits:
        log_p, log_not_p = -np.logaddexp(0, -score), -np.logaddexp(0, score)
        p, not_p = np.exp(log_p), np.exp(log_not_p)
    else:
        p, not_p = score, 1 - score
    factor = 1 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    return factor * (y * not_p + (1 - y) * p) ** gamma * bce(y, score, from_logits)


def log_rest(z):
    """log(1 - softmax(z)), from the other classes."""
    z = z - z.max(-1, keepdims=True)
    others = [np.delete(z, k, -1) for k in range(z.shape[-1])]
    with np.errstate(divide="ignore"):
        sums = [np.logaddexp.reduce(o, -1) for o in others]
    return np.stack(sums, -1) - np.logaddexp.reduce(z, -1, keepdims=True)


def classes(scores, from_logits):
    """log p and 1 - p."""
    if from_logits:
        return log_softmax(scores), np.exp(log_rest(scores))
    total = scores.sum(-1, keepdims=True)
    p = np.where(total > 0, scores / np.where(total > 0, total, 1), 1 / scores.shape[-1])
    return np.log_probability(p), 1 - p


def weighed(q, terms):
    return (q * np.where((q == 0) & np.isneginf(-terms), 0, terms)).sum(-1)


def categorical_focal(q, scores, from_logits=False, gamma=2.0, alpha=1.0, label_smoothing=0.0):
    log_p, not_p = classes(scores, from_logits)
    q = (1 - label_smoothing) * q + label_smoothing / q.shape[-1]
    with np.errstate(invalid="ignore"):
        return weighed(alpha * q, -log_p * not_p**gamma)


def poly1(q, scores, from_logits=False, epsilon=1.0):
    log_p, not_p = classes(scores, from_logits)
    return weighed(q, -log_p + epsilon * not_p)


def generalized_cce(q, scores, power=0.7, from_logits=False):
    log_p = classes(scores, from_logits)[0]
    return weighed(q, -np.expm1(power * log_p) / power if power else -log_p)


def sparse_focal(label, scores, **options):
    return categorical_focal(np.eye(scores.shape[-1])[label], scores, **options)


def sparse_poly1(label, scores, **options):
    return poly1(np.eye(scores.shape[-1])[label], scores, **options)


def sparse_generalized_cce(label, scores, **options):
    return generalized_cce(np.eye(scores.shape[-1])[label], scores, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Rows

GAMMAS = ({"gamma": -1.0}, {"gamma": float("nan")})
ALPHAS = ({"alpha": -0.1}, {"alpha": 1.5})

# Whole constants, others and traced ones are computed differently.
FOCUSED = ({"gamma": 0.0}, {"gamma": np.zeros(())}, {"gamma": 0.5}, {"gamma": 5.0}, {"gamma": np.full((), 5.0)})
EPSILONS = ({"epsilon": 0.0}, {"epsilon": -1.0})
POWERS = ({"power": 0.0}, {"power": np.zeros(())}, {"power": 0.7}, {"power": 1.0})

CERTAIN = joined(every(DISTRIBUTIONS, HARD_LOGITS), every([[0.0, 0, 0, 1]], EXCLUDED))
PROBABLE = every(DISTRIBUTIONS, HARD_PROBABILITIES)
NEGATIVE = [[0.0, 1, 0, 0]], [[-0.2, 0.4, 0.4, 0.4]]

ROWS = (
    Row(
        "binary_focal-probability",
        probability,
        binary_focal,
        hard=HARD_PROBABILITY,
        hard_options=SMOOTHED,
        outside=([0.0, 1.0, 0.0, 1.0], [1.2, 1.2, -0.2, -0.2]),
        refused=(*SMOOTHINGS, *GAMMAS, *ALPHAS),
    ),
    Row(
        "binary_focal-logit",
        logit,
        binary_focal,
        FROM_LOGITS,
        hard=HARD_LOGIT,
        hard_options=(*SMOOTHED, *FOCUSED),
        excused=(
            HALVES,
            (r"gradient by y_true .* y_pred -?(88|104)\.0, .*gamma (0.5|5.0)", STEEPEST),
            *vanishes("gradient by y_pred"),
            *absorbed("gradient by y_pred"),
        ),
    ),
    Row(
        "binary_focal-all",
        logit,
        binary_focal,
        {**FROM_LOGITS, "gamma": 0.5, "alpha": 0.25, "label_smoothing": 0.1},
        hard=every([0.0, 1.0, 0.5], [0.0, 1e-30, 20.0, 104.0, -104.0, 1e4, -1e4, 1e30, -1e30, *signed(ANY)]),
        excused=(
            HALVES,
            *overflows("loss @float64", "gradient by y_pred @float64"),
            *vanishes("gradient by y_pred @float64"),
            *absorbed("gradient by y_pred"),
            *close("loss @float64", "gradient by y_true @float64", "gradient by y_pred @float64"),
        ),
    ),
    Row(
        "binary_focal-root",
        logit,
        binary_focal,
        {**FROM_LOGITS, "gamma": 0.5},
        hard=HARD_LOGIT,
        excused=(
            HALVES,
            (r"gradient by y_true .* y_pred -?(88|104)\.0", STEEPEST),
            *vanishes("gradient by y_pred @float64"),
            *absorbed("gradient by y_pred"),
        ),
    ),
    Row(
        "categorical_focal-probabilities",
        distributions,
        categorical_focal,
        hard=PROBABLE,
        hard_options=SMOOTHED,
        outside=NEGATIVE,
        refused=(*SMOOTHINGS, *GAMMAS, {"alpha": -0.1}, {"alpha": [1.0, 2.0]}),
    ),
    Row(
        "categorical_focal-one_hot_logits",
        one_hot_logits,
        categorical_focal,
        FROM_LOGITS,
        hard=CERTAIN,
        hard_options=FOCUSED,
        excused=overflows("loss @bfloat16", "gradient by y_true @bfloat16"),
    ),
    Row(
        "categorical_focal-all",
        distribution_logits,
        categorical_focal,
        {**FROM_LOGITS, "gamma": 0.5, "alpha": CLASS_WEIGHTS, "label_smoothing": 0.1},
        hard=every(DISTRIBUTIONS, HARD_LOGITS),
        hard_options=SMOOTHED,
        excused=overflows("loss @bfloat16", "gradient by y_true @bfloat16"),
    ),
    Row(
        "poly1-probabilities",
        distributions,
        poly1,
        hard=PROBABLE,
        outside=NEGATIVE,
        refused=({"epsilon": float("inf")}, {"epsilon": float("nan")}),
    ),
    Row(
        "poly1-logits",
        distribution_logits,
        poly1,
        {**FROM_LOGITS, "epsilon": 2.0},
        hard=CERTAIN,
        hard_options=EPSILONS,
        excused=overflows("loss @bfloat16", "gradient by y_true @bfloat16"),
    ),
    Row(
        "generalized_cce-probabilities",
        distributions,
        generalized_cce,
        hard=PROBABLE,
        outside=NEGATIVE,
        refused=({"power": -0.5}, {"power": 1.5}, {"power": float("nan")}),
    ),
    Row(
        "generalized_cce-logits",
        distribution_logits,
        generalized_cce,
        {**FROM_LOGITS, "power": 0.5},
        hard=CERTAIN,
        hard_options=POWERS,
        excused=overflows("loss @bfloat16", "gradient by y_true @bfloat16"),
    ),
    Row(
        "sparse_focal-probabilities",
        label_distribution,
        sparse_focal,
        labels=0,
        hard=every(LABELS, HARD_PROBABILITIES),
        outside=([1], NEGATIVE[1][:1]),
        refused=(*GAMMAS, {"alpha": -0.1}, {"alpha": [1.0, 2.0]}),
    ),
    Row(
        "sparse_focal-logits",
        label_logits,
        sparse_focal,
        {**FROM_LOGITS, "gamma": 0.5, "alpha": CLASS_WEIGHTS},
        labels=0,
        hard=every(LABELS, HARD_LOGITS),
    ),
    Row("sparse_poly1-probabilities", label_distribution, sparse_poly1, labels=0),
    Row(
        "sparse_poly1-logits",
        label_logits,
        sparse_poly1,
        {**FROM_LOGITS, "epsilon": 2.0},
        labels=0,
        hard=every(LABELS, HARD_LOGITS),
    ),
    Row("sparse_generalized_cce-probabilities", label_distribution, sparse_generalized_cce, labels=0),
    Row(
        "sparse_generalized_cce-logits",
        label_logits,
        sparse_generalized_cce,
        {**FROM_LOGITS, "power": 0.5},
        labels=0,
        hard=every(LABELS, HARD_LOGITS),
        hard_options=POWERS,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

FOCUS = {
    "convex": "the weight falls where the error does",
    "least": "of a soft target the least loss is elsewhere: no proper score",
}
POLY = {"convex": "1 - p is not convex in the logits", "least": FOCUS["least"]}

LAWS = (
    Subject("binary_focal-logit", TARGET_LOGIT, without(BINARY, "convex"), FOCUS, {"from_logits": True}, size=ONE),
    Subject(
        "binary_focal-probability",
        PROBABILITY,
        {**BINARY, "convex": lambda p: np.clip(p, 1e-9, 1)},
        {"least": FOCUS["least"]},
        size=ONE,
    ),
    Subject("categorical_focal-logits", LOGITS, without(OF_CLASSES, "convex"), FOCUS, FROM_LOGITS, ONE),
    Subject(
        "categorical_focal-probabilities",
        SIMPLICES,
        {**ROW_OF_P, "convex": above_0},
        {**NORMALISED, "least": FOCUS["least"]},
        size=ONE,
    ),
    Subject("poly1-logits", LOGITS, OF_CLASSES, {"least": FOCUS["least"]}, FROM_LOGITS, ONE),
    Subject("poly1-large epsilon", LOGITS, without(OF_CLASSES, "convex"), POLY, {**FROM_LOGITS, "epsilon": 4.0}, ONE),
    Subject(
        "poly1-probabilities",
        SIMPLICES,
        {**ROW_OF_P, "convex": above_0},
        {**NORMALISED, "least": FOCUS["least"]},
        size=ONE,
    ),
    Subject(
        "sparse_focal",
        LABEL_LOGITS,
        {**without(OF_CLASSES, "convex"), "least": (at_label, 0.0)},
        {"convex": FOCUS["convex"]},
        FROM_LOGITS,
        ONE,
    ),
    Subject("sparse_poly1", LABEL_LOGITS, {**OF_CLASSES, "least": (at_label, 0.0)}, options=FROM_LOGITS, size=ONE),
    Subject(
        "sparse_generalized_cce",
        LABEL_LOGITS,
        {**without(OF_CLASSES, "convex"), "least": (at_label, 0.0)},
        {"convex": POLY["convex"]},
        FROM_LOGITS,
        ONE,
    ),
    Subject("generalized_cce-logits", LOGITS, without(OF_CLASSES, "convex"), POLY, FROM_LOGITS, ONE),
    Subject(
        "generalized_cce-probabilities",
        SIMPLICES,
        {**ROW_OF_P, "convex": above_0},
        {**NORMALISED, "least": FOCUS["least"]},
        size=ONE,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS = (
    Limit("binary_focal-bce", TARGET_LOGIT, of("binary_focal", gamma=0.0, **FROM_LOGITS), of("bce", **FROM_LOGITS)),
    Limit("binary_focal-bce of probabilities", PROBABILITY, of("binary_focal", gamma=0.0), of("bce")),
    Limit(
        "binary_focal-traced bce",
        TARGET_LOGIT,
        lambda y, z: of("binary_focal", gamma=jnp.zeros(()), **FROM_LOGITS)(y, z),
        of("bce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit(
        "categorical_focal-cce",
        LOGITS,
        of("categorical_focal", gamma=0.0, **FROM_LOGITS),
        of("cce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit("categorical_focal-cce of probabilities", SIMPLICES, of("categorical_focal", gamma=0.0), of("cce")),
    Limit("poly1-cce", LOGITS, of("poly1", epsilon=0.0, **FROM_LOGITS), of("cce", **FROM_LOGITS), size=ONE),
    Limit("poly1-cce of probabilities", SIMPLICES, of("poly1", epsilon=0.0), of("cce")),
    Limit(
        "generalized_cce-cce",
        LOGITS,
        of("generalized_cce", power=0.0, **FROM_LOGITS),
        of("cce", **FROM_LOGITS),
        size=ONE,
    ),
    Limit(
        "generalized_cce-cce in the limit",
        SIMPLICES,
        of("generalized_cce", power=1e-6),
        of("cce"),
        size=ONE,
        within=lambda q, p: 88**2 * 1e-6,  # power log(p)^2 / 2
    ),
    Limit(
        "generalized_cce-1 - p",
        SIMPLICES,
        of("generalized_cce", power=1.0),
        lambda q, p: jnp.sum(q * (1 - p / jnp.sum(p, -1, keepdims=True)), -1),
        size=ONE,
    ),
)
