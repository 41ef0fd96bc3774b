"""A stand-in for the model hub on this machine: what huggingface_hub and datasets ask of it over HTTP.

Large files are served as the real hub does: its answer refers to a second server (its CDN), which sends the bytes.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_FILES = (".safetensors", ".bin", ".parquet")  # what the hub keeps outside git
TOKEN = "hf_of_a_member"  # opens gated repositories

_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(?:/(?P<what>\w[\w-]*)/(?P<rest>.+))?")
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Repository:
    """A repository: its commits by hash, and what its branches and tags point to.

    Attributes:
        gated: only who brings the token may read it.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Adds files to those of the last commit and returns the new commit's hash, which `main` points to."""
        files = self.commits.get(self.refs.get("main", ""), {}) | files
        name = hashlib.sha1(b"".join(path.encode() + content for path, content in sorted(files.items()))).hexdigest()
        self.commits[name] = files
        self.refs |= dict.fromkeys(["main", *refs], name)
        return name


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match.

    Attributes:
        pattern: is searched for in "GET /path".
        status: answered in place of the content; None for the content.
        headers: sent with that status.
        body: sent with that status.
        seconds: the time that passes before an answer.
        keep: the fraction of the body that is sent before the connection is closed.
        times: how many requests it meets.
    """

    pattern: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "as asked for"}'
    seconds: float = 0.0
    keep: float = 1.0
    times: int = 10**6


@dataclass
class Hub:
    """What the server knows.

    Attributes:
        repositories: by kind ("models" or "datasets") and name.
        faults: the first that matches a request is met.
        asked: "METHOD /path" of every request, in order.
        store: address of the store of large files (xet) that is announced beside plain HTTP; None for none.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    store: str | None = None
    url: str = ""
    cdn: str = ""

    def add(self, kind: str, name: str, files: dict[str, bytes]) -> str:
        """Commits files to a repository, which is made if need be; returns the commit's hash."""
        return self.repositories.setdefault((kind, name), Repository()).commit(files)

    def fault(self, line: str) -> Fault:
        """Returns what goes wrong with a request."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return Fault("")

    def blob(self, digest: str) -> bytes:
        """Returns a large file by its digest."""
        contents = (file for repo in self.repositories.values() for c in repo.commits.values() for file in c.values())
        return next(content for content in contents if hashlib.sha256(content).hexdigest() == digest)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answers for the hub, and for its CDN, on two ports of this machine until the block ends."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})) for _ in range(2)]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        line = f"{self.command} {self.path}"
        self.hub.asked.append(line)
        length = int(self.headers.get("Content-Length", 0))
        self.body = parse_qs(self.rfile.read(length).decode())
        self.fault = self.hub.fault(line)
        threading.Event().wait(self.fault.seconds)  # not time.sleep, which tests replace
        if self.fault.status is not None:
            return self._answer(self.fault.status, self.fault.body, **self.fault.headers)
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/cdn/"):
            _, _, digest, name = path.split("/")
            return self._content(self.hub.blob(digest), name)
        if api := _API.fullmatch(path):
            return self._api(**api.groupdict())
        if file := _FILE.fullmatch(path):
            return self._file("datasets" if file["kind"] else "models", file["name"], file["revision"], file["path"])
        return self._refuse(404, "")

    do_HEAD = do_POST = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass

    def _repository(self, kind: str, name: str) -> Repository | None:
        """Returns what the asker may read, after refusing what does not exist or is closed."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None:  # the hub does not tell strangers that a repository is not there
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "GatedRepo", f"Access to {name} is restricted.")
        else:
            return repository
        return None

    def _api(self, kind: str, name: str, what: str | None, rest: str | None) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return None
        revision, _, folder = (rest or "main").partition("/")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if what in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            return self._json({"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        if what == "xet-read-token":
            access = {
                "X-Xet-Cas-Url": str(self.hub.store),
                "X-Xet-Access-Token": "a",
                "X-Xet-Token-Expiration": "9999999999",
            }
            return self._answer(200, b"{}", **access)
        if what == "tree":
            return self._json(_tree(files, folder, "recursive=true" in self.path.lower()))
        return self._json([entry for entry in _entries(files) if entry["path"] in self.body["paths"]])

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return None
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = repository.commits[commit].get(path)
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        if not path.endswith(LARGE_FILES):
            return self._content(content, path.rpartition("/")[2], **{"X-Repo-Commit": commit})
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": commit}
        if self.hub.store is not None:
            token = f"{self.hub.url}/api/{kind}/{name}/xet-read-token/{commit}"
            linked |= {"X-Xet-Hash": digest, "Link": f'<{token}>; rel="xet-auth"'}
        return self._answer(302, b"", Location=f"{self.hub.cdn}/cdn/{digest}/{path.rpartition('/')[2]}", **linked)

    def _content(self, content: bytes, name: str, **headers: str) -> None:
        """Sends a file, or the range of it that is asked for."""
        headers |= {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        headers["Content-Disposition"] = f'inline; filename="{name}";'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._answer(200, content, **headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self._answer(206, content[start : end + 1], **headers)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode())

    def _refuse(self, status: int, code: str, message: str = "Not found", **headers: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._answer(status, body, **{"X-Error-Code": code, "X-Error-Message": message}, **headers)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # who asked has not waited for the answer
                self.wfile.write(body[: int(len(body) * self.fault.keep)])
        if self.fault.keep < 1:
            self.close_connection = True


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, object]]:
    start = f"{folder}/" if folder else ""
    inside = {path: content for path, content in files.items() if path.startswith(start)}
    folders = {path[: len(start)] + path[len(start) :].split("/")[0] for path in inside if "/" in path[len(start) :]}
    here = inside if recursive else {p: c for p, c in inside.items() if "/" not in p[len(start) :]}
    return [*({"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)), *_entries(here)]


def _entries(files: dict[str, bytes]) -> list[dict[str, object]]:
    entries = []
    for path, content in files.items():
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(content)}
        entry["oid"] = hashlib.sha1(content).hexdigest()
        if path.endswith(LARGE_FILES):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        entries.append(entry)
    return entries
