"""Check responses that are RFC 9457 problem documents."""

from __future__ import annotations

import uuid


def check_problem(response, status):
    """Assert that a response is an RFC 9457 problem document, and return it."""
    assert response.status == status
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json
    assert document["status"] == status
    assert document["title"] and document["type"] == "about:blank"
    assert str(uuid.UUID(document["request_id"])) == document["request_id"]
    assert response.headers["x-request-id"] == document["request_id"]
    assert document["detail"]
    return document
