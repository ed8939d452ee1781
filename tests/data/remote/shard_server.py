"""A local HTTP server of a folder that can stall, cut, lie, fail and redirect."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TRICKLE_S = 0.02


class ShardServer:
    """`url`: where `folder` is. `faults[path]`: what the next requests for it meet, one each."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.faults: defaultdict[str, list[str]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.headers: dict[str, dict[str, str]] = {}
        self.sent = threading.Event()
        """Set when the first bytes of a stalling answer are out."""
        self.go_on = threading.Event()
        """Ends all stalls."""
        self.delay_s = 0.0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.requests[path] += 1
        self.headers[path] = dict(handler.headers)
        fault = self.faults[path].pop(0) if self.faults[path] else ""
        file = self.folder / path.removeprefix("/moved").lstrip("/")
        time.sleep(self.delay_s)
        if fault.isdecimal():
            handler.send_error(int(fault))
        elif not file.is_file():
            handler.send_error(404)
        elif path.startswith("/moved"):
            handler.send_response(302)
            handler.send_header("Location", f"{self.url}/{file.relative_to(self.folder)}")
            handler.end_headers()
        else:
            self._send(handler, file.read_bytes(), fault)

    def _send(self, handler: BaseHTTPRequestHandler, content: bytes, fault: str) -> None:
        if fault == "wrong":
            content = content[:-1] + bytes([content[-1] ^ 1])
        handler.send_response(200)
        if fault != "untold":
            handler.send_header("Content-Length", str(len(content) + (fault == "other size")))
        handler.end_headers()
        if fault in ("truncate", "untold"):
            content = content[: len(content) // 2]
        elif fault in ("stall", "trickle"):
            handler.wfile.write(content[:600])
            handler.wfile.flush()
            self.sent.set()
            while not self.go_on.wait(TRICKLE_S if fault == "trickle" else 30):
                handler.wfile.write(b"x")
            return
        handler.wfile.write(content)


@contextmanager
def serve(folder: Path) -> Iterator[ShardServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                shards.answer(self)
            except (BrokenPipeError, ConnectionResetError):  # the client gave up on us
                self.close_connection = True

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    shards = ShardServer(folder, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield shards
    finally:
        shards.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
