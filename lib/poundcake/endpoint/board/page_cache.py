"""Keep each rendered page for a second, so that many viewers cost as much as one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import monotonic
from typing import Callable, NamedTuple

from poundcake.errors import PoundCakeError

KEEP_SECONDS = 1.0
"""Seconds for which a rendered page is served again."""

MAX_PAGES = 64
"""Maximum number of pages that are kept. A page has at most about 100 kB."""

MAX_IN_PROGRESS = 8
"""Maximum number of pages that are read or rendered at the same time.

The others wait here, so that the API can still read views: see TrackingReader.read_view. The pages
of an episode and of a request may wait some seconds for StackStorm.
"""

WAIT_SECONDS = 5.0
"""Maximum number of seconds for which a viewer waits for a page that others also wait for."""


class BusyError(PoundCakeError):
    """Too many pages are waiting to be rendered."""

    def __init__(self) -> None:
        super().__init__("too many people are looking at different pages; try again in a moment")


class Page(NamedTuple):
    """A rendered page.

    Attributes:
        body: The document, encoded in UTF-8.
        entity_tag: Changes when anything on the page changes, except the time it was rendered and
            the ages that follow from it.
    """

    body: bytes
    entity_tag: str


class _Slot:
    """The newest version of one page. Only one thread renders it at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.page: Page | None = None
        self.rendered_at = 0.0


class PageCache:
    """The newest version of each page.

    Args:
        keep_seconds: How long a page is served again.
        wait_seconds: How long a viewer waits for a page, at most.
    """

    def __init__(self, keep_seconds: float, wait_seconds: float = WAIT_SECONDS) -> None:
        self._keep_seconds = keep_seconds
        self._wait_seconds = wait_seconds
        self._slots: OrderedDict[bytes, _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._in_progress = threading.BoundedSemaphore(MAX_IN_PROGRESS)

    def get(self, key: bytes, render: Callable[[], Page]) -> Page:
        """Return the page, rendered at most `keep_seconds` ago.

        If another thread is rendering the page, wait for it and return its result. If `render`
        raises, nothing is kept.

        Args:
            key: Identifies the page. Short, because it is kept.
            render: Returns the page.

        Raises:
            BusyError: The page was not rendered in time, because others were.
        """
        slot = self._slot(key)
        deadline = monotonic() + self._wait_seconds
        if not slot.lock.acquire(timeout=self._wait_seconds):
            raise BusyError
        try:
            if slot.page is None or monotonic() - slot.rendered_at >= self._keep_seconds:
                slot.page = None
                slot.page = self._render(render, deadline)
                slot.rendered_at = monotonic()
            return slot.page
        finally:
            slot.lock.release()

    def _render(self, render: Callable[[], Page], deadline: float) -> Page:
        if not self._in_progress.acquire(timeout=max(0.0, deadline - monotonic())):
            raise BusyError
        try:
            return render()
        finally:
            self._in_progress.release()

    def _slot(self, key: bytes) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            if len(self._slots) > MAX_PAGES:
                self._slots.popitem(last=False)
            return slot
