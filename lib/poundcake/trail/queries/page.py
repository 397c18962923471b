"""One page of a list, and the cursor of the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Generic, Protocol, Sequence, TypeVar

from poundcake.trail.search import Cursor


class JsonRow(Protocol):
    """A row of a view."""

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON."""
        ...


RowT_co = TypeVar("RowT_co", covariant=True)
OtherT = TypeVar("OtherT")


@dataclass(frozen=True)
class Page(Generic[RowT_co]):
    """The rows of one page, newest first.

    Attributes:
        rows: The rows of this page.
        total: The number of rows on all pages.
        at_least: Whether `total` is a lower bound, because the search stopped early.
        next: The cursor of the next page, or None on the last page.
    """

    rows: Sequence[RowT_co]
    total: int
    at_least: bool = False
    next: Cursor | None = None

    def with_rows(self, rows: Sequence[OtherT]) -> Page[OtherT]:
        """Return a copy of the page with other rows, for example converted ones."""
        return Page(rows, self.total, self.at_least, self.next)

    def as_json(self: Page[JsonRow], rows: str, total: str) -> dict[str, Any]:
        """Return the page as JSON, as a view's URL returns it.

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
        found: The rows. More than `limit` rows mean that there is another page.
        limit: The maximum number of rows on a page.
        total: The number of rows on all pages.
        cursor: A function that returns the cursor of a row.
        at_least: Whether `total` is a lower bound.
        rest: The cursor with which to continue if the search stopped early.
    """
    following = cursor(found[limit - 1]) if len(found) > limit else rest
    return Page(found[:limit], total, at_least, following)
