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

    def as_json(self: Page[JsonRow], rows_key: str, total_key: str) -> dict[str, Any]:
        """Return the page as JSON, as a view's URL returns it.

        Args:
            rows_key: The key of the rows.
            total_key: The key of the total.
        """
        rows = [row.as_json() for row in self.rows]
        view: dict[str, Any] = {rows_key: rows, total_key: self.total}
        if self.at_least:
            view["at_least"] = True
        if self.next:
            view["next"] = self.next.format()
        return view


def make_page(
    rows: Sequence[OtherT],
    limit: int,
    total: int,
    cursor: Callable[[OtherT], Cursor],
    at_least: bool = False,
    continuation: Cursor | None = None,
) -> Page[OtherT]:
    """Return the page with the rows that a search found.

    Args:
        rows: The rows. If there are more than `limit`, there is another page.
        limit: The maximum number of rows on a page.
        total: The number of rows on all pages.
        cursor: A function that returns the cursor of a row.
        at_least: Whether `total` is a lower bound.
        continuation: The cursor with which to continue if the search stopped early.
    """
    next_cursor = cursor(rows[limit - 1]) if len(rows) > limit else continuation
    return Page(rows[:limit], total, at_least, next_cursor)
