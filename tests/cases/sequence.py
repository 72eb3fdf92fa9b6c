"""What is known of the losses of sequences."""

from __future__ import annotations

import functools

import hypothesis.strategies as st
import jax.numpy as jnp
import laws
from laws import Domain, Limit, Numbers, Subject, drawn, of

from cases import exact as np
from cases.classification import FROM_LOGITS, log_softmax
from cases.common import BIT, LABEL_LOGITS, MODERATE_LOGITS, OF_CLASSES, OF_LOGITS, ONE, SCORE, without
from cases.excuses import close
from cases.row import CLASSES, EXTREMES, LARGEST, Row, joined, signed

LABELS, FRAMES = 2, 4
BLANK = 1

# ---------------------------------------------------------------------------------------------------------------------
# Inputs: the frames always suffice for the labels


def labels_logits(rng, batch):
    return (
        rng.choice([0, 2, 3], (*batch, LABELS)),
        2 * rng.normal(size=(*batch, FRAMES, CLASSES)),
        rng.integers(0, LABELS + 1, batch),
        rng.integers(LABELS + 1, FRAMES + 1, batch),
    )


def labels_grids(rng, batch):
    return (
        rng.choice([0, 2, 3], (*batch, LABELS)),
        2 * rng.normal(size=(*batch, FRAMES - 1, LABELS + 1, CLASSES)),
        rng.integers(0, LABELS + 1, batch),
        rng.integers(1, FRAMES, batch),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Formulas: the forward recursions as the papers have them, in plain logarithms


def each(oracle):
    """The oracle of one sequence, for a batch of them."""

    @functools.wraps(oracle)
    def losses(labels, logits, label_lengths, logit_lengths, blank):
        batch = np.shape(labels)[:-1]
        z = log_softmax(logits).reshape(-1, *logits.shape[len(batch) :])
        y = np.reshape(labels, (len(z), -1))
        lengths = np.ravel(label_lengths), np.ravel(logit_lengths)
        return np.reshape([-oracle(*one, blank) for one in zip(y, z, *lengths, strict=True)], batch)

    return losses


@each
def ctc(labels, log_p, label_length, frames, blank):
    spelled = [blank]
    for label in labels[:label_length]:
        spelled += [label, blank]
    alpha = np.full(len(spelled), -np.inf)
    alpha[0] = 0  # one frame before the first
    for t in range(frames):
        before = alpha
        alpha = before.copy()
        alpha[1:] = np.logaddexp(alpha[1:], before[:-1])
        for s in range(3, len(spelled), 2):
            if spelled[s] != spelled[s - 2]:
                alpha[s] = np.logaddexp(alpha[s], before[s - 2])
        alpha = alpha + log_p[t, spelled]
    return np.logaddexp.reduce(alpha[-2:])


@each
def rnnt(labels, log_p, label_length, frames, blank):
    alpha = np.full((frames, label_length + 1), -np.inf, log_p.dtype)
    alpha[0, 0] = 0
    for t in range(frames):
        for u in range(label_length + 1):
            if t:
                alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t - 1, u] + log_p[t - 1, u, blank])
            if u:
                alpha[t, u] = np.logaddexp(alpha[t, u], alpha[t, u - 1] + log_p[t, u - 1, labels[u - 1]])
    return alpha[-1, -1] + log_p[frames - 1, label_length, blank]


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs: frames that are all alike

FRAME = np.array([[0.0] * 4, [1e4, -1e4, 0, 1], [-1e4, 1e4, 0, 1], [20, 17, 0, 1], [88, -88, 104, -104], [1e30] * 4])
FRAME = np.array([*FRAME, *([x] * 4 for x in signed(LARGEST)), *([n[1], -n[1], n[2], -n[2]] for n in EXTREMES)])
EXCLUDED = np.array([[0, 1, 2, -np.inf], [0, 1, -np.inf, -np.inf]])


def hard(*core):
    """Two different labels, and twice the same one."""
    batches = []
    for labels, excluded in (([0, 2], EXCLUDED[:1]), ([0, 0], EXCLUDED)):
        frames = np.concatenate([FRAME, excluded])
        batches.append(whole(labels, np.expand_dims(frames, tuple(range(1, 1 + len(core)))), core))
    return joined(*batches)


