"""`meft-run`: one run, or a sweep and what follows it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from meft_runner.config.directory import config_directory
from meft_runner.config.fields import expanded
from meft_runner.config.torchrun import process_count, rank
from meft_runner.errors import UserError, first_line
from meft_runner.run.command import guarded, run_one, settings_of
from meft_runner.sweeps.asked import CommandLine, for_the_sweeper, read_arguments, whole, with_space
from meft_runner.sweeps.cell import run_cell
from meft_runner.sweeps.outcomes import Outcome, SweepFolder, by_folder
from meft_runner.sweeps.search import run_searches
from meft_runner.sweeps.seeds import seed_arguments
from meft_runner.sweeps.signals import stopping_together


def run(arguments: Sequence[str]) -> int:
    """Runs what the arguments of `meft-run` ask for and returns the exit code.

    Raises:
        UserError: the arguments do not fit.
        HydraException: a name or a setting is not known.
    """
    # Hydra would print its own errors in its own form and exit with 1; raised, they can be explained.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = with_space(arguments)
    line = read_arguments(arguments)
    if line.informs:
        typed = [str(override.input_line) for override in line.overrides]
        return _run_hydra([*(text for text in arguments if text not in typed), *typed])  # Hydra reads its options first
    config = whole(line)
    HydraConfig.instance().set_config(config)
    if config.hydra.mode is RunMode.MULTIRUN:
        return _sweep_and_seeds(line, config)
    return _single(line, config)


def _single(line: CommandLine, config: DictConfig) -> int:
    with open_dict(config):
        del config["hydra"]
    run_one(settings_of(config, [str(override.input_line) for override in line.overrides]), in_sweep=False)
    return 0


def _sweep_and_seeds(line: CommandLine, config: DictConfig) -> int:
    """Runs a sweep and, where it was asked for, the best of its settings over seeds."""
    if config.seeds and process_count() > 1:
        raise UserError(
            "seeds: cannot follow a sweep under torchrun. Start them with -m from_record=IDENTITY seed=2,3."
        )
    output_dir = Path(expanded("output_dir", config.output_dir))
    if config.hpo is not None:
        code, tried, ended = run_searches(line, config, lambda overrides: _sweep(overrides, output_dir))
        code = max(code, _tell(tried))
    else:
        code, ended = _sweep(for_the_sweeper(line.overrides), output_dir)
        code = max(code, _tell(ended))
    if not config.seeds or rank() != 0:
        return code
    return max(code, _seeds(ended, config.seeds, line))


def _seeds(ended: Sequence[Outcome], seeds: Sequence[int], line: CommandLine) -> int:
    """Runs the best settings in each folder of a sweep over seeds; returns the exit code."""
    code = 0
    for output_dir, outcomes in by_folder(ended).items():
        further = seed_arguments(outcomes, seeds, output_dir, line.overrides)
        if further:
            stopped, of_seeds = _sweep(further, output_dir)
            code = max(code, stopped, _tell(of_seeds))
            if stopped:
                break
    return code


def _sweep(overrides: Sequence[str], output_dir: Path) -> tuple[int, list[Outcome]]:
    """Runs every run of a sweep; returns the exit code and what became of each, nothing where it was stopped."""
    with SweepFolder(output_dir) as folder:
        with stopping_together():
            code = guarded(lambda: _launch(overrides, folder))
        ended = folder.outcomes() if code == 0 else []
        folder.kept = folder.kept or any(outcome.error is not None for outcome in ended)
    return code, ended


def _tell(ended: Sequence[Outcome]) -> int:
    """Tells which runs failed, and why; returns the exit code that they make."""
    failed = [outcome for outcome in ended if outcome.error is not None]
    if failed:
        print(f"{len(failed)} of {len(ended)} runs failed; retry_failed=true runs them again:", file=sys.stderr)
        for error, names in _by_reason(failed).items():
            print(f"  {names[0] if len(names) == 1 else f'{len(names)} runs'}: {error}", file=sys.stderr)
    return max([0, *(outcome.code for outcome in failed)])


def _by_reason(failed: Sequence[Outcome]) -> dict[str | None, list[str]]:
    """Returns the names of runs that failed for the same reason, by that reason."""
    names: dict[str | None, list[str]] = {}
    for outcome in failed:
        names.setdefault(outcome.error, []).append(outcome.name)
    return names


def _launch(overrides: Sequence[str], folder: SweepFolder) -> int:
    """Starts the runs of a sweep.

    Raises:
        UserError: the launcher cannot start them, or has lost one; what a run itself raises is noted as its outcome.
    """
    try:
        return _run_hydra(["--multirun", *overrides, folder.override])
    except (UserError, HydraException, OmegaConfBaseException, OSError):
        raise
    except Exception as error:
        launcher = HydraConfig.get().runtime.choices.get("launcher")
        if launcher is None:
            raise  # in this process there is nothing between Hydra and the runs that could fail
        folder.kept = any(path.is_dir() for path in folder.path.iterdir())
        logs = f"see the logs in {folder.path}, " if folder.kept else ""
        raise UserError(
            f"launcher={launcher}: its runs could not be started, or one was lost ({first_line(error)}). "
            f"Mend hydra.launcher.*, {logs}or leave the launcher out."
        ) from error


def _run_hydra(arguments: Sequence[str]) -> int:
    """Lets Hydra compose and launch what the arguments say."""
    sys.argv[1:] = arguments
    hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")(run_cell)()
    return 0
