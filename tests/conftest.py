import json
import os
from collections import Counter

import hypothesis
import pytest

# One thread a test process: tensors are small, and there is a process for each core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests never reach for the network: what is not local must fail at once, with the message a user would get.
os.environ["HF_HUB_OFFLINE"] = "1"
# Without a GPU Triton's kernels run in its interpreter, which it asks for when it is imported.
if not os.path.exists("/proc/driver/nvidia"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A slow machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    """Leaves every n-th case of a list that is marked `thin(n)` in the default run; the others are slow ones."""
    met = Counter()
    for item in items:
        thin = item.get_closest_marker("thin")
        if thin is not None and item.get_closest_marker("slow") is None:
            test = item.nodeid.partition("[")[0]
            if met[test] % thin.args[0]:
                item.add_marker(pytest.mark.slow)
            met[test] += 1


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Returns what trains a run of one kind of task and method, once, and returns its folder."""
    from meft_runner.run.folder import run_directory  # which import torch: after the settings above
    from meft_runner.run.lifecycle import run
    from tests.helpers.trained import run_settings

    made = {}

    def of(kind, method):
        if (kind, method) not in made:
            chosen = run_settings(kind, method, tmp_path_factory.mktemp(kind))
            run(chosen)
            made[kind, method] = run_directory(chosen)
        return made[kind, method]

    return of


@pytest.fixture
def rte_folder(tmp_path):
    """A folder with a few rows in the form of GLUE's RTE."""
    folder = tmp_path / "rte"
    folder.mkdir()
    for split, count in (("train", 40), ("validation", 20)):
        rows = [
            {
                "sentence1": f"The {word} number {i} was found in the garden by {i % 7} people.",
                "sentence2": f"A {word} was found.",
                "label": i % 2,
                "idx": i,
            }
            for i, word in zip(range(count), ["dog", "coin", "letter"] * count, strict=False)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