def outside(*core):
    frames = np.ones((len(WRONG_LABELS), *(1,) * len(core), CLASSES))
    labels, logits, _, _ = whole([0, 2], frames, core)
    return joined(whole(WRONG_LABELS, frames, core), (labels, logits, [LABELS + 1, -1, 1, 1], [2, 2, 9, -1]))


def whole(labels, frames, core):
    """All labels and frames count."""
    n = len(frames)
    logits = np.broadcast_to(frames, (n, *core, CLASSES))
    return np.broadcast_to(labels, (n, LABELS)), logits, np.full(n, LABELS), np.full(n, core[0])


WRONG_LABELS = np.array([[0, BLANK], [0, CLASSES], [-1, 0], [2**31 - 1, 0]])
SHARED = {
    "options": {"blank": BLANK},
    "names": ("labels", "logits", "label_lengths", "logit_lengths"),
    "keywords": ("label_lengths", "logit_lengths"),
    "refused": ({"blank": CLASSES}, {"blank": -1}, {"infeasible": "nan"}),
}

# ---------------------------------------------------------------------------------------------------------------------
# Rows

RECURSION = "a log-probability of -2e4 and less has no more digits: exact to eps times the loss"

ROWS = (
    Row(
        "ctc",
        labels_logits,
        ctc,
        hard=hard(FRAMES),
        outside=outside(FRAMES),
        **SHARED,
        excused=((r"gradient by logits.*-10000\.0, 10000\.0", RECURSION), *close("gradient by logits @float64")),
    ),
    Row(
        "rnnt",
        labels_grids,
        rnnt,
        hard=hard(FRAMES - 1, LABELS + 1),
        outside=outside(FRAMES - 1, LABELS + 1),
        **SHARED,
        excused=((r"gradient by logits.*10000\.0, ", RECURSION),),
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

DRAWN_FRAMES = 3


def sequences(*core):
    return Domain(
        st.tuples(
            drawn(Numbers((0, 2)), laws.UNITS, LABELS, dtype=np.int32),
            laws.each(SCORE, *core, laws.K),
            drawn(BIT, laws.UNITS, dtype=np.int32),
            drawn(Numbers(laws.whole(1, DRAWN_FRAMES)), laws.UNITS, dtype=np.int32),
        ),
        OF_LOGITS,
        moves=(1,),
        relabel=lambda arrays, order: (2 - arrays[0], arrays[1][..., ::-1], *arrays[2:]),  # all but the blank
    )


OF_PATHS = {
    "convex": "the logarithm of a sum over paths is convex too, and subtracted",
    "least": "0 is the limit of certain logits",
}

LAWS = (
    *(
        Subject(
            name,
            sequences(*core),
            without(OF_CLASSES, "convex"),
            OF_PATHS,
            {"blank": BLANK},
            size=lambda labels, logits, *lengths: 1 + np.ptp(logits, axis=-1).reshape(laws.UNITS, -1).sum(-1),
            keywords=SHARED["keywords"],
        )
        for name, core in (("ctc", (DRAWN_FRAMES,)), ("rnnt", (DRAWN_FRAMES, LABELS + 1)))
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS = (
    Limit(
        "ctc-sparse_cce",
        LABEL_LOGITS,
        # One frame, one label that is not the blank: a class is added for that.
        lambda y, z: of("ctc", blank=0)(y[:, None] + 1, jnp.pad(z, ((0, 0), (1, 0)))[:, None]),
        lambda y, z: of("sparse_cce", **FROM_LOGITS)(y + 1, jnp.pad(z, ((0, 0), (1, 0)))),
        size=ONE,
    ),
    Limit(
        "ctc-no label",
        MODERATE_LOGITS,
        lambda a, b: of("ctc")(jnp.zeros((laws.UNITS, 0), jnp.int32), jnp.stack([a, b], 1)),
        lambda a, b: sum(of("sparse_cce", **FROM_LOGITS)(jnp.zeros(laws.UNITS, jnp.int32), z) for z in (a, b)),
        size=ONE,
    ),
    Limit(
        "rnnt-no label",
        MODERATE_LOGITS,
        lambda a, b: of("rnnt")(jnp.zeros((laws.UNITS, 0), jnp.int32), jnp.stack([a, b], 1)[:, :, None]),
        lambda a, b: sum(of("sparse_cce", **FROM_LOGITS)(jnp.zeros(laws.UNITS, jnp.int32), z) for z in (a, b)),
        size=ONE,
    ),
)
