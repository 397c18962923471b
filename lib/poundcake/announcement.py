"""Pack and unpack the trigger poundcake.announce, which lists the requests to record.

The list is JSON, compressed with zlib and encoded as base64. Base64 contains no template
delimiters, so StackStorm finds nothing to evaluate in it, even when an operator re-runs the
execution.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Sequence

from poundcake.errors import PoundCakeError
from poundcake.json_depth import is_too_deep
from poundcake.timestamps import format_timestamp, parse_timestamp

VERSION = 1


class AnnouncementError(PoundCakeError):
    """An announcement that this release cannot read."""


@dataclass(frozen=True)
class Request:
    """An accepted request: its body unchanged, and only the headers that the endpoint stores.

    Attributes:
        request_id: The id in the endpoint's response.
        received_at: When the endpoint received the request.
        client_host: The IP address of the client.
        client_request_id: The id that the sender chose, if another request already has that id.
        method: The HTTP method.
        path: The path of the URL.
        headers: The stored headers, by name.
        body: The body, as text.
        credential: The name of the sender's credential, or '' if none was required.
    """

    request_id: str
    received_at: datetime
    client_host: str
    client_request_id: str
    method: str
    path: str
    headers: dict[str, str]
    body: str
    credential: str = ""


def pack(
    requests: Sequence[Request],
    database_id: str,
    announcement_id: str | None = None,
    clock_offset_seconds: float = 0.0,
) -> dict[str, Any]:
    """Return the payload of poundcake.announce.

    Args:
        requests: The requests to announce.
        database_id: The id of the tracking database that the endpoint reads. `record` refuses to
            write to a different one.
        announcement_id: The id of the announcement; a new one by default.
        clock_offset_seconds: Seconds by which the endpoint's clock, which sets `received_at`, is
            ahead of the database's clock; 0 if unknown.
    """
    documents = [{**asdict(r), "received_at": format_timestamp(r.received_at)} for r in requests]
    compressed = zlib.compress(json.dumps(documents).encode(), 1)
    return {
        "version": VERSION,
        "announcement_id": announcement_id or str(uuid.uuid4()),
        "database_id": database_id,
        "count": len(documents),
        "clock_offset_seconds": clock_offset_seconds,
        "batch": base64.b64encode(compressed).decode(),
    }


def unpack(version: int, batch: str) -> list[Request]:
    """Return the requests in an announcement.

    Raises:
        AnnouncementError: Another release packed the batch, or the batch is damaged.
    """
    if version != VERSION:
        raise AnnouncementError(
            f"the announcement has version {version}, but this release of the pack reads version "
            f"{VERSION}: install the same release everywhere; the endpoint will retry"
        )
    try:
        text = zlib.decompress(base64.b64decode(batch, validate=True))
        if is_too_deep(text):
            raise ValueError("nested too deeply")
        documents = json.loads(text)
        return [
            Request(**{**r, "received_at": parse_timestamp(r["received_at"])}) for r in documents
        ]
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise AnnouncementError(f"batch: cannot be unpacked: {error}") from None
