# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Segmentation: a class for each pixel
#
# A network looks at a photo and says of each pixel what it shows. Three things make the loss harder than that of a
# classifier: pixels that nobody can label (255, by custom), classes that cover few pixels, and a measure of success,
# the overlap, that is no mean over pixels. This notebook trains a small U-net with cross-entropy, with class weights,
# and with cross-entropy and Dice together. It needs no accelerator and no internet beyond the installation, and runs in
# about a minute.
#
# 1. Pictures, labels, and what nobody can label
# 2. A small U-net
# 3. Three losses
# 4. What they find
# 5. A label that should not be there: `checked`

# %% [markdown]
# In a clone of the repository the next cell installs `jaxloss` and what this notebook imports, where it is missing; it
# leaves the JAX that is there as it is.

# %%
from importlib.util import find_spec

if find_spec("jaxloss") is None or find_spec("skimage") is None:
    print("Installing jaxloss and scikit-image")
    # %pip install -q "..[demo]" scikit-image

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import ListedColormap
from skimage import data, transform
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxloss as jl

plt.style.use("style.mplstyle")

# %% [markdown]
# ## 1. Pictures, labels, and what nobody can label
#
# Handwritten digits (scikit-learn) lie on gravel (a photo that comes with scikit-image): 3s, 8s and, seldom, 5s. The
# classes are the ground, 3, 8 and 5. Where a stroke fades into the ground nobody can say what a pixel is; its label is
# 255, as in most data sets of this kind.

# %%
NAMES, DIGITS, SIZE = ("ground", "3", "8", "5"), (3, 8, 5), 32
gravel = data.gravel().astype(np.float32) / 255
digits = load_digits()
ink, number = digits.images.astype(np.float32) / 16, digits.target
split = train_test_split(ink, number, test_size=0.3, random_state=0, stratify=number)


def make_sheets(rng, ink, number, count):
    """(count, 32, 32) photos, and labels of the same shape."""
    photos = np.empty((count, SIZE, SIZE), np.float32)
    labels = np.zeros((count, SIZE, SIZE), np.int32)
    for photo, label in zip(photos, labels, strict=True):
        row, column = rng.integers(0, gravel.shape[0] - SIZE, 2)
        photo[:] = gravel[row : row + SIZE, column : column + SIZE]
        for top, left in ((1, 1), (1, 16), (16, 1), (16, 16)):
            which = rng.choice(3, p=(0.48, 0.48, 0.04))
            digit = ink[rng.choice(np.flatnonzero(number == DIGITS[which]))]
            row, column = top + rng.integers(7), left + rng.integers(7)
            here = np.s_[row : row + 8, column : column + 8]
            photo[here] *= 1 - 0.8 * digit
            label[here] = np.where(digit > 0.5, which + 1, np.where(digit > 0.15, 255, 0))
    return photos, labels


train_ink, test_ink, train_number, test_number = split
test_x, test_y = make_sheets(np.random.default_rng(1), test_ink, test_number, 300)
STEPS, BATCH = 400, 16
batches = [
    make_sheets(np.random.default_rng(100 + i), train_ink, train_number, BATCH)
    for i in range(STEPS)
]
pixels = np.stack([labels for _, labels in batches])
share = [np.mean(pixels == label) for label in (0, 1, 2, 3, 255)]
for name, part in zip((*NAMES, "255"), share, strict=True):
    print(f"{name:8} {part:6.1%} of the pixels")

# %%
COLOURS = ListedColormap(["#eeeeee", "#0072b2", "#009e73", "#d55e00", "#999999"])


def draw(axes, label):
    axes.imshow(
        np.where(label == 255, 4, label), cmap=COLOURS, vmin=0, vmax=4, interpolation="none"
    )


def bare(grid):
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)


def legend(figure, names):
    patches = [plt.Rectangle((0, 0), 1, 1, color=COLOURS(i)) for i in range(len(names))]
    figure.legend(patches, names, loc="outside upper center", ncols=5, handlelength=1)


