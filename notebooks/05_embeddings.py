# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Embeddings: like beside like
#
# A classifier knows the classes that it was trained on, and no others. An **embedding** maps each example to a vector
# so that like lies beside like, and a new class needs no new training: show a few examples, and the nearest one wins.
# This notebook trains the same small network with four losses on six of the ten digits, then asks it about the other
# four. It needs no accelerator and no internet beyond the installation, and runs in a minute.
#
# 1. Six digits to learn, four to be met later
# 2. One network, four losses
# 3. The embeddings
# 4. Nearest neighbours
# 5. Masks

# %% [markdown]
# In a clone of the repository the next cell installs `jaxloss` and what this notebook imports, where it is missing; it
# leaves the JAX that is there as it is.

# %%
from importlib.util import find_spec

if find_spec("jaxloss") is None:
    print("Installing jaxloss")
    # %pip install -q "..[demo]"

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxloss as jl
from jaxloss.mining import hardest_positive, semi_hard_negative

plt.style.use("style.mplstyle")

# %% [markdown]
# ## 1. Six digits to learn, four to be met later
#
# The digits are 1,797 pictures of 8 x 8 pixels, by 13 writers. The losses see the digits 0 to 5; 6 to 9 are kept. To
# make it harder, each digit lies somewhere on a sheet of 12 x 12, a tenth of its pixels is missing, and the ink is
# stronger or fainter. Such a **view** of a digit is drawn anew at each step of the training; for the test it is drawn
# once.


# %%
def view(key, digits):
    """(n, 64) -> (n, 144): each digit at a random place, damaged a little."""
    place, hole, ink = jax.random.split(key, 3)
    digits *= jax.random.bernoulli(hole, 0.9, digits.shape)
    digits *= jax.random.uniform(ink, (len(digits), 1), minval=0.6, maxval=1.0)

    def put(digit, corner):
        return jax.lax.dynamic_update_slice(jnp.zeros((12, 12)), digit.reshape(8, 8), corner)

    corners = jax.random.randint(place, (len(digits), 2), 0, 5)
    return jax.vmap(put)(digits, corners).reshape(len(digits), 144)


images, labels = load_digits(return_X_y=True)
images = images.astype(np.float32) / 16
seen = labels < 6
train, known, train_y, known_y = map(
    jnp.asarray, train_test_split(images[seen], labels[seen], test_size=0.3, random_state=0)
)
new, new_y = jnp.asarray(images[~seen]), jnp.asarray(labels[~seen])
known_x, new_x = view(jax.random.key(1), known), view(jax.random.key(2), new)
print(
    len(train), "to learn from; for the test", len(known), "of these digits,", len(new), "of others"
)

