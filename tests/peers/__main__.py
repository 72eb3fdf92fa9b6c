"""`python -m peers optax`: run one suite in this process and save its results."""

from __future__ import annotations

import importlib
import os
import sys

from peers import save

if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Most of the time is compiling.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    (peer,) = sys.argv[1:]
    save(peer, importlib.import_module(f"peers.{peer}_suite").run())