rare = np.flatnonzero((test_y == 3).any(axis=(1, 2)))[:6]
figure, grid = plt.subplots(2, 6, figsize=(9, 3.5))
bare(grid)
for (above, below), i in zip(grid.T, rare, strict=True):
    above.imshow(test_x[i], cmap="gray", vmin=0, vmax=1)
    draw(below, test_y[i])
legend(figure, (*NAMES, "255: nobody knows"))
plt.show()

# %% [markdown]
# ## 2. A small U-net
#
# Convolutions at three resolutions. On the way down the picture is halved twice, on the way up it is doubled again, and
# each level also sees what was there on the way down.

# %%
SHAPES = {
    "one": (1, 16),
    "two": (16, 32),
    "three": (32, 48),
    "four": (48, 48),
    "five": (48 + 32, 32),
    "six": (32 + 16, 24),
}


def initial(key):
    keys = jax.random.split(key, len(SHAPES) + 1)
    params = {
        name: jax.random.normal(k, (3, 3, *shape)) * jnp.sqrt(2 / (9 * shape[0]))
        for k, (name, shape) in zip(keys, SHAPES.items(), strict=False)
    }
    return params | {"last": jax.random.normal(keys[-1], (1, 1, 24, 4)) * 0.1, "bias": jnp.zeros(4)}


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def halved(x):
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def doubled(x):
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def network(params, photos):
    """(batch, 32, 32) -> logits (batch, 32, 32, 4)."""

    def layer(name, x):
        return jax.nn.relu(convolve(x, params[name]))

    fine = layer("one", 2 * photos[..., None] - 1)
    middle = layer("two", halved(fine))
    coarse = layer("four", layer("three", halved(middle)))
    middle = layer("five", jnp.concatenate([doubled(coarse), middle], axis=-1))
    fine = layer("six", jnp.concatenate([doubled(middle), fine], axis=-1))
    return convolve(fine, params["last"]) + params["bias"]


# %% [markdown]
# ## 3. Three losses
#
# All of them leave out the pixels labelled 255: `where=labels != 255`.
#
# - **Cross-entropy** counts each pixel alike, so nearly all of its gradient is about ground, 3s and 8s.
# - **Class weights** multiply the loss of a pixel by a factor of its class, here 1 over the root of the share of the
#   class.
# - **Dice** is one minus an overlap, by class: a class of few pixels counts as much as one of many. With
#   `axis=(0, 1, 2)` the overlap is that of the whole batch, so a class that a picture does not show does no harm. Its
#   gradient is weak where the network is wrong and sure of it, so it is mostly used together with cross-entropy.

# %%
weights = np.array(share[:4]) ** -0.5
weights = jnp.asarray(weights / weights.mean())
print("class weights", weights)


def plain(labels, logits):
    return jl.sparse_cce(labels, logits, from_logits=True, where=labels != 255)


def weighted(labels, logits):
    return jl.sparse_cce(
        labels, logits, from_logits=True, class_weights=weights, where=labels != 255
    )


def with_dice(labels, logits):
    overlap = jl.dice(labels, logits, from_logits=True, axis=(0, 1, 2), where=labels != 255)
    return plain(labels, logits) + overlap


# %%
optimizer = optax.adam(optax.cosine_onecycle_schedule(STEPS, 8e-3))


