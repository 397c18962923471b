"""Find a request, an episode or a fingerprint by the beginning of its id, as git does.

A short id has at least MIN_CHARACTERS characters. The name of an episode begins with the
fingerprint of its alert. If all episodes that a short id may mean belong to one alert, it means the
newest of them.
"""

from __future__ import annotations

import re
from typing import Any, Sequence

from sqlalchemy import Row, select
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail.index_ranges import distinct_values, has_prefix
from poundcake.trail.schema import alerts, api_calls
from poundcake.trail.search import FilterError

MIN_CHARACTERS = 4
"""Minimum length of a short id."""
MAX_LISTED = 5
"""Maximum number of ids that the error about an ambiguous short id lists."""
_REQUEST_ID_CHARACTERS = 36
_FINGERPRINT_CHARACTERS = 16
# The start of an episode in milliseconds has 13 digits from 2001 to 2286.
_WHOLE_EPISODE = re.compile(r"[0-9A-Za-z_-]{1,64}-[0-9]{13}\Z")
_EPISODE_START = re.compile(r"--?[0-9]+\Z")


def find_request_id(connection: Connection, text: str) -> str | None:
    """Return the request_id that begins with a text, or None if there is none.

    Raises:
        FilterError: Several begin with it.
    """
    if len(text) >= _REQUEST_ID_CHARACTERS or len(text) < MIN_CHARACTERS:
        return text if len(text) == _REQUEST_ID_CHARACTERS else None
    rows = connection.execute(
        select(api_calls.c.id, api_calls.c.request_id, api_calls.c.created_at)
        .where(*has_prefix(api_calls.c.request_id, text.lower()))
        .order_by(api_calls.c.request_id)
        .limit(MAX_LISTED + 1)
    ).all()
    if len(rows) > 1:
        descriptions = [_describe_request(connection, row) for row in rows]
        raise ambiguous("request_id", text, descriptions)
    return rows[0].request_id if rows else None


def expand_request_id(connection: Connection, text: str) -> str:
    """Return the request_id that begins with a text. Return a whole request_id unchanged.

    Raises:
        FilterError: None or several begin with it.
    """
    request_id = find_request_id(connection, text)
    if request_id is None:
        raise _unknown("request_id", text, "no request_id")
    return request_id


def find_episode(connection: Connection, text: str) -> str | None:
    """Return the episode whose name begins with a text, or None if there is none.

    Raises:
        FilterError: Episodes of several alerts begin with it.
    """
    if _WHOLE_EPISODE.match(text):
        return text
    column = alerts.c.episode
    if connection.scalar(select(column).where(column == text).limit(1)):
        return text
    if len(text) < MIN_CHARACTERS:
        return None
    in_range = has_prefix(column, text)
    newest: str | None = connection.scalar(
        select(column).where(*in_range).order_by(column.desc()).limit(1)
    )
    oldest = connection.scalar(select(column).where(*in_range).order_by(column).limit(1))
    if newest is None or oldest is None:
        return None
    if _fingerprint_of(newest) != _fingerprint_of(oldest):
        names = _newest_of_each_alert(connection, text)
        descriptions = [_describe_episode(connection, name) for name in names]
        raise ambiguous("episode", text, descriptions)
    return newest


def expand_episode(connection: Connection, text: str) -> str:
    """Return the episode whose name begins with a text. Return a whole name unchanged.

    Raises:
        FilterError: No episode or episodes of several alerts begin with it.
    """
    episode = find_episode(connection, text)
    if episode is None and _EPISODE_START.search(text):
        return text
    if episode is None:
        raise _unknown("episode", text, "no episode")
    return episode


def find_fingerprint(connection: Connection, text: str) -> str:
    """Return the fingerprint that begins with a text, or the text itself if there is none.

    Raises:
        FilterError: Several begin with it.
    """
    if len(text) < MIN_CHARACTERS or len(text) >= _FINGERPRINT_CHARACTERS:
        return text
    column = alerts.c.fingerprint
    if connection.scalar(select(column).where(column == text).limit(1)):
        return text
    fingerprints = distinct_values(connection, column, MAX_LISTED + 1, text)
    if len(fingerprints) > 1:
        descriptions = [_describe(connection, column, f) for f in fingerprints]
        raise ambiguous("fingerprint", text, descriptions)
    return fingerprints[0] if fingerprints else text


def _newest_of_each_alert(connection: Connection, text: str) -> list[str]:
    """Return the newest episode of each alert whose episodes begin with a text.

    Return at most MAX_LISTED + 1 of them: with one more than an error lists, the caller can tell
    that the list is incomplete.
    """
    column = alerts.c.episode
    conditions = has_prefix(column, text)
    names: list[str] = []
    for _ in range(MAX_LISTED + 1):
        newest = connection.scalar(
            select(column).where(*conditions).order_by(column.desc()).limit(1)
        )
        if newest is None:
            break
        names.append(newest)
        conditions = [*has_prefix(column, text), column < _fingerprint_of(newest) + "-"]
    return names


def _fingerprint_of(episode: str) -> str:
    return _EPISODE_START.sub("", episode)


def _describe_request(connection: Connection, row: Row[Any]) -> str:
    name = connection.scalar(
        select(alerts.c.alert_name)
        .where(alerts.c.api_call_id == row.id)
        .order_by(alerts.c.position)
        .limit(1)
    )
    return f"{row.request_id} ({name or 'no alert name'}, {_seconds(row.created_at)})"


def _describe_episode(connection: Connection, name: str) -> str:
    return _describe(connection, alerts.c.episode, name)


def _describe(connection: Connection, column: Any, value: str) -> str:
    """Return an id with the newest alert that has it."""
    row = connection.execute(
        select(alerts.c.alert_name, alerts.c.instance, alerts.c.created_at)
        .where(column == value)
        .order_by(alerts.c.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return value
    what = " ".join(filter(None, (row.alert_name, row.instance))) or "no alert name"
    return f"{value} ({what}, {_seconds(row.created_at)})"


def _seconds(moment: Any) -> str:
    return format_timestamp(moment.replace(microsecond=0))


def ambiguous(field: str, text: str, candidates: Sequence[str]) -> FilterError:
    """Return the error about a short id with which several ids begin.

    Args:
        field: The parameter.
        text: The short id.
        candidates: The ids, at least two, each with what it is. At most MAX_LISTED are listed.
    """
    others = " and others" if len(candidates) > MAX_LISTED else ""
    listed = ", ".join(candidates[:MAX_LISTED])
    return FilterError(field, f"{text} is ambiguous; pass more characters of {listed}{others}")


def _unknown(field: str, text: str, what: str) -> FilterError:
    if len(text) < MIN_CHARACTERS:
        return FilterError(field, f"{text} is too short: pass at least {MIN_CHARACTERS} characters")
    return FilterError(field, f"{what} begins with {text}")
