import re
import subprocess
import sys

import pytest

from meft_runner.config import identity
from meft_runner.errors import UserError
from meft_runner.run import folder as runs
from tests.helpers.composed import settings
from tests.helpers.records import write_run

HOLDER = """
import sys, time
from pathlib import Path
from meft_runner.run.folder import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_equal_settings_share_a_folder(tmp_path):
    here = f"output_dir={tmp_path}"
    assert runs.run_directory(settings(here)) == runs.run_directory(settings(here, "seeds=[1,2]", "retry_failed=true"))
    assert runs.run_directory(settings(here)) != runs.run_directory(settings(here, "seed=2"))


@pytest.mark.parametrize(
    ("status", "in_sweep", "override", "reason"),
    [
        (None, True, "seed=1", None),
        ("running", True, "seed=1", None),
        ("complete", True, "retry_failed=true", "is complete already"),
        ("complete", False, "seed=1", "is complete already"),
        ("failed", True, "seed=1", r"failed before \(no rows\); retry_failed=true runs it again"),
        ("failed", True, "retry_failed=true", None),
        ("failed", False, "seed=1", None),
    ],
)
def test_why_not_to_run(status, in_sweep, override, reason, tmp_path):
    chosen = settings(f"output_dir={tmp_path}", override)
    if status is not None:
        write_run(chosen, status, "no rows" if status == "failed" else None)
    found = runs.why_not_to_run(chosen, in_sweep)
    assert found is None if reason is None else re.search(reason, found)


def test_a_run_is_held_by_one_process_and_free_when_that_one_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(runs.BusyError, match="another process is running it"), runs.claimed(tmp_path / "run"):
            pass
        with runs.claimed(tmp_path / "another run"):
            pass
        holder.kill()
        holder.wait()
        with runs.claimed(tmp_path / "run"):
            pass


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"output_dir=.*: no lock can be made there"),
        runs.claimed(tmp_path / "file" / "x"),
    ):
        pass


@pytest.mark.parametrize("status", ["complete", "failed", "running"])
def test_a_folder_that_was_copied_is_not_taken_for_another_run(status, tmp_path):
    other, chosen = settings(f"output_dir={tmp_path}", "seed=2"), settings(f"output_dir={tmp_path}")
    write_run(other, status, "no rows" if status == "failed" else None)
    runs.run_directory(other).rename(runs.run_directory(chosen))
    with pytest.raises(UserError, match=rf"holds the record of another run, {identity(other)}\. "):
        runs.why_not_to_run(chosen, in_sweep=True)
