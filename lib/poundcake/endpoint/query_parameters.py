"""Check the query parameters of a request."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Sequence
from urllib.parse import parse_qsl

from poundcake.endpoint.problems import ProblemError
from poundcake.trail import search

_MAX_PARAMETERS = 20
_MAX_CHARACTERS = 1024


@dataclass(frozen=True)
class PageQuery:
    """The parameters of one page of a list.

    Attributes:
        limit: The maximum number of rows.
        offset: How many rows to skip.
        texts: The text parameters by name; missing ones are empty.
    """

    limit: int
    offset: int
    texts: dict[str, str]


def parse_page(query: str, text_names: Sequence[str], default_limit: int) -> PageQuery:
    """Parse the query of a list.

    Args:
        query: The query string.
        text_names: The text parameters that the list takes besides `limit` and `offset`.
        default_limit: The limit if the query has none.

    Raises:
        ProblemError: A parameter is unknown, or `limit` or `offset` is out of range.
    """
    given = _parse(query, ["limit", "offset", *text_names])
    return PageQuery(
        limit=_whole_number(given, "limit", default_limit, 1, search.MAX_ROWS),
        offset=_whole_number(given, "offset", 0, 0, search.MAX_OFFSET),
        texts={name: given.get(name, "")[:_MAX_CHARACTERS] for name in text_names},
    )


def refuse_parameters(query: str) -> None:
    """Raise ProblemError if the query has any parameter."""
    _parse(query, [])


def _parse(query: str, known: Sequence[str]) -> dict[str, str]:
    """Return the parameters by name. If one is repeated, the last value wins."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"the query has more than {_MAX_PARAMETERS} parameters"
        ) from None
    for name, _ in pairs:
        if name not in known:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                f"{name[:40]}: unknown parameter; known: {', '.join(known) or 'none'}",
                field=name[:40],
            )
    return dict(pairs)


def _whole_number(
    given: dict[str, str], name: str, default: int, minimum: int, maximum: int
) -> int:
    text = given.get(name, str(default))
    is_number = text.isascii() and text.isdigit() and len(text) <= 10
    if not is_number or not minimum <= int(text) <= maximum:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"{name}: a whole number from {minimum} to {maximum} is expected",
            field=name,
        )
    return int(text)
