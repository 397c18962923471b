"""The ids of requests, and how a request is told from another with the same id."""

from __future__ import annotations

import hashlib
import uuid


def body_sha256(body: str) -> str:
    """Return the SHA-256 of a body, in hex.

    Two requests with the same id but different bodies are different requests.
    """
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()


def collision_id(request_id: str, sha256: str) -> str:
    """Return the id under which a request is recorded whose own id another body has taken.

    It depends on nothing but the id and the body, so every attempt to record the request comes to
    the same id.
    """
    return str(uuid.uuid5(uuid.UUID(request_id), sha256))


def replay_id(request_id: str, execution_id: str) -> str:
    """Return the id of the replay of a request that an execution makes.

    An execution whose work is repeated, because nobody knows whether it was committed, comes to
    the same id and finds its own replay on record.
    """
    return str(uuid.uuid5(uuid.UUID(request_id), f"replayed by {execution_id}"))


def confirmation_id(request_id: str, position: int) -> str:
    """Return the id of the request that admits an unconfirmed alert of another request.

    Args:
        request_id: The request that contained the alert.
        position: The alert's position in it.
    """
    return str(uuid.uuid5(uuid.UUID(request_id), f"admitted alert {position}"))
