"""Settings that must stand before jax is imported: eight devices on the CPU, and no silent promotion anywhere."""

import os

# Most of the time is compiling. What is given counts: .ci/run has the slow tests optimised.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
