"""What is known of the losses of boxes.

What the definition of a loss takes for a constant (the alpha of CIoU, the weights of Focal EIoU and WIoU) its oracle
computes from `still`: the boxes lie on a grid, and a step of a difference quotient is much smaller than its meshes.
"""

from __future__ import annotations

import hypothesis.strategies as st
import jax.numpy as jnp
from laws import Domain, Limit, Numbers, Subject, each, of, whole

from cases import exact as np
from cases.common import AT_TARGET, BOTH, OF_RESIDUALS, ONE
from cases.excuses import overflows, vanishes
from cases.row import LARGEST, NORMAL, SUBNORMAL, Row, every, joined

GRID = 16


def boxes(rng, batch):
    """Overlapping boxes on a grid, which bfloat16 has too; no two edges or centres are at the same height."""
    corner, size = rng.integers(8, 20, (*batch, 2)), rng.integers(12, 24, (*batch, 2))
    target = 4 * np.concatenate([corner, corner + size], -1)
    return target / GRID, (target + 4 * rng.integers(-5, 5, target.shape) + 1) / GRID


def still(*boxes):
    if np.is_exact(*boxes):
        return [np.held(box) for box in boxes]
    return [np.where(np.abs(box) > 0.5, np.round(GRID * box) / GRID, box) for box in boxes]


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def over(n, d):
    return np.where(d > 0, n / np.where(d > 0, d, 1), 0)


def sides(box):
    return box[..., 2] - box[..., 0], box[..., 3] - box[..., 1]


def area(box):
    w, h = sides(box)
    return np.maximum(w, 0) * np.maximum(h, 0)


def around(g, b):
    low, high = np.minimum(g, b), np.maximum(g, b)
    w, h = np.moveaxis(np.maximum(high[..., 2:], high[..., :2]) - np.minimum(low[..., :2], low[..., 2:]), -1, 0)
    return w, h


def shared(g, b):
    return area(np.concatenate([np.maximum(g, b)[..., :2], np.minimum(g, b)[..., 2:]], -1))


def iou_of(g, b):
    return over(shared(g, b), area(g) + area(b) - shared(g, b))


def iou(g, b):
    return 1 - iou_of(g, b)


def iou_log(g, b):
    with np.errstate(divide="ignore"):
        return -np.log(iou_of(g, b))


def giou_term(g, b):
    cw, ch = around(g, b)
    return over(cw * ch - (area(g) + area(b) - shared(g, b)), cw * ch)


def offset(g, b):
    return ((g - b)[..., :2] + (g - b)[..., 2:]) / 2


def diou_term(g, b):
    cw, ch = around(g, b)
    return over((offset(g, b) ** 2).sum(-1), cw**2 + ch**2)


def arctan_aspect(box):
    w, h = sides(box)
    return np.arctan2(np.maximum(w, 0), np.maximum(h, 0))


def v(g, b):
    return 4 / np.pi**2 * (arctan_aspect(g) - arctan_aspect(b)) ** 2


def ciou_term(g, b, gate=None):
    g0, b0 = still(g, b)
    alpha = over(v(g0, b0), iou(g0, b0) + v(g0, b0))
    return np.where(iou_of(g0, b0) < (-1 if gate is None else gate), 0, alpha) * v(g, b)


def giou(g, b):
    return iou(g, b) + giou_term(g, b)


def diou(g, b):
    return iou(g, b) + diou_term(g, b)


def ciou(g, b, gate=None):
    return diou(g, b) + ciou_term(g, b, gate)


def eiou(g, b):
    (w, h), (wg, hg), (cw, ch) = sides(b), sides(g), around(g, b)
    return diou(g, b) + over(w - wg, cw) ** 2 + over(h - hg, ch) ** 2


def focal_eiou(g, b, gamma=0.5, detach=True):
    return iou_of(*(still(g, b) if detach else (g, b))) ** gamma * eiou(g, b)


def alpha_iou(g, b, power=3, base="iou"):
    terms = {"iou": (), "giou": (giou_term,), "diou": (diou_term,), "ciou": (diou_term, ciou_term)}[base]
    return 1 - iou_of(g, b) ** power + sum(np.maximum(term(g, b), 0) ** power for term in terms)


