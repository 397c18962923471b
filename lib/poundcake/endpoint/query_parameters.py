"""Check the query parameters of a request."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Sequence
from urllib.parse import parse_qsl

from poundcake.endpoint.problems import ProblemError
from poundcake.trail import search

_MOST_PARAMETERS = 20
_MOST_CHARACTERS = 1024


@dataclass(frozen=True)
class PageQuery:
    """The parameters of one page of a list.

    Attributes:
        texts: The text parameters by name; those that are not given are empty.
    """

    limit: int
    offset: int
    texts: dict[str, str]


def parse_page(query: str, text_names: Sequence[str], default_limit: int) -> PageQuery:
    """Parse the query of a list, which takes `limit`, `offset` and these text parameters.

    Raises:
        ProblemError: A parameter is unknown, or is not a number of the right size.
    """
    given = _parse(query, ["limit", "offset", *text_names])
    return PageQuery(
        limit=_whole_number(given, "limit", default_limit, 1, search.MOST_ROWS),
        offset=_whole_number(given, "offset", 0, 0, search.MOST_OFFSET),
        texts={name: given.get(name, "")[:_MOST_CHARACTERS] for name in text_names},
    )


def refuse_parameters(query: str) -> None:
    """Raise ProblemError if there is a parameter: this route takes none."""
    _parse(query, [])


def _parse(query: str, known: Sequence[str]) -> dict[str, str]:
    """Return the parameters by name; of one that is repeated, the last."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"the query has more than {_MOST_PARAMETERS} parameters"
        ) from None
    for name, _ in pairs:
        if name not in known:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                f"{name[:40]}: no such parameter; there are {', '.join(known) or 'none'}",
                field=name[:40],
            )
    return dict(pairs)


def _whole_number(given: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name, str(default))
    is_number = text.isascii() and text.isdigit() and len(text) <= 10
    if not is_number or not least <= int(text) <= most:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"{name}: a whole number from {least} to {most} is expected",
            field=name,
        )
    return int(text)
