"""A browser, as far as the server of `clew ui` can tell: what a page sends, over plain HTTP."""

from __future__ import annotations

import http.client
import json
import urllib.request
import uuid
from pathlib import Path


class Visitor:
    """One who looks at a page at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        config = json.loads(self.ask("config"))
        self._events, self._components = config["dependencies"], config["components"]

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        asked = urllib.request.Request(f"{self.address}/{path}", body, {"Content-Type": kind})
        with urllib.request.urlopen(asked, timeout=900) as answer:
            return answer.read()

    def event(self, output: str, inputs: int) -> dict:
        """The event with so many inputs that fills the component with this id."""
        wanted = next(one["id"] for one in self._components if one["props"].get("elem_id") == output)
        return next(e for e in self._events if wanted in e["outputs"] and len(e["inputs"]) == inputs)

    def upload(self, name: str, data: bytes) -> dict:
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + f"\r\n--{edge}--\r\n".encode()
        (path,) = json.loads(self.ask("gradio_api/upload", body, f"multipart/form-data; boundary={edge}"))
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def beside_the_queue(self, event: dict, data: list) -> str:
        """All that comes back for an event that is sent past the queue."""
        return self.ask("gradio_api/run/predict", _body(event, data, uuid.uuid4().hex)).decode()

    def send(self, event: dict, data: list) -> str:
        """All that comes back for an event, sent as the page says: through the queue or beside it."""
        if not event["queue"]:
            return self.beside_the_queue(event, data)
        session = uuid.uuid4().hex
        self.ask("gradio_api/queue/join", _body(event, data, session))
        return self.ask(f"gradio_api/queue/data?session_hash={session}").decode()

    def preview(self, name: str, data: bytes) -> str:
        return self.send(self.event("explain-preview", 1), [self.upload(name, data)])

    def explain(self, name: str, data: bytes) -> str:
        given = ["mini:digits", self.upload(name, data), "", "", "", ["raw_attention"], [], "say so", None, None]
        return self.send(self.event("maps", 10), given)


def _body(event: dict, data: list, session: str) -> bytes:
    return json.dumps({"data": data, "fn_index": event["id"], "session_hash": session}).encode()


def status_for(address: str, host: str | None, path: str = "/", method: str = "GET", **headers: str) -> int:
    """The status of a request that says it is for `host`; None: for nobody."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {**({} if host is None else {"Host": host}), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    found = connection.getresponse().status
    connection.close()
    return found


def resident(process: int, what: str = "VmRSS") -> float:
    """What a process holds in memory, in MB; `VmHWM`: the most that it ever held (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))
