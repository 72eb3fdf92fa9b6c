"""What is known of the losses of masks: (pixels, example, class) arrays, of which a loss sees all pixels at once."""

from __future__ import annotations

import hypothesis.strategies as st
import laws
from laws import Domain, Limit, Subject, drawn, of, times

from cases import exact as np
from cases.common import AT_TARGET, BIT, ONE, SCORE, SHARE, without
from cases.row import ANY, BELOW_ONE, SMALLEST, Row, signed

EXAMPLES, K = 8, 3  # as many examples as the test mesh has devices


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def probabilities(rng, batch):
    shape = (*batch, EXAMPLES, K)
    return 0.9 * rng.random(shape) + 0.05, 0.9 * rng.random(shape) + 0.05


def logits(rng, batch):
    return 0.9 * rng.random((*batch, EXAMPLES, K)) + 0.05, 2 * rng.normal(size=(*batch, EXAMPLES, K))


def labelled_logits(rng, batch):
    z = 2 * rng.normal(size=(*batch, EXAMPLES, K))
    return rng.integers(0, 2, z.shape) * 1.0, z


# ---------------------------------------------------------------------------------------------------------------------
# Formulas: axis 0 holds the pixels, the last one the classes


def over(n, d):
    return np.where(d > 0, n / np.where(d > 0, d, 1), 0)


def tversky(y, p, alpha=0.5, beta=0.5, smooth=0.0, from_logits=False, axis=0):
    p = softmax(p) if from_logits else p
    tp, fp, fn = (y * p).sum(0), ((1 - y) * p).sum(0), (y * (1 - p)).sum(0)
    return over(alpha * fp + beta * fn, tp + alpha * fp + beta * fn + smooth)


def dice(y, p, smooth=0.0, from_logits=False, axis=0):
    p = softmax(p) if from_logits else p
    total = y.sum(0) + p.sum(0)
    return over(total - 2 * (y * p).sum(0), total + 2 * smooth)


def jaccard(y, p, smooth=0.0, from_logits=False, axis=0):
    p = softmax(p) if from_logits else p
    shared = (y * p).sum(0)
    union = y.sum(0) + p.sum(0) - shared
    return over(union - shared, union + smooth)


def focal_tversky(y, p, gamma=4 / 3, alpha=0.3, beta=0.7, smooth=0.0, from_logits=False, axis=0):
    return tversky(y, p, alpha, beta, smooth, from_logits) ** (1 / gamma)


def generalized_dice(y, p, from_logits=False, axis=0):
    p = softmax(p) if from_logits else p
    size = y.sum(0)
    w = over(1, size**2)
    rarest = w.max(-1, keepdims=True)
    w = np.where(size > 0, w, np.where(rarest > 0, rarest, 1))
    return over((w * (y + p - 2 * y * p).sum(0)).sum(-1), (w * (y + p).sum(0)).sum(-1))


def lovasz(y, errors):
    """The pixels become wrong one by one, the largest error first; each costs by how much the Jaccard loss rises."""
    order = np.argsort(-errors, axis=0, kind="stable")
    y, errors = np.take_along_axis(y, order, 0), np.take_along_axis(errors, order, 0)
    kept, union = y.sum(0) - y.cumsum(0), y.sum(0) + (1 - y).cumsum(0)
    jaccard_losses = 1 - kept / union
    return (errors * np.diff(jaccard_losses, axis=0, prepend=0)).sum(0)


def lovasz_hinge(y, z, axis=0):
    return lovasz(y, np.maximum(0, 1 - (2 * y - 1) * z))


def lovasz_softmax(y, p, from_logits=False, axis=0):
    return lovasz(y, np.abs(y - (softmax(p) if from_logits else p)))


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs: an example each for right, wrong, absent, full and nothing at all

FIRST, SECOND, THIRD = np.eye(K)
HARD_TARGETS = np.array(
    [[FIRST, SECOND], [FIRST, FIRST], [FIRST, FIRST], [SECOND, SECOND], [0 * FIRST, 0 * FIRST]]
).swapaxes(0, 1)
HARD_SCORES = np.array(
    [[FIRST, SECOND], [SECOND, SECOND], [THIRD, FIRST], [FIRST / 3, SECOND / 3], [0 * FIRST, 0 * FIRST]]
).swapaxes(0, 1)


def beside(targets, scores, numbers):
    """The examples, and one for each number: it is the score of the right class, then of a wrong one."""
    more = np.array([[x * FIRST, x * FIRST] for x in numbers]).swapaxes(0, 1)
    right = np.broadcast_to(np.array([FIRST, SECOND])[:, None], more.shape)
    return np.concatenate([targets, right], 1), np.concatenate([scores, more], 1)


HARD = beside(HARD_TARGETS, HARD_SCORES, [*SMALLEST, *BELOW_ONE])
HARD_LOGITS = beside(HARD_TARGETS, np.array([1e4, -1e4]).reshape(2, 1, 1) * HARD_SCORES, signed(ANY))
PIXELS = {"axis": 0}
NEGATIVE = ({"smooth": -1.0},)

