"""A web server of a folder that serves ranges, as object stores do: slow, failing, or dying.

For `scale_remote.py` and the tests of data behind URLs.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class RangeServer:
    """What the server does; tests set its attributes while it runs."""

    folder: Path
    url: str = ""
    latency: float = 0.0
    """Seconds before each answer."""
    fail_every: int = 0
    """Every so many GETs are answered with 503; 0 for none."""
    dies_after: int | None = None
    """GETs that are answered; all later ones break the connection off."""
    ranges: bool = True
    status: int = 503
    short: bool = False
    """Whether answers end too early."""
    gets: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, first byte and end of all that were answered."""
    asked: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: RangeServer
    lock: threading.Lock

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self, *, head: bool) -> None:
        state = self.state
        time.sleep(state.latency)
        with self.lock:
            state.asked += not head
            asked = state.asked
        if state.dies_after is not None and asked > state.dies_after:
            self.close_connection = True
            return
        if not head and state.fail_every and asked % state.fail_every == 0:
            self._send(state.status, b"", {})
            return
        path = self.path.split("?")[0]
        file = state.folder / path.lstrip("/")
        if file.is_dir():
            links = "".join(f'<a href="{p.name}">{p.name}</a>' for p in sorted(file.iterdir()))
            self._send(200, b"" if head else links.encode(), {"Content-Type": "text/html"})
            return
        if not file.is_file():
            self._send(404, b"", {})
            return
        size = file.stat().st_size
        start, stop, status = 0, size, 200
        if state.ranges and (asked_for := self.headers.get("Range")):
            first, _, last = asked_for.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last or size - 1) + 1, size), 206
        more = {"ETag": f'"{size}-{file.stat().st_mtime_ns}"'}
        if state.ranges:
            more["Accept-Ranges"] = "bytes"
        if status == 206:
            more["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if head:
            self._send(status, b"", more | {"Content-Length": str(stop - start)})
            return
        with file.open("rb") as stream:
            stream.seek(start)
            data = stream.read(stop - start)
        with self.lock:
            state.gets.append((path, start, stop))
        self._send(status, data[: len(data) // 2] if state.short else data, more)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    """Serve a folder on this machine while the block runs."""
    state = RangeServer(folder)
    own = {"state": state, "lock": threading.Lock()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), own))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that are gone
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
