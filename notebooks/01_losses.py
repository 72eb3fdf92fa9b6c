# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The first six losses
#
# This tutorial shows what a loss is, six losses that most models need, and how `jaxloss` computes them: with masks,
# weights, reductions, and every transformation of JAX. It needs no accelerator and no internet beyond the installation,
# and runs in about a minute.
#
# You should know NumPy, and have seen `jax.grad` once.
#
# 1. <a href="#loss">What a loss is</a>
# 2. <a href="#numbers">Errors of numbers</a>: `mse`, `mae`, `huber`
# 3. <a href="#probabilities">Errors of probabilities</a>: `bce`, `cce`, `sparse_cce`
# 4. <a href="#training">Training</a>: a line through data with outliers, and a classifier of handwritten digits
# 5. <a href="#masks">Masks, weights, reductions</a>
# 6. <a href="#transformations">Transformations</a>: values and gradients of single examples, options that vary
# 7. <a href="#mistakes">Half precision and mistakes</a>, and how to find a NaN

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
import textwrap

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxloss as jl

# %% [markdown]
# One helper draws functions of one number next to their derivatives; how pictures look is in a file of its own.

# %%
plt.style.use("style.mplstyle")


def show(curves, x, xlabel):
    """Draw each function of one number (left) and its derivative (right)."""
    figure, (left, right) = plt.subplots(1, 2)
    for label, curve in curves.items():
        values, slopes = map(np.array, jax.vmap(jax.value_and_grad(curve))(x))
        left.plot(x, values, label=label)
        jumps = np.abs(np.diff(slopes)) > 0.1 * np.ptp(slopes)
        slopes[1:][jumps] = np.nan  # no line is drawn across one
        right.plot(x, slopes)
    left.set(xlabel=xlabel, ylabel="loss")
    right.set(xlabel=xlabel, ylabel="derivative")
    figure.legend(loc="outside upper center", ncols=len(curves))
    plt.show()


# %% [markdown]
# <a id="loss"></a>
#
# ## 1. What a loss is
#
# A loss is a number that says how far predictions lie from the truth: 0, or as small as it can be, where they are
# right, larger where they are worse. Training looks for the parameters that make it small, and it follows the
# **gradient** of the loss. So two things matter about a loss: its value, and how its slope grows with the error. The
# slope decides which mistakes the model works on.
#
# Two predictions, one of them wrong by 1:

# %%
y_true = [[0.0], [1.0]]
y_pred = [[1.0], [1.0]]
print(jl.mse(y_true, y_pred))

# %% [markdown]
# All losses of the library are functions of the same form. First come the truth and the prediction, then keywords:
# the loss's own options, and three that all losses share.
#
# ```
# loss(y_true, y_pred, *, <its own options>, weights=None, where=None, reduction="mean")
# ```
#
# | argument | meaning |
# |---|---|
# | `y_true`, `y_pred` | arrays of JAX or NumPy, numbers, or nested lists |
# | `weights` | how much each unit counts |
# | `where` | which units exist; the others are as good as left out |
# | `reduction` | what becomes of the losses of the units: `"mean"`, `"sum"`, `"none"`, ... |
#
# A **unit** is what gets a loss of its own: one number for the losses of section 2, one example for the losses of
# several classes. `reduction="none"` shows the units:

# %%
print(jl.mse(y_true, y_pred, reduction="none"))

# %% [markdown]
# <a id="numbers"></a>
#
# ## 2. Errors of numbers
#
# For numbers, what counts is the error $e = y_{\text{pred}} - y_{\text{true}}$.
#
# ### Mean squared error, `mse`
#
# $$\ell = e^2, \qquad \frac{\partial \ell}{\partial y_{\text{pred}}} = 2e$$
#
# The slope grows with the error: the worst points pull hardest. The constant that fits data best under `mse` is their
# **mean**. Use it when errors look like Gaussian noise and no point is a blunder.
#
# Two predictions, of which one is wrong by 1, cost $(1 + 0) / 2$:

