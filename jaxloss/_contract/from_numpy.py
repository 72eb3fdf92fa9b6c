"""What NumPy has and jax has not: integers of 64 bits, long doubles, bytes in another order, masks."""

from __future__ import annotations

from typing import Any

import numpy as np

INT32 = np.iinfo(np.int32)


def fits_32_bits(x: np.ndarray) -> bool:
    """Whether no integer wraps around where jax, without x64, makes 32 bits of 64."""
    if x.dtype.kind not in "iu" or x.dtype.itemsize < 8 or not x.size:
        return True
    return bool(INT32.min <= x.min() and x.max() <= INT32.max)


def hides_entries(x: Any) -> bool:
    """Whether it is a masked array of NumPy, with a mask that `np.asarray` would drop."""
    return isinstance(x, np.ma.MaskedArray) and bool(np.ma.is_masked(x))


def of_numpy(x: Any) -> np.ndarray:
    """An array of NumPy as jax takes it: its bytes in the order of this machine, long doubles as doubles."""
    x = np.asarray(x)
    if x.dtype == np.longdouble:
        return x.astype(np.float64)
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
