"""Losses for JAX: pure functions under one contract. `help(jaxloss.cce)` shows one; the README states the contract.

Every loss has the form `loss(y_true, y_pred, *, <its own options>, weights=None, where=None, reduction="mean")`.
"""

from importlib.metadata import version as _version
from types import MappingProxyType as _Frozen

from jaxloss import classification as _classification
from jaxloss import regression as _regression
from jaxloss.classification import bce, cce, sparse_cce
from jaxloss.regression import huber, mae, mse
from jaxloss.sharding import mean_over

__version__ = _version("jaxloss")

# Every loss by name, in the order of the families: tests, documentation and benchmarks walk it.
LOSSES = _Frozen({name: getattr(family, name) for family in (_classification, _regression) for name in family.__all__})

__all__ = [
    "LOSSES",
    "bce",
    "cce",
    "huber",
    "mae",
    "mean_over",
    "mse",
    "sparse_cce",
]
