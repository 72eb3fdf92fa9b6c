"""Rows of the margin losses."""

from __future__ import annotations

from cases import exact as np
from cases.classification import EXCLUDED, HARD_LOGIT, HARD_LOGITS, label_logits, logit, one_hot_logits
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
