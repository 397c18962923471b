"""Check the query parameters of a request."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Sequence
from urllib.parse import parse_qsl

from poundcake.endpoint.problems import ProblemError
from poundcake.trail import search

_MAX_PARAMETERS = 20
# Longer values are truncated. The checks of the filters refuse such values or shorten them further.
_MAX_CHARACTERS = 1024


@dataclass(frozen=True)
class PageQuery:
    """The query parameters of a request for one page of a list.

    Attributes:
        limit: The maximum number of rows.
        offset: How many rows to skip.
        text_values: The values of the text parameters by name; missing ones are empty.
    """

    limit: int
    offset: int
    text_values: dict[str, str]


def parse_page(query: str, text_names: Sequence[str], default_limit: int) -> PageQuery:
    """Parse the query of a list.

    Args:
        query: The query string.
        text_names: The text parameters that the list accepts besides `limit` and `offset`.
        default_limit: The limit if the query has none.

    Raises:
        ProblemError: There are too many parameters, one is unknown, or `limit` or `offset` is not a
            number in its range.
    """
    parameters = _parse(query, ["limit", "offset", *text_names])
    return PageQuery(
        limit=_parse_integer(parameters, "limit", default_limit, 1, search.MAX_ROWS),
        offset=_parse_integer(parameters, "offset", 0, 0, search.MAX_OFFSET),
        text_values={name: parameters.get(name, "")[:_MAX_CHARACTERS] for name in text_names},
    )


def parse_text(query: str, text_names: Sequence[str]) -> dict[str, str]:
    """Parse the query of a view that is not a list.

    Args:
        query: The query string.
        text_names: The parameters that the view accepts.

    Returns:
        The value of each parameter by name; missing ones are empty.

    Raises:
        ProblemError: There are too many parameters, or one is unknown.
    """
    parameters = _parse(query, text_names)
    return {name: parameters.get(name, "")[:_MAX_CHARACTERS] for name in text_names}


def refuse_parameters(query: str) -> None:
    """Raise ProblemError if the query has any parameters."""
    _parse(query, [])


def _parse(query: str, known_names: Sequence[str]) -> dict[str, str]:
    """Return the parameters by name. If one is repeated, the last value wins."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"the query has more than {_MAX_PARAMETERS} parameters"
        ) from None
    for name, _ in pairs:
        if name not in known_names:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                f"{name[:40]}: unknown parameter; known: {', '.join(known_names) or 'none'}",
                field=name[:40],
            )
    return dict(pairs)


def _parse_integer(
    parameters: dict[str, str], name: str, default: int, minimum: int, maximum: int
) -> int:
    text = parameters.get(name, str(default))
    is_number = text.isascii() and text.isdigit() and len(text) <= 10
    if not is_number or not minimum <= int(text) <= maximum:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"{name}: must be a whole number from {minimum} to {maximum}",
            field=name,
        )
    return int(text)