# %%
loss = jl.mse([[0.0], [1.0]], [[1.0], [1.0]])
print(loss)
assert abs(loss - 0.5) < 1e-6

# %% [markdown]
# ### Mean absolute error, `mae`
#
# $$\ell = |e|, \qquad \frac{\partial \ell}{\partial y_{\text{pred}}} = \operatorname{sign}(e)$$
#
# Every point pulls equally hard, however wrong it is. The best constant is the **median**, so a few absurd values
# change little. The price: the slope does not fade near the optimum, so a fit with a constant step size ends by
# jumping to and fro.

# %%
loss = jl.mae([[0.0], [0.0]], [[1.0], [1.0]])
print(loss)
assert abs(loss - 1.0) < 1e-6

# %%
errors = jnp.linspace(-3, 3, 301)
show({"mse": lambda e: jl.mse(0.0, e), "mae": lambda e: jl.mae(0.0, e)}, errors, "error")

# %% [markdown]
# At $e = 0$ the absolute value has a kink. Any slope from -1 to 1 could stand there; `jaxloss` takes the middle, 0, so
# that a perfect prediction is left alone. (`jax.grad(jnp.abs)(0.0)` is 1.)

# %%
print(jax.grad(jl.mae, argnums=1)(0.0, 0.0))

# %% [markdown]
# ### Huber loss, `huber`
#
# $$\ell = \begin{cases} \tfrac{1}{2} e^2 & |e| \le \delta \\
# \delta \left(|e| - \tfrac{1}{2} \delta\right) & |e| > \delta \end{cases} \qquad
# \frac{\partial \ell}{\partial y_{\text{pred}}} = \min(\max(e, -\delta), \delta)$$
#
# A parabola for small errors, straight lines for large ones: it settles like `mse` and shrugs off outliers like `mae`.
# `delta` is the error at which a point stops being noise and becomes an outlier. Choose it in the units of `y`, for
# instance at one to two standard deviations of the noise. Note the factor 1/2: for small errors it is half of `mse`.

# %%
loss = jl.huber([[0], [1]], [[0.6], [0.4]])
print(loss)
assert abs(loss - 0.18) < 1e-6

# %%
curves = {f"delta = {d}": functools.partial(jl.huber, 0.0, delta=d) for d in (0.5, 1.0, 2.0)}
show(curves, errors, "error")

# %% [markdown]
# <a id="probabilities"></a>
#
# ## 3. Errors of probabilities
#
# A classifier answers with probabilities $p$. The natural loss is the surprise of the truth, $-\log p_{\text{true}}$:
# 0 when the model was certain and right, without bound when it was certain and wrong.
#
# ### Binary cross-entropy, `bce`
#
# For a question answered by yes (1) or no (0), one number at a time:
#
# $$\ell = -y \log p - (1 - y) \log(1 - p)$$
#
# Use it for two classes, and for several labels that may hold at once. Targets between 0 and 1 are allowed.

# %%
loss = jl.bce([[0], [1]], [[0.4], [0.6]])  # -log 0.6
print(loss)
assert abs(loss - 0.5108254) < 1e-6

# %%
p = jnp.linspace(0.05, 0.95, 301)
curves = {"truth 1": functools.partial(jl.bce, 1.0), "truth 0": functools.partial(jl.bce, 0.0)}
show(curves, p, "probability of 1")

# %% [markdown]
# ### Probabilities or logits?
#
# Networks end in **logits** $z$, any real numbers, and a sigmoid makes $p = 1 / (1 + e^{-z})$ of them. Give the logits
# to the loss and say `from_logits=True`: the slope is then simply $p - y$, never larger than 1, and nothing is
# rounded on the way.

# %%
z = jnp.linspace(-6, 6, 301)
logit_bce = functools.partial(jl.bce, from_logits=True)
curves = {f"truth {truth}": functools.partial(logit_bce, float(truth)) for truth in (1, 0)}
show(curves, z, "logit")

