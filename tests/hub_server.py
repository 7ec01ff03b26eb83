"""As much of the Hugging Face Hub as huggingface_hub asks of it, on 127.0.0.1: commits, branches, LFS, resolving."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_test"
BIG = (".onnx", ".npy", ".npz", ".png", ".pth")
"""What the Hub's own .gitattributes keeps in LFS."""
_OTHERS = ("TRANSFORMERS_OFFLINE", "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN")
"""Older names for what `environment` sets."""

Files = dict[str, bytes]


class Hub:
    """The state of all repositories, and what was asked."""

    def __init__(self) -> None:
        self.refs: dict[str, dict[str, str]] = {}  # repository: {branch or tag: commit}
        self.commits: dict[str, Files] = {}
        self.messages: dict[str, str] = {}
        self.lfs: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.private: dict[str, bool] = {}
        self.ignored: set[str] = set()  # what a .gitignore would keep out
        self.asked: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.lying_sizes: dict[str, int] = {}  # file: the size that the listing gives
        self.cut: set[str] = set()  # files whose next answer ends half-way
        self.broken: set[str] = set()  # files that are listed, and not sent because of a failure
        self.corrupted: set[str] = set()  # files that are sent with one byte changed
        self.lying_headers: dict[str, str] = {}  # of every file's answer; {hash} in them is the file's
        self.raw: dict[tuple[str, str], Callable[[IO[bytes]], None]] = {}  # (method, file, or "" of the listing)
        self.sha: str | None = None  # the commit that listings give, in place of the true one
        self.failing: int | None = None  # a status for everything
        self.url = ""

    def commit(self, repo: str, branch: str, files: Files, message: str = "") -> str:
        """Make `files` the whole of a branch."""
        told = repr((repo, branch, sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())))
        oid = hashlib.sha1(f"{told}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid], self.messages[oid] = dict(files), message
        self.refs.setdefault(repo, {})[branch] = oid
        return oid

    def push_folder(self, repo: str, folder: Path, branch: str = "main") -> str:
        """Make the files of a folder the whole of a branch, as somebody with git would."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.commit(repo, branch, files)

    def resolve(self, repo: str, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        return self.refs.get(repo, {}).get(revision)

    def head(self, repo: str, branch: str = "main") -> Files:
        return self.commits[self.refs[repo][branch]]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer for `hub` at hub.url until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def environment(url: str, home: Path) -> dict[str, str]:
    """The environment of a process whose huggingface_hub asks at `url`, with its cache in `home`, and may write."""
    return {name: value for name, value in os.environ.items() if name not in _OTHERS} | _settings(url, home)


def _settings(url: str, home: Path) -> dict[str, str]:
    # The cache by its own name too: a user's HF_HUB_CACHE goes before HF_HOME.
    places = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
    return {**places, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}


def point_at(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub, which read its environment long ago, ask at `url` and keep its cache in `home`.

    In this process, and in those that a test starts.
    """
    from huggingface_hub import constants

    for name in _OTHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in _settings(url, home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route(
            {
                r"/api/models/(\w+/[\w.-]+)/revision/([^/]+)": self._info,
                r"/(\w+/[\w.-]+)/resolve/([^/]+)/(.+)": self._file,
            }
        )

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._route(
            {
                r"/api/repos/create": self._create,
                r"/api/validate-yaml": lambda: self._json(200, {}),
                r"/api/models/(\w+/[\w.-]+)/branch/([^/]+)": self._branch,
                r"/api/models/(\w+/[\w.-]+)/preupload/([^/]+)": self._preupload,
                r"/(\w+/[\w.-]+)\.git/info/lfs/objects/batch": self._batch,
                r"/api/models/(\w+/[\w.-]+)/commit/([^/]+)": self._commit,
            }
        )

    def do_PUT(self) -> None:
        self._route({r"/lfs/([0-9a-f]+)": self._store})

    def _route(self, routes: dict[str, Callable[..., None]]) -> None:
        self.body = self._read()
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, unquote(path)))
        if self.hub.failing is not None:
            return self._json(self.hub.failing, {"error": "out of order"})
        for pattern, answer in routes.items():
            if found := re.fullmatch(pattern, path):
                return answer(*map(unquote, found.groups()))
        return self._json(404, {"error": f"nothing at {path}"})

    def _read(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _json(self, status: int, data: Any, **headers: str) -> None:
        self._bytes(status, json.dumps(data).encode(), {"Content-Type": "application/json", **headers})

    def _bytes(self, status: int, data: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        # No connection outlives its answer, so that a Hub that is gone is gone.
        for key, value in {"Content-Length": str(len(data)), "Connection": "close", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if sent is None else data[:sent])

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._json(403, {"error": "no"}, **{"X-Error-Message": "you may not write here"})
        return False

    def _found(self, repo: str, revision: str) -> str | None:
        """The commit, or None after the answer that there is none."""
        if repo not in self.hub.refs:
            self._json(404, {"error": "no"}, **{"X-Error-Code": "RepoNotFound"})
            return None
        commit = self.hub.resolve(repo, revision)
        if commit is None:
            self._json(404, {"error": "no"}, **{"X-Error-Code": "RevisionNotFound"})
        return commit

    def _raw(self, name: str) -> bool:
        if (write := self.hub.raw.get((self.command, name))) is None:
            return False
        self.close_connection = True
        with suppress(OSError):  # whoever asked has gone
            write(self.wfile)
        return True

    def _info(self, repo: str, revision: str) -> None:
        if (commit := self._found(repo, revision)) is None:
            return
        if self._raw(""):
            return
        assert parse_qs(urlsplit(self.path).query)["blobs"] == ["true"]
        files = self.hub.commits[commit]
        sizes = {name: self.hub.lying_sizes.get(name, len(data)) for name, data in files.items()}
        siblings = [{"rfilename": name, "size": size, **_lfs(name, files[name])} for name, size in sizes.items()]
        self._json(200, {"id": repo, "modelId": repo, "sha": self.hub.sha or commit, "siblings": siblings, "tags": []})

    def _file(self, repo: str, revision: str, name: str) -> None:
        if self._raw(name) or (commit := self._found(repo, revision)) is None:
            return None
        if repo in self.hub.gated:
            return self._json(403, {"error": "no"}, **{"X-Error-Code": "GatedRepo"})
        if name in self.hub.broken:
            return self._json(500, {"error": "out of order"})
        data = self.hub.commits[commit].get(name)
        if data is None:
            return self._json(404, {"error": "no"}, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        digest = hashlib.sha256 if name.endswith(BIG) else hashlib.sha1
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if name.endswith(BIG):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        lies = self.hub.lying_headers
        headers |= {key: value.replace("{hash}", digest(data).hexdigest()) for key, value in lies.items()}
        start = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            self.hub.ranges.append(name)
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if name in self.hub.corrupted:
            data = data[:-1] + bytes([data[-1] ^ 1])
        half = None
        if self.command == "GET" and name in self.hub.cut:
            self.hub.cut.discard(name)
            half = len(data) // 2
        return self._bytes(206 if start else 200, data[start:], headers, sent=half)

    def _create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        if not self._may_write():
            return None
        if repo in self.hub.refs:
            return self._json(409, {"error": "it exists", "url": f"{self.hub.url}/{repo}"})
        self.hub.private[repo] = asked.get("visibility") == "private"
        self.hub.commit(repo, "main", {".gitattributes": b"*.onnx filter=lfs\n"})
        return self._json(200, {"url": f"{self.hub.url}/{repo}"})

    def _branch(self, repo: str, branch: str) -> None:
        if not self._may_write():
            return None
        if branch in self.hub.refs[repo]:
            return self._json(409, {"error": "it exists"})
        self.hub.refs[repo][branch] = self.hub.refs[repo]["main"]
        return self._json(200, {})

    def _preupload(self, repo: str, revision: str) -> None:
        if not self._may_write():
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(BIG) else "regular",
                "shouldIgnore": file["path"] in self.hub.ignored,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json(200, {"files": files})

    def _batch(self, repo: str) -> None:
        objects: list[dict[str, Any]] = []
        for entry in json.loads(self.body)["objects"]:
            known = entry["oid"] in self.hub.lfs
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}}}
            objects.append({"oid": entry["oid"], "size": entry["size"], **({} if known else upload)})
        self._json(200, {"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.lfs[oid] = self.body
        self._json(200, {})

    def _commit(self, repo: str, branch: str) -> None:
        if not self._may_write():
            return None
        lines = [json.loads(line) for line in self.body.splitlines()]
        assert lines[0]["key"] == "header"
        files, header = dict(self.hub.head(repo, branch)), lines[0]["value"]
        if header.get("parentCommit") != self.hub.refs[repo][branch]:
            return self._json(412, {"error": "somebody else was faster"})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        oid = self.hub.commit(repo, branch, files, header["summary"])
        return self._json(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid})


def _lfs(name: str, data: bytes) -> dict[str, Any]:
    if not name.endswith(BIG):
        return {}
    return {"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}}
