"""What XLA's compiler for a TPU needs, and no other.

It reads an array of short rows, such as boxes, once for every five or so numbers that it computes of their entries, and
slowly each time. So the entries are taken `at_once`, into arrays of their own: `python -m benchmarks.accelerators`
without and with it says 1.8 and 0.7 for giou with its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxloss._platform import choice


def at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, all of whose results are there before anything is computed of one."""
    return choice.instead("tpu", lambda *args: jax.lax.optimization_barrier(function(*args)))(function)
