"""The best settings of a sweep over more seeds."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from meft_runner.config.quoting import quoted
from meft_runner.records.record import read_complete_records
from meft_runner.records.schema import CompleteRecord
from meft_runner.run.folder import wait_for
from meft_runner.sweeps.outcomes import Outcome, record_of

_KEPT = ("logger", "retry_failed", "launcher")  # settings that launch and follow runs


def seed_arguments(
    ended: Sequence[Outcome], seeds: Sequence[int], output_dir: Path, overrides: Sequence[Override]
) -> list[str]:
    """Returns the settings of a sweep that runs the best of a sweep's settings over seeds; none where it has no best.

    Of what was typed for the sweep, what launches and follows runs is taken over.
    """
    from meft_runner.reports.selection import one_of_each  # imports pandas, which most sweeps do not need

    best = one_of_each(complete_records(ended))
    if not best:
        return []
    identities = ",".join(quoted(record.identity) for record in best)
    kept = [
        str(override.input_line)
        for override in overrides
        if override.key_or_group in _KEPT or override.key_or_group.startswith("hydra.launcher.")
    ]
    return [
        f"from_record={identities}",
        f"seed={','.join(map(str, seeds))}",
        f"output_dir={quoted(str(output_dir))}",
        *kept,
    ]


def complete_records(ended: Sequence[Outcome]) -> list[CompleteRecord]:
    """Returns the records of a sweep's complete runs, after waiting for those that another sweep is running."""
    directories = [
        Path(name) for name in dict.fromkeys(one.folder for one in ended if one.error is None) if name is not None
    ]
    for directory in directories:
        record = record_of(directory)
        if record is None or record.status == "running":
            wait_for(directory)
    return read_complete_records(directories)
