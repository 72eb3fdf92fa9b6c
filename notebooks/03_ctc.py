# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # CTC: reading without knowing where
#
# A strip of handwritten digits, and the number it shows: `4 0 7 7 1`. Nobody says which columns of the picture belong
# to which digit. **Connectionist temporal classification** (CTC) trains a network on such pairs all the same. This
# tutorial shows how, on real handwriting, with `jaxloss.ctc`. It needs no accelerator and runs in two minutes.
#
# You should know `jax.grad` and have trained a network once; the first notebook of this series is enough.
#
# 1. Strips of digits
# 2. What CTC computes, counted by hand
# 3. A small convolutional network
# 4. Training
# 5. What the network says in each column, and where it sees the digits
# 6. Errors
# 7. Lengths, masks, and sequences that cannot be

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
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxloss as jl

plt.style.use("style.mplstyle")

# %% [markdown]
# ## 1. Strips of digits
#
# The digits are real: 1,797 pictures of 8 x 8 pixels, from 13 writers. A fifth of them is kept for the test; no strip
# of the training contains any of those.

# %%
digits = load_digits()
images, numbers = digits.images.astype(np.float32) / 16, digits.target
train_x, test_x, train_y, test_y = train_test_split(
    images, numbers, test_size=0.2, random_state=0, stratify=numbers
)
print(train_x.shape, test_x.shape)

# %% [markdown]
# A strip has 3 to 5 of them, side by side. Some touch, some are apart, and some sit a pixel higher or lower. The strip
# is padded to 56 columns. What the training gets are three things: the pixels, the digits from left to right, and how
# many columns and digits count. Where one digit ends and the next one begins is not among them.

# %%
WIDTH, MOST = 56, 5


def make_strips(rng, x, y, count):
    strips = np.zeros((count, 10, WIDTH), np.float32)
    labels = np.zeros((count, MOST), np.int32)
    widths, lengths = np.zeros(count, np.int32), rng.integers(3, MOST + 1, count)
    for i, length in enumerate(lengths):
        column = rng.integers(0, 3)
        for k, which in enumerate(rng.integers(0, len(x), length)):
            row = rng.integers(0, 3)
            here = strips[i, row : row + 8, column : column + 8]
            np.maximum(here, x[which], out=here)
            labels[i, k] = y[which]
            column += 8 + rng.integers(-1, 4)
        widths[i] = min(column, WIDTH)
    return {
        "strips": strips,
        "labels": labels,
        "widths": widths,
        "lengths": lengths.astype(np.int32),
    }


test = make_strips(np.random.default_rng(1), test_x, test_y, 1000)


# %%
def text(labels):
    return " ".join(map(str, labels))


def draw(axes, strip, title, aspect="equal"):
    axes.imshow(strip, vmin=0, vmax=1, aspect=aspect)
    axes.set_title(title, loc="left", fontsize=11, family="monospace")
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


figure, grid = plt.subplots(4, 2, figsize=(8, 4.4))
for i, axes in enumerate(grid.flat):
    draw(axes, test["strips"][i], text(test["labels"][i, : test["lengths"][i]]))
    axes.axvline(test["widths"][i] - 0.5, color="C1", linewidth=1)
plt.show()

# %% [markdown]
# Behind the orange line is padding.
#
# ## 2. What CTC computes, counted by hand
#
# The network looks at each frame (a few columns) and gives probabilities for eleven classes: the ten digits and a
# **blank**, "nothing new here". One class a frame makes a *path*. What a path spells is found in two steps:
#
# 1. merge repeats, since a digit is wider than one frame;
# 2. drop the blanks.
#
# So `4 4 - 7 - 7` spells 4 7 7, and the blank in the middle is what keeps the two sevens apart.

# %%
BLANK = 10


def spell(path):
    merged = [k for k, _ in itertools.groupby(path)]
    return tuple(k for k in merged if k != BLANK)


print(spell([4, 4, BLANK, 7, BLANK, 7]), spell([4, 7, 7, 7, BLANK, BLANK]))

