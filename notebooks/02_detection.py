# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Boxes: the IoU losses at work
#
# A detector draws a box around each object. This tutorial shows the losses that tell it how good a box is, and lets
# each of them pull the same bad boxes onto the coins of a photo. It needs no accelerator and no internet beyond the
# installation, and runs in about a minute.
#
# You should know NumPy, and have seen `jax.grad` once; [01_losses](01_losses.ipynb) explains what all losses share.
#
# 1. Coins and their boxes
# 2. What the IoU sees, and what it does not
# 3. The losses, from the same bad starts
# 4. Padding, and a loss with a memory
# 5. Which box belongs to which coin?
# 6. The loss of a detector: classes and boxes
# 7. Small boxes

# %% [markdown]
# In a clone of the repository the next cell installs `jaxloss` and what this notebook imports, where it is missing; it
# leaves the JAX that is there as it is.

# %%
from importlib.util import find_spec

if find_spec("jaxloss") is None:
    print("Installing jaxloss")
    # %pip install -q "..[demo]" scikit-image

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.patches import Rectangle
from scipy.ndimage import binary_fill_holes
from scipy.optimize import linear_sum_assignment
from skimage import data, filters, measure, segmentation

import jaxloss as jl
from jaxloss.boxes import from_cxcywh

# %% [markdown]
# One helper draws boxes, one the photo; how pictures look is in a file of its own.

# %%
# %config InlineBackend.figure_formats = ["jpeg"]
plt.style.use("style.mplstyle")


def draw(axes, boxes, **style):
    for x1, y1, x2, y2 in np.asarray(boxes):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))


def photo(axes, title=None):
    axes.imshow(image, cmap="gray")
    axes.set_title(title, fontsize=11)
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    axes.axis("off")


# %% [markdown]
# ## 1. Coins and their boxes
#
# The photo comes with scikit-image. A watershed on the edges separates coins from background, and each connected
# region has a bounding box. A box is four numbers, `x1 y1 x2 y2`: its left, top, right and bottom.

# %%
image = data.coins()
markers = np.where(image < 30, 1, np.where(image > 150, 2, 0))
coins = binary_fill_holes(segmentation.watershed(filters.sobel(image), markers) == 2)
regions = [region for region in measure.regionprops(measure.label(coins)) if region.area > 500]
targets = np.array([[region.bbox[i] for i in (1, 0, 3, 2)] for region in regions], np.float32)
print(len(targets), "coins; the first box:", targets[0])
assert len(targets) == 24

# %%
figure, axes = plt.subplots(figsize=(6, 4.6))
photo(axes)
draw(axes, targets, edgecolor="C0", linewidth=2)
plt.show()

# %% [markdown]
# ## 2. What the IoU sees, and what it does not
#
# The **intersection over union** of two boxes is the area that they share, divided by the area that they cover
# together: 1 if they are equal, 0 if they do not overlap. The loss `iou` is one minus that. It knows nothing of pixels
# or metres: a box that is a tenth too large costs the same whatever its size.

# %%
target = np.float32([0, 0, 4, 4])
box = np.float32([2, 0, 6, 4])
print("shared 8 of 24:", jl.iou(target, box))

# %% [markdown]
# Now a box slides past the target. Where the two do not overlap, `iou` is flat: the loss says "wrong", its slope says
# nothing, and a box that starts there never moves. The later losses add a term that still sees how far away the box is.

# %%
shifts = jnp.linspace(-10, 10, 401)
losses = {"iou": jl.iou, "giou": jl.giou, "diou": jl.diou, "siou": jl.siou}

figure, (left, right) = plt.subplots(1, 2)
for name, loss in losses.items():

    def shifted(shift, loss=loss):
        return loss(target, target + shift * jnp.array([1.0, 0.0, 1.0, 0.0]))

    values, slopes = map(np.array, jax.vmap(jax.value_and_grad(shifted))(shifts))
    left.plot(shifts, values, label=name)
    jumps = np.abs(np.diff(slopes)) > 0.1 * np.ptp(slopes)
    slopes[1:][jumps] = np.nan  # no line is drawn across one
    right.plot(shifts, slopes)
left.set(xlabel="shift of a box of side 4", ylabel="loss")
right.set(xlabel="shift of a box of side 4", ylabel="derivative")
figure.legend(loc="outside upper center", ncols=len(losses))
plt.show()

