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
        total: The number of rows of all pages.
        at_least: Whether `total` is a lower bound, because the search ended before the history.
        next: The cursor of the next page; None on the last page.
    """

    rows: Sequence[RowT_co]
    total: int
    at_least: bool = False
    next: Cursor | None = None

    def with_rows(self, rows: Sequence[OtherT]) -> Page[OtherT]:
        """Return the page with converted rows, without those that no longer exist."""
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
        found: The rows. One more than `limit` means that there is another page.
        limit: The maximum number of rows of a page.
        total: The number of rows of all pages.
        cursor: Returns the cursor of a row.
        at_least: Whether `total` is a lower bound.
        rest: The cursor to continue with if the search ended before the history.
    """
    following = cursor(found[limit - 1]) if len(found) > limit else rest
    return Page(found[:limit], total, at_least, following)
