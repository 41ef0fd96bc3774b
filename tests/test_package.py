"""What the built wheel holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_carries_the_configs(tmp_path):
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"meft_runner/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert not any(name.startswith("tests/") for name in names)


def test_the_engine_and_the_memory_tools_stand_alone():
    script = (
        "import sys, meft_runner.reversible, meft_runner.memory\n"
        "print([m for m in ('hydra', 'transformers', 'datasets', 'peft') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"
