"""A stand-in for the model hub's other side on this machine: repositories that are made and committed to over HTTP."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_jane_who_may_write"
OWNERS = ("jane", "lab")
_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/?]+)(?:/(?P<what>\w+)/\w+)?(?:\?.*)?")


@dataclass
class Repository:
    """The files that a repository holds by name, whether only its owner sees it, and the titles of its commits."""

    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    private: bool = False
    titles: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        """The name of its last commit."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class WritableHub:
    """What the server knows.

    Attributes:
        repositories: by name.
        large: whether weights are sent apart from the commit, as the real hub wants it.
        sent: large files by their digest.
        asked: "METHOD /path" of every request, in order.
        answers: a status for requests whose line has this in it, and what the hub says.
        before_commit: is called before a commit is taken.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: bool = False
    sent: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    before_commit: Any = None
    url: str = ""


@contextmanager
def serving(hub: WritableHub) -> Iterator[WritableHub]:
    """Answers on a port of this machine until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: WritableHub

    def do_GET(self) -> None:
        self.line = f"{self.command} {self.path}"
        self.hub.asked.append(self.line)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for part, (status, message) in self.hub.answers.items():
            if part in self.line:
                return self._refuse(status, message)
        if self.path.startswith("/lfs/"):
            self.hub.sent[self.path.removeprefix("/lfs/")] = self.body
            return self._json({})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Invalid credentials in Authorization header")
        if self.path == "/api/repos/create":
            return self._create(**json.loads(self.body))
        if large := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            assert large[1] in self.hub.repositories
            return self._json({"transfer": "basic", "objects": [self._place(**o) for o in self._asked()["objects"]]})
        api = _API.fullmatch(self.path)
        repository = api and self.hub.repositories.get(api["name"])
        if not repository:
            return self._refuse(404, "Repository not found", "RepoNotFound")
        if api["what"] == "preupload":
            modes = [
                {"path": file["path"], "shouldIgnore": False, "uploadMode": self._mode(file["path"])}
                for file in self._asked()["files"]
            ]
            return self._json({"files": modes})
        if api["what"] == "commit":
            return self._commit(api["name"], repository)
        siblings = [_about(name, content) for name, content in repository.files.items()]
        about = {"id": api["name"], "sha": repository.sha, "siblings": siblings, "private": repository.private}
        return self._json(about | {"tags": []})

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass

    def _asked(self) -> dict[str, Any]:
        return json.loads(self.body)

    def _mode(self, path: str) -> str:
        return "lfs" if self.hub.large and path.endswith(".safetensors") else "regular"

    def _place(self, oid: str, size: int) -> dict[str, Any]:
        return {"oid": oid, "size": size, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{oid}", "header": {}}}}

    def _create(self, name: str, organization: str, visibility: str = "public", **others: Any) -> None:
        if organization not in OWNERS:
            return self._refuse(403, f"You don't have the rights to create a model under the namespace {organization}")
        full = f"{organization}/{name}"
        if full in self.hub.repositories:
            return self._refuse(409, "You already created this model repo")
        self.hub.repositories[full] = Repository(private=visibility == "private")
        return self._json({"url": f"{self.hub.url}/{full}", "name": full, "id": full})

    def _commit(self, name: str, repository: Repository) -> None:
        if self.hub.before_commit:
            self.hub.before_commit(repository)
        header, *changes = (json.loads(line) for line in self.body.splitlines())
        if header["value"].get("parentCommit") not in (None, repository.sha):
            return self._refuse(412, "A commit has happened since.")
        for change in changes:
            value = change["value"]
            known = change["key"] == "lfsFile"
            repository.files[value["path"]] = (
                self.hub.sent[value["oid"]] if known else base64.b64decode(value["content"])
            )
        repository.titles.append(header["value"]["summary"])
        sha = repository.sha
        return self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode())

    def _refuse(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._answer(status, json.dumps({"error": message}).encode(), **headers)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _about(name: str, content: bytes) -> dict[str, Any]:
    about: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(content).hexdigest()
        about["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return about