# %% [markdown]
# | loss | what it adds to $1 - \text{IoU}$ |
# |---|---|
# | `giou` | the empty part of the smallest box around both |
# | `diou` | the distance of the centres, relative to the diagonal of that box |
# | `ciou` | that, and the difference of the aspects |
# | `eiou` | that of `diou`, and the differences of widths and heights |
# | `siou` | direction and distance of the centres, and the shape |
#
# `alpha_iou` raises the terms of `iou`, `giou`, `diou` or `ciou` to a power; `focal_eiou` and `wiou_v1` to `wiou_v3`
# weight boxes by how well they do. `help(jl.ciou)` has the formula. In this slide `diou` and `ciou` would be the same
# line: shape and size of the two boxes are equal.

# %% [markdown]
# ## 3. The losses, from the same bad starts
#
# Every coin gets a box of the wrong size at the wrong place. Many do not even touch their coin:

# %%
rng = np.random.default_rng(0)
size = targets[:, 2:] - targets[:, :2]
centre = (targets[:, :2] + targets[:, 2:]) / 2
angle = rng.uniform(0, 2 * np.pi, len(targets))
distance = rng.uniform(0.4, 1.6, (len(targets), 1)) * size
starts = from_cxcywh(
    np.concatenate(
        [
            centre + distance * np.stack([np.cos(angle), np.sin(angle)], -1),
            size * rng.uniform(0.4, 1.6, size.shape),
        ],
        axis=-1,
    ).astype(np.float32)
)
apart = jl.iou(targets, starts, reduction="none") == 1
print(int(apart.sum()), "of", len(targets), "boxes do not touch their coin")

# %% [markdown]
# Each loss moves the four numbers of each box for 300 steps of Adam, whose steps have the same length whatever the
# scale of a loss. `reduction="sum"` gives each box the gradient that it would have alone.

# %%
STEPS = 300
optimizer = optax.adam(optax.cosine_decay_schedule(1.0, STEPS))  # pixels


def fit(loss):
    """All boxes after each step, of shape (steps + 1, coins, 4)."""

    def step(carry, _):
        boxes, state = carry
        gradient = jax.grad(lambda boxes: loss(targets, boxes, reduction="sum"))(boxes)
        updates, state = optimizer.update(gradient, state)
        boxes = optax.apply_updates(boxes, updates)
        return (boxes, state), boxes

    _, path = jax.lax.scan(step, (starts, optimizer.init(starts)), length=STEPS)
    return jnp.concatenate([starts[None], path])


losses = {
    "iou": jl.iou,
    "iou_log": jl.iou_log,
    "giou": jl.giou,
    "diou": jl.diou,
    "ciou": jl.ciou,
    "eiou": jl.eiou,
    "focal_eiou": jl.focal_eiou,
    **{
        f"alpha_iou, {base}": functools.partial(jl.alpha_iou, base=base)
        for base in ("iou", "giou", "diou", "ciou")
    },
    "siou": jl.siou,
    "wiou_v1": jl.wiou_v1,
}
paths = {name: jax.jit(functools.partial(fit, loss))() for name, loss in losses.items()}

# %% [markdown]
# The mean IoU of all boxes with their coins, step by step; `iou` is in every panel, in grey:

# %%
mean_iou = jax.jit(jax.vmap(lambda boxes: 1 - jl.iou(targets, boxes)))
groups = [
    ("giou", "diou", "ciou", "iou_log"),
    ("eiou", "siou", "wiou_v1", "focal_eiou"),
    ("alpha_iou, iou", "alpha_iou, giou", "alpha_iou, diou", "alpha_iou, ciou"),
]

figure, panels = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True)
for panel, group in zip(panels, groups, strict=True):
    panel.plot(mean_iou(paths["iou"]), color="#666666", linestyle=":", label="iou")
    for name in group:
        panel.plot(mean_iou(paths[name]), label=name)
    panel.set(xlabel="step", xlim=(0, 150), ylim=(0, 1.02))
    panel.legend(loc="lower right", fontsize=10)
panels[0].set_ylabel("mean IoU")
plt.show()

# %% [markdown]
# And where the boxes (orange) of nine of the losses are after 40 steps, and at the end, with those that have not found
# their coin in pink:

# %%
nine = ("iou", "giou", "diou", "ciou", "eiou", "focal_eiou", "alpha_iou, ciou", "siou", "wiou_v1")