# %% [markdown]
# Many paths spell the same. The probability of the labels is the **sum over all of them**, and the loss is minus its
# logarithm:
#
# $$-\log \sum_{\text{paths that spell } y} \; \prod_t p_t(\text{path}_t)$$
#
# For 4 frames and the classes 0, 1, 2 (2 is the blank here) there are only 81 paths, and we can try them all:

# %%
rng = np.random.default_rng(0)
logits = rng.normal(size=(4, 3))
log_p = jax.nn.log_softmax(logits)
labels = (0, 1)

paths = [
    path
    for path in itertools.product(range(3), repeat=4)
    if spell([BLANK if k == 2 else k for k in path]) == labels
]
total = sum(np.exp(sum(log_p[t, k] for t, k in enumerate(path))) for path in paths)
names = ["".join("01-"[k] for k in path) for path in paths]
print(len(paths), "of 81 paths spell 0 1:", *names)
print("counted by hand", -np.log(total))
print("jl.ctc         ", jl.ctc(labels, logits, blank=2))
assert abs(-np.log(total) - jl.ctc(labels, logits, blank=2)) < 1e-5

# %% [markdown]
# For 28 frames and 11 classes there are $11^{28}$ paths. `ctc` sums over them in a number of steps that grows with
# frames times labels, no more: all paths that have spelled the same beginning by frame $t$ share their future.
#
# ## 3. A small convolutional network
#
# Three convolutions; the second one halves both axes, so that a frame is two columns wide and a digit has about four
# frames. Each frame sees the 13 columns around it, as one must to tell a digit from its neighbours. Noise and dropout
# keep the network from learning 1,400 digits by heart.


# %%
def initialise(key):
    shapes = {
        "first": (3, 3, 1, 24),
        "second": (3, 3, 24, 48),
        "third": (5, 5, 48, 96),
        "last": (1, 1, 96, 11),
    }
    keys = jax.random.split(key, len(shapes))
    scale = {name: np.sqrt(2 / np.prod(shape[:3])) for name, shape in shapes.items()}
    return {
        name: {"kernel": scale[name] * jax.random.normal(k, shape), "bias": jnp.zeros(shape[3])}
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def convolve(layer, x, strides=(1, 1), padding="SAME"):
    axes = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(x, layer["kernel"], strides, padding, dimension_numbers=axes)
    return x + layer["bias"]


def drop(key, x, rate=0.25):
    if key is None:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def network(params, strips, key=None):
    """(batch, 10, columns) -> logits (batch, columns / 2, 11). In training, a key for what is dropped at random."""
    keys = (None, None, None) if key is None else jax.random.split(key, 3)
    if key is not None:
        strips = strips + 0.1 * jax.random.normal(keys[2], strips.shape)
    x = jax.nn.relu(convolve(params["first"], strips[..., None]))
    x = jax.nn.relu(convolve(params["second"], x, strides=(2, 2)))
    x = drop(keys[0], x)
    x = jax.nn.relu(convolve(params["third"], x, padding=((0, 0), (2, 2))))  # 5 rows become 1
    return convolve(params["last"], drop(keys[1], x))[:, 0]


params = initialise(jax.random.key(0))
untrained = params
print(jax.eval_shape(network, params, test["strips"][:32]).shape)
print(sum(p.size for p in jax.tree.leaves(params)), "parameters")

# %% [markdown]
# ## 4. Training
#
# The loss takes the labels and the logits of a batch of strips of different lengths. `logit_lengths` says how many
# frames of each strip count, `label_lengths` how many labels; what lies behind them is never read.


# %%
def objective(params, batch, key):
    return jl.ctc(
        batch["labels"],
        network(params, batch["strips"], key),
        label_lengths=batch["lengths"],
        logit_lengths=(batch["widths"] + 1) // 2,
        blank=BLANK,
    )


steps, batch_size = 800, 64
optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, 4e-3))


@jax.jit
def step(params, state, batch, key):
    loss, gradient = jax.value_and_grad(objective)(params, batch, key)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, loss


# %% [markdown]
# To read a strip, take the best class of each frame and spell that path. (The best path need not spell the most
# probable labels, but a trained network is so sure of itself that it nearly always does.) A strip counts only if it is
# read without any mistake.


