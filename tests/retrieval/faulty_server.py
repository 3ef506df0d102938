"""A small HTTP server of the published API shape whose faults a test chooses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def good_answer(body: dict[str, Any]) -> Any:
    """One document per query, which repeats the query; in the shape that was asked for."""
    found = []
    for query in body["queries"]:
        document = {"id": f"id of {query}", "contents": f'"Title"\nabout {query}\nk={body["topk"]}'}
        found.append([{"document": document, "score": 1.5} if body["return_scores"] else document])
    return {"result": found}


class FaultyServer:
    """Answers with `behave(handler, body)`; `bodies` are the requests seen. A context manager."""

    def __init__(self, port: int = 0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.behave: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None] = answer_well
        self.ended = threading.Event()  # lets slow handlers go
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept, as those of real servers

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.bodies.append(body)
                with suppress(BrokenPipeError, ConnectionResetError):  # the client gave up
                    server.behave(self, body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> FaultyServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def answer_well(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    send(handler, json.dumps(good_answer(body)).encode())


def answering(content: bytes, status: int = 200) -> Any:
    """Always this content."""
    return lambda handler, body: send(handler, content, status)
