"""A W&B server in the standard library, so that real online runs end in a test.

It answers the operations that wandb 0.31 sends for a run and keeps what they say in
`runs`, `artifacts` and `uploads`. `unknown` collects everything else: it must stay
empty, and tells when a new wandb says something new. Faults: `down` drops every
connection, `status` answers all with an HTTP error, `delay` waits (seconds),
`fail(operation)` gives an error or None, `body` is sent whatever was asked.
"""

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ARTIFACT = {"id": "a", "digest": "d"}


@dataclass
class FakeRun:
    """One run as it came over the wire."""

    name: str
    upserts: list[dict] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    exit_code: int | None = None
    was_preempted: bool = False

    def last(self, key: str) -> Any:
        """The newest value of an upsert's variable; None if there was none."""
        return [None, *(u[key] for u in self.upserts if u.get(key) is not None)][-1]

    @property
    def config(self) -> dict[str, Any]:
        items = json.loads(self.last("config")).items()
        return {key: item["value"] for key, item in items if key != "_wandb"}

    @property
    def history(self) -> list[dict]:
        """The rows that were logged; W&B adds one of its own at the end."""
        return [row for row in self._lines("history") if "step" in row]

    @property
    def events(self) -> list[dict]:
        """The system metrics."""
        return self._lines("events")

    @property
    def summary(self) -> dict:
        return json.loads(self.files["wandb-summary.json"][-1])

    def _lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in self.files.get(f"wandb-{name}.jsonl", [])]


