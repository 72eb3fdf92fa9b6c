"""Where jaxloss differs from its peers, and why: the list that judges their tests, and that DIFFERENCES.md shows.

It is strict. A test that differs must be named by exactly one entry; one that an entry names must differ; and an entry
names as many tests as it says. So the list stays true when the losses, or the peers, change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from peers import PEERS, VERSIONS, Result


@dataclass(frozen=True)
class Difference:
    """A reason, and the tests that differ for it.

    kind: whether the peer is wrong, or our contract decided otherwise.
    about: what of the peer it concerns, in its own names.
    tests: a regular expression that the whole name of each test matches.
    count: how many tests that are.
    reason: one sentence or two.
    """

    peer: str
    kind: Literal["their bug", "contract"]
    about: str
    tests: str
    count: int
    reason: str


@dataclass(frozen=True)
class NotOurs:
    """Tests of a peer that call no loss of ours; the fields are those of a `Difference`."""

    peer: str
    about: str
    tests: str
    count: int


DIFFERENCES = (
    # optax
    Difference(
        "optax",
        "contract",
        "kl_divergence, kl_divergence_with_log_targets, generalized_kl_divergence",
        r"(Generalized)?KLDivergence(WithLogTargets)?Test\.test_(mask|axis)\d",
        15,
        "The tests take normally distributed numbers for log-probabilities. A probability above 1 is outside the "
        "domain, and makes its loss NaN, never a plausible number.",
    ),
    Difference(
        "optax",
        "contract",
        "softmax_cross_entropy, safe_softmax_cross_entropy",
        r"(Safe)?SoftmaxCrossEntropyTest\.test_gradient",
        2,
        "The tests differentiate numerically across a target of 0. A target below 0 is outside the domain: NaN.",
    ),
    Difference(
        "optax",
        "contract",
        "dice_loss",
        r"DiceLossTest\.test_improved_shape_handling",
        1,
        "Shapes must be equal: a missing class axis is an error that names both shapes, optax adds it.",
    ),
    Difference(
        "optax",
        "contract",
        "dice_loss(apply_softmax=False)",
        r"DiceLossTest\.test_probability_validation",
        1,
        "Classes may overlap, so probabilities need not add up to 1. optax raises an error if they do not; since it "
        "looks at values for that, its function cannot be compiled.",
    ),
    Difference(
        "optax",
        "contract",
        "ntxent",
        r"NtxentTest\.test_batched",
        1,
        "Where a label has two members, both losses are the same, and two of the three cases of the test agree. Where "
        "it has three, optax compares each pair with the members of other labels only. In Khosla et al. 2020, and in "
        "sup_con here, a pair is compared with the third member as well.",
    ),
    # rax
    Difference(
        "rax",
        "contract",
        "listmle_loss",
        r"LossesTest\.test_computes_(loss_value|loss_for_zero_labels|loss_value_with_vmap|reduced_loss)1",
        4,
        "The tests have items of equal relevance, for which rax takes the order in which they stand, or a random one. "
        "Here the loss does not depend on how they stand.",
    ),
    Difference(
        "rax",
        "contract",
        "pairwise_hinge_loss, pairwise_logistic_loss with weights",
        r"LossesTest\.test_computes_weighted_loss_value[34]|SegmentT12nTest\.test_computes_fn_with_weights[24]",
        4,
        "rax weighs pairs, each by its more relevant item. Here weights are those of the units, which are lists.",
    ),
    Difference(
        "rax",
        "contract",
        "pairwise_hinge_loss, pairwise_logistic_loss without reduction",
        r"LossesTest\.test_computes_unreduced_loss[45]",
        2,
        "The tests expect a loss for each two items, whether they are a pair or not. Here it is one for each list.",
    ),
    Difference(
        "rax",
        "contract",
        "pairwise_hinge_loss, pairwise_logistic_loss with lambdaweight_fn",
        r"LambdaweightsTest\.test_computes_with_pairwise_loss[01245]",
        5,
        "The only loss of pairs that are weighed by ranks is lambda_rank: that of logistic pairs and dcg_lambdaweight, "
        "which agrees.",
    ),
    # Keras
    Difference(
        "keras",
        "contract",
        "dtype of a loss",
        r"\w+Test\.test_dtype_arg|LossTest\.test_default_dtype",
        24,
        "Keras computes and returns the dtype that it is told. Here half precision is computed and returned in "
        "float32.",
    ),
    Difference(
        "keras",
        "contract",
        "mean_squared_error",
        r"MeanSquaredErrorTest\.test_base_function_reduction",
        1,
        "(3,) against (3, 1) is an error that names both shapes and the cure; Keras guesses which one is meant.",
    ),
    Difference(
        "keras",
        "contract",
        "BinaryCrossentropy, CategoricalCrossentropy",
        r"(Binary|Categorical)CrossentropyTest\.test_shape_mismatch",
        2,
        "Both refuse the shapes with a ValueError. The test looks for Keras's words; ours name the shapes.",
    ),
    Difference(
        "keras",
        "contract",
        "BinaryCrossentropy",
        r"BinaryCrossentropyTest\.test_(unweighted|scalar_weighted|sample_weighted)",
        3,
        "A certain and wrong prediction (p = 1, y = 0) costs the logarithm of the smallest normal number, 87.3. Keras"
        " clips p to 1 - 1e-7, so it costs 15.9, and has no gradient.",
    ),
    Difference(
        "keras",
        "contract",
        "MeanSquaredLogarithmicError",
        r"MeanSquaredLogarithmicErrorTest\.test_(\w+_weighted|unweighted|mean_with_sample_weight_reduction)",
        6,
        "The tests have targets of -5 and -2, where log(1 + y) does not exist: NaN. Keras takes all numbers below "
        "1e-7 for 1e-7. A weight of 0 does not hide a NaN, `where` does.",
    ),
    Difference(
        "keras",
        "contract",
        "CategoricalHinge",
        r"CategoricalHingeTest\.test_(unweighted|weighted|zero_weighted)",
        3,
        "The tests have a target without a class. One that is not one-hot is outside the domain: NaN.",
    ),
    Difference(
        "keras",
        "contract",
        "CTC",
        r"CTCTest\.test_correctness",
        1,
        "The test has a blank among its labels, which no path can spell: NaN. Keras takes all zeros for padding, but "
        "only counts them, so that it reads the wrong labels.",
    ),
    Difference(
        "keras",
        "contract",
        "Dice, Tversky",
        r"(Dice|Tversky)Test\.test_correctness(_custom_coefficients)?",
        3,
        "The tests have targets of 2 and predictions of 4 and 6, and so losses below 0. Outside [0, 1] the loss is "
        "NaN.",
    ),
    Difference(
        "keras",
        "their bug",
        "Tversky(alpha=0.2, beta=0.8)",
        r"TverskyTest\.test_binary_segmentation_custom_coefficients(_with_axis)?",
        2,
        "Its alpha weighs false negatives, and beta false positives; in Salehi et al. 2017, and here, it is the other"
        " way round. Fixed in Keras after this version (pull request 23333).",
    ),
    Difference(
        "keras",
        "their bug",
        "SparseCategoricalCrossentropy(axis=0)",
        r"SparseCategoricalCrossentropyTest\.test_\w+_segmentation_different_axis",
        2,
        "On JAX it raises an error for every axis but the last, which the tests expect. Here any axis may hold the "
        "classes.",
    ),
    # PyTorch
    Difference(
        "torch",
        "contract",
        "gaussian_nll_loss, cosine_similarity",
        r"(gaussian_nll_loss|cosine_similarity)\[.* broadcast",
        291,
        "Nothing is broadcast: shapes that differ are an error that names them. Broadcast by hand, all these samples "
        "agree.",
    ),
    Difference(
        "torch",
        "contract",
        "poisson_nll_loss(full=True)",
        r"poisson_nll_loss\[.* full=True .* mended",
        36,
        "PyTorch adds Stirling's approximation of log(y!), and nothing for counts up to 1. Here it is exact.",
    ),
    Difference(
        "torch",
        "contract",
        "poisson_nll_loss(log_input=False, eps=...)",
        r"poisson_nll_loss\[.* log_input=False full=False eps=.* mended",
        9,
        "PyTorch adds eps to the rate in the logarithm. There is no epsilon here: the loss is finite at a rate of 0 "
        "too.",
    ),
    Difference(
        "torch",
        "contract",
        "soft_margin_loss",
        r"soft_margin_loss\[.* mended",
        6,
        "The samples have any number for a target. One that is neither -1, 1 nor 0 is outside the domain: NaN. With "
        "its sign for the target, and the score times its size, all these samples agree.",
    ),
    Difference(
        "torch",
        "contract",
        "margin_ranking_loss",
        r"margin_ranking_loss\[.* mended",
        24,
        "The samples have any number for a target. One that is neither -1, 1 nor 0 is outside the domain: NaN. With "
        "its sign for the target, and both scores times its size, all these samples agree.",
    ),
    Difference(
        "torch",
        "contract",
        "hinge_embedding_loss",
        r"hinge_embedding_loss\[.* mended",
        1,
        "The sample has any number for a target. One that is neither -1, 1 nor 0 is outside the domain: NaN. PyTorch "
        "adds the costs of both targets up.",
    ),
    Difference(
        "torch",
        "contract",
        "multilabel_soft_margin_loss",
        r"multilabel_soft_margin_loss\[.* mended",
        4,
        "The samples have any number for a target. One outside [0, 1] is outside the domain: NaN.",
    ),
    Difference(
        "torch",
        "contract",
        "nll_loss",
        r"nll_loss\[.* mended",
        22,
        "The samples have any number for a log-probability. One above 0, as where a log_softmax was forgotten, is "
        "outside the domain: NaN.",
    ),
    Difference(
        "torch",
        "contract",
        "multilabel_margin_loss",
        r"multilabel_margin_loss\[[1-5]\].* mended",
        5,
        "The samples name classes twice in a list of labels, and PyTorch counts them twice. Here the target is a "
        "matrix that says which classes an example has.",
    ),
    Difference(
        "torch",
        "contract",
        "cosine_similarity, multi_margin_loss, multilabel_margin_loss of a single number",
        r"(cosine_similarity|multi_margin_loss|multilabel_margin_loss)\[\d+\] f\(\) .*",
        3,
        "A vector, or a row of scores, has an axis; PyTorch takes a number for a row of one.",
    ),
    Difference(
        "torch",
        "contract",
        "multi_margin_loss",
        r"multi_margin_loss\[\d+\] f\(5,\) i\(1,\) .*",
        1,
        "One row of scores goes with one label of shape (); PyTorch also takes a label of shape (1,).",
    ),
    Difference(
        "torch",
        "contract",
        "multi_margin_loss(margin=-3.14)",
        r"multi_margin_loss\[.* margin=-.*",
        1,
        "A margin is at least 0: a negative one would forgive wrong classes, and is an error.",
    ),
    Difference(
        "torch",
        "contract",
        "huber_loss(delta=0)",
        r"huber_loss error\[.* delta=0",
        1,
        "PyTorch refuses it. Here 0 is allowed, since a traced delta may reach it, and gives the limit, a loss of 0.",
    ),
)

NOT_OURS = (
    NotOurs("optax", "smooth_labels, here an option", r"SmoothLabelsTest\..*", 2),
    NotOurs("optax", "multiclass_sparsemax_loss", r"SparsemaxTest\.test_multi_class_.*", 2),
    NotOurs("optax", "ctc_loss_with_forward_probs", r"CTCTest\.test_with_one_to_one_alignment", 1),
    NotOurs(
        "rax",
        "pairwise_soft_zero_one_loss, pairwise_mse_loss, pairwise_qr_loss, unique_softmax_loss",
        r"LossesTest\.test_(computes_loss_value([37]|1\d)|computes_loss_value_with_vmap[38]"
        r"|computes_(loss_for_zero_labels|loss_with_extreme_inputs|reduced_loss)([369]|10)"
        r"|computes_unreduced_loss[3678]|computes_weighted_loss_value[258]"
        r"|computes_loss_value_with_segments(_and_mask)?[4568]"
        r"|(computes_loss_value_with_where|computes_loss_value_with_all_masked|grad_does_not_return_nan_\w+"
        r"|computes_loss_with_arbitrary_batch_dimensions|ignores_lists_containing_only_invalid_items)([478]|10))",
        59,
    ),
    NotOurs(
        "rax",
        "its weights of pairs by themselves",
        r"LambdaweightsTest\.test_(computes_(normalized_)?lambdaweights|lambdaweights_with_\w+)\d",
        23,
    ),
    NotOurs(
        "rax", "pairwise_mse_loss with lambdaweight_fn", r"LambdaweightsTest\.test_computes_with_pairwise_loss6", 1
    ),
    NotOurs(
        "rax",
        "approx_t12n of other metrics, bound_t12n, gumbel_t12n",
        r"ApproxT12nTest\.test_\w+[0-4]|(Bound|Gumbel)T12nTest\..*",
        54,
    ),
    NotOurs(
        "rax",
        "segment_t12n of its other losses and metrics, and by itself",
        r"SegmentT12nTest\.test_(computes_fn_(on_\w*segments|on_segments_with_batch_dims|with_mask|with_weights)"
        r"([3579]|1[0-4])|computes_fn_with_random_key[1-6]|returns_\w+|uses_\w+)",
        50,
    ),
    NotOurs("keras", "how its classes are stored", r"\w+Test\.test_(config|pickle|get_method)", 21),
    NotOurs("keras", "its rank adjustment", r"LossTest\.test_squeeze_or_expand", 1),
    NotOurs("keras", "skipped on JAX", r"\w+\.test_squeezes_singleton_class_dim_on_user_axis", 1),
    NotOurs("torch", "linear_cross_entropy of distributions", r"linear_cross_entropy.*\[\d+\] f\S+ f\S+ f.*", 165),
    NotOurs("torch", "pairwise_distance(p=-1)", r"pairwise_distance\[.* p=-.*", 1),
    NotOurs(
        "torch", "multi_margin_loss with class weights of a wrong shape", r"multi_margin_loss error\[.* weight=.*", 3
    ),
)

# What the suites gave when the list was made: agree, differ, not ours. test_peers.py holds the next run to it.
COUNTS = {
    "optax": (153, 20, 5),
    "rax": (131, 15, 187),
    "keras": (111, 47, 23),
    "torch": (487, 404, 169),
}


def complaints(peer: str, results: Sequence[Result]) -> list[str]:
    """What the list says of the results of a suite that is not so."""
    found = []
    lists = {
        "differ": [entry for entry in DIFFERENCES if entry.peer == peer],
        "not ours": [entry for entry in NOT_OURS if entry.peer == peer],
    }
    names: Counter[str] = Counter(result.test for result in results)
    found += [f"{name}: {count} tests have this name" for name, count in names.items() if count > 1]
    for outcome, entries in lists.items():
        hits: Counter[str] = Counter()
        for result in results:
            named = [entry for entry in entries if re.fullmatch(entry.tests, result.test)]
            hits.update(entry.tests for entry in named)
            if result.outcome == outcome and not named:
                found.append(f"{result.test}: {outcome}, and is not on the list. {result.why}")
            if result.outcome != outcome and named:
                found.append(f"{result.test}: on the list ({named[0].about}: {outcome}), but: {result.outcome}")
            if len(named) > 1:
                found.append(f"{result.test}: on the list twice ({named[0].tests} and {named[1].tests})")
        found += [
            f"{entry.tests}: names {hits[entry.tests]} tests, and says {entry.count}"
            for entry in entries
            if hits[entry.tests] != entry.count
        ]
    counts = Counter(result.outcome for result in results)
    measured = (counts["agree"], counts["differ"], counts["not ours"])
    if measured != COUNTS[peer]:
        found.append(f"{peer}: agree, differ, not ours: {measured}, the list says {COUNTS[peer]}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The page

NAMES = {"optax": "optax", "rax": "rax", "keras": "Keras", "torch": "PyTorch"}

HEAD = """# Where jaxloss differs, and why

