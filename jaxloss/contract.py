"""Write your own loss under the contract: what jaxloss builds its own losses with.

A whole loss, from its formula for one example:

    >>> import jax.numpy as jnp
    >>> from typing import Unpack
    >>> from jaxloss.contract import NUMBER, POSITIVE, ArrayLike, Units, loss, losses
    >>> @loss
    ... def quartic(y_true: ArrayLike, y_pred: ArrayLike, *, scale: float | ArrayLike = 1.0, **units: Unpack[Units]):
    ...     def element(y, p, *, scale):
    ...         return ((p - y) / scale) ** 4
    ...
    ...     inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    ...     return losses(element, inputs, options={"scale": (scale, POSITIVE)}, **units)

It is compiled, and has all that every loss has: masks under which NaN may lie, weights, reductions, errors that name
it, half precision, `vmap`, `grad`, `hessian`, sharded batches, `jaxloss.checked`:

    >>> print(quartic([0.0, jnp.nan], [2.0, 1.0], where=[True, False]))  # 2^4, and nothing of the NaN
    16.0
    >>> try:
    ...     quartic([0.0], [1.0], scale=-1.0)
    ... except ValueError as error:
    ...     print(error)
    quartic: scale must be above 0 and finite, got -1.0.

`help(jaxloss.contract.check)` shows how to hold it to all of that in a test.
"""

from jaxloss._contract.declare import compiled, loss
from jaxloss._contract.domains import (
    ABOVE_MINUS_1,
    ANY,
    AT_LEAST_0,
    BINARY,
    BOX,
    DISTRIBUTION,
    FINITE,
    FRACTION,
    LOG_DISTRIBUTION,
    LOG_PROBABILITY,
    LOGIT,
    ONE_HOT,
    POSITIVE,
    Domain,
    at_least,
    between,
)
from jaxloss._contract.map import PER_CLASS, losses
from jaxloss._contract.reduce import mean_of_means
from jaxloss._contract.types import (
    AMOUNT,
    BOXES,
    ID,
    LABEL,
    LABELS,
    LOG_AMOUNT,
    LOG_PROBABILITIES,
    LOGITS,
    NUMBER,
    NUMBERS,
    PROBABILITIES,
    PROBABILITY,
    SCORE,
    SCORES,
    SIGN,
    TARGET,
    TARGETS,
    ArrayLike,
    Finding,
    Holds,
    Kind,
    Reduction,
    Units,
    current_loss,
)
from jaxloss._laws import check
from jaxloss._numerics.derivatives import partials, saved_for_backward
from jaxloss._numerics.elementary import widened
from jaxloss._platform.mesh import all_members
from jaxloss.sharding import mean_over

__all__ = [
    "ABOVE_MINUS_1",
    "AMOUNT",
    "ANY",
    "AT_LEAST_0",
    "BINARY",
    "BOX",
    "BOXES",
    "DISTRIBUTION",
    "FINITE",
    "FRACTION",
    "ID",
    "LABEL",
    "LABELS",
    "LOGIT",
    "LOGITS",
    "LOG_AMOUNT",
    "LOG_DISTRIBUTION",
    "LOG_PROBABILITIES",
    "LOG_PROBABILITY",
    "NUMBER",
    "NUMBERS",
    "ONE_HOT",
    "PER_CLASS",
    "POSITIVE",
    "PROBABILITIES",
    "PROBABILITY",
    "SCORE",
    "SCORES",
    "SIGN",
    "TARGET",
    "TARGETS",
    "ArrayLike",
    "Domain",
    "Finding",
    "Holds",
    "Kind",
    "Reduction",
    "Units",
    "all_members",
    "at_least",
    "between",
    "check",
    "compiled",
    "current_loss",
    "loss",
    "losses",
    "mean_of_means",
    "mean_over",
    "partials",
    "saved_for_backward",
    "widened",
]
