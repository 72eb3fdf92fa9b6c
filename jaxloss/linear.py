"""Cross-entropy of a linear layer's logits that are never held: what a language model with a large vocabulary needs.

The tokens go through in chunks. Where the result is a scalar, value and gradient come from the same chunk of logits:
three matrix products, and no logits are kept or made twice. The unit is a token.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxloss._contract import domains, values
from jaxloss._contract.reduce import mean_of_means, over, reduce, spread
from jaxloss._contract.refuse import check_chunk, check_constant, check_inputs, check_option_shape, check_units
from jaxloss._contract.types import ClassStats, checking, current_loss, widen
from jaxloss._numerics import rows
from jaxloss._numerics.chunks import chunk_counts, cut, join
from jaxloss._numerics.elementary import is_constant
from jaxloss._numerics.rows import Row, predict, sum_below
from jaxloss._numerics.scores import interpolate, weighed
from jaxloss._platform import cpu, mesh, tpu
from jaxloss.contract import LABEL, ArrayLike, Holds, Reduction, Units, compiled, loss, mean_over

__all__ = ["default_chunk", "linear_cce", "linear_cce_stats"]


@loss
def linear_cce(
    y_true: ArrayLike,
    hidden: ArrayLike,
    kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    label_smoothing: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | ArrayLike = 0.0,
    softcap: float | ArrayLike | None = None,
    chunk: int | None = None,
    **units: Unpack[Units],
) -> Array:
    """Cross-entropy of the logits `hidden @ kernel + bias`, which are never held in full: `-log softmax(z)[y]`.

    Equal to `sparse_cce(y_true, hidden @ kernel + bias, from_logits=True)` in value and gradients, with memory for one
    chunk of logits beside the gradients. Logits and gradients are accumulated in float32, also from bfloat16.

    A named reduction, `mean_over` and `mean_of_means` cost three matrix products for value and gradient together.
    `"none"` and functions cost four, since the derivative makes the logits again.

    On several devices, tokens and vocabulary stay where they are, whichever of them is split. A kernel whose features
    are split (fully sharded parameters) is gathered once before the first chunk, and its gradient summed over the
    devices once after the last: until then each device holds all its features twice, the kernel in its own dtype and
    the gradient in float32.

    Args:
      y_true: (...) integer labels in 0..V-1.
      hidden: (..., D) the inputs of the last layer.
      kernel: (D, V) its weights; for embeddings of shape (V, D) give their transpose, which costs nothing.
      bias: (V,) added to the logits; -inf excludes a class.
      label_smoothing, class_weights, z_loss: as for `sparse_cce`; label_smoothing and z_loss may be one for each token.
      softcap: c, above 0; the logits become `c tanh(z / c)`. One number, or one for each token.
      chunk: about how many tokens' logits are held at once; the default is chosen from the shapes. It changes time and
        memory, not the result.

    Returns:
      The mean over tokens; with `reduction="none"` one loss per token, shape (...).

    Raises:
      ValueError: shapes that do not fit, options out of range. TypeError: labels of floating dtype, hidden or kernel
      of integer dtype. A label outside 0..V-1 makes its token NaN, with zero gradient.

    Example:
      >>> hidden, kernel = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]
      >>> print(linear_cce([0, 1], hidden, kernel))  # log 2
      0.6931472

    Source: the chunks as in Wijmans et al. 2024, arXiv 2411.09009, and Hsu et al. 2024, arXiv 2410.10989; softcap:
    Gemma Team 2024, arXiv 2408.00118; else as for `sparse_cce`. Agrees with
    torch.nn.functional.linear_cross_entropy, whose kernel is the transpose of this one, and whose mean with class
    weights is as said there.
    """
    options = {
        "bias": bias,
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "z_loss": z_loss,
        "softcap": softcap,
    }
    return _loss_and_stats(y_true, hidden, kernel, options, chunk, entropy=False, **units)[0]


@compiled
def linear_cce_stats(
    y_true: ArrayLike,
    hidden: ArrayLike,
    kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    label_smoothing: float | ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: float | ArrayLike = 0.0,
    softcap: float | ArrayLike | None = None,
    chunk: int | None = None,
    **units: Unpack[Units],
) -> tuple[Array, ClassStats]:
    """`linear_cce`, and from the same pass what trainers log; for `jax.value_and_grad(..., has_aux=True)`.

    Args:
      y_true, hidden, kernel, and all options: as for `linear_cce`.

    Returns:
      The mean over tokens and a `ClassStats`: cross_entropy, z_loss, logsumexp, correct and entropy, each reduced as
      the loss.

    Example:
      >>> loss, stats = linear_cce_stats([0, 1], [[3.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]])
      >>> print(stats.correct)  # the argmax is 0 twice
      0.5
    """
    options = {
        "bias": bias,
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "z_loss": z_loss,
        "softcap": softcap,
    }
    return _loss_and_stats(y_true, hidden, kernel, options, chunk, entropy=True, **units)


# ---------------------------------------------------------------------------------------------------------------------
# The formula


def _of_token(z: Array, label: Array, *, entropy: bool, **options: Any) -> tuple[Array, ClassStats]:
    """The loss of one token; NaN, with zero gradient, where its label or a traced option lies outside."""
    inside = (label >= 0) & (label < z.size)
    for name, option in options.items():
        if isinstance(option, Array) and name != "bias":
            inside &= jnp.all(_DOMAINS[name].holds(option))
            options[name] = _DOMAINS[name].usable(option)
    stats = _formula(z, label, entropy=entropy, **options)
    cross_entropy, penalty, correct = (
        jnp.where(inside, x, jnp.nan) for x in (stats.cross_entropy, stats.z_loss, stats.correct)
    )
    return cross_entropy + penalty, stats._replace(cross_entropy=cross_entropy, z_loss=penalty, correct=correct)


def _formula(
    z: Array,
    label: Array,
    *,
    bias: Array | None,
    label_smoothing: float | Array,
    class_weights: Array | None,
    z_loss: float | Array,
    softcap: float | Array | None,
    entropy: bool,
) -> ClassStats:
    """What makes the loss of one token, from its row of products `hidden @ kernel`."""
    if bias is not None:
        z = z + bias
    if softcap is not None:
        excluded = bias is not None and jnp.isneginf(bias)
        capped = softcap * jnp.tanh(jnp.where(excluded, 0, z) / softcap)
        # Computed once: rounded in two ways, the largest logit would not equal itself.
        z = cpu.opaque(jnp.where(excluded, z, capped))
    row = Row.of(z)
    surprisal, correct, largest, excess = predict(row, label)
    log_sum = jnp.log1p(excess)

    def mean_surprisal() -> Array:
        mean_weight = 1 if class_weights is None else jnp.mean(class_weights)
        return mean_weight * log_sum - sum_below(row, largest, class_weights) / row.size

    cross_entropy = interpolate(label_smoothing, weighed(surprisal, class_weights, label), mean_surprisal)
    logsumexp = largest + log_sum
    # A product, not a square, whose derivative would overflow for the largest logits.
    penalty = jnp.zeros_like(logsumexp) if is_constant(z_loss, 0) else z_loss * logsumexp * logsumexp

    unsure = rows.entropy(row, largest, log_sum) if entropy else jnp.zeros_like(log_sum)
    return ClassStats(cross_entropy, penalty, logsumexp, correct, unsure)


# ---------------------------------------------------------------------------------------------------------------------
# From the inputs to the reduced loss

_DOMAINS = {
    "bias": domains.LOGIT,
    "label_smoothing": domains.FRACTION,
    "class_weights": domains.FINITE,
    "z_loss": domains.FINITE,
    "softcap": domains.POSITIVE,
}
_OF_TOKENS = ("label_smoothing", "z_loss", "softcap")
_HIDDEN = Holds("score", core=1)
_KERNEL = Holds("score", core=2)


def _loss_and_stats(
    y_true: ArrayLike,
    hidden: ArrayLike,
    kernel: ArrayLike,
    options: Mapping[str, Any],
    chunk: int | None,
    entropy: bool,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> tuple[Any, ClassStats]:
    given = check_inputs([("y_true", y_true, LABEL), ("hidden", hidden, _HIDDEN)], -1)
    label, hidden, kernel = given[0].x, given[1].x, _check_kernel(jnp.asarray(kernel), given[1].x)
    traced = {name: _check_option(name, x, kernel, label) for name, x in options.items() if hasattr(x, "dtype")}
    constants = {name: x for name, x in options.items() if name not in traced}
    for name, x in constants.items():
        check_constant(name, x, _DOMAINS[name])
    check_chunk(chunk, "y_true", label.shape, "use sparse_cce of hidden @ kernel")
    weights, where = check_units(label.shape, weights, where, reduction)
    if checking.value:
        values.inspect(given, where, classes=kernel.shape[1])
        for name, x in {"kernel": kernel, **traced}.items():
            values.inspect_option(name, x, _DOMAINS.get(name, domains.FINITE))
        if weights is not None:
            values.inspect_weights(weights, where)

    wide = jnp.float64 in (hidden.dtype, kernel.dtype, *(traced[k].dtype for k in ("bias",) if k in traced))
    dtype = jnp.dtype(jnp.float64 if wide else jnp.float32)
    sweep = _Sweep(
        formula=functools.partial(_of_token, entropy=entropy, **constants),
        own=("share", "hidden", *(name for name, x in traced.items() if name in _OF_TOKENS and x.ndim)),
        counts=chunk_counts(label.shape, chunk or default_chunk(*kernel.shape)),
        dtype=dtype,
    )
    exists = None if where is None else spread(where, label.shape)
    tokens = _Tokens(widen(label, "label", dtype), exists)
    moving = {
        "hidden": hidden,
        "kernel": kernel,
        **{name: x.astype(dtype) for name, x in traced.items()},
    }
    for name in sweep.own[2:]:
        own = mesh.laid_out_as_units(moving[name], label, range(label.ndim))
        own = mesh.laid_out_as(jnp.broadcast_to(own, label.shape), label)
        moving[name] = own if exists is None else jnp.where(exists, own, 1)
    if callable(reduction) and not isinstance(reduction, (mean_over, mean_of_means)):
        losses, stats = sweep.each(*mesh.varying((tokens, moving)))
        result = reduce(losses, weights, where, reduction)
    else:
        factors = _masked_weights(weights, exists, label.shape, dtype)
        result, stats = _reduced(sweep, tokens, moving, factors, reduction)
    stats = jax.lax.stop_gradient(stats)
    if checking.value:
        values.inspect_losses(stats.cross_entropy + stats.z_loss)
    return result, ClassStats(*(reduce(x, weights, where, reduction) for x in stats))


def _check_kernel(kernel: Array, hidden: Array) -> Array:
    if kernel.ndim != 2 or kernel.shape[0] != hidden.shape[-1] or kernel.shape[1] == 0:
        cure = "; did you mean kernel.T?" if kernel.ndim == 2 and kernel.shape[1:] == hidden.shape[-1:] else "."
        raise ValueError(
            f"{current_loss()}: hidden has shape {hidden.shape}, kernel has shape {kernel.shape}. "
            f"They must be (..., D) and (D, V){cure}"
        )
    return check_inputs([("kernel", kernel, _KERNEL)], -1)[0].x


def _check_option(name: str, option: Any, kernel: Array, label: Array) -> Array:
    """A traced option as an array: one number for each class, or for tokens as the options of other losses."""
    option = jnp.asarray(option)
    if name in _OF_TOKENS:
        check_option_shape(name, option.shape, label.shape)
    elif option.shape != kernel.shape[1:]:
        raise ValueError(
            f"{current_loss()}: {name} has shape {option.shape}, kernel has shape {kernel.shape}. "
            f"{name} must be of shape {kernel.shape[1:]}, one number for each class."
        )
    return option


def default_chunk(features: int, classes: int) -> int:
    """Tokens whose logits are held at once.

    With as many as there are features, a chunk of logits is as large as the gradient of the kernel, which each chunk
    reads and writes once. Few features or few classes need more to keep the matrix products busy.
    """
    return max(512, features, 2**22 // classes)


def _masked_weights(weights: Array | None, exists: Array | None, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    weights = jnp.ones(shape, dtype) if weights is None else spread(weights.astype(dtype), shape)
    return weights if exists is None else jnp.where(exists, weights, 0)


def _reduced(
    sweep: _Sweep, tokens: _Tokens, moving: dict[str, Array], weights: Array, reduction: Any
) -> tuple[Any, ClassStats]:
    """The reduced loss and the statistics of each token."""
    if reduction == "none":
        tokens, moving, weights = mesh.varying((tokens, moving, weights))
        losses, stats = sweep.each(tokens, moving)
        return losses * weights, stats
    total, stats = sweep.total(*mesh.varying((tokens, moving | {"share": _shares(weights, tokens.exists, reduction)})))
    if reduction == "sum_and_weight":
        return (total, jnp.sum(weights)), stats
    if isinstance(reduction, mean_over):
        total = jax.lax.psum(total, reduction.axis_name)
    return total, stats


def _shares(weights: Array, exists: Array | None, reduction: Any) -> Array:
    """By what the loss of each token is multiplied in the reduced one: 1 / N in a plain mean."""
    if reduction in ("sum", "sum_and_weight"):
        return weights
    if isinstance(reduction, mean_of_means):
        return reduction.shares(weights)
    if reduction == "sum_over_batch_size":
        count = weights.size if exists is None else jnp.sum(exists, dtype=jnp.int32)
        divisor = jnp.asarray(count, weights.dtype)
    else:
        divisor = jnp.sum(weights)
    if isinstance(reduction, mean_over):
        divisor = jax.lax.psum(divisor, reduction.axis_name)
    return over(weights, divisor)


# ---------------------------------------------------------------------------------------------------------------------
# The pass over the chunks


class _Tokens(NamedTuple):
    """What is known of each token, and not differentiated. All tokens exist where `exists` is None."""

    label: Array
    exists: Array | None


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """A pass over the tokens, chunk by chunk.

    The arrays that the derivative may be taken of go through it by name: those of each token, the kernel, and options.
    """

    formula: Callable[..., tuple[Array, ClassStats]]  # of one token
    own: tuple[str, ...]  # what each token has of its own, of those arrays; all tokens share the others
    counts: tuple[int, ...]  # how many chunks each batch axis is cut into
    dtype: np.dtype

    def each(self, tokens: _Tokens, moving: dict[str, Array]) -> tuple[Array, ClassStats]:
        """One loss a token. The derivative makes the logits of each chunk again."""

        def run(tokens: _Tokens, moving: dict[str, Array]) -> tuple[Array, ClassStats]:
            own, kernel, options = self.parts(moving)
            # The derivative with respect to a kernel of half precision is summed over the chunks in this dtype.
            kernel = kernel.astype(self.dtype)

            @jax.checkpoint
            def losses(tokens: _Tokens, own: dict[str, Array], kernel: Array, options: dict[str, Array]) -> Any:
                hidden = _existing(own.pop("hidden"), tokens.exists)
                return self.losses(tokens, self.logits(hidden, kernel), options | own)

            chunks = self.chunks(tokens, own)
            found = jax.lax.map(lambda chunk: losses(*chunk, kernel, options), chunks)
            return join(found, tokens.label.shape, self.counts)

        label = tokens.label
        return mesh.automatic(run, (label, ClassStats(*[label] * 5)))(tokens, moving)

    def total(self, tokens: _Tokens, moving: dict[str, Array]) -> tuple[Array, ClassStats]:
        """sum(share * loss), and the statistics of each token. The pass that finds it finds its derivative, too."""

        @jax.custom_jvp
        def total(tokens: _Tokens, moving: dict[str, Array]) -> Any:
            value, stats, _ = self.graded(tokens, moving, frozenset())
            return value, stats

        def rule(primals: Any, tangents: Any) -> Any:
            (tokens, moving), (_, moved) = primals, tangents
            moved = {name: t for name, t in moved.items() if not isinstance(t, SymbolicZero)}
            value, stats, slopes = self.graded(tokens, moving, frozenset(moved))
            # Linear in the tangents: reverse mode transposes these products, and so returns the slopes themselves.
            terms = [jnp.sum(slopes[name] * t.astype(self.dtype)) for name, t in moved.items()]
            slope = sum(terms[1:], terms[0]) if terms else jnp.zeros_like(value)
            return (value, stats), (slope, jax.tree.map(jnp.zeros_like, stats))

        total.defjvp(rule, symbolic_zeros=True)
        return total(tokens, moving)

    def graded(
        self, tokens: _Tokens, moving: dict[str, Array], wanted: frozenset[str]
    ) -> tuple[Array, ClassStats, dict[str, Array]]:
        """sum(share * loss), the statistics, and the derivatives with respect to what is wanted, in one pass."""
        wanted_own = wanted.intersection(self.own)

        def run(tokens: _Tokens, moving: dict[str, Array]) -> Any:
            own, kernel, options = self.parts(moving)

            # Further derivatives go through this pass. They keep nothing of a chunk either.
            @jax.checkpoint
            def step(sums: Any, chunk: Any) -> Any:
                value, slopes = sums
                tokens, own = chunk
                hidden, share = _existing(own.pop("hidden"), tokens.exists), own.pop("share")

                def weighed(z: Array, share: Array, options: dict[str, Array]) -> Any:
                    losses, stats = self.losses(tokens, z, options)
                    return jnp.sum(share * losses), stats

                z = self.logits(hidden, kernel)
                if not wanted:
                    more, stats = weighed(z, share, options | own)
                    return (value + more, slopes), (stats, {})
                graded = jax.value_and_grad(weighed, (0, 1, 2), has_aux=True)
                (more, stats), (dz, d_share, d_options) = graded(z, share, options | own)
                found = d_options | {"share": d_share}
                if "kernel" in wanted:
                    found["kernel"] = self.by_kernel(dz, hidden)
                if "hidden" in wanted:
                    found["hidden"] = self.by_hidden(dz, kernel)
                slopes = {name: slope + found[name] for name, slope in slopes.items()}
                return (value + more, slopes), (stats, {name: found[name] for name in wanted_own})

            zero = jnp.zeros((), self.dtype)
            slopes = {name: jnp.zeros(moving[name].shape, self.dtype) for name in wanted - wanted_own}
            start = mesh.varying((zero, slopes), like=moving)
            chunks = self.chunks(tokens, own)
            (value, slopes), found = jax.lax.scan(step, start, chunks)
            if "kernel" in slopes:  # summed over the devices here, not in each chunk
                slopes["kernel"] = mesh.whole_along(0, slopes["kernel"])
            stats, own_slopes = join(found, tokens.label.shape, self.counts)
            return value, stats, slopes | own_slopes

        label = tokens.label
        places = (None, ClassStats(*[label] * 5), {name: moving[name] for name in wanted})
        return mesh.automatic(run, places)(tokens, moving)

    def parts(self, moving: dict[str, Array]) -> tuple[dict[str, Array], Array, dict[str, Array]]:
        """What tokens have of their own, the kernel, and the options that they share.

        A kernel whose features are split is gathered here, not in each chunk.
        """
        own = {name: x for name, x in moving.items() if name in self.own}
        shared = {name: x for name, x in moving.items() if name not in (*self.own, "kernel")}
        return own, mesh.whole_along(0, moving["kernel"]), shared

    def chunks(self, tokens: _Tokens, own: dict[str, Array]) -> tuple[_Tokens, dict[str, Array]]:
        """Whatever pads the last tokens weighs nothing, but its derivative must be a number: a softcap is not 0."""
        cut_own = {name: cut(x, self.counts, fill=int(name in _OF_TOKENS)) for name, x in own.items()}
        return cut(tokens, self.counts), cut_own

    # Of one chunk:

    def logits(self, hidden: Array, kernel: Array) -> Array:
        return _product(hidden, kernel, (hidden.ndim - 1,), (0,), self.dtype)

    def by_hidden(self, dz: Array, kernel: Array) -> Array:
        return _product(dz, kernel, (dz.ndim - 1,), (1,), self.dtype)

    def by_kernel(self, dz: Array, hidden: Array) -> Array:
        batch = tuple(range(dz.ndim - 1))
        return _product(hidden, dz, batch, batch, self.dtype)

    def losses(self, tokens: _Tokens, z: Array, options: dict[str, Array]) -> tuple[Array, ClassStats]:
        """The losses and the statistics of its tokens; 0 where there is none."""

        own = {name: x for name, x in options.items() if name in self.own}

        def of_token(z: Array, label: Array, own: dict[str, Array]) -> tuple[Array, ClassStats]:
            return self.formula(z, label, **options | own)

        for _ in range(z.ndim - 1):
            of_token = jax.vmap(of_token)
        found, exists = of_token(z, tokens.label, own), tokens.exists
        return found if exists is None else jax.tree.map(lambda x: jnp.where(exists, x, 0), found)


@tpu.at_once
def _existing(hidden: Array, exists: Array | None) -> Array:
    """The hidden states, 0 where a token does not exist: a product would spread a NaN."""
    return hidden if exists is None else jnp.where(exists[..., None], hidden, 0)


def _product(a: Array, b: Array, over_a: tuple[int, ...], over_b: tuple[int, ...], dtype: np.dtype) -> Array:
    """Summed over the given axes, accumulated in the dtype."""
    return jax.lax.dot_general(a, b, ((over_a, over_b), ((), ())), preferred_element_type=dtype)