# %%
figure, grid = plt.subplots(2, 8, figsize=(8, 2.3))
views = [view(jax.random.key(key), train[4:12]) for key in (0, 3)]
for axes, picture in zip(grid.flat, jnp.concatenate(views), strict=True):
    axes.imshow(picture.reshape(12, 12), vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
figure.suptitle("two views of each of eight digits", fontsize=11)
plt.show()

# %% [markdown]
# ## 2. One network, four losses
#
# The network has one hidden layer and returns 32 numbers.


# %%
def initial(key):
    first, second, third = jax.random.split(key, 3)
    return {
        "first": jax.random.normal(first, (144, 256)) / 9,
        "second": jax.random.normal(second, (256, 32)) / 12,
        "classes": jax.random.normal(third, (32, 6)) / 6,  # for the cross-entropy alone
    }


def embed(params, x):
    return jax.nn.relu(x @ params["first"]) @ params["second"]


# %% [markdown]
# The losses differ in what they ask for:
#
# | loss | labels | asks that |
# |---|---|---|
# | `sparse_cce` | yes | a linear layer can tell the classes apart |
# | `triplet` | yes | an example is nearer to one of its label than to one of another, by a margin |
# | `sup_con` | yes | among all examples of the batch, those of the same label are the nearest |
# | `nt_xent` | **no** | among all views in the batch, the other view of the same picture is the nearest |
#
# `triplet` compares three examples: an anchor, a positive of its label and a negative of another. Which ones? The
# functions of `jaxloss.mining` choose from the matrix of distances, here the farthest positive, and the nearest
# negative that is farther than this. They also say which anchors have both: that is the mask.


# %%
def cross_entropy(params, key, x, y):
    logits = embed(params, view(key, x)) @ params["classes"]
    return jl.sparse_cce(y, logits, from_logits=True)


def normalised(z):
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def triplets(params, key, x, y):
    z = normalised(embed(params, view(key, x)))
    distance = jnp.sqrt(jnp.maximum(2 - 2 * z @ z.T, 0))
    positive, some = hardest_positive(y, distance)
    negative, others = semi_hard_negative(y, distance, positive)
    return jl.triplet(z, z[positive], z[negative], margin=0.5, where=some & others)


def supervised(params, key, x, y):
    return jl.sup_con(y, embed(params, view(key, x)), temperature=0.2)


def two_views(params, key, x, y):
    first, second = (embed(params, view(each, x)) for each in jax.random.split(key))
    return jl.nt_xent(first, second, temperature=0.2)  # y is not used


# %%
STEPS, BATCH = 800, 128
optimizer = optax.adamw(optax.cosine_decay_schedule(3e-3, STEPS), weight_decay=1e-2)


@functools.partial(jax.jit, static_argnums=0)
def fit(loss):
    def step(carry, key):
        params, state = carry
        choice, views = jax.random.split(key)
        batch = jax.random.choice(choice, len(train), (BATCH,), replace=False)
        value, slope = jax.value_and_grad(loss)(params, views, train[batch], train_y[batch])
        updates, state = optimizer.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = initial(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), STEPS)
    (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params, values


losses = {
    "sparse_cce": cross_entropy,
    "triplet": triplets,
    "sup_con": supervised,
    "nt_xent": two_views,
}
embeddings = {"pixels": normalised}
for name, loss in losses.items():
    params, values = fit(loss)
    embeddings[name] = lambda x, params=params: normalised(embed(params, x))
    print(f"{name:10}  {values[0]:.2f} -> {values[-50:].mean():.2f}")

# %% [markdown]
# The numbers of different losses cannot be compared: `sup_con` cannot become 0, since a dozen positives share each
# softmax.
#
# ## 3. The embeddings
#
# Each panel shows the two directions in which the vectors differ most (their first principal components). Above are
# test pictures of the digits that were learned, below digits that no loss has seen.

# %%
COLOURS = np.array(["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#a07800"])


def draw(axes, vectors, labels):
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    for digit in np.unique(labels):
        here = places[labels == digit]
        colour = COLOURS[digit % 6]
        axes.scatter(*here.T, marker=f"${digit}$", s=22, color=colour, linewidths=0.2)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)


figure, grid = plt.subplots(2, 5, figsize=(10, 4.4))
for (name, embedding), (above, below) in zip(embeddings.items(), grid.T, strict=True):
    draw(above, np.asarray(embedding(known_x)), np.asarray(known_y))
    draw(below, np.asarray(embedding(new_x[:325])), np.asarray(new_y[:325]))
    above.set_title(name, fontsize=11)
grid[0, 0].set_ylabel("learned: 0 to 5")
grid[1, 0].set_ylabel("new: 6 to 9")
plt.show()

# %% [markdown]
# ## 4. Nearest neighbours
#
# Now the numbers. A few examples of each class are known, and each other picture gets the label of the nearest of
# them. The mean over 40 draws of the examples:


# %%
def accuracy(vectors, labels, examples, draws=40):
    classes = jnp.unique(labels)
    similar = vectors @ vectors.T

    def one_draw(key):
        lots = jax.random.uniform(key, labels.shape)
        lots = jnp.where(labels == classes[:, None], lots, -1)
        shown = jax.lax.top_k(lots, examples)[1].ravel()
        nearest = shown[jnp.argmax(similar[:, shown], axis=1)]
        asked = jnp.ones(len(labels), bool).at[shown].set(False)
        return jnp.mean(labels[nearest] == labels, where=asked)

    return jax.vmap(one_draw)(jax.random.split(jax.random.key(0), draws)).mean()