# %% [markdown]
# What rounding does: the model is certain, with logit 30, and wrong. The loss is 30. As a float32, the probability is
# exactly 1, and the 30 cannot be recovered from it. The loss stays finite, because it takes the logarithm of the
# smallest normal float32 in place of that of 0, but it is another number.

# %%
print("from the logit:      ", jl.bce(0.0, 30.0, from_logits=True))
print("from the probability:", jl.bce(0.0, jax.nn.sigmoid(30.0)))

# %% [markdown]
# ### Categorical cross-entropy, `cce`
#
# One of $K$ classes is right. The target is a row with a 1 at that class (one-hot), or any distribution $y$ over the
# classes:
#
# $$\ell = -\sum_{k=1}^{K} y_k \log p_k, \qquad p_k = \frac{e^{z_k}}{\sum_j e^{z_j}} \text{ for logits},
# \qquad \frac{\partial \ell}{\partial z_k} = p_k - y_k$$
#
# Use it when classes exclude each other and the targets are soft: mixed labels, several annotators, a teacher model.

# %%
loss = jl.cce([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
print(loss)  # -(log 0.95 + log 0.1) / 2
assert abs(loss - 1.176939) < 1e-6

# %% [markdown]
# ### The same with integer labels, `sparse_cce`
#
# With one right class, its number says it all: $\ell = -\log p_y$. The result is that of `cce`, and the one-hot rows,
# as large as the predictions, are never made. This is the loss of most classifiers and of language models.

# %%
loss = jl.sparse_cce([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
print(loss)
assert abs(loss - 1.176939) < 1e-6

# %% [markdown]
# Below, the logit of the right class varies and the others are 0. A model that knows nothing (logit 0) pays $\log K$:
# a useful check of the first loss that a training run prints.


# %%
def right_class(classes, z, **options):
    return jl.sparse_cce(0, jnp.zeros(classes).at[0].set(z), from_logits=True, **options)


logits = jnp.linspace(-4, 12, 301)
curves = {f"{k} classes": functools.partial(right_class, k) for k in (2, 10, 1000)}
show(curves, logits, "logit of the right class")

# %% [markdown]
# **Label smoothing** mixes the target with the uniform distribution, $(1 - a)\,y + a / K$. Certainty then has a price:
# the loss has its minimum at a finite logit, which keeps a model from becoming ever more extreme.

# %%
smoothings = {
    f"smoothing {a}": functools.partial(right_class, 10, label_smoothing=a) for a in (0.0, 0.1, 0.3)
}
show(smoothings, logits, "logit of the right class")

# %% [markdown]
# In short:
#
# | loss | for | the fit tends to | beware of |
# |---|---|---|---|
# | `mse` | numbers with well-behaved noise | the mean | outliers |
# | `mae` | numbers with outliers | the median | slow convergence at the end |
# | `huber` | numbers with some outliers | in between | `delta` is in the units of `y` |
# | `bce` | yes or no, several labels at once | the probability | logits need `from_logits=True` |
# | `cce` | one of K classes, soft targets | the probabilities | logits need `from_logits=True` |
# | `sparse_cce` | one of K classes, integer labels | the probabilities | labels start at 0 |

# %% [markdown]
# <a id="training"></a>
#
# ## 4. Training
#
# A loss is a plain function, so it fits into any training loop. Here is one with [optax](https://optax.readthedocs.io),
# for a line through points of which some are wrong.

# %%
rng = np.random.default_rng(0)
x = rng.uniform(0, 10, 60)
y = 0.5 * x + 2 + rng.normal(0, 0.4, 60)
wrong = (x > 6) & (rng.uniform(size=60) < 0.4)
y[wrong] += 8
x, y = jnp.asarray(x), jnp.asarray(y)
print(f"{wrong.sum()} of {len(x)} points are wrong")

# %% [markdown]
# Adam takes 400 steps, ever smaller ones. The loop is a `jax.lax.scan`: one compiled program, and section 6 will run it
# for many options at once.


# %%
def predict(line, x):
    return line["slope"] * x + line["offset"]


def fit(loss, steps=400):
    optimizer = optax.adam(optax.cosine_decay_schedule(0.2, steps))

    def step(carry, _) -> tuple:
        line, state = carry
        gradient = jax.grad(lambda line: loss(y, predict(line, x)))(line)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(line, updates), state), None

    line = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}
    (line, _), _ = jax.lax.scan(step, (line, optimizer.init(line)), length=steps)
    return line


# %%
lines = {
    "mse": fit(jl.mse),
    "mae": fit(jl.mae),
    "huber": fit(functools.partial(jl.huber, delta=0.5)),
}
print("truth   slope 0.50   offset 2.00")
for name, line in lines.items():
    print(f"{name:6}  slope {line['slope']:.2f}   offset {line['offset']:.2f}")

# %%
figure, axes = plt.subplots(figsize=(7, 4.2))
axes.scatter(x[~wrong], y[~wrong], s=18, color="#666666", label="good points")
axes.scatter(x[wrong], y[wrong], s=34, color="black", marker="x", label="wrong points")
ends = jnp.array([0.0, 10.0])
for name, line in lines.items():
    axes.plot(ends, predict(line, ends), label=name)
axes.plot(ends, 0.5 * ends + 2, color="black", linestyle="-", linewidth=1, label="truth")
axes.set(xlabel="x", ylabel="y")
figure.legend(loc="outside right upper")
plt.show()

# %% [markdown]
# The wrong points bend the line of `mse`; `mae` and `huber` hardly notice them.
#
# ### A classifier
#
# Next, a small network for scikit-learn's images of handwritten digits, 8 x 8 pixels in 10 classes, with the loop that
# most research code has.

# %%
images, labels = load_digits(return_X_y=True)
split = train_test_split(images.astype(np.float32) / 16, labels, test_size=500, random_state=0)
train_x, test_x, train_y, test_y = map(jnp.asarray, split)
print(train_x.shape, test_x.shape)


# %%
def initial(key, pixels=64, hidden=64, classes=10):
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (pixels, hidden)) * jnp.sqrt(2 / pixels),
        "hidden bias": jnp.zeros(hidden),
        "out": jax.random.normal(second, (hidden, classes)) * jnp.sqrt(2 / hidden),
        "out bias": jnp.zeros(classes),
    }


