"""Every loss at realistic sizes, with its formula as one would type it and optax: what `accelerators` compiles.

A cell holds functions and the shapes of their arguments, no arrays: a program can be compiled for a machine that is
not there.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import jaxloss
from benchmarks import plain

optax: Any = importlib.import_module("optax.losses") if importlib.util.find_spec("optax") else None

Shape = tuple[int, ...]
Units = Callable[..., Array]  # one number a unit
INTEGER_KINDS = ("label", "length", "frames")
WHATS = ("value", "value+grad")


@dataclasses.dataclass(frozen=True)
class Sizes:
    numbers: Shape = (8192, 1024)
    classes: Shape = (8192, 1000)
    vocabulary: Shape = (4096, 32768)
    labels: Shape = (1024, 256)  # of multilabel_margin, whose formula makes all pairs
    boxes: int = 65536
    pixels: Shape = (32, 256, 256, 4)
    ctc: Shape = (32, 500, 64, 100)  # batch, frames, classes, labels
    rnnt: Shape = (8, 200, 512, 50)
    linear: Shape = (8192, 2048, 128256)  # tokens, features, classes
    members: Shape = (4096, 512)  # of one set, features


SIZES = {
    "usual": Sizes(),
    # more than the 128 MiB of fast memory that a TPU has
    "large": Sizes(
        numbers=(16384, 4096),
        classes=(2048, 50257),
        vocabulary=(1024, 131072),
        labels=(4096, 256),
        boxes=1_000_000,
        pixels=(32, 512, 512, 4),
        ctc=(32, 500, 4096, 100),
        rnnt=(16, 400, 512, 100),
        linear=(8192, 1024, 32768),
        members=(8192, 768),
    ),
    # rows that no tile divides, five classes, few boxes
    "odd": Sizes(
        numbers=(12287, 769),
        classes=(100_003, 5),
        vocabulary=(2048, 50257),
        labels=(1001, 77),
        boxes=1000,
        pixels=(7, 127, 129, 5),
        ctc=(5, 333, 29, 47),
        rnnt=(3, 101, 67, 23),
        linear=(4099, 768, 50257),
        members=(1001, 77),
    ),
    # a second or less a cell on a CPU
    "host": Sizes(
        numbers=(2000, 1000),
        classes=(2000, 1000),
        vocabulary=(500, 50257),
        labels=(250, 128),
        boxes=65000,
        pixels=(4, 250, 250, 4),
        ctc=(8, 100, 64, 20),
        rnnt=(4, 50, 64, 20),
        linear=(1000, 512, 32000),
        members=(500, 128),
    ),
    "small": Sizes(
        numbers=(16, 24),
        classes=(16, 10),
        vocabulary=(8, 40),
        labels=(8, 6),
        boxes=32,
        pixels=(2, 4, 6, 3),
        ctc=(3, 9, 5, 3),
        rnnt=(2, 6, 5, 3),
        linear=(16, 8, 40),
        members=(16, 24),
    ),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    loss: str
    variant: str  # "logits", "smooth", ... or nothing
    size: str
    inputs: tuple[tuple[Shape, str], ...]  # the shape and the kind of each
    units: Shape  # of the mask
    jaxloss: Callable[..., Array]
    plain: Units
    optax: Units | None = None
    by: tuple[int, ...] = (1,)  # the arguments of the gradient
    masked: bool = False
    masks_itself: bool = False  # the formula takes `where`
    as_exact: bool = True  # the peers widen bfloat16 inputs, and multiply at the highest precision, as jaxloss does

    @property
    def key(self) -> str:
        """As in benchmarks.compare."""
        words = (self.loss, self.variant, "where" * self.masked, self.size)
        return " ".join(word for word in words if word)

    @property
    def contenders(self) -> dict[str, Callable[..., Array]]:
        """Functions of the inputs, and of the mask if there is one, to the mean."""
        contenders: dict[str, Callable[..., Array]] = {"jaxloss": self._ours, "plain": self._mean_of(self.plain)}
        if self.optax and not (self.masked and self.masks_itself):
            contenders["optax"] = self._mean_of(self.optax)
        return contenders

    def _ours(self, *operands: Array) -> Array:
        return self.jaxloss(*operands[:-1], where=operands[-1]) if self.masked else self.jaxloss(*operands)

    def _mean_of(self, units: Units) -> Callable[..., Array]:
        def mean(*operands: Array) -> Array:
            if not self.masked:
                return jnp.mean(units(*operands))
            if self.masks_itself:
                return jnp.mean(units(*operands[:-1], where=operands[-1]))
            return plain.mean_where(operands[-1], units(*operands[:-1]))

        def exact(*operands: Array) -> Array:
            operands = tuple(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in operands)
            with jax.default_matmul_precision("highest"):
                return mean(*operands)

        return exact if self.as_exact else mean

    def program(self, contender: str, what: str) -> Callable[..., Any]:
        function = self.contenders[contender]
        return jax.value_and_grad(function, self.by) if what == "value+grad" else function

    def specs(
        self, dtype: str, sharding: Callable[[int, Shape], jax.sharding.Sharding | None] = lambda n, shape: None
    ) -> list[jax.ShapeDtypeStruct]:
        """The operands; `sharding(number, shape)` says where each lies."""
        kinds = [*self.inputs, (self.units, "mask")] if self.masked else self.inputs
        dtypes = {"mask": "bool", **dict.fromkeys(INTEGER_KINDS, "int32")}
        return [
            jax.ShapeDtypeStruct(shape, dtypes.get(kind, dtype), sharding=sharding(n, shape))
            for n, (shape, kind) in enumerate(kinds)
        ]

    def operands(self, dtype: str) -> list[Array]:
        """Random ones."""
        kinds = [*self.inputs, (self.units, "mask")] if self.masked else self.inputs
        made = []
        for n, (spec, (_, kind)) in enumerate(zip(self.specs(dtype), kinds, strict=True)):
            made.append(random_input(jax.random.key(n), kind, spec.shape, spec.dtype, self.highest(kind)))
        return made

    def highest(self, kind: str) -> int:
        """What labels and their lengths are below, and how many frames there are."""
        if kind == "length":
            return self.inputs[0][0][1] + 1
        if kind == "frames":
            return self.inputs[1][0][1]
        return self.inputs[-1 if self.loss == "linear_cce" else 1][0][-1]


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def random_input(key: Array, kind: str, shape: Shape, dtype: Any, highest: int) -> Array:
    if kind in ("label", "length"):
        return jax.random.randint(key, shape, 1, highest, dtype)
    if kind == "frames":
        return jnp.full(shape, highest, dtype)
    if kind == "mask":
        return jax.random.bernoulli(key, 0.75, shape)
    x = jax.random.uniform(key, shape, minval=0.05, maxval=0.95)
    if kind == "real":
        x = 2 * jax.random.normal(key, shape)
    elif kind == "positive":
        x = 2 * x
    elif kind == "log p":
        x = jnp.log(x)
    elif kind in ("bit", "sign"):
        x = jnp.where(x > 0.5, 1.0, 0.0 if kind == "bit" else -1.0)
    elif kind == "row":
        x = x / jnp.sum(x, -1, keepdims=True)
    elif kind == "log row":
        x = jax.nn.log_softmax(x)
    elif kind == "one-hot":
        x = jnp.where(jnp.max(x, -1, keepdims=True) == x, 1.0, 0.0)
    elif kind == "box":  # all overlap
        x = jnp.concatenate([0.3 * x[..., :2], 0.3 + x[..., 2:]], -1)
    return x.astype(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# families


def numbers(
    size: Sizes,
    loss: str,
    units: Units,
    optax: Units | None = None,
    variant: str = "",
    kinds: Sequence[str] = ("real", "real"),
    **options: Any,
) -> Cell:
    """A loss of each number."""
    shape = size.numbers
    function = functools.partial(jaxloss.LOSSES[loss], **options)
    inputs = tuple((shape, kind) for kind in kinds)
    by = tuple(range(1, len(kinds)))
    return Cell(loss, variant, "x".join(map(str, shape)), inputs, shape, function, units, optax, by)


def elementwise(size: Sizes) -> Iterator[Cell]:
    cell = functools.partial(numbers, size)
    probability, sign, positive = ("bit", "probability"), ("sign", "real"), ("positive",) * 2
    likelihood = ("real", "real", "positive")
    yield cell("mse", plain.mse, lambda y, p: optax.squared_error(p, y))
    yield cell("mae", plain.mae)
    yield cell("huber", plain.huber, lambda y, p: optax.huber_loss(p, y))
    yield cell("smooth_l1", functools.partial(plain.smooth_l1, beta=0.4), beta=0.4)
    yield cell("balanced_l1", plain.balanced_l1)
    yield cell("log_cosh", plain.log_cosh, lambda y, p: optax.log_cosh(p, y))
    yield cell("quantile", functools.partial(plain.quantile, level=0.3), level=0.3)
    yield cell("expectile", functools.partial(plain.expectile, level=0.3), level=0.3)
    yield cell("barron", functools.partial(plain.barron, alpha=1.4, scale=0.7), alpha=1.4, scale=0.7)
    for loss, units in (("charbonnier", plain.charbonnier), ("cauchy", plain.cauchy), ("welsch", plain.welsch)):
        yield cell(loss, functools.partial(units, scale=0.7), scale=0.7)
    yield cell("mape", plain.mape, kinds=positive)
    yield cell("smape", plain.smape, kinds=positive)
    yield cell("msle", plain.msle, kinds=positive)
    yield cell("bce", plain.bce, kinds=probability)
    yield cell(
        "bce",
        plain.bce_logits,
        lambda y, z: optax.sigmoid_binary_cross_entropy(z, y),
        "logits",
        ("bit", "real"),
        from_logits=True,
    )
    yield cell("binary_focal", plain.binary_focal, kinds=probability)
    yield cell(
        "binary_focal",
        plain.binary_focal_logits,
        lambda y, z: optax.sigmoid_focal_loss(z, y, gamma=2.0),
        "logits",
        ("bit", "real"),
        from_logits=True,
    )
    yield cell("hinge", plain.hinge, lambda y, z: optax.hinge_loss(z, y), kinds=sign)
    yield cell("squared_hinge", plain.squared_hinge, kinds=sign)
    yield cell("perceptron", plain.perceptron, lambda y, z: optax.perceptron_loss(z, y), kinds=sign)
    yield cell("soft_margin", plain.soft_margin, kinds=sign)
    yield cell("sparsemax", plain.sparsemax, lambda y, z: optax.sparsemax_loss(z, y), kinds=("bit", "real"))
    yield cell("hinge_embedding", plain.hinge_embedding, kinds=sign)
    yield cell("margin_ranking", plain.margin_ranking, kinds=("sign", "real", "real"))
    yield cell("gaussian_nll", plain.gaussian_nll, kinds=likelihood)
    yield cell("laplace_nll", plain.laplace_nll, kinds=likelihood)
    yield cell("student_t_nll", plain.student_t_nll, kinds=likelihood)
    yield cell("poisson_nll", plain.poisson_nll, kinds=positive)
    yield cell(
        "poisson_nll", plain.poisson_nll_log_rate, None, "log_rate full", ("positive", "real"), log_rate=True, full=True
    )
    yield cell("negative_binomial_nll", plain.negative_binomial_nll, kinds=("positive",) * 3)
    yield cell("tweedie", plain.tweedie, kinds=positive)
    models = ("log p",) * 4
    of_policy = {"by": (0, 1)}
    yield dataclasses.replace(cell("dpo", plain.dpo, kinds=models), **of_policy)
    yield dataclasses.replace(cell("ipo", plain.ipo, kinds=models), **of_policy)
    yield dataclasses.replace(cell("simpo", plain.simpo, kinds=models[:2]), **of_policy)
    yield dataclasses.replace(cell("orpo", plain.orpo, kinds=models[:2]), **of_policy)
    yield dataclasses.replace(cell("kto", plain.kto, kinds=("bit", *models[:2])), by=(1,))
    yield dataclasses.replace(
        cell("grpo", plain.grpo, kinds=("real", *models[:3])), jaxloss=grpo_with_reference, by=(1,)
    )


def grpo_with_reference(advantages: Array, policy: Array, old: Array, reference: Array, **options: Any) -> Array:
    return jaxloss.grpo(advantages, policy, old, reference=reference, **options)


def row(
    shape: Shape,
    loss: str,
    units: Units,
    optax: Units | None = None,
    variant: str = "",
    kinds: Sequence[str] = ("row", "row"),
    **options: Any,
) -> Cell:
    """A loss of each row of classes."""
    function = functools.partial(jaxloss.LOSSES[loss], **options)
    inputs = tuple((shape[:-1] if kind == "label" else shape, kind) for kind in kinds)
    return Cell(loss, variant, "x".join(map(str, shape)), inputs, shape[:-1], function, units, optax)


def smoothed_one_hot(y: Array, z: Array) -> Array:
    return optax.softmax_cross_entropy(z, optax.smooth_labels(jax.nn.one_hot(y, z.shape[-1]), 0.1))


def of_rows(size: Sizes) -> Iterator[Cell]:
    scores, label, multi = ("row", "real"), ("label", "real"), ("bit", "real")
    for shape in (size.classes, size.vocabulary):
        cell = functools.partial(row, shape)
        logits = functools.partial(cell, kinds=scores, from_logits=True)
        sparse = functools.partial(cell, "sparse_cce", kinds=label, from_logits=True)
        yield cell("cce", plain.cce)
        yield logits("cce", plain.cce_logits, lambda y, z: optax.softmax_cross_entropy(z, y), "logits")
        yield logits(
            "cce",
            functools.partial(plain.cce_logits, label_smoothing=0.1),
            lambda y, z: optax.softmax_cross_entropy(z, optax.smooth_labels(y, 0.1)),
            "logits smooth",
            label_smoothing=0.1,
        )
        yield cell("sparse_cce", plain.sparse_cce, kinds=("label", "row"))
        yield sparse(
            plain.sparse_cce_logits,
            lambda y, z: optax.softmax_cross_entropy_with_integer_labels(z, y),
            "logits",
        )
        yield sparse(
            functools.partial(plain.sparse_cce_logits, label_smoothing=0.1),
            smoothed_one_hot,
            "logits smooth",
            label_smoothing=0.1,
        )
        yield sparse(functools.partial(plain.sparse_cce_z_loss, z_loss=1e-4), None, "logits z_loss", z_loss=1e-4)
        yield cell("nll", plain.nll, kinds=("label", "log row"))
        yield logits("categorical_focal", plain.categorical_focal_logits, None, "logits")
        yield cell("multi_margin", plain.multi_margin, kinds=label)
        yield cell("kl_divergence", plain.kl_divergence, lambda y, p: optax.kl_divergence(jnp.log(p), y))
        yield cell(
            "distillation",
            functools.partial(plain.distillation, temperature=2.0),
            lambda y, z: 4 * optax.kl_divergence_with_log_targets(*(jax.nn.log_softmax(x / 2) for x in (z, y))),
            kinds=("real", "real"),
            temperature=2.0,
        )
    cell = functools.partial(row, size.classes)
    logits = functools.partial(cell, kinds=scores, from_logits=True)
    yield cell("categorical_focal", plain.categorical_focal)
    yield logits(
        "categorical_focal",
        functools.partial(plain.categorical_focal_logits, gamma=1.5),
        None,
        "logits gamma=1.5",
        gamma=1.5,
    )
    yield cell("poly1", plain.poly1)
    yield logits("poly1", plain.poly1_logits, lambda y, z: optax.poly_loss_cross_entropy(z, y, epsilon=1.0), "logits")
    for name in ("sparse_focal", "sparse_poly1", "sparse_generalized_cce"):
        yield cell(name, getattr(plain, name), None, "logits", label, from_logits=True)
    yield cell("generalized_cce", plain.generalized_cce)
    yield logits("generalized_cce", plain.generalized_cce_logits, None, "logits")
    yield cell("categorical_hinge", plain.categorical_hinge, kinds=("one-hot", "real"))
    yield dataclasses.replace(
        cell("categorical_hinge", of_label(plain.categorical_hinge), None, "labels", label),
        jaxloss=of_label(jaxloss.categorical_hinge),
        optax=lambda y, z: optax.multiclass_hinge_loss(z, y),
    )
    yield row(size.labels, "multilabel_margin", plain.multilabel_margin, kinds=multi)
    yield cell("multilabel_soft_margin", plain.multilabel_soft_margin, kinds=multi)
    yield cell(
        "kl_divergence",
        plain.kl_divergence_logs,
        lambda y, p: optax.kl_divergence_with_log_targets(p, y),
        "logs",
        ("log row", "log row"),
        from_logs=True,
    )
    yield cell("js_divergence", plain.js_divergence)
    yield cell("total_variation", plain.total_variation)
    yield row(
        size.numbers,
        "cosine_distance",
        plain.cosine_distance,
        lambda y, p: optax.cosine_distance(p, y, epsilon=1e-8),
        kinds=("real", "real"),
    )


def embeddings(size: Sizes) -> Iterator[Cell]:
    cell = functools.partial(row, size.numbers)
    yield dataclasses.replace(
        cell(
            "triplet",
            plain.triplet,
            lambda a, p, n: optax.triplet_margin_loss(a, p, n),
            kinds=("real",) * 3,
        ),
        by=(0, 1, 2),
    )
    for loss, target in (("contrastive", "bit"), ("cosine_embedding", "sign")):
        pair = cell(loss, getattr(plain, loss), kinds=(target, "real", "real"))
        inputs = ((size.numbers[:-1], target), *pair.inputs[1:])
        yield dataclasses.replace(pair, inputs=inputs, by=(1, 2))
    for loss in ("info_nce", "clip", "siglip", "nt_xent", "barlow_twins", "vicreg"):
        pairs = row(size.members, loss, getattr(plain, loss), kinds=("real", "real"))
        yield dataclasses.replace(pairs, by=(0, 1), masks_itself=True)
    for loss in ("sup_con", "multi_similarity", "circle"):
        members = row(size.members, loss, getattr(plain, loss), kinds=("label", "real"))
        yield dataclasses.replace(members, masks_itself=True)
    yield cell("byol", plain.byol, kinds=("real", "real"))


def of_label(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda y, z, **options: function(jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype), z, **options)


def boxes(size: Sizes) -> Iterator[Cell]:
    inputs = (((size.boxes, 4), "box"),) * 2
    for loss in (
        *("iou", "iou_log", "giou", "diou", "ciou", "eiou", "focal_eiou", "alpha_iou", "siou"),
        *("wiou_v1", "wiou_v2", "wiou_v3"),
    ):
        options = {"iou_loss_mean": 0.6} if loss in ("wiou_v2", "wiou_v3") else {}
        ours, units = (functools.partial(f, **options) for f in (jaxloss.LOSSES[loss], getattr(plain, loss)))
        yield Cell(loss, "", str(size.boxes), inputs, (size.boxes,), ours, units)


def segmentation(size: Sizes) -> Iterator[Cell]:
    axis = tuple(range(1, len(size.pixels) - 1))

    def cell(
        loss: str, target: str = "probability", optax: Units | None = None, logits: bool = False, **options: Any
    ) -> Cell:
        formula = functools.partial(getattr(plain, loss), axis=axis, **options)
        how = {"from_logits": True} if logits else {}
        return Cell(
            loss,
            "logits" * logits,
            "x".join(map(str, size.pixels)),
            ((size.pixels, target), (size.pixels, "real" if logits or loss == "lovasz_hinge" else "probability")),
            size.pixels[:-1],
            functools.partial(jaxloss.LOSSES[loss], axis=axis, **options, **how),
            (lambda y, z, where=None: formula(y, jax.nn.softmax(z), where=where)) if logits else formula,
            optax,
            masks_itself=True,
        )

    yield cell("dice")  # optax's of probabilities cannot be jitted: it tests whether they are some
    yield cell("dice", optax=lambda y, z: optax.dice_loss(z, y, smooth=0.0, axis=axis), logits=True)
    yield cell("tversky", alpha=0.3, beta=0.7)
    yield cell(
        "tversky",
        optax=lambda y, z: optax.dice_loss(z, y, smooth=1.0, alpha=0.3, beta=0.7, axis=axis),
        logits=True,
        alpha=0.3,
        beta=0.7,
        smooth=1.0,
    )
    yield cell("focal_tversky")
    yield cell("jaccard")
    yield cell("generalized_dice")
    yield cell("generalized_dice", logits=True)
    yield cell("lovasz_hinge", "bit")
    yield cell("lovasz_softmax", "bit")
    yield cell("lovasz_softmax", "bit", logits=True)


def ranking(size: Sizes) -> Iterator[Cell]:
    def cell(loss: str, relevance: str, shape: Shape, optax: Units | None = None) -> Cell:
        inputs = ((shape, relevance), (shape, "real"))
        key, ours, units = "x".join(map(str, shape)), jaxloss.LOSSES[loss], getattr(plain, loss)
        return Cell(loss, "", key, inputs, shape, ours, units, optax, masks_itself=True)

    def optax_softmax(y: Array, z: Array) -> Array:
        return optax.ranking_softmax_loss(z, y, reduce_fn=None)

    yield cell("list_softmax", "probability", size.classes, optax_softmax)
    for loss in ("ranknet", "pairwise_hinge", "list_mle", "approx_ndcg", "lambda_rank"):
        yield cell(loss, "probability", size.labels)


def optax_ctc(labels: Array, logits: Array, label_lengths: Array, logit_lengths: Array) -> Array:
    def padding(lengths: Array, n: int) -> Array:
        return (jnp.arange(n) >= lengths[:, None]).astype(jnp.float32)

    paddings = padding(logit_lengths, logits.shape[1]), padding(label_lengths, labels.shape[1])
    return optax.ctc_loss(logits, paddings[0], labels, paddings[1])


def optax_linear_cce(y: Array, hidden: Array, kernel: Array) -> Array:
    z = jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(z, y)


def others(size: Sizes) -> Iterator[Cell]:
    for loss, (batch, frames, classes, labels) in (("ctc", size.ctc), ("rnnt", size.rnnt)):
        logits = (batch, frames, classes) if loss == "ctc" else (batch, frames, labels + 1, classes)
        yield Cell(
            loss,
            "",
            "x".join(map(str, (batch, frames, classes, labels))),
            (((batch, labels), "label"), (logits, "real"), ((batch,), "length"), ((batch,), "frames")),
            (batch,),
            of_lengths(jaxloss.LOSSES[loss]),
            getattr(plain, loss),
            optax_ctc if loss == "ctc" else None,
        )
    tokens, features, classes = size.linear
    yield Cell(
        "linear_cce",
        "",
        "x".join(map(str, size.linear)),
        (((tokens,), "label"), ((tokens, features), "real"), ((features, classes), "real")),
        (tokens,),
        jaxloss.linear_cce,
        plain.linear_cce,
        optax_linear_cce,
        by=(1, 2),
        as_exact=False,
    )


def of_lengths(loss: Callable[..., Array]) -> Callable[..., Array]:
    def function(labels: Array, logits: Array, label_lengths: Array, logit_lengths: Array, **options: Any) -> Array:
        return loss(labels, logits, label_lengths=label_lengths, logit_lengths=logit_lengths, **options)

    return function


def cells(size: Sizes) -> Iterator[Cell]:
    """Each without a mask and with one."""
    for family in (elementwise, of_rows, embeddings, boxes, segmentation, ranking, others):
        for cell in family(size):
            cell = cell if optax is not None else dataclasses.replace(cell, optax=None)
            yield cell
            yield dataclasses.replace(cell, masked=True)