class FakeWandb:
    def __init__(self):
        self.runs: dict[str, FakeRun] = {}
        self.artifacts: list[dict] = []  # what `CreateArtifact` was given
        self.uploads: dict[str, bytes] = {}  # by the file's name
        self.unknown: list[str] = []
        self.down = False
        self.status: int | None = None
        self.delay = 0.0
        self.body: bytes | None = None
        self.fail = lambda operation: None
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        # Clients that are killed or time out are what the tests are about.
        self._server.handle_error = lambda request, client_address: None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def env(self) -> dict[str, str]:
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "k" * 40,
            "WANDB_MODE": "online",
        }

    def graphql(self, operation: str, variables: dict) -> Any:
        """The data of an answer; None for an operation that isn't known."""
        answers = {
            "UpsertBucket": self._upsert,
            "CreateRunFiles": self._create_files,
            "Run": self._public_run,
            "RunHistoryKeys": self._public_run,
            "RunResumeStatus": self._resume_status,
            "ArtifactType": lambda _: {"project": None},  # no such artifact so far
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": lambda _: {"commitArtifact": {"artifact": _ARTIFACT}},
            "ArtifactByID": lambda _: {"artifact": _committed(self.artifacts[-1])},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": None},
            "GetDefaultEntity": lambda _: {"viewer": {"id": "u", "entity": "me"}},
            "Viewer": lambda _: {
                "viewer": {
                    "id": "u",
                    "entity": "me",
                    "username": "me",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            },
        }
        return answers[operation](variables) if operation in answers else None

    def _upsert(self, variables: dict) -> dict:
        name = variables["name"]
        self.runs.setdefault(name, FakeRun(name)).upserts.append(variables)
        project = {"id": "p", "name": "runner", "entity": {"id": "e", "name": "me"}}
        bucket = {
            "id": name,
            "name": name,
            "displayName": variables.get("displayName"),
            "description": None,
            "config": variables.get("config"),
            "sweepName": None,
            "project": project,
            "historyLineCount": 0,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _resume_status(self, variables: dict) -> dict:
        run = self.runs.get(variables["name"])
        if run is None:
            return {"model": None}
        lines = {
            name: run.files.get(f"wandb-{name}.jsonl", [])
            for name in ("history", "events")
        }
        summary = run.files.get("wandb-summary.json", ["{}"])[-1]
        bucket = {
            "id": run.name,
            "name": run.name,
            "summaryMetrics": summary,
            "displayName": run.last("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(lines["history"]),
            "eventsLineCount": len(lines["events"]),
            "historyTail": json.dumps(lines["history"][-1:]),
            "eventsTail": json.dumps(lines["events"][-1:]),
            "config": run.last("config"),
            "tags": [],
            "wandbConfig": "{}",
        }
        return {"model": {"bucket": bucket}}

    def _public_run(self, variables: dict) -> dict:
        run = self.runs.get(variables["name"])
        if run is None:
            return {"project": {"run": None}}
        rows = map(json.loads, run.files.get("wandb-history.jsonl", []))
        last = max((row.get("_step", -1) for row in rows), default=-1)
        names = ("sweepName", "commit", "readOnly", "createdAt", "notes")
        more = ("heartbeatAt", "description", "systemMetrics", "group", "jobType")
        found = dict.fromkeys(names + more) | {
            "id": run.name,
            "name": run.name,
            "projectId": "1",
            "displayName": run.last("displayName"),
            "tags": [],
            "state": "running" if run.exit_code is None else "finished",
            "config": run.last("config"),
            "summaryMetrics": run.files.get("wandb-summary.json", ["{}"])[-1],
            "historyLineCount": len(run.files.get("wandb-history.jsonl", [])),
            "user": {"name": "me", "username": "me"},
            "historyKeys": {"lastStep": last, "keys": {}},
        }
        return {"project": {"run": found}}

    def _create_files(self, variables: dict) -> dict:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/put/{name}"}
            for name in variables["files"]
        ]
        answer = {"runID": "r", "uploadHeaders": [], "files": files}
        return {"createRunFiles": answer}

    def _create_artifact(self, variables: dict) -> dict:
        self.artifacts.append(variables["input"])
        found = _ARTIFACT | {
            "state": "PENDING",
            "artifactSequence": {"id": "s", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": found}}

    def _create_manifest(self, variables: dict) -> dict:
        url = f"{self.url}/put/{variables['name']}"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        manifest = {"artifactManifest": {"id": "m", "file": file}}
        return {"createArtifactManifest": manifest}

    def _create_artifact_files(self, variables: dict) -> dict:
        nodes = [
            {
                "storagePath": None,
                "uploadUrl": f"{self.url}/put/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": "a"},
            }
            for file in variables["input"]["artifactFiles"]
        ]
        edges = [{"node": node} for node in nodes]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def stream(self, name: str, body: dict) -> None:
        run = self.runs.setdefault(name, FakeRun(name))
        for file, part in (body.get("files") or {}).items():
            lines = run.files.setdefault(file, [])
            lines[part["offset"] :] = part["content"]
        run.was_preempted |= bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_code = body["exitcode"]


def _committed(given: dict) -> dict:
    """An artifact as the server has it once its files have arrived."""
    kind, name = given["artifactTypeName"], given["artifactCollectionName"]
    entity = {"name": "me"}
    project = {"id": "p", "internalId": "p", "name": "runner", "entity": entity}
    absent = ("versionIndex", "description", "metadata", "historyStep", "commitHash")
    return (
        _ARTIFACT
        | dict.fromkeys((*absent, "updatedAt"))
        | {"ttlDurationSeconds": 0, "ttlIsInherited": True, "tags": [], "aliases": []}
        | {"artifactSequence": {"name": name, "project": project}, "size": 0}
        | {"artifactType": {"name": kind}, "state": "COMMITTED", "fileCount": 1}
        | {"createdAt": "2026-01-01T00:00:00Z"}
    )


class _Handler(BaseHTTPRequestHandler):
    fake: FakeWandb
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.fake.delay)
        message = json.loads(body) if self.command == "POST" else {}
        if self.command == "PUT":
            self.fake.uploads[self.path.removeprefix("/put/")] = body
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if stream:
            operation = "file_stream"
        elif self.path.startswith("/graphql"):
            query = re.search(r"(?:query|mutation)\s+(\w+)", message["query"])
            operation = query[1] if query else "anonymous"
        else:
            operation = f"{self.command} {self.path}"
        if self.fake.down:
            self.close_connection = True
            self.connection.close()
            return
        if status := self.fake.status or self.fake.fail(operation):
            self._answer({"errors": [{"message": f"fake {status}"}]}, status)
            return
        if stream:
            self.fake.stream(stream[1], message)
            self._answer({"exitcode": None, "limits": {}})
        elif operation.startswith("PUT /put/"):
            self._answer({})
        else:
            data = self.fake.graphql(operation, message.get("variables") or {})
            if data is None:
                self.fake.unknown.append(operation)
            self._answer({"data": data or {}})

    do_PUT = do_GET = do_POST

    def _answer(self, value: Any, status: int = 200) -> None:
        body = self.fake.body or json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