def network(params, x):
    x = jax.nn.relu(x @ params["hidden"] + params["hidden bias"])
    return x @ params["out"] + params["out bias"]  # logits


def objective(params, x, y):
    return jl.sparse_cce(y, network(params, x), from_logits=True)


# %%
optimizer = optax.adam(3e-3)


@jax.jit
def update(params, state, x, y):
    loss, gradient = jax.value_and_grad(objective)(params, x, y)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, loss


# %% [markdown]
# Twenty times through the data, in batches of 64; after each time, the loss on both parts of the data.

# %%
params = initial(jax.random.key(0))
state = optimizer.init(params)
history = []
for _ in range(20):
    for batch in rng.permutation(len(train_y))[:1280].reshape(20, 64):
        params, state, loss = update(params, state, train_x[batch], train_y[batch])
    history.append([objective(params, train_x, train_y), objective(params, test_x, test_y)])

accuracy = jnp.mean(jnp.argmax(network(params, test_x), axis=-1) == test_y)
print(f"test accuracy {accuracy:.3f}")
assert accuracy > 0.95

# %%
figure, axes = plt.subplots(figsize=(6, 3.4))
train_loss, test_loss = np.array(history).T
epochs = range(1, len(history) + 1)
axes.semilogy(epochs, train_loss, label="train")
axes.semilogy(epochs, test_loss, label="test")
axes.axhline(np.log(10), color="#666666", linewidth=1, linestyle=":", label="knows nothing, log 10")
axes.set(xlabel="epoch", ylabel="cross-entropy", xticks=range(0, 21, 5))
figure.legend(loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# Which images cost most? `reduction="none"` gives the loss of each. Above each image: what it is, what the network took
# it for, and the loss.

# %%
test_logits = network(params, test_x)
losses = jl.sparse_cce(test_y, test_logits, from_logits=True, reduction="none")
worst = jnp.argsort(losses)[::-1][:6]

figure, panels = plt.subplots(1, 6, figsize=(8, 2.1))
for i, panel in zip(worst, panels, strict=True):
    panel.imshow(test_x[i].reshape(8, 8))
    panel.set_title(
        f"{test_y[i]}, not {jnp.argmax(test_logits[i])}\nloss {losses[i]:.1f}", fontsize=11
    )
    panel.axis("off")
plt.show()

# %% [markdown]
# <a id="masks"></a>
#
# ## 5. Masks, weights, reductions
#
# ### Masks: `where`
#
# `where` says which units exist. The law is simple: **a masked unit is as good as left out**.

# %%
y_true = jnp.array([1.0, 2.0, 3.0, 4.0])
y_pred = jnp.array([1.5, 2.0, 5.0, 0.0])
mask = jnp.array([True, True, True, False])
print(jl.mse(y_true, y_pred, where=mask), jl.mse(y_true[mask], y_pred[mask]))

# %% [markdown]
# So what lies under the mask may be anything, NaN too. Neither the value nor the gradient notices. (Multiplying the
# losses by 0 would not do: 0 times NaN is NaN.)

# %%
unknown = y_true.at[3].set(jnp.nan)
print("loss    ", jl.mse(unknown, y_pred, where=mask))
print("gradient", jax.grad(jl.mse, argnums=1)(unknown, y_pred, where=mask))

# %% [markdown]
# For missing values, the mask is `where=~jnp.isnan(y_true)`.
#
# **Padded sequences.** Three sentences of 5, 3 and 2 tokens share a batch, and a label of -100 marks the padding, as is
# the custom. The mask is `where=labels != -100`; there is no separate `ignore_index`.

# %%
lengths = np.array([5, 3, 2])
exists = np.arange(5) < lengths[:, None]
labels = np.where(exists, rng.integers(0, 7, (3, 5)), -100)
logits = jnp.asarray(rng.normal(size=(3, 5, 7)))
print(labels)

# %%
token_losses = jl.sparse_cce(
    labels, logits, from_logits=True, where=labels != -100, reduction="none"
)

figure, axes = plt.subplots(figsize=(6, 2.8))
image = axes.imshow(np.where(exists, token_losses, np.nan), cmap="YlOrRd", vmin=0)
axes.set_facecolor("#dddddd")
for (sentence, token), present in np.ndenumerate(exists):
    text = f"{token_losses[sentence, token]:.1f}" if present else "masked"
    colour = "white" if present and token_losses[sentence, token] > 4 else "black"
    axes.text(token, sentence, text, color=colour, ha="center", va="center", fontsize=10)
axes.set(xlabel="token", ylabel="sentence", xticks=range(5), yticks=range(3))
axes.grid(visible=False)
figure.colorbar(image, label="loss")
plt.show()

# %% [markdown]
# The mean is over the 10 tokens that exist, not over 15, and not a mean of the sentences' means:

# %%
mean = jl.sparse_cce(labels, logits, from_logits=True, where=labels != -100)
print(mean, token_losses.sum() / exists.sum())
assert abs(mean - token_losses.sum() / exists.sum()) < 1e-6

# %% [markdown]
# A mask may be shorter than the units. It matches their shape from the left, so one entry a sentence is enough to drop
# the last sentence:

# %%
complete = jnp.array([True, True, False])
print(jl.mse(jnp.zeros((3, 5)), jnp.ones((3, 5)), where=complete, reduction="none"))

# %% [markdown]
# And if nothing is left, the loss is 0 and its gradient is 0, not NaN:

# %%
nothing = jnp.zeros(4, bool)
print(jax.value_and_grad(jl.mse, argnums=1)(y_true, y_pred, where=nothing))

# %% [markdown]
# ### Weights
#
# `weights` say how much each unit counts. The mean is the weighted mean:
#
# $$\frac{\sum_i w_i \ell_i}{\sum_i w_i}$$
#
# So a weight of 2 is the same as a repeated row, and doubling all weights changes nothing. A weight of 0 leaves a unit
# out of the mean as a mask does, but it does not hide a NaN.

# %%
weights = jnp.array([2.0, 1.0, 1.0, 1.0])
print(jl.mse(y_true, y_pred, weights=weights))
print(jl.mse(jnp.repeat(y_true, weights.astype(int)), jnp.repeat(y_pred, weights.astype(int))))
print(jl.mse(y_true, y_pred, weights=10 * weights))

# %% [markdown]
# **Rare classes.** To count each class equally, weigh every example by its class. Of these four examples one belongs to
# class 1, and the weight 3 makes it as important as the other three together.

# %%
labels = jnp.array([0, 0, 0, 1])
probabilities = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.7, 0.3]])
class_weights = jnp.array([1.0, 3.0])
print("unweighted           ", jl.sparse_cce(labels, probabilities))
print("weights of examples  ", jl.sparse_cce(labels, probabilities, weights=class_weights[labels]))
print("class_weights, by n  ", jl.sparse_cce(labels, probabilities, class_weights=class_weights))