Other libraries have tests of the same losses. They are run against jaxloss, from the packages as they are installed,
and each test that does not pass is here with its reason: either the other library is wrong (their bug), or the contract
of [README.md](README.md) decided otherwise (contract). The list is strict: a test that differs without being on the
list, or that agrees although it is on the list, fails our own suite. "Not ours" counts the tests of what jaxloss does
not have, or that cannot run here. This page is printed from that list (`tests/peers/differences.py`), and a test
compares the two.

| library | its tests | agree | differ | not ours |
|---|---|---|---|---|
"""

ABOUT = {
    "optax": """\
Its unit tests of `optax.losses`, with our losses in the places of its functions. A test that finds NaN equal to NaN
compares nothing: it counts as different.""",
    "rax": """\
Its unit tests of the losses, their weights by ranks and their transformations, with our losses in the places of its
functions; `approx_ndcg` in that of `approx_t12n(ndcg_metric)`, `lambda_rank` in that of `pairwise_logistic_loss` with
`dcg_lambdaweight`. rax's mean over all pairs of a batch is our mean with each list weighted by its number of pairs.
Where a test compares at NumPy's default, 1e-7, two units in the last place of float32 are allowed, 2.4e-7.""",
    "keras": """\
Its unit tests of `keras.losses` on JAX. Our losses stand in the places of its functions, and our reductions in the
place of the function by which its classes weigh, mask and reduce.""",
    "torch": """\
Its samples and error inputs (OpInfo) of the losses in `torch.nn.functional`. The values and gradients of ours, in
float32, are compared with those of PyTorch in float64, at the tolerance of PyTorch's own tests in float32. Where the
reason is one of shapes, of the formula or of a domain, they are compared once more without it (the shapes broadcast by
hand, the logarithm of the factorial exact, NaN outside the domain, ...), and agree. An input that PyTorch refuses must
be refused. `pairwise_distance` is `triplet` of a vector, another and itself, with a margin of 0.""",
}


def page() -> str:
    """DIFFERENCES.md. `python -m peers.differences > ../DIFFERENCES.md` writes it."""
    peers = [peer for peer in PEERS if peer in COUNTS]
    text = HEAD
    for peer in peers:
        agree, differ, other = COUNTS[peer]
        text += f"| {NAMES[peer]} {VERSIONS[peer]} | {agree + differ + other} | {agree} | {differ} | {other} |\n"
    for peer in peers:
        text += f"\n## {NAMES[peer]}\n\n{ABOUT[peer]}\n\n| what | tests | kind | reason |\n|---|---|---|---|\n"
        for entry in DIFFERENCES:
            if entry.peer == peer:
                text += f"| {entry.about} | {entry.count} | {entry.kind} | {entry.reason} |\n"
        others = [f"{entry.about} ({entry.count})" for entry in NOT_OURS if entry.peer == peer]
        text += f"\nNot ours: {', '.join(others)}.\n"
    return text


if __name__ == "__main__":
    print(page(), end="")
