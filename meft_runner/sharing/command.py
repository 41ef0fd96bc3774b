"""`meft-share`: a run's trained weights and their model card in a repository of the hub."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import disable_progress_bars
from peft.utils import CONFIG_NAME

from meft_runner.backbones.hub_errors import endpoint
from meft_runner.config import Settings, ShareSettings
from meft_runner.config.checks import check_environment
from meft_runner.config.sizes import written_bytes
from meft_runner.errors import UserError, first_line, listed
from meft_runner.files import digest
from meft_runner.records.schema import CompleteRecord
from meft_runner.run.card import is_as_written, model_card
from meft_runner.run.finished import check_weights, complete_record, recorded_settings
from meft_runner.run.portable import CARD_NAME, DESCRIPTIONS, portable_text
from meft_runner.run.reuse import ADAPTER, WEIGHTS
from meft_runner.sharing.hub import check_token, explained

_UNTOUCHED = "[More Information Needed]"  # in the card that peft writes beside weights
_NO_CONTENT = (".gitattributes",)  # what the hub puts into a repository that is made


@dataclass(frozen=True)
class Shared:
    """What is pushed.

    Attributes:
        weights: their file.
        texts: the other files by name.
        left_out: names of files that a user has put beside them.
    """

    weights: Path
    texts: Mapping[str, str]
    left_out: list[str]


def share(asked: ShareSettings) -> int:
    """Pushes what is asked, prints where it is, and returns the exit code.

    Raises:
        UserError: the run has nothing to push, the repository holds something else, or the hub cannot be had.
    """
    check_environment()
    directory, repository = Path(str(asked.run)), str(asked.to)
    record = complete_record(directory)
    check_weights(directory, record)
    shared = shared_files(directory, recorded_settings(directory, record), record, repository)
    check_token()
    name = directory.absolute().name
    try:
        with explained(repository), disable_progress_bars():
            done = _push(HfApi(), shared, asked, name)
    except KeyboardInterrupt:
        print(f"interrupted: {_address(repository)} has all of the files or none. Start it again.", file=sys.stderr)
        return 1
    if not done:
        print(f"{_address(repository)} holds these weights already; overwrite=true writes the other files anew.")
        return 0
    if shared.left_out:
        print(f"left out, as the run has not made it: {listed(shared.left_out)}", file=sys.stderr)
    print(f"{name} is shared: {_address(repository)}")
    return 0


def shared_files(directory: Path, settings: Settings, record: CompleteRecord, repository: str) -> Shared:
    """Returns what of a run's folder is pushed, without what is of this machine.

    Raises:
        UserError: the description of the weights cannot be read, or a file is a link.
    """
    folder, texts = directory / ADAPTER, {}
    for name in (WEIGHTS, *DESCRIPTIONS, CARD_NAME):
        if (folder / name).is_symlink():
            raise UserError(
                f"{folder / name}: is a link, and what it leads to is not the run's. Put the file in its place."
            )
    for name in DESCRIPTIONS:
        if name == CONFIG_NAME or (folder / name).is_file():
            try:
                texts[name] = portable_text((folder / name).read_text(encoding="utf-8"), settings, record)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"run={directory}: {ADAPTER}/{name} cannot be read ({first_line(error)}). Restore the file, or "
                    "train again."
                ) from error
    texts[CARD_NAME] = _card(folder / CARD_NAME, settings, record, repository)
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in (WEIGHTS, *texts))
    return Shared(folder / WEIGHTS, texts, left_out)


def _card(file: Path, settings: Settings, record: CompleteRecord, repository: str) -> str:
    """Returns the card in a run's folder as a user has edited it; else one that says where it stands."""
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({first_line(error)}). Save it as UTF-8, or remove it.") from error
    own = text is None or _UNTOUCHED in text or is_as_written(text)
    return model_card(settings, record, repository) if own else str(text)


def _found(api: HfApi, repository: str) -> ModelInfo | None:
    """Returns what the hub says of a repository, None where there is none."""
    try:
        return api.model_info(repository, files_metadata=True)
    except RepositoryNotFoundError:
        return None


def _holds_already(there: ModelInfo, shared: Shared, repository: str) -> bool:
    """Tells whether a repository has these weights; one that is empty has not.

    Raises:
        UserError: it holds something else.
    """
    files = {file.rfilename: file for file in there.siblings or [] if file.rfilename not in _NO_CONTENT}
    if not files:
        return False
    stored = files.get(WEIGHTS)
    if stored is not None and stored.lfs is not None and stored.lfs.sha256 == digest(shared.weights):
        return True
    what = "another adapter" if WEIGHTS in files else f"other files ({listed(sorted(files))})"
    raise UserError(
        f"to={repository}: the repository is there and holds {what}. Choose another name, or add overwrite=true to "
        "replace the files of the same names."
    )


def _push(api: HfApi, shared: Shared, asked: ShareSettings, name: str) -> bool:
    """Makes the repository where it is missing, and commits all files at once; returns whether there was need to."""
    repository = str(asked.to)
    there = _found(api, repository)
    if there is not None and not asked.overwrite and _holds_already(there, shared, repository):
        return False
    if there is not None and asked.private and not there.private:
        raise UserError(
            f"to={repository}: is there and is public; private=true holds for a repository that is made. Choose "
            "another name, or make it private in its settings first."
        )
    print(f"pushing {written_bytes(shared.weights.stat().st_size)} to {_address(repository)}")
    if there is None:
        api.create_repo(repository, private=asked.private or None)  # None: as the owner usually has it
    operations = [CommitOperationAdd(WEIGHTS, str(shared.weights))]
    operations += [CommitOperationAdd(file, text.encode()) for file, text in shared.texts.items()]
    api.create_commit(
        repository, operations, commit_message=f"Weights of the run {name}",
        parent_commit=None if there is None else there.sha,
    )  # fmt: skip
    return True


def _address(repository: str) -> str:
    return f"{endpoint()}/{repository}"
