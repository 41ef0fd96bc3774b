"""What goes wrong between the model hub and this machine, by class, in one line with the way out."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import httpx, parse_ratelimit_headers
from pyarrow import ArrowException

from meft_runner.errors import in_brief

HUB_ERRORS = (
    OSError, ValueError, RuntimeError, httpx.HTTPError, httpx.InvalidURL, EntryNotFoundError, RevisionResolutionError,
)  # fmt: skip
TOO_MANY = 429
_CANNOT_WRITE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST,
}  # fmt: skip
_LOG_IN = "run `hf auth login` or set HF_TOKEN"


class HubGaveUpError(OfflineModeIsEnabled):
    """The hub has not answered before: the libraries then read their caches or fail, as where HF_HUB_OFFLINE is set."""


def endpoint() -> str:
    """Returns the hub's address, without a name and password that HF_ENDPOINT may hold."""
    start, separator, rest = constants.ENDPOINT.rpartition("://")
    return f"{start}{separator}{rest.rpartition('@')[2]}"


@dataclass(frozen=True)
class HubSource:
    """A repository of the hub that a backbone or a task is read from.

    Attributes:
        group: `backbone` or `task`.
        choice: what was typed for it.
        repository: as the hub names it, owner/name.
        revision: branch, tag or commit; None for the newest commit.
        takes_files: whether files of the user's take its place, not a folder.
    """

    group: str
    choice: str
    repository: str
    revision: str | None = None
    takes_files: bool = False

    @property
    def kind(self) -> str:
        """The hub's word for what is in the repository."""
        return {"backbone": "model", "task": "dataset"}[self.group]

    @property
    def instead(self) -> str:
        """What takes the hub's place."""
        if self.takes_files:
            return "set task.train_file=FILE in place of task.hub"
        return {
            "backbone": "set backbone.path=DIR to a local folder of that model",
            "task": "set task.data_dir=DIR to a local folder with its splits",
        }[self.group]

    @property
    def cached_in(self) -> Path:
        """The folder of the cache that holds its files."""
        return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=self.repository, repo_type=self.kind))

    @property
    def page(self) -> str:
        """The repository's address for people."""
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.repository}"

    def line(self, what: str, remedy: str) -> str:
        """Returns what is said of it, in one line with the way out."""
        text = f"{self.group}={self.choice}: {self.repository}: {what}. {remedy}, or {self.instead}."
        return " ".join(text.split())


def explain(source: HubSource, error: BaseException, trouble: BaseException | None = None) -> str:
    """Returns what went wrong with a repository, in one line with the way out.

    Args:
        source: the repository.
        error: what was raised; the first of it and of its causes that is known counts.
        trouble: what the hub last answered in place of an answer; libraries drop it from their errors.
    """
    for known in (*_causes(error), *_causes(trouble)):
        for classes, explanation in _EXPLANATIONS:
            if isinstance(known, classes) and (found := explanation(source, known)) is not None:
                return source.line(*found)
    return source.line(f"it cannot be loaded ({in_brief(error)})", f"Look at {source.page}")


def retry_seconds(response: httpx.Response) -> int | None:
    """Returns the seconds after which the hub wants to be asked again, if it says so."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    seconds = response.headers.get("Retry-After", "")
    return int(seconds) if seconds.isdigit() else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


_Found = tuple[str, str] | None


def _silent(_: HubSource, error: Exception) -> _Found:
    if isinstance(error, HubGaveUpError) and error.__cause__ is not None:
        return None  # which says more
    slow = "on a slow line with HF_HUB_DOWNLOAD_TIMEOUT=60"
    return "the hub gives no answer, and the cache does not hold all of it", f"Check the network, or try again, {slow}"


def _offline(_: HubSource, error: OfflineModeIsEnabled) -> _Found:
    return "HF_HUB_OFFLINE is set, and the cache does not hold all of it", "Unset HF_HUB_OFFLINE"


def _unreachable(_: HubSource, error: Exception) -> _Found:
    return f"{endpoint()} cannot be reached ({error})", "Check the network, proxies and HF_ENDPOINT"


def _broken_off(_: HubSource, error: Exception) -> _Found:
    return "the connection broke off", "Run it again, what came whole is kept"


def _no_hub(_: HubSource, error: FileMetadataError) -> _Found:
    return (
        f"what answers at {endpoint()} is not the hub",
        "Check HF_ENDPOINT and proxies, and whether the network wants a login",
    )


def _gated(source: HubSource, error: GatedRepoError) -> _Found:
    return f"it is gated ({_status(error)})", f"Ask for access at {source.page}, then {_LOG_IN}"


def _no_revision(source: HubSource, error: RevisionNotFoundError) -> _Found:
    what = f"it has no revision '{source.revision}' ({_status(error)})"
    return what, f"Set {source.group}.revision to a branch, tag or commit of {source.page}"


def _no_file(source: HubSource, error: RemoteEntryNotFoundError) -> _Found:
    return f"it has no file {error.response.url.path.rpartition('/')[2]} ({_status(error)})", f"Look at {source.page}"


def _no_repository(source: HubSource, error: RepositoryNotFoundError) -> _Found:
    what = f"the hub has no such repository, or it is private ({_status(error)})"
    return what, f"To read a private one {_LOG_IN}"


def _refused(source: HubSource, error: HfHubHTTPError) -> _Found:
    status = _status(error)
    if status in (401, 403):
        return f"the hub refuses it ({status})", f"For a token that may read it {_LOG_IN}"
    if status == TOO_MANY:
        seconds = retry_seconds(error.response)
        when = "in some minutes" if seconds is None else f"in {seconds} s"
        return f"the hub's limit of requests is reached ({status})", f"Try again {when}"
    return f"the hub answers with an error ({status})", "Try again later"


def _status(error: HfHubHTTPError) -> int:
    return error.response.status_code


def _not_written(_: HubSource, error: OSError) -> _Found:
    if error.errno not in _CANNOT_WRITE:
        return None
    where = error.filename or constants.HF_HOME
    return (
        f"the cache cannot be written ({error.strerror}: {where})",
        "Free space, or set HF_HOME=DIR to another folder",
    )


def _storage(_: HubSource, error: RuntimeError) -> _Found:
    if "CAS" not in str(error):  # what hf_xet, which raises no class of its own, calls the hub's store of large files
        return None
    return (
        f"the hub's store of files cannot be read ({in_brief(error)})",
        "Set HF_HUB_DISABLE_XET=1 for plain HTTP",
    )


def _damaged(source: HubSource, error: Exception) -> _Found:
    return (
        f"a file in the cache is damaged ({in_brief(error)})",
        f"Remove {source.cached_in} to make it anew",
    )


# From what says most to what says least; a function that returns None passes on.
_EXPLANATIONS: tuple[tuple[Any, Callable[[HubSource, Any], _Found]], ...] = (
    ((HubGaveUpError, httpx.TimeoutException), _silent),
    (OfflineModeIsEnabled, _offline),
    (GatedRepoError, _gated),
    (RevisionNotFoundError, _no_revision),
    (RemoteEntryNotFoundError, _no_file),
    (RepositoryNotFoundError, _no_repository),
    (HfHubHTTPError, _refused),
    (FileMetadataError, _no_hub),
    ((httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError), _broken_off),
    ((httpx.TransportError, httpx.InvalidURL), _unreachable),
    (RuntimeError, _storage),
    (ArrowException, _damaged),
    (OSError, _not_written),
)
