"""Times that can be compared: taken in the same rounds, interleaved in random order."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def seconds(call: Callable[[], Any], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number - 1):
        call()
    jax.block_until_ready(call())
    return (time.perf_counter() - start) / number


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, least: float = 0.005) -> dict[str, list[float]]:
    """Seconds a call, one number a round; short calls are repeated until a sample takes `least` seconds."""
    number = {name: max(1, min(1000, int(least / seconds(call, 1)))) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            time.sleep(0.003)  # the threads of the last one spin for a while: not on this one's time
            samples[name].append(seconds(calls[name], number[name]))
    return samples


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """One median time divided by the other, and the quartiles of the ratio round by round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return statistics.median(ours) / statistics.median(theirs), low, high
