"""One run of a sweep; Hydra's launchers call it, in this process or in others."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from meft_runner.config import with_values
from meft_runner.config.torchrun import rank
from meft_runner.run.command import report_error, run_one, settings_of
from meft_runner.run.folder import BusyError, run_directory
from meft_runner.run.output import lasting_output
from meft_runner.sweeps.outcomes import Outcome, note


def run_cell(config: DictConfig) -> None:
    """Runs one of many, as Hydra composed it: what goes wrong is printed and noted, and leaves the others."""
    job = HydraConfig.get()
    typed = list(job.overrides.task)
    outcome = Outcome(" ".join(typed))
    try:
        if config.hpo is not None:  # a trial of a search
            values = dict(config.hpo.trial.settings)
            config, typed = with_values(config, values), [*typed, *(f"{key}={value}" for key, value in values.items())]
        settings = settings_of(config, typed)
        outcome.folder = str(run_directory(settings))
        with lasting_output():  # in a launcher's process nobody has seen to it yet
            run_one(settings, in_sweep=True)
    except BusyError as error:
        print(error)
    except Exception as error:
        outcome.code, outcome.error = report_error(error)
    if rank() == 0:
        note(outcome, Path(job.sweep.dir), job.job.num)
