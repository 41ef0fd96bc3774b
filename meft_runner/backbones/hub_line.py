"""The connection to the hub, with an end to the libraries' patience.

Their own limits are up to a minute, six times a file, and none at all for questions about a repository; where the hub
asks them to wait, they sleep for as long as it says.
"""

import os
import time
from functools import cache

from huggingface_hub import constants, get_session, set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status, httpx

from meft_runner.backbones.hub_errors import HubGaveUpError, retry_seconds

PASSING = (408, 429, 500, 502, 503, 504)  # statuses after which the libraries ask again
PATIENCE = 15.0  # seconds for which they may, while the hub answers nothing else


class Line:
    """The connection that huggingface_hub and datasets share in this process.

    Attributes:
        trouble: what the hub last answered in place of an answer, until there is one.
    """

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self._cut = False
        self._waiting_since: float | None = None
        os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_DURATION", f"{PATIENCE:.0f}s")  # of large files, by hf_xet
        hooks = get_session().event_hooks["request"]

        def client() -> httpx.Client:
            return httpx.Client(
                event_hooks={"request": [*hooks, self._ask], "response": [self._hear]},
                follow_redirects=True,
                timeout=None,
            )

        set_client_factory(client)

    @property
    def answered(self) -> bool:
        """Whether the hub has answered the last request, or nothing was asked."""
        return self._waiting_since is None

    def cut(self) -> None:
        """Lets nothing more be asked: the libraries then read what is cached, or fail at once."""
        self._cut = True

    def restore(self) -> None:
        """Lets the hub be asked again."""
        self._cut, self.trouble, self._waiting_since = False, None, None

    def _ask(self, request: httpx.Request) -> None:
        """Gives a request the time-outs of the environment, ten seconds unless set."""
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if self._cut or now - self._waiting_since > PATIENCE:
            raise HubGaveUpError("the hub has not answered") from self.trouble
        limit = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        given = request.extensions.get("timeout", {})
        limits = {what: min(given.get(what) or limit, limit) for what in ("connect", "read", "write", "pool")}
        request.extensions["timeout"] = limits

    def _hear(self, response: httpx.Response) -> None:
        if response.status_code not in PASSING:
            self.trouble = self._waiting_since = None
            return
        try:
            hf_raise_for_status(response)
        except HfHubHTTPError as error:
            self.trouble = error
            if (retry_seconds(response) or 0) > PATIENCE:
                raise


@cache
def line() -> Line:
    """Returns this process's connection."""
    return Line()
