"""Keep each rendered page for a second, so that many viewers cost as much as one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import monotonic
from typing import Callable, NamedTuple

KEEP_SECONDS = 1.0
"""Seconds for which a rendered page is served again."""

MAX_PAGES = 64
"""Maximum number of pages that are kept. A page has at most about 100 kB."""


class Page(NamedTuple):
    """A rendered page.

    Attributes:
        body: The document, encoded in UTF-8.
        entity_tag: Changes when anything on the page changes except the time it was rendered.
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
    """The newest version of each page."""

    def __init__(self, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep_seconds = keep_seconds
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, render: Callable[[], Page]) -> Page:
        """Return the page, rendered at most `keep_seconds` ago.

        If another thread is rendering the page, wait for it and return its result. If `render`
        raises, nothing is kept.
        """
        slot = self._slot(key)
        with slot.lock:
            if slot.page is None or monotonic() - slot.rendered_at >= self._keep_seconds:
                slot.page = None
                slot.page = render()
                slot.rendered_at = monotonic()
            return slot.page

    def _slot(self, key: str) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            if len(self._slots) > MAX_PAGES:
                self._slots.popitem(last=False)
            return slot