def siou(g, b, theta=4):
    (w, h), (wg, hg), (cw, ch) = sides(b), sides(g), around(g, b)
    dx, dy = np.moveaxis(offset(g, b), -1, 0)
    # The paper's own form: 1 - 2 sin^2(arcsin(x) - pi / 4), x the sine of the angle of the offset.
    sine = over(np.abs(dy), np.hypot(dx, dy))
    angle = np.where(np.hypot(dx, dy) > 0, 1 - 2 * np.sin(np.arcsin(sine) - np.pi / 4) ** 2, 0)
    distance = sum(1 - np.exp(-(2 - angle) * over(d, c) ** 2) for d, c in ((dx, cw), (dy, ch)))
    shape = sum((1 - np.exp(-over(np.abs(s - t), np.maximum(s, t)))) ** theta for s, t in ((w, wg), (h, hg)))
    return iou(g, b) + (distance + shape) / 2


def wiou_v1(g, b):
    cw, ch = around(*still(g, b))
    return np.exp(over((offset(g, b) ** 2).sum(-1), cw**2 + ch**2)) * iou(g, b)


def wiou_v2(g, b, iou_loss_mean, gamma=0.5):
    return (iou(*still(g, b)) / iou_loss_mean) ** gamma * wiou_v1(g, b)


def wiou_v3(g, b, iou_loss_mean, alpha=1.9, delta=3.0):
    relative = iou(*still(g, b)) / iou_loss_mean
    return relative / (delta * alpha ** (relative - delta)) * wiou_v1(g, b)


# ---------------------------------------------------------------------------------------------------------------------
# Hard inputs: without area, inverted, identical, touching, nested, concentric, thin, far, large and small

SOME = [[0.0, 0, 0, 0], [0, 0, 8, 8], [8, 0, 16, 8], [2, 2, 6, 6], [3, 0, 3, 8], [0, 8, 8, 0], [2, 1, 2, 1]]
HARD = every(SOME, [*SOME, [0, 0, 8, 4], [0, 3, 1024, 3.125], [2000, 3000, 2001, 3001], [-2, -4, 10, 12]])
LARGE = every([[-1e30, -1e30, 1e30, 1e30], [0, 0, 1e25, 1e30]], [[-1e30, -1e30, 1e30, 1e30], [2e30, 2e30, 3e30, 3e30]])
SMALL = every(
    [[0, 0, 1e-15, 1e-15], [5e-16, 0, 2e-15, 1e-15], [0, 0, 1e-12, 1]],
    [[0, 0, 1e-15, 1e-15], [0, 0, 5e-13, 1], [0, 0, 1, 1e-12]],
)
# Sides of the largest and the smallest numbers, beside one another and around one another.
EDGES = joined(
    *(
        every([[0, 0, x, x]], [[0, 0, x, x], [0, 0, x, x / 2], [x / 4, x / 4, x, x], [0, 0, 1, 1]])
        for x in (LARGEST[0], NORMAL[0], SUBNORMAL[0], SUBNORMAL[1], 1e38, 1e-38)
    ),
    ([[-x, -x, 0, 0] for x in (65504.0, 1e38)], [[0, 0, x, x] for x in (65504.0, 1e38)]),
)
FINITE = joined(HARD, LARGE, SMALL, EDGES)
FLAT = [[0.0, 0, 0, 0], [2, 1, 6, 8], [3, 3, 3, 8], [2, 3, 5, 3], [-7, -7, -6, -4], [5e-4, 5e-4, 1e-3, 1e-3]]
IDENTICAL = (FLAT, FLAT)
REFUSED_MEAN = {"iou_loss_mean": -0.1}

THIN = "boxes of 1e-12 or less: the derivative is a difference of numbers 1e6 times larger and more"

