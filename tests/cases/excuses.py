"""What misses the exact result at hard inputs, and why: the entries of `Row.excused`.

An entry is a pattern of the message that hard_inputs.py prints, and the reason; one that meets nothing fails. A NaN is
never excused. The functions here are for what misses by the numbers among the inputs (`close`: by how little). They
take the results, and after an @ the dtypes if float32 and float16 are not among them:
`overflows("loss", "gradient by y_pred @float64")`.
"""

from __future__ import annotations

from collections.abc import Callable

Excuses = tuple[tuple[str, str], ...]

STEEPEST = "bounded by the derivative at 1e-12, as for every probability and rate"

LARGE, MINUTE = r" at .*e\+3[78]\b.*", r" at .*e-(3\d|4\d)\b.*"
SMALLEST_HALF, LARGEST_HALF = r" at .*(6\.103515625e-05|5\.960464477539063e-08)\b.*", r" at .*-65[45]\d\d\.0.*"
CLOSER = r" \(\d\d?(\.\d+)? eps, .*"
ABSORBED = "a small number beside one of another size: a difference of two numbers that rounding makes almost equal"


def _excuse(reason: str, numbers: str) -> Callable[..., Excuses]:
    def excuses(*results: str) -> Excuses:
        split = [result.partition(" @") for result in results]
        return tuple(
            (f"^{what}.*{numbers}" + (rf"\(({dtypes})\)$" if dtypes else ""), reason) for what, _, dtypes in split
        )

    return excuses


overflows = _excuse("a number above 1e37: a difference, a product or a sum on the way overflows", LARGE)
vanishes = _excuse("a number below 1e-29: a difference, a product or a quotient is absorbed or subnormal", MINUTE)
absorbed = _excuse(ABSORBED, SMALLEST_HALF)
absorbed_by_large = _excuse(ABSORBED, LARGE)
absorbed_by_half = _excuse(ABSORBED, LARGEST_HALF)
close = _excuse(
    "in float64 the result has up to 100 eps: a difference with 1, at a smoothed target or near a zero of the loss",
    CLOSER,
)
