"""A search with Optuna: trials are asked for, run as a sweep's runs are, and told; then the best settings are printed.

Optuna is asked in this process alone. The search's own file has what was tried, the runs' records what came of it: so
there is no storage that runs in other processes or on other machines would have to reach, and none to mend.
"""

import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig

from meft_runner.config.overrides import read_overrides
from meft_runner.config.quoting import assignment, written
from meft_runner.config.torchrun import process_count
from meft_runner.errors import UserError
from meft_runner.run.folder import claimed, wait_for
from meft_runner.sweeps.asked import CommandLine, for_the_sweeper
from meft_runner.sweeps.outcomes import Outcome
from meft_runner.sweeps.study import Study, studies_of
from meft_runner.sweeps.tried import Tried, limits

# Starts runs with these settings and tells what became of each; the code is not 0 where they were stopped.
Launch = Callable[[Sequence[str]], tuple[int, list[Outcome]]]
_HOPELESS = 3  # trials that fail before any ends, after which a search gives up
_MOST_STARTS = 2  # of one trial by one command
_NOT_OF_A_RUN = ("hpo", "seeds", "launcher", "retry_failed")


def run_searches(line: CommandLine, config: DictConfig, launch: Launch) -> tuple[int, list[Outcome], list[Outcome]]:
    """Runs a search for each combination of what a command sweeps over.

    Args:
        line: the command.
        config: what holds for it as a whole.
        launch: starts runs.

    Returns:
        The exit code of what stopped it, 0 for nothing; what became of all trials; and the best run of each search,
        none where it was stopped.

    Raises:
        UserError: Optuna is not installed, or something was asked for that cannot be searched.
    """
    _check(line)
    logging.getLogger("hydra").setLevel(logging.WARNING)  # its launchers tell of each start, and a trial is one
    at_once = _at_once(config)
    studies = list(studies_of(line.overrides))
    tried, best = list[Outcome](), list[Outcome]()
    for study in studies:
        with claimed(study.directory):
            study.check()
            code = _run(study, at_once, launch)
            tried += _outcomes(study)
            if code:
                return code, tried, []
            best += _best(study)
    return 0, tried, best


def _check(line: CommandLine) -> None:
    if find_spec("optuna") is None:
        raise UserError("hpo=optuna: not installed. pip install 'meft-runner[hpo]'.")
    if process_count() > 1:
        raise UserError("hpo: cannot search under torchrun. Search in one process, then train the best settings so.")
    for override in line.overrides:
        if override.key_or_group in ("experiment", "from_record"):
            raise UserError(
                f"{override.input_line}: has settings of its own, which a search would change. Leave out one."
            )


def _at_once(config: DictConfig) -> int:
    """Returns how many trials are asked for together."""
    if config.hpo.at_once is not None:
        return int(config.hpo.at_once)
    jobs = config.hydra.launcher.get("n_jobs", 1)  # joblib's
    return (jobs if isinstance(jobs, int) and jobs > 0 else os.cpu_count() or 1) if jobs else 1


def _run(study: Study, at_once: int, launch: Launch) -> int:
    """Runs the trials of a search that are still to be run; returns the code of what stopped it."""
    asked = study.asked
    while True:
        known = len(study.search.trials)
        numbers = [number for number in range(known) if study.is_open(number)][:at_once]
        if not numbers and known < asked.trials:
            study.add(_next(study, min(at_once, asked.trials - known)))
            study.check(known)  # some may be runs that are there already
            numbers = [number for number in range(known, len(study.search.trials)) if study.is_open(number)]
        elif not numbers:
            return 0
        code = _launch(study, numbers, launch) if numbers else 0
        if code:
            return code
        if _is_hopeless(study):
            print(f"hpo: the first {_HOPELESS} trials failed, so the search ends here.", file=sys.stderr)
            return 0


def _next(study: Study, count: int) -> list[dict[str, Any]]:
    """Returns the settings of the next trials; the first one is of the settings as they stand."""
    from meft_runner.sweeps.suggesting import suggest  # Optuna is an extra, and takes half a second to import

    tried = [study.tried(number) for number in range(len(study.search.trials))]
    standing = None if tried else study.as_it_stands()
    first = [] if standing is None else [standing]
    tried += [Tried(values, "running") for values in first]
    return [*first, *suggest(study.space, tried, study.asked.sampler_seed, count - len(first))]


