"""Check problem documents."""

from __future__ import annotations

import uuid


def check_problem(answer, status):
    """Assert that a response is an RFC 9457 problem document, and return it."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json
    assert document["status"] == status
    assert document["title"] and document["type"] == "about:blank"
    assert str(uuid.UUID(document["request_id"])) == document["request_id"]
    assert answer.headers["x-request-id"] == document["request_id"]
    assert document["detail"]
    return document
