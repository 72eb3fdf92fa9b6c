"""What a type checker tells the user of a loss: pyright, as .ci/run installs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MISTAKES = {
    "jl.cce(y, p, from_logit=True)": 'No parameter named "from_logit"',
    "jl.cce(y, p, 'mean')": "Expected 2 positional arguments",
    "jl.cce(y)": 'Argument missing for parameter "y_pred"',
    "jl.mse(y, p, reduction='avg')": 'cannot be assigned to parameter "reduction"',
    "jl.checked(jl.cce)(y, p, from_logit=True)": 'No parameter named "from_logit"',
    "jl.huber(y, p, delta='large')": 'cannot be assigned to parameter "delta"',
}
CORRECT = (
    "jl.cce([[0, 1]], p, from_logits=True, weights=[1.0], where=y > 0, reduction='sum').shape",
    "jl.huber(0.0, p, delta=jnp.ones(()), reduction=lambda losses, weights: jnp.sum(losses * weights)).dtype",
    "jax.grad(jl.mse, argnums=1)(y, p)",
    "jl.huber(y, p, delta=np.float32(0.3)), jl.quantile(y, p, level=[0.1, 0.9]), jl.bce(y, p, pos_weight=np.ones(2))",
    "jl.ciou(y, p, gate=np.float32(0.5)), jl.orpo(y, p, beta=[0.1, 0.2]), jl.pairwise_hinge(y, p, margin=np.ones(()))",
    "jl.mse(y, p, reduction=lambda losses, weights: (jnp.sum(losses), jnp.sum(weights)))",
    "jl.mse(y, Held(), weights=Held()), jl.huber(y, p, delta=Held())",
    "jl.checked(jl.huber)(y, [1.0, 2.0], delta=2.0, where=y > 0).dtype",
)
HEADER = """import jax
import jax.numpy as jnp
import jaxloss as jl
import numpy as np

class Held:
    def __jax_array__(self) -> jax.Array:
        return jnp.ones(2)

y, p = jnp.zeros(2), jnp.ones(2)
"""


@pytest.mark.slow
def test_pyright_sees_the_signatures(tmp_path: Path):
    file = tmp_path / "user.py"
    file.write_text(HEADER + "\n".join([*CORRECT, *MISTAKES]) + "\n")
    (tmp_path / "pyrightconfig.json").write_text('{"reportUnusedExpression": false}')
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(file)]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    reported = {}
    for line in output.splitlines():
        if "error:" in line:
            reported.setdefault(int(line.split(".py:")[1].split(":")[0]), line)
    first = HEADER.count("\n") + len(CORRECT) + 1
    for number, (code, message) in enumerate(MISTAKES.items(), first):
        assert message in reported.pop(number, ""), f"{code}: {output}"
    assert not reported, f"correct code is refused: {output}"