def _launch(study: Study, numbers: Sequence[int], launch: Launch) -> int:
    """Runs trials, each from where it was left; returns the code of what stopped them."""
    for number in numbers:
        print(f"trial {number + 1} of {_total(study)}: {' '.join(_typed(study, number))}")
        study.launched[number] = study.launched.get(number, 0) + 1
    told = ",".join(_told(study, number) for number in numbers)
    code, ended = launch([*for_the_sweeper(read_overrides(study.overrides)), f"++hpo.trial=choice({told})"])
    if code:
        return code
    for number, outcome in zip(numbers, ended, strict=True):
        _settle(study, number, outcome)
    return 0


def _told(study: Study, number: int) -> str:
    """Returns what the run of a trial is told, as the value of a setting."""
    asked = study.asked
    before = [study.tried(earlier) for earlier in range(number)] if asked.pruner else []
    pruned_below = limits(before, asked.startup_trials, asked.warmup_epochs) if asked.pruner else []
    settings = ",".join(f"{key}:{written(value)}" for key, value in study.search.trials[number].settings.items())
    return f"{{number:{number},settings:{{{settings}}},pruned_below:{written(pruned_below)}}}"


def _settle(study: Study, number: int, outcome: Outcome) -> None:
    """Notes what became of a trial that was started; one that another process is running is waited for."""
    if outcome.error is not None:
        study.failures[number] = outcome
    elif study.is_open(number) and (folder := study.folder_of(number)) is not None:
        wait_for(folder)
        if study.is_open(number) and study.launched[number] >= _MOST_STARTS:
            study.failures[number] = Outcome(outcome.typed, str(folder), "was left unfinished by another process", 1)
    print(f"trial {number + 1} of {_total(study)}: {study.tried(number)}")


def _is_hopeless(study: Study) -> bool:
    statuses = [study.tried(number).status for number in range(len(study.search.trials))]
    return statuses.count("failed") == len(statuses) >= _HOPELESS


def _outcomes(study: Study) -> list[Outcome]:
    """Returns what became of all trials, now or before."""
    found = []
    for number, trial in enumerate(study.search.trials):
        folder, record = study.folder_of(number), study.record_of(number)
        outcome = Outcome(
            f"trial {number + 1}", None if folder is None else str(folder), trial.error, 2 if trial.error else 0
        )
        if record is not None and record.status == "failed":
            outcome.error, outcome.code = record.error, 1
        found.append(study.failures.get(number, outcome))
    return found


def _best(study: Study) -> list[Outcome]:
    """Prints the best settings of a search as a command to type, and returns its run; none where none is complete."""
    trials = [study.tried(number) for number in range(len(study.search.trials))]
    complete = [number for number, one in enumerate(trials) if one.status == "complete" and one.score is not None]
    counts = Counter(one.status for one in trials)
    made = ", ".join(f"{counts[status]} {status}" for status in ("complete", "pruned", "failed") if counts[status])
    print(f"search of {study.search.task} with {study.search.method}: {len(trials)} trials, {made}")
    if not complete:
        return []
    best = max(complete, key=lambda number: trials[number].score or 0)  # the first of equal ones
    folder = study.folder_of(best)
    assert folder is not None
    kept = [
        str(one.input_line)
        for one in read_overrides(study.overrides)
        if one.key_or_group.partition(".")[0] not in _NOT_OF_A_RUN and not one.key_or_group.startswith("hydra.")
    ]
    print(f"{f'best, trial {best + 1}:':<27} {trials[best].metric} {trials[best].score:.4f}, {folder}")
    print(f"{'its settings:':<27} {shlex.join(['meft-run', *kept, *_typed(study, best)])}")
    print(f"{'beside the other trials:':<27} meft-tables {shlex.quote(f'output_dir={folder.parent}')}")
    return [Outcome(f"trial {best + 1}", str(folder))]


def _total(study: Study) -> int:
    return max(study.asked.trials, len(study.search.trials))


def _typed(study: Study, number: int) -> list[str]:
    """Returns the settings of a trial as they are typed."""
    return [assignment(key, value) for key, value in study.search.trials[number].settings.items()]
