"""PyTorch's samples of its losses (OpInfo): each is computed by both, with the gradients, and each bad input refused.

What is compared with is PyTorch in float64. Ours get float32, and the tolerance is the one that PyTorch holds its own
float32 results to. A test is named after its function, its number, and the sample: the shapes of the arrays (f of
floats, i of integers), then the options. " broadcast" at the end says that our loss refused the shapes, and agrees once
they are broadcast by hand; " mended", that it agrees with PyTorch's function without the difference that the list has.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from peers import Result

Graded = tuple[np.ndarray, list[np.ndarray]]  # a value, and its gradients by some of the arrays

# The defaults of torch.testing.assert_close for float32.
TOLERANCE = {"rtol": 1.3e-6, "atol": 1e-5}


class NotOursError(Exception):
    """The sample asks for something that we do not have."""


# ---------------------------------------------------------------------------------------------------------------------
# The functions of torch.nn.functional by our losses: (input, *args, **kwargs) as there, NumPy or jax arrays in.


def elements(loss: Callable[..., Any]) -> Callable[..., Any]:
    return lambda p, y, **options: loss(y, p, **options)


def weighted(loss: Callable[..., Any], p: Any, y: Any, weight: Any, reduction: Any, **options: Any) -> Any:
    """`weight` multiplies elements (of the last axes), and does not enter the divisor of the mean."""
    if weight is not None:
        weight = jnp.broadcast_to(weight, jnp.shape(p))
        reduction = "sum_over_batch_size" if reduction == "mean" else reduction
    return loss(y, p, weights=weight, reduction=reduction, **options)


def bce(p: Any, y: Any, weight: Any = None, reduction: Any = "mean") -> Any:
    return weighted(jl.bce, p, y, weight, reduction)


def bce_with_logits(p: Any, y: Any, weight: Any = None, reduction: Any = "mean", pos_weight: Any = None) -> Any:
    return weighted(jl.bce, p, y, weight, reduction, from_logits=True, pos_weight=pos_weight)


def of_labels(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The classes lie along axis 1. The mean of weighted classes is over the weights of the labels."""

    def call(
        scores: Any,
        labels: Any,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: Any = "mean",
        **options: Any,
    ) -> Any:
        shared = {
            "axis": min(1, np.ndim(scores) - 1),
            "reduction": reduction,
            "where": labels != ignore_index,
            **options,
        }
        if weight is not None and reduction == "mean":
            return loss(labels, scores, weights=jnp.take(weight, labels, mode="clip"), **shared)
        return loss(labels, scores, class_weights=weight, **shared)

    return call


def cross_entropy(scores: Any, target: Any, weight: Any = None, reduction: Any = "mean", **options: Any) -> Any:
    if target.dtype.kind == "i":
        return of_labels(jl.sparse_cce)(scores, target, weight, reduction=reduction, from_logits=True, **options)
    return jl.cce(target, scores, class_weights=weight, reduction=reduction, from_logits=True, axis=1, **options)


def linear_cross_entropy(
    hidden: Any,
    kernel: Any,
    labels: Any,
    linear_bias: Any = None,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: Any = "mean",
    options: Any = None,  # how it is computed, not what
) -> Any:
    """The kernel is (V, D); in (V, *places, D) each place has a kernel of its own."""
    if labels.dtype.kind == "f":
        raise NotOursError("distributions as targets")
    where = labels != ignore_index
    if np.ndim(kernel) < 3:
        weights = None if weight is None or reduction != "mean" else jnp.take(weight, labels, mode="clip")
        class_weights = None if weights is not None else weight
        shared = {"class_weights": class_weights, "weights": weights, "where": where, "reduction": reduction}
        return jl.linear_cce(labels, hidden, jnp.swapaxes(kernel, 0, -1), bias=linear_bias, **shared)
    places = kernel.shape[1:-1]
    kernels = jnp.moveaxis(kernel, (0, -1), (-1, -2)).reshape(-1, kernel.shape[-1], len(kernel))
    biases = jnp.zeros((len(kernel), *places)) if linear_bias is None else linear_bias
    biases = jnp.moveaxis(biases, 0, -1).reshape(-1, len(kernel))
    batch = jnp.shape(labels)[: np.ndim(labels) - len(places)]

    def at_place(kernel: Any, bias: Any, labels: Any, where: Any) -> Any:
        return jl.linear_cce(labels, hidden, kernel, bias=bias, where=where, reduction="none")

    flat = [x.reshape(*batch, -1) for x in (labels, where)]
    losses = jax.vmap(at_place, in_axes=(0, 0, -1, -1), out_axes=-1)(kernels, biases, *flat).reshape(labels.shape)
    counts = where if weight is None else where * jnp.take(weight, labels, mode="clip")
    total = jnp.sum(counts * losses)
    return {"none": counts * losses, "sum": total, "mean": total / jnp.sum(counts)}[reduction]


