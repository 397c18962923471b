"""Derive the ids of requests, and distinguish requests that have the same id.

Derived ids are UUIDs of version 5. No sender can choose one: see endpoint.webhook.
"""

from __future__ import annotations

import hashlib
import uuid


def body_sha256(body: str) -> str:
    """Return the SHA-256 of a body, in hex.

    Two requests with the same id but different bodies are different requests.
    """
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()


def collision_id(request_id: str, sha256: str) -> str:
    """Return the id under which to record a request whose own id belongs to a different body.

    The result depends only on the id and the body, so every attempt to record the request derives
    the same id.
    """
    return str(uuid.uuid5(uuid.UUID(request_id), sha256))


def replay_id(request_id: str, execution_id: str) -> str:
    """Return the id of a replay of a request by an execution.

    If the execution retries after a commit whose result is unknown, it derives the same id, and so
    finds the replay if it was recorded.
    """
    return str(uuid.uuid5(uuid.UUID(request_id), f"replayed by {execution_id}"))


def confirmation_id(request_id: str, position: int) -> str:
    """Return the id of the request that admits an unconfirmed alert of another request.

    Args:
        request_id: The request that contained the alert.
        position: The index of the alert in that request, from 0.
    """
    return str(uuid.uuid5(uuid.UUID(request_id), f"admitted alert {position}"))
