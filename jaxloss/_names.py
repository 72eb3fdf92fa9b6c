"""Names by which others know what is here: for errors that say ours, and for whoever comes from another library."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Keywords of other libraries, and what stands for them here: the first that the loss has.
KEYWORDS: dict[str, tuple[str, ...]] = {
    "sample_weight": ("weights",),
    "sample_weights": ("weights",),
    "example_weights": ("weights",),
    "weight": ("class_weights, one for each class, or weights, one for each unit", "weights"),
    "class_weights": ("alpha", "weights=class_weights[y_true]"),
    "pos_weight": ("alpha", "weights=jnp.where(y_true > 0, pos_weight, 1)"),
    "mask": ("where",),
    "masks": ("where",),
    "completion_mask": ("where",),
    "ignore_index": ("where=y_true != ignore_index", "where=labels != ignore_index"),
    "ignore_class": ("where=y_true != ignore_class",),
    "ignore_label": ("where=y_true != ignore_label",),
    "predictions": ("y_pred", "mean", "rate", "location"),
    "preds": ("y_pred", "mean", "rate", "location"),
    "input": ("y_pred", "mean", "rate", "location"),
    "y_pred": ("mean", "rate", "location", "logits", "embeddings"),
    "logits": ("y_pred, with from_logits=True where there is a choice",),
    "log_probs": ("logits", "y_pred"),
    "targets": ("y_true", "labels"),
    "target": ("y_true", "labels"),
    "labels": ("y_true",),
    "y_true": ("labels",),
    "target_lengths": ("label_lengths",),
    "input_lengths": ("logit_lengths",),
    "zero_infinity": ('infeasible="zero"',),
    "mask_index": ("blank",),
    "blank_id": ("blank",),
    "var": ("variance",),
    "log_scale": ("scale=jnp.exp(log_scale)",),
    "log_input": ("log_rate",),
    "log_target": ("from_logs=True",),
    "p": ("power",),
    "norm_degree": ("power",),
    "q": ("level", "power"),
    "quantile": ("level",),
    "tau": ("level", "temperature"),
    "T": ("temperature",),
    "temp": ("temperature",),
    "logit_scale": ("temperature=1 / logit_scale",),
    "clip_range": ("epsilon",),
    "linear_bias": ("bias",),
    "dim": ("axis",),
    "per_image": ("axis",),
    "qid": ("segments",),
    "apply_softmax": ("from_logits",),
    "apply_sigmoid": ("from_logits",),
    "size_average": ("reduction",),
    "reduce": ("reduction",),
}

# What a loss does not have, and what to do instead; "" stands for all others.
INSTEAD: dict[str, dict[str, str]] = {
    "from_logits": {
        "nll": "Give jax.nn.log_softmax(logits), or use sparse_cce(..., from_logits=True).",
        "js_divergence": "Give jax.nn.softmax(logits).",
        "total_variation": "Give jax.nn.softmax(logits).",
        "": "Leave it out: the loss has one kind of input.",
    },
    "reference_free": {"": "simpo and orpo need no reference."},
    "label_smoothing": {
        "sparse_focal": "Use categorical_focal, which has it, with jax.nn.one_hot(y_true, K).",
        "sparse_poly1": "Use poly1 with targets (1 - a) * jax.nn.one_hot(y_true, K) + a / K.",
        "sparse_generalized_cce": "Use generalized_cce with targets (1 - a) * jax.nn.one_hot(y_true, K) + a / K.",
        "poly1": "Give targets (1 - a) * y_true + a / K.",
        "generalized_cce": "Give targets (1 - a) * y_true + a / K.",
    },
}

# The same of reductions.
OTHER_REDUCTIONS = {
    "None": "none",
    "avg": "mean",
    "average": "mean",
    "auto": "mean",
    "batchmean": "mean",
    "mean_with_sample_weight": "mean",
}

_LOGITS = "from_logits=True"

# By library: its name for a loss, ours, and the options that make it the same.
NAMES: dict[str, dict[str, tuple[str, str]]] = {
    "torch.nn.functional": {
        "binary_cross_entropy": ("bce", ""),
        "binary_cross_entropy_with_logits": ("bce", _LOGITS),
        "cosine_embedding_loss": ("cosine_embedding", ""),
        "cosine_similarity": ("cosine_distance", ""),
        "cross_entropy": ("sparse_cce", _LOGITS),
        "ctc_loss": ("ctc", ""),
        "gaussian_nll_loss": ("gaussian_nll", ""),
        "hinge_embedding_loss": ("hinge_embedding", ""),
        "huber_loss": ("huber", ""),
        "kl_div": ("kl_divergence", 'from_logs="pred"'),
        "l1_loss": ("mae", ""),
        "linear_cross_entropy": ("linear_cce", ""),
        "margin_ranking_loss": ("margin_ranking", ""),
        "mse_loss": ("mse", ""),
        "multi_margin_loss": ("multi_margin", ""),
        "multilabel_margin_loss": ("multilabel_margin", ""),
        "multilabel_soft_margin_loss": ("multilabel_soft_margin", ""),
        "nll_loss": ("nll", ""),
        "poisson_nll_loss": ("poisson_nll", "log_rate=True"),
        "smooth_l1_loss": ("smooth_l1", ""),
        "soft_margin_loss": ("soft_margin", ""),
        "triplet_margin_loss": ("triplet", ""),
    },
    "torch.nn": {
        "BCELoss": ("bce", ""),
        "BCEWithLogitsLoss": ("bce", _LOGITS),
        "CrossEntropyLoss": ("sparse_cce", _LOGITS),
        "CTCLoss": ("ctc", ""),
        "CosineEmbeddingLoss": ("cosine_embedding", ""),
        "GaussianNLLLoss": ("gaussian_nll", ""),
        "HingeEmbeddingLoss": ("hinge_embedding", ""),
        "HuberLoss": ("huber", ""),
        "KLDivLoss": ("kl_divergence", 'from_logs="pred"'),
        "L1Loss": ("mae", ""),
        "MSELoss": ("mse", ""),
        "MarginRankingLoss": ("margin_ranking", ""),
        "MultiLabelMarginLoss": ("multilabel_margin", ""),
        "MultiLabelSoftMarginLoss": ("multilabel_soft_margin", ""),
        "MultiMarginLoss": ("multi_margin", ""),
        "NLLLoss": ("nll", ""),
        "PoissonNLLLoss": ("poisson_nll", "log_rate=True"),
        "SmoothL1Loss": ("smooth_l1", ""),
        "SoftMarginLoss": ("soft_margin", ""),
        "TripletMarginLoss": ("triplet", ""),
    },
    "torchvision.ops": {
        "box_iou": ("iou", ""),
        "complete_box_iou_loss": ("ciou", ""),
        "distance_box_iou_loss": ("diou", ""),
        "generalized_box_iou_loss": ("giou", ""),
        "sigmoid_focal_loss": ("binary_focal", f"{_LOGITS}, alpha=0.25"),
    },
    "keras.losses": {
        "BinaryCrossentropy": ("bce", ""),
        "BinaryFocalCrossentropy": ("binary_focal", ""),
        "CTC": ("ctc", ""),
        "CategoricalCrossentropy": ("cce", ""),
        "CategoricalFocalCrossentropy": ("categorical_focal", "alpha=0.25"),
        "CategoricalGeneralizedCrossEntropy": ("sparse_generalized_cce", "power=0.5"),
        "CategoricalHinge": ("categorical_hinge", ""),
        "Circle": ("circle", ""),
        "CosineSimilarity": ("cosine_distance", ""),
        "Dice": ("dice", ""),
        "Hinge": ("hinge", ""),
        "Huber": ("huber", ""),
        "KLDivergence": ("kl_divergence", ""),
        "LogCosh": ("log_cosh", ""),
        "MeanAbsoluteError": ("mae", ""),
        "MeanAbsolutePercentageError": ("mape", ""),
        "MeanSquaredError": ("mse", ""),
        "MeanSquaredLogarithmicError": ("msle", ""),
        "Poisson": ("poisson_nll", ""),
        "SparseCategoricalCrossentropy": ("sparse_cce", ""),
        "SquaredHinge": ("squared_hinge", ""),
        "Tversky": ("tversky", ""),
        "binary_crossentropy": ("bce", ""),
        "binary_focal_crossentropy": ("binary_focal", ""),
        "categorical_crossentropy": ("cce", ""),
        "categorical_focal_crossentropy": ("categorical_focal", "alpha=0.25"),
        "cosine_similarity": ("cosine_distance", ""),
        "mean_absolute_error": ("mae", ""),
        "mean_absolute_percentage_error": ("mape", ""),
        "mean_squared_error": ("mse", ""),
        "mean_squared_logarithmic_error": ("msle", ""),
        "poisson": ("poisson_nll", ""),
        "sparse_categorical_crossentropy": ("sparse_cce", ""),
    },
    "optax.losses": {
        "binary_dice_loss": ("dice", f"{_LOGITS}, smooth=1"),
        "cosine_distance": ("cosine_distance", ""),
        "cosine_similarity": ("cosine_distance", ""),
        "ctc_loss": ("ctc", ""),
        "dice_loss": ("dice", f"{_LOGITS}, smooth=1"),
        "hinge_loss": ("hinge", ""),
        "huber_loss": ("huber", ""),
        "kl_divergence": ("kl_divergence", 'from_logs="pred"'),
        "kl_divergence_with_log_targets": ("kl_divergence", "from_logs=True"),
        "l2_loss": ("mse", ""),
        "log_cosh": ("log_cosh", ""),
        "multiclass_generalized_dice_loss": ("generalized_dice", _LOGITS),
        "multiclass_hinge_loss": ("categorical_hinge", ""),
        "multiclass_perceptron_loss": ("categorical_hinge", "margin=0"),
        "ntxent": ("sup_con", "temperature=0.07"),
        "perceptron_loss": ("perceptron", ""),
        "poly_loss_cross_entropy": ("poly1", "from_logits=True, epsilon=2"),
        "ranking_softmax_loss": ("list_softmax", ""),
        "safe_softmax_cross_entropy": ("cce", _LOGITS),
        "sigmoid_binary_cross_entropy": ("bce", _LOGITS),
        "sigmoid_focal_loss": ("binary_focal", _LOGITS),
        "softmax_cross_entropy": ("cce", _LOGITS),
        "softmax_cross_entropy_with_integer_labels": ("sparse_cce", _LOGITS),
        "sparsemax_loss": ("sparsemax", ""),
        "squared_error": ("mse", ""),
        "triplet_margin_loss": ("triplet", ""),
    },
    "rax": {
        "listmle_loss": ("list_mle", ""),
        "pairwise_hinge_loss": ("pairwise_hinge", ""),
        "pairwise_logistic_loss": ("ranknet", ""),
        "pointwise_mse_loss": ("mse", ""),
        "pointwise_sigmoid_loss": ("bce", _LOGITS),
        "softmax_loss": ("list_softmax", ""),
    },
}


# Names that fit several of ours, that differ by a factor, or that are those of an algorithm around the loss.
LOOSE = {
    "focal_loss": "binary_focal, categorical_focal or sparse_focal",
    "l2_loss": "mse, which is twice optax.losses.l2_loss",
    "ppo": "grpo",
    "ppo_loss": "grpo",
    "dapo": "grpo",
    "l1": "mae",
    "l2": "mse",
    "pinball": "quantile",
    "pseudo_huber": "charbonnier",
    "xent": "sparse_cce(..., from_logits=True)",
    "softmax_xent": "sparse_cce(..., from_logits=True)",
    "bce_with_logits": "bce(..., from_logits=True)",
    "log_loss": "bce or sparse_cce",
    "negative_log_likelihood": "nll",
    "jsd": "js_divergence",
    "kld": "kl_divergence",
    "cosine": "cosine_distance",
    "generalized_box_iou": "giou of pairs, by jax.vmap",
    "barlow": "barlow_twins",
    "nce": "info_nce",
    "supcon": "sup_con",
    "listnet": "list_softmax",
    "ndcg": "approx_ndcg or lambda_rank",
}


class Table(Mapping[str, Any]):
    """A mapping that cannot be changed, but copied and pickled, which `types.MappingProxyType` cannot."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, key: str) -> Any:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Table({', '.join(self)})"


def did_you_mean(name: str, ours: Sequence[str]) -> str:
    """A sentence that suggests our name for a name of another library or for a misspelt one; else an empty string."""
    if name in LOOSE:
        return f" Did you mean {LOOSE[name]}?"
    for library, table in NAMES.items():
        if name in table:
            loss, options = table[name]
            return f" Did you mean {loss}{f'(..., {options})' if options else ''}, for {library}.{name}?"
    bare = re.sub("_?loss$", "", name.lower())
    near = LOOSE.get(bare) or (bare if bare in ours else _close(name, ours) or _close(bare, ours))
    return f" Did you mean {near}?" if near else ""


def _close(name: str, ours: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(name, ours, 1, 0.8)), "")


def instead_of(keyword: str, loss: str, known: Sequence[str]) -> str:
    """What to give in place of a keyword that a loss does not have."""
    table = INSTEAD.get(keyword, {})
    if sentence := table.get(loss, table.get("")):
        return sentence
    ours = (x for x in KEYWORDS.get(keyword, ()) if re.split(r"\W", x)[0] in known)
    cure = next(ours, None) or _close(keyword, known)
    return f"Did you mean {cure}?" if cure else f"It takes {', '.join(known)}."
