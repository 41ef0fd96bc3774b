"""A run as a command: from a composed config to a trained run, and what is printed where that fails."""

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from meft_runner import __version__
from meft_runner.config import Settings, register
from meft_runner.config.checks import check_environment, check_processes, parse
from meft_runner.config.mistakes import explain, naming_paths
from meft_runner.config.overrides import typed_keys
from meft_runner.config.quoting import assignment
from meft_runner.config.torchrun import process_count, rank
from meft_runner.records.schema import CompleteRecord, Record
from meft_runner.run import folder
from meft_runner.run.earlier import repeated
from meft_runner.run.origin import with_origin
from meft_runner.run.output import complaint, lasting_output, open_closed_streams
from meft_runner.run.quiet import quiet_imports

_VERBOSE = ("-v", "--verbose")
_OUR_BUG = "this is an error of meft-runner's own; please report it with the command and the lines below:"


def end_process(command: Callable[[Sequence[str]], int | None], help_text: str | None = None) -> None:
    """Ends the process with the exit code of a command; `help_text` is None where Hydra prints it."""
    open_closed_streams()
    typed = sys.argv[1:]
    arguments = [argument for argument in typed if argument not in _VERBOSE]
    if arguments != typed:
        os.environ["MEFT_VERBOSE"] = "1"  # also for the processes of a launcher
    quiet_imports()
    register()
    if "--version" in arguments:
        text = f"meft-runner {__version__}"
    elif help_text is not None and {"-h", "--help"} & set(arguments):
        text = help_text
    else:
        sys.exit(guarded(lambda: command(arguments)))
    sys.exit(guarded(lambda: print(text)))


def guarded(main: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code: 0 done, 2 the user's mistake, 1 anything else; or its own."""
    with lasting_output() as output:
        code = _guarded(main)
    if output.error is None:
        return code
    message = complaint(output.error)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
    return code or (1 if message is None else 2)


def _guarded(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except Exception as error:
        return report_error(error)[0]
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint, if there is one yet.", file=sys.stderr)
        return 1


def report_error(error: Exception) -> tuple[int, str]:
    """Prints an error.

    Returns:
        The exit code that it makes, 2 for the user's mistake and 1 for anything else, and the error in one line.
    """
    message = explain(error)
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
        return 2, message
    print(_OUR_BUG, file=sys.stderr)
    traceback.print_exception(error)
    return 1, f"{type(error).__name__}: {error}"


def settings_of(config: DictConfig, overrides: Sequence[str]) -> Settings:
    """Returns the checked settings of a run, from what Hydra composed and what was typed for it.

    Raises:
        UserError: a value does not fit, torchrun has started another number of processes, or the
            environment does not fit.
    """
    register()  # in the process of a launcher nobody has yet
    of_experiment = HydraConfig.get().sweeper.params or {}
    settings = with_origin(repeated(parse(config, typed_keys(overrides, of_experiment)), overrides))
    check_processes(settings, process_count())
    check_environment()
    return settings


def run_one(settings: Settings, in_sweep: bool) -> None:
    """Trains a run and prints its table, or says why there is nothing to do.

    Raises:
        UserError: something that the user asked for or provided does not fit.
        InterruptedRunError: SIGTERM or Ctrl-C came.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    directory = folder.run_directory(settings)
    if process_count() > 1:  # the main one decides: others may look before it has written the record
        from meft_runner.run import processes

        reason = processes.by_main(lambda: folder.why_not_to_run(settings, in_sweep))
    else:
        reason = folder.why_not_to_run(settings, in_sweep)
    if reason is not None:
        print(f"{directory.name} {reason}")
        record = None if in_sweep else folder.record_of(settings)
    else:
        record = _train(settings)
    if isinstance(record, CompleteRecord) and rank() == 0:
        _print_end(record, directory, in_sweep)


def _train(settings: Settings) -> Record:
    from meft_runner.run import interruption, lifecycle  # torch and transformers take seconds to import

    if interruption.Interruption.stopped:
        raise interruption.InterruptedRunError  # of this process of a launcher, by a signal to an earlier run
    with naming_paths(settings):
        return lifecycle.run(settings)


def _print_end(record: CompleteRecord, directory: Path, in_sweep: bool) -> None:
    """Prints the table of a run and, where it is not one of many, what may be typed next."""
    from meft_runner.run.console import print_table, run_table  # pandas takes half a second to import

    print_table(run_table(record), title=directory.name)
    if not in_sweep:
        folder = str(directory.parent)
        seeds = [assignment("from_record", record.identity), "seed=2,3", assignment("output_dir", folder)]
        what = "record and trained weights:" if record.scores else "record:"
        print(f"{what:<27} {directory}")
        print(f"beside the other runs:      {shlex.join(['meft-tables', f'output_dir={folder}'])}")
        print(f"with other seeds:           {shlex.join(['meft-run', '-m', *seeds])}")
