"""What is kept in memory, and that it is bounded."""

import threading

from standalone import store


def _table(**options):
    return store.Table(threading.RLock(), **options)


def test_the_oldest_finished_are_forgotten_first():
    table = _table(limit=3, finished=lambda document: document["done"])
    for number, done in enumerate([False, True, True, True, True]):
        table.add({"id": str(number), "done": done})
    total, found = table.select()
    assert total == 3 and [document["id"] for document in found] == ["4", "3", "0"]


def test_weight_is_bounded_too(monkeypatch):
    monkeypatch.setattr(store, "WEIGHT_LIMIT", 1000)
    table = _table()
    for number in range(10):
        table.add({"id": str(number), "text": "x" * 300})
    assert [document["id"] for document in table.select()[1]] == ["9", "8", "7"]


def test_what_is_handed_out_is_a_copy():
    table = _table()
    table.add({"id": "a", "inner": {"n": 1}})
    table.get("a")["inner"]["n"] = 2
    assert table.get("a")["inner"]["n"] == 1
    assert table.change("a", n=3)["n"] == 3 and table.change("b", n=3) is None


def test_ids_are_distinct_and_like_mongodbs():
    ids = {store.new_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(len(i) == 24 and int(i, 16) for i in ids)