ROWS = (
    Row("iou", boxes, iou, hard=FINITE, ties=IDENTICAL),
    Row(
        "iou_log",
        boxes,
        iou_log,
        hard=FINITE,
        ties=(FLAT[1:2], FLAT[1:2]),
        excused=(*overflows("loss", "gradient by y_pred"), *vanishes("loss", "gradient by y_true")),
    ),
    Row("giou", boxes, giou, hard=FINITE, ties=IDENTICAL),
    Row("diou", boxes, diou, hard=FINITE, ties=IDENTICAL),
    Row("ciou", boxes, ciou, hard=FINITE, ties=IDENTICAL, refused=({"gate": 1.5},), frozen=True),
    Row("ciou-gate", boxes, ciou, {"gate": 0.5}, hard=FINITE, frozen=True),
    Row(
        "eiou",
        boxes,
        eiou,
        hard=FINITE,
        ties=IDENTICAL,
        excused=((r"gradient .* y_true \[.*e-1[56]\], y_pred .*\(float64\)", THIN),),
    ),
    Row(
        "focal_eiou",
        boxes,
        focal_eiou,
        hard=FINITE,
        ties=IDENTICAL,
        refused=({"gamma": -1.0},),
        frozen=True,
        excused=((r"gradient .* y_true \[.*e-1[56]\], y_pred ", THIN),),
    ),
    Row("focal_eiou-attached", boxes, focal_eiou, {"gamma": 0.7, "detach": False}, hard=FINITE, ties=IDENTICAL),
    Row(
        "alpha_iou",
        boxes,
        alpha_iou,
        {"power": 2.5, "base": "giou"},
        hard=FINITE,
        ties=IDENTICAL,
        refused=({"power": 0.0}, {"base": "eiou"}),
    ),
    Row("siou", boxes, siou, {"theta": 4.0}, hard=FINITE, ties=IDENTICAL, refused=({"theta": 0.5},)),
    Row("wiou_v1", boxes, wiou_v1, hard=FINITE, ties=IDENTICAL, frozen=True),
    Row(
        "wiou_v2",
        boxes,
        wiou_v2,
        {"iou_loss_mean": 0.6},
        constant=("iou_loss_mean",),
        hard=FINITE,
        ties=IDENTICAL,
        refused=(REFUSED_MEAN, {"gamma": -0.5}),
        frozen=True,
    ),
    Row(
        "wiou_v3",
        boxes,
        wiou_v3,
        {"iou_loss_mean": 0.6},
        constant=("iou_loss_mean",),
        hard=FINITE,
        ties=IDENTICAL,
        refused=(REFUSED_MEAN, {"alpha": 0.9}, {"delta": 0.0}),
        frozen=True,
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Laws


def corners(box):
    return np.concatenate([box[..., :2], box[..., :2] + box[..., 2:]], -1) / 4


def whole_boxes(shortest):
    return st.builds(
        lambda corner, sides: corners(np.concatenate([corner, sides], -1)),
        each(Numbers(whole(-16, 16)), 2),
        each(Numbers(whole(shortest, 24)), 2),
    )


BOXES = Domain(
    st.tuples(whole_boxes(1), whole_boxes(0)),  # a target without area is not even like itself
    (*OF_RESIDUALS, "relabelled"),
    relabel=lambda arrays, order: tuple(x[..., [1, 0, 3, 2]] for x in arrays),  # the axes of the plane
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


def with_sides(box):
    """The aspect of a point is that of a vertical line, by convention."""
    return box + np.array([0, 0, 1, 1], np.float32)


WITH = {
    "alpha_iou": {"power": 2.5, "base": "giou"},
    "ciou-gate": {"gate": 0.5},
    "wiou_v2": {"iou_loss_mean": 0.6},
    "wiou_v3": {"iou_loss_mean": 0.6},
}

LAWS = (
    *(
        Subject(id, BOXES, {**BOX_LAWS, "relabelled": with_sides if id == "ciou" else True}, OVERLAP, WITH.get(id, {}))
        for id in (
            *("iou", "iou_log", "giou", "diou", "ciou", "ciou-gate", "eiou", "focal_eiou", "alpha_iou", "siou"),
            *("wiou_v1", "wiou_v2", "wiou_v3"),
        )
    ),
)

# ---------------------------------------------------------------------------------------------------------------------
# Limits

LIMITS = (
    *(
        Limit(f"alpha_iou-{base}", BOXES, of("alpha_iou", power=1, base=base), of(base))
        for base in ("iou", "giou", "diou", "ciou")
    ),
    *(
        Limit(
            f"alpha_iou-traced {base}",
            BOXES,
            lambda y, p, base=base: of("alpha_iou", power=jnp.ones(()), base=base)(y, p),
            of(base),
        )
        for base in ("iou", "giou", "diou", "ciou")
    ),
    Limit(
        "iou_log-iou",
        BOXES,
        lambda y, p: jnp.exp(-of("iou_log")(y, p)),
        lambda y, p: 1 - of("iou")(y, p),
        ONE,
    ),
    Limit("ciou-gate 0", BOXES, of("ciou", gate=0.0), of("ciou")),
    Limit("ciou-diou", BOXES, of("ciou", gate=1.0), of("diou")),
    Limit("focal_eiou-eiou", BOXES, of("focal_eiou", gamma=0.0), of("eiou")),
    Limit("focal_eiou-attached", BOXES, of("focal_eiou", gamma=0.7, detach=False), of("focal_eiou", gamma=0.7)),
    Limit("wiou_v2-wiou_v1", BOXES, of("wiou_v2", gamma=0.0, iou_loss_mean=0.6), of("wiou_v1")),
    Limit(
        "wiou_v3-wiou_v2",
        BOXES,
        of("wiou_v3", alpha=1.0, delta=1.0, iou_loss_mean=0.6),
        of("wiou_v2", gamma=1.0, iou_loss_mean=0.6),
    ),
)
