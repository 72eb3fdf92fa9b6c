"""Losses for JAX: pure functions under one contract. `help(jaxloss.cce)` shows one; the README states the contract.

Every loss has the form `loss(y_true, y_pred, *, <its own options>, weights=None, where=None, reduction="mean")`.
"""

from importlib.metadata import version as _version
from types import MappingProxyType as _Frozen
from typing import TYPE_CHECKING as _TYPE_CHECKING

from jaxloss._contract.declare import declared as _declared
from jaxloss._contract.reduce import mean_of_means
from jaxloss._contract.values import BadValueError, checked
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
from jaxloss.classification import bce, cce, nll, sparse_cce
from jaxloss.counts import negative_binomial_nll, poisson_nll, tweedie
from jaxloss.divergence import distillation, js_divergence, kl_divergence, total_variation
from jaxloss.focal import binary_focal, categorical_focal, generalized_cce, poly1
from jaxloss.likelihood import gaussian_nll, laplace_nll, student_t_nll
from jaxloss.linear import LinearStats, linear_cce, linear_cce_stats
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
from jaxloss.regression import balanced_l1, expectile, huber, log_cosh, mae, mse, quantile, smooth_l1
from jaxloss.relative import cosine_distance, mape, msle, smape
from jaxloss.robust import barron, cauchy, charbonnier, welsch
from jaxloss.segmentation import dice, focal_tversky, generalized_dice, jaccard, lovasz_hinge, lovasz_softmax, tversky
from jaxloss.sequence import ctc, rnnt
from jaxloss.sharding import mean_over

__version__ = _version("jaxloss")

# Every loss by name: tests, documentation and benchmarks walk it.
LOSSES = _Frozen({loss.__name__: loss for loss in _declared if loss.__module__.startswith("jaxloss.")})

__all__ = [
    "LOSSES",
    "BadValueError",
    "LinearStats",
    "alpha_iou",
    "balanced_l1",
    "barron",
    "bce",
    "binary_focal",
    "categorical_focal",
    "categorical_hinge",
    "cauchy",
    "cce",
    "charbonnier",
    "checked",
    "ciou",
    "cosine_distance",
    "ctc",
    "dice",
    "diou",
    "distillation",
    "eiou",
    "expectile",
    "focal_eiou",
    "focal_tversky",
    "gaussian_nll",
    "generalized_cce",
    "generalized_dice",
    "giou",
    "hinge",
    "huber",
    "iou",
    "iou_log",
    "jaccard",
    "js_divergence",
    "kl_divergence",
    "laplace_nll",
    "linear_cce",
    "linear_cce_stats",
    "log_cosh",
    "lovasz_hinge",
    "lovasz_softmax",
    "mae",
    "mape",
    "mean_of_means",
    "mean_over",
    "mse",
    "msle",
    "multi_margin",
    "multilabel_margin",
    "multilabel_soft_margin",
    "negative_binomial_nll",
    "nll",
    "perceptron",
    "poisson_nll",
    "poly1",
    "quantile",
    "rnnt",
    "siou",
    "smape",
    "smooth_l1",
    "soft_margin",
    "sparse_cce",
    "sparsemax",
    "squared_hinge",
    "student_t_nll",
    "total_variation",
    "tversky",
    "tweedie",
    "update_iou_loss_mean",
    "welsch",
    "wiou_v1",
    "wiou_v2",
    "wiou_v3",
]


if not _TYPE_CHECKING:  # a type checker knows all names without it

    def __getattr__(name):
        cure = "" if name.startswith("_") else _did_you_mean(name, __all__)
        raise AttributeError(f"module 'jaxloss' has no attribute {name!r}.{cure}")
