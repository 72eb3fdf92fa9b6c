"""Which loss obeys which law, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from laws import (
    ABOVE_MINUS_1,
    BLANK,
    BOXES,
    COUNTS,
    DISPERSED,
    FRAMES,
    JUDGED,
    LABEL_COUNT,
    LABEL_LOGITS,
    LABEL_LOGS,
    LABELLED_SETS,
    LISTS,
    LOG_COUNTS,
    LOG_DISPERSED,
    LOGIT_PAIRS,
    LOGITS,
    MASK_LOGITS,
    MASKS,
    ONE_HOT_LOGITS,
    PAIRS,
    PAIRS_AND_REFERENCE,
    PLACED,
    PROBABILITY,
    RATIOS,
    REALS,
    SET_LOGITS,
    SETS,
    SIGN_NUMBERS,
    SIGN_PAIRS,
    SIGN_SCORES,
    SIGNS,
    SIMPLICES,
    SOFT_PAIRS,
    TARGET_LOGIT,
    TINY,
    TOKENS,
    TRIPLETS,
    UNITS,
    VECTORS,
    VIEWS,
    K,
    Subject,
    above_0,
    exact,
    one_hot,
    sequences,
)
from scipy.special import gammaln, logit, xlogy


def entropy(q: np.ndarray) -> np.ndarray:
    return -xlogy(q, q).sum(-1)


def binary_entropy(y: np.ndarray) -> np.ndarray:
    return -xlogy(y, y) - xlogy(1 - y, 1 - y)


def far_logit(y: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.clip(logit(exact(y)), -200, 200)


def log_of(q: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(exact(q), 1e-200))


def at_label(label: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return 200 * one_hot(label)


AT_TARGET = (lambda y, *others: y, 0.0)
ONE = lambda *arrays: 1.0  # noqa: E731  a logarithm near 0 carries the rounding of a number near 1

RESIDUAL = {"convex": True, "least": AT_TARGET, "non_negative": True, "translated": True, "symmetric": True}
LENGTH = {"homogeneous": "an option is a length: it must be scaled too"}
ROBUST = {law: held for law, held in RESIDUAL.items() if law != "convex"}
BOUNDED = {"convex": "its slope falls for large residuals"}
LEVEL = {"symmetric": "the level tells the sides apart"}
BOTH, PREDICTION = (0, 1), (1,)


def without(laws: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: held for name, held in laws.items() if name not in names}


REGRESSION = (
    Subject("mae", REALS, {**RESIDUAL, "homogeneous": (1, BOTH)}),
    Subject("mse", REALS, {**RESIDUAL, "homogeneous": (2, BOTH)}),
    Subject("huber", REALS, RESIDUAL, LENGTH, {"delta": 0.4}),
    Subject("smooth_l1", REALS, RESIDUAL, LENGTH, {"beta": 0.4}),
    Subject("balanced_l1", REALS, RESIDUAL, LENGTH),
    Subject("log_cosh", REALS, RESIDUAL, {"homogeneous": "it has the length 1"}),
    Subject("quantile", REALS, {**without(RESIDUAL, "symmetric"), "homogeneous": (1, BOTH)}, LEVEL, {"level": 0.3}),
    Subject("expectile", REALS, {**without(RESIDUAL, "symmetric"), "homogeneous": (2, BOTH)}, LEVEL, {"level": 0.3}),
    Subject("barron", REALS, RESIDUAL, LENGTH, {"alpha": 1.4, "scale": 0.7}),
    Subject("barron-bounded", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"alpha": -2.5, "scale": 0.7}),
    Subject("charbonnier", REALS, RESIDUAL, LENGTH, {"scale": 0.7}),
    Subject("cauchy", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"scale": 0.7}),
    Subject("welsch", REALS, ROBUST, {**LENGTH, **BOUNDED}, {"scale": 0.7}),
    Subject(
        "mape",
        RATIOS,
        {"convex": True, "least": AT_TARGET, "non_negative": True, "homogeneous": (0, BOTH)},
        {"translated": "it is relative", "symmetric": "it is relative to the target"},
    ),
    Subject(
        "smape",
        RATIOS,
        {"least": AT_TARGET, "non_negative": True, "homogeneous": (0, BOTH), "symmetric": True},
        {"convex": "it is at most 200", "translated": "it is relative"},
    ),
    Subject(
        "msle",
        ABOVE_MINUS_1,
        {"least": AT_TARGET, "non_negative": True, "symmetric": True},
        {"convex": "a logarithm squared", "homogeneous": "1 is added", "translated": "it is (almost) relative"},
    ),
    Subject(
        "cosine_distance",
        VECTORS,
        {
            "least": (lambda y, p: 2 * y, lambda y, p: 1.0 * (np.abs(y).max(-1) < TINY)),
            "non_negative": True,
            "homogeneous": (0, PREDICTION),
            "symmetric": True,
            "relabelled": True,
        },
        {"convex": "it is at most 2", "translated": "only directions count"},
        size=ONE,
    ),
)

BINARY = {"convex": True, "non_negative": True, "relabelled": True}
OF_LOGIT = {**BINARY, "least": (lambda y, z: far_logit(y), lambda y, z: binary_entropy(y))}
FOCUS = {
    "convex": "the weight falls where the error does",
    "least": "of a soft target the least loss is elsewhere: no proper score",
}
BINARY_LOSSES = (
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
    Subject("binary_focal-logit", TARGET_LOGIT, without(BINARY, "convex"), FOCUS, {"from_logits": True}, size=ONE),
    Subject(
        "binary_focal-probability",
        PROBABILITY,
        {**BINARY, "convex": lambda p: np.clip(p, 1e-9, 1)},
        {"least": FOCUS["least"]},
        size=ONE,
    ),
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
)

OF_CLASSES = {"convex": True, "non_negative": True, "shifted": True, "relabelled": True}
FROM_LOGITS = {"from_logits": True}
POLY = {"convex": "1 - p is not convex in the logits", "least": FOCUS["least"]}
NORMALISED = {"symmetric": "only the prediction is in a logarithm"}
ROW_OF_P = {"non_negative": True, "homogeneous": (0, PREDICTION), "relabelled": True}
CLASS_LOSSES = (
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
        "linear_cce",
        LABEL_LOGITS,
        {**OF_CLASSES, "least": (at_label, 0.0)},
        options={"kernel": np.eye(K, dtype=np.float32)},
        size=ONE,
    ),
    Subject(
        "nll",
        LABEL_LOGS,
        {"convex": True, "non_negative": True, "relabelled": True},
        {"least": "it is linear", "shifted": "nothing is normalised"},
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

DIVERGENCE = {"convex": above_0, "least": AT_TARGET, "homogeneous": (1, BOTH), "relabelled": True}
ALMOST_0 = (lambda q, p: q, lambda q, p: 0 * q[:, 0])  # the mixture of q with itself is rounded
SIGN_OF_SUMS = {"non_negative": "nothing is normalised: the rounding of the sums decides the sign"}
DIVERGENCES = (
    Subject("kl_divergence", SIMPLICES, DIVERGENCE, {**SIGN_OF_SUMS, **NORMALISED}, size=ONE),
    Subject(
        "js_divergence",
        SIMPLICES,
        {**DIVERGENCE, "least": ALMOST_0, "symmetric": True},
        {"non_negative": "differences of logarithms are rounded"},
        size=ONE,
    ),
    Subject(
        "js_divergence-weight",
        SIMPLICES,
        {**DIVERGENCE, "least": ALMOST_0},
        {"non_negative": "differences of logarithms are rounded", "symmetric": "the weight tells the sides apart"},
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


def gaussian_terms(y: np.ndarray, mean: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 1 + np.abs(np.log(v)) + (y - mean) ** 2 / v


def laplace_terms(y: np.ndarray, location: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1 + np.abs(np.log(b)) + np.abs(y - location) / b


def student_terms(y: np.ndarray, location: np.ndarray, s: np.ndarray) -> np.ndarray:
    return 1 + np.abs(np.log(s)) + 2.5 * np.log1p(((y - location) / s) ** 2 / 4)


def poisson_terms(y: np.ndarray, rate: np.ndarray) -> np.ndarray:
    return 1 + rate + y * np.abs(np.log(rate))


def log_poisson_terms(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 1 + np.exp(x) * (1 + np.abs(x)) + y * np.abs(x)


def nb_terms(y: np.ndarray, mean: np.ndarray, a: np.ndarray) -> np.ndarray:
    return 1 + (y + 1 / a) * np.log1p(a * mean) + y * (np.abs(np.log(mean)) + np.log1p(a * y) + 1)


def nb_value(y: np.ndarray, mean: np.ndarray, a: np.ndarray) -> np.ndarray:
    n = 1 / a
    return gammaln(n) - gammaln(n + y) + n * np.log1p(a * mean) + y * np.log1p(a * mean) - xlogy(y, a * mean)


LIKELY = {"least": None, "translated": True, "symmetric": True}
UNBOUNDED = {"non_negative": "a density may exceed 1", "homogeneous": "the logarithm of the scale is added"}
NO_CONSTANT = {"non_negative": "the term of the target alone is left out"}
SCALED_COUNT = {"homogeneous": "the logarithm of the factor is added"}


def best_rate(y: np.ndarray, rate: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return np.maximum(y, 1e-12)  # below, the logarithm of the rate need not be small against it


LIKELIHOODS = (
    Subject(
        "gaussian_nll",
        PLACED,
        {**LIKELY, "convex": True, "least": (lambda y, m, v: y, lambda y, m, v: np.log(v) / 2)},
        UNBOUNDED,
        size=gaussian_terms,
    ),
    Subject(
        "laplace_nll",
        PLACED,
        {**LIKELY, "convex": True, "least": (lambda y, l, b: y, lambda y, l, b: np.log(b))},
        UNBOUNDED,
        size=laplace_terms,
    ),
    Subject(
        "student_t_nll",
        PLACED,
        {**LIKELY, "least": (lambda y, l, s: y, lambda y, l, s: np.log(s))},
        {**UNBOUNDED, **BOUNDED},
        size=student_terms,
    ),
    Subject(
        "poisson_nll",
        COUNTS,
        {"convex": True, "least": (best_rate, lambda y, r: y - xlogy(y, y))},
        {**NO_CONSTANT, **SCALED_COUNT},
        size=poisson_terms,
    ),
    Subject(
        "poisson_nll-log_rate",
        LOG_COUNTS,
        {"convex": True, "least": (lambda y, x: log_of(np.maximum(y, 1e-30)), lambda y, x: y - xlogy(y, y))},
        {**NO_CONSTANT, "homogeneous": "logarithms"},
        {"log_rate": True},
        log_poisson_terms,
    ),
    Subject(
        "negative_binomial_nll",
        DISPERSED,
        {"least": (best_rate, lambda y, m, a: nb_value(y, np.maximum(y, 1e-12), a))},
        {"convex": "its slope falls for large means", **NO_CONSTANT, **SCALED_COUNT},
        size=nb_terms,
    ),
    Subject(
        "negative_binomial_nll-log_rate",
        LOG_DISPERSED,
        {"convex": True},
        {
            "least": "as for negative_binomial_nll",
            **NO_CONSTANT,
            "homogeneous": "logarithms",
        },
        {"log_rate": True},
        lambda y, x, a: nb_terms(y, np.exp(x), a),
    ),
    Subject(
        "tweedie",
        COUNTS,
        {
            "least": (best_rate, lambda y, m: np.maximum(y, 1e-12) ** 0.5 * 2 + y * np.maximum(y, 1e-12) ** -0.5 * 2),
            "non_negative": True,
            "homogeneous": (0.5, BOTH),
        },
        {"convex": "a power below 1 of the mean is added"},
    ),
    Subject(
        "tweedie-deviance",
        COUNTS,
        {"least": (lambda y, m: y, 0.0), "non_negative": True, "homogeneous": (0.5, BOTH)},
        {"convex": "a power below 1 of the mean is added"},
        {"full": True},
    ),
    Subject(
        "tweedie-almost gamma",
        COUNTS,
        {"least": (lambda y, m: y, 0.0), "non_negative": True, "homogeneous": (2 - 1.99, BOTH)},
        {"convex": "a power below 1 of the mean is added"},
        {"full": True, "power": 1.99},
    ),
)

BOX_LAWS = {
    "least": AT_TARGET,
    "non_negative": True,
    "homogeneous": (0, BOTH),
    "translated": True,
    "symmetric": True,
    "relabelled": True,
}
OVERLAP = {"convex": "a quotient of areas"}


def with_sides(box: np.ndarray) -> np.ndarray:
    """The aspect of a point is that of a vertical line, by convention."""
    return box + np.array([0, 0, 1, 1], np.float32)


WITH: dict[str, dict[str, Any]] = {
    "alpha_iou": {"power": 2.5, "base": "giou"},
    "ciou-gate": {"gate": 0.5},
    "wiou_v2": {"iou_loss_mean": 0.6},
    "wiou_v3": {"iou_loss_mean": 0.6},
}
BOX_LOSSES = tuple(
    Subject(id, BOXES, {**BOX_LAWS, "relabelled": with_sides if id == "ciou" else True}, OVERLAP, WITH.get(id, {}))
    for id in (
        *("iou", "iou_log", "giou", "diou", "ciou", "ciou-gate", "eiou", "focal_eiou", "alpha_iou", "siou"),
        *("wiou_v1", "wiou_v2", "wiou_v3"),
    )
)

MASK_LAWS = {"least": AT_TARGET, "non_negative": True, "symmetric": True, "relabelled": True}
SIZES = {"convex": "the prediction is in the denominator"}
SIDES = {"symmetric": "false positives and false negatives count differently"}
STEP = {"symmetric": "a target is 0 or 1"}
AXIS = {"axis": 0}
MASK_LOSSES = (
    Subject("dice", MASKS, MASK_LAWS, SIZES, AXIS),
    Subject("jaccard", MASKS, MASK_LAWS, SIZES, AXIS),
    Subject("tversky", MASKS, without(MASK_LAWS, "symmetric"), {**SIZES, **SIDES}, {**AXIS, "alpha": 0.3, "beta": 0.7}),
    Subject("focal_tversky", MASKS, without(MASK_LAWS, "symmetric"), {**SIZES, **SIDES}, AXIS),
    Subject(
        "generalized_dice",
        MASKS,
        without(MASK_LAWS, "symmetric"),
        {**SIZES, "symmetric": "the sizes of the targets weigh"},
        AXIS,
    ),
    Subject("lovasz_softmax", MASKS, {**without(MASK_LAWS, "symmetric"), "convex": True}, STEP, AXIS, size=ONE),
    Subject(
        "lovasz_hinge",
        MASK_LOGITS,
        {"convex": True, "least": (lambda y, z: 2 * y - 1, 0.0), "non_negative": True, "relabelled": True},
        options=AXIS,
    ),
)

OF_PATHS = {
    "convex": "the logarithm of a sum over paths is convex too, and subtracted",
    "least": "0 is the limit of certain logits",
}
SEQUENCE_LOSSES = tuple(
    Subject(
        name,
        sequences(*core),
        without(OF_CLASSES, "convex"),
        OF_PATHS,
        {"blank": BLANK},
        lambda labels, logits, *lengths: 1 + np.ptp(logits, axis=-1).reshape(UNITS, -1).sum(-1),
    )
    for name, core in (("ctc", (FRAMES,)), ("rnnt", (FRAMES, LABEL_COUNT + 1)))
)


def squared_preference(*log_p: np.ndarray) -> np.ndarray:
    """What is squared is a difference of log-probabilities, rounded as they are."""
    return 1 + np.abs(log_p).sum(0) ** 2


def ratio(advantages: np.ndarray, policy: np.ndarray, old: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Exponentials of differences of log-probabilities, with the rounding of those."""
    size = 1 + np.abs(policy) + np.abs(old) + np.abs(reference)
    return size * (np.abs(advantages) * np.exp(policy - old) + np.exp(reference - policy) + size)


