"""Stand-in for a model hub on the loopback interface: the part of its HTTP interface that huggingface_hub uses.

Keeps repositories as files in memory, one revision each. Large files go the way of Git LFS, others in the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_the_secret_of_this_test"
_LARGE = (".onnx", ".onnx_data", ".safetensors", "tokenizer.json")


class Hub(ThreadingHTTPServer):
    """Server with its repositories: name -> path -> bytes. `requests`: method and path of all that were made."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: str | None = None  # part of "METHOD path" that is answered with 500

    @property
    def url(self) -> str:
        """Address for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str) -> str:
        """Revision of a repository, decided by its content."""
        parts = sorted((path, hashlib.sha1(content).hexdigest()) for path, content in self.repositories[name].items())
        return hashlib.sha1(json.dumps(parts).encode()).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """Start a server on a free port of the loopback interface."""
    with Hub() as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        self.body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        if self.server.fail and self.server.fail in f"{self.command} {path}":
            self._send(500, b"")
            return
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, path):
                getattr(self, method)(*found.groups())
                return
        self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _files(self, name: str) -> dict[str, bytes] | None:
        """Files of a repository, if the sender may see it; else the answer is sent."""
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name not in self.server.repositories or (name in self.server.private and not known):
            self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return None
        return self.server.repositories[name]

    def _info(self, name: str, _revision: str | None = None) -> None:
        if (files := self._files(name)) is not None:
            self._json({"id": name, "sha": self.server.commit(name), "siblings": [{"rfilename": p} for p in files]})

    def _tree(self, name: str, _revision: str) -> None:
        if (files := self._files(name)) is not None:
            self._json([{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()])

    def _file(self, name: str, _revision: str, path: str) -> None:
        files = self._files(name)
        if files is None:
            return
        if path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content, headers = files[path], {"X-Repo-Commit": self.server.commit(name), "Accept-Ranges": "bytes"}
        headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        start = int(found[1]) if (found := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers)

    def _create(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b'{"error": "Invalid username or password."}')
            return
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.server.repositories:
            self._send(409, json.dumps({"error": "exists", "url": f"{self.server.url}/{name}"}).encode())
            return
        self.server.repositories[name] = {".gitattributes": b"*.onnx filter=lfs\n"}
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(name)
        self._json({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def _preupload(self, name: str, _revision: str) -> None:
        if self._files(name) is not None:
            files = [file["path"] for file in json.loads(self.body)["files"]]
            mode = {path: "lfs" if path.endswith(_LARGE) else "regular" for path in files}
            self._json({"files": [{"path": p, "uploadMode": mode[p], "shouldIgnore": False} for p in files]})

    def _batch(self, _name: str) -> None:
        answers: list[dict[str, Any]] = []
        for asked in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.uploaded:
                answer["actions"] = {"upload": {"href": f"{self.server.url}/uploads/{asked['oid']}"}}
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers}, "application/vnd.git-lfs+json")

    def _upload(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.uploaded[oid] = self.body
        self._send(200, b"")

    def _commit(self, name: str, _revision: str) -> None:
        files = self._files(name)
        if files is None:
            return
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.uploaded[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.server.commit(name)
        self._json({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def _yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def _json(self, value: object, kind: str = "application/json") -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": kind})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    (rf"/api/models/{_NAME}", "_info"),
    (rf"/api/models/{_NAME}/revision/(\w+)", "_info"),
    (rf"/api/models/{_NAME}/tree/(\w+)", "_tree"),
    (rf"/{_NAME}/resolve/(\w+)/(.+)", "_file"),
    (r"/api/repos/create", "_create"),
    (rf"/api/models/{_NAME}/preupload/(\w+)", "_preupload"),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", "_batch"),
    (r"/uploads/(\w+)", "_upload"),
    (rf"/api/models/{_NAME}/commit/(\w+)", "_commit"),
    (r"/api/validate-yaml", "_yaml"),
)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