SHOWN = (1, 2, 5, 10, 20)
curves = {
    (name, kind): [float(accuracy(embedding(x), y, n)) for n in SHOWN]
    for name, embedding in embeddings.items()
    for kind, x, y in (("learned", known_x, known_y), ("new", new_x, new_y))
}
print("examples of each class:", *SHOWN)
for (name, kind), values in curves.items():
    print(f"{name:10} {kind:8}", *(f"{value:5.0%}" for value in values))
assert curves["sup_con", "learned"][0] > 0.9
assert curves["nt_xent", "new"][0] > 2 * curves["pixels", "new"][0]

# %%
figure, panels = plt.subplots(1, 2, sharey=True)
titles = {"learned": "digits that were learned", "new": "digits never seen"}
for panel, (kind, title) in zip(panels, titles.items(), strict=True):
    panel.plot(SHOWN, curves["pixels", kind], color="#666666", linestyle=":", label="pixels")
    for name in losses:
        panel.plot(SHOWN, curves[name, kind], marker="o", markersize=4, label=name)
    panel.set(xscale="log", xlabel="examples of each class", title=title, ylim=(0, 1.02))
    panel.set_xticks(SHOWN, map(str, SHOWN))
    panel.minorticks_off()
panels[0].set_ylabel("right neighbours")
panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=5)
plt.show()

# %% [markdown]
# Pixels fail, since the digits move. With labels, one example of a class is nearly enough: the embedding has a cluster
# for each. But what tells a 6 from an 8 was of no use for telling 0 to 5 apart, and the losses with labels dropped it.
# `nt_xent` must tell every picture from every other. It needs no labels, is worse at the digits that it was trained on,
# and better at those that it was not.
#
# The nearest neighbours of four new digits, out of all new digits; those of another digit have an orange frame:

# %%
figure, panels = plt.subplots(1, 3, figsize=(8, 3.2))
queries = [int(jnp.argmax(new_y == digit)) for digit in range(6, 10)]
for panel, name in zip(panels, ("pixels", "sup_con", "nt_xent"), strict=True):
    vectors = embeddings[name](new_x)
    rows = jax.lax.top_k(vectors[jnp.array(queries)] @ vectors.T, 5)[1]
    sheet = new_x[rows].reshape(4, 5, 12, 12).transpose(0, 2, 1, 3).reshape(48, 60)
    panel.imshow(sheet, vmin=0, vmax=1)
    for (i, j), member in np.ndenumerate(np.asarray(rows)):
        right = new_y[member] == new_y[queries[i]]
        style = {"edgecolor": "#bbbbbb", "linewidth": 0.5} if right else {"edgecolor": "C1"}
        corner = (12 * j - 0.5 + 0.4, 12 * i - 0.5 + 0.4)
        panel.add_patch(plt.Rectangle(corner, 11.2, 11.2, fill=False, **style))
    panel.axvline(11.5, color="black", linewidth=1)
    panel.set(title=name, xticks=[], yticks=[])
    panel.grid(visible=False)
plt.show()

# %% [markdown]
# Left of the line is the picture that was asked for.
#
# ## 5. Masks
#
# The last batch of a data set is shorter, so it is padded. `where=` says which members exist. A member that does not
# exist is neither an anchor nor a candidate, whatever lies in it:

# %%
z, y = embeddings["pixels"](known_x[:6]), known_y[:6]
padded = jnp.concatenate([z, jnp.full((2, 144), jnp.nan)])
padded_y = jnp.concatenate([y, jnp.zeros(2, y.dtype)])
exists = jnp.arange(8) < 6
print(jl.sup_con(y, z), jl.sup_con(padded_y, padded, where=exists))
gradient = jax.grad(jl.sup_con, argnums=1)(padded_y, padded, where=exists)
assert jnp.isfinite(gradient).all()

# %% [markdown]
# An anchor whose label no other has costs 0 and is not counted by the mean; the mining functions say so, too.
#
# ## What to remember
#
# - `sup_con(labels, embeddings)` and `nt_xent(first, second)` take embeddings of any length; `triplet` measures the
#   distances of what it gets, so normalise first.
# - `jaxloss.mining` chooses triplets and says which exist: `where=some & others`.
# - Labels make the best clusters of what is labelled; views carry over to what is not.
# - `jl.clip`, `jl.siglip` and `jl.info_nce` are for pairs of different kinds, such as pictures and texts.
