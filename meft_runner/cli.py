"""The commands: meft-run, meft-memory and meft-tables."""

import gc
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from meft_runner import checks, resolvers, runs, settings, sweep  # noqa: F401  # resolvers register themselves
from meft_runner.config_errors import explain
from meft_runner.errors import UserError
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
    sys.argv[1:] = _sweepable(sys.argv[1:])
    codes, sweep.SweepNote.config = [0], None

    def run_one(config: DictConfig) -> None:
        codes.append(_guarded(lambda: _run_one(config), in_sweep=_in_sweep()))

    main = hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")(run_one)
    codes.append(_guarded(main))
    if sweep.SweepNote.config is not None and codes[-1] == 0:  # it came to its end, whatever became of its runs
        codes.append(_guarded(lambda: _after_sweep(sweep.SweepNote.config)))
    sys.exit(max(codes))


def meft_tables() -> None:
    """Entry point of `meft-tables`: makes tables, figures and a report from a folder of records."""
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
    parsed = sweep.repeated(checks.parse(config), HydraConfig.get().overrides.task)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are told in the error's one line
    directory = runs.run_directory(parsed)
    reason = runs.why_not_to_run(parsed, _in_sweep())
    if reason is not None:
        print(f"{directory.name} {reason}")
        if _in_sweep():
            return
    from meft_runner import experiment, processes  # torch and transformers take seconds to import
    from meft_runner.records.reversal_study import reversal_table
    from meft_runner.records.tables import print_table, run_table

    try:
        record = experiment.run(parsed)
    except runs.BusyError as error:
        if not _in_sweep():
            raise
        print(error)
        return
    if processes.is_main():
        print_table(run_table(record) if parsed.study is None else reversal_table([record]), title=directory.name)


def _after_sweep(config: DictConfig) -> int:
    """Lists what failed, and runs the best settings over the seeds that were asked for."""
    from meft_runner.records.record import read_complete_records
    from meft_runner.records.selection import one_of_each

    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes tells for all
        return 0
    if config.seeds and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "seeds: cannot follow a sweep under torchrun. Start them with -m from_record=IDENTITY seed=2,3."
        )
    HydraConfig.instance().set_config(config)  # the folder may be named by the experiment
    folder = Path(config.output_dir)
    failed = sweep.failures(folder)
    if failed:
        print(f"{len(failed)} runs in {folder} failed; retry_failed=true runs them again:", file=sys.stderr)
        print(*(f"  {name}: {error}" for name, error in failed.items()), sep="\n", file=sys.stderr)
    best = one_of_each(read_complete_records(folder)) if config.seeds else []
    return max(1 if failed else 0, sweep.run_seeds(best, config.seeds, folder, sys.argv[1:]) if best else 0)


def _in_sweep() -> bool:
    return HydraConfig.get().mode is RunMode.MULTIRUN


def _make_tables() -> None:
    asked = checks.parse_tables(sys.argv[1:])
    from meft_runner.records.overview import make_overview

    make_overview(asked)


def _sweepable(arguments: list[str]) -> list[str]:
    """Makes settings of a group part of a sweep over that group.

    Hydra first composes a sweep without its swept overrides; `-m method=full,lora method.checkpointing=true`
    would then be held against the default method, which has no such setting. As choices of one value
    they are left out there too.
    """
    if not {"-m", "--multirun"} & set(arguments) and not any(text.startswith("experiment=") for text in arguments):
        return arguments
    setting = re.compile(r"((?:backbone|task|method)\.[\w.]+)=([^,()]+|\[[^()]*\])")
    matches = [(argument, setting.fullmatch(argument)) for argument in arguments]
    return [f"{match[1]}=choice({match[2]})" if match else argument for argument, match in matches]


def _guarded(main: Callable[[], Any], in_sweep: bool = False) -> int:
    """Runs a command and returns its exit code: 0 done, 2 the user's mistake, 1 anything else.

    Args:
        main: returns an exit code of its own, or nothing.
        in_sweep: whether other runs follow; then an error of any kind is printed and leaves them.
    """
    try:
        return main() or 0
    except Exception as error:
        message = explain(error)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)
            return 2
        if not in_sweep:
            raise
        traceback.print_exc()
    except KeyboardInterrupt:
        if in_sweep:
            raise  # ends the sweep
        print("interrupted: the same command goes on from the last checkpoint.", file=sys.stderr)
    return 1