# %% [markdown]
# The last two differ in the divisor. `weights=class_weights[labels]` gives the weighted mean, divided by 6, the sum of
# the weights; this is what `torch.nn.functional.cross_entropy` computes for labels. The option `class_weights` scales
# the terms of the formula itself, so it also works for soft targets, and its mean divides by 4, the number of examples.
#
# For `bce`, `pos_weight` does the latter for the answer "yes".

# %%
print(jl.bce([1.0, 0.0], [0.6, 0.4], pos_weight=3.0, reduction="none"))

# %% [markdown]
# ### Reductions
#
# | `reduction` | result, for losses $\ell$ and weights $w$ |
# |---|---|
# | `"mean"` | $\sum w \ell / \sum w$, over the units that exist |
# | `"sum"` | $\sum w \ell$ |
# | `"sum_over_batch_size"` | $\sum w \ell / n$, where $n$ units exist |
# | `"none"` | $w \ell$, one number a unit |
# | a function | what it makes of `(losses, weights)` |

# %%
for reduction in ("mean", "sum", "sum_over_batch_size", "none"):
    print(f"{reduction:20}", jl.mse(y_true, y_pred, weights=weights, reduction=reduction))


# %% [markdown]
# A function covers the rest: a median, a trimmed mean, or training on the hardest examples only. It gets the losses and
# the weights (1 where none are given, 0 under a mask).


