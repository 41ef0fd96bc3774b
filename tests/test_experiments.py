"""Every file of conf/experiment/: it composes, and at scale=smoke it runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from meft_runner.config import PeftReversal, Reversal, checks, identity, register, resolvers
from meft_runner.config.directory import config_directory
from meft_runner.methods.variants import variant_of
from meft_runner.run import composing  # noqa: F401  # resolvers that conf/ reads
from tests.helpers import processes as sweeps
from tests.helpers.commands import ended
from tests.helpers.folders import make_image_rows, make_model_folder, make_opt_folder, write_lines

FILES = sorted(Path(config_directory(), "experiment").glob("[!_]*.yaml"))
NAMES = [file.stem for file in FILES]
OF_THE_ISSUE = {
    "glue_bert_base", "glue_roberta_large", "glue_bart_large", "qa_opt_1b3", "qa_opt_6b7", "image_vit",
    "init_lora", "init_ia3", "reversal_error", "reversible_layers", "scale_factors", "starting_point",
}  # fmt: skip
MEFT = ("meft1", "meft2", "meft3", "meft1_start", "meft2_start", "meft3_start")
IMAGES = ("image_vit", "cifar_vit")
ITS_OWN_MODEL = ("qa_opt_1b3", "qa_opt_6b7", "arc_random_opt", "small_llama", *IMAGES)
OWN_WORDS = {name: ["backbone=vit", "task=cifar10"] for name in IMAGES} | {
    "small_llama": ["backbone=smollm2_135m", "task=instruct"]
}


def cells(arguments):
    """Returns the overrides of some runs of a sweep, spread over all of them so that every value is met."""
    found = all_cells(arguments)
    return found[:: max(1, len(found) // 3)] + found[-1:]


def all_cells(arguments):
    """Returns the overrides of each run of a sweep."""
    config = compose("config", overrides=arguments, return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    overrides = [*(f"{key}={value}" for key, value in config.hydra.sweeper.params.items()), *arguments]
    (found,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    return found


def settings_of(arguments, *having):
    """Returns the settings of those runs of a sweep whose overrides have these among them."""
    register()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        chosen = [cell for cell in all_cells(arguments) if set(having) <= set(cell)]
        return [checks.parse(compose("config", overrides=cell)) for cell in chosen]


STARTING = ["experiment=starting_point", "study=start"]
SCALES, MUS = ("1/10", "1/32", "1/100", "1/256"), ("1", "1-scale")


def starting_points(scales, mus):
    return {
        key for scale in scales for mu in mus
        for key in (
            ("lora", scale, mu), ("meft1_start", scale, "1", mu), ("meft2_start", "1", scale, mu),
            ("meft3_start", scale, scale, mu),
        )
    }  # fmt: skip


def met(runs):
    return {(run.method.name, *(str(scale) for scale, _ in run.method.halves), run.method.mu) for run in runs}


def test_starting_points_put_lambda_where_the_coupling_is_scaled():
    runs = settings_of(STARTING, "method.mu=1-scale", "level=0.00390625")
    assert met(runs) == starting_points(["1/256"], ["1-scale"])
    lora, *meft = runs
    assert lora.method.reversal is PeftReversal.exact
    for run in meft:
        assert (run.method.merge_weights, run.method.zero_start) == (variant_of(run.method).output, True)


@pytest.mark.slow
def test_starting_points_are_all_couplings_at_all_scales_with_both_means():
    runs = settings_of(STARTING)
    assert met(runs) == starting_points(SCALES, MUS)
    assert len({identity(run) for run in runs}) == len(runs) == 32


@pytest.mark.parametrize(
    ("task", "rows", "length", "epochs", "batch"),
    [
        ("cola", 2000, 64, 8, 16), ("sst2", 6000, 64, 3, 32), ("rte", None, 96, 4, 16), ("qqp", 4000, 64, 3, 32),
        *(pytest.param(task, 4000, 64, 3, 32, marks=pytest.mark.slow) for task in ("mnli", "qnli")),
    ],
)  # fmt: skip
@pytest.mark.thin(4)
def test_scores_are_of_each_task_with_its_own_rows_and_epochs(task, rows, length, epochs, batch, tmp_path):
    words = ["experiment=scores", "task.data_dir=/rows/${task.name}", f"task={task}", "method=ia3", "seeds=null"]
    runs = []
    assert ended([*words, f"output_dir={tmp_path}"], runs) == (0, "")
    for run in runs:
        training = run.training
        assert (run.task.max_train_rows, run.task.max_length, run.task.data_dir) == (rows, length, f"/rows/{task}")
        assert (training.epochs, training.batch_size, training.precision.name) == (epochs, batch, "bf16")
    assert [run.training.learning_rate / run.method.learning_rate for run in runs] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["experiment=scores", "task=rte"], ["experiment=cifar_vit"]])
def test_scores_are_of_methods_with_and_without_reversal(words):
    runs = settings_of(words, "level=0")
    assert [(run.method.name, getattr(run.method, "reversal", None)) for run in runs] == [
        ("full", None), ("lora", PeftReversal.off), ("lora", PeftReversal.exact), ("ia3", PeftReversal.off),
        ("ia3", PeftReversal.exact), *((name, Reversal.exact) for name in MEFT if name != "meft2_start"),
    ]  # fmt: skip
    assert len({identity(run) for run in runs}) == len(runs) == 10


def test_the_papers_experiments_are_there():
    assert set(NAMES) >= OF_THE_ISSUE


@pytest.mark.parametrize("scale", [[], pytest.param(["scale=smoke"], marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.thin(6)
def test_it_composes(name, scale, monkeypatch):
    register()
    own = OWN_WORDS.get(name, ["backbone=opt_125m", "task=arc_easy"])
    arguments = [f"experiment={name}", *scale, *(own if scale and name in ITS_OWN_MODEL else []), "output_dir=x"]
    with initialize_config_dir(config_directory(), version_base="1.3"):
        for cell in cells(arguments):
            parsed = checks.parse(compose("config", overrides=cell))
            rate, own = parsed.training.learning_rate, parsed.method.learning_rate
            assert round(rate / own, 6) in (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 2, 3, 5, 10), "of another method"
            if parsed.task.name in resolvers._SMALL and name == "glue_bert_base":
                assert parsed.training.epochs in (20, 40)
            if name == "reversible_layers":
                assert parsed.method.frozen_layers < parsed.backbone.config["num_hidden_layers"]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_it_opens_with_its_command_and_its_cost(file):
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any(f"meft-run experiment={file.stem}" in line for line in head)
    assert any("Rough cost" in line for line in head)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OF_THE_ISSUE))
def test_it_runs_at_scale_smoke(name, tmp_path):
    own = []
    if name == "image_vit":
        data = make_image_rows(tmp_path / "rows")
        own = [f"backbone.path={make_model_folder(tmp_path / 'vit', 'vit')}", "backbone=vit", "task=images"]
        own += [f"task.data_dir={data}"]
    elif name in ITS_OWN_MODEL:
        rows = tmp_path / "rows"
        rows.mkdir()
        made = [
            {"question": f"What is {i} and one?", "choices": {"text": [str(i + 1), str(i)], "label": ["A", "B"]},
             "answerKey": "A"} for i in range(12)
        ]  # fmt: skip
        for split in ("train", "validation"):
            write_lines(rows / f"{split}.jsonl", made)
        model = make_opt_folder(tmp_path / "opt", [row["question"] for row in made])
        own = ["backbone=opt_125m", f"backbone.path={model}", "task=arc_easy", f"task.data_dir={rows}"]
    command = [f"experiment={name}", "scale=smoke", *own]
    sweeps.finish(sweeps.start(command, tmp_path / "runs"))
    found = sweeps.records(tmp_path / "runs").values()
    assert found
    assert all(record["status"] == "complete" for record in found)
    subprocess.run(
        [sys.executable, "-c", "from meft_runner.cli import meft_tables; meft_tables()", f"output_dir={tmp_path}/runs",
         f"tables_dir={tmp_path}/tables", "report=true"], check=True,
    )  # fmt: skip
    assert (tmp_path / "tables" / "report.html").is_file()