def multi_margin(
    scores: Any, labels: Any, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: Any = "mean"
) -> Any:
    weights = None
    if weight is not None:
        if np.shape(weight) != np.shape(scores)[-1:]:
            raise NotOursError("weights of the classes, here weights of the examples by their labels")
        weights = jnp.take(weight, labels)
        reduction = "sum_over_batch_size" if reduction == "mean" else reduction
    return jl.multi_margin(labels, scores, power=p, margin=margin, weights=weights, reduction=reduction)


def multilabel_margin(scores: Any, labels: Any, reduction: Any = "mean") -> Any:
    """The labels are a list in each row, which ends at the first -1."""
    if not np.ndim(labels):
        return jl.multilabel_margin(labels, scores, reduction=reduction)
    listed = np.cumprod(labels >= 0, -1, dtype=bool)
    matrix = (listed[..., None] & (labels[..., None] == np.arange(labels.shape[-1]))).any(-2)
    return jl.multilabel_margin(matrix, scores, reduction=reduction)


def multilabel_soft_margin(scores: Any, y: Any, weight: Any = None, reduction: Any = "mean") -> Any:
    if weight is None:
        return jl.multilabel_soft_margin(y, scores, reduction=reduction)
    losses = jnp.mean(jl.bce(y, scores, from_logits=True, weights=weight, reduction="none"), -1)
    return losses if reduction == "none" else getattr(jnp, reduction)(losses)


