"""What is known of the margin losses."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import laws
from laws import Domain, Limit, Subject, each, of, one_hot

from cases import exact as np
from cases.classification import EXCLUDED, FROM_LOGITS, HARD_LOGIT, HARD_LOGITS, label_logits, logit, one_hot_logits
from cases.common import (
    BINARY,
    BIT,
    DRAWN_LABELS,
    LABEL_LOGITS,
    OF_BINARY,
    OF_CLASSES,
    OF_LOGITS,
    ROWS_OF_SCORES,
    SCORE,
    SIGN,
    TARGET_LOGIT,
    at_label,
    mirror,
    traced_one_hot,
    without,
)
from cases.excuses import overflows, vanishes
from cases.row import ANY, CLASSES, EXTREMES, LARGEST, Row, every, joined, signed

# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def sign_score(rng, batch):
    return rng.choice([-1.0, 1.0], batch), 2 * rng.normal(size=batch)


def set_scores(rng, batch):
    return rng.integers(0, 2, (*batch, CLASSES)).astype(float), 2 * rng.normal(size=(*batch, CLASSES))


def soft_set_logits(rng, batch):
    return rng.uniform(0.05, 0.95, (*batch, CLASSES)), 3 * rng.normal(size=(*batch, CLASSES))


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def sign(y):
    return np.where(y == 0, -1, y)


def hinge(y, z, margin=1.0):
    return np.maximum(0, margin - sign(y) * z)


def squared_hinge(y, z, margin=1.0):
    return hinge(y, z, margin) ** 2


def perceptron(y, z):
    return np.maximum(0, -sign(y) * z)


def soft_margin(y, z):
    return np.logaddexp(0, -sign(y) * z)


def sparsemax(y, z):
    plus = np.where(z <= -1, 0, np.where(z >= 1, z, (np.clip(z, -1, 1) + 1) ** 2 / 4))
    return plus - z * y + y**2 - y


def categorical_hinge(y, z, margin=1.0):
    right = y == 1
    return np.maximum(0, margin + (np.where(right, -np.inf, z).max(-1) - np.where(right, z, 0).sum(-1)))


def multi_margin(label, z, power=1, margin=1.0):
    k = z.shape[-1]
    right = np.take_along_axis(z, np.asarray(label)[..., None], -1)
    terms = np.maximum(0, margin + (z - right)) ** power
    return np.where(np.arange(k) == np.asarray(label)[..., None], 0, terms).sum(-1) / k


def multilabel_margin(y, z):
    loss = np.zeros(z.shape[:-1])
    for j in range(z.shape[-1]):
        for k in range(z.shape[-1]):
            pair = (y[..., j] == 1) & (y[..., k] == 0)
            loss = loss + np.where(pair, np.maximum(0, 1 - np.where(pair, z[..., j] - z[..., k], 0)), 0)
    return loss / z.shape[-1]


def multilabel_soft_margin(y, z):
    return (y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)).mean(-1)


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs

HARD_SCORE = every([-1.0, 1.0], [0.0, 1e-30, 1.0, -1.0, 104.0, -104.0, 1e4, -1e4, 1e30, -1e30, *signed(ANY)])
# Without the row whose differences are too large for float32.
SCORES = [row for row in HARD_LOGITS if max(row) - min(row) < 3e38]
HARD_LABELS = joined(every(range(CLASSES), SCORES), every([3], EXCLUDED))
HARD_ONE_HOT = (np.eye(CLASSES)[HARD_LABELS[0]], HARD_LABELS[1])
LARGE = [[x] * 4 for x in signed(LARGEST)] + [[x, -x, 0, 1] for x in LARGEST]
SMALL = [[normal, -normal, small, -small] for _, normal, small in EXTREMES]
HARD_SETS = every([[1.0, 0, 0, 1], [0.0] * 4, [1.0] * 4], SCORES)

# ---------------------------------------------------------------------------------------------------------------------
# Rows

MARGINS = ({"margin": -1.0}, {"margin": float("nan")})
NO_SIGN = [0.3, 2.0], [1.0, 1.0]
WRONG_ROWS = [[1.0, 1, 0, 0], [0.0] * 4, [0.5, 0.5, 0, 0]], [[1.0, 2, 3, 4]] * 3

ROWS = (
    Row(
        "hinge",
        sign_score,
        hinge,
        detached=(0,),
        hard=HARD_SCORE,
        outside=NO_SIGN,
        ties=([1.0, -1.0], [1.0, -1.0]),
        refused=MARGINS,
    ),
    Row("hinge-margin", sign_score, hinge, {"margin": 2.5}, detached=(0,)),
    Row(
        "squared_hinge",
        sign_score,
        squared_hinge,
        {"margin": 0.75},
        detached=(0,),
        hard=HARD_SCORE,
        outside=NO_SIGN,
        refused=MARGINS,
    ),
    Row(
        "perceptron",
        sign_score,
        perceptron,
        detached=(0,),
        hard=HARD_SCORE,
        outside=NO_SIGN,
        ties=([1.0, -1.0], [0.0, 0.0]),
    ),
    Row("soft_margin", sign_score, soft_margin, detached=(0,), hard=HARD_SCORE, outside=NO_SIGN),
    Row(
        "sparsemax",
        logit,
        sparsemax,
        hard=HARD_LOGIT,
        outside=([-1.0, 2.0], [1.0, 1.0]),
        excused=vanishes("gradient by y_true", "loss @float64", "gradient by y_pred @float64"),
    ),
    Row(
        "categorical_hinge",
        one_hot_logits,
        categorical_hinge,
        {"margin": 1.5},
        detached=(0,),
        hard=HARD_ONE_HOT,
        outside=WRONG_ROWS,
        ties=([[0.0, 1, 0, 0]], [[0.0, 2.5, 1, 1]]),
        refused=MARGINS,
    ),
    Row(
        "multi_margin",
        label_logits,
        multi_margin,
        labels=0,
        hard=HARD_LABELS,
        refused=(*MARGINS, {"power": 3}, {"power": 0}),
    ),
    Row("multi_margin-squared", label_logits, multi_margin, {"power": 2, "margin": 1.5}, labels=0),
    Row(
        "multilabel_margin",
        set_scores,
        multilabel_margin,
        detached=(0,),
        hard=HARD_SETS,
        outside=([[3.0, 0, -1, -1], [0.5, 1, 0, 0]], [[1.0, 2, 3, 4]] * 2),
        ties=([[0.0, 1, 0, 0]], [[0.0, 1, 0, 0]]),
    ),
    Row(
        "multilabel_soft_margin",
        soft_set_logits,
        multilabel_soft_margin,
        hard=every(
            [[1.0, 0, 0, 1], [0.5] * 4],
            [[0.0] * 4, [1e4, -1e4, 0, 1], [88, -88, 104, -104], [1e30] * 4, *LARGE, *SMALL],
        ),
        excused=overflows("loss"),
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

SIGNS = Domain(st.tuples(each(SIGN), each(SCORE)), OF_BINARY, **mirror(0.0))
ONE_HOT_LOGITS = Domain(st.tuples(DRAWN_LABELS.map(one_hot), ROWS_OF_SCORES), OF_LOGITS, moves=(1,))
SET_LOGITS = Domain(st.tuples(each(BIT, laws.K), ROWS_OF_SCORES), OF_LOGITS, moves=(1,))

LAWS = (
    Subject("hinge", SIGNS, {**BINARY, "least": (lambda y, z: y, 0.0)}),
    Subject("squared_hinge", SIGNS, {**BINARY, "least": (lambda y, z: 0.75 * y, 0.0)}, options={"margin": 0.75}),
    Subject("perceptron", SIGNS, {**BINARY, "least": (lambda y, z: 0 * y, 0.0)}),
    Subject("soft_margin", SIGNS, {**BINARY, "least": (lambda y, z: 200 * y, 0.0)}),
    Subject(
        "sparsemax",
        TARGET_LOGIT,
        {**BINARY, "least": (lambda y, z: 2 * y - 1, 0.0)},
        size=lambda y, z: np.abs((np.clip(z, -1, 1) + 1) / 2 - y),  # what is squared is a difference of shares
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

# ---------------------------------------------------------------------------------------------------------------------
# Limits

BINARY_LOGIT = Domain(st.tuples(each(BIT), each(SCORE)), ())
BINARY_SCORES = Domain(st.tuples(DRAWN_LABELS.map(lambda x: x % 2), each(SCORE, 2)), ())

LIMITS = (
    Limit("perceptron-hinge", SIGNS, of("perceptron"), of("hinge", margin=0.0)),
    Limit("squared_hinge-hinge", SIGNS, of("squared_hinge"), lambda y, z: of("hinge")(y, z) ** 2),
    Limit("hinge-0 and 1", BINARY_LOGIT, of("hinge"), lambda y, z: of("hinge")(2 * y - 1, z)),
    Limit("soft_margin-bce", BINARY_LOGIT, of("soft_margin"), of("bce", **FROM_LOGITS)),
    Limit(
        "multilabel_soft_margin-bce",
        SET_LOGITS,
        of("multilabel_soft_margin"),
        lambda y, z: jnp.mean(of("bce", **FROM_LOGITS)(y, z), -1),
    ),
    Limit(
        "categorical_hinge-hinge",
        BINARY_SCORES,
        lambda y, z: of("categorical_hinge")(jax.nn.one_hot(y, 2), z),
        lambda y, z: of("hinge")(jnp.where(y > 0, 1.0, -1.0), z[:, 1] - z[:, 0]),
        size=lambda y, z: np.abs(z).max(-1),
    ),
    Limit(
        "multi_margin-hinge",
        BINARY_SCORES,
        of("multi_margin"),
        lambda y, z: of("hinge")(jnp.where(y > 0, 1.0, -1.0), z[:, 1] - z[:, 0]) / 2,
        size=lambda y, z: np.abs(z).max(-1),
    ),
    Limit(
        "multilabel_margin-multi_margin",
        LABEL_LOGITS,
        lambda y, z: of("multilabel_margin")(traced_one_hot(y), z),
        of("multi_margin"),
        size=lambda y, z: np.abs(z).max(-1),
    ),
)
