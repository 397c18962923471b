"""The in-memory store is bounded, and returns copies."""

from __future__ import annotations

import threading

from standalone import store


def test_the_oldest_finished_executions_are_dropped_first():
    table = store.Table(threading.RLock(), limit=3, is_finished=lambda document: document["done"])
    for number, done in enumerate([False, True, True, True, True]):
        table.add({"id": str(number), "done": done})
    total, entries = table.select()
    assert total == 3
    assert [document["id"] for document in entries] == ["4", "3", "0"]


def test_the_store_returns_copies():
    table = store.Table(threading.RLock())
    table.add({"id": "a", "inner": {"n": 1}})
    table.get("a")["inner"]["n"] = 2
    assert table.get("a")["inner"]["n"] == 1
    assert table.change("a", n=3)["n"] == 3
    assert table.change("b", n=3) is None


def test_ids_are_unique_and_have_the_format_of_mongodb():
    ids = {store.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) == 24 and int(i, 16) for i in ids)
