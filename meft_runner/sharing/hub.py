"""What goes wrong between a push and the model hub, in one line with the way out, and never with the token in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx

from meft_runner.backbones.hub_errors import TOO_MANY, HubGaveUpError, endpoint, retry_seconds
from meft_runner.backbones.hub_line import line
from meft_runner.errors import UserError, in_brief


def check_token() -> None:
    """Makes sure that there is a token to push with, and a hub to push to.

    Raises:
        UserError: there is none, or this process is not to use the network.
    """
    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set: nothing can be pushed to the hub. Unset it.")
    if get_token() is None:
        raise UserError(f"no token of the hub is there. {_login()}")


def _login() -> str:
    tokens = f"{endpoint()}/settings/tokens"
    return f"Run `hf auth login`, or set HF_TOKEN, with a token that may write ({tokens})."


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """Explains what goes wrong inside as something about a push, and hides the token wherever an error repeats it.

    Args:
        repository: that is pushed to, owner/name.

    Raises:
        UserError: an error of the hub, of the network or of a file came.
    """
    token = get_token() or ""
    line().restore()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whichever: a traceback would show the libraries' messages, which may hold the token
        what = _what(repository, error)
        hidden = what.replace(token, "***") if token else what
        raise UserError(f"to={repository}: {' '.join(hidden.split())}") from None


def _what(repository: str, error: Exception) -> str:
    """Returns what to say of an error, of the first kind in the table that it is of."""
    known = (line().trouble if isinstance(error, HubGaveUpError) else None) or error
    if isinstance(known, HfHubHTTPError):
        return _answer(repository, known)
    if isinstance(known, ValueError) and "metadata" in str(known):
        return f"the hub does not take the model card's metadata ({in_brief(known)}). Mend README.md."
    text = next((text for kinds, text in _TEXTS if isinstance(known, kinds)), None)
    if text is None:
        return f"it could not be pushed ({in_brief(known)})."
    return text.format(login=_login(), endpoint=endpoint())


def _answer(repository: str, error: HfHubHTTPError) -> str:
    """Returns what to say of an answer that is an error."""
    status = error.response.status_code
    said = f": {error.server_message.strip():.120}" if error.server_message else ""
    if status == TOO_MANY:
        seconds = retry_seconds(error.response)
        return f"the hub's limit of requests is reached. Try again {f'in {seconds} s' if seconds else 'later'}."
    usual = "the hub answers with an error. Try again later." if status >= 500 else "the hub refuses it."
    text = _STATUSES.get(status, usual).format(owner=repository.partition("/")[0], login=_login())
    return f"{text} ({status}{said})"


_STATUSES = {
    401: "the hub does not accept the token. {login}",
    403: "the token may not write there. Choose another owner than {owner}, or another token. {login}",
    404: "the hub has no user or organisation {owner} that this token may write to.",
    409: "somebody else has written to it at the same time. Look at it, and push again.",
    412: "somebody else has written to it at the same time. Look at it, and push again.",
}
_TEXTS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (LocalTokenNotFoundError, "no token of the hub is there. {login}"),
    ((HubGaveUpError, httpx.TimeoutException), "the hub gives no answer. Check the network, or try again."),
    (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set. Unset it."),
    ((httpx.LocalProtocolError, UnicodeEncodeError), "the token has characters that no token has. {login}"),
    (
        (httpx.TransportError, httpx.InvalidURL),
        "{endpoint} cannot be reached. Check the network and HF_ENDPOINT.",
    ),
)