CONVEX = {"convex": True, "non_negative": True, "translated": True}
PREFERENCES = (
    Subject("dpo", PAIRS_AND_REFERENCE, CONVEX, options={"beta": 0.5}),
    Subject("dpo-smoothed", PAIRS_AND_REFERENCE, CONVEX, options={"beta": 0.5, "label_smoothing": 0.25}),
    Subject("ipo", PAIRS_AND_REFERENCE, CONVEX, options={"beta": 0.5}, size=squared_preference),
    Subject("simpo", PAIRS, CONVEX, size=ONE),
    Subject(
        "orpo",
        PAIRS,
        without(CONVEX, "translated"),
        {"translated": "the chosen sequence is imitated"},
        size=lambda chosen, rejected: np.abs(chosen),
    ),
    Subject("kto", JUDGED, without(CONVEX, "convex"), {"convex": "a sigmoid"}, options={"beta": 0.5, "kl": 0.25}),
    Subject(
        "grpo",
        TOKENS,
        {"translated": True},
        {"convex": "the ratio is clipped", "non_negative": "an advantage is a gain"},
        {"beta": 0.5},
        ratio,
    ),
)


def range_of_scores(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """How far the scores of a list lie apart, as often as they are summed."""
    return (1 + y.sum(0) + len(z)) * (1 + np.ptp(z, axis=0))


OF_LISTS = {**CONVEX, "relabelled": True}
COUNTED_RANKS = {"convex": "the ranks change the weights of the pairs"}
RANKINGS = (
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


EMBEDDED = {"non_negative": True, "relabelled": True}
DIRECTIONS = {"convex": "it is at most 2", "translated": "only directions count"}
LIMIT = {"least": "0 is the limit of certain embeddings"}
TEMPERED = {**LIMIT, "homogeneous": "the temperature is a scale"}


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = np.abs(a).sum(-1), np.abs(b).sum(-1)
    return 1 + a * b.max() + b * a.max()


def second_and_fourth_powers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = ((np.abs(a) + np.abs(b)) ** 2).sum((0, -1))
    return 25 * (2 + squares) + squares**2


METRIC_LOSSES = (
    Subject(
        "info_nce",
        SETS,
        EMBEDDED,
        {**TEMPERED, "symmetric": "the queries choose among the keys"},
        {"temperature": 1.0},
        products,
    ),
    Subject("clip", SETS, {**EMBEDDED, "symmetric": True}, TEMPERED, {"temperature": 1.0}, products),
    Subject(
        "siglip",
        SETS,
        EMBEDDED,
        {**TEMPERED, "symmetric": "the loss of a member is that of its row, not of its column"},
        {"temperature": 1.0},
        lambda a, b: UNITS * (10 + products(a, b)),
    ),
    Subject(
        "sup_con",
        LABELLED_SETS,
        {**EMBEDDED, "homogeneous": (0, (1,))},
        LIMIT,
        {"temperature": 0.5},
        lambda labels, x: 8.0,
    ),
    Subject(
        "multi_similarity",
        LABELLED_SETS,
        {**EMBEDDED, "homogeneous": (0, (1,))},
        {"least": "even the best cosines cost something, and not all of them are possible together"},
        size=lambda labels, x: 8.0,
    ),
    Subject(
        "circle",
        LABELLED_SETS,
        {**EMBEDDED, "homogeneous": (0, (1,))},
        {"least": "even the best cosines cost something, and not all of them are possible together"},
        {"gamma": 4.0},
        lambda labels, x: 32.0,
    ),
    Subject(
        "barlow_twins",
        VIEWS,
        {**EMBEDDED, "symmetric": True, "homogeneous": (0, BOTH)},
        {"least": "two views that are equal still cost what their features have in common"},
        AXIS,
        size=lambda a, b: K * 8.0,
    ),
    Subject(
        "vicreg",
        VIEWS,
        {**EMBEDDED, "symmetric": True},
        {
            "least": "two views that are equal still cost what their features have in common",
            "homogeneous": "the standard deviation is a length",
        },
        AXIS,
        size=second_and_fourth_powers,
    ),
    Subject(
        "nt_xent",
        SETS,
        {**EMBEDDED, "symmetric": True, "homogeneous": (0, BOTH)},
        LIMIT,
        size=lambda a, b: 8.0,  # terms of size 1 / temperature, after cosines that are rounded themselves
    ),
    Subject(
        "triplet",
        TRIPLETS,
        {**EMBEDDED, "convex": True, "translated": True},
        {
            "least": "it has no least point but where it is 0",
            "homogeneous": "the margin is a length",
            "symmetric": "the anchor is in both distances",
        },
        size=lambda a, p, n: 1 + np.abs([a - p, a - n]).max((0, -1)),
    ),
    Subject(
        "triplet-no margin",
        TRIPLETS,
        {**EMBEDDED, "convex": True, "translated": True, "homogeneous": (1, (0, 1, 2))},
        {"least": "it has no least point but where it is 0", "symmetric": "the anchor is in both distances"},
        {"margin": 0.0},
        lambda a, p, n: np.abs([a - p, a - n]).max((0, -1)),
    ),
    Subject(
        "contrastive",
        SOFT_PAIRS,
        {**EMBEDDED, "translated": True, "symmetric": True},
        {
            "convex": "from one point a pair may be pushed apart in every direction",
            "least": "alike or not, the target says where",
            "homogeneous": "the margin is a length",
        },
        size=ONE,
    ),
    Subject(
        "cosine_embedding",
        SIGN_PAIRS,
        {**EMBEDDED, "homogeneous": (0, (1, 2)), "symmetric": True},
        {**DIRECTIONS, "least": "alike or not, the target says where"},
        size=ONE,
    ),
    Subject(
        "hinge_embedding",
        SIGN_NUMBERS,
        {"convex": True},
        {
            "least": "where y = 1 it has no bound below",
            "non_negative": "where y = 1 it is the number itself",
            "homogeneous": "the margin is a length",
        },
    ),
    Subject(
        "margin_ranking",
        SIGN_SCORES,
        {
            "convex": True,
            "least": (lambda y, a, b: b, 0.0),
            "non_negative": True,
            "homogeneous": (1, (1, 2)),
            "translated": True,
            "symmetric": True,
        },
    ),
    Subject(
        "byol",
        VECTORS,
        {
            "least": (lambda y, p: 2 * y, lambda y, p: 2.0 * (np.abs(y).max(-1) < TINY)),
            **EMBEDDED,
            "homogeneous": (0, BOTH),
            "symmetric": True,
        },
        DIRECTIONS,
        size=ONE,
    ),
)

SUBJECTS = (
    *BINARY_LOSSES,
    *CLASS_LOSSES,
    *DIVERGENCES,
    *REGRESSION,
    *LIKELIHOODS,
    *BOX_LOSSES,
    *MASK_LOSSES,
    *SEQUENCE_LOSSES,
    *PREFERENCES,
    *RANKINGS,
    *METRIC_LOSSES,
)
