"""A small Hugging Face Hub on this machine: models in memory, over HTTP, for clients in other processes.

It speaks what `huggingface_hub` uses to create, fill and read a model repository: commits with small files inline and
large ones by LFS, branches, tags, file lists, and downloads, by Xet too where that is asked for. Uploads are never by
Xet: clients that write set `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_writer"
_LFS_ENDINGS = (".safetensors", ".bin", ".gz", ".parquet")  # what a new repository's .gitattributes names
_CHUNK = 2**16  # bytes of a chunk in the Xet store
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class File:
    """One file of a commit."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def xet_hash(self) -> str:
        """The name of this content in the Xet store. Clients take it as it is; it is not the SHA-256."""
        return hashlib.blake2b(self.data, digest_size=32).hexdigest()

    @property
    def oid(self) -> str:
        """What git calls a blob of this content."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def about(self, path: str) -> dict:
        """The file as lists of files tell it."""
        about = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.lfs:
            about["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return about


@dataclass
class Fault:
    """Something that goes wrong while it is in `HubServer.faults`.

    Args:
        request: what it befalls, a pattern for the whole of `METHOD /path`.
        status: answered instead, with `headers`.
        content: makes another body out of a file's; its announced size and hash stay.
        times: how often; by default always.
    """

    request: str
    status: "int | None" = None
    headers: dict = field(default_factory=dict)
    content: "Callable[[bytes], bytes] | None" = None
    times: "int | None" = None


@dataclass
class Repository:
    """A repository's commits, each with all its files, and the names that stand for commits."""

    private: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> "str | None":
        """The commit that a branch, a tag or a commit's own name stands for; None where there is none."""
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        return commit if commit in self.commits else None

    def commit(self, files: dict[str, File], branch: str = "main") -> str:
        """Makes a commit of exactly these files the tip of a branch."""
        content = sorted((path, file.oid) for path, file in files.items())
        name = hashlib.sha1(repr((len(self.commits), self.branches.get(branch), content)).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name


class HubServer:
    """The Hub: `with HubServer() as hub:` serves at `hub.endpoint` until the block ends.

    Args:
        xet: whether large files are downloaded from a Xet store, as those of the real Hub are.

    Attributes:
        repositories (`dict[str, Repository]`): by id.
        requests (`list[tuple[str, str]]`): method and path of each request, in order.
        faults (`list[Fault]`): what goes wrong.
    """

    def __init__(self, xet: bool = False):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.uploads: dict[str, bytes] = {}  # LFS objects by SHA-256
        self.faults: list[Fault] = []
        self.xet = xet
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo_id: str, folder: Path) -> str:
        """Makes a folder a repository, in place of one of that name; its commit."""
        files = {
            path.relative_to(folder).as_posix(): File(path.read_bytes(), lfs=path.name.endswith(_LFS_ENDINGS))
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.repositories[repo_id] = Repository()
        return self.repositories[repo_id].commit(files)

    def environment(self, write: bool = False) -> dict[str, str]:
        """Variables that a client's process needs from its start: huggingface_hub reads them at import."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "0" if self.xet and not write else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        return {**variables, "HF_TOKEN": TOKEN} if write else variables


class _Refused(Exception):
    """A request that gets an error: its status, the Hub's code for it, and what is wrong."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    _ROUTES = (
        ("POST", r"/api/repos/create", "_create"),
        ("POST", r"/api/validate-yaml", "_validate"),
        ("PUT", r"/lfs/([0-9a-f]{64})", "_upload"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "_batch"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "_preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "_commit"),
        ("POST", r"/api/models/([^/]+/[^/]+)/tag/([^/]+)", "_tag"),
        ("GET", r"/api/models/([^/]+/[^/]+)/refs", "_refs"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", "_tree"),
        ("POST", r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", "_paths_info"),
        ("GET", r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", "_info"),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "_resolve"),
        ("GET", r"/api/models/([^/]+/[^/]+)/xet-read-token/([^/]+)", "_xet_token"),
        ("GET", r"/xet/v1/reconstructions/([0-9a-f]{64})", "_xet_reconstruction"),
        ("GET", r"/xet/xorbs/([0-9a-f]{64})", "_xet_xorb"),
    )

    def log_message(self, *_) -> None:  # else every request is printed
        pass

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query, self.body = parse_qs(url.query), self._read_body()
        self.hub.requests.append((self.command, unquote(url.path)))
        method = "GET" if self.command == "HEAD" else self.command
        self.fault = self._next_fault(f"{self.command} {unquote(url.path)}")
        if self.fault is not None and self.fault.status is not None:
            return self._send({"error": "as the test asked"}, self.fault.status, self.fault.headers)
        for wanted, pattern, name in self._ROUTES:
            found = re.fullmatch(pattern, url.path)
            if wanted == method and found:
                try:
                    getattr(self, name)(*(part and unquote(part) for part in found.groups()))
                except _Refused as refused:
                    status, code, message, *headers = refused.args
                    about = {"X-Error-Code": code, "X-Error-Message": message}
                    self._send({"error": message}, status, {**about, **(headers[0] if headers else {})})
                return
        self._send({"error": f"no route for {self.command} {url.path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _next_fault(self, request: str) -> "Fault | None":
        for fault in self.hub.faults:
            if fault.times != 0 and re.fullmatch(fault.request, request):
                fault.times = None if fault.times is None else fault.times - 1
                return fault
        return None

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, body, status: int = 200, headers: "dict | None" = None) -> None:
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _find(self, repo_id: str) -> Repository:
        repository = self.hub.repositories.get(repo_id)
        if repository is None:
            raise _Refused(404, "RepoNotFound", "Repository not found")
        if repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "RepoNotFound", "Invalid username or password.")  # as if it were not there
        return repository

    def _find_commit(self, repo_id: str, revision: str) -> tuple[Repository, str]:
        repository = self._find(repo_id)
        commit = repository.resolve(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _require_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "Unauthorized", "Invalid username or password.")

    # -- writing ----------------------------------------------------------------------------------------------------
    def _create(self) -> None:
        self._require_token()
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repositories:
            return self._send({**answer, "error": "You already created this model repo"}, 409)
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[repo_id] = Repository(private=is_private)
        self.hub.repositories[repo_id].commit({})
        return self._send(answer)

    def _validate(self) -> None:
        self._send({"errors": [], "warnings": []})

    def _preupload(self, repo_id: str, revision: str) -> None:
        self._find_commit(repo_id, revision)
        modes = {True: "lfs", False: "regular"}
        names = [file["path"] for file in json.loads(self.body)["files"]]
        files = [{"path": p, "uploadMode": modes[p.endswith(_LFS_ENDINGS)], "shouldIgnore": False} for p in names]
        self._send({"files": files})

    def _batch(self, repo_id: str) -> None:
        self._find(repo_id)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            about = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.uploads:
                about["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}", "header": {}}}
            objects.append(about)
        self._send({"transfer": "basic", "objects": objects})

    def _upload(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise _Refused(400, "BadRequest", "The content is not that of the announced SHA-256.")
        self.hub.uploads[sha256] = self.body
        self._send({})

    def _commit(self, repo_id: str, branch: str) -> None:
        self._require_token()
        repository, parent = self._find_commit(repo_id, branch)
        files = dict(repository.commits[parent])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
            elif operation["key"] == "lfsFile":
                files[value["path"]] = File(self.hub.uploads[value["oid"]], lfs=True)
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] != "header":
                raise _Refused(400, "BadRequest", f"Unknown operation {operation['key']}")
        commit = repository.commit(files, branch)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{commit}"
        self._send({"success": True, "commitOid": commit, "commitUrl": url})

    def _tag(self, repo_id: str, revision: str) -> None:
        self._require_token()
        repository, commit = self._find_commit(repo_id, revision)
        tag = json.loads(self.body)["tag"]
        if tag in repository.tags:
            raise _Refused(409, "TagExists", f"Tag reference exists already: {tag}")
        repository.tags[tag] = commit
        self._send({})

    # -- reading ----------------------------------------------------------------------------------------------------
    def _info(self, repo_id: str, revision: "str | None") -> None:
        repository, commit = self._find_commit(repo_id, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        about = {"_id": "0", "id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings, "tags": []}
        about.update(private=repository.private, gated=False, disabled=False, downloads=0, likes=0)
        self._send({**about, "author": repo_id.split("/")[0], "lastModified": _DATE, "createdAt": _DATE})

    def _refs(self, repo_id: str) -> None:
        repository = self._find(repo_id)
        about = {}
        for kind, prefix, names in (
            ("branches", "refs/heads/", repository.branches),
            ("tags", "refs/tags/", repository.tags),
        ):
            about[kind] = [{"name": n, "ref": prefix + n, "targetCommit": commit} for n, commit in names.items()]
        self._send({**about, "converts": []})

    def _tree(self, repo_id: str, revision: str, folder: "str | None") -> None:
        repository, commit = self._find_commit(repo_id, revision)
        prefix = f"{folder.strip('/')}/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found = []
        for path, file in sorted(repository.commits[commit].items()):
            if not path.startswith(prefix):
                continue
            parents = path[len(prefix) :].split("/")[:-1]
            for depth in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
                name = prefix + "/".join(parents[:depth])
                about = {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
                if about not in found:
                    found.append(about)
            if recursive or not parents:
                found.append(file.about(path))
        if folder and not found:
            raise _Refused(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        self._send(found)

    def _paths_info(self, repo_id: str, revision: str) -> None:
        repository, commit = self._find_commit(repo_id, revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = (json.loads(self.body) if is_json else parse_qs(self.body.decode()))["paths"]
        files = repository.commits[commit]
        self._send([files[path].about(path) for path in asked if path in files])

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository, commit = self._find_commit(repo_id, revision)
        file = repository.commits[commit].get(path)
        if file is None:
            raise _Refused(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.sha256 if file.lfs else file.oid}"'}
        if file.lfs:
            headers.update({"X-Linked-ETag": headers["ETag"], "X-Linked-Size": len(file.data)})
            if self.hub.xet:
                route = f"{self.hub.endpoint}/api/models/{repo_id}/xet-read-token/{commit}"
                headers.update({"X-Xet-Hash": file.xet_hash, "X-Xet-Refresh-Route": route})
        self._send(self._content(file), headers=headers)

    def _content(self, file: File) -> bytes:
        changed = self.fault is not None and self.fault.content is not None
        return self.fault.content(file.data) if changed else file.data

    # -- reading by Xet ---------------------------------------------------------------------------------------------
    # https://huggingface.co/docs/xet: a file is put together from ranges of chunks of "xorbs"; here each file is one
    # xorb, and is fetched as a whole.
    def _xet_token(self, repo_id: str, revision: str) -> None:
        self._find_commit(repo_id, revision)
        expiration = int(time.time()) + 3600
        names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
        values = (f"{self.hub.endpoint}/xet", "xet", expiration)
        body = dict(zip(("casUrl", "accessToken", "exp"), values, strict=True))
        self._send(body, headers=dict(zip(names, values, strict=True)))

    def _find_xet(self, xet_hash: str) -> File:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for file in files.values():
                    if file.lfs and file.xet_hash == xet_hash:
                        return file
        raise _Refused(404, "EntryNotFound", f"No content {xet_hash}")

    def _xet_reconstruction(self, xet_hash: str) -> None:
        file = self._find_xet(xet_hash)
        first = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if first >= len(file.data):
            raise _Refused(416, "RangeNotSatisfiable", "Beyond the end of the file")
        chunks = {"start": 0, "end": math.ceil(len(file.data) / _CHUNK)}
        url_range = {"start": 0, "end": len(_xorb(file.data)) - 1}
        url = f"{self.hub.endpoint}/xet/xorbs/{xet_hash}"
        answer = {
            "offset_into_first_range": first,
            "terms": [{"hash": xet_hash, "unpacked_length": len(file.data), "range": chunks}],
            "fetch_info": {xet_hash: [{"range": chunks, "url": url, "url_range": url_range}]},
        }
        self._send(answer)

    def _xet_xorb(self, xet_hash: str) -> None:
        self._send(_xorb(self._content(self._find_xet(xet_hash))))


def _xorb(data: bytes) -> bytes:
    """Chunks without compression, each after its header: version, size, kind of compression, size without it."""
    parts = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    sizes = [len(part).to_bytes(3, "little") for part in parts]
    return b"".join(b"\0" + size + b"\0" + size + part for size, part in zip(sizes, parts, strict=True))
