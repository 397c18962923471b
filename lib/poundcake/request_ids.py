"""How requests and their bodies are told apart."""

import hashlib
import uuid


def body_sha256(body: str) -> str:
    """Names a body; the same id with another body is another request."""
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()


def collision_id(request_id: str, sha256: str) -> str:
    """The id of a request whose own id is taken by another body: the same one at every try."""
    return str(uuid.uuid5(uuid.UUID(request_id), sha256))
