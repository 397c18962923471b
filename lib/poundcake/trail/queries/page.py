"""One page of a list, and where the next one begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Generic, Protocol, Sequence, TypeVar

from poundcake.trail.search import Cursor


class JsonRow(Protocol):
    """A row that a view can answer with."""

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        ...


RowT_co = TypeVar("RowT_co", covariant=True)
OtherT = TypeVar("OtherT")


@dataclass(frozen=True)
class Page(Generic[RowT_co]):
    """The rows of one page, newest first.

    Attributes:
        rows: Those of this page.
        total: How many rows all pages have together.
        at_least: Whether `total` is a lower bound: the search ended before the history did.
        next: The cursor of the next page; None on the last one.
    """

    rows: Sequence[RowT_co]
    total: int
    at_least: bool = False
    next: Cursor | None = None

    def with_rows(self, rows: Sequence[OtherT]) -> Page[OtherT]:
        """Return the same page with other rows, one for each or for those that still exist."""
        return Page(rows, self.total, self.at_least, self.next)

    def as_json(self: Page[JsonRow], rows: str, total: str) -> dict[str, Any]:
        """Return the page as a view's URL answers it.

        Args:
            rows: The key of the rows.
            total: The key of the total.
        """
        answer: dict[str, Any] = {rows: [row.as_json() for row in self.rows], total: self.total}
        if self.at_least:
            answer["at_least"] = True
        if self.next:
            answer["next"] = self.next.format()
        return answer


def page_of(
    found: Sequence[OtherT],
    limit: int,
    total: int,
    cursor: Callable[[OtherT], Cursor],
    at_least: bool = False,
    rest: Cursor | None = None,
) -> Page[OtherT]:
    """Return the page of the rows that a search found.

    Args:
        found: At most one more than `limit`: that one tells that there is another page.
        total: How many rows all pages have together.
        cursor: Returns the cursor of a row.
        at_least: Whether `total` is a lower bound.
        rest: Where the search goes on if it ended before the history did.
    """
    following = cursor(found[limit - 1]) if len(found) > limit else rest
    return Page(found[:limit], total, at_least, following)
