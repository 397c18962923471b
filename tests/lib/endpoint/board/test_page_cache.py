"""Many viewers of a page cost as much as one, and a viewer waits for a bounded time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from poundcake.endpoint.board import page_cache
from poundcake.endpoint.board.page_cache import BusyError, Page, PageCache


class Rendering:
    """Render pages, each with its own number, once the test allows it."""

    def __init__(self):
        self.count = 0
        self.is_allowed = threading.Event()
        self.started = threading.Semaphore(0)

    def __call__(self):
        self.count += 1
        self.started.release()
        assert self.is_allowed.wait(10)
        return Page(str(self.count).encode(), "")


@pytest.fixture
def rendering():
    new_rendering = Rendering()
    yield new_rendering
    new_rendering.is_allowed.set()


def test_a_page_is_rendered_once_for_viewers_at_the_same_time(rendering):
    cache = PageCache(keep_seconds=60)
    with ThreadPoolExecutor(20) as pool:
        pages = [pool.submit(cache.get, b"now", rendering) for _ in range(20)]
        assert rendering.started.acquire(timeout=10)
        rendering.is_allowed.set()
        assert {page.result().body for page in pages} == {b"1"}


def test_a_page_is_rendered_again_when_it_is_old(rendering):
    rendering.is_allowed.set()
    cache = PageCache(keep_seconds=0)
    assert [cache.get(b"now", rendering).body for _ in range(2)] == [b"1", b"2"]


def test_each_page_has_its_own_version(rendering):
    rendering.is_allowed.set()
    cache = PageCache(keep_seconds=60)
    keys = (b"now", b"episodes", b"now", b"episodes")
    assert [cache.get(key, rendering).body for key in keys] == [b"1", b"2", b"1", b"2"]


def test_a_failure_is_not_kept(rendering):
    def fail():
        raise ZeroDivisionError

    rendering.is_allowed.set()
    cache = PageCache(keep_seconds=60)
    with pytest.raises(ZeroDivisionError):
        cache.get(b"now", fail)
    assert cache.get(b"now", rendering).body == b"1"


def test_a_failure_does_not_show_an_old_page(rendering):
    def fail():
        raise ZeroDivisionError

    rendering.is_allowed.set()
    cache = PageCache(keep_seconds=0)
    cache.get(b"now", rendering)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            cache.get(b"now", fail)


def test_viewers_of_many_pages_wait_for_a_bounded_time(rendering):
    cache = PageCache(keep_seconds=60, wait_seconds=0.05)
    with ThreadPoolExecutor(page_cache.MAX_IN_PROGRESS) as pool:
        keys = [b"page %d" % number for number in range(page_cache.MAX_IN_PROGRESS)]
        pages = [pool.submit(cache.get, key, rendering) for key in keys]
        for _ in keys:
            assert rendering.started.acquire(timeout=10)
        with pytest.raises(BusyError):  # its own page, whose turn does not come
            cache.get(b"another page", rendering)
        with pytest.raises(BusyError):  # a page that another viewer is still waiting for
            cache.get(keys[0], rendering)
        rendering.is_allowed.set()
        assert {page.result().body for page in pages}
        assert rendering.count == page_cache.MAX_IN_PROGRESS
        assert cache.get(b"another page", rendering).body == b"%d" % rendering.count


def test_only_the_pages_viewed_last_are_kept(rendering):
    rendering.is_allowed.set()
    cache = PageCache(keep_seconds=60)
    for number in range(page_cache.MAX_PAGES + 1):
        cache.get(b"%d" % number, rendering)
        cache.get(b"0", rendering)  # viewed all the time, so it is kept
    count = rendering.count
    cache.get(b"0", rendering)
    cache.get(b"%d" % page_cache.MAX_PAGES, rendering)
    assert rendering.count == count
    cache.get(b"1", rendering)
    assert rendering.count == count + 1
    assert len(cache._slots) == page_cache.MAX_PAGES
