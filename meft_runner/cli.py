"""The commands: meft-run, meft-memory and meft-tables."""

import gc
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from meft_runner import checks, settings
from meft_runner.compatibility import help_text
from meft_runner.config_errors import explain
from meft_runner.help_texts import MEMORY_HELP


def config_directory() -> str:
    """Returns the folder of conf/: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parent
    return str(next(folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir()))


def meft_run() -> None:
    """Entry point of `meft-run`: trains, records and prints a run, or each run of a sweep with -m."""
    # Hydra would print its own errors in its own form and exit with 1; raised, they can be explained.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    settings.register()
    OmegaConf.register_new_resolver("meft_compatibility", help_text, replace=True)  # for the help text
    sys.argv[1:] = _sweepable(sys.argv[1:])
    codes = [0]

    def run_one(config: DictConfig) -> None:
        codes.append(_guarded(lambda: _run_one(config)))  # a mistake in one run of a sweep leaves the others

    main = hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")(run_one)
    sys.exit(max(_guarded(main), *codes))


def meft_tables() -> None:
    """Entry point of `meft-tables`: makes the score and memory tables from a folder of records."""
    sys.exit(_guarded(_make_tables))


def meft_memory() -> None:
    """Entry point of `meft-memory`: predicts, and measures where asked, what training steps need."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    settings.register()
    sys.exit(_guarded(_report_memory))


def _report_memory() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(MEMORY_HELP)
        return
    asked, overrides = checks.parse_memory(sys.argv[1:])
    gc.disable()  # a fifth of the time of these imports goes to looking for garbage among what stays
    from meft_runner.memory_report import report

    gc.freeze()
    gc.enable()
    report(asked, overrides, config_directory())


def _run_one(config: DictConfig) -> None:
    parsed = checks.parse(config)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are told in the error's one line
    from meft_runner import experiment  # torch and transformers take seconds to import
    from meft_runner.records.tables import print_table, run_table

    record = experiment.run(parsed)
    print_table(run_table(record), title=experiment.run_directory(parsed).name)


def _make_tables() -> None:
    from meft_runner.records.record import read_complete_records
    from meft_runner.records.tables import brief, loss_table, memory_table, print_table, score_table, write_tables

    asked = checks.parse_tables(sys.argv[1:])
    records = read_complete_records(Path(asked.output_dir))
    tables = {"scores": score_table(records), "memory": memory_table(records), "training_loss": loss_table(records)}
    print_table(tables["scores"], title="best development scores (%)")
    print_table(brief(tables["memory"]), title="memory of a training step")
    if asked.tables_dir is not None:
        write_tables(tables, Path(asked.tables_dir))


def _sweepable(arguments: list[str]) -> list[str]:
    """Makes settings of a group part of a sweep over that group.

    Hydra first composes a sweep without its swept overrides; `-m method=full,lora method.checkpointing=true`
    would then be held against the default method, which has no such setting. As choices of one value
    they are left out there too.
    """
    if "-m" not in arguments and "--multirun" not in arguments:
        return arguments
    setting = re.compile(r"((?:backbone|task|method)\.[\w.]+)=([^,()]+|\[[^()]*\])")
    matches = [(argument, setting.fullmatch(argument)) for argument in arguments]
    return [f"{match[1]}=choice({match[2]})" if match else argument for argument, match in matches]


def _guarded(main: Callable[[], Any]) -> int:
    """Runs a command and returns its exit code: 0 done, 2 the user's mistake, 1 anything else."""
    try:
        main()
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    return 0
