"""Repositories of the model hub: the commit that a run reads, and its files on this machine, whole or not at all.

Every repository is resolved to one commit before anything of it is read, so that all its files belong together. A hub
that cannot be reached is asked once a run: what the cache holds of that commit is used.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import HfApi, get_cached_repo_tree, hf_hub_download, is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    FileMetadataError,
    HfHubHTTPError,
    RevisionResolutionError,
)
from huggingface_hub.utils import disable_progress_bars, filter_repo_objects

from meft_runner.backbones.hub_errors import HUB_ERRORS, TOO_MANY, HubSource, explain
from meft_runner.backbones.hub_line import line
from meft_runner.errors import UserError

DESCRIPTIONS = (  # of a model and its inputs; small files, at the top of a repository
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "tokenizer.model", "spiece.model", "spm.model", "chat_template.jinja",
)  # fmt: skip
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-?????-of-?????.bin")

_log = logging.getLogger(__name__)


@contextmanager
def explained(source: HubSource, more: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Explains what goes wrong inside as something about a repository of the hub.

    Args:
        source: the repository.
        more: errors of the library that is used inside, beside those of the hub and of files.

    Raises:
        UserError: one of these errors came.
    """
    try:
        yield
    except HUB_ERRORS + more as error:
        raise UserError(explain(source, error, line().trouble)) from error


@cache
def commit_of(source: HubSource) -> str:
    """Returns the commit that is read of a repository, the same for as long as this process lives.

    Where the hub cannot be reached, it is the one that the cache remembers, and nothing more is asked.

    Raises:
        UserError: there is no such repository or revision, or the hub cannot be reached and the cache remembers none.
    """
    line().restore()
    with explained(source):
        commit = _resolved(source)
    if not (line().answered or is_offline_mode()):
        line().cut()
        _log.warning("%s: the hub gives no answer; the cache's commit %s is used.", source.repository, commit[:10])
    return commit


def fetch(source: HubSource, commit: str, patterns: Sequence[str]) -> Path:
    """Downloads the files of a commit whose names match a pattern, where they are not in the cache.

    Returns:
        The folder that holds them, which has the commit's name.

    Raises:
        UserError: they cannot be had, or one of them is not whole.
    """
    with explained(source):
        name, kind = source.repository, source.kind
        with disable_progress_bars():  # of listing the files; each has its own below
            folder = Path(snapshot_download(name, repo_type=kind, revision=commit, allow_patterns=[]))
        sizes = _listed(source, folder, patterns)
        for file in sizes:
            hf_hub_download(name, file, repo_type=kind, revision=commit)
    for file, size in sizes.items():
        if (folder / file).stat().st_size != size:
            raise UserError(unreadable(source, file, "it is not whole"))
    return folder


def fetch_weights(source: HubSource, folder: Path) -> None:
    """Downloads a model's weights: as safetensors where the repository has them, else as PyTorch's own files.

    Args:
        source: the repository.
        folder: what `fetch` returned for its other files.

    Raises:
        UserError: they cannot be had, or are not whole.
    """
    for form in (SAFETENSORS, PICKLED):
        if _listed(source, folder, form):
            fetch(source, folder.name, form)
            return
    raise UserError(lacking(source, f"{SAFETENSORS[0]} or {PICKLED[0]}"))


def lacking(source: HubSource, name: str) -> str:
    """Returns the message where a repository lacks what is needed."""
    return source.line(f"it has no {name}", f"Look at {source.page}")


def unreadable(source: HubSource, what: str, reason: str, folder: str | Path | None = None) -> str:
    """Returns the message where files in a cache cannot be read.

    Args:
        source: the repository.
        what: the file, or what it holds.
        reason: the reader's.
        folder: the one to remove; None for the hub's cache of the repository.
    """
    remedy = f"Remove {folder or source.cached_in} to make it anew"
    return source.line(f"{what} cannot be read from the cache ({reason})", remedy)


def _resolved(source: HubSource) -> str:
    """Returns the commit of a revision; the one that the cache remembers where the hub does not answer."""
    resolve = partial(HfApi().resolve_revision, source.repository, repo_type=source.kind, revision=source.revision)
    try:
        return resolve().resolved
    except HfHubHTTPError as error:
        if error.response.status_code != TOO_MANY:
            raise
        try:
            return resolve(local_files_only=True).resolved
        except RevisionResolutionError:
            raise error from None
    except JSONDecodeError as error:
        raise FileMetadataError("the answer is not the hub's") from error


def _listed(source: HubSource, folder: Path, patterns: Sequence[str]) -> dict[str, int]:
    """Returns the sizes of the files of a commit whose names match a pattern."""
    try:
        files = get_cached_repo_tree(source.repository, repo_type=source.kind, revision=folder.name)
        sizes = {file.path: file.size for file in files}
    except CachedRepoTreeNotFoundError:  # another program has filled the cache, and the hub cannot be asked
        sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    return {name: sizes[name] for name in filter_repo_objects(sizes, allow_patterns=[*patterns])}
