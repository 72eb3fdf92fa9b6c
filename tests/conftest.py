"""Settings that must stand before jax is imported: eight devices on the CPU, and no silent promotion anywhere.

And one line of progress on a terminal.
"""

import gc
import os
import time
from collections.abc import Generator
from importlib import metadata
from typing import Any

# A quarter of the time is compiling: it takes a third less without the emitters of fusions, a flag that jax 0.12 lacks,
# and a quarter less where one program is not compiled in parallel, since the tests are.
# What is given counts: .ci/run has the slow tests of numbers compiled as users have them.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * metadata.version("jaxlib").startswith(("0.7.", "0.8.", "0.9.", "0.10.")),
)

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# It runs in an environment of its own, with other devices.
collect_ignore = ["own_losses.py"]
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_traceback_in_locations_limit", 0)  # where in the source an operation stands: a tenth of tracing


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Generator[str, None, None]:
    """Programs for the CPU get the forms of this machine, "gpu" or "tpu"."""
    from jaxloss._platform import choice

    choice.lower_for(request.param, "cpu")
    jax.clear_caches()
    yield request.param
    choice.lower_for("cpu", "cpu")
    jax.clear_caches()


def pytest_runtest_setup():
    """What earlier tests left stays, since jax remembers its programs: the collector need not go through it again."""
    gc.collect()
    gc.freeze()


class Progress:
    """One line that says how many tests are done and how long the others will take, in place of a dot for each."""

    def __init__(self, config: pytest.Config) -> None:
        self.out = config.get_terminal_writer()
        self.total = self.done = 0

    def start(self, total: int) -> None:
        self.total, self.began = total, time.monotonic()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.start(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self.start(len(ids))

    def pytest_runtest_logfinish(self) -> None:
        self.done += 1
        left = (time.monotonic() - self.began) * (self.total / self.done - 1)
        self.out.write(f"\r{self.done} of {self.total} tests, {left // 60:.0f}:{left % 60:02.0f} left ", flush=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        category, _, word = yield
        return category, "", word

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.out.line(f"\rFAILED {report.nodeid}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    worker = hasattr(config, "workerinput")
    if not worker and config.get_verbosity() == 0 and config.get_terminal_writer().hasmarkup:
        config.pluginmanager.register(Progress(config))
