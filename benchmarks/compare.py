"""The six losses against optax, Keras (on JAX), PyTorch and the plain jnp formula: `python -m benchmarks.compare`.

Everything runs in one process and interleaved: in each round every contender is timed once, in random order, so that a
slow moment of the machine hits them all. A cell is the median time over the rounds divided by that of the fastest peer
in the same rounds, with the quartiles of this ratio round by round. Each library gets its recommended function, jitted,
with mean reduction; PyTorch runs eagerly and through `torch.compile`. The "plain" peer is the textbook formula as one
would type it with jax.numpy.

Three more programs run in the same rounds, so that a reader can tell a loss from its memory:

  floor     one elementwise pass that reads y_pred and writes a new array of its size, as every gradient must. On Linux
            most of its time can be the page faults of the new array.
  copy      the same pass into memory that exists already: the bandwidth of this machine. "of copy" is the bandwidth
            at which the loss moves the bytes it must move (inputs, and the gradient), as a share of that.
  no mask   for the rows with where=mask: the same call of jaxloss without it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs a part of the card, too

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.peers import JAX_PEERS, LOSSES, MISSING, ON_GPU, PEERS, WHATS, Case, cases, make_inputs, reason, torch
from benchmarks.report import TARGETS, Cell, header, judge, print_report
from benchmarks.tables import spread, table
from benchmarks.timing import interleaved

LARGE = 2**26  # elements from which a cell gets at most 5 rounds
SMALL = 2**18  # elements up to which it gets five times as many: a call takes less than a millisecond


# ---------------------------------------------------------------------------------------------------------------------
# contenders: a call that returns when its work is done


@dataclasses.dataclass(frozen=True)
class Contender:
    call: Callable[[], Any]  # returns the loss
    temporaries: int | None = None  # bytes


def jax_contender(function: Callable[..., Any], operands: tuple[Any, ...], what: str) -> Contender:
    """`function(y_true, y_pred, mask)` as one program."""
    gradient = what == "value+grad"
    program = jax.jit(jax.value_and_grad(function, argnums=1) if gradient else function).lower(*operands).compile()
    memory = program.memory_analysis()

    def call() -> Array:
        result = jax.block_until_ready(program(*operands))
        return result[0] if gradient else result

    return Contender(call, None if memory is None else memory.temp_size_in_bytes)


def mean_of(units: Callable[..., Array]) -> Callable[..., Array]:
    def mean(y_true: Array, y_pred: Array, mask: Array | None) -> Array:
        losses = units(y_true, y_pred)
        if mask is not None:
            mask = mask.reshape(-1, *(1,) * (losses.ndim - 1))
        return jnp.mean(losses, where=mask)

    return mean


def torch_contender(function: Callable[..., Any], operands: tuple[Any, ...], what: str, compiled: bool) -> Contender:
    """The same memory as the JAX arrays have, without a copy."""
    if ON_GPU and not torch.cuda.is_available():
        raise RuntimeError("this build of PyTorch has no CUDA, and JAX runs on a GPU")
    tensors: list[Any] = [None if x is None else torch.from_dlpack(x) for x in operands]
    y_true, y_pred, mask = tensors
    if not y_true.is_floating_point():
        y_true = y_true.long()
    y_pred = y_pred.detach().requires_grad_()

    def mean(y_true: Any, y_pred: Any, mask: Any) -> Any:
        if mask is None:
            return function(y_true, y_pred, reduction="mean")
        losses = function(y_true, y_pred, reduction="none")
        kept = mask.reshape(-1, *(1,) * (losses.ndim - 1))
        return torch.where(kept, losses, 0).sum() / (mask.sum() * (losses.numel() // mask.numel()))

    program = torch.compile(mean, dynamic=False) if compiled else mean

    def value() -> Any:
        with torch.no_grad():
            return program(y_true, y_pred, mask)

    def value_and_gradient() -> Any:
        loss = program(y_true, y_pred, mask)
        loss.backward()
        y_pred.grad = None  # freed within the time, as the arrays of JAX are
        return loss.detach()

    run = value_and_gradient if what == "value+grad" else value
    if not ON_GPU:
        return Contender(run)

    def synchronised() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return Contender(synchronised)


def floor_contender(y_pred: Array) -> Contender:
    program = jax.jit(lambda x: -x)

    def call() -> None:
        jax.block_until_ready(program(y_pred))

    return Contender(call)


def copy_contender(y_pred: Array) -> Contender:
    """The floor, into the memory of its last result."""
    program = jax.jit(lambda x, _: -x, donate_argnums=1, keep_unused=True)
    target = [jnp.zeros_like(y_pred)]

    def call() -> None:
        target[0] = jax.block_until_ready(program(y_pred, target[0]))

    return Contender(call)


@functools.cache
def torch_compile_fails() -> str:
    """Why torch.compile does not work here, or nothing: tried once."""
    try:
        x = torch.ones(3, 4, device="cuda" if ON_GPU else "cpu", requires_grad=True)
        torch.compile(lambda x: (x * x).mean())(x).backward()
    except Exception as error:
        return reason(error)
    return ""


def contenders(
    case: Case, operands: tuple[Any, ...], what: str, peers: Sequence[str], notes: dict[str, str]
) -> dict[str, Contender]:
    """Everything that one cell times. Whatever fails is left out, and notes say why."""
    loss = LOSSES[case.loss]
    y_true, y_pred, _ = operands

    def ours(y_true: Array, y_pred: Array, mask: Array | None) -> Array:
        return loss.jaxloss(y_true, y_pred, where=mask)

    makers: dict[str, Callable[[], Contender]] = {"jaxloss": lambda: jax_contender(ours, operands, what)}
    for peer in peers:
        function = getattr(loss, peer.partition(".")[0])
        if function is None:
            continue
        if peer in JAX_PEERS:
            makers[peer] = functools.partial(jax_contender, mean_of(function), operands, what)
        else:
            makers[peer] = functools.partial(torch_contender, function, operands, what, peer == "torch.compile")
    if case.masked:
        makers["no mask"] = lambda: jax_contender(ours, (y_true, y_pred, None), what)
    if what == "value+grad":
        makers["floor"] = lambda: floor_contender(y_pred)
    makers["copy"] = lambda: copy_contender(y_pred)

    made, values = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
            value = made[name].call()
        except Exception as error:
            made.pop(name, None)
            notes[f"{case.key(what)}: {name}"] = reason(error)
            continue
        if value is not None and name != "no mask":
            values[name] = float(value)
    tolerance = 1e-3 if case.dtype == "float32" else 5e-2
    for name, value in values.items():
        if not math.isclose(value, values.get("jaxloss", value), rel_tol=tolerance):
            notes[f"{case.key(what)}: {name}"] = f"its value is {value:.6g}, that of jaxloss {values['jaxloss']:.6g}"
    return made


# ---------------------------------------------------------------------------------------------------------------------
# timing


def measure(
    case: Case, whats: Sequence[str], peers: Sequence[str], rounds: int, notes: dict[str, str]
) -> Iterator[Cell]:
    mask = jnp.arange(case.shape[0]) % 4 != 3 if case.masked else None
    operands = (*make_inputs(LOSSES[case.loss].data, case.shape, case.dtype), mask)
    if math.prod(case.shape) >= LARGE:
        rounds = min(rounds, 5)
    if math.prod(case.shape) <= SMALL:
        rounds *= 5
    for what in whats:
        made = contenders(case, operands, what, peers, notes)
        samples = interleaved({name: contender.call for name, contender in made.items()}, rounds)
        held = {name: contender.temporaries for name, contender in made.items()}
        yield Cell(case, what, samples, {name: size for name, size in held.items() if size is not None})


def release() -> None:
    """Free what a case leaves behind: programs, and the arrays in them."""
    jax.clear_caches()
    if torch is not None:
        if hasattr(torch, "compiler"):
            torch.compiler.reset()
        if ON_GPU and torch.cuda.is_available():
            torch.cuda.empty_cache()
    gc.collect()


# ---------------------------------------------------------------------------------------------------------------------
# dispatch: what an eager call on a 2x3 input costs


def measure_dispatch(name: str, peers: Sequence[str], rounds: int, notes: dict[str, str]) -> dict[str, list[float]]:
    loss = LOSSES[name]
    y_true, y_pred = make_inputs(loss.data, (2, 3), "float32")
    function = loss.jaxloss.func if isinstance(loss.jaxloss, functools.partial) else loss.jaxloss
    keywords = {**getattr(loss.jaxloss, "keywords", {}), **(loss.keywords or {})}
    jitted = jax.jit(mean_of(loss.plain))
    calls: dict[str, Callable[[], Any]] = {
        "jaxloss": lambda: function(y_true, y_pred),
        "2 keywords": lambda: function(y_true, y_pred, **keywords),
        "jitted plain": lambda: jitted(y_true, y_pred, None),
    }
    for peer in peers:
        units = getattr(loss, peer, None)
        if units is None or peer == "plain":
            continue
        if peer == "torch":
            try:
                calls[peer] = torch_contender(units, (y_true, y_pred, None), "value", compiled=False).call
            except Exception as error:
                notes[f"dispatch {name}: {peer}"] = reason(error)
        else:
            calls[peer] = functools.partial(mean_of(units), y_true, y_pred, None)
    for call in calls.values():
        jax.block_until_ready(call())
    return interleaved(calls, rounds, least=0.02)


# ---------------------------------------------------------------------------------------------------------------------
# the command


def available(wanted: Sequence[str], quick: bool, notes: dict[str, str]) -> list[str]:
    """The peers that can run here; notes say why others cannot."""
    peers = []
    for peer in wanted:
        library = peer.partition(".")[0]
        why = MISSING.get(library, "")
        if not why and peer == "torch.compile":
            why = "skipped by --quick" if quick else torch_compile_fails()
        if why:
            notes[peer] = why
        else:
            peers.append(peer)
    return peers


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only",
        metavar="REGEX",
        type=re.compile,
        default=re.compile(""),
        help="cells whose key matches, as in 'sparse_cce 4096x50257 bfloat16 value+grad', "
        "'mse where 16384x1024 float32 value', 'dispatch huber'",
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, metavar="PEER", help=" ".join(PEERS))
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="samples a cell (default 7; at most 5 for large arrays, five times as many for small ones)",
    )
    parser.add_argument("--quick", action="store_true", help="small arrays and no torch.compile: a smoke test")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the same report, with all samples, as JSON")
    parser.add_argument("--device", action="store_true", help="print device and versions, and measure nothing")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    facts, notes = header(), {}
    if options.device:
        print(table(["", ""], [[key, str(value)] for key, value in facts.items()]))
        return
    peers = available(options.peers, options.quick, notes)
    measured: dict[str, Cell] = {}
    dispatch: dict[str, dict[str, list[float]]] = {}
    try:
        for name in LOSSES:
            if options.only.search(key := f"dispatch {name}"):
                print(key, file=sys.stderr)
                dispatch[key] = measure_dispatch(name, peers, options.rounds, notes)
        for case in cases(options.quick):
            whats = [what for what in WHATS if options.only.search(case.key(what))]
            for cell in measure(case, whats, peers, options.rounds, notes) if whats else ():
                key = case.key(cell.what)
                measured[key] = cell
                print(f"{key}: {spread(cell.ratio())} of {cell.fastest()}", file=sys.stderr)
            release()
    except KeyboardInterrupt:
        notes["interrupted"] = "the report has what was measured until then"
    verdicts = [judge(target, {**measured, **dispatch}) for target in TARGETS]
    report = {"header": facts, "verdicts": verdicts, "notes": notes}
    print_report(report, list(measured.values()), dispatch)
    if options.json:
        full = {
            **report,
            "verdicts": [{**dataclasses.asdict(v), "verdict": v.word} for v in verdicts],
            "cells": [cell.as_json() for cell in measured.values()],
            "dispatch_seconds": dispatch,
        }
        options.json.write_text(json.dumps(full, indent=1) + "\n")


if __name__ == "__main__":
    main()