# %%
def hardest_half(losses, weights):
    losses = jnp.sort(losses * weights)
    return jnp.mean(losses[losses.size // 2 :])


print(jl.mse(y_true, y_pred, reduction="none"))
print(jl.mse(y_true, y_pred, reduction=hardest_half))

# %% [markdown]
# Or it keeps the two sums of the mean apart. If a batch is too large for the memory and comes in parts with different
# masks, the mean of the parts' means is wrong, but the sums add up (`reduction="sum_and_weight"` returns them, too):


# %%
def sums(losses, weights):
    return jnp.stack([jnp.sum(losses * weights), jnp.sum(weights)])


halves = [(y_true[:2], y_pred[:2], mask[:2]), (y_true[2:], y_pred[2:], mask[2:])]
first, second = (jl.mse(y, p, where=m, reduction=sums) for y, p, m in halves)
numerator, denominator = first + second
first_mean, second_mean = (jl.mse(y, p, where=m) for y, p, m in halves)
print("whole batch  ", jl.mse(y_true, y_pred, where=mask))
print("sums of parts", numerator / denominator)
print("mean of means", (first_mean + second_mean) / 2)

# %% [markdown]
# <a id="transformations"></a>
#
# ## 6. Transformations
#
# ### Gradients: which argument?
#
# `jax.grad` differentiates with respect to the first argument unless told otherwise. The first argument of a loss is
# the truth, so the gradient with respect to the prediction needs `argnums=1`:

# %%
print("by y_true:", jax.grad(jl.mse)(y_true, y_pred))
print("by y_pred:", jax.grad(jl.mse, argnums=1)(y_true, y_pred))

# %% [markdown]
# In training the question does not come up: there, the gradient is by the parameters of a function around the loss, as
# `objective` in section 4.
#
# ### Values of single examples
#
# `reduction="none"` has one entry for each *unit*. For `mse` that is a number of the array, not a row of it. For one
# value a row, map the loss over the rows with `jax.vmap`: each row gets its own mean.

# %%
rows_true, rows_pred = jnp.zeros((2, 3)), jnp.array([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]])
print('reduction="none":', jl.mse(rows_true, rows_pred, reduction="none"), sep="\n")
print("vmap:", jax.vmap(jl.mse)(rows_true, rows_pred))

# %% [markdown]
# `vmap` also maps arrays given by keyword, here a mask for each row. (Options that are no arrays, such as `reduction`,
# go into a `functools.partial`.)

# %%
row_mask = jnp.array([[True, True, True], [False, False, True]])
print(jax.vmap(jl.mse)(rows_true, rows_pred, where=row_mask))
total = functools.partial(jl.mse, reduction="sum")
print(jax.vmap(total)(rows_true, rows_pred, where=row_mask))

# %% [markdown]
# ### Gradients of single examples
#
# `grad` inside `vmap` gives each example its own gradient with respect to all parameters: for privacy, for influence,
# or to see which examples the model still works on.

# %%
single = jax.vmap(jax.grad(objective), in_axes=(None, 0, 0))(params, test_x, test_y)
norms = jax.vmap(optax.global_norm)(single)

figure, axes = plt.subplots(figsize=(6, 3.4))
axes.loglog(losses, norms, "o", markersize=4, alpha=0.5, markeredgewidth=0)
axes.set(xlabel="loss of the image", ylabel="norm of its gradient")
plt.show()

# %% [markdown]
# Each dot is one test image. Most of them teach the network little more: add up all norms, and a few images have much
# of the sum.

# %%
costliest = jnp.argsort(losses)[-25:]
print(f"the 25 costliest of 500 images: {norms[costliest].sum() / norms.sum():.0%} of the sum")

# %% [markdown]
# ### Options that vary
#
# Every loss is compiled on its first call; under your own `jax.jit` it becomes a part of your program. An option given
# as a Python number is a constant of that program. Given as an **array** it is an input: it may change at every step
# without a new compilation, it can be mapped, and it can be differentiated.

# %%
print("value     ", jl.huber(0.0, 3.0, delta=jnp.array(2.0)))
slope = jax.grad(lambda delta: jl.huber(0.0, 3.0, delta=delta))(2.0)
print("derivative", slope)  # |e| - delta

# %% [markdown]
# So one `vmap` fits the line of section 4 for forty values of `delta` at once:

# %%
deltas = jnp.geomspace(0.05, 20, 40)
fits = jax.vmap(lambda delta: fit(functools.partial(jl.huber, delta=delta)))
sweep = jax.jit(fits)(deltas)

figure, axes = plt.subplots(figsize=(7, 3.6))
axes.axhline(0.5, color="black", linestyle="-", linewidth=1, label="truth")
axes.axhline(float(lines["mse"]["slope"]), color="C0", linestyle="-", label="mse")
axes.axhline(float(lines["mae"]["slope"]), color="C1", linestyle="--", label="mae")
axes.semilogx(deltas, sweep["slope"], color="C2", linestyle="-.", label="huber")
axes.set(xlabel="delta", ylabel="slope of the fitted line")
figure.legend(loc="outside right upper")
plt.show()

# %% [markdown]
# A small `delta` comes close to the fit of `mae`, a large one gives that of `mse`.

# %% [markdown]
# <a id="mistakes"></a>
#
# ## 7. Half precision and mistakes
#
# ### Half precision
#
# Networks often compute in `bfloat16`, which keeps 2 to 3 decimal digits. A loss widens such inputs to float32 first,
# sums in float32 and returns float32; the gradient comes back in the dtype of the input. Compare with the same formula
# computed in `bfloat16` throughout:

# %%
tokens, vocabulary = 2048, 1000
wide = 3 * jax.random.normal(jax.random.key(1), (tokens, vocabulary))
half, labels = wide.astype(jnp.bfloat16), jnp.arange(tokens) % vocabulary

exact = np.asarray(half, np.float64)
exact = np.mean(np.log(np.exp(exact).sum(-1)) - exact[np.arange(tokens), labels])

loss, gradient = jax.value_and_grad(lambda z: jl.sparse_cce(labels, z, from_logits=True))(half)
naive = -jnp.mean(jax.nn.log_softmax(half)[jnp.arange(tokens), labels])

for name, value in (("jaxloss", loss), ("naive", naive)):
    print(f"{name:8} {value:.6f} {value.dtype!s:8} error {abs(float(value) - exact):.1e}")
print("gradient", gradient.dtype)
assert loss.dtype == jnp.float32
assert abs(float(loss) - exact) < 1e-5

# %% [markdown]
# ### Mistakes are loud
#
# **Shapes.** NumPy would broadcast `(3,)` against `(3, 1)` to nine differences, and the model would train on nonsense.
# A loss broadcasts nothing:


# %%
def error_of(call):
    try:
        call()
    except (TypeError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")


error_of(lambda: jl.mse(jnp.zeros(3), jnp.zeros((3, 1))))

# %% [markdown]
# **Swapped arguments**, easily done by those who come from optax or PyTorch, where the prediction is first:

# %%
error_of(lambda: jl.sparse_cce(jnp.zeros((3, 2)), jnp.array([0, 1, 0])))

# %% [markdown]
# **Values.** Compiled code cannot raise an error that depends on values. So a label outside the classes gives NaN:
# never the loss of the last class, never a number that looks right. Its gradient is 0, so the parameters survive.

# %%
labels = jnp.array([0, 2, -1])
probabilities = jnp.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
print(jl.sparse_cce(labels, probabilities, reduction="none"))
print(jax.grad(jl.sparse_cce, argnums=1)(labels, probabilities))

# %% [markdown]
# So does a "probability" outside [0, 1], where somebody forgot the sigmoid, or `from_logits=True`:

# %%
print(jl.bce([1.0, 0.0], [0.7, 1.2], reduction="none"))

# %% [markdown]
# ### Finding a NaN: `checked`
#
# A loss that is NaN says that something is wrong, not what. `checked` does: wrap the loss, or the whole training step,
# and run it once more. It raises an error that names the argument, the rule and the place. Here 3 of the 64 labels of a
# batch are wrong, as if somebody had counted the classes from 1:

# %%
spoiled = train_y[:64].at[jnp.array([7, 20, 41])].set(10)
_, _, loss = update(params, state, train_x[:64], spoiled)
print(loss)

try:
    jl.checked(update)(params, state, train_x[:64], spoiled)
except jl.BadValueError as error:
    print(*str(error).split(". "), sep="\n")

# %% [markdown]
# A step that is not wrapped pays nothing for this.

# %% [markdown]
# ## What to remember
#
# - `loss(y_true, y_pred, *, options, weights, where, reduction)`: the truth first, everything else by keyword.
# - Give logits with `from_logits=True`.
# - `where=` for padding, missing values and ignored labels; `weights=` for importance. The mean is over what exists.
# - `reduction="none"` for units, `jax.vmap` for rows, `argnums=1` for the gradient with respect to the prediction.
# - NaN? `jl.checked(step)` says where it comes from.
# - `help(jl.huber)` has the formula, the options, the source and the names in other libraries.
#
# All losses, by family:

# %%
families = {}
for name, loss in jl.LOSSES.items():
    families.setdefault(loss.__module__.rpartition(".")[2], []).append(name)
for family, names in families.items():
    lines = textwrap.wrap(", ".join(names), 65)
    print(f"{family:14}", f"\n{'':15}".join(lines))
