"""Several hosts: two processes train one language model on two halves of each batch, and get the same losses as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

STEPS, BATCH, TIME, CLASSES, FEATURES = 5, 8, 24, 1031, 16
HOSTS = 2


def batches() -> tuple[np.ndarray, np.ndarray]:
    """Texts of different lengths, so that the hosts count different numbers of tokens."""
    rng = np.random.default_rng(0)
    tokens = rng.zipf(1.3, (STEPS, BATCH, TIME + 1)) % CLASSES
    lengths = rng.integers(1, TIME, (STEPS, BATCH))
    lengths[2, : BATCH // HOSTS] = 0  # in one step the first host has nothing to learn from
    labels = np.where(np.arange(TIME) < lengths[..., None], tokens[..., 1:], -100)
    return tokens[..., :-1].astype(np.int32), labels.astype(np.int32)


def parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"embedding": (CLASSES, FEATURES), "mixing": (FEATURES, FEATURES), "kernel": (FEATURES, CLASSES)}
    return {name: rng.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}


def loss(params: Any, tokens: Any, labels: Any) -> Any:
    seen = jnp.cumsum(params["embedding"][tokens], axis=1)
    hidden = jnp.tanh(seen @ params["mixing"])
    return jaxloss.linear_cce(labels, hidden, params["kernel"], z_loss=1e-3, chunk=32, where=labels != -100)


@jax.jit
def step(params: Any, tokens: Any, labels: Any) -> tuple[Any, Any]:
    value, slopes = jax.value_and_grad(loss)(params, tokens, labels)
    return jax.tree.map(lambda p, g: p - g, params, slopes), value


def train(place: Any = lambda x: x, keep: Any = lambda x: x) -> list[float]:
    params, losses = jax.tree.map(keep, parameters()), []
    for tokens, labels in zip(*batches(), strict=True):
        params, value = step(params, place(tokens), place(labels))
        losses.append(float(value))
    return losses


def host(address: str, index: int) -> None:
    """One of the processes: it sees its half of each batch."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=HOSTS, process_id=index)
    assert len(jax.devices()) == HOSTS
    mesh = jax.make_mesh((HOSTS,), ("data",), axis_types=(AxisType.Auto,))
    over, common = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    mine = slice(index * BATCH // HOSTS, (index + 1) * BATCH // HOSTS)

    def place(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(over, x[mine])

    def keep(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(common, x)

    print(json.dumps(train(place, keep)), flush=True)
    jax.distributed.shutdown()


@pytest.mark.slow
def test_two_processes_train_as_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    one_device = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    hosts = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(i)],
            env=one_device,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(HOSTS)
    ]
    try:
        want = train()
        for process in hosts:
            output, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
            np.testing.assert_allclose(json.loads(output.splitlines()[-1]), want, rtol=1e-6)
    finally:
        for process in hosts:
            process.kill()
            process.communicate()
    assert want[-1] < want[0]


if __name__ == "__main__":
    host(sys.argv[1], int(sys.argv[2]))
