"""The losses as one would type them with jax.numpy, straight from the papers: what the benchmarks compare with.

Each gives one number a unit, is named as the loss of jaxloss that it stands for (with `_logits` where that has
`from_logits=True`), and guards nothing that its source does not guard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, log_softmax, sigmoid, softmax
from jax.scipy.special import gammaln, logsumexp, xlogy

EPS = 1e-7  # of the detection and segmentation toolboxes
Axis = int | tuple[int, ...]


def picked(x: Array, label: Array) -> Array:
    return jnp.take_along_axis(x, label[..., None], axis=-1)[..., 0]


def mean_where(where: Array, losses: Array) -> Array:
    return jnp.sum(jnp.where(where, losses, 0)) / jnp.maximum(jnp.sum(where), 1)


def shares(p: Array) -> Array:
    return p / jnp.sum(p, -1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------------------
# numbers


def mse(y: Array, p: Array) -> Array:
    return (p - y) ** 2


def mae(y: Array, p: Array) -> Array:
    return jnp.abs(p - y)


def huber(y: Array, p: Array, delta: float = 1.0) -> Array:
    e = jnp.abs(p - y)
    return jnp.where(e <= delta, e**2 / 2, delta * (e - delta / 2))


def smooth_l1(y: Array, p: Array, beta: float = 1.0) -> Array:
    return huber(y, p, beta) / beta


def balanced_l1(y: Array, p: Array, alpha: float = 0.5, gamma: float = 1.5) -> Array:
    e = jnp.abs(p - y)
    b = math.expm1(gamma / alpha)
    near = alpha / b * (b * e + 1) * jnp.log(b * e + 1) - alpha * e
    return jnp.where(e < 1, near, gamma * e + gamma / b - alpha)


def log_cosh(y: Array, p: Array) -> Array:
    return jnp.logaddexp(p - y, y - p) - math.log(2)


def quantile(y: Array, p: Array, level: float = 0.5) -> Array:
    return jnp.maximum(level * (y - p), (1 - level) * (p - y))


def expectile(y: Array, p: Array, level: float = 0.5) -> Array:
    return jnp.where(p < y, level, 1 - level) * (p - y) ** 2


def barron(y: Array, p: Array, alpha: float = 1.0, scale: float = 1.0) -> Array:
    b = abs(alpha - 2)
    return b / alpha * ((((p - y) / scale) ** 2 / b + 1) ** (alpha / 2) - 1)


def charbonnier(y: Array, p: Array, scale: float = 1.0) -> Array:
    return jnp.sqrt(((p - y) / scale) ** 2 + 1) - 1


def cauchy(y: Array, p: Array, scale: float = 1.0) -> Array:
    return jnp.log1p(((p - y) / scale) ** 2 / 2)


def welsch(y: Array, p: Array, scale: float = 1.0) -> Array:
    return 1 - jnp.exp(-(((p - y) / scale) ** 2) / 2)


def mape(y: Array, p: Array) -> Array:
    return 100 * jnp.abs(p - y) / jnp.maximum(jnp.abs(y), EPS)


def smape(y: Array, p: Array) -> Array:
    return 200 * jnp.abs(p - y) / jnp.maximum(jnp.abs(y) + jnp.abs(p), EPS)


def msle(y: Array, p: Array) -> Array:
    return (jnp.log1p(p) - jnp.log1p(y)) ** 2


def cosine_distance(y: Array, p: Array) -> Array:
    return 1 - jnp.sum(y * p, -1) / (jnp.linalg.norm(y, axis=-1) * jnp.linalg.norm(p, axis=-1))


# ---------------------------------------------------------------------------------------------------------------------
# embeddings


def norm(x: Array) -> Array:
    return jnp.linalg.norm(x, axis=-1)


def triplet(a: Array, p: Array, n: Array, margin: float = 1.0) -> Array:
    return jax.nn.relu(margin + norm(a - p) - norm(a - n))


def contrastive(y: Array, a: Array, b: Array, margin: float = 1.0) -> Array:
    d = norm(a - b)
    return y * d**2 / 2 + (1 - y) * jax.nn.relu(margin - d) ** 2 / 2


def cosine_embedding(y: Array, a: Array, b: Array) -> Array:
    cos = 1 - cosine_distance(a, b)
    return jnp.where(y == 1, 1 - cos, jax.nn.relu(cos))


def hinge_embedding(y: Array, d: Array, margin: float = 1.0) -> Array:
    return jnp.where(y == 1, d, jax.nn.relu(margin - d))


def margin_ranking(y: Array, a: Array, b: Array) -> Array:
    return jax.nn.relu(-y * (a - b))


def byol(y: Array, p: Array) -> Array:
    return 2 * cosine_distance(jax.lax.stop_gradient(y), p)


# Members of a set: (n, d). With a mask they give the mean, since it concerns the candidates, too.


def mean_of_members(losses: Array, where: Array | None) -> Array:
    return losses if where is None else mean_where(where, losses)


def candidates(z: Array, where: Array | None) -> Array:
    return z if where is None else jnp.where(where, z, -jnp.inf)


def info_nce(q: Array, k: Array, temperature: float = 0.07, where: Array | None = None) -> Array:
    z = q @ k.T / temperature
    return mean_of_members(-jnp.diagonal(log_softmax(candidates(z, where))), where)


def clip(a: Array, b: Array, where: Array | None = None) -> Array:
    return (info_nce(a, b, where=where) + info_nce(b, a, where=where)) / 2


def siglip(a: Array, b: Array, temperature: float = 0.1, bias: float = -10.0, where: Array | None = None) -> Array:
    signs = 2 * jnp.eye(len(a)) - 1
    surprise = -log_sigmoid(signs * (a @ b.T / temperature + bias))
    surprise = surprise if where is None else jnp.where(where, surprise, 0)
    return mean_of_members(jnp.sum(surprise, -1), where)


def nt_xent(a: Array, b: Array, temperature: float = 0.5, where: Array | None = None) -> Array:
    x = jnp.concatenate([a, b])
    x = x / norm(x)[:, None]
    both = None if where is None else jnp.concatenate([where, where])
    z = jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, candidates(x @ x.T / temperature, both))
    n = len(a)
    losses = -picked(log_softmax(z), (jnp.arange(2 * n) + n) % (2 * n))
    return mean_of_members((losses[:n] + losses[n:]) / 2, where)


def sup_con(labels: Array, x: Array, temperature: float = 0.1, where: Array | None = None) -> Array:
    x = x / norm(x)[:, None]
    other = ~jnp.eye(len(x), dtype=bool) & (True if where is None else where)
    alike = other & (labels[:, None] == labels)
    log_p = log_softmax(jnp.where(other, x @ x.T / temperature, -jnp.inf))
    count = jnp.sum(alike, -1)
    losses = -jnp.sum(jnp.where(alike, log_p, 0), -1) / jnp.maximum(count, 1)
    return mean_where((count > 0) & (True if where is None else where), losses)


def of_labels(labels: Array, x: Array, where: Array | None) -> tuple[Array, Array, Array]:
    x = x / norm(x)[:, None]
    exists = jnp.ones(len(x), bool) if where is None else where
    same = labels[:, None] == labels
    return x @ x.T, same & ~jnp.eye(len(x), dtype=bool) & exists, ~same & exists


def multi_similarity(
    labels: Array, x: Array, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, where: Array | None = None
) -> Array:
    s, alike, unlike = of_labels(labels, x, where)
    near = jnp.sum(jnp.where(alike, jnp.exp(-alpha * (s - base)), 0), -1)
    far = jnp.sum(jnp.where(unlike, jnp.exp(beta * (s - base)), 0), -1)
    return mean_of_members(jnp.log1p(near) / alpha + jnp.log1p(far) / beta, where)


def circle(labels: Array, x: Array, margin: float = 0.4, gamma: float = 80.0, where: Array | None = None) -> Array:
    s, alike, unlike = of_labels(labels, x, where)
    weights = [jax.lax.stop_gradient(jax.nn.relu(w)) for w in (1 + margin - s, s + margin)]
    near = logsumexp(jnp.where(alike, -gamma * weights[0] * (s - 1 + margin), -jnp.inf), axis=-1)
    far = logsumexp(jnp.where(unlike, gamma * weights[1] * (s - margin), -jnp.inf), axis=-1)
    both = jnp.any(alike, -1) & jnp.any(unlike, -1)
    return mean_of_members(jnp.where(both, jax.nn.softplus(near + far), 0), where)


# One loss of a set: (n, d).


def centred(x: Array, where: Array | None) -> Array:
    if where is None:
        return x - jnp.mean(x, 0)
    return jnp.where(where[:, None], x - jnp.mean(x, 0, where=where[:, None]), 0)


def off_diagonal(c: Array) -> Array:
    return jnp.where(jnp.eye(len(c), dtype=bool), 0, c)


def barlow_twins(a: Array, b: Array, redundancy: float = 0.005, where: Array | None = None) -> Array:
    a, b = (x / jnp.linalg.norm(x, axis=0) for x in (centred(a, where), centred(b, where)))
    c = a.T @ b
    return jnp.sum((1 - jnp.diagonal(c)) ** 2) + redundancy * jnp.sum(off_diagonal(c) ** 2)


def vicreg(a: Array, b: Array, where: Array | None = None) -> Array:
    n, d = (len(a) if where is None else jnp.sum(where)), a.shape[-1]
    squares = (a - b) ** 2 if where is None else jnp.where(where[:, None], (a - b) ** 2, 0)
    total = 25 * jnp.sum(squares) / (n * d)
    for x in (centred(a, where), centred(b, where)):
        c = x.T @ x / (n - 1)
        total += 25 * jnp.mean(jax.nn.relu(1 - jnp.sqrt(jnp.diagonal(c) + 1e-4))) + jnp.sum(off_diagonal(c) ** 2) / d
    return total


# ---------------------------------------------------------------------------------------------------------------------
# likelihoods


def gaussian_nll(y: Array, mean: Array, variance: Array) -> Array:
    variance = jnp.maximum(variance, 1e-6)
    return (jnp.log(variance) + (mean - y) ** 2 / variance) / 2


def laplace_nll(y: Array, location: Array, scale: Array) -> Array:
    scale = jnp.maximum(scale, 1e-6)
    return jnp.log(scale) + jnp.abs(location - y) / scale


def student_t_nll(y: Array, location: Array, scale: Array, df: float = 4.0) -> Array:
    scale = jnp.maximum(scale, 1e-6)
    return jnp.log(scale) + (df + 1) / 2 * jnp.log1p(((location - y) / scale) ** 2 / df)


def poisson_nll(y: Array, rate: Array) -> Array:
    return rate - y * jnp.log(rate)


def poisson_nll_log_rate(y: Array, log_rate: Array) -> Array:
    """With the term that the target alone decides."""
    return jnp.exp(log_rate) - y * log_rate + gammaln(y + 1)


def negative_binomial_nll(y: Array, mean: Array, dispersion: Array) -> Array:
    n = 1 / dispersion
    spread = dispersion * mean
    return gammaln(n) - gammaln(n + y) + (y + n) * jnp.log1p(spread) - y * jnp.log(spread)


def tweedie(y: Array, mean: Array, power: float = 1.5) -> Array:
    return mean ** (2 - power) / (2 - power) - y * mean ** (1 - power) / (1 - power)


# ---------------------------------------------------------------------------------------------------------------------
# log-probabilities


def dpo(chosen: Array, rejected: Array, reference_chosen: Array, reference_rejected: Array, beta: float = 0.1) -> Array:
    return -log_sigmoid(beta * ((chosen - rejected) - (reference_chosen - reference_rejected)))


def ipo(chosen: Array, rejected: Array, reference_chosen: Array, reference_rejected: Array, beta: float = 0.1) -> Array:
    return ((chosen - rejected) - (reference_chosen - reference_rejected) - 1 / (2 * beta)) ** 2


def simpo(chosen: Array, rejected: Array, beta: float = 2.0, gamma: float = 0.5) -> Array:
    return -log_sigmoid(beta * (chosen - rejected) - gamma)


def kto(desirable: Array, policy: Array, reference: Array, beta: float = 0.1, kl: float = 0.0) -> Array:
    r = policy - reference
    return jnp.where(desirable == 1, 1 - sigmoid(beta * (r - kl)), 1 - sigmoid(beta * (kl - r)))


def orpo(chosen: Array, rejected: Array, beta: float = 0.1) -> Array:
    log_odds = (chosen - rejected) - (jnp.log1p(-jnp.exp(chosen)) - jnp.log1p(-jnp.exp(rejected)))
    return -chosen - beta * log_sigmoid(log_odds)


def grpo(
    advantages: Array, policy: Array, old: Array, reference: Array, epsilon: float = 0.2, beta: float = 0.04
) -> Array:
    r = jnp.exp(policy - old)
    clipped = jnp.clip(r, 1 - epsilon, 1 + epsilon)
    d = reference - policy
    return -jnp.minimum(r * advantages, clipped * advantages) + beta * (jnp.exp(d) - d - 1)


# ---------------------------------------------------------------------------------------------------------------------
# two classes


def bce(y: Array, p: Array) -> Array:
    return -y * jnp.log(p) - (1 - y) * jnp.log(1 - p)


def bce_logits(y: Array, z: Array) -> Array:
    return -y * log_sigmoid(z) - (1 - y) * log_sigmoid(-z)


def binary_focal(y: Array, p: Array, gamma: float = 2.0) -> Array:
    right = p * y + (1 - p) * (1 - y)
    return (1 - right) ** gamma * bce(y, p)


def binary_focal_logits(y: Array, z: Array, gamma: float = 2.0) -> Array:
    p = sigmoid(z)
    right = p * y + (1 - p) * (1 - y)
    return (1 - right) ** gamma * bce_logits(y, z)


def hinge(y: Array, z: Array) -> Array:
    return jnp.maximum(0, 1 - y * z)


def squared_hinge(y: Array, z: Array) -> Array:
    return jnp.maximum(0, 1 - y * z) ** 2


def perceptron(y: Array, z: Array) -> Array:
    return jnp.maximum(0, -y * z)


def soft_margin(y: Array, z: Array) -> Array:
    return jax.nn.softplus(-y * z)


def sparsemax(y: Array, z: Array) -> Array:
    between = (z + 1) ** 2 / 4
    return jnp.where(z <= -1, 0, jnp.where(z >= 1, z, between)) - z * y + y * y - y


# ---------------------------------------------------------------------------------------------------------------------
# many classes


def cce(y: Array, p: Array) -> Array:
    return -jnp.sum(y * jnp.log(shares(p)), -1)


def cce_logits(y: Array, z: Array, label_smoothing: float = 0.0) -> Array:
    if label_smoothing:
        y = (1 - label_smoothing) * y + label_smoothing / y.shape[-1]
    return -jnp.sum(y * log_softmax(z), axis=-1)


def sparse_cce(y: Array, p: Array) -> Array:
    return -jnp.log(picked(shares(p), y))


def sparse_cce_logits(y: Array, z: Array, label_smoothing: float = 0.0) -> Array:
    log_p = log_softmax(z)
    loss = -picked(log_p, y)
    return (1 - label_smoothing) * loss - label_smoothing * jnp.mean(log_p, -1) if label_smoothing else loss


def sparse_cce_z_loss(y: Array, z: Array, z_loss: float) -> Array:
    log_total = jax.nn.logsumexp(z, -1)
    return log_total - picked(z, y) + z_loss * log_total**2


def nll(y: Array, log_p: Array) -> Array:
    return -picked(log_p, y)


def categorical_focal(y: Array, p: Array, gamma: float = 2.0) -> Array:
    p = shares(p)
    return -jnp.sum(y * (1 - p) ** gamma * jnp.log(p), -1)


def categorical_focal_logits(y: Array, z: Array, gamma: float = 2.0) -> Array:
    log_p = log_softmax(z)
    return -jnp.sum(y * (1 - jnp.exp(log_p)) ** gamma * log_p, -1)


def poly1(y: Array, p: Array) -> Array:
    p = shares(p)
    return jnp.sum(y * (1 - p - jnp.log(p)), -1)


def poly1_logits(y: Array, z: Array) -> Array:
    log_p = log_softmax(z)
    return jnp.sum(y * (1 - jnp.exp(log_p) - log_p), -1)


def sparse_focal(y: Array, z: Array, gamma: float = 2.0) -> Array:
    log_p = picked(log_softmax(z), y)
    return -((1 - jnp.exp(log_p)) ** gamma) * log_p


def sparse_poly1(y: Array, z: Array) -> Array:
    log_p = picked(log_softmax(z), y)
    return 1 - jnp.exp(log_p) - log_p


def sparse_generalized_cce(y: Array, z: Array, power: float = 0.7) -> Array:
    return (1 - jnp.exp(power * picked(log_softmax(z), y))) / power


def generalized_cce(y: Array, p: Array, power: float = 0.7) -> Array:
    return jnp.sum(y * (1 - shares(p) ** power) / power, -1)


def generalized_cce_logits(y: Array, z: Array, power: float = 0.7) -> Array:
    return jnp.sum(y * (1 - softmax(z) ** power) / power, -1)


def categorical_hinge(y: Array, z: Array) -> Array:
    others = jnp.max(jnp.where(y == 1, -jnp.inf, z), -1)
    return jnp.maximum(0, 1 + others - jnp.sum(y * z, -1))


def multi_margin(y: Array, z: Array) -> Array:
    wrong = jnp.maximum(0, 1 - picked(z, y)[..., None] + z)
    return jnp.sum(jnp.where(jnp.arange(z.shape[-1]) == y[..., None], 0, wrong), -1) / z.shape[-1]


def multilabel_margin(y: Array, z: Array) -> Array:
    pair = (y[..., :, None] == 1) & (y[..., None, :] == 0)
    wrong = jnp.maximum(0, 1 - (z[..., :, None] - z[..., None, :]))
    return jnp.sum(jnp.where(pair, wrong, 0), (-2, -1)) / z.shape[-1]


def multilabel_soft_margin(y: Array, z: Array) -> Array:
    return jnp.mean(bce_logits(y, z), -1)


def kl_divergence(y: Array, p: Array) -> Array:
    return jnp.sum(xlogy(y, y) - y * jnp.log(p), -1)


def kl_divergence_logs(log_y: Array, log_p: Array) -> Array:
    return jnp.sum(jnp.exp(log_y) * (log_y - log_p), -1)


def js_divergence(y: Array, p: Array) -> Array:
    middle = (y + p) / 2
    return (kl_divergence(y, middle) + kl_divergence(p, middle)) / 2


def total_variation(y: Array, p: Array) -> Array:
    return jnp.sum(jnp.abs(y - p), -1) / 2


def distillation(y: Array, z: Array, temperature: float = 1.0) -> Array:
    log_y, log_p = log_softmax(y / temperature), log_softmax(z / temperature)
    return temperature**2 * kl_divergence_logs(log_y, log_p)


def linear_cce(y: Array, hidden: Array, kernel: Array) -> Array:
    """The logits held in full, accumulated in float32."""
    z = jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)
    return jax.nn.logsumexp(z, axis=-1) - picked(z, y)


# ---------------------------------------------------------------------------------------------------------------------
# boxes, as corners


class Boxes:
    """A target (a) and a prediction (b), and what the formulas share."""

    def __init__(self, target: Array, box: Array):
        ax1, ay1, ax2, ay2 = (target[..., n] for n in range(4))
        bx1, by1, bx2, by2 = (box[..., n] for n in range(4))
        self.aw, self.ah, self.bw, self.bh = ax2 - ax1, ay2 - ay1, bx2 - bx1, by2 - by1
        overlap = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0)
        overlap *= jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0)
        self.union = self.aw * self.ah + self.bw * self.bh - overlap
        self.iou = overlap / (self.union + EPS)
        self.hull_w = jnp.maximum(ax2, bx2) - jnp.minimum(ax1, bx1)
        self.hull_h = jnp.maximum(ay2, by2) - jnp.minimum(ay1, by1)
        self.dx, self.dy = (ax1 + ax2 - bx1 - bx2) / 2, (ay1 + ay2 - by1 - by2) / 2
        self.apart = self.dx**2 + self.dy**2
        self.diagonal = self.hull_w**2 + self.hull_h**2 + EPS


def iou(y: Array, b: Array) -> Array:
    return 1 - Boxes(y, b).iou


def iou_log(y: Array, b: Array) -> Array:
    return -jnp.log(Boxes(y, b).iou)


def giou(y: Array, b: Array) -> Array:
    x = Boxes(y, b)
    hull = x.hull_w * x.hull_h + EPS
    return 1 - x.iou + (hull - x.union) / hull


def diou(y: Array, b: Array) -> Array:
    x = Boxes(y, b)
    return 1 - x.iou + x.apart / x.diagonal


def ciou(y: Array, b: Array) -> Array:
    x = Boxes(y, b)
    v = 4 / math.pi**2 * (jnp.arctan(x.aw / (x.ah + EPS)) - jnp.arctan(x.bw / (x.bh + EPS))) ** 2
    alpha = jax.lax.stop_gradient(v / (1 - x.iou + v + EPS))
    return 1 - x.iou + x.apart / x.diagonal + alpha * v


def eiou(y: Array, b: Array) -> Array:
    x = Boxes(y, b)
    width, height = (x.bw - x.aw) ** 2 / (x.hull_w**2 + EPS), (x.bh - x.ah) ** 2 / (x.hull_h**2 + EPS)
    return 1 - x.iou + x.apart / x.diagonal + width + height


def focal_eiou(y: Array, b: Array) -> Array:
    return jax.lax.stop_gradient(Boxes(y, b).iou) ** 0.5 * eiou(y, b)


def alpha_iou(y: Array, b: Array) -> Array:
    return 1 - Boxes(y, b).iou ** 3


def siou(y: Array, b: Array) -> Array:
    x = Boxes(y, b)
    sine = jnp.abs(x.dy) / (jnp.sqrt(x.apart) + EPS)
    gamma = 1 + 2 * jnp.sin(jnp.arcsin(jnp.clip(sine, 0, 1)) - math.pi / 4) ** 2
    distance = 2 - jnp.exp(-gamma * (x.dx / x.hull_w) ** 2) - jnp.exp(-gamma * (x.dy / x.hull_h) ** 2)
    width = jnp.abs(x.bw - x.aw) / jnp.maximum(x.bw, x.aw)
    height = jnp.abs(x.bh - x.ah) / jnp.maximum(x.bh, x.ah)
    shape = (1 - jnp.exp(-width)) ** 4 + (1 - jnp.exp(-height)) ** 4
    return 1 - x.iou + (distance + shape) / 2


def wiou_v1(y: Array, b: Array) -> Array:
    x = Boxes(y, b)
    return jnp.exp(x.apart / jax.lax.stop_gradient(x.diagonal)) * (1 - x.iou)


def wiou_v2(y: Array, b: Array, iou_loss_mean: float, gamma: float = 0.5) -> Array:
    return jax.lax.stop_gradient(iou(y, b) / iou_loss_mean) ** gamma * wiou_v1(y, b)


def wiou_v3(y: Array, b: Array, iou_loss_mean: float, alpha: float = 1.9, delta: float = 3.0) -> Array:
    outlier = jax.lax.stop_gradient(iou(y, b) / iou_loss_mean)
    return outlier / (delta * alpha ** (outlier - delta)) * wiou_v1(y, b)


# ---------------------------------------------------------------------------------------------------------------------
# segmentation: (..., K), pixels that `where` leaves out count neither as target nor as prediction


def existing(where: Array | None, *arrays: Array) -> Sequence[Array]:
    return arrays if where is None else [jnp.where(where[..., None], x, 0) for x in arrays]


def tversky(
    y: Array,
    p: Array,
    axis: Axis,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 0.0,
    where: Array | None = None,
) -> Array:
    y, p = existing(where, y, p)
    tp, fp, fn = jnp.sum(y * p, axis), jnp.sum((1 - y) * p, axis), jnp.sum(y * (1 - p), axis)
    return 1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth + EPS)


def dice(y: Array, p: Array, axis: Axis, where: Array | None = None) -> Array:
    return tversky(y, p, axis, where=where)


def jaccard(y: Array, p: Array, axis: Axis, where: Array | None = None) -> Array:
    return tversky(y, p, axis, 1.0, 1.0, where=where)


def focal_tversky(y: Array, p: Array, axis: Axis, gamma: float = 4 / 3, where: Array | None = None) -> Array:
    return tversky(y, p, axis, 0.3, 0.7, where=where) ** (1 / gamma)


def generalized_dice(y: Array, p: Array, axis: Axis, where: Array | None = None) -> Array:
    y, p = existing(where, y, p)
    weight = 1 / (jnp.sum(y, axis) ** 2 + EPS)
    shared, total = jnp.sum(y * p, axis), jnp.sum(y, axis) + jnp.sum(p, axis)
    return 1 - 2 * jnp.sum(weight * shared, -1) / jnp.sum(weight * total, -1)


def lovasz(y: Array, errors: Array, where: Array | None) -> Array:
    """(batch, pixels..., K)"""
    y, errors = (jnp.swapaxes(x.reshape(len(x), -1, x.shape[-1]), 1, 2) for x in existing(where, y, errors))
    order = jnp.argsort(-jax.lax.stop_gradient(errors), axis=-1)
    y, errors = jnp.take_along_axis(y, order, -1), jnp.take_along_axis(errors, order, -1)
    total = jnp.sum(y, -1, keepdims=True)
    index = 1 - (total - jnp.cumsum(y, -1)) / (total + jnp.cumsum(1 - y, -1))
    return jnp.sum(errors * jnp.diff(index, axis=-1, prepend=0), -1)


def lovasz_hinge(y: Array, z: Array, axis: Axis, where: Array | None = None) -> Array:
    del axis  # all but the first and the last
    return lovasz(y, jnp.maximum(0, 1 - (2 * y - 1) * z), where)


def lovasz_softmax(y: Array, p: Array, axis: Axis, where: Array | None = None) -> Array:
    del axis
    return lovasz(y, jnp.abs(y - p), where)


# ---------------------------------------------------------------------------------------------------------------------
# lists, along the last axis


def existing_items(y: Array, z: Array, where: Array | None) -> tuple[Array, Array]:
    """What does not exist has no relevance and the lowest score."""
    return (y, z) if where is None else (jnp.where(where, y, 0), jnp.where(where, z, -1e30))


def list_softmax(y: Array, z: Array, where: Array | None = None) -> Array:
    y, z = existing_items(y, z, where)
    return -jnp.sum(y * log_softmax(z), -1)


def mean_over_pairs(y: Array, costs: Array, where: Array | None) -> Array:
    pairs = y[..., :, None] > y[..., None, :]
    if where is not None:
        pairs &= where[..., :, None] & where[..., None, :]
    return jnp.sum(jnp.where(pairs, costs, 0), (-1, -2)) / jnp.maximum(jnp.sum(pairs, (-1, -2)), 1)


def ranknet(y: Array, z: Array, where: Array | None = None) -> Array:
    return mean_over_pairs(y, -log_sigmoid(z[..., :, None] - z[..., None, :]), where)


def pairwise_hinge(y: Array, z: Array, where: Array | None = None) -> Array:
    return mean_over_pairs(y, jnp.maximum(1 - (z[..., :, None] - z[..., None, :]), 0), where)


def list_mle(y: Array, z: Array, where: Array | None = None) -> Array:
    """Equal relevances as they stand."""
    y = y if where is None else jnp.where(where, y, -1)
    order = jnp.argsort(y, axis=-1)
    y, z = (jnp.take_along_axis(x, order, -1) for x in (y, z))
    exists = y >= 0
    left = jax.lax.cumlogsumexp(jnp.where(exists, z, -1e30), axis=z.ndim - 1)
    return jnp.sum(jnp.where(exists, left - z, 0), -1)


def ideal_dcg(gains: Array) -> Array:
    return jnp.sum(-jnp.sort(-gains, axis=-1) / jnp.log2(2.0 + jnp.arange(gains.shape[-1])), -1)


def approx_ndcg(y: Array, z: Array, where: Array | None = None) -> Array:
    y, z = existing_items(y, z, where)
    gains = 2**y - 1
    ranks = 0.5 + jnp.sum(sigmoid(z[..., None, :] - z[..., :, None]), -1)
    ideal = ideal_dcg(gains)
    return jnp.where(ideal > 0, 1 - jnp.sum(gains / jnp.log2(1 + ranks), -1) / jnp.where(ideal > 0, ideal, 1), 0)


def lambda_rank(y: Array, z: Array, where: Array | None = None) -> Array:
    """Equal scores as they stand."""
    y, z = existing_items(y, z, where)
    ranks = 1 + jnp.argsort(jnp.argsort(-jax.lax.stop_gradient(z), axis=-1), axis=-1)
    gains, discounts = 2**y - 1, 1 / jnp.log2(1.0 + ranks)
    ideal = ideal_dcg(gains)[..., None, None]
    change = (gains[..., :, None] - gains[..., None, :]) * (discounts[..., :, None] - discounts[..., None, :]) / ideal
    pairs = y[..., :, None] > y[..., None, :]
    if where is not None:
        pairs &= where[..., :, None] & where[..., None, :]
    costs = jnp.abs(change) * -log_sigmoid(z[..., :, None] - z[..., None, :])
    return jnp.sum(jnp.where(pairs, costs, 0), (-1, -2))


# ---------------------------------------------------------------------------------------------------------------------
# sequences: the forward recursion in logarithms, one scan

IMPOSSIBLE = -1e30


def delayed(x: Array, by: int) -> Array:
    return jnp.pad(x[:, :-by], ((0, 0), (by, 0)), constant_values=IMPOSSIBLE)


def ctc(labels: Array, logits: Array, label_lengths: Array, logit_lengths: Array) -> Array:
    log_p = log_softmax(logits)
    frames, states = log_p.shape[1], 2 * labels.shape[1] + 1
    path = jnp.zeros((len(labels), states), labels.dtype).at[:, 1::2].set(labels)
    may_skip = jnp.pad(path[:, 2:] != path[:, :-2], ((0, 0), (2, 0))) & (path != 0)
    emitted = jnp.swapaxes(jnp.take_along_axis(log_p, path[:, None], axis=2), 0, 1)
    runs = jnp.arange(frames)[:, None] < logit_lengths

    def step(alpha: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        log_p, runs = frame
        skipped = jnp.where(may_skip, delayed(alpha, 2), IMPOSSIBLE)
        following = jnp.logaddexp(jnp.logaddexp(alpha, delayed(alpha, 1)), skipped) + log_p
        return jnp.where(runs[:, None], following, alpha), None

    alpha = jnp.where(jnp.arange(states) < 2, emitted[0], IMPOSSIBLE)
    alpha, _ = jax.lax.scan(step, alpha, (emitted[1:], runs[1:]))
    return -jnp.logaddexp(picked(alpha, 2 * label_lengths), picked(alpha, 2 * label_lengths - 1))


def rnnt(labels: Array, logits: Array, label_lengths: Array, logit_lengths: Array) -> Array:
    """A diagonal at a time: all states that are the same number of steps from the start."""
    log_p = log_softmax(logits)
    batch, frames, states, _ = log_p.shape
    blank = log_p[..., 0]
    label = jnp.take_along_axis(log_p[:, :, :-1], labels[:, None, :, None], axis=3)[..., 0]
    label = jnp.pad(label, ((0, 0), (0, 0), (0, 1)), constant_values=IMPOSSIBLE)

    def diagonals(x: Array) -> Array:
        rows = jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, states)), constant_values=IMPOSSIBLE)
        skewed = rows.reshape(batch, -1)[:, :-states].reshape(batch, states, frames + states - 1)
        return jnp.moveaxis(skewed, 2, 0)

    def step(alpha: Array, diagonal: tuple[Array, Array]) -> tuple[Array, Array]:
        blank, label = diagonal
        alpha = jnp.logaddexp(alpha + blank, delayed(alpha + label, 1))
        return alpha, alpha

    start = jnp.broadcast_to(jnp.where(jnp.arange(states) == 0, 0.0, IMPOSSIBLE), (batch, states))
    _, rest = jax.lax.scan(step, start, (diagonals(blank), diagonals(label)))
    each, last = jnp.arange(batch), logit_lengths - 1
    alpha = jnp.concatenate([start[None], rest])[last + label_lengths, each, label_lengths]
    return -alpha - blank[each, last, label_lengths]
