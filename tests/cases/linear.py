"""What is known of the losses of a linear layer."""

from __future__ import annotations

import laws
from laws import Limit, Subject, of

from cases import classification
from cases import exact as np
from cases.classification import FROM_LOGITS
from cases.common import LABEL_LOGITS, OF_CLASSES, ONE, at_label
from cases.row import CLASSES, EXTREMES, Row, every

FEATURES = 3
KERNEL = np.random.default_rng(0).normal(size=(FEATURES, CLASSES)).astype(np.float32)
BIAS = np.array([0.5, -1.0, 0.0, 2.0], np.float32)


def tokens(rng, batch):
    return rng.integers(0, CLASSES, batch), rng.normal(size=(*batch, FEATURES))


def linear_cce(label, hidden, kernel, bias=0.0, softcap=None, chunk=None, **options):
    z = hidden @ np.float64(kernel) + bias
    if softcap:
        z = softcap * np.tanh(z / softcap)
    return classification.sparse_cce(label, z, from_logits=True, **options)


HIDDEN = [[0.0, 0.0, 0.0], [30.0, -30.0, 30.0], [1e4, 0.0, 0.0], [0.0, -1e4, 1e-4]]
HIDDEN += [[0.0, normal, -small] for _, normal, small in EXTREMES] + [
    [largest / 8, 0.0, small] for largest, _, small in EXTREMES
]
REFUSED = (
    {"label_smoothing": -0.1},
    {"label_smoothing": 1.1},
    {"softcap": 0.0},
    {"chunk": 0},
    *classification.Z_LOSSES,
)

ROWS = (
    Row(
        "linear_cce",
        tokens,
        linear_cce,
        {"kernel": KERNEL},
        shared=("kernel",),
        names=("y_true", "hidden"),
        labels=0,
        hard=every(np.arange(4), HIDDEN),
        hard_options=classification.SMOOTHED,
        outside=(np.array([-1, CLASSES, -100, 2**31 - 1]), np.ones((4, FEATURES))),
        refused=REFUSED,
    ),
    Row(
        "linear_cce-all",
        tokens,
        linear_cce,
        {
            "kernel": KERNEL,
            "bias": BIAS,
            "label_smoothing": 0.1,
            "class_weights": classification.CLASS_WEIGHTS,
            "z_loss": 0.1,
            "softcap": 2.0,
            "chunk": 2,
        },
        shared=("kernel",),
        names=("y_true", "hidden"),
        labels=0,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

LAWS = (
    Subject(
        "linear_cce",
        LABEL_LOGITS,
        {**OF_CLASSES, "least": (at_label, 0.0)},
        options={"kernel": np.eye(laws.K, dtype=np.float32)},
        size=ONE,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS = (
    Limit(
        "linear_cce-sparse_cce",
        LABEL_LOGITS,
        lambda y, z: of("linear_cce")(y, z, np.eye(laws.K, dtype=np.float32)),
        of("sparse_cce", **FROM_LOGITS),
        size=ONE,
    ),
)
