"""Show the messages that people would get: print each one, and list the newest 100 on a page.

Alertmanager posts its notifications as JSON, and the rules of the pack poundcake_trial post text.
"""

from __future__ import annotations

import collections
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BYTES = 1_000_000
messages = collections.deque(maxlen=100)


class Handler(BaseHTTPRequestHandler):
    """Accept a message by POST, and return all of them by GET."""

    def do_POST(self):
        """Store and print a message."""
        length = min(int(self.headers.get("Content-Length", 0)), MAX_BYTES)
        body = self.rfile.read(length).decode(errors="replace")
        message = time.strftime("%H:%M:%S ") + describe(body, self.headers.get("Content-Type", ""))
        messages.appendleft(message)
        print(message, flush=True)
        self.answer("received\n")

    def do_GET(self):
        """Return the messages, newest first."""
        self.answer("\n\n".join(messages) + "\n" if messages else "No messages yet.\n")

    def answer(self, text):
        """Send a page of plain text."""
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Print no line for each request: the messages are the log."""


def describe(body, content_type):
    """Return a message as text. For Alertmanager's notification, return a line for each alert."""
    if "json" not in content_type:
        return body.strip()
    try:
        return "\n         ".join(
            f"Alertmanager: {alert['status']} {alert['labels'].get('alertname', '')}: "
            f"{alert['annotations'].get('summary', '')}"
            for alert in json.loads(body)["alerts"]
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return body.strip()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    ThreadingHTTPServer(("", port), Handler).serve_forever()
