"""What a GPU and a TPU compute, computed here: the contract of losses that have forms of their own there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cases import ROWS, Row
from contract import CHECKS

import jaxloss

# Rows of logits, sets, vectors, boxes, what a mask of lists says, their pairs, and sorted errors.
QUICK = ("cce-one_hot_logits", "sparse_cce-all", "sup_con", "circle", "cosine_distance", "giou", "list_softmax")
QUICK += ("list_mle", "approx_ndcg", "lovasz_softmax")
MORE = ("cce-logits", "sparse_cce-logits", "categorical_focal-one_hot_logits", "poly1-logits", "distillation", "byol")
MORE += ("kl_divergence-logits", "linear_cce-all", "info_nce-chunk", "clip", "multi_similarity", "triplet", "ranknet")
MORE += ("barlow_twins", "bce-logit", "tversky", "cce-probabilities", "multilabel_margin", "vicreg")
MORE += ("lambda_rank", "iou_log")
WHAT = ("value", "gradient")
# Hard inputs that no other form meets: double precision, and the excess of a row joined from parts.
EXACT = [("gpu", name, "hard_inputs") for name in ("cosine_distance", "sparse_cce-logits")]
BESIDES = ("mask", "nan_is_loud", "hard_inputs", "automatic_sharding", "explicit_sharding")


def table() -> Iterator[object]:
    rows = {row.id: row for row in ROWS}
    for machine in ("gpu", "tpu"):
        for name in (*QUICK, *MORE):
            for check in (*WHAT, *BESIDES):
                # There this one is right because a TPU computes a row of logits once for both of its sums.
                if (machine, name, check) == ("tpu", "linear_cce-all", "gradient"):
                    continue
                if check != "hard_inputs" or rows[name].hard:
                    seldom = (name not in QUICK) + (check not in WHAT) + (machine == "tpu")
                    seldom += check.endswith("sharding")
                    seldom *= (machine, name, check) not in EXACT
                    marks = ([], pytest.mark.slow, pytest.mark.nightly)[min(seldom, 2)]
                    yield pytest.param(machine, rows[name], check, id=f"{machine}-{name}-{check}", marks=marks)


@pytest.mark.parametrize(("machine", "row", "check"), list(table()), indirect=["machine"])
def test_contract_there(machine: str, row: Row, check: str):
    CHECKS[check](row, row.judged(jaxloss.LOSSES[row.name]))
