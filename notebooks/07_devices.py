# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many devices, one mean
#
# A batch is spread over eight devices, and some of its labels are missing. The loss should be the same number as on
# one device, but easily becomes another, and nothing complains. This notebook shows where that happens and how to avoid
# it. Its eight devices are parts of the processor, so it runs on any laptop, needs no internet beyond the installation,
# and takes half a minute. On real accelerators the code is the same.
#
# 1. Eight devices on a laptop
# 2. A batch with gaps
# 3. `jax.jit`: nothing to do
# 4. `jax.shard_map`: the mean of means, and `mean_over`
# 5. Trained three ways
# 6. Losses that compare examples with each other
# 7. One bad label on one device: `checked`

# %% [markdown]
# In a clone of the repository the next cell installs `jaxloss` and what this notebook imports, where it is missing; it
# leaves the JAX that is there as it is.

# %%
from importlib.util import find_spec

if find_spec("jaxloss") is None:
    print("Installing jaxloss")
    # %pip install -q "..[demo]"

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxloss as jl

plt.style.use("style.mplstyle")

# %% [markdown]
# ## 1. Eight devices on a laptop
#
# This must come before JAX computes anything: then the number of devices is fixed.

# %%
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
mesh = Mesh(np.array(jax.devices()), ("data",))
print(mesh)

# %% [markdown]
# ## 2. A batch with gaps
#
# Handwritten digits once more. Labels come from eight annotators, one for each device, and they were not equally
# diligent: what was not labelled is -1. The last one has forgotten the job.

# %%
images, labels = load_digits(return_X_y=True)
split = train_test_split(images.astype(np.float32) / 16, labels, test_size=501, random_state=0)
train_x, test_x, train_y, test_y = split
rng = np.random.default_rng(0)
diligence = np.array([0.95, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0])
annotator = np.repeat(np.arange(8), len(train_x) // 8)
# Those who label little also label what is easy: here, only the digits below 5.
kept = rng.random(len(train_y)) < diligence[annotator]
train_y = np.where(kept & ((diligence[annotator] > 0.4) | (train_y < 5)), train_y, -1)
parts_x, parts_y = train_x.reshape(8, -1, 64), train_y.reshape(8, -1)
print(parts_x.shape, parts_y.shape, (parts_y >= 0).sum(axis=1), "labels of each annotator")

# %% [markdown]
# A batch takes 32 pictures of each, so each device always gets those of its annotator.

# %%
BATCH = 32


def batch(rng):
    places = [rng.permutation(parts_y.shape[1])[:BATCH] for _ in range(8)]
    x = np.concatenate([part[at] for part, at in zip(parts_x, places, strict=True)])
    y = np.concatenate([part[at] for part, at in zip(parts_y, places, strict=True)])
    return x, y


x, y = batch(np.random.default_rng(1))
figure, axes = plt.subplots(figsize=(8, 2.6))
axes.imshow(y.reshape(8, BATCH) >= 0, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
axes.set(xlabel="picture of the batch", ylabel="device", yticks=range(8))
axes.grid(visible=False)
axes.set_title("blue: there is a label", fontsize=11)
plt.show()

# %% [markdown]
# ## 3. `jax.jit`: nothing to do
#
# Put the batch on the mesh, and call the function as before. JAX lets each device compute its part; only sums travel.
# The loss is that of one device.


# %%
def initial(key):
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (64, 64)) / 6,
        "out": jax.random.normal(second, (64, 10)) / 6,
        "bias": jnp.zeros(10),
    }


def network(params, x):
    return jax.nn.relu(x @ params["hidden"]) @ params["out"] + params["bias"]


def objective(params, x, y, reduction="mean"):
    logits = network(params, x)
    return jl.sparse_cce(y, logits, from_logits=True, where=y >= 0, reduction=reduction)


params = initial(jax.random.key(0))
spread = NamedSharding(mesh, P("data"))
everywhere = NamedSharding(mesh, P())
on_eight = jax.device_put((x, y), spread)
jitted = jax.jit(objective)
print("one device   ", jitted(params, x, y))
print("eight devices", jitted(jax.device_put(params, everywhere), *on_eight))

# %% [markdown]
# ## 4. `jax.shard_map`: the mean of means, and `mean_over`
#
# Inside `jax.shard_map` (and `jax.pmap`) a function sees the part of its own device, and `reduction="mean"` is the mean
# of that part. To take the mean of these means with `jax.lax.pmean` is the obvious next step, and wrong: a device with
# one label counts as much as one with thirty, and a device with none counts as a loss of 0. `mean_over("data")` divides
# the sum of all devices by the count of all devices.


# %%
def mean_of_means(params, x, y):
    return jax.lax.pmean(objective(params, x, y), "data")


