import pytest

from meft_runner.run.folder import run_directory
from meft_runner.run.lifecycle import run
from tests.helpers.trained import run_settings


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Returns what trains a run of one kind of task, once, and returns its folder."""
    made = {}

    def of(kind, method):
        if (kind, method) not in made:
            chosen = run_settings(kind, method, tmp_path_factory.mktemp(kind))
            run(chosen)
            made[kind, method] = run_directory(chosen)
        return made[kind, method]

    return of
