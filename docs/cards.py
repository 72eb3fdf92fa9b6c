"""What the site says of a loss that its signature and docstring do not: formula, use, task, neighbours, a curve.

A new loss needs a `Card` here; the build says so where one is missing. A curve is the loss as a function of one number,
for some values of one option. Pictures and explorer are computed from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxloss as jl


@dataclass(frozen=True)
class Curve:
    """`of(x, option)` between two x; the option is drawn at its values, and swept between the first and the last."""

    of: Callable[..., Array]
    low: float
    high: float
    label: str
    option: str = ""
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Card:
    """formula: LaTeX. use: "Use it when ...", so a clause. tasks: of `TASKS`. see: other losses."""

    formula: str
    use: str
    tasks: tuple[str, ...]
    see: tuple[str, ...]
    curve: Curve


TASKS = {
    "regression": "a number",
    "uncertainty": "a distribution of numbers",
    "counts": "counts and amounts",
    "classes": "one class of many",
    "labels": "several labels, or yes and no",
    "imbalance": "rare classes",
    "noise": "outliers and wrong labels",
    "boxes": "boxes in images",
    "pixels": "pixels of images",
    "sequences": "sequences",
    "language": "large vocabularies",
    "teachers": "another model's output",
    "embeddings": "directions and embeddings",
    "ranks": "the order of a list",
    "preferences": "answers that people prefer",
}

# ---------------------------------------------------------------------------------------------------------------------
# Curves

ONE_HOT = np.eye(3, dtype=np.float32)[0]
SQUARE = np.array([0.0, 0.0, 2.0, 2.0], np.float32)
FLAT = np.array([-0.5, 0.5, 2.5, 1.5], np.float32)
MASK = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)  # of the pixels of an image, for one class


def along(loss: Callable[..., Array], y: Any, low: float, high: float, option: str = "", *values: Any) -> Curve:
    """The prediction moves, the target stays."""

    def of(x: Array, value: Any = None) -> Array:
        return loss(y, x, **({option: value} if option else {}))

    return Curve(of, low, high, f"prediction (the target is {y:g})", option, values)


def logits(loss: Callable[..., Array], y: Any, option: str = "", *values: Any, **fixed: Any) -> Curve:
    """The logit of the right one of three classes moves; the others are 0."""

    def of(x: Array, value: Any = None) -> Array:
        return loss(y, x * ONE_HOT, **fixed, **({option: value} if option else {}))

    return Curve(of, -6, 6, "logit of the right class (the others are 0)", option, values)


def moved(loss: Callable[..., Array], option: str = "", *values: Any, **fixed: Any) -> Curve:
    """A flat box moves across the target, a square: so size and aspect count as well."""

    def of(x: Array, value: Any = None) -> Array:
        box = FLAT + jnp.stack([x, jnp.zeros_like(x)] * 2)
        return loss(SQUARE, box, **fixed, **({option: value} if option else {}))

    return Curve(of, -3, 3, "horizontal offset of a box of 3 x 1 (the target is 2 x 2)", option, values)


def pixels(loss: Callable[..., Array], option: str = "", *values: Any, scores: bool = False, **fixed: Any) -> Curve:
    """The pixels of a class get a probability (or score), all others its opposite."""

    def of(x: Array, value: Any = None) -> Array:
        image = x * (2 * MASK - 1) if scores else x * MASK + (1 - x) * (1 - MASK)
        return loss(MASK[:, None], image[:, None], axis=0, **fixed, **({option: value} if option else {}))

    thing = "score" if scores else "probability"
    return Curve(
        of, -2 if scores else 0, 2 if scores else 1, f"{thing} of the right answer in each pixel", option, values
    )


def two(loss: Callable[..., Array], option: str = "", *values: Any) -> Curve:
    """The share of the first of two classes moves."""

    def of(x: Array, value: Any = None) -> Array:
        return loss(np.array([0.7, 0.3], np.float32), jnp.stack([x, 1 - x]), **({option: value} if option else {}))

    return Curve(
        of, 0.01, 0.99, "predicted probability of the first of two classes (the target is 0.7)", option, values
    )


def scale(loss: Callable[..., Array], name: str) -> Curve:
    return Curve(lambda x, s: loss(0.0, x, s), -4, 4, "prediction (the target is 0)", name, (0.5, 1.0, 2.0))


def distilled(x: Array, temperature: Any) -> Array:
    return jl.distillation(np.array([2.0, 0.0, 0.0], np.float32), x * ONE_HOT, temperature=temperature)


def spelled(x: Array) -> Array:
    path = np.eye(3, dtype=np.float32)[[1, 0, 2, 0]]  # the first label, a blank, the second, a blank
    return jl.ctc(np.array([1, 2]), x * path)


def transduced(x: Array) -> Array:
    """Three frames and two labels: each is said at the first frame, then all frames are read."""
    right = np.zeros((3, 3, 3), np.float32)
    right[0, 0, 1] = right[0, 1, 2] = 1
    right[:, 2, 0] = 1
    return jl.rnnt(np.array([1, 2]), x * right)


def scored(x: Array, smoothing: Any) -> Array:
    hidden = np.ones((1, 1), np.float32)
    return jl.linear_cce(np.array([0]), hidden, x * ONE_HOT[None], label_smoothing=smoothing)


def several(loss: Callable[..., Array], option: str = "", *values: Any, **fixed: Any) -> Curve:
    """The first two of three labels are right; the logit of both moves against a third of 0."""
    y = np.array([1, 1, 0], np.float32)

    def of(x: Array, value: Any = None) -> Array:
        return loss(y, x * y, **fixed, **({option: value} if option else {}))

    return Curve(of, -4, 4, "scores of the two right labels (the wrong one has 0)", option, values)


def angle(x: Array) -> Array:
    return jl.cosine_distance(np.array([1.0, 0.0], np.float32), jnp.stack([jnp.cos(x), jnp.sin(x)]))


METRIC, RANKS, PREFERENCES = (("embeddings",), ("ranks",), ("preferences",))
GAIN = "by how much the chosen answer gained over the other"
EAST = np.array([1.0, 0.0], np.float32)
FOUR = np.array([0.0, 0.5, 1.0, 1.5], np.float32) * np.pi  # directions of four embeddings, each with its partner
RELEVANCE = np.array([2.0, 1.0, 0.0, 0.0], np.float32)


def turned(x: Any, places: Any = (0.0, np.pi / 2)) -> Array:
    """Embeddings in some directions, by default two, turned by an angle."""
    angles = jnp.asarray(places) + x
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)


def half_turned(loss: Callable[..., Array], option: str, *values: float) -> Curve:
    """Two labels, one embedding of each turned, the others where they were."""
    labels = np.array([0, 0, 1, 1])

    def of(x: Array, value: float) -> Array:
        return loss(labels, jnp.concatenate([turned(x), turned(0.0)]), **{option: value})

    return Curve(of, -np.pi, np.pi, "angle by which half of the embeddings are turned", option, values)


def batch(loss: Callable[..., Array], *temperatures: float) -> Curve:
    """Four pairs of embeddings; the second ones are turned away from the first."""

    def of(x: Array, value: Any) -> Array:
        first, second = (jnp.stack([jnp.cos(a), jnp.sin(a)], -1) for a in (FOUR, FOUR + x))
        return loss(first, second, temperature=value)

    return Curve(of, -np.pi, np.pi, "angle by which the second embeddings are turned", "temperature", temperatures)


def ranked(loss: Callable[..., Array], option: str = "", *values: Any) -> Curve:
    """The score of the most relevant of four items moves; the others have 0.5, 0 and -0.5."""
    others = np.array([0.0, 0.5, 0.0, -0.5], np.float32)

    def of(x: Array, value: Any = None) -> Array:
        scores = x * np.eye(4, dtype=np.float32)[0] + others
        return loss(RELEVANCE, scores, **({option: value} if option else {}))

    return Curve(of, -4, 4, "score of the most relevant of four items", option, values)


# ---------------------------------------------------------------------------------------------------------------------
# Cards, by family

REGRESSION, CLASSES, LABELS, BOXES, PIXELS = (
    (name,) for name in ("regression", "classes", "labels", "boxes", "pixels")
)
ROBUST = ("regression", "noise")
LOGITS = {"from_logits": True}
IOU = r"1 - \mathrm{IoU}"
CENTRES = r"\frac{\rho^2}{c^2}"

CARDS: dict[str, Card] = {
    # classification
    "bce": Card(
        r"-y \log p - (1 - y) \log (1 - p)",
        "each output is a yes or no of its own: two classes, or many labels that do not exclude one another",
        LABELS,
        ("cce", "binary_focal", "soft_margin"),
        Curve(
            lambda x, a: jl.bce(1.0, x, from_logits=True, label_smoothing=a),
            -6,
            6,
            "logit (the target is 1)",
            "label_smoothing",
            (0.0, 0.1, 0.3),
        ),
    ),
    "cce": Card(
        r"-\sum_k y_k \log p_k",
        "each example has one class, and the targets are one-hot or soft",
        CLASSES,
        ("sparse_cce", "categorical_focal", "kl_divergence"),
        logits(jl.cce, ONE_HOT, "label_smoothing", 0.0, 0.1, 0.3, **LOGITS),
    ),
    "sparse_cce": Card(
        r"-\log p_y = \log \sum_k e^{z_k} - z_y",
        "each example has one class, and the targets are integers: the usual choice for classification",
        CLASSES,
        ("cce", "linear_cce", "sparse_focal"),
        logits(jl.sparse_cce, 0, "label_smoothing", 0.0, 0.1, 0.3, **LOGITS),
    ),
    "nll": Card(
        r"-w_y \log p_y",
        "the model already returns log-probabilities",
        CLASSES,
        ("sparse_cce", "cce"),
        Curve(
            lambda x: jl.nll(0, jnp.stack([jnp.log(x), jnp.log1p(-x)])), 0.01, 0.99, "probability of the right class"
        ),
    ),
    # focal
    "binary_focal": Card(
        r"-\alpha_t (1 - p_t)^\gamma \log p_t, \quad p_t = p y + (1 - p)(1 - y)",
        "easy negatives outnumber what is looked for, as the anchors of a detector do",
        ("labels", "imbalance"),
        ("bce", "categorical_focal"),
        Curve(
            lambda x, g: jl.binary_focal(1.0, x, from_logits=True, gamma=g),
            -6,
            6,
            "logit (the target is 1)",
            "gamma",
            (0.0, 2.0, 5.0),
        ),
    ),
    "categorical_focal": Card(
        r"-\sum_k \alpha_k y_k (1 - p_k)^\gamma \log p_k",
        "classes are rare, the easy examples are many, and the targets are one-hot or soft",
        ("classes", "imbalance"),
        ("sparse_focal", "cce", "poly1"),
        logits(jl.categorical_focal, ONE_HOT, "gamma", 0.0, 2.0, 5.0, **LOGITS),
    ),
    "sparse_focal": Card(
        r"-\alpha_y (1 - p_y)^\gamma \log p_y",
        "classes are rare, the easy examples are many, and the targets are integers",
        ("classes", "imbalance"),
        ("categorical_focal", "sparse_cce"),
        logits(jl.sparse_focal, 0, "gamma", 0.0, 2.0, 5.0, **LOGITS),
    ),
    "poly1": Card(
        r"\sum_k y_k \left(-\log p_k + \epsilon (1 - p_k)\right)",
        "cross-entropy is almost right and one more number may be tuned",
        CLASSES,
        ("sparse_poly1", "cce"),
        logits(jl.poly1, ONE_HOT, "epsilon", 0.0, 1.0, 4.0, **LOGITS),
    ),
    "sparse_poly1": Card(
        r"-\log p_y + \epsilon (1 - p_y)",
        "as for `poly1`, with integer labels",
        CLASSES,
        ("poly1", "sparse_cce"),
        logits(jl.sparse_poly1, 0, "epsilon", 0.0, 1.0, 4.0, **LOGITS),
    ),
    "generalized_cce": Card(
        r"\sum_k y_k \frac{1 - p_k^q}{q}",
        "some labels are wrong: the larger the power, the less a confident contradiction counts",
        ("classes", "noise"),
        ("sparse_generalized_cce", "cce"),
        logits(jl.generalized_cce, ONE_HOT, "power", 0.1, 0.7, 1.0, **LOGITS),
    ),
    "sparse_generalized_cce": Card(
        r"\frac{1 - p_y^q}{q}",
        "some integer labels are wrong",
        ("classes", "noise"),
        ("generalized_cce", "sparse_cce"),
        logits(jl.sparse_generalized_cce, 0, "power", 0.1, 0.7, 1.0, **LOGITS),
    ),
    # margin
    "hinge": Card(
        r"\max(0, m - y z)",
        "a margin is wanted rather than a probability, as in a support vector machine",
        LABELS,
        ("squared_hinge", "soft_margin", "perceptron"),
        along(jl.hinge, 1.0, -3, 3, "margin", 0.5, 1.0, 2.0),
    ),
    "squared_hinge": Card(
        r"\max(0, m - y z)^2",
        "a margin is wanted and the loss shall be smooth at it",
        LABELS,
        ("hinge", "soft_margin"),
        along(jl.squared_hinge, 1.0, -3, 3, "margin", 0.5, 1.0, 2.0),
    ),
    "perceptron": Card(
        r"\max(0, -y z)",
        "only the sign of the score matters",
        LABELS,
        ("hinge", "soft_margin"),
        along(jl.perceptron, 1.0, -3, 3),
    ),
    "soft_margin": Card(
        r"\log\left(1 + e^{-y z}\right)",
        "the targets are -1 and 1 and the scores are logits: `bce` in other letters",
        LABELS,
        ("bce", "hinge"),
        along(jl.soft_margin, 1.0, -6, 6),
    ),
    "sparsemax": Card(
        r"r (r + z - c), \quad c = \mathrm{clip}(z, -1, 1), \quad r = \frac{c + 1}{2} - y",
        "probabilities shall be able to be exactly 0 and 1",
        LABELS,
        ("bce", "squared_hinge"),
        along(jl.sparsemax, 1.0, -3, 3),
    ),
    "categorical_hinge": Card(
        r"\max\left(0, m + \max_{k \ne y} z_k - z_y\right)",
        "the right class shall beat the best wrong one by a margin",
        CLASSES,
        ("multi_margin", "cce"),
        logits(jl.categorical_hinge, ONE_HOT, "margin", 0.5, 1.0, 2.0),
    ),
    "multi_margin": Card(
        r"\frac{1}{K} \sum_{k \ne y} \max(0, m - z_y + z_k)^q",
        "the right class shall beat every wrong one by a margin, and the targets are integers",
        CLASSES,
        ("categorical_hinge", "sparse_cce"),
        logits(jl.multi_margin, 0, "margin", 0.5, 1.0, 2.0),
    ),
    "multilabel_margin": Card(
        r"\frac{1}{K} \sum_{j \in y} \sum_{k \notin y} \max(0, 1 - z_j + z_k)",
        "every label of an example shall beat every other one by a margin",
        LABELS,
        ("multilabel_soft_margin", "multi_margin"),
        several(jl.multilabel_margin),
    ),
    "multilabel_soft_margin": Card(
        r"-\frac{1}{K} \sum_k y_k \log p_k + (1 - y_k) \log (1 - p_k), \quad p = \sigma(z)",
        "an example has several labels and counts once, however many classes there are",
        LABELS,
        ("bce", "multilabel_margin"),
        several(jl.multilabel_soft_margin),
    ),
    # divergence
    "kl_divergence": Card(
        r"\sum_k q_k \log \frac{q_k}{p_k}",
        "the target is a distribution and 0 shall mean equal",
        ("classes", "teachers"),
        ("js_divergence", "cce", "distillation"),
        two(jl.kl_divergence),
    ),
    "js_divergence": Card(
        r"w\, \mathrm{KL}(q, m) + (1 - w)\, \mathrm{KL}(p, m), \quad m = w q + (1 - w) p",
        "two distributions are compared and neither may make the loss infinite",
        ("classes", "teachers"),
        ("kl_divergence", "total_variation"),
        two(jl.js_divergence, "weight", 0.1, 0.5, 0.9),
    ),
    "total_variation": Card(
        r"\frac{1}{2} \sum_k \lvert q_k - p_k \rvert",
        "the largest difference of the probability of any event is meant",
        ("classes", "teachers"),
        ("js_divergence", "mae"),
        two(jl.total_variation),
    ),
    "distillation": Card(
        r"T^2\, \mathrm{KL}\left(\mathrm{softmax}(z_\mathrm{teacher} / T),\ \mathrm{softmax}(z / T)\right)",
        "a small model learns from the logits of a large one",
        ("classes", "teachers"),
        ("kl_divergence", "cce"),
        Curve(distilled, -4, 8, "logit of the first class (that of the teacher is 2)", "temperature", (1.0, 2.0, 4.0)),
    ),
    # regression
    "mse": Card(
        r"e^2, \quad e = \hat y - y",
        "errors are many, small and of one scale; its minimum is the mean",
        REGRESSION,
        ("mae", "huber", "gaussian_nll"),
        along(jl.mse, 0.0, -3, 3),
    ),
    "mae": Card(
        r"\lvert e \rvert",
        "large errors shall not count more than in proportion; its minimum is the median",
        ROBUST,
        ("mse", "huber", "quantile"),
        along(jl.mae, 0.0, -3, 3),
    ),
    "huber": Card(
        r"\begin{cases} \frac{1}{2} e^2 & \lvert e \rvert \le \delta \\ "
        r"\delta \left(\lvert e \rvert - \frac{1}{2} \delta\right) & \text{else} \end{cases}",
        "most errors are small and some are outliers",
        ROBUST,
        ("smooth_l1", "log_cosh", "charbonnier"),
        along(jl.huber, 0.0, -3, 3, "delta", 0.25, 1.0, 2.0),
    ),
    "smooth_l1": Card(
        r"\begin{cases} \frac{e^2}{2 \beta} & \lvert e \rvert < \beta \\ "
        r"\lvert e \rvert - \frac{1}{2} \beta & \text{else} \end{cases}",
        "the slope far away shall stay 1, whatever beta is: box offsets of detectors",
        ROBUST,
        ("huber", "balanced_l1", "mae"),
        along(jl.smooth_l1, 0.0, -3, 3, "beta", 0.25, 1.0, 2.0),
    ),
    "balanced_l1": Card(
        r"\begin{cases} \frac{\alpha}{b} (b \lvert e \rvert + \beta) \log(1 + b \lvert e \rvert / \beta)"
        r" - \alpha \lvert e \rvert"
        r" & \lvert e \rvert < \beta \\ \gamma \lvert e \rvert + \frac{\gamma \beta}{b} - \alpha \beta"
        r" & \text{else} \end{cases}"
        r" \quad b = e^{\gamma / \alpha} - 1",
        "accurate boxes shall count more than in `smooth_l1`, and outliers no more",
        ROBUST,
        ("smooth_l1", "huber"),
        along(jl.balanced_l1, 0.0, -3, 3, "alpha", 0.25, 0.5, 1.5),
    ),
    "log_cosh": Card(
        r"\log \cosh e",
        "`huber` is meant, with derivatives of every order",
        ROBUST,
        ("huber", "charbonnier"),
        along(jl.log_cosh, 0.0, -3, 3),
    ),
    "quantile": Card(
        r"\begin{cases} q \lvert e \rvert & \hat y < y \\ (1 - q) \lvert e \rvert & \text{else} \end{cases}",
        "a quantile is predicted, or several for an interval",
        ("regression", "uncertainty"),
        ("expectile", "mae"),
        along(jl.quantile, 0.0, -3, 3, "level", 0.1, 0.5, 0.9),
    ),
    "expectile": Card(
        r"\begin{cases} q e^2 & \hat y < y \\ (1 - q) e^2 & \text{else} \end{cases}",
        "too low and too high cost differently, and the loss shall be smooth",
        ("regression", "uncertainty"),
        ("quantile", "mse"),
        along(jl.expectile, 0.0, -3, 3, "level", 0.1, 0.5, 0.9),
    ),
    # robust
    "barron": Card(
        r"\frac{b}{\alpha} \left( \left( \frac{(e / c)^2}{b} + 1 \right)^{\alpha / 2} - 1 \right),"
        r" \quad b = \lvert \alpha - 2 \rvert",
        "how robust to be shall be tuned or learned: one number leads from `mse` to `welsch`",
        ROBUST,
        ("charbonnier", "cauchy", "welsch"),
        along(jl.barron, 0.0, -4, 4, "alpha", -2.0, 0.5, 2.0),
    ),
    "charbonnier": Card(
        r"\sqrt{(e / c)^2 + 1} - 1",
        "`mae` is meant, smooth at 0: image restoration",
        ROBUST,
        ("barron", "huber", "log_cosh"),
        along(jl.charbonnier, 0.0, -4, 4, "scale", 0.25, 1.0, 2.0),
    ),
    "cauchy": Card(
        r"\log\left(\frac{1}{2} (e / c)^2 + 1\right)",
        "outliers are frequent and far away",
        ROBUST,
        ("barron", "student_t_nll", "welsch"),
        along(jl.cauchy, 0.0, -4, 4, "scale", 0.25, 1.0, 2.0),
    ),
    "welsch": Card(
        r"1 - e^{-(e / c)^2 / 2}",
        "outliers shall count for nothing at all",
        ROBUST,
        ("barron", "cauchy"),
        along(jl.welsch, 0.0, -4, 4, "scale", 0.25, 1.0, 2.0),
    ),
    # relative
    "mape": Card(
        r"100 \frac{\lvert \hat y - y \rvert}{\max(\lvert y \rvert, \epsilon)}",
        "an error is judged in percent of targets that are well away from 0",
        REGRESSION,
        ("smape", "msle"),
        along(jl.mape, 1.0, -1, 3),
    ),
    "smape": Card(
        r"200 \frac{\lvert \hat y - y \rvert}{\max(\lvert y \rvert + \lvert \hat y \rvert, \epsilon)}",
        "forecasts are compared in percent, bounded by 200",
        REGRESSION,
        ("mape", "msle"),
        along(jl.smape, 1.0, -1, 3),
    ),
    "msle": Card(
        r"\left(\log(1 + \hat y) - \log(1 + y)\right)^2",
        "targets are amounts over several orders of magnitude",
        ("regression", "counts"),
        ("mape", "poisson_nll"),
        along(jl.msle, 3.0, -0.9, 10),
    ),
    "cosine_distance": Card(
        r"1 - \frac{\langle y, \hat y \rangle}{\lVert y \rVert\, \lVert \hat y \rVert}",
        "only the direction of a vector matters",
        ("embeddings",),
        ("mse",),
        Curve(angle, -np.pi, np.pi, "angle between the two vectors"),
    ),
    # likelihood
    "gaussian_nll": Card(
        r"\frac{1}{2} \left( \log \sigma^2 + \frac{(y - \mu)^2}{\sigma^2} \right)",
        "the model shall also say how sure it is",
        ("regression", "uncertainty"),
        ("laplace_nll", "student_t_nll", "mse"),
        scale(jl.gaussian_nll, "variance"),
    ),
    "laplace_nll": Card(
        r"\log b + \frac{\lvert y - \mu \rvert}{b}",
        "the model shall say how sure it is, and errors have heavier tails than a Gaussian's",
        ("regression", "uncertainty", "noise"),
        ("gaussian_nll", "student_t_nll", "mae"),
        scale(jl.laplace_nll, "scale"),
    ),
    "student_t_nll": Card(
        r"\log s + \frac{\nu + 1}{2} \log\left(1 + \frac{(y - \mu)^2}{\nu s^2}\right)",
        "the model shall say how sure it is in spite of outliers",
        ("regression", "uncertainty", "noise"),
        ("gaussian_nll", "cauchy"),
        Curve(
            lambda x, df: jl.student_t_nll(0.0, x, 1.0, df=df),
            -6,
            6,
            "prediction (the target is 0)",
            "df",
            (1.0, 4.0, 30.0),
        ),
    ),
    # counts
    "poisson_nll": Card(
        r"\lambda - y \log \lambda",
        "targets are counts",
        ("counts",),
        ("negative_binomial_nll", "tweedie"),
        along(jl.poisson_nll, 3.0, 0.05, 10),
    ),
    "negative_binomial_nll": Card(
        r"\log \Gamma(n) - \log \Gamma(n + y) - n \log \frac{n}{n + \mu} - y \log \frac{\mu}{n + \mu},"
        r" \quad n = 1 / d",
        "counts vary more than a Poisson distribution says",
        ("counts", "uncertainty"),
        ("poisson_nll", "tweedie"),
        Curve(
            lambda x, d: jl.negative_binomial_nll(3.0, x, d),
            0.05,
            10,
            "mean (the target is 3)",
            "dispersion",
            (0.1, 0.5, 2.0),
        ),
    ),
    "tweedie": Card(
        r"\frac{\mu^{2 - p}}{2 - p} - y \frac{\mu^{1 - p}}{1 - p}",
        "amounts are often exactly 0 and else positive: claims, rain, sales",
        ("counts",),
        ("poisson_nll", "negative_binomial_nll"),
        along(jl.tweedie, 3.0, 0.3, 10, "power", 1.2, 1.5, 1.8),
    ),
    # boxes
    "iou": Card(
        IOU + r", \quad \mathrm{IoU} = \frac{I}{U}",
        "boxes overlap already, or as what is measured in the end",
        BOXES,
        ("giou", "diou"),
        moved(jl.iou),
    ),
    "iou_log": Card(
        r"-\log \mathrm{IoU}", "all boxes overlap, as dense detectors see to", BOXES, ("iou", "giou"), moved(jl.iou_log)
    ),
    "giou": Card(
        IOU + r" + \frac{\lvert C \rvert - U}{\lvert C \rvert}",
        "boxes may lie apart",
        BOXES,
        ("diou", "ciou", "iou"),
        moved(jl.giou),
    ),
    "diou": Card(
        IOU + " + " + CENTRES,
        "boxes may lie apart and shall come together fast",
        BOXES,
        ("ciou", "giou"),
        moved(jl.diou),
    ),
    "ciou": Card(
        IOU + " + " + CENTRES + r" + \alpha v, \quad v = \frac{4}{\pi^2} \left(\arctan \frac{w_g}{h_g} -"
        r" \arctan \frac{w}{h}\right)^2",
        "boxes are fitted: the usual choice of detectors",
        BOXES,
        ("diou", "eiou", "siou"),
        moved(jl.ciou),
    ),
    "eiou": Card(
        IOU + " + " + CENTRES + r" + \frac{(w - w_g)^2}{c_w^2} + \frac{(h - h_g)^2}{c_h^2}",
        "width and height shall be fitted as such, not their ratio",
        BOXES,
        ("ciou", "focal_eiou"),
        moved(jl.eiou),
    ),
    "focal_eiou": Card(
        r"\mathrm{IoU}^\gamma\, \mathrm{EIoU}",
        "many boxes are bad and the good ones shall count more",
        BOXES,
        ("eiou", "wiou_v3"),
        moved(jl.focal_eiou, "gamma", 0.1, 0.5, 2.0),
    ),
    "alpha_iou": Card(
        r"1 - \mathrm{IoU}^a + P^a",
        "boxes shall fit tightly: a power above 1 weighs the good ones up",
        BOXES,
        ("iou", "ciou"),
        moved(jl.alpha_iou, "power", 1.0, 2.0, 3.0),
    ),
    "siou": Card(
        IOU + r" + \frac{\Delta + \Omega}{2}",
        "the direction from one centre to the other shall count",
        BOXES,
        ("ciou", "eiou"),
        moved(jl.siou),
    ),
    "wiou_v1": Card(
        r"e^{\rho^2 / c^2} (1 - \mathrm{IoU})",
        "far boxes shall count more than near ones",
        BOXES,
        ("wiou_v2", "wiou_v3", "diou"),
        moved(jl.wiou_v1),
    ),
    "wiou_v2": Card(
        r"\left(\frac{1 - \mathrm{IoU}}{\text{mean}}\right)^\gamma \mathrm{WIoU}_{v1}",
        "hard boxes shall count more, measured by the running mean",
        BOXES,
        ("wiou_v1", "wiou_v3", "focal_eiou"),
        moved(jl.wiou_v2, "gamma", 0.0, 0.5, 1.0, iou_loss_mean=0.6),
    ),
    "wiou_v3": Card(
        r"\frac{b}{\delta \alpha^{b - \delta}} \mathrm{WIoU}_{v1}, \quad b = \frac{1 - \mathrm{IoU}}{\text{mean}}",
        "labels are uneven: very good and very bad boxes shall count little",
        BOXES,
        ("wiou_v1", "wiou_v2"),
        moved(jl.wiou_v3, "alpha", 1.4, 1.9, 2.5, iou_loss_mean=0.6),
    ),
    # segmentation
    "dice": Card(
        r"1 - \frac{2 \sum y p + 2 s}{\sum y + \sum p + 2 s}",
        "the object is small in the image and its overlap is what counts",
        ("pixels", "imbalance"),
        ("tversky", "generalized_dice", "jaccard"),
        pixels(jl.dice, "smooth", 0.0, 1.0, 4.0),
    ),
    "tversky": Card(
        r"1 - \frac{TP + s}{TP + \alpha FP + \beta FN + s}",
        "missing an object and finding one that is not there cost differently",
        ("pixels", "imbalance"),
        ("dice", "focal_tversky"),
        pixels(jl.tversky, "alpha", 0.1, 0.5, 0.9),
    ),
    "focal_tversky": Card(
        r"\mathrm{Tversky}^{1 / \gamma}",
        "small lesions: what fits well already shall still be pulled",
        ("pixels", "imbalance"),
        ("tversky", "dice"),
        pixels(jl.focal_tversky, "gamma", 1.0, 4 / 3, 3.0),
    ),
    "jaccard": Card(
        r"1 - \frac{TP + s}{TP + FP + FN + s}",
        "the result is judged by its IoU",
        PIXELS,
        ("dice", "lovasz_softmax"),
        pixels(jl.jaccard, "smooth", 0.0, 1.0, 4.0),
    ),
    "generalized_dice": Card(
        r"1 - \frac{2 \sum_k w_k TP_k}{\sum_k w_k (\sum y_k + \sum p_k)}, \quad w_k = \frac{1}{(\sum y_k)^2}",
        "classes of very different size are segmented together",
        ("pixels", "imbalance"),
        ("dice", "tversky"),
        Curve(
            lambda x: jl.generalized_dice(
                jnp.stack([MASK, 1 - MASK], -1),
                jnp.stack([x * MASK + (1 - x) * (1 - MASK), (1 - x) * MASK + x * (1 - MASK)], -1),
                axis=0,
            ),
            0,
            1,
            "probability of the right answer in each pixel",
        ),
    ),
    "lovasz_hinge": Card(
        r"\sum_i e_{(i)} (J_i - J_{i - 1}), \quad e = \max(0, 1 - (2 y - 1) z)",
        "IoU itself is trained, from scores, for one class",
        PIXELS,
        ("lovasz_softmax", "jaccard"),
        pixels(jl.lovasz_hinge, scores=True),
    ),
    "lovasz_softmax": Card(
        r"\sum_i e_{(i)} (J_i - J_{i - 1}), \quad e = \lvert y - p \rvert",
        "IoU itself is trained, for many classes",
        PIXELS,
        ("lovasz_hinge", "jaccard"),
        pixels(jl.lovasz_softmax),
    ),
    # sequence
    "ctc": Card(
        r"-\log \sum_{\pi \in B^{-1}(y)} \prod_t p_t(\pi_t)",
        "labels are in order but it is not known where: speech, handwriting",
        ("sequences",),
        ("rnnt", "sparse_cce"),
        Curve(spelled, -4, 6, "logit of the right class in each frame"),
    ),
    "rnnt": Card(
        r"-\log \sum_{\text{paths}} \prod p",
        "speech is transcribed as it is heard, and labels depend on those before",
        ("sequences",),
        ("ctc",),
        Curve(transduced, -4, 6, "logit of the right step"),
    ),
    # linear
    "linear_cce": Card(
        r"\log \sum_k e^{h w_k + b_k} - (h w_y + b_y)",
        "the vocabulary is so large that the logits do not fit into memory",
        ("classes", "language"),
        ("sparse_cce",),
        Curve(scored, -6, 6, "logit of the right word (the others are 0)", "label_smoothing", (0.0, 0.1, 0.3)),
    ),
    # metric
    "triplet": Card(
        r"\max\left(0,\ m + d(a, p) - d(a, n)\right)",
        "an anchor shall be nearer to its like than to another, by a margin",
        METRIC,
        ("contrastive", "info_nce", "margin_ranking"),
        Curve(
            lambda x, m: jl.triplet(x * EAST, np.zeros(2, np.float32), 2 * EAST, margin=m),
            -2,
            4,
            "place of the anchor between its like, at 0, and the other, at 2",
            "margin",
            (0.2, 1.0, 2.0),
        ),
    ),
    "contrastive": Card(
        r"\frac{1}{2} y\, d^2 + \frac{1}{2} (1 - y) \max(0, m - d)^2",
        "pairs are labelled as like or unlike",
        METRIC,
        ("triplet", "cosine_embedding", "hinge_embedding"),
        Curve(
            lambda x, m: jl.contrastive(0, np.zeros(2, np.float32), x * EAST, margin=m),
            0.01,
            3,
            "distance of an unlike pair",
            "margin",
            (0.5, 1.0, 2.0),
        ),
    ),
    "cosine_embedding": Card(
        r"\begin{cases} 1 - \cos & y = 1 \\ \max(0, \cos - m) & y = -1 \end{cases}",
        "pairs are labelled as like or unlike and only directions matter",
        METRIC,
        ("cosine_distance", "contrastive"),
        Curve(
            lambda x, m: jl.cosine_embedding(-1, EAST, jnp.stack([jnp.cos(x), jnp.sin(x)]), margin=m),
            -np.pi,
            np.pi,
            "angle of an unlike pair",
            "margin",
            (0.0, 0.3, 0.6),
        ),
    ),
    "hinge_embedding": Card(
        r"\begin{cases} d & y = 1 \\ \max(0, m - d) & y = -1 \end{cases}",
        "distances are given, with labels of like and unlike",
        METRIC,
        ("contrastive", "hinge"),
        Curve(
            lambda x, m: jl.hinge_embedding(-1.0, x, margin=m),
            0,
            3,
            "distance of an unlike pair",
            "margin",
            (0.5, 1.0, 2.0),
        ),
    ),
    "margin_ranking": Card(
        r"\max\left(0,\ m - y (s_1 - s_2)\right)",
        "the first of two scores shall be above the second, or below it",
        ("embeddings", "ranks"),
        ("pairwise_hinge", "triplet"),
        Curve(
            lambda x, m: jl.margin_ranking(1.0, x, 0.0, margin=m),
            -3,
            3,
            "by how much the first score is above the second",
            "margin",
            (0.0, 0.5, 1.0),
        ),
    ),
    "byol": Card(
        r"2 - 2 \cos(y, \hat y)",
        "one network predicts the embedding of another, which is not trained by it",
        ("embeddings", "teachers"),
        ("cosine_distance", "nt_xent"),
        Curve(
            lambda x: jl.byol(EAST, jnp.stack([jnp.cos(x), jnp.sin(x)])),
            -np.pi,
            np.pi,
            "angle between the two embeddings",
        ),
    ),
    "info_nce": Card(
        r"-\log \frac{e^{q_i \cdot k_i / T}}{\sum_j e^{q_i \cdot k_j / T}}",
        "each query shall find its key among those of the batch",
        METRIC,
        ("clip", "nt_xent", "sparse_cce"),
        batch(jl.info_nce, 0.1, 0.3, 1.0),
    ),
    "clip": Card(
        r"\frac{1}{2} \left(\mathrm{InfoNCE}(a, b) + \mathrm{InfoNCE}(b, a)\right)",
        "images and texts shall find each other",
        METRIC,
        ("siglip", "info_nce"),
        batch(jl.clip, 0.1, 0.3, 1.0),
    ),
    "siglip": Card(
        r"\sum_j \log\left(1 + e^{-s_{ij} (a_i \cdot b_j / T + b)}\right), \quad s_{ii} = 1,\ s_{ij} = -1",
        "images and texts shall find each other, and the batch is split over many devices",
        METRIC,
        ("clip", "soft_margin"),
        batch(jl.siglip, 0.1, 0.3, 1.0),
    ),
    "nt_xent": Card(
        r"-\log \frac{e^{\cos(v_i, v_{i'}) / T}}{\sum_{j \ne i} e^{\cos(v_i, v_j) / T}}",
        "two views of each example shall find each other, without labels (SimCLR)",
        METRIC,
        ("info_nce", "sup_con", "byol"),
        batch(jl.nt_xent, 0.1, 0.5, 1.0),
    ),
    "sup_con": Card(
        r"-\frac{1}{\lvert P_i \rvert} \sum_{p \in P_i} \log"
        r" \frac{e^{\cos(v_i, v_p) / T}}{\sum_{j \ne i} e^{\cos(v_i, v_j) / T}}",
        "embeddings of the same label shall come together",
        METRIC,
        ("nt_xent", "multi_similarity", "triplet"),
        half_turned(jl.sup_con, "temperature", 0.1, 0.5, 1.0),
    ),
    "multi_similarity": Card(
        r"\frac{1}{\alpha} \log\left(1 + \sum_p e^{-\alpha (\cos_p - b)}\right)"
        r" + \frac{1}{\beta} \log\left(1 + \sum_n e^{\beta (\cos_n - b)}\right)",
        "embeddings of the same label shall come together, and the nearest of other labels matter most",
        METRIC,
        ("sup_con", "circle", "triplet"),
        half_turned(jl.multi_similarity, "beta", 2.0, 10.0, 50.0),
    ),
    "barlow_twins": Card(
        r"\sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2",
        "two views of each example shall have the same features, and these shall not repeat one another; no negatives",
        METRIC,
        ("vicreg", "nt_xent", "byol"),
        Curve(
            lambda x, r: jl.barlow_twins(turned(x, FOUR), turned(0.0, FOUR), redundancy=r),
            -np.pi,
            np.pi,
            "angle by which one view is turned",
            "redundancy",
            (0.005, 0.1, 0.5),
        ),
    ),
    "vicreg": Card(
        r"\lambda\, \mathrm{mse}"
        r" + \frac{\mu}{d} \sum_{Z} \sum_j \max\left(0, \gamma - \sqrt{\mathrm{Var}_j + \epsilon}\right)"
        r" + \frac{\nu}{d} \sum_{Z} \sum_{i \ne j} \mathrm{Cov}_{ij}^2",
        "two views of each example shall agree, with features that spread and do not repeat one another; no negatives",
        METRIC,
        ("barlow_twins", "byol"),
        Curve(
            lambda x, v: jl.vicreg(turned(x, FOUR), turned(0.0, FOUR), variance=v),
            -np.pi,
            np.pi,
            "angle by which one view is turned",
            "variance",
            (0.0, 25.0, 50.0),
        ),
    ),
    "circle": Card(
        r"\log\left(1 + \sum_n e^{\gamma a_n (\cos_n - m)} \sum_p e^{-\gamma a_p (\cos_p - 1 + m)}\right),"
        r"\quad a_n = \max(0, \cos_n + m),\ a_p = \max(0, 1 + m - \cos_p)",
        "embeddings of the same label shall come together, and the pairs that are farthest off matter most",
        METRIC,
        ("multi_similarity", "sup_con"),
        half_turned(jl.circle, "gamma", 2.0, 8.0, 32.0),
    ),
    # ranking
    "list_softmax": Card(
        r"-\sum_i y_i \log \mathrm{softmax}(z)_i",
        "few items of a list are relevant, as in search",
        RANKS,
        ("list_mle", "approx_ndcg", "cce"),
        ranked(jl.list_softmax),
    ),
    "ranknet": Card(
        r"\mathrm{mean}_{y_i > y_j} \log\left(1 + e^{-(z_i - z_j)}\right)",
        "the order of every pair counts the same",
        RANKS,
        ("pairwise_hinge", "lambda_rank", "soft_margin"),
        ranked(jl.ranknet),
    ),
    "pairwise_hinge": Card(
        r"\mathrm{mean}_{y_i > y_j} \max\left(0,\ m - (z_i - z_j)\right)",
        "pairs shall be in order by a margin, and then be left alone",
        RANKS,
        ("ranknet", "margin_ranking"),
        ranked(jl.pairwise_hinge, "margin", 0.5, 1.0, 2.0),
    ),
    "list_mle": Card(
        r"-\log \prod_i \frac{e^{z_{\pi_i}}}{\sum_{j \ge i} e^{z_{\pi_j}}}",
        "the order of the whole list is known",
        RANKS,
        ("list_softmax", "ranknet"),
        ranked(jl.list_mle),
    ),
    "approx_ndcg": Card(
        r"1 - \frac{1}{\mathrm{ideal}} \sum_i \frac{2^{y_i} - 1}{\log_2(1 + r_i)},"
        r" \quad r_i = 1 + \sum_{j \ne i} \sigma\left(\frac{z_j - z_i}{T}\right)",
        "NDCG is what is measured in the end",
        RANKS,
        ("lambda_rank", "list_softmax"),
        ranked(jl.approx_ndcg, "temperature", 0.3, 1.0, 3.0),
    ),
    "lambda_rank": Card(
        r"\sum_{y_i > y_j} \lvert \Delta \mathrm{NDCG}_{ij} \rvert \log\left(1 + e^{-(z_i - z_j)}\right)",
        "NDCG is what is measured, and pairs at the top shall count more",
        RANKS,
        ("approx_ndcg", "ranknet"),
        ranked(jl.lambda_rank),
    ),
    # preference
    "dpo": Card(
        r"-\log \sigma(\beta h), \quad h = (\log p_c - \log p_c^\mathrm{ref}) - (\log p_r - \log p_r^\mathrm{ref})",
        "a language model learns from pairs of answers, and a reference model is at hand",
        PREFERENCES,
        ("ipo", "simpo", "orpo"),
        Curve(lambda x, b: jl.dpo(x - 20, -20.0, -20.0, -20.0, beta=b), -10, 10, GAIN, "beta", (0.1, 0.3, 1.0)),
    ),
    "ipo": Card(
        r"\left(h - \frac{1}{2 \beta}\right)^2",
        "as for `dpo`, where pairs are few and it overfits",
        PREFERENCES,
        ("dpo",),
        Curve(lambda x, b: jl.ipo(x - 20, -20.0, -20.0, -20.0, beta=b), -10, 10, GAIN, "beta", (0.1, 0.2, 0.5)),
    ),
    "simpo": Card(
        r"-\log \sigma\left(\beta (s_c - s_r) - \gamma\right)",
        "no reference model fits into memory; the log-probabilities are means over tokens",
        PREFERENCES,
        ("dpo", "orpo"),
        Curve(
            lambda x, g: jl.simpo(x - 2, -2.0, gamma=g),
            -2,
            2,
            "by how much the chosen answer is more probable",
            "gamma",
            (0.0, 0.5, 2.0),
        ),
    ),
    "kto": Card(
        r"w\, \sigma\left(\mp \beta (\log p - \log p^\mathrm{ref} - \mathrm{kl})\right)",
        "each answer is marked good or bad by itself, without a partner",
        PREFERENCES,
        ("dpo",),
        Curve(
            lambda x, b: jl.kto(1, x - 20, -20.0, beta=b),
            -10,
            10,
            "by how much a good answer gained over the reference",
            "beta",
            (0.1, 0.3, 1.0),
        ),
    ),
    "orpo": Card(
        r"-\log p_c - \beta \log \sigma\left(\log \frac{p_c}{1 - p_c} - \log \frac{p_r}{1 - p_r}\right)",
        "fine-tuning and preferences are learned in one pass, without a reference",
        PREFERENCES,
        ("simpo", "dpo"),
        Curve(
            lambda x, b: jl.orpo(x, -1.0, beta=b),
            -4,
            -0.05,
            "log-probability of the chosen answer (the rejected one has -1)",
            "beta",
            (0.1, 0.5, 1.0),
        ),
    ),
    "grpo": Card(
        r"-\min\left(r A,\ \mathrm{clip}(r, 1 - \epsilon, 1 + \epsilon) A\right) + \beta\, \mathrm{KL},"
        r" \quad r = e^{\log p - \log p^\mathrm{old}}",
        "answers are scored by a reward and the policy may not run away from that which wrote them (PPO)",
        PREFERENCES,
        ("dpo",),
        Curve(
            lambda x, e: jl.grpo(1.0, x - 1, -1.0, epsilon=e),
            -1,
            0.95,
            "change of the log-probability (the advantage is 1)",
            "epsilon",
            (0.1, 0.2, 0.4),
        ),
    ),
}