def cosine_similarity(a: Any, b: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    return 1 - jl.cosine_distance(b, a, axis=dim, eps=eps, reduction="none")


def kl_div(p: Any, q: Any, log_target: bool = False, reduction: Any = "mean") -> Any:
    """Every entry is a term: a distribution of one class. batchmean divides by the length of the first axis."""
    q = q if log_target else jnp.log(q)
    named = "sum" if reduction == "batchmean" else reduction
    loss = jl.kl_divergence(q[..., None], p[..., None], from_logs=True, reduction=named)
    return loss / len(p) if reduction == "batchmean" else loss


def ctc(
    log_probs: Any,
    labels: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: Any = "mean",
    zero_infinity: bool = False,
) -> Any:
    """Frames come first; the mean is over losses divided by the number of their labels."""
    lengths = np.asarray(target_lengths)
    weights = 1 / np.maximum(lengths, 1) if reduction == "mean" else None
    return jl.ctc(
        labels,
        jnp.swapaxes(log_probs, 0, 1),
        label_lengths=lengths,
        logit_lengths=np.asarray(input_lengths),
        blank=blank,
        infeasible="zero" if zero_infinity else "inf",
        weights=weights,
        reduction="sum_over_batch_size" if reduction == "mean" else reduction,
    )


def poisson(p: Any, y: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8, **reduction: Any) -> Any:
    return jl.poisson_nll(y, p, log_rate=log_input, full=full, **reduction)


def of_pairs(loss: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b, y, **options: loss(y, a, b, **options)


def triplet(anchor: Any, positive: Any, negative: Any, p: float = 2.0, eps: float = 1e-6, **options: Any) -> Any:
    """PyTorch adds eps to each difference, of which nothing is seen within the tolerance."""
    if p < 1 or p != int(p):
        raise NotOursError("a norm that is no whole number of at least 1")
    return jl.triplet(anchor, positive, negative, power=int(p), **options)


def triplet_with_distance(*triple: Any, distance_function: Any = None, **options: Any) -> Any:
    """The distance is Euclidean in all samples, by default or by name."""
    import torch

    if distance_function is None:
        return triplet(*triple, **options)
    if not isinstance(distance_function, torch.nn.PairwiseDistance) or distance_function.keepdim:
        raise NotOursError("a distance of one's own")
    return triplet(*triple, p=distance_function.norm, **options)


def pairwise_distance(a: Any, b: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The loss of a triplet whose negative is the anchor. eps, which may be large, is added to each difference."""
    distances = triplet(a + eps, b, a + eps, p=p, margin=0.0, reduction="none")
    return distances[..., None] if keepdim else distances


def gaussian(p: Any, y: Any, variance: Any, **options: Any) -> Any:
    return jl.gaussian_nll(y, p, variance, **options)


def gaussian_broadcast(p: Any, y: Any, variance: Any) -> Any:
    """A variance that lacks the last axis of the input is that of a row."""
    if jnp.shape(variance) == jnp.shape(p)[:-1]:
        variance = variance[..., None]
    return jnp.broadcast_arrays(p, y, variance)


# The same functions in PyTorch, without the difference that the list names.


def poisson_mended(
    p: Any, y: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Any:
    """Without the epsilon, and with log(y!) instead of an approximation."""
    from torch.nn.functional import poisson_nll_loss

    losses = poisson_nll_loss(p, y, log_input=log_input, eps=0, reduction="none") + full * (y + 1).lgamma()
    return losses if reduction == "none" else getattr(losses, reduction)()


def multilabel_soft_margin_mended(scores: Any, y: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """NaN for a target outside [0, 1]."""
    import torch

    losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, y, weight=weight, reduction="none")
    losses = torch.where((y >= 0) & (y <= 1), losses, torch.nan).mean(-1)
    return losses if reduction == "none" else getattr(losses, reduction)()


def nll_mended(scores: Any, labels: Any, **options: Any) -> Any:
    """NaN for a number above 0, which is no log-probability."""
    import torch

    return torch.nn.functional.nll_loss(torch.where(scores > 0, torch.nan, scores), labels, **options)


def multilabel_mended(scores: Any, labels: Any, reduction: str = "mean") -> Any:
    """Every class once."""
    import torch

    rows = [list(dict.fromkeys(row)) for row in labels.reshape(-1, labels.shape[-1]).tolist()]
    once = torch.tensor([row + [-1] * (labels.shape[-1] - len(row)) for row in rows]).reshape(labels.shape)
    return torch.nn.functional.multilabel_margin_loss(scores, once, reduction=reduction)


def of_signs(name: str) -> Callable[..., Any]:
    """NaN for a target that is none."""

    def call(*tensors: Any, reduction: str = "mean", **options: Any) -> Any:
        import torch

        losses = getattr(torch.nn.functional, name)(*tensors, reduction="none", **options)
        y = tensors[-1]
        losses = torch.where((y == 0) | (abs(y) == 1), losses, torch.nan)
        return losses if reduction == "none" else getattr(losses, reduction)()

    return call


def scaled(*arrays: Any) -> Any:
    """The scores times the size of the target, and its sign: the same product of the two, with a target that is one."""
    *scores, y = arrays
    return *(abs(y) * x for x in scores), jnp.sign(y)


@dataclass(frozen=True)
class Ours:
    """call: see above. slopes: the places of the arrays whose gradients are compared.

    broadcast: how shapes are made equal by hand.
    mended: PyTorch's function, without the difference that the list names.
    instead: how arrays outside our domain are changed so that PyTorch's own result is expected; looked at if mended.
    """

    call: Callable[..., Any]
    slopes: tuple[int, ...] = (0,)
    broadcast: Callable[..., Any] = jnp.broadcast_arrays
    mended: Callable[..., Any] | None = None
    instead: Callable[..., Any] | None = None


OURS = {
    "binary_cross_entropy": Ours(bce),
    "binary_cross_entropy_with_logits": Ours(bce_with_logits),
    "cosine_embedding_loss": Ours(of_pairs(jl.cosine_embedding), (0, 1)),
    "cosine_similarity": Ours(cosine_similarity, (0, 1)),
    "cross_entropy": Ours(cross_entropy),
    "ctc_loss": Ours(ctc),
    "gaussian_nll_loss": Ours(gaussian, (0, 1, 2), gaussian_broadcast),
    "hinge_embedding_loss": Ours(elements(jl.hinge_embedding), mended=of_signs("hinge_embedding_loss")),
    "huber_loss": Ours(elements(jl.huber), (0, 1)),
    "kl_div": Ours(kl_div, (0, 1)),
    "l1_loss": Ours(elements(jl.mae), (0, 1)),
    "linear_cross_entropy": Ours(linear_cross_entropy, (0, 1)),
    "margin_ranking_loss": Ours(
        of_pairs(jl.margin_ranking), (0, 1), mended=of_signs("margin_ranking_loss"), instead=scaled
    ),
    "mse_loss": Ours(elements(jl.mse), (0, 1)),
    "multi_margin_loss": Ours(multi_margin),
    "multilabel_margin_loss": Ours(multilabel_margin, mended=multilabel_mended),
    "multilabel_soft_margin_loss": Ours(multilabel_soft_margin, mended=multilabel_soft_margin_mended),
    "nll_loss": Ours(of_labels(jl.nll), mended=nll_mended),
    "pairwise_distance": Ours(pairwise_distance, (0, 1)),
    "poisson_nll_loss": Ours(poisson, mended=poisson_mended),
    "smooth_l1_loss": Ours(elements(jl.smooth_l1), (0, 1)),
    "soft_margin_loss": Ours(elements(jl.soft_margin), mended=of_signs("soft_margin_loss"), instead=scaled),
    "triplet_margin_loss": Ours(triplet, (0, 1, 2)),
    "triplet_margin_with_distance_loss": Ours(triplet_with_distance, (0, 1, 2)),
}


# ---------------------------------------------------------------------------------------------------------------------
# The samples


def ops() -> Iterator[tuple[str, str, Any]]:
    """Name, variant and OpInfo of every loss of PyTorch."""
    from torch.testing._internal.common_methods_invocations import op_db

    seen = set()
    for op in op_db:
        name = op.name.removeprefix("nn.functional.")
        words = ("_loss", "cross_entropy", "kl_div", "cosine_similarity", "pairwise_distance")
        if op.name.startswith("nn.functional.") and name.endswith((*words, "cross_entropy_with_logits")):
            seen.add(name)
            yield name, op.variant_test_name, op
    if seen != set(OURS):
        raise AssertionError(f"losses of PyTorch without an adaptor: {seen ^ set(OURS)}")


def shown(x: Any) -> str:
    if hasattr(x, "shape"):
        return ("f" if x.dtype.is_floating_point else "i") + str(tuple(x.shape)).replace(" ", "")
    return repr(x) if isinstance(x, (bool, int, float, str, type(None))) else type(x).__name__


def run() -> list[Result]:
    results = []
    for function, variant, op in ops():
        title = f"{function}-{variant}" if variant else function
        results += samples_of(title, function, op)
        print(f"{title}: {len(results)} samples so far", file=sys.stderr, flush=True)
    return results


def samples_of(title: str, function: str, op: Any) -> Iterator[Result]:
    """The results of the samples of a function, then those of the inputs that it refuses."""
    import torch

    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    samples = [(f"{title}[{i}]", sample) for i, sample in enumerate(op.sample_inputs("cpu", torch.float32))]
    errors = enumerate(op.error_inputs("cpu") if op.error_inputs_func else ())
    errors = [(f"{title} error[{i}]", error.sample_input) for i, error in errors]
    names = {id(sample): described(name, sample) for name, sample in samples + errors}
    programs = []
    for _, sample in samples:
        try:
            programs.append((sample, Program.of(OURS[function], op.op, sample)))
        except NotOursError as reason:
            yield Result(names[id(sample)], "not ours", str(reason))
        except (TypeError, ValueError) as error:
            if not is_ours(error):
                raise
            yield Result(names[id(sample)], "differ", first_line(error))
    results = computed([program for _, program in programs])
    for (sample, program), (got, instead) in zip(programs, results, strict=True):
        name, why = names[id(sample)], unequal(got, program.want)
        if program.refusal and not why:
            name, why = f"{name} broadcast", program.refusal
        elif program.mended and why and not unequal(got, program.mended):
            again = unequal(instead, program.want) if instead else ""
            name, why = (name, f"inside the domain, {again}") if again else (f"{name} mended", why)
        yield Result(name, "differ" if why else "agree", why)
    for _, sample in errors:
        yield refused(names[id(sample)], OURS[function], sample)


def described(name: str, sample: Any) -> str:
    words = [shown(x) for x in (sample.input, *sample.args)]
    return " ".join([name, *words, *(f"{key}={shown(x)}" for key, x in sample.kwargs.items() if key != "options")])


def numbers(x: Any) -> Any:
    """A tensor as an array of NumPy, which tells labels from scores as ours do."""
    return np.array(x.detach().numpy()) if hasattr(x, "detach") else x


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def is_ours(error: Exception) -> bool:
    """A refusal by the contract: it begins with the name of the loss."""
    return isinstance(error, (TypeError, ValueError)) and str(error).partition(":")[0] in jl.LOSSES


def refused(name: str, ours: Ours, sample: Any) -> Result:
    """What PyTorch refuses, we refuse too."""
    arrays = [numbers(x) for x in (sample.input, *sample.args)]
    try:
        result = ours.call(*arrays, **{key: numbers(x) for key, x in sample.kwargs.items()})
    except NotOursError as reason:
        return Result(name, "not ours", str(reason))
    except (TypeError, ValueError) as error:
        if is_ours(error):
            return Result(name, "agree")
        raise
    return Result(name, "differ", f"no error, but a result of shape {np.shape(result)}")


@dataclass(frozen=True)
class Program:
    """graded: our value and gradients as a function of the arrays. want: PyTorch's. mended, instead: see `Ours`.

    refusal: why our loss would not take the arrays before they were broadcast, if so.
    """

    graded: Callable[..., Any]
    arrays: list[Any]
    want: Graded
    mended: Graded | None
    instead: Callable[..., Any] | None
    refusal: str

    @classmethod
    def of(cls, ours: Ours, theirs: Callable[..., Any], sample: Any) -> Program:
        tensors = (sample.input, *sample.args)
        arrays = [numbers(x) for x in tensors]
        options = {key: numbers(x) for key, x in sample.kwargs.items()}
        chosen = [arrays[i] for i in ours.slopes]

        def direct(*arrays: Any) -> Any:
            return ours.call(*arrays, **options)

        def by_hand(change: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *arrays: ours.call(*change(*arrays), **options)

        def graded(call: Callable[..., Any]) -> Callable[..., Any]:
            def summed(*chosen: Any) -> Any:
                full = list(arrays)
                for i, x in zip(ours.slopes, chosen, strict=True):
                    full[i] = x
                value = call(*full)
                return jnp.sum(value * jnp.asarray(cotangents(jnp.shape(value)), jnp.float32)), value

            return jax.value_and_grad(summed, tuple(range(len(chosen))), has_aux=True)

        refusal = ""
        try:
            jax.eval_shape(lambda *chosen: graded(direct)(*chosen), *chosen)
        except ValueError as error:
            floats = all(np.asarray(x).dtype.kind == "f" for x in arrays)
            if not (is_ours(error) and floats and "hapes must be equal" in str(error)):
                raise
            refusal = first_line(error)
        want = in_double(theirs, tensors, sample.kwargs, ours.slopes)
        mended = in_double(ours.mended, tensors, sample.kwargs, ours.slopes) if ours.mended else None
        instead = graded(by_hand(ours.instead)) if ours.instead else None
        return cls(graded(by_hand(ours.broadcast) if refusal else direct), chosen, want, mended, instead, refusal)


def computed(programs: list[Program], at_once: int = 40) -> Iterator[tuple[Any, Any]]:
    """What the programs give, and what they do instead, many compiled as one: most of the time is compiling."""
    for i in range(0, len(programs), at_once):
        some = programs[i : i + at_once]
        calls = [[call for call in (p.graded, p.instead) if call] for p in some]
        graded = jax.jit(
            lambda arrays, calls=calls: [[f(*a) for f in each] for each, a in zip(calls, arrays, strict=True)]
        )
        for each in graded([p.arrays for p in some]):
            got, instead = [(value, slopes) for (_, value), slopes in each] + [None] * (2 - len(each))
            yield got, instead


def cotangents(shape: tuple[int, ...]) -> np.ndarray:
    return 1 + np.arange(np.prod(shape, dtype=int)).reshape(shape) / 4


def in_double(theirs: Any, tensors: Any, options: Any, places: tuple[int, ...]) -> Graded:
    """PyTorch's value and gradients in float64."""
    import torch

    def double(x: Any) -> Any:
        floating = isinstance(x, torch.Tensor) and x.is_floating_point()
        return x.detach().clone().double() if floating else x

    tensors = [double(x) for x in tensors]
    for i in places:
        tensors[i].requires_grad_()
    value = theirs(*tensors, **{key: double(x) for key, x in options.items()})
    total = (value * torch.as_tensor(cotangents(tuple(value.shape)))).sum()
    slopes = torch.autograd.grad(total, [tensors[i] for i in places], allow_unused=True)
    found = [np.zeros(tensors[i].shape) if g is None else g.numpy() for i, g in zip(places, slopes, strict=True)]
    return value.detach().numpy(), found


def unequal(got: Any, want: Graded) -> str:
    """How our value and gradients differ from those wanted; nothing if they do not."""
    pairs = [("the value", got[0], want[0])]
    pairs += [(f"gradient {i}", g, w) for i, (g, w) in enumerate(zip(got[1], want[1], strict=True))]
    for what, value, expected in pairs:
        value = np.asarray(value, np.float64)
        if value.shape != expected.shape:
            return f"{what} has shape {value.shape} instead of {expected.shape}"
        wrong = ~np.isclose(value, expected, **TOLERANCE, equal_nan=True)
        if wrong.any():
            return f"{what} has {value[wrong][0]:.8g} instead of {expected[wrong][0]:.8g}"
    return ""
