"""Losses for JAX: pure functions under one contract, which is this page. `help(jaxloss.cce)` shows one of them.

    loss(y_true, y_pred, *, <its own options>, weights=None, where=None, reduction="mean")

**Arrays** are those of jax or NumPy, numbers, or lists. Shapes must be equal; nothing is broadcast. Half precision is
computed in float32 and returns float32; gradients have the dtype of their input. The prediction comes second:
`jax.grad(loss, argnums=1)`. To compile the loss itself, close over the options that choose the program:
`jax.jit(functools.partial(loss, from_logits=True))`.

**Units** are what a loss gives one value for: an element, an example, a box, a sequence, a class of an image. The
Returns of each loss names its unit. Three options are the same for all of them:

- `weights`: a factor for each unit, which may be negative. Their shape is a leading part of that of the units: (batch,)
  fits (batch, time).
- `where`: which units exist (bool), of a shape as for `weights`. Masking equals leaving out: what lies under the
  mask, be it NaN or a label of -100, reaches neither the loss nor any gradient.
- `reduction`: "mean" is sum(w l) / sum(w) over the units that exist; "sum"; "none"; "sum_over_batch_size" divides
  by the number of units; "sum_and_weight" is the pair (sum(w l), sum(w)); or a function of (losses, weights).
  Where nothing is left, a mean is 0 with zero gradient.

**Options** of a loss that are Python numbers are compiled in: another value compiles another program. An array is
traced, and differentiated where the formula is. It holds one number, or one for each unit; its shape matches the units
from the right, as in NumPy, so that (K,) is one for each entry of the last axis.

**Domains.** A value outside the domain of its argument (a label that is no class, a probability of 1.2) makes the loss
of its unit NaN, with zero gradient: never a plausible number. So watch the loss, not the gradient.
`jaxloss.checked(loss)` raises an error that names the value.

**Kinks** have the derivative that the loss documents: 0 in most, such as `mae` at a residual of 0.

**Keras** casts labels to float, and applies its weights to one loss for each example. So a loss for
`model.compile(loss=...)`, registered for saved models to find it by name, is:

    @keras.saving.register_keras_serializable("mine")
    def sparse_cce(y_true, y_pred):
        labels = y_true.reshape(y_pred.shape[:-1]).astype(int)
        return jaxloss.sparse_cce(labels, y_pred, from_logits=True, reduction="none")

`LOSSES` has every loss by name, `mean_over` is the mean over the devices of `jax.shard_map`, and `jaxloss.contract` is
what the losses are made of, for writing one's own.
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from jaxloss import mining as mining
from jaxloss._contract.declare import declared as _declared
from jaxloss._contract.reduce import mean_of_means
from jaxloss._contract.types import ClassStats
from jaxloss._contract.values import BadValueError, checked
from jaxloss._names import Table as _Table
from jaxloss._names import did_you_mean as _did_you_mean
from jaxloss.boxes import (
    alpha_iou,
    ciou,
    diou,
    eiou,
    focal_eiou,
    giou,
    iou,
    iou_log,
    siou,
    update_iou_loss_mean,
    wiou_v1,
    wiou_v2,
    wiou_v3,
)
from jaxloss.classification import bce, cce, cce_stats, nll, sparse_cce, sparse_cce_stats
from jaxloss.counts import negative_binomial_nll, poisson_nll, tweedie
from jaxloss.divergence import distillation, js_divergence, kl_divergence, total_variation
from jaxloss.focal import (
    binary_focal,
    categorical_focal,
    generalized_cce,
    poly1,
    sparse_focal,
    sparse_generalized_cce,
    sparse_poly1,
)
from jaxloss.likelihood import gaussian_nll, laplace_nll, student_t_nll
from jaxloss.linear import linear_cce, linear_cce_stats
from jaxloss.margin import (
    categorical_hinge,
    hinge,
    multi_margin,
    multilabel_margin,
    multilabel_soft_margin,
    perceptron,
    soft_margin,
    sparsemax,
    squared_hinge,
)
from jaxloss.metric import (
    arcface,
    barlow_twins,
    byol,
    circle,
    clip,
    contrastive,
    cosface,
    cosine_embedding,
    hinge_embedding,
    info_nce,
    margin_ranking,
    multi_similarity,
    nt_xent,
    siglip,
    sup_con,
    triplet,
    vicreg,
)
from jaxloss.preference import dpo, grpo, ipo, kto, orpo, simpo
from jaxloss.ranking import approx_ndcg, lambda_rank, list_mle, list_softmax, pairwise_hinge, ranknet
from jaxloss.regression import balanced_l1, expectile, huber, log_cosh, mae, mse, quantile, smooth_l1
from jaxloss.relative import cosine_distance, mape, msle, smape
from jaxloss.robust import barron, cauchy, charbonnier, welsch
from jaxloss.segmentation import dice, focal_tversky, generalized_dice, jaccard, lovasz_hinge, lovasz_softmax, tversky
from jaxloss.sequence import ctc, rnnt
from jaxloss.sharding import mean_over

__version__ = _version("jaxloss")

# Every loss by name: tests, documentation and benchmarks walk it.
LOSSES = _Table({loss.__name__: loss for loss in _declared if loss.__module__.startswith("jaxloss.")})

__all__ = [
    "LOSSES",
    "BadValueError",
    "ClassStats",
    "alpha_iou",
    "approx_ndcg",
    "arcface",
    "balanced_l1",
    "barlow_twins",
    "barron",
    "bce",
    "binary_focal",
    "byol",
    "categorical_focal",
    "categorical_hinge",
    "cauchy",
    "cce",
    "cce_stats",
    "charbonnier",
    "checked",
    "ciou",
    "circle",
    "clip",
    "contrastive",
    "cosface",
    "cosine_distance",
    "cosine_embedding",
    "ctc",
    "dice",
    "diou",
    "distillation",
    "dpo",
    "eiou",
    "expectile",
    "focal_eiou",
    "focal_tversky",
    "gaussian_nll",
    "generalized_cce",
    "generalized_dice",
    "giou",
    "grpo",
    "hinge",
    "hinge_embedding",
    "huber",
    "info_nce",
    "iou",
    "iou_log",
    "ipo",
    "jaccard",
    "js_divergence",
    "kl_divergence",
    "kto",
    "lambda_rank",
    "laplace_nll",
    "linear_cce",
    "linear_cce_stats",
    "list_mle",
    "list_softmax",
    "log_cosh",
    "lovasz_hinge",
    "lovasz_softmax",
    "mae",
    "mape",
    "margin_ranking",
    "mean_of_means",
    "mean_over",
    "mse",
    "msle",
    "multi_margin",
    "multi_similarity",
    "multilabel_margin",
    "multilabel_soft_margin",
    "negative_binomial_nll",
    "nll",
    "nt_xent",
    "orpo",
    "pairwise_hinge",
    "perceptron",
    "poisson_nll",
    "poly1",
    "quantile",
    "ranknet",
    "rnnt",
    "siglip",
    "simpo",
    "siou",
    "smape",
    "smooth_l1",
    "soft_margin",
    "sparse_cce",
    "sparse_cce_stats",
    "sparse_focal",
    "sparse_generalized_cce",
    "sparse_poly1",
    "sparsemax",
    "squared_hinge",
    "student_t_nll",
    "sup_con",
    "total_variation",
    "triplet",
    "tversky",
    "tweedie",
    "update_iou_loss_mean",
    "vicreg",
    "welsch",
    "wiou_v1",
    "wiou_v2",
    "wiou_v3",
]


if not _TYPE_CHECKING:  # a type checker knows all names without it

    def __getattr__(name: str) -> object:
        cure = "" if name.startswith("_") else _did_you_mean(name, __all__)
        raise AttributeError(f"module 'jaxloss' has no attribute {name!r}.{cure}")
