"""A file server on this machine that misbehaves on request."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What the server gives, and how.

    Attributes:
        files: Content by path.
        etag: Entity tag of every file; none where ``None``.
        ranges: Whether it honours ``Range``.
        honour_if_range: Whether a changed entity tag makes it send everything, as it should.
        cut_after: Bytes after which the next answers end too early, one entry an answer.
        statuses: Error statuses of the next answers.
        content_type: Of every answer.
        with_length: Whether it states a length.
        requests: ``(path, Range header)`` of every request so far.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"v1"'
    ranges: bool = True
    honour_if_range: bool = True
    cut_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    content_type: str = "application/octet-stream"
    with_length: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[FileServer]:
    """A running server without files."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range")))
            content = state.files.get(self.path)
            if state.statuses or content is None:
                self.send_error(state.statuses.pop(0) if state.statuses else 404)
                return
            start = self._start()
            if start >= len(content) > 0:
                self.send_error(416)
                return
            self._send(content, start)

        def _start(self) -> int:
            asked = self.headers.get("Range")
            changed = state.honour_if_range and self.headers.get("If-Range") not in (None, state.etag)
            return int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges and not changed else 0

        def _send(self, content: bytes, start: int) -> None:
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", state.content_type)
            if state.etag is not None:
                self.send_header("ETag", state.etag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if state.with_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = start + state.cut_after.pop(0) if state.cut_after else len(content)
            self.wfile.write(content[start:stop])

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output quiet."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    running.shutdown()
    thread.join()
    running.server_close()
