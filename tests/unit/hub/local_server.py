"""A server on this machine for downloads: ranges, cut connections, refusals; and one that answers like the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40
JSON = {"Content-Type": "application/json"}
PIECE = 1 << 16  # bytes between pauses
LARGE = 1000  # bytes from which a file is stored by its SHA-256


def row(name: str, content: bytes) -> dict[str, object]:
    """A file as the hub lists it."""
    about: dict[str, object] = {"type": "file", "path": name, "size": len(content)}
    about["oid"] = hashlib.sha1(content).hexdigest()
    if len(content) >= LARGE:
        about["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return about


class LocalServer(ThreadingHTTPServer):
    """files: path → content. cuts: how many bytes each of the next answers sends before the line goes dead (None: all).

    statuses: answers that come before any content. ranges, tags: whether it knows parts, and names versions. dead: it hangs up on everybody.
    pause: seconds behind each piece it sends.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int | None] = []
        self.statuses: list[int] = []
        self.ranges, self.tags = True, True
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.dead = False
        self.pause = 0.0

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's tables."""

    protocol_version = "HTTP/1.1"
    server: LocalServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        if self.server.dead:
            self.close_connection = True
            return self.connection.shutdown(2)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if body and self.server.statuses:
            return self.refuse(self.server.statuses.pop(0))
        if path.startswith("/api/models/"):
            return self.describe(path.removeprefix("/api/models/"))
        content = self.server.files.get(path)
        if content is None and "/resolve/" in path:
            repo, _, rest = path.strip("/").partition("/resolve/")
            if repo in self.server.gated:
                return self.refuse(403, {"X-Error-Code": "GatedRepo"})
            content = self.server.repositories.get(repo, {}).get(rest.partition("/")[2])
            if content is None:
                return self.refuse(404, {"X-Error-Code": "EntryNotFound"})
        if content is None:
            return self.refuse(404)
        self.send(content, body)
        return None

    def send(self, content: bytes, body: bool) -> None:
        small = "/resolve/" in self.path and len(content) < LARGE
        digest = (hashlib.sha1 if small else hashlib.sha256)(content).hexdigest()
        asked, start = self.headers.get("Range"), 0
        same = self.headers.get("If-Range", f'"{digest}"') == f'"{digest}"'
        if self.server.ranges and asked and same:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                return self.refuse(416, {"Content-Range": f"bytes */{len(content)}"})
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        if self.server.tags:
            self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            cuts = self.server.cuts if len(content) >= LARGE else []
            cut = cuts.pop(0) if cuts else None
            piece = content[start:] if cut is None else content[start : start + cut]
            for at in range(0, len(piece), PIECE):
                self.wfile.write(piece[at : at + PIECE])
                self.server.sent += len(piece[at : at + PIECE])
                time.sleep(self.server.pause)
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
        return None

    def describe(self, rest: str) -> None:
        """What the hub says of a repository: itself, or the list of its files."""
        repo, tree, revision = rest.partition("/tree/" if "/tree/" in rest else "/revision/")
        if repo not in self.server.repositories:
            return self.refuse(401, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("", "main", COMMIT):
            return self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
        files = self.server.repositories[repo]
        if tree == "/tree/":
            self.reply(200, json.dumps([row(name, content) for name, content in files.items()]).encode(), JSON)
            return None
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        about = {
            "_id": "1",
            "id": repo,
            "sha": COMMIT,
            "private": False,
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
        }
        self.reply(200, json.dumps(about | {"likes": 0}).encode(), JSON)
        return None

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.reply(status, b"refused", headers or {})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[LocalServer]:
    """A server that runs in a thread."""
    server = LocalServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
