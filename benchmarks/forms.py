"""What a guard of the contract costs, and forms that were tried in place of ours: `python -m benchmarks.forms`.

The values of two losses at 16 million elements and at 256x1024, each in several forms, from the formula as one would
type it to that of the library: times to the typed one, interleaved as in `benchmarks.compare`, and what each form makes
of inputs where the typed one breaks. Then sparse_cce with its gradient in long rows, in parts: what each pass over the
scores takes alone, to the whole of optax.

On a CPU, XLA hands a fused sum to YNNPACK, which runs one pass over a tile of the arrays for each operation: so
operations count, and one that it lacks (a select, a comparison) makes XLA compile a loop of its own, or store what is
summed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.compare import floor_contender, jax_contender
from benchmarks.peers import LOSSES, Case, make_inputs
from benchmarks.report import header
from benchmarks.tables import spread, table
from benchmarks.timing import interleaved, ratio

Form = Callable[[Array, Array], Array]

LARGEST, TINY = float(jnp.finfo(jnp.float32).max), float(jnp.finfo(jnp.float32).tiny)
SLACK = 4 * float(jnp.finfo(jnp.float32).eps)
FLOOR = math.log(TINY)


# ---------------------------------------------------------------------------------------------------------------------
# bce from probabilities: logarithms that are exact, a finite loss at 0 and 1, NaN outside [0, 1] but for rounding


def logarithms(y: Array, log_p: Array, log_q: Array) -> Array:
    return -y * log_p - (1 - y) * log_q


def exact_logarithm(y: Array, p: Array) -> Array:
    return logarithms(y, jnp.log(p), jnp.log1p(-p))


def and_floors(y: Array, p: Array) -> Array:
    return logarithms(y, jnp.maximum(jnp.log(p), FLOOR), jnp.maximum(jnp.log1p(-p), FLOOR))


def and_slack_by_bounds(y: Array, p: Array) -> Array:
    above, below = jnp.maximum(p, jnp.minimum(p + SLACK, 0)), jnp.minimum(p, jnp.maximum(p - SLACK, 1))
    return logarithms(y, jnp.maximum(jnp.log(above), FLOOR), jnp.maximum(jnp.log1p(-below), FLOOR))


def and_slack_by_a_select(y: Array, p: Array) -> Array:
    floored = logarithms(y, jnp.log(jnp.maximum(p, TINY)), jnp.maximum(jnp.log1p(-jnp.minimum(p, 1)), FLOOR))
    return jnp.where((p >= -SLACK) & (p <= 1 + SLACK), floored, jnp.nan)


# ---------------------------------------------------------------------------------------------------------------------
# cce from logits: an excluded class (logit -inf) costs nothing if its target is 0, and everything if it is not


def by_terms(term: Callable[[Array, Array], Array]) -> Form:
    """The sum over the classes of a term of target and surprise."""

    def loss(y: Array, z: Array) -> Array:
        shift = jnp.maximum(jnp.max(z, -1, keepdims=True), -LARGEST)
        log_sum = jnp.log(jnp.maximum(jnp.sum(jnp.exp(z - shift), -1, keepdims=True), 1))
        return jnp.sum(term(y, log_sum - (z - shift)), -1)

    return loss


FORMS: dict[str, dict[str, Form]] = {
    "bce_probs": {
        "typed": LOSSES["bce_probs"].plain,
        "log1p": exact_logarithm,
        "log1p, floors": and_floors,
        "log1p, floors, slack by bounds": and_slack_by_bounds,
        "log1p, floors, slack by a select": and_slack_by_a_select,
    },
    "cce": {
        "typed": LOSSES["cce"].plain,
        "one bound": by_terms(lambda y, s: y * jnp.minimum(s, LARGEST)),
        "a bound made of y by one product": by_terms(lambda y, s: y * jnp.minimum(s, y * LARGEST + LARGEST)),
        "a bound made of y by two products": by_terms(lambda y, s: y * jnp.minimum(s, y * LARGEST * LARGEST)),
        "a select": by_terms(lambda y, s: jnp.where(y == 0, 0, y * s)),
    },
}

PROBES: dict[str, dict[str, tuple[list[list[float]], list[list[float]]]]] = {
    "bce_probs": {
        "p = y = 1 (0)": ([[1.0]], [[1.0]]),
        "p = 1 + 1e-7, y = 1 (0)": ([[1.0]], [[1 + 2.0**-23]]),
        "p = 1, y = 0 (87.3)": ([[0.0]], [[1.0]]),
        "p = 1.2, y = 1 (nan)": ([[1.0]], [[1.2]]),
        "p = 1e-9, y = 0 (1e-9)": ([[0.0]], [[1e-9]]),
    },
    "cce": {
        "excluded, y = 0 (0.693)": ([[0.5, 0.5, 0.0]], [[0.0, 0.0, -math.inf]]),
        "excluded, y = 1e-37 (inf)": ([[0.5, 0.5, 1e-37]], [[0.0, 0.0, -math.inf]]),
        "excluded, y = 1 (inf)": ([[0.0, 0.0, 1.0]], [[0.0, 0.0, -math.inf]]),
        "y = -1e-9 (1.1)": ([[0.5, 0.5, -1e-9]], [[0.0, 0.0, 0.0]]),
    },
}

SIZES = (((16384, 1024), "float32"), ((16384, 1024), "bfloat16"), ((256, 1024), "float32"))
QUICK_SIZES = (((64, 256), "float32"),)


def mean(form: Form) -> Callable[[Array, Array, None], Array]:
    return lambda y, p, _: jnp.mean(form(y.astype(jnp.float32), p.astype(jnp.float32)))


def measured(name: str, sizes: Sequence[tuple[tuple[int, int], str]], rounds: int) -> str:
    ours = LOSSES[name].jaxloss
    forms: Mapping[str, Form] = {**FORMS[name], "jaxloss": lambda y, p: ours(y, p, reduction="none")}
    cells: dict[str, list[str]] = {form: [] for form in forms}
    for shape, dtype in sizes:
        operands = (*make_inputs(LOSSES[name].data, shape, dtype), None)
        made = {form: jax_contender(mean(function), operands, "value") for form, function in FORMS[name].items()}
        made["jaxloss"] = jax_contender(ours_of(ours), operands, "value")
        samples = interleaved({form: contender.call for form, contender in made.items()}, rounds)
        for form, contender in made.items():
            stored = (contender.temporaries or 0) / 1e6
            cells[form].append(spread(ratio(samples[form], samples["typed"])) + f" {stored:.0f} MB" * (stored >= 1))
    for y, p in PROBES[name].values():
        for form, function in forms.items():
            cells[form].append(f"{float(jnp.mean(jax.jit(function)(jnp.asarray(y), jnp.asarray(p)))):.3g}")
    heads = [Case(name, shape, dtype).key("value").partition(" ")[2] for shape, dtype in sizes]
    return table([name, *heads, *PROBES[name]], [[form, *row] for form, row in cells.items()])


# ---------------------------------------------------------------------------------------------------------------------
# sparse_cce with its gradient, in parts


def optax_mean(label: Array, z: Array, _: None) -> Array:
    units = LOSSES["sparse_cce"].optax
    assert units is not None, "optax is missing"
    return jnp.mean(units(label, z))


def softmax(z: Array, log_total: Array) -> Array:
    return jnp.exp(z.astype(jnp.float32) - log_total[:, None]).astype(z.dtype)


def parts(shape: tuple[int, int], dtype: str, rounds: int) -> list[list[str]]:
    ours = LOSSES["sparse_cce"].jaxloss
    label, z = make_inputs("labels", shape, dtype)
    log_total = jax.nn.logsumexp(z.astype(jnp.float32), axis=-1)
    whole = (label, z, None)
    made = {
        "optax": jax_contender(optax_mean, whole, "value+grad"),
        "jaxloss": jax_contender(ours_of(ours), whole, "value+grad"),
        "its value": jax_contender(ours_of(ours), whole, "value"),
        "the maximum of each row": jax_contender(lambda z: jnp.max(z, -1), (z,), "value"),
        "a new array for the gradient": floor_contender(z),
        "a new array of exponentials": jax_contender(softmax, (z, log_total), "value"),
    }
    samples = interleaved({part: contender.call for part, contender in made.items()}, rounds)
    key = Case("sparse_cce", shape, dtype).key("value+grad")
    return [[key, part, spread(ratio(samples[part], samples["optax"]))] for part in made]


def ours_of(loss: Callable[..., Array]) -> Callable[[Array, Array, None], Array]:
    return lambda y, p, _: loss(y, p)


LONG, QUICK_LONG = ((4096, 32768), (4096, 50257), (1024, 131072)), ((16, 4096),)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forms", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=(*FORMS, "sparse_cce"), help="of these losses")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each form (default 15)")
    parser.add_argument("--quick", action="store_true", help="small arrays: a smoke test")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    print(table(["", ""], [[key, str(value)] for key, value in header().items()]))
    print("\nTimes to the typed formula, and temporary memory; after that, results (in brackets what they must be).")
    for name in options.only or FORMS:
        if name in FORMS:
            print(f"\n{measured(name, QUICK_SIZES if options.quick else SIZES, options.rounds)}")
    if "sparse_cce" in (options.only or ["sparse_cce"]):
        sizes = QUICK_LONG if options.quick else LONG
        rows = [row for shape in sizes for row in parts(shape, "float32", options.rounds)]
        print(f"\n{table(['in parts', 'what', 'time / optax'], rows)}")


if __name__ == "__main__":
    main()
