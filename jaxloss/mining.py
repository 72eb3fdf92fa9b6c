"""Which members of a set to compare: the hardest, or the semi-hard, of a matrix of distances.

Each function returns, for each member as an anchor, the place of the one it chose, and whether there is any; where
there is none the place is 0. With them `triplet` gets its positives and negatives, and the mask of the anchors that
have both::

    d = jnp.linalg.norm(x[:, None] - x[None], axis=-1)
    positive, some = hardest_positive(labels, d)
    negative, others = semi_hard_negative(labels, d, positive)
    jaxloss.triplet(x, x[positive], x[negative], where=some & others)

Sets in front are mapped by `jax.vmap`. A distance that is NaN is never chosen; of equal ones the first is.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from jaxloss.contract import ArrayLike, all_members, compiled, current_loss

__all__ = ["hardest_negative", "hardest_positive", "semi_hard_negative"]


@compiled
def hardest_positive(labels: ArrayLike, distances: ArrayLike, *, where: ArrayLike | None = None) -> tuple[Array, Array]:
    """The farthest other member of the same label.

    Args:
      labels: (n,) integers, any.
      distances: (n, n), of each anchor (row) to each candidate.
      where: (n,) which members exist (bool); the distances of the others may hold anything, even NaN.

    Returns:
      The places and whether there is one, both (n,).

    Example:
      >>> places, found = hardest_positive([5, 5, 5, 8], [[0, 1, 2, 9], [1, 0, 4, 9], [2, 4, 0, 9], [9, 9, 9, 0]])
      >>> print(places, found)
      [2 2 1 0] [ True  True  True False]

    Source: Hermans, Beyer and Leibe 2017, arXiv 1703.07737, equation 5.
    """
    alike, _, d = _pairs(labels, distances, where)
    return _first(-d, alike)


@compiled
def hardest_negative(labels: ArrayLike, distances: ArrayLike, *, where: ArrayLike | None = None) -> tuple[Array, Array]:
    """The nearest member of another label.

    Args:
      labels: (n,) integers, any.
      distances: (n, n), of each anchor (row) to each candidate.
      where: (n,) which members exist (bool); the distances of the others may hold anything, even NaN.

    Returns:
      The places and whether there is one, both (n,).

    Example:
      >>> places, found = hardest_negative([5, 8, 8], [[0, 3, 2], [3, 0, 1], [2, 1, 0]])
      >>> print(places, found)
      [2 0 0] [ True  True  True]

    Source: Hermans, Beyer and Leibe 2017, arXiv 1703.07737, equation 5.
    """
    _, unlike, d = _pairs(labels, distances, where)
    return _first(d, unlike)


@compiled
def semi_hard_negative(
    labels: ArrayLike, distances: ArrayLike, positives: ArrayLike, *, where: ArrayLike | None = None
) -> tuple[Array, Array]:
    """The nearest member of another label that is farther than the positive.

    Args:
      labels: (n,) integers, any.
      distances: (n, n), of each anchor (row) to each candidate.
      positives: (n,) the place of the positive of each anchor.
      where: (n,) which members exist (bool); the distances of the others may hold anything, even NaN.

    Returns:
      The places and whether there is one, both (n,). An anchor all of whose negatives are as near as its positive, or
      nearer, has none.

    Example:
      >>> d = [[0, 3, 2, 4], [3, 0, 1, 1], [2, 1, 0, 1], [4, 1, 1, 0]]
      >>> places, found = semi_hard_negative([5, 5, 8, 8], d, [1, 0, 3, 2])
      >>> print(places, found)  # beyond the distances 3, 3, 1, 1
      [3 0 0 0] [ True False  True  True]

    Source: Schroff, Kalenichenko and Philbin 2015, arXiv 1503.03832, equation 4.
    """
    _, unlike, d = _pairs(labels, distances, where)
    place = jnp.asarray(positives)
    if place.shape != d.shape[:1] or not jnp.issubdtype(place.dtype, jnp.integer):
        raise ValueError(
            f"{current_loss()}: positives must be {d.shape[0]} integers, one for each anchor, got {place.dtype} of "
            f"shape {place.shape}."
        )
    return _first(d, unlike & (d > jnp.take_along_axis(d, place[:, None], axis=1)))


def _pairs(labels: ArrayLike, distances: ArrayLike, where: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Which pairs are different members of one label, which of two labels, and the distances."""
    y, d = jnp.asarray(labels), jnp.asarray(distances)
    n = d.shape[0] if d.ndim else 0
    exists = jnp.ones(n, bool) if where is None else jnp.asarray(where)
    if d.shape != (n, n) or y.shape != (n,) or exists.shape != (n,) or not n:
        mask = "" if where is None else f" and where {exists.shape}"
        raise ValueError(
            f"{current_loss()}: n labels need distances of shape (n, n), n at least 1; labels have shape {y.shape}, "
            f"distances {d.shape}{mask}. Sets in front are mapped by jax.vmap."
        )
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"{current_loss()}: labels must be integers, got {y.dtype}.")
    if exists.dtype != bool:
        raise TypeError(f"{current_loss()}: where must be bool, got {exists.dtype}.")
    y, d, exists = all_members(y, d, exists)
    pairs, same = exists[:, None] & exists[None], y[:, None] == y[None]
    return pairs & same & ~jnp.eye(n, dtype=bool), pairs & ~same, d


def _first(d: Array, allowed: Array) -> tuple[Array, Array]:
    """The place of the smallest entry of each row that is allowed and not NaN, and whether there is one."""
    allowed = allowed & (d == d)
    largest = jnp.inf if jnp.issubdtype(d.dtype, jnp.floating) else jnp.iinfo(d.dtype).max
    least = jnp.min(d, axis=-1, keepdims=True, where=allowed, initial=largest)
    return jnp.argmax(allowed & (d == least), axis=-1), jnp.any(allowed, axis=-1)
