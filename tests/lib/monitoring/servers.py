"""A server that answers like Alertmanager or Prometheus, or with errors."""

from __future__ import annotations

import http.server
import json
import threading

from tests import services


class FakeServer:
    """An HTTP server with one response for each path.

    Attributes:
        responses: The response for each path: a JSON value, bytes, or a function of the handler.
        status: The status of every response.
        headers: Headers to add to every response, or to remove if the value is None.
        requests: (method, path, headers, JSON) of each request.
    """

    def __init__(self):
        self.responses, self.status, self.headers, self.requests = {}, 200, {}, []
        fake_server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                document = json.loads(self.rfile.read(length)) if length else None
                fake_server.requests.append((self.command, self.path, dict(self.headers), document))
                body = fake_server.responses.get(self.path.partition("?")[0], b"")
                if callable(body):
                    body(self)
                    return
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response_only(fake_server.status)
                headers = {"Date": self.date_time_string(), "Content-Length": len(body)}
                for name, value in {**headers, **fake_server.headers}.items():
                    if value is not None:
                        self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of http.server

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((services.LOOPBACK, 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://{services.LOOPBACK}:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
