"""Cross-entropy of a linear layer's logits that are never held: what a language model with a large vocabulary needs.

The tokens go through in chunks. Where the result is a scalar, value and gradient come from the same chunk of logits:
three matrix products, and no logits are kept or made twice. The unit is a token.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._legacy import (
    ArrayLike,
    Reduction,
    _check_dtype,
    _check_shapes,
    _spread,
    _widen,
    check_option,
    check_units,
    checking,
    compiled,
    in_explicit_mesh,
    reduce,
    report_nan,
)
from jaxloss._math import entry, is_label, is_zero, log_normaliser, mixed, poisoned, row_sum
from jaxloss.sharding import mean_over

__all__ = ["linear_cce"]


class LinearStats(NamedTuple):
    """What a trainer logs, reduced as the loss is. Nothing is differentiated through it.

    cross_entropy: the loss without the z-loss.
    z_loss: the rest.
    logsumexp: of the logits.
    correct: 1 where no logit exceeds that of the label, else 0; its mean is the accuracy.
    """

    cross_entropy: Array
    z_loss: Array
    logsumexp: Array
    correct: Array


@compiled
def linear_cce(
    y_true: ArrayLike,
    hidden: ArrayLike,
    kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    label_smoothing: float | Array = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    chunk: int | None = None,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    """Cross-entropy of the logits `hidden @ kernel + bias`, which are never held in full: `-log softmax(z)[y]`.

    Equal to `sparse_cce(y_true, hidden @ kernel + bias, from_logits=True)` in value and gradients, with memory for one
    chunk of logits beside the gradients. Logits and gradients are accumulated in float32, also from bfloat16.

    A named reduction and `mean_over` cost three matrix products for value and gradient together. `"none"` and
    functions cost four, since the derivative makes the logits again.

    Args:
      y_true: (...) integer labels in 0..V-1.
      hidden: (..., D) the inputs of the last layer.
      kernel: (D, V) its weights; for embeddings of shape (V, D) give their transpose, which costs nothing.
      bias: (V,) added to the logits; -inf excludes a class.
      label_smoothing, class_weights, z_loss: as for `sparse_cce`.
      softcap: c; the logits become `c tanh(z / c)`.
      chunk: how many tokens' logits are held at once, about; the default is chosen from the shapes. It changes time
        and memory, not the result.
      weights, where, reduction: as for every loss, see `jaxloss._contract.batched`.

    Returns:
      The mean over tokens; with `reduction="none"` one loss a token, of shape (...).

    Raises:
      ValueError: shapes that do not fit, options out of range. TypeError: labels of floating dtype, hidden or kernel
      of integer dtype. A label outside 0..V-1 makes its token NaN, with zero gradient.

    Example:
      >>> hidden, kernel = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]
      >>> print(linear_cce([0, 1], hidden, kernel))  # log 2
      0.6931472

    Source: the chunks as in Wijmans et al. 2024, arXiv 2411.09009, and Hsu et al. 2024, arXiv 2410.10989; softcap:
    Gemma Team 2024, arXiv 2408.00118; else as for `sparse_cce`. Agrees with
    torch.nn.functional.linear_cross_entropy, whose kernel is the transpose of this one.
    """
    loss, _ = _linear_cce(
        "linear_cce",
        (y_true, hidden, kernel),
        {"bias": bias, "label_smoothing": label_smoothing, "class_weights": class_weights}
        | {"z_loss": z_loss, "softcap": softcap},
        chunk=chunk,
        weights=weights,
        where=where,
        reduction=reduction,
    )
    return loss


@compiled
def linear_cce_stats(
    y_true: ArrayLike,
    hidden: ArrayLike,
    kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    label_smoothing: float | Array = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | Array = 0.0,
    softcap: float | Array | None = None,
    chunk: int | None = None,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> tuple[Array, LinearStats]:
    """`linear_cce`, and from the same pass what trainers log; for `jax.value_and_grad(..., has_aux=True)`.

    Args:
      y_true, hidden, kernel, and all options: as for `linear_cce`.

    Returns:
      The loss, and a `LinearStats`: cross_entropy, z_loss, logsumexp and correct, each reduced as the loss is.

    Example:
      >>> loss, stats = linear_cce_stats([0, 1], [[3.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
      >>> print(stats.correct)  # the argmax is 0 twice
      0.5
    """
    return _linear_cce(
        "linear_cce_stats",
        (y_true, hidden, kernel),
        {"bias": bias, "label_smoothing": label_smoothing, "class_weights": class_weights}
        | {"z_loss": z_loss, "softcap": softcap},
        chunk=chunk,
        weights=weights,
        where=where,
        reduction=reduction,
    )


def _linear_cce(
    loss: str,
    arrays: tuple[ArrayLike, ArrayLike, ArrayLike],
    options: Mapping[str, Any],
    *,
    chunk: int | None,
    weights: ArrayLike | None,
    where: ArrayLike | None,
    reduction: Reduction,
) -> tuple[Array, LinearStats]:
    y_true, hidden, kernel = (jnp.asarray(x) for x in arrays)
    shape = _check(loss, y_true, hidden, kernel, options, chunk)
    weights, where = check_units(loss, shape, weights, where, reduction)
    if checking.value:
        _inspect(loss, y_true, hidden, kernel, options, where)

    layer = {"kernel": kernel, **{k: jnp.asarray(v) for k, v in options.items() if hasattr(v, "dtype")}}
    wide = any(layer.get(k, hidden).dtype == jnp.float64 for k in ("kernel", "bias")) or hidden.dtype == jnp.float64
    program = _Program(
        loss,
        counts=_counts(shape, chunk or default_chunk(*kernel.shape)),
        dtype=jnp.dtype(jnp.float64 if wide else jnp.float32),
        constants={k: v for k, v in options.items() if k not in layer},
    )
    exists = None if where is None else _spread(where, shape)
    tokens = {"label": _widen(y_true, "label", program.dtype), "hidden": hidden, "exists": exists}
    if callable(reduction) and not isinstance(reduction, mean_over):
        tokens, layer = _varying((tokens, layer))
        losses, stats = program.each(tokens, layer)
        result = reduce(losses, weights, where, reduction)
    else:
        shares = _shares(weights, exists, reduction, shape, program.dtype)
        tokens, layer, shares = _varying((tokens, layer, shares))
        if reduction == "none":
            losses, stats = program.each(tokens, layer)
            result = losses * shares
        else:
            result, stats = program.sum(shares, tokens, layer)
            if isinstance(reduction, mean_over):
                result = jax.lax.psum(result, reduction.axis_name)
    stats = jax.lax.stop_gradient(stats)
    if checking.value:
        report_nan(loss, stats.cross_entropy + stats.z_loss)
    return result, LinearStats(*(reduce(x, weights, where, reduction) for x in stats))


def _check(
    loss: str, y_true: Array, hidden: Array, kernel: Array, options: Mapping[str, Any], chunk: int | None
) -> tuple[int, ...]:
    """The shape of the units, after all checks of shapes, dtypes and constants."""
    names = ("y_true", "hidden", "kernel")
    for name, x, kind in zip(names, (y_true, hidden, kernel), ("label", "score", "score"), strict=True):
        _check_dtype(loss, name, x, kind)
    if hidden.ndim == 0:
        raise ValueError(
            f"{loss}: hidden has shape (), y_true has shape {y_true.shape}. They must be (..., D) and (...)."
        )
    batches = (range(y_true.ndim), range(hidden.ndim - 1))
    shape = _check_shapes(loss, names[:2], (y_true, hidden), (0, 1), batches)
    if kernel.ndim != 2 or kernel.shape[0] != hidden.shape[-1] or kernel.shape[1] == 0:
        hint = "; did you mean kernel.T?" if kernel.ndim == 2 and kernel.shape[1:] == hidden.shape[-1:] else "."
        raise ValueError(
            f"{loss}: hidden has shape {hidden.shape}, kernel has shape {kernel.shape}. "
            f"They must be (..., D) and (D, V){hint}"
        )
    for name in ("bias", "class_weights"):
        if options[name] is not None and np.shape(options[name]) != kernel.shape[1:]:
            raise ValueError(
                f"{loss}: {name} has shape {np.shape(options[name])}, kernel has shape {kernel.shape}. "
                f"{name} must be of shape {kernel.shape[1:]}: one for each class."
            )
    check_option(loss, "label_smoothing", options["label_smoothing"], 0, 1)
    check_option(loss, "softcap", options["softcap"], math.ulp(0))
    check_option(loss, "class_weights", options["class_weights"])
    if chunk is not None and (not isinstance(chunk, int) or isinstance(chunk, bool)):
        raise TypeError(f"{loss}: chunk must be an int or None, got {chunk!r}.")
    check_option(loss, "chunk", chunk, 1)
    return shape


def _inspect(
    loss: str, y_true: Array, hidden: Array, kernel: Array, options: Mapping[str, Any], where: Array | None
) -> None:
    """The values of the inputs, in checked mode: those of the tokens, then those that all tokens share."""
    from jaxloss._checked import inspect

    batches = (range(y_true.ndim), range(hidden.ndim - 1))
    names, classes = ("y_true", "hidden"), kernel.shape[1]
    inspect(loss, names, (y_true, hidden), ("label", "number"), (0, 1), batches, where, classes=classes)
    inspect(loss, ("kernel",), (kernel,), ("number",), (2,), ((),), None)
    if options["bias"] is not None:
        inspect(loss, ("bias",), (jnp.asarray(options["bias"]),), ("logits",), (1,), ((),), None)


def default_chunk(features: int, classes: int) -> int:
    """Tokens whose logits are held at once.

    With as many as there are features, a chunk of logits is as large as the gradient of the kernel, which each chunk
    reads and writes once. Few features or few classes need more to keep the matrix products busy.
    """
    return max(512, features, 2**22 // classes)


def _shares(
    weights: Array | None, exists: Array | None, reduction: Any, shape: tuple[int, ...], dtype: np.dtype
) -> Array:
    """By what the loss of each token is multiplied in the reduced one: 1 / N in a plain mean."""
    shares = jnp.ones(shape, dtype) if weights is None else _spread(weights.astype(dtype), shape)
    if exists is not None:
        shares = jnp.where(exists, shares, 0)
    if reduction in ("none", "sum"):
        return shares
    if reduction == "sum_over_batch_size":
        count = math.prod(shape) if exists is None else jnp.sum(exists, dtype=jnp.int32)
        divisor = jnp.asarray(count, dtype)
    elif reduction == "mean":
        divisor = jnp.sum(shares)
    else:
        divisor = jax.lax.psum(jnp.sum(shares), reduction.axis_name)
    return jnp.where(divisor == 0, 0, shares / jnp.where(divisor == 0, 1, divisor))


# ---------------------------------------------------------------------------------------------------------------------
# The computation


@dataclasses.dataclass(frozen=True)
class _Program:
    """How one call computes: what is known while tracing.

    Two trees go through it: `tokens` (label, hidden, exists), all with the batch axes in front, and `layer` (kernel,
    bias and the traced options), which all tokens share.
    """

    loss: str
    counts: tuple[int, ...]  # how many chunks each batch axis is cut into
    dtype: np.dtype
    constants: Mapping[str, Any]

    def logits(self, token: dict[str, Any], kernel: Array) -> Array:
        """The products of a chunk, accumulated in float32; tokens that do not exist count as zeros."""
        hidden = _existing(token)
        return _dot(hidden, kernel, (hidden.ndim - 1,), (0,), self.dtype)

    def losses(self, z: Array, layer: dict[str, Array], token: dict[str, Any]) -> tuple[Array, LinearStats]:
        """The formula: the losses of a chunk from its logits."""
        given = {k: jnp.asarray(v, self.dtype) for k, v in {**self.constants, **layer}.items() if v is not None}
        if "bias" in given:
            z = z + _row(given["bias"], z)
        if "softcap" in given:
            z = given["softcap"] * jnp.tanh(z / given["softcap"])
        label, classes = token["label"], z.shape[-1]
        class_weights = given.get("class_weights")
        shift, log_sum, picked, mean, weight = _statistics(z, label, class_weights)
        loss = weight * (log_sum - picked)
        if not is_zero(self.constants.get("label_smoothing")):
            a = given["label_smoothing"]
            mean_weight = 1 if class_weights is None else jnp.mean(class_weights)
            loss = mixed(a, loss, mean_weight * log_sum - mean)
        logsumexp = shift + log_sum
        # A product, not a square: its derivative is finite for the largest logits.
        penalty = 0 * log_sum if is_zero(self.constants.get("z_loss")) else given["z_loss"] * logsumexp * logsumexp
        valid = is_label(label, classes)
        correct = poisoned(valid, (picked >= 0).astype(self.dtype))
        stats = LinearStats(poisoned(valid, loss), poisoned(valid, penalty), logsumexp, correct)
        loss = poisoned(valid, loss + penalty)
        if token["exists"] is not None:
            loss, *stats = (jnp.where(token["exists"], x, 0) for x in (loss, *stats))
        return loss, LinearStats(*stats)

    def each(self, tokens: dict[str, Any], layer: dict[str, Array]) -> tuple[Array, LinearStats]:
        """One loss a token. The derivative makes the logits of each chunk again."""
        # The derivative by a kernel of half precision is summed over the chunks in this dtype.
        layer = {**layer, "kernel": layer["kernel"].astype(self.dtype)}

        @jax.checkpoint
        def one(layer: dict[str, Array], token: dict[str, Any]) -> tuple[Array, LinearStats]:
            return self.losses(self.logits(token, layer["kernel"]), layer, token)

        def run(tokens: dict[str, Any], layer: dict[str, Array]) -> tuple[Array, LinearStats]:
            chunks = jax.lax.map(lambda token: one(layer, token), _cut(tokens, self.counts))
            return _joined(chunks, tokens["label"].shape, self.counts)

        label = tokens["label"]
        return _automatic(run, (label, LinearStats(*[label] * 4)))(tokens, layer)

    def sum(self, shares: Array, tokens: dict[str, Any], layer: dict[str, Array]) -> tuple[Array, LinearStats]:
        """sum(shares * losses). Its derivative is found in the pass that finds its value."""

        @jax.custom_jvp
        def summed(shares: Array, tokens: dict[str, Any], layer: dict[str, Array]) -> Any:
            return self.graded(shares, tokens, layer, frozenset())[:2]

        def rule(primals: Any, tangents: Any) -> Any:
            shares, tokens, layer = primals
            moved = {"shares": tangents[0], "hidden": tangents[1]["hidden"], **tangents[2]}
            moved = {name: t for name, t in moved.items() if not isinstance(t, SymbolicZero)}
            value, stats, slopes = self.graded(shares, tokens, layer, frozenset(moved))
            # Linear in the tangents: reverse mode transposes these products, and so returns the slopes themselves.
            terms = [jnp.sum(slopes[name] * t.astype(slopes[name].dtype)) for name, t in moved.items()]
            slope = sum(terms[1:], terms[0]) if terms else jnp.zeros_like(value)
            return (value, stats), (slope, jax.tree.map(jnp.zeros_like, stats))

        summed.defjvp(rule, symbolic_zeros=True)
        return summed(shares, tokens, layer)

    def graded(
        self, shares: Array, tokens: dict[str, Any], layer: dict[str, Array], wanted: frozenset[str]
    ) -> tuple[Array, LinearStats, dict[str, Array]]:
        """sum(shares * losses), and its derivatives by what is wanted, in one pass over the chunks."""
        of_layer, of_tokens = wanted & layer.keys(), wanted & {"shares", "hidden"}

        def run(shares: Array, tokens: dict[str, Any], layer: dict[str, Array]) -> Any:
            kernel = layer["kernel"]
            small = {k: v for k, v in layer.items() if k != "kernel"}

            # Further derivatives go through this pass. They keep nothing of a chunk either.
            @jax.checkpoint
            def body(sums: Any, now: Any) -> Any:
                value, slopes = sums
                token = now["token"]

                def weighed(z: Array, small: dict[str, Array], shares: Array) -> Any:
                    losses, stats = self.losses(z, small, token)
                    return jnp.sum(shares * losses), stats

                z = self.logits(token, kernel)
                if not wanted:
                    more, stats = weighed(z, small, now["shares"])
                    return (value + more, slopes), ({}, stats)
                graded = jax.value_and_grad(weighed, (0, 1, 2), has_aux=True)
                (more, stats), (dz, d_small, d_shares) = graded(z, small, now["shares"])
                found, batch = dict(d_small), tuple(range(z.ndim - 1))
                if "kernel" in of_layer:
                    found["kernel"] = _dot(_existing(token), dz, batch, batch, self.dtype)
                by_token = {"shares": d_shares} if "shares" in wanted else {}
                if "hidden" in wanted:
                    by_token["hidden"] = _dot(dz, kernel, (z.ndim - 1,), (1,), self.dtype)
                slopes = {k: slopes[k] + found[k].astype(self.dtype) for k in slopes}
                return (value + more, slopes), (by_token, stats)

            zero = jnp.zeros((), self.dtype)
            start = _varying((zero, {k: jnp.zeros(layer[k].shape, self.dtype) for k in of_layer}), like=shares)
            now = _cut({"token": tokens, "shares": shares}, self.counts)
            (value, slopes), (by_token, stats) = jax.lax.scan(body, start, now)
            by_token, stats = _joined((by_token, stats), shares.shape, self.counts)
            return value, stats, {**slopes, **by_token}

        label = tokens["label"]
        like = {"shares": shares, "hidden": tokens["hidden"], **layer}
        places = (None, LinearStats(*[label] * 4), {k: like[k] for k in of_layer | of_tokens})
        return _automatic(run, places)(shares, tokens, layer)


def _statistics(z: Array, label: Array, class_weights: Array | None) -> tuple[Array, Array, Array, Array, Array]:
    """Of each row: its maximum, and for s = z - maximum: log sum exp(s), s[label], the mean of w s, and w[label]."""

    def of_row(z: Array, label: Array) -> tuple[Array, Array, Array, Array, Array]:
        shift, log_sum = log_normaliser(z, z)
        weight = jnp.ones_like(shift) if class_weights is None else entry(class_weights, label)
        return shift, log_sum, entry(z, label) - shift, row_sum(z, z, shift, class_weights) / z.size, weight

    for _ in range(z.ndim - 1):
        of_row = jax.vmap(of_row)
    return of_row(z, label)


def _existing(token: dict[str, Any]) -> Array:
    hidden, exists = token["hidden"], token["exists"]
    return hidden if exists is None else jnp.where(exists[..., None], hidden, 0)


def _dot(a: Array, b: Array, over_a: tuple[int, ...], over_b: tuple[int, ...], dtype: np.dtype) -> Array:
    """The product, summed over the given axes, accumulated in the dtype."""
    return jax.lax.dot_general(a, b, ((over_a, over_b), ((), ())), preferred_element_type=dtype)


def _row(x: Array, z: Array) -> Array:
    return jnp.expand_dims(x, tuple(range(z.ndim - 1)))


# ---------------------------------------------------------------------------------------------------------------------
# Chunks


def _counts(shape: tuple[int, ...], chunk: int) -> tuple[int, ...]:
    """How many chunks to cut each batch axis into, so that a chunk has about the given number of tokens.

    The last axes are cut first, and at first none into pieces shorter than 8: an axis that is spread over devices
    should keep a part on each of them.
    """
    counts = [1] * len(shape)
    for least in (8, 1):
        for i in reversed(range(len(shape))):
            tokens = math.prod(-(-size // count) for size, count in zip(shape, counts, strict=True))
            if tokens > chunk:
                wanted = counts[i] * -(-tokens // chunk)
                counts[i] = max(counts[i], _count(shape[i], max(1, min(wanted, shape[i] // least))))
    return tuple(counts)


def _count(size: int, least: int) -> int:
    """A number of chunks that divides an axis, if there is one of about the right size; else the last is padded."""
    fitting = [n for n in range(least, min(2 * least, size) + 1) if size % n == 0]
    return next((n for n in fitting if size // n % 8 == 0), fitting[0] if fitting else least)


def _cut(tree: Any, counts: tuple[int, ...]) -> Any:
    """Chunks along a new first axis. Each takes every count-th token: so each device goes through its own tokens."""
    n = len(counts)

    def cut(x: Array) -> Array:
        core = x.shape[n:]
        lengths = [-(-size // count) for size, count in zip(x.shape, counts, strict=False)]
        padding = [(0, k * c - size) for k, c, size in zip(lengths, counts, x.shape, strict=False)]
        if any(after for _, after in padding):
            x = jnp.pad(x, [*padding, *[(0, 0)] * len(core)])
        x = x.reshape(*itertools.chain(*zip(lengths, counts, strict=True)), *core)
        x = jnp.moveaxis(x, range(1, 2 * n, 2), range(n))
        return x.reshape(math.prod(counts), *lengths, *core)

    return jax.tree.map(cut, tree)


def _joined(tree: Any, shape: tuple[int, ...], counts: tuple[int, ...]) -> Any:
    """The inverse of `_cut`."""
    n = len(counts)

    def join(x: Array) -> Array:
        lengths, core = x.shape[1 : n + 1], x.shape[n + 1 :]
        x = jnp.moveaxis(x.reshape(*counts, *lengths, *core), range(n), range(1, 2 * n, 2))
        x = x.reshape(*(k * c for k, c in zip(lengths, counts, strict=True)), *core)
        return x[tuple(slice(size) for size in shape)]

    return jax.tree.map(join, tree)


# ---------------------------------------------------------------------------------------------------------------------
# Devices


def _automatic(run: Callable[..., Any], places: Any) -> Callable[..., Any]:
    """In an explicit mesh, let the compiler lay out what happens inside; results lie as the arrays in `places` do."""

    def in_that_mesh(*args: Any) -> Any:
        leaves = jax.tree.leaves((args, places))
        if not in_explicit_mesh(*leaves):
            return run(*args)
        mesh = next(m for m in (jax.typeof(x).sharding.mesh for x in leaves) if not m.empty)

        def place(x: Array | None) -> jax.sharding.NamedSharding:
            return jax.sharding.NamedSharding(
                mesh, jax.sharding.PartitionSpec() if x is None else jax.typeof(x).sharding.spec
            )

        out = jax.tree.map(place, places, is_leaf=lambda x: x is None)
        return jax.sharding.auto_axes(run, out_sharding=out)(*args)

    return in_that_mesh


def _varying(tree: Any, like: Any = None) -> Any:
    """Inside `shard_map`: everything counted as different on each device, as soon as one array of them is.

    So the sum over the devices, which the derivative by a common kernel needs, happens once and not in each chunk.
    """
    axes = frozenset().union(*(_axes(x) for x in jax.tree.leaves((tree, like))))

    def cast(x: Array) -> Array:
        missing = tuple(axes - _axes(x))
        if not missing:
            return x
        if hasattr(jax.lax, "pcast"):
            return jax.lax.pcast(x, missing, to="varying")
        return jax.lax.pvary(x, missing)  # pyright: ignore  jax 0.7.2

    return jax.tree.map(cast, tree)


def _axes(x: Array) -> frozenset[Any]:
    """The mesh axes along which an array differs: new versions of jax and old ones keep them in different places."""
    kind = jax.typeof(x)
    return frozenset(kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying)