def grid(step):
    figure, panels = plt.subplots(3, 3, figsize=(8, 7))
    for panel, name in zip(panels.flat, nine, strict=True):
        path = paths[name]
        overlap = 1 - jl.iou(targets, path[step], reduction="none")
        photo(panel, f"{name}: mean IoU {overlap.mean():.2f}")
        draw(panel, path[step][overlap > 0.5], edgecolor="C1", linewidth=1.5)
        draw(panel, path[step][overlap <= 0.5], edgecolor="C3", linewidth=1.5)
    figure.suptitle(f"after {step} steps", fontsize=12)
    plt.show()


grid(40)

# %%
grid(STEPS)

# %%
final = {name: 1 - jl.iou(targets, path[-1], reduction="none") for name, path in paths.items()}
print("mean IoU          of all   of those once apart")
for name, overlap in final.items():
    print(f"{name:15} {overlap.mean():8.3f} {overlap[apart].mean():20.3f}")
assert final["iou"][apart].max() == 0  # no slope, no step
assert all(final[name].min() > 0.9 for name in ("giou", "diou", "ciou", "eiou", "siou"))

# %% [markdown]
# `iou` leaves every box alone that starts apart. So do `iou_log` and `alpha_iou` of `iou`, which are functions of it,
# and `focal_eiou`: its weight, a power of the IoU, is 0 there. `alpha_iou` of `giou` is still on its way after 300
# steps, all others bring every box home. Which of them is best for a network depends on data and optimiser; what those
# share is that a wrong box always knows where to go.

# %% [markdown]
# ## 4. Padding, and a loss with a memory
#
# Images have different numbers of objects, so batches of boxes are padded. `where` says which boxes exist; what lies in
# the others does not matter.

# %%
padded = jnp.concatenate([targets, jnp.full((8, 4), jnp.nan)])
guesses = jnp.concatenate([starts, jnp.zeros((8, 4))])
exists = ~jnp.isnan(padded[:, 0])
print(jl.giou(padded, guesses, where=exists), jl.giou(targets, starts))
assert not jnp.isnan(jax.grad(jl.giou, argnums=1)(padded, guesses, where=exists)).any()

# %% [markdown]
# `wiou_v2` and `wiou_v3` compare each box with the others, by the running mean of $1 - \text{IoU}$. In `wiou_v2` the
# worse box counts more; in `wiou_v3` one that is much worse is perhaps a wrong label and counts little, and so does one
# that fits already. Neither keeps a hidden state. The mean is a number that you carry along with the parameters, and
# `update_iou_loss_mean` returns the next one:


# %%
def fit_with_memory(loss):
    def step(carry, _):
        boxes, state, mean = carry
        mean = jl.update_iou_loss_mean(mean, targets, boxes, momentum=0.05)
        gradient = jax.grad(
            lambda boxes: loss(targets, boxes, iou_loss_mean=mean, reduction="sum")
        )(boxes)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(boxes, updates), state, mean), mean

    (boxes, _, _), means = jax.lax.scan(
        step, (starts, optimizer.init(starts), jnp.array(1.0)), length=STEPS
    )
    return boxes, means


for name in ("wiou_v2", "wiou_v3"):
    boxes, means = jax.jit(functools.partial(fit_with_memory, jl.LOSSES[name]))()
    overlap = 1 - jl.iou(targets, boxes)
    print(f"{name}: mean IoU {overlap:.3f}; running mean after 0, 50, 100 steps {means[:101:50]}")
    assert overlap > 0.9

# %% [markdown]
# ## 5. Which box belongs to which coin?
#
# Until now box 3 knew that it belongs to coin 3. A detector does not know. It needs the loss of **every** coin with
# **every** box, and then the cheapest assignment. A loss compares a box with its target; two `vmap`s make the table.

# %%
pairwise = jax.vmap(jax.vmap(jl.giou, in_axes=(None, 0)), in_axes=(0, None))
order = rng.permutation(len(targets))
shuffled = paths["giou"][30][order]
costs = np.asarray(pairwise(targets, shuffled))
_, assigned = linear_sum_assignment(costs)
right = order[assigned] == np.arange(len(targets))
print("assigned rightly:", int(right.sum()), "of", len(targets))

