"""What the benchmarks compile for machines that are not there: no loss is left out, and the text is read right.

And what they hold the results of all libraries against.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxloss
from benchmarks import hlo
from benchmarks.cells import SIZES, Cell, cells

CELLS = [cell for name in ("usual", "odd") for cell in cells(SIZES[name])]


def test_every_loss_has_a_cell():
    assert {cell.loss for cell in CELLS if not cell.masked} == set(jaxloss.LOSSES)
    assert {cell.loss for cell in CELLS if cell.masked} == set(jaxloss.LOSSES)
    assert len({cell.key for cell in CELLS}) == len(CELLS)


@pytest.mark.nightly
@pytest.mark.parametrize("cell", [*cells(SIZES["small"])], ids=lambda cell: cell.key)
def test_the_contenders_compute_the_same(cell: Cell):
    operands = cell.operands("float32")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # peers promote
        values = {name: float(jax.jit(function)(*operands)) for name, function in cell.contenders.items()}
    assert values == pytest.approx(dict.fromkeys(values, values["jaxloss"]), rel=1e-4)


# A loop of 10 rounds that doubles 4 of 1024 rows, into fast memory; then a conditional, a copy to
# fast memory, a gather of 8 rows, an update in place and a sum over devices.
TEXT = """\
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(%a, %b)
}

%slicing (p: f32[1024,100], q: s32[]) -> f32[4,100] {
  %p = f32[1024,100]{1,0:T(8,128)} parameter(0)
  %q = s32[] parameter(1)
  %zero = s32[] constant(0)
  %piece = f32[4,100]{1,0:T(8,128)} dynamic-slice(%p, %q, %zero), dynamic_slice_sizes={4,100}
  ROOT %twice = f32[4,100]{1,0:T(8,128)S(1)} add(%piece, %piece)
}

%body (s: (s32[], f32[1024,100])) -> (s32[], f32[1024,100]) {
  %s = (s32[], f32[1024,100]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x.1 = f32[1024,100]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %fusion.1 = f32[4,100]{1,0:T(8,128)S(1)} fusion(%x.1, %i), kind=kLoop, calls=%slicing, \
backend_config={"window_config":{"estimated_cycles":"50"}}
  ROOT %tuple.1 = (s32[], f32[1024,100]{1,0:T(8,128)}) tuple(%next, /*index=1*/%x.1)
}

%condition (s.1: (s32[], f32[1024,100])) -> pred[] {
  %s.1 = (s32[], f32[1024,100]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %ten = s32[] constant(10)
  ROOT %less = pred[] compare(%i.1, %ten), direction=LT
}

%cheap (c: f32[8]) -> f32[8] {
  ROOT %c = f32[8]{0} parameter(0)
}

%dear (d: f32[8]) -> f32[8] {
  %d = f32[8]{0} parameter(0)
  ROOT %negated = f32[8]{0} negate(%d), backend_config={"window_config":{"estimated_cycles":"7"}}
}

ENTRY %main (x: f32[1024,100], y: f32[8], n: s32[8,1]) -> f32[8] {
  %x = f32[1024,100]{1,0:T(8,128)} parameter(0)
  %y = f32[8]{0} parameter(1)
  %n = s32[8,1]{1,0} parameter(2)
  %start = s32[] constant(0)
  %state = (s32[], f32[1024,100]{1,0:T(8,128)}) tuple(%start, %x)
  %loop = (s32[], f32[1024,100]{1,0:T(8,128)}) while(%state), condition=%condition, body=%body
  %which = pred[] constant(true)
  %either = f32[8]{0} conditional(%which, %y, %y), true_computation=%cheap, false_computation=%dear
  %copy-start = (f32[1024,100]{1,0:T(8,128)S(1)}, f32[1024,100]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done = f32[1024,100]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %rows = f32[8,100]{1,0} gather(%x, %n), offset_dims={1}
  %placed = f32[1024,100]{1,0:T(8,128)} dynamic-update-slice(%x, %rows, %start, %start)
  ROOT %total = f32[8]{0} all-reduce(%either), replica_groups={{0,1}}, to_apply=%add
}
"""


def test_reads_the_text():
    slices = 10 * (8 * 128 * 4 + 4)  # 4 rows of 100, stored as 8 of 128, and where they begin
    conditional = 2 * 8 * 4
    copy = 1024 * 128 * 4  # read only: it writes to fast memory
    rows = 8 * 100 * 4
    gather, update = 2 * rows + 8 * 4, 2 * rows + 4  # read and written, and the indices
    cost = hlo.cost(TEXT)
    assert cost.kernels == 10 + 1 + 2
    assert cost.bytes == slices + conditional + copy + gather + update
    assert cost.cycles == 10 * 50 + 7
    assert cost.collectives == (hlo.Collective("all-reduce", "f32[8]", 32),)


def test_kernels_without_an_estimate_take_what_their_bytes_take():
    assert hlo.cost(TEXT, bytes_per_cycle=2).cycles == 10 * 50 + 7 + (6432 + 6404) / 2


@pytest.mark.parametrize(
    ("shape", "bytes"),
    [
        ("f32[]", 4),
        ("pred[5]{0}", 5),
        ("bf16[8192,1000]{0,1:T(8,128)(2,1)}", 2 * 8192 * 1000),
        ("bf16[8192,1000]{1,0:T(8,128)(2,1)}", 2 * 8192 * 1024),
        ("f32[3,5,7]{2,1,0:T(8,128)}", 4 * 3 * 8 * 128),
        ("(s4[6], (u8[2], token[]))", 3 + 2),
    ],
)
def test_arrays_are_as_large_as_their_tiles(shape: str, bytes: int):
    assert sum(array.bytes for array in hlo.arrays(shape)) == bytes


def test_says_what_is_wrong_with_a_text():
    with pytest.raises(ValueError, match="expected the text of an HLO module"):
        hlo.cost("module @jit_f {}")


def truth(name: str, x: np.ndarray) -> np.ndarray:
    from benchmarks import accuracy  # here, since it imports Keras and PyTorch

    (curve,) = (curve for curve in accuracy.CURVES if curve.name == name)
    return np.asarray(accuracy.exact(curve, x), np.float64)


@pytest.mark.slow
def test_the_truth_is_the_textbook_formula():
    """Along a curve that moves two numbers, where jaxloss bounds the derivative of a logarithm."""
    x = np.array([1e-30, 0.25, 0.75], np.float32)
    p, rest = (n.astype(np.float64) for n in (x, 1 - x))
    values = -np.log(2) - (np.log(p) + np.log(rest)) / 2
    slopes = (1 / rest - 1 / p) / 2
    np.testing.assert_allclose(truth("kl_divergence q=1/2", x), [values, slopes], 1e-12)


@pytest.mark.slow
def test_at_a_kink_the_truth_lies_between_its_sides():
    np.testing.assert_array_equal(truth("hinge", np.array([0.5, 1, 2], np.float32)), [[0.5, 0, 0], [-1, -0.5, 0]])
