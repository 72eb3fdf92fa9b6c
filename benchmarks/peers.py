"""What is compared: the six losses as each library has them, and their inputs."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxloss
from benchmarks import plain


def optional(module: str) -> Any:
    """A library that may be missing: then its peers are left out, with the reason."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        MISSING[module.partition(".")[0]] = reason(error)
        return None


def reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


MISSING: dict[str, str] = {}
os.environ["KERAS_BACKEND"] = "jax"
optax = optional("optax")
keras = optional("keras")
torch = optional("torch")
F = optional("torch.nn.functional")
ON_GPU = jax.default_backend() == "gpu"


@dataclasses.dataclass(frozen=True)
class Loss:
    """One loss in each library. optax, Keras and the formula give a number a unit; PyTorch takes its own reduction."""

    data: str
    jaxloss: Callable[..., Any]
    plain: Callable[..., Any]
    keras: Callable[..., Any]
    torch: Callable[..., Any]
    optax: Callable[..., Any] | None = None  # optax has neither mae nor bce of probabilities
    keywords: Mapping[str, Any] | None = None  # two, for the eager call

    @property
    def of_classes(self) -> bool:
        return self.data in ("labels", "distributions")


LOSSES = {
    "mse": Loss(
        "numbers",
        jaxloss.mse,
        plain=plain.mse,
        optax=lambda y, p: optax.losses.squared_error(p, y),
        keras=lambda y, p: keras.losses.mean_squared_error(y, p),
        torch=lambda y, p, **how: F.mse_loss(p, y, **how),
        keywords={"reduction": "sum", "weights": np.ones(2, np.float32)},
    ),
    "mae": Loss(
        "numbers",
        jaxloss.mae,
        plain=plain.mae,
        keras=lambda y, p: keras.losses.mean_absolute_error(y, p),
        torch=lambda y, p, **how: F.l1_loss(p, y, **how),
        keywords={"reduction": "sum", "weights": np.ones(2, np.float32)},
    ),
    "huber": Loss(
        "numbers",
        jaxloss.huber,
        plain=plain.huber,
        optax=lambda y, p: optax.losses.huber_loss(p, y),
        keras=lambda y, p: keras.losses.huber(y, p),
        torch=lambda y, p, **how: F.huber_loss(p, y, **how),
        keywords={"reduction": "sum", "delta": 0.5},
    ),
    "bce": Loss(
        "bits",
        functools.partial(jaxloss.bce, from_logits=True),
        plain=plain.bce_logits,
        optax=lambda y, z: optax.losses.sigmoid_binary_cross_entropy(z, y),
        keras=lambda y, z: keras.losses.binary_crossentropy(y, z, from_logits=True),
        torch=lambda y, z, **how: F.binary_cross_entropy_with_logits(z, y, **how),
        keywords={"label_smoothing": 0.1},
    ),
    "bce_probs": Loss(
        "probabilities",
        jaxloss.bce,
        plain=plain.bce,
        keras=lambda y, p: keras.losses.binary_crossentropy(y, p),
        torch=lambda y, p, **how: F.binary_cross_entropy(p, y, **how),
        keywords={"label_smoothing": 0.1, "reduction": "sum"},
    ),
    "sparse_cce": Loss(
        "labels",
        functools.partial(jaxloss.sparse_cce, from_logits=True),
        plain=plain.sparse_cce_logits,
        optax=lambda y, z: optax.losses.softmax_cross_entropy_with_integer_labels(z, y),
        keras=lambda y, z: keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True),
        torch=lambda y, z, **how: F.cross_entropy(z, y, **how),
        keywords={"label_smoothing": 0.1},
    ),
    "cce": Loss(
        "distributions",
        functools.partial(jaxloss.cce, from_logits=True),
        plain=plain.cce_logits,
        optax=lambda y, z: optax.losses.softmax_cross_entropy(z, y),
        keras=lambda y, z: keras.losses.categorical_crossentropy(y, z, from_logits=True),
        torch=lambda y, z, **how: F.cross_entropy(z, y, **how),
        keywords={"label_smoothing": 0.1},
    ),
}

JAX_PEERS = ("optax", "keras", "plain")
PEERS = ("optax", "keras", "torch", "torch.compile", "plain")
WHATS = ("value", "value+grad")

SIZES = ((256, 1024), (1024, 1024), (65536, 256), (16384, 1024))
CLASS_SIZES = (*SIZES, (8192, 1000), (4096, 32768), (4096, 50257), (1024, 131072))
QUICK_SIZES = ((64, 256),)
QUICK_CLASS_SIZES = (*QUICK_SIZES, (16, 50257))


@dataclasses.dataclass(frozen=True)
class Case:
    """One set of inputs; each gives one cell for the value and one for value and gradient."""

    loss: str
    shape: tuple[int, int]
    dtype: str
    masked: bool = False

    def key(self, what: str) -> str:
        return f"{self.loss}{' where' * self.masked} {self.shape[0]}x{self.shape[1]} {self.dtype} {what}"


def cases(quick: bool) -> Iterator[Case]:
    sizes = (QUICK_SIZES, QUICK_CLASS_SIZES) if quick else (SIZES, CLASS_SIZES)
    for name, loss in LOSSES.items():
        for shape in sizes[loss.of_classes]:
            for dtype in ("float32", "bfloat16"):
                yield Case(name, shape, dtype)
    for name in LOSSES:
        yield Case(name, sizes[0][-1], "float32", masked=True)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def make_inputs(data: str, shape: tuple[int, int], dtype: str) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(0))
    y_pred = 2 * jax.random.normal(keys[0], shape, dtype)
    if data == "numbers":
        return jax.random.normal(keys[1], shape, dtype), y_pred
    if data == "labels":
        return jax.random.randint(keys[1], shape[:1], 0, shape[1]), y_pred
    if data == "distributions":
        y_true = jax.random.uniform(keys[1], shape, dtype)
        return y_true / jnp.sum(y_true, axis=-1, keepdims=True), y_pred
    bits = jax.random.bernoulli(keys[1], 0.5, shape).astype(dtype)
    return bits, y_pred if data == "bits" else jax.nn.sigmoid(y_pred)