# %%
figure, axes = plt.subplots(figsize=(6, 4.6))
picture = axes.imshow(costs, cmap="viridis")
axes.plot(
    assigned,
    range(len(targets)),
    "o",
    color="C1",
    markersize=6,
    markerfacecolor="none",
    markeredgewidth=2,
)
axes.set(xlabel="box", ylabel="coin")
axes.grid(visible=False)
figure.colorbar(picture, label="giou")
plt.show()

# %% [markdown]
# ## 6. The loss of a detector: classes and boxes
#
# So far every box had a coin. A detector looks at many places, its **anchors**, most of which show none, and its loss
# has two parts: is there an object, at all anchors, and where is it, at those that have one. A grid of boxes over the
# photo, with the coin that each overlaps most:

# %%
rows, columns = np.mgrid[20 : image.shape[0] : 20, 20 : image.shape[1] : 20]
side = np.full(rows.size, 50)
anchors = from_cxcywh(np.stack([columns.ravel(), rows.ravel(), side, side], -1).astype(np.float32))
overlap = 1 - jax.vmap(jax.vmap(jl.iou, (0, None)), (None, 0))(anchors, targets)  # (coins, anchors)
has_coin, coin = overlap.max(axis=0) > 0.5, overlap.argmax(axis=0)
print(f"{has_coin.sum()} of {len(anchors)} anchors have a coin")

# %% [markdown]
# The focal loss keeps the hundreds of anchors that obviously show nothing from drowning the few others. Both parts are
# sums, divided by the number of anchors with a coin: so the loss of a photo does not depend on how many empty anchors
# it has. In a network `scores` and `boxes` come from its last layers.


# %%
def detector(scores, boxes):
    objects = jnp.maximum(jnp.sum(has_coin), 1)
    classes = jl.binary_focal(
        has_coin, scores, from_logits=True, gamma=2.0, alpha=0.25, reduction="sum"
    )
    places = jl.giou(jnp.asarray(targets)[coin], boxes, where=has_coin, reduction="sum")
    return classes / objects, places / objects


sure = jnp.where(has_coin, 3.0, -3.0)
print("knows nothing         {:.3f} {:.3f}".format(*detector(0 * sure, anchors)))
print("sure of what is where {:.3f} {:.3f}".format(*detector(sure, anchors)))
print("and its boxes fit     {:.3f} {:.3f}".format(*detector(sure, jnp.asarray(targets)[coin])))

# %% [markdown]
# ## 7. Small boxes
#
# Many implementations add a small number, such as $10^{-7}$, to denominators, so that nothing is divided by 0. In
# coordinates from 0 to 1 that is no small number: a box whose sides are 1/2000 of the image has an area of
# $2.5 \cdot 10^{-7}$. `jaxloss` adds nothing, and defines what 0 / 0 is instead. So a loss is the same in all units:

# %%
small_target = np.float32([0.0, 0.0, 5e-4, 5e-4])
small_box = np.float32([1e-4, 1e-4, 6e-4, 6e-4])
shared, each = np.float64(4e-4) ** 2, np.float64(5e-4) ** 2
print(f"exact          {1 - shared / (2 * each - shared):.6f}")
print(f"jaxloss        {jl.iou(small_target, small_box):.6f}")
print(f"with 1e-7      {1 - shared / (2 * each - shared + 1e-7):.6f}")
assert abs(jl.iou(small_target, small_box) - 9 / 17) < 1e-6

# %% [markdown]
# And boxes without any area, or equal ones, have finite losses and gradients:

# %%
point = jnp.array([2.0, 2.0, 2.0, 2.0])
for name in ("giou", "ciou", "eiou", "siou"):
    loss = jax.value_and_grad(jl.LOSSES[name], argnums=1)
    value, gradient = loss(jnp.asarray(target), point)
    equal, _ = loss(target, jnp.asarray(target))
    print(f"{name:5} of a point {value:.3f}, gradient {gradient}; of equal boxes {equal}")

# %% [markdown]
# ## What to remember
#
# - Boxes are `x1 y1 x2 y2`; `jaxloss.boxes.from_cxcywh` converts centres and sizes.
# - `iou`, `iou_log`, `focal_eiou` and `alpha_iou` of `iou`, its default, need boxes that overlap; the others work from
#   anywhere.
# - `where=` for padding; two `vmap`s for every target with every box; the mean of `wiou_v3` is an argument.
# - Pixels or normalised coordinates: the losses are the same.
