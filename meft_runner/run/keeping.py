"""What a run keeps: trained weights and files of answers, without a loss of what a user put beside them."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import nn

from meft_runner.config import Settings
from meft_runner.errors import UserError, writing
from meft_runner.files import write_whole
from meft_runner.methods.weights import COUPLING_NAME, WEIGHT_WRITING_ERRORS, save_trained
from meft_runner.records.schema import Record
from meft_runner.run import processes
from meft_runner.run.arguments import adapter_description
from meft_runner.run.card import is_as_written, model_card
from meft_runner.run.portable import CARD_NAME, write_portable
from meft_runner.run.reuse import ADAPTER
from meft_runner.run.trainer import MeftTrainer
from meft_runner.tasks import TaskData

PREDICTIONS = "predictions"  # the folder of answers
_OURS = (SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME, COUPLING_NAME)


def keep_adapter(model: nn.Module, directory: Path, settings: Settings, record: Record, base: dict[str, Any]) -> None:
    """Writes the trained weights to a temporary folder and moves its files to the run's adapter/.

    What an earlier attempt at the same run has written is replaced; everything else that is there stays, a model card
    that was edited too. What stands beside the weights can be read on any machine: the card, and a configuration
    without paths.

    Args:
        model: with the trained weights.
        directory: of the run.
        settings: of the run.
        record: of the run.
        base: what tells the plain model from others, see `description_of`.

    Raises:
        UserError: they cannot be written, or there is a link to another folder.
    """
    final = _own_folder(directory, ADAPTER)
    with writing("the adapter", directory.parent, WEIGHT_WRITING_ERRORS):
        temporary = Path(tempfile.mkdtemp(prefix=f"{ADAPTER}.", suffix=".tmp", dir=directory))
        try:
            save_trained(model, temporary, {**adapter_description(settings), "base": base})
            write_portable(temporary, settings, record, model_card(settings, record))
            final.mkdir(exist_ok=True)
            for file in sorted(temporary.iterdir()):
                if file.name in _OURS or _may_be_replaced(final / file.name):
                    file.replace(final / file.name)
        finally:
            shutil.rmtree(temporary)  # of this very process


def keep_answers(trainer: MeftTrainer, data: TaskData, directory: Path) -> None:
    """Writes the files of answers that a task leaves, by the weights of the best epoch.

    Raises:
        UserError: they cannot be written.
    """
    for file in data.answer_files:
        text = file.text(trainer.predict(file.rows).predictions)  # by all processes together
        if processes.is_main():
            with writing(file.name, directory.parent):
                write_whole(_own_folder(directory, PREDICTIONS) / file.name, text)


def _may_be_replaced(file: Path) -> bool:
    """Tells whether nothing of a user's is lost: no such file is there, or a model card as a run has written it."""
    if not file.is_file():
        return not file.exists()
    return file.name == CARD_NAME and is_as_written(file.read_text(encoding="utf-8", errors="replace"))


def _own_folder(directory: Path, name: str) -> Path:
    """Returns a folder in that of a run, where files may take the place of earlier ones."""
    folder = directory / name
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link, and files elsewhere would be replaced. Move it elsewhere.")
    return folder