def make_step(loss):
    @jax.jit
    def step(params, state, photos, labels):
        value, slope = jax.value_and_grad(lambda p: loss(labels, network(p, photos)))(params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    return step


LOSSES = {"cross-entropy": plain, "class weights": weighted, "with Dice": with_dice}
found, history = {}, {}
for name, loss in LOSSES.items():
    step = make_step(loss)
    params = initial(jax.random.key(0))
    state, history[name] = optimizer.init(params), []
    for batch in batches:
        params, state, value = step(params, state, *batch)
        history[name].append(float(value))
    found[name] = np.asarray(jax.jit(network)(params, test_x).argmax(axis=-1))
    print(f"{name:14} {history[name][0]:.2f} -> {np.mean(history[name][-20:]):.3f}")

# %% [markdown]
# ## 4. What they find
#
# The usual score is the IoU of each class: the pixels that are of the class and found, divided by those that are one or
# the other. That is one minus `jaccard` of the classes found, over all pictures at once:


# %%
def iou(labels, found):
    one_hot = jax.nn.one_hot(found, len(NAMES))
    known = labels != 255
    return 1 - jl.jaccard(labels, one_hot, axis=(0, 1, 2), where=known, reduction="none")


scores = {name: iou(test_y, pixels) for name, pixels in found.items()}
print(" " * 14, *(f"{name:>8}" for name in NAMES), "    mean")
for name, score in scores.items():
    print(f"{name:14}", *(f"{value:8.3f}" for value in score), f"{score.mean():8.3f}")
assert scores["cross-entropy"].mean() < scores["class weights"].mean()
assert scores["cross-entropy"].mean() < scores["with Dice"].mean()

# %%
figure, axes = plt.subplots(figsize=(8, 3))
for i, (name, score) in enumerate(scores.items()):
    axes.bar(np.arange(4) + 0.27 * (i - 1), score, width=0.25, color=f"C{i}", label=name)
axes.set_xticks(range(4), [f"{n}\n{s:.1%} of pixels" for n, s in zip(NAMES, share, strict=False)])
axes.set(ylabel="IoU, test", ylim=(0, 1))
axes.grid(visible=False, axis="x")
figure.legend(loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# Counted by pixels, all three are right nearly everywhere. The plain cross-entropy hardly finds the 5s: too few pixels
# ask for them. Both others do, at hardly any cost to the ground. Six pictures that show a 5 (orange):

# %%
figure, grid = plt.subplots(5, 6, figsize=(8, 7))
bare(grid)
for column, i in zip(grid.T, rare, strict=True):
    column[0].imshow(test_x[i], cmap="gray", vmin=0, vmax=1)
    draw(column[1], test_y[i])
    for axes, pixels in zip(column[2:], found.values(), strict=True):
        draw(axes, pixels[i])
for axes, name in zip(grid[:, 0], ("photo", "labels", *found), strict=True):
    axes.set_ylabel(name)
legend(figure, (*NAMES, "255: nobody knows"))
plt.show()

# %% [markdown]
# ## 5. A label that should not be there: `checked`
#
# Somebody enlarges the pictures, and the labels with them, by the same function. It interpolates, and between 0 and 255
# lie labels that do not exist. The loss is NaN, and does not say why. `checked` around the training step does: it names
# the argument, what it must hold, and where it does not.

# %%
photos = transform.resize(test_x[:2], (2, 48, 48), order=1).astype(np.float32)
spoiled = transform.resize(test_y[:2], (2, 48, 48), order=1, preserve_range=True).astype(int)

state = optimizer.init(params)
print(step(params, state, photos, spoiled)[2])
try:
    jl.checked(step)(params, state, photos, spoiled)
except jl.BadValueError as error:
    print(*str(error).split(". "), sep="\n")

# %% [markdown]
# `order=0`, the nearest pixel, is right for labels. (The network has convolutions only, so it takes pictures of any
# size that can be halved twice.)

# %%
enlarged = transform.resize(test_y[:2], (2, 48, 48), order=0, preserve_range=True).astype(int)
print(jl.checked(step)(params, state, photos, enlarged)[2])

# %% [markdown]
# ## What to remember
#
# - `where=labels != 255` leaves pixels out, in `sparse_cce` and in `dice`; what the network says there does not matter.
# - For classes of few pixels: `class_weights`, or `dice` beside the cross-entropy. `axis=(0, 1, 2)` is the overlap of
#   the batch; without it each picture has its own, and a class that it does not show counts, too.
# - `tversky` and `focal_tversky` are Dice with false alarms and misses weighed apart; `lovasz_softmax` follows the IoU.
# - NaN? `jl.checked(step)`.
