"""A server on 127.0.0.1 that gives small files, and misbehaves as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """How one request is answered; a request that no answer is kept for gets the file."""

    status: int = 200
    body: bytes | None = None  # instead of the file
    kind: str = "application/octet-stream"
    breaks_after: int | None = None  # bytes sent before the connection is cut
    ranges: bool = True  # whether a part may be asked for
    headers: dict[str, str] = field(default_factory=dict)


class Served:
    """Files by path, and what was asked.

    Attributes:
        files: What lies where.
        answers: Answers kept for the next requests of a path, in their order.
        asked: (Path, Range header or "") of every GET.
        hold_after: Bytes after which every answer waits until `go_on` is set; None for no waiting.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.hold_after: int | None = None
        self.go_on = threading.Event()

    def ranges(self, path: str) -> list[str]:
        """Return the Range header of every GET of a path."""
        return [span for asked, span in self.asked if asked == path]


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            served.asked.append((self.path, self.headers.get("Range", "")))
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            kept = served.answers.get(self.path, []) if with_body else []
            answer = kept.pop(0) if kept else Answer()
            body = served.files.get(self.path) if answer.body is None else answer.body
            if body is None or answer.status >= 400:
                self.send_error(404 if body is None else answer.status)
                return
            start, status = 0, answer.status
            span = self.headers.get("Range", "")
            if span.startswith("bytes=") and answer.ranges:
                start, status = int(span[6:].partition("-")[0]), 206
                if start >= len(body):
                    self.send_error(416)
                    return
            self.send_response(status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(body) - start))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            for name, value in (served.headers.get(self.path, {}) | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self._send(body[start:], answer)

        def _send(self, body: bytes, answer: Answer) -> None:
            if served.hold_after is not None and not served.go_on.is_set():
                first, body = body[: served.hold_after], body[served.hold_after :]
                self.wfile.write(first)
                self.wfile.flush()
                served.go_on.wait(200)
            with suppress(OSError):  # who asked may be gone
                self.wfile.write(body[: answer.breaks_after])
            if answer.breaks_after is not None:
                self.close_connection = True

    return Handler


@contextmanager
def serving() -> Iterator[Served]:
    """Serve in threads until the block ends."""
    # The handler needs what is served, which needs the port, which the server chooses.
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    served = Served(server.server_port)
    server.RequestHandlerClass = _handler(served)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        served.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_until(true: Any, seconds: float = 200.0) -> None:
    """Return when a condition holds.

    Raises:
        AssertionError: If it does not in time.
    """
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
