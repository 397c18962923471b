"""The payload of the trigger poundcake.announce: a list of requests to be recorded.

It is base64 of zlib of JSON. Its alphabet contains no delimiter of a template, so StackStorm finds
nothing to evaluate in it, even when an operator runs the execution again.
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
    """One accepted request, unchanged except that only known headers are kept.

    credential: the name of the one that its sender used, '' if it needed none.
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
    requests: Sequence[Request], database_id: str, announcement_id: str | None = None
) -> dict[str, Any]:
    """Return the payload of poundcake.announce.

    Args:
        requests: The requests to announce.
        database_id: The tracking database that the endpoint reads. `record` refuses to write
            another one.
        announcement_id: The name of the announcement; a new one by default.
    """
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
    """Return the requests of an announcement.

    Raises:
        AnnouncementError: Another release packed the batch, or it is damaged.
    """
    if version != VERSION:
        raise AnnouncementError(
            f"the announcement has version {version}, but this release of the pack reads version "
            f"{VERSION}: install the same release everywhere; the endpoint announces again"
        )
    try:
        listed = json.loads(zlib.decompress(base64.b64decode(batch, validate=True)))
        return [Request(**{**r, "received_at": parse_timestamp(r["received_at"])}) for r in listed]
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        raise AnnouncementError(f"batch: cannot be unpacked: {error}") from None
