"""Losses of one's own, as another package would write them: it has jaxloss installed, and nothing of this folder.

test_own_losses.py runs this file there. It prints where jaxloss lies, and what wrong losses break.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss
from jaxloss.contract import NUMBER, NUMBERS, PER_CLASS, POSITIVE, ArrayLike, Units, all_members, check, loss, losses

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)


@loss
def quartic(
    y_true: ArrayLike, y_pred: ArrayLike, *, scale: float | jax.Array = 1.0, **units: Unpack[Units]
) -> jax.Array:
    def element(y: jax.Array, p: jax.Array, scale: float | jax.Array) -> jax.Array:
        return ((p - y) / scale) ** 4

    inputs = {"y_true": (y_true, NUMBER), "y_pred": (y_pred, NUMBER)}
    return losses(element, inputs, options={"scale": (scale, POSITIVE)}, elementwise=True, **units)


@loss
def info_nce(
    keys: ArrayLike, queries: ArrayLike, *, temperature: float | jax.Array = 0.07, **units: Unpack[Units]
) -> jax.Array:
    def members(keys: jax.Array, queries: jax.Array, exists: jax.Array, temperature: float | jax.Array) -> jax.Array:
        all_keys, there = all_members(keys, exists)
        z = jnp.where(there, queries @ all_keys.T / temperature, -jnp.inf)
        return jax.nn.logsumexp(z, axis=-1) - jnp.sum(queries * keys, axis=-1) / temperature

    inputs = {"keys": (keys, NUMBERS), "queries": (queries, NUMBERS)}
    return losses(members, inputs, options={"temperature": (temperature, POSITIVE)}, members=0, **units)


@loss
def penalty(x: ArrayLike, *, scale: float | ArrayLike = 1.0, **units: Unpack[Units]) -> Any:
    """Of one input, which has no other to match: `log(1 + (x / scale)^2)`."""
    inputs = {"x": (x, NUMBER)}
    return losses(lambda x, scale: jnp.log1p((x / scale) ** 2), inputs, options={"scale": (scale, POSITIVE)}, **units)


@loss
def variance(points: ArrayLike, **units: Unpack[Units]) -> Any:
    """One loss for a set, the first axis."""

    def members(x: jax.Array, exists: jax.Array) -> jax.Array:
        count = jnp.maximum(jnp.sum(exists, dtype=x.dtype), 1)
        mean = jnp.sum(jnp.where(exists, x, 0)) / count
        return jnp.sum(jnp.where(exists, (x - mean) ** 2, 0)) / count

    return losses(members, {"points": (points, NUMBER)}, members=0, **units)


@loss
def distances(y_true: ArrayLike, y_pred: ArrayLike, *, factors: float | ArrayLike = 1.0, **units: Unpack[Units]) -> Any:
    """Several losses for each row: one for each entry, each with a factor."""

    def row(y: jax.Array, p: jax.Array, factors: jax.Array) -> jax.Array:
        return factors * (p - y) ** 2

    holds = NUMBERS._replace(alone=True)
    inputs = {"y_true": (y_true, holds), "y_pred": (y_pred, holds)}
    return losses(row, inputs, options={"factors": (factors, PER_CLASS)}, outputs=1, **units)


# Wrong on purpose, each in one respect.


@loss
def unscaled(y_true: ArrayLike, y_pred: ArrayLike, *, scale: float | jax.Array = 1.0, **units: Unpack[Units]) -> Any:
    return quartic(y_true, y_pred, **units)


@loss
def all_candidates(
    keys: ArrayLike, queries: ArrayLike, *, temperature: float | jax.Array = 0.07, **units: Unpack[Units]
) -> Any:
    def members(keys: jax.Array, queries: jax.Array, exists: jax.Array, temperature: float | jax.Array) -> jax.Array:
        z = queries @ all_members(keys)[0].T / temperature
        return jax.nn.logsumexp(z, axis=-1) - jnp.sum(queries * keys, axis=-1) / temperature

    inputs = {"keys": (keys, NUMBERS), "queries": (queries, NUMBERS)}
    return losses(members, inputs, options={"temperature": (temperature, POSITIVE)}, members=0, **units)


def times_mask(
    y_true: Any, y_pred: Any, *, scale: Any = 1.0, weights: Any = None, where: Any = None, reduction: Any = "mean"
) -> Any:
    kept = 1.0 if where is None else jnp.asarray(where, jnp.float32)
    found = quartic(y_true, y_pred, scale=scale, weights=weights, reduction="none") * kept
    return found if reduction == "none" else jnp.sum(found) / jnp.sum(jnp.broadcast_to(kept, jnp.shape(found)))


def numbers(rng: np.random.Generator, batch: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=batch), rng.normal(size=batch)


def quartic_oracle(y: np.ndarray, p: np.ndarray, scale: Any = 1.0) -> np.ndarray:
    return ((p - y) / scale) ** 4


def vectors(rng: np.random.Generator, batch: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(*batch, 3)), rng.normal(size=(*batch, 3))


def info_nce_oracle(keys: np.ndarray, queries: np.ndarray, temperature: Any = 0.07) -> np.ndarray:
    z = np.einsum("i...d,j...d->ij...", queries, keys) / temperature
    return np.log(np.exp(z).sum(1)) - np.einsum("i...d,i...d->i...", queries, keys) / temperature


def broken(loss: Any, *given: Any, **options: Any) -> str:
    try:
        check(loss, *given, **options)
    except AssertionError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print(jaxloss.__file__)
    of_numbers = (numbers, quartic_oracle)
    of_sets = (vectors, info_nce_oracle)
    sets = {"options": {"temperature": 0.5}, "coupled": True, "rtol": 1e-5}
    check(quartic, *of_numbers, options={"scale": 0.5})
    check(info_nce, *of_sets, **sets)
    check(penalty, lambda rng, batch: numbers(rng, batch)[:1], lambda x, scale=1.0: np.log1p((x / scale) ** 2),
          options={"scale": 0.5})  # fmt: skip
    factors = np.array([0.1, 0.2, 0.7])  # no numbers of float32
    check(distances, vectors, lambda y, p, factors: factors * (p - y) ** 2, options={"factors": factors})
    check(variance, lambda rng, batch: numbers(rng, (*batch, 8))[:1], lambda x: x.var(0), pooled=True)
    for found, law, why in (
        (broken(unscaled, *of_numbers, options={"scale": 0.5}), "value", "eager"),
        (broken(all_candidates, *of_sets, **sets), "from_the_left", "where of shape (batch,)"),
        (broken(times_mask, *of_numbers, options={"scale": 0.5}), "mask", "under the mask"),
    ):
        print(found.splitlines()[0])
        assert f"\n{law}: " in found, found
        assert why in found, found
