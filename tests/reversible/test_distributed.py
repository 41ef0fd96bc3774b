import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.gradients_of_two_processes import METHODS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    script = "tests/helpers/gradients_of_two_processes.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*command, script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    for method in METHODS:
        assert len(re.findall(rf"rank ., {method}: \d+ gradients agree", result.stdout)) == 2
