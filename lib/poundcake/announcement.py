"""What travels as poundcake.announce: a list of requests on its way to be recorded.

base64 of zlib of JSON is inert by its alphabet: StackStorm finds nothing in it to evaluate, also
when an operator runs the execution again.
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
from poundcake.timestamps import format_timestamp, parse_timestamp

VERSION = 1


class AnnouncementError(PoundCakeError):
    """An announcement that this release cannot read."""


@dataclass(frozen=True)
class Request:
    """One accepted request, as it came but for its headers, which are kept by allow-list."""

    request_id: str
    received_at: datetime
    client_host: str
    client_request_id: str
    method: str
    path: str
    headers: dict[str, str]
    body: str


def pack(
    requests: Sequence[Request], database_id: str, announcement_id: str | None = None
) -> dict[str, Any]:
    """The payload of poundcake.announce."""
    listed = [{**asdict(r), "received_at": format_timestamp(r.received_at)} for r in requests]
    packed = zlib.compress(json.dumps(listed).encode(), 1)
    return {
        "version": VERSION,
        "announcement_id": announcement_id or str(uuid.uuid4()),
        "database_id": database_id,
        "count": len(listed),
        "batch": base64.b64encode(packed).decode(),
    }


def unpack(version: int, batch: str) -> list[Request]:
    """The requests of an announcement. Raises AnnouncementError."""
    if version != VERSION:
        raise AnnouncementError(
            f"the announcement has version {version}, this release of the pack reads {VERSION}: "
            "the endpoint announces again, so run the same release everywhere"
        )
    try:
        listed = json.loads(zlib.decompress(base64.b64decode(batch, validate=True)))
        return [Request(**{**r, "received_at": parse_timestamp(r["received_at"])}) for r in listed]
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        raise AnnouncementError(f"batch: cannot be unpacked: {error}") from None
