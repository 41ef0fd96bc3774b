"""Nothing of a training step is left on the CPU where the model is elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.models import MODELS

ROOT = Path(__file__).parents[1]
USUAL = ("bert", "llama")
# Those whose shapes depend on values, which tensors of shapes alone have not, or that compile a function of their own.
OTHERS = sorted(
    {*MODELS} - {*USUAL, "bart", "deberta", "deberta-span"} - {name for name in MODELS if "answers" in name}
)


@pytest.mark.parametrize(
    "kinds", [("llama",), *(pytest.param(kinds, marks=pytest.mark.slow) for kinds in (("bert",), OTHERS))]
)
@pytest.mark.slow
def test_a_step_runs_on_another_device(kinds):
    command = [sys.executable, "-W", "ignore", "-m", "tests.helpers.second_device", *kinds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 7 * len(kinds)
