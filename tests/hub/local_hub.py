"""A Hub on localhost for tests: the endpoints that huggingface_hub calls, with faults on demand.

with LocalHub(token="hf_...") as hub:
    subprocess.run(..., env=os.environ | hub.environment(home))
    assert hub.repos["me/model"].head().files["config.json"]
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".onnx", ".onnx_data", ".png", ".jpg")
LARGEST_REGULAR_FILE = 10 * 2**20


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, branch: str, title: str, files: dict[str, bytes]) -> Commit:
        content = repr((title, len(self.commits), sorted((path, git_oid(data)) for path, data in files.items())))
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), title, files)
        self.commits.append(commit)
        self.branches[branch] = commit.oid
        return commit

    def find(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def head(self, branch: str = "main") -> Commit:
        return self.find(branch)


@dataclass
class Fault:
    """A fault in the next `times` requests that match.

    The server responds with `status`, or closes the connection, at once or after `cut_after` bytes of the body. With
    `late`, it handles the request first and then closes the connection before it responds.
    """

    method: str
    path: str
    status: int | None = None
    cut_after: int | None = None
    late: bool = False
    times: int = 1

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and method == self.method and re.search(self.path, path) is not None


class Cut(Exception):
    """Close the connection."""


class LocalHub:
    def __init__(self, token: str):
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # LFS, by sha256
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []  # method, path, bytes of the body
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment variables of a process that uses this Hub alone, with empty caches of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_TOKEN": token or "",
        }

    def sent(self, method: str, path: str) -> int:
        """Number of bytes in the bodies of matching requests."""
        return sum(size for verb, name, size in self.requests if verb == method and re.search(path, name))


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LARGEST_REGULAR_FILE


class Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", "tree"),
        ("POST", r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", "paths_info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/refs", "refs"),
        ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", "branch"),
        ("POST", r"/api/models/([^/]+/[^/]+)/tag/([^/]+)", "tag"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/([0-9a-f]{64})", "lfs_put"),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.dispatch(self.command)

    do_HEAD = do_POST = do_PUT = do_GET

    def dispatch(self, method: str):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.requests.append((method, path, len(self.body)))
        fault = next((fault for fault in self.hub.faults if fault.matches(method, path)), None)
        self.cut_after = None
        try:
            if fault is not None:
                fault.times -= 1
                self.cut_after = 0 if fault.late else fault.cut_after
                if fault.status is not None:
                    return self.error(fault.status, "Fault", "on demand")
                if not fault.late and fault.cut_after is None:
                    raise Cut
            for verb, pattern, name in self.ROUTES:
                if verb == method.replace("HEAD", "GET") and (match := re.fullmatch(pattern, path)):
                    return getattr(self, name)(*(unquote(part) if part else part for part in match.groups()))
            self.error(404, "RepoNotFound", "no such endpoint")
        except Cut:
            self.close_connection = True
            self.connection.close()

    # responses

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None, kind: str = "application/json"):
        if self.cut_after == 0:
            raise Cut
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut_after is not None:
            self.wfile.write(data[: self.cut_after])
            self.wfile.flush()
            raise Cut
        self.wfile.write(data)

    def json(self, content, status: int = 200):
        self.send(status, json.dumps(content).encode())

    def error(self, status: int, code: str, message: str):
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.send(status, json.dumps({"error": message}).encode(), headers)

    @property
    def knows_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def repo(self, name: str, write: bool = False) -> Repo | None:
        """The repo, or None after an error response. A private repo does not exist for requests without the token."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.knows_token):
            self.error(401 if not self.knows_token else 404, "RepoNotFound", "Repository not found")
            return None
        if write and not self.knows_token:
            self.error(401, "", "Invalid username or password.")
            return None
        return repo

    def at(self, name: str, revision: str | None, write: bool = False) -> tuple[Repo, Commit] | None:
        repo = self.repo(name, write)
        if repo is None:
            return None
        commit = repo.find(revision or "main")
        if commit is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo, commit

    # routes

    def whoami(self):
        if not self.knows_token:
            return self.error(401, "", "Invalid username or password.")
        self.json({"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})

    def create(self):
        if not self.knows_token:
            return self.error(401, "", "Invalid username or password.")
        requested = json.loads(self.body)
        name = f"{requested.get('organization') or 'me'}/{requested['name']}"
        exists = name in self.hub.repos
        private = requested.get("private") or requested.get("visibility") == "private"
        self.hub.repos.setdefault(name, Repo(bool(private)))
        self.json({"url": f"{self.hub.url}/{name}", "name": name, "id": name}, 409 if exists else 200)

    def validate_yaml(self):
        """The first checks of the Hub: there is a metadata block, and it is a YAML mapping."""
        match = re.match(r"^---\n(.*?)\n---\n", json.loads(self.body)["content"], re.S)
        try:
            content = yaml.safe_load(match.group(1)) if match else None
        except yaml.YAMLError as error:
            return self.json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        warnings = [] if isinstance(content, dict) else [{"message": "empty or missing yaml metadata in repo card"}]
        self.json({"errors": [], "warnings": warnings})

    def info(self, name: str, revision: str | None):
        if located := self.at(name, revision):
            repo, commit = located
            siblings = [{"rfilename": path} for path in sorted(commit.files)]
            self.json({"id": name, "sha": commit.oid, "private": repo.private, "siblings": siblings, "tags": []})

    def entries(self, commit: Commit) -> list[dict]:
        entries = []
        for path, data in sorted(commit.files.items()):
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
            if is_lfs(path, len(data)):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return entries

    def tree(self, name: str, revision: str):
        if located := self.at(name, revision):
            self.json(self.entries(located[1]))

    def paths_info(self, name: str, revision: str):
        if located := self.at(name, revision):
            text = self.body.decode()
            requested = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
            self.json([entry for entry in self.entries(located[1]) if entry["path"] in requested])

    def refs(self, name: str):
        if (repo := self.repo(name)) is not None:
            kinds = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
            self.json(
                {
                    kind: [{"name": n, "ref": f"refs/{place}/{n}", "targetCommit": oid} for n, oid in refs.items()]
                    for kind, (place, refs) in kinds.items()
                }
                | {"converts": []}
            )

    def branch(self, name: str, branch: str):
        start = json.loads(self.body or b"{}").get("startingPoint")
        if located := self.at(name, start, write=True):
            repo, commit = located
            if branch in repo.branches:
                return self.error(409, "", "Reference already exists")
            repo.branches[branch] = commit.oid
            self.json({})

    def tag(self, name: str, revision: str):
        if located := self.at(name, revision, write=True):
            repo, commit = located
            tag = json.loads(self.body)["tag"]
            if tag in repo.tags:
                return self.error(409, "", "Tag reference exists already")
            repo.tags[tag] = commit.oid
            self.json({})

    def preupload(self, name: str, revision: str):
        if located := self.at(name, revision, write=True):
            answers = []
            for requested in json.loads(self.body)["files"]:
                path, lfs = requested["path"], is_lfs(requested["path"], requested["size"])
                data = located[1].files.get(path)
                known = None if data is None else hashlib.sha256(data).hexdigest() if lfs else git_oid(data)
                mode = "lfs" if lfs else "regular"
                answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
            self.json({"files": answers})

    def lfs_batch(self, name: str):
        if self.repo(name, write=True) is None:
            return
        objects = []
        for requested in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{requested['oid']}", "header": {}}}
            objects.append(requested if requested["oid"] in self.hub.blobs else requested | {"actions": upload})
        self.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "", "the body does not match its hash")
        self.hub.blobs[oid] = self.body
        self.json({})

    def commit(self, name: str, revision: str):
        located = self.at(name, revision, write=True)
        if located is None:
            return
        repo, parent = located
        files, title = dict(parent.files), ""
        for line in self.body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent.oid):
                    return self.error(412, "", "A commit has happened since. Please refresh and try again.")
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.error(400, "", f"LFS pointer to an object that was never uploaded: {value['path']}")
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = repo.commit(revision, title, files)
        self.json(
            {"commitUrl": f"{self.hub.url}/{name}/commit/{commit.oid}", "commitOid": commit.oid, "success": True}
        )

    def resolve(self, name: str, revision: str, path: str):
        located = self.at(name, revision)
        if located is None:
            return
        commit = located[1]
        data = commit.files.get(path)
        if data is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.oid}
            return self.send(404, b"Entry not found", headers, "text/plain")
        lfs = is_lfs(path, len(data))
        etag = hashlib.sha256(data).hexdigest() if lfs else git_oid(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if start is None:
            return self.send(200, data, headers, "application/octet-stream")
        first, last = int(start[1]), int(start[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.send(206, data[first : last + 1], headers, "application/octet-stream")