ROWS = (
    Row("dice", probabilities, dice, PIXELS, pooled=True, hard=HARD, refused=NEGATIVE),
    Row(
        "tversky",
        logits,
        tversky,
        {"alpha": 0.3, "beta": 0.7, "smooth": 1.0, "from_logits": True, **PIXELS},
        pooled=True,
        hard=HARD_LOGITS,
        refused=({"alpha": -1.0}, {"beta": -1.0}, {"smooth": -1.0}),
    ),
    Row(
        "focal_tversky",
        probabilities,
        focal_tversky,
        {"gamma": 4 / 3, **PIXELS},
        pooled=True,
        hard=HARD,
        refused=({"gamma": 0.0},),
    ),
    Row("jaccard", probabilities, jaccard, PIXELS, pooled=True, hard=HARD, refused=NEGATIVE),
    Row("generalized_dice", logits, generalized_dice, {"from_logits": True, **PIXELS}, pooled=True, hard=HARD_LOGITS),
    Row(
        "lovasz_hinge",
        labelled_logits,
        lovasz_hinge,
        PIXELS,
        pooled=True,
        detached=(0,),
        hard=HARD_LOGITS,
        excused=((r"gradient by y_pred .* at \([01], ([5-9]|1\d), 0\)", "errors of 1 and 1 - 1e-5: ordered by place"),),
    ),
    Row(
        "lovasz_softmax",
        labelled_logits,
        lovasz_softmax,
        {"from_logits": True, **PIXELS},
        pooled=True,
        detached=(0,),
        hard=HARD_LOGITS,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws

MASKS = Domain(
    st.tuples(drawn(BIT, laws.PIXELS, laws.UNITS, laws.K), drawn(SHARE, laws.PIXELS, laws.UNITS, laws.K)),
    ("convex", "least", "non_negative", "symmetric", "relabelled"),
    units=lambda losses, order: losses[..., order] if losses.ndim == 2 else losses,
    pixels=True,
)
MASK_LOGITS = Domain(
    st.tuples(drawn(BIT, laws.PIXELS, laws.UNITS, laws.K), drawn(SCORE, laws.PIXELS, laws.UNITS, laws.K)),
    ("convex", "least", "non_negative", "relabelled"),
    units=MASKS.units,
    pixels=True,
)
MASK_LAWS = {"least": AT_TARGET, "non_negative": True, "symmetric": True, "relabelled": True}
SIZES = {"convex": "the prediction is in the denominator"}
SIDES = {"symmetric": "false positives and false negatives count differently"}
STEP = {"symmetric": "a target is 0 or 1"}

LAWS = (
    Subject("dice", MASKS, MASK_LAWS, SIZES, PIXELS),
    Subject("jaccard", MASKS, MASK_LAWS, SIZES, PIXELS),
    Subject(
        "tversky", MASKS, without(MASK_LAWS, "symmetric"), {**SIZES, **SIDES}, {**PIXELS, "alpha": 0.3, "beta": 0.7}
    ),
    Subject("focal_tversky", MASKS, without(MASK_LAWS, "symmetric"), {**SIZES, **SIDES}, PIXELS),
    Subject(
        "generalized_dice",
        MASKS,
        without(MASK_LAWS, "symmetric"),
        {**SIZES, "symmetric": "the sizes of the targets weigh"},
        PIXELS,
    ),
    Subject("lovasz_softmax", MASKS, {**without(MASK_LAWS, "symmetric"), "convex": True}, STEP, PIXELS, size=ONE),
    Subject(
        "lovasz_hinge",
        MASK_LOGITS,
        {"convex": True, "least": (lambda y, z: 2 * y - 1, 0.0), "non_negative": True, "relabelled": True},
        options=PIXELS,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

BOOLEAN_MASKS = Domain(MASKS.draw.map(lambda arrays: (arrays[0], np.round(arrays[1]))), (), pixels=True)

LIMITS = (
    Limit("dice-tversky", MASKS, of("dice", **PIXELS), of("tversky", alpha=0.5, beta=0.5, **PIXELS)),
    Limit("jaccard-tversky", MASKS, of("jaccard", **PIXELS), of("tversky", alpha=1.0, beta=1.0, **PIXELS)),
    Limit(
        "jaccard-dice",
        MASKS,
        of("jaccard", **PIXELS),
        lambda y, p: 2 * of("dice", **PIXELS)(y, p) / (1 + of("dice", **PIXELS)(y, p)),
    ),
    Limit(
        "dice-smooth 0",
        MASKS,
        of("dice", smooth=1e-37, **PIXELS),
        of("dice", **PIXELS),
        ONE,
        lambda y, p: 1e-3,
    ),
    Limit(
        "focal_tversky-tversky",
        MASKS,
        of("focal_tversky", gamma=1.0, **PIXELS),
        of("tversky", alpha=0.3, beta=0.7, **PIXELS),
    ),
    Limit(
        "generalized_dice-dice",
        MASKS,
        lambda y, p: of("generalized_dice", **PIXELS)(y[..., :1], p[..., :1]),
        lambda y, p: of("dice", **PIXELS)(y[..., 0], p[..., 0]),
    ),
    Limit("lovasz_softmax-jaccard", BOOLEAN_MASKS, of("lovasz_softmax", **PIXELS), of("jaccard", **PIXELS), ONE),
    Limit(
        "lovasz_hinge-jaccard",
        BOOLEAN_MASKS,
        lambda y, p: of("lovasz_hinge", **PIXELS)(y, 2 * p - 1),  # an error is 0 or 2
        times(2, of("jaccard", **PIXELS)),
        ONE,
    ),
)