# %%
@jax.jit
def best_paths(params, strips):
    return jnp.argmax(network(params, strips), axis=-1)


def read(params, data):
    paths = np.asarray(best_paths(params, data["strips"]))
    return [
        spell(path[: (width + 1) // 2]) for path, width in zip(paths, data["widths"], strict=True)
    ]


def truth(data):
    return [tuple(y[:n].tolist()) for y, n in zip(data["labels"], data["lengths"], strict=True)]


def accuracy(params, data):
    return np.mean([r == t for r, t in zip(read(params, data), truth(data), strict=True)])


# %% [markdown]
# Each step gets strips never seen before, joined at random from the digits for training.

# %%
rng = np.random.default_rng(0)
state = optimizer.init(params)
losses, accuracies = [], {}
for i in range(steps + 1):
    if i % 100 == 0:
        accuracies[i] = accuracy(params, test)
        print(f"step {i:4}: {accuracies[i]:6.1%} of the test strips are read without a mistake")
    params, state, loss = step(
        params, state, make_strips(rng, train_x, train_y, batch_size), jax.random.key(i)
    )
    losses.append(float(loss))

# %%
figure, (left, right) = plt.subplots(1, 2)
left.semilogy(losses, color="C0", linestyle="-", linewidth=0.8, alpha=0.35)
smooth = np.convolve(losses, np.ones(25) / 25, "valid")
left.semilogy(np.arange(len(smooth)) + 12, smooth, color="C0", linestyle="-")
left.set(xlabel="step", ylabel="loss of a strip (CTC)")
right.plot(list(accuracies), list(accuracies.values()), "o-", color="C2")
right.set(xlabel="step", ylabel="test strips read exactly", ylim=(-0.02, 1.02))
right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
plt.show()

# %%
final = accuracy(params, test)
print(f"{final:.1%} of {len(test['lengths'])} strips of digits that the network has never seen")
assert final >= 0.95

# %% [markdown]
# ## 5. What the network says in each column, and where it sees the digits
#
# The probabilities of each frame, for one strip, before and after the training. Nobody told the network to speak up
# once a digit and to be silent in between: the blank and the sum over all paths make it so.

# %%
example = int(np.argmax(test["lengths"] == MOST))
strip, width = test["strips"][example], int(test["widths"][example])
label = test["labels"][example, : test["lengths"][example]]
frames = (width + 1) // 2

figure, (top, before, after) = plt.subplots(3, 1, figsize=(8, 6.4), height_ratios=(0.8, 1, 1))
draw(top, strip[:, :width], text(label), aspect="auto")
panels = ((before, untrained, "before the training"), (after, params, "after the training"))
for axes, p, title in panels:
    posterior = jax.nn.softmax(network(p, strip[None])[0, :frames])
    image = axes.imshow(
        posterior.T,
        cmap="Blues",
        vmin=0,
        vmax=1,
        aspect="auto",
        extent=(-0.5, 2 * frames - 0.5, 10.5, -0.5),
    )
    axes.set_yticks(range(11), [*map(str, range(10)), "blank"], fontsize=8)
    axes.set(title=title, xlim=(-0.5, width - 0.5), ylabel="class")
    axes.grid(visible=False)
after.set_xlabel("column")
figure.colorbar(image, ax=(top, before, after), label="probability")
plt.show()

# %% [markdown]
# Where is each digit? The derivative of the loss knows. By the logit of class $k$ in frame $t$ it is
#
# $$\frac{\partial\, \text{ctc}}{\partial z_{tk}} = p_t(k) - \text{share of the paths in class } k \text{ at } t$$
#
# among all paths that spell the labels. So the share, the **alignment**, is the softmax minus the gradient. It answers
# "given that this strip shows these digits, where are they?", and even the untrained network has an answer, if a vague
# one.


# %%
def alignment(params):
    z = network(params, strip[None])[0, :frames]
    return jax.nn.softmax(z) - jax.grad(jl.ctc, argnums=1)(label, z, blank=BLANK)


figure, (top, before, after) = plt.subplots(
    3, 1, figsize=(8, 5.6), height_ratios=(1, 0.8, 0.8), sharex=True
)
draw(top, strip[:, :width], text(label), aspect="auto")
top.set_xlim(-0.5, width - 0.5)
colours = dict(
    zip(dict.fromkeys(label.tolist()), ("C0", "C1", "C2", "C3", "#a07800"), strict=False)
)
centres = 2 * np.arange(frames) + 0.5
panels = ((before, untrained, "before the training"), (after, params, "after the training"))
for axes, p, title in panels:
    share = np.asarray(alignment(p))
    np.testing.assert_allclose(share.sum(-1), 1, atol=1e-5)
    axes.fill_between(
        centres, share[:, BLANK], color="#dddddd", step="mid", linewidth=0, label="blank"
    )
    for k, colour in colours.items():
        axes.step(centres, share[:, k], where="mid", color=colour, label=str(k))
    axes.set(title=title, ylabel="share of the paths", ylim=(0, 1.05))
after.set_xlabel("column")
after.set_xticks(range(0, width, 10))
handles, names = after.get_legend_handles_labels()
figure.legend(handles, names, loc="outside right center")
plt.show()

# %% [markdown]
# ## 6. Errors
#
# Strips that were misread: the truth in black, what was read in orange.

# %%
wrong = [i for i, (r, t) in enumerate(zip(read(params, test), truth(test), strict=True)) if r != t]
print(f"{len(wrong)} of {len(test['lengths'])} strips are misread")
readings = read(params, {key: x[wrong[:8]] for key, x in test.items()})

figure, grid = plt.subplots(4, 2, figsize=(8, 5.2))
for axes in grid.flat:
    axes.axis("off")
for axes, i, reading in zip(grid.flat, wrong, readings, strict=False):
    draw(axes, test["strips"][i], "")
    axes.set_title(text(truth(test)[i]), loc="left", family="monospace", fontsize=11)
    axes.set_title(text(reading), color="C1", loc="center", family="monospace", fontsize=11)
plt.show()

# %% [markdown]
# ## 7. Lengths, masks, and sequences that cannot be
#
# **Padding is never read**, neither by the value nor by the gradient. It may be NaN:

# %%
z = network(params, test["strips"][:3])
lengths = {"label_lengths": test["lengths"][:3], "logit_lengths": (test["widths"][:3] + 1) // 2}
behind = jnp.arange(z.shape[1]) >= lengths["logit_lengths"][:, None]
spoiled = jnp.where(behind[..., None], jnp.nan, z)
options = {**lengths, "blank": BLANK, "reduction": "none"}
print(jl.ctc(test["labels"][:3], z, **options))
print(jl.ctc(test["labels"][:3], spoiled, **options))
total = functools.partial(jl.ctc, **{**options, "reduction": "sum"})
gradient = jax.grad(total, argnums=1)(test["labels"][:3], spoiled)
assert jnp.isfinite(gradient).all()

# %% [markdown]
# **Some labels fit into no path.** Two equal digits need three frames, with a blank in the middle. Two frames are too
# few: the probability is 0, the loss infinite, and its gradient 0, so that one such strip in a batch does no harm to
# the parameters. `infeasible="zero"` keeps it out of the value too, and `where=` leaves the whole sequence out of the
# mean.

# %%
labels, logits = jnp.array([[1, 1], [1, 2]]), jnp.zeros((2, 2, 3))
print("losses            ", jl.ctc(labels, logits, reduction="none"))
print('infeasible="zero" ', jl.ctc(labels, logits, infeasible="zero", reduction="none"))
print("mean of the second", jl.ctc(labels, logits, where=jnp.array([False, True])))
print("gradient of the first", jax.grad(jl.ctc, argnums=1)(labels, logits)[0].tolist())

# %% [markdown]
# ## What to remember
#
# - `jl.ctc(labels, logits, label_lengths=, logit_lengths=, blank=)`: logits, batch first; the mean over sequences.
# - The network needs at least as many frames as labels, and one more for each pair of equal neighbours.
# - Read with the best class of each frame: merge repeats, drop blanks.
# - Softmax minus gradient is the alignment.
# - `jl.rnnt` is for models whose next label depends on the labels before: the transducer.