def mean_over(params, x, y):
    return objective(params, x, y, reduction=jl.mean_over("data"))


def on_mesh(loss):
    specs = (P(), P("data"), P("data"))
    return jax.jit(jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P()))


one = jax.jit(objective)
print("one device   ", one(params, x, y))
for loss in (mean_over, mean_of_means):
    print(f"{loss.__name__:13}", on_mesh(loss)(params, x, y))
np.testing.assert_allclose(on_mesh(mean_over)(params, x, y), one(params, x, y), rtol=1e-6)

# %% [markdown]
# The gradients agree as well, to the last digits:

# %%
expected = jax.grad(one)(params, x, y)
for loss in (mean_over, mean_of_means):
    gradient = jax.grad(on_mesh(loss))(params, x, y)
    error = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), gradient, expected)
    print(f"{loss.__name__:13} largest error of a gradient {max(jax.tree.leaves(error)):.1e}")

# %% [markdown]
# ## 5. Trained three ways
#
# The same batches, the same start, the same optimizer; only the mean differs.

# %%
STEPS = 200


def train(loss):
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, x, y):
        value, gradient = jax.value_and_grad(loss)(params, x, y)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    params, rng, path = initial(jax.random.key(0)), np.random.default_rng(2), []
    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state, _ = step(params, state, *batch(rng))
        path.append(jax.device_get(params))
    return path


ways = {"one device": one, "mean_over": on_mesh(mean_over), "mean of means": on_mesh(mean_of_means)}
paths = {name: train(loss) for name, loss in ways.items()}


# %%
@jax.jit
def test_loss(params):
    return jl.sparse_cce(test_y, network(params, test_x), from_logits=True)


def distance(params, others):
    return optax.global_norm(jax.tree.map(jnp.subtract, params, others))


figure, (left, right) = plt.subplots(1, 2)
for name, path in paths.items():
    left.plot([test_loss(params) for params in path], label=name)
left.set(xlabel="step", ylabel="loss of the test")
for i, name in enumerate(("mean_over", "mean of means"), start=1):
    apart = [distance(a, b) for a, b in zip(paths[name], paths["one device"], strict=True)]
    right.semilogy(apart, color=f"C{i}", linestyle=("--", "-.")[i - 1])
right.set(xlabel="step", ylabel="distance from one device")
figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
plt.show()
for name, path in paths.items():
    accuracy = np.mean(network(path[-1], test_x).argmax(axis=-1) == test_y)
    print(f"{name:14} test loss {test_loss(path[-1]):.4f}, accuracy {accuracy:.3f}")

# %% [markdown]
# With `mean_over` the parameters stay those of one device but for rounding. The mean of means trains another network,
# and a worse one here, since the few labels of the lazy annotators count most.
#
# ## 6. Losses that compare examples with each other
#
# `sup_con` compares each example with all others of the batch, wherever they are. With `axis_name="data"` the others
# are gathered from all devices; each device computes the losses of its own examples.


# %%
def across(labels, z):
    exists, reduction = labels >= 0, jl.mean_over("data")
    return jl.sup_con(labels, z, axis_name="data", where=exists, reduction=reduction)


specs = (P("data"), P("data"))
z = network(params, x)
print("one device   ", jl.sup_con(y, z, where=y >= 0))
print("eight devices", jax.shard_map(across, mesh=mesh, in_specs=specs, out_specs=P())(y, z))

# %% [markdown]
# ## 7. One bad label on one device: `checked`
#
# An annotator types 11. The loss is NaN on all devices; gradients are 0 where the bad label is. `checked` around the
# training step finds the place in the whole batch, and place 77 is on device 2.

# %%
optimizer = optax.adam(3e-3)


@jax.jit
def step(params, state, x, y):
    value, gradient = jax.value_and_grad(objective)(params, x, y)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


spoiled = y.copy()
spoiled[77] = 11
on_eight = jax.device_put((x, spoiled), spread)
arguments = jax.device_put((params, optimizer.init(params)), everywhere)
print(step(*arguments, *on_eight)[2])
try:
    jl.checked(step)(*arguments, *on_eight)
except jl.BadValueError as error:
    print(*str(error).split(". "), sep="\n")

# %% [markdown]
# ## What to remember
#
# - `jax.config.update("jax_num_cpu_devices", 8)`, before anything else, makes eight devices of a laptop.
# - Under `jax.jit` with sharded arrays a loss is what it is on one device.
# - Inside `jax.shard_map` and `jax.pmap`: `reduction=jl.mean_over("data")`, and `axis_name="data"` where examples are
#   compared with each other.
# - The mean of the devices' means is right only if all have the same count.
