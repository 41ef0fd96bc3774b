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

from meft_runner import config as settings
from meft_runner.config import checks, resolvers
from meft_runner.config.directory import config_directory
from meft_runner.config.mistakes import explain
from meft_runner.errors import UserError
from meft_runner.memory_report.help_text import MEMORY_HELP
from meft_runner.run import folder as runs
from meft_runner.sweeps import outcomes as sweep
from meft_runner.sweeps.signals import stopping_together


def meft_run() -> None:
    """Entry point of `meft-run`: trains, records and prints a run, or each run of a sweep with -m."""
    # Hydra would print its own errors in its own form and exit with 1; raised, they can be explained.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    settings.register()
    sys.exit(_launch(sys.argv[1:]))


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
    from meft_runner.memory_report.report import report

    gc.freeze()
    gc.enable()
    report(asked, overrides, config_directory())


def _launch(arguments: list[str]) -> int:
    """Runs what the arguments ask for, and after a sweep what it asked for at its end; returns the exit code."""
    sys.argv[1:] = _sweepable(arguments)
    codes, sweep.SweepNote.config = [0], None

    def run_one(config: DictConfig) -> None:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            _run_of_sweep(config)
        else:
            codes.append(_guarded(lambda: _run_one(_parse(config), in_sweep=False)))

    main = hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")(run_one)
    with stopping_together():
        codes.append(_guarded(main))
    config = sweep.SweepNote.config
    if config is not None:
        HydraConfig.instance().set_config(config)  # the folder may be named by the experiment
        if codes[-1] == 0:  # it came to its end, whatever became of its runs
            codes.append(_guarded(lambda: _after_sweep(config, sys.argv[1:])))
        else:
            sweep.forget(Path(config.hydra.sweep.dir))
    return max(codes)


def _run_of_sweep(config: DictConfig) -> None:
    """Runs one of many: what goes wrong is told and noted, and leaves the others."""
    job = HydraConfig.get()
    outcome = sweep.Outcome(" ".join(job.overrides.task))
    try:
        parsed = _parse(config)
        outcome.name = runs.run_directory(parsed).name
        _run_one(parsed, in_sweep=True)
    except runs.BusyError as error:
        print(error)
    except Exception as error:
        outcome.code, outcome.error = _tell(error)
    if _rank() == 0:
        sweep.note(outcome, Path(job.sweep.dir), job.job.num)


def _parse(config: DictConfig) -> settings.Settings:
    parsed = sweep.repeated(checks.parse(config), HydraConfig.get().overrides.task)
    checks.check_processes(parsed, _processes())
    return parsed


def _run_one(parsed: settings.Settings, in_sweep: bool) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are told in the error's one line
    directory = runs.run_directory(parsed)
    reason = runs.why_not_to_run(parsed, in_sweep)
    if _processes() > 1:  # the main one decides: others may look before it has written the record
        from meft_runner.run import processes

        reason = processes.agreed(reason)
    if reason is not None:
        print(f"{directory.name} {reason}")
        if in_sweep:
            return
    from meft_runner.reports.reversal_study import reversal_table
    from meft_runner.run import (
        interruption,
        processes,  # torch and transformers take seconds to import
    )
    from meft_runner.run import lifecycle as experiment
    from meft_runner.run.console import print_table, run_table

    if interruption.Interruption.stopped:
        raise interruption.InterruptedRunError  # of this process of a launcher, by a signal to an earlier run
    record = experiment.run(parsed)
    if processes.is_main():
        print_table(run_table(record) if parsed.study is None else reversal_table([record]), title=directory.name)


def _after_sweep(config: DictConfig, arguments: list[str]) -> int:
    """Lists what failed, and runs the best settings over the seeds that were asked for."""
    folder, sweep_dir = Path(config.output_dir), Path(config.hydra.sweep.dir)
    ended = sweep.outcomes(sweep_dir, folder)
    failed = [outcome for outcome in ended if outcome.error is not None]
    if failed:
        print(f"{len(failed)} of {len(ended)} runs failed; retry_failed=true runs them again:", file=sys.stderr)
        print(*(f"  {outcome.name}: {outcome.error}" for outcome in failed), sep="\n", file=sys.stderr)
    else:
        sweep.forget(sweep_dir)
    code = max((outcome.code for outcome in failed), default=0)
    if not config.seeds or _rank() != 0:
        return code
    if _processes() > 1:
        raise UserError(
            "seeds: cannot follow a sweep under torchrun. Start them with -m from_record=IDENTITY seed=2,3."
        )
    from meft_runner.reports.selection import one_of_each

    best = one_of_each(sweep.complete_records(ended, folder))
    return max(code, _launch(sweep.seed_arguments(best, config.seeds, folder, arguments)) if best else 0)


def _rank() -> int:
    """Returns which of torchrun's processes this is; the first tells for all."""
    return int(os.environ.get("RANK", "0"))


def _processes() -> int:
    """Returns how many processes train together."""
    return resolvers.processes() or 1


def _make_tables() -> None:
    asked = checks.parse_tables(sys.argv[1:])
    from meft_runner.reports.overview import make_overview

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


def _guarded(main: Callable[[], Any]) -> int:
    """Runs a command, which returns an exit code of its own or nothing, and returns its exit code."""
    try:
        return main() or 0
    except Exception as error:
        return _tell(error)[0]
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint.", file=sys.stderr)
        return 1


def _tell(error: Exception) -> tuple[int, str]:
    """Prints an error; returns the exit code it makes, 2 for the user's mistake and 1 for anything else, and a line."""
    message = explain(error)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
        return 2, message
    traceback.print_exception(error)
    return 1, f"{type(error).__name__}: {error}"
