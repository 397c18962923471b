"""The status of a request that has not been recorded yet comes from the journal."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from poundcake.endpoint.installation import Installation, pending_status
from poundcake.endpoint.journal import Journal
from poundcake.trail.search import FilterError
from tests.lib.samples import alert, request
from tests.lib.trail.queries.test_request_status import STATUS_KEYS


def test_a_pending_status_has_the_keys_of_a_recorded_one(tmp_path):
    journal = Journal(str(tmp_path / "j"))
    request_id = journal.accept(request(alert()), "", "hash", 1)
    status = pending_status(journal.find(request_id), "broker: unavailable")
    journal.close()
    assert [key for key in status if key != "blocked_by"] == STATUS_KEYS
    assert (status["status"], status["blocked_by"]) == ("accepted", "broker: unavailable")
    assert "credential" not in status
    assert (status["request_id"], status["received_at"]) == (request_id, "2026-01-14T12:00:00Z")


def test_a_pending_status_names_the_credential_of_the_sender(tmp_path):
    journal = Journal(str(tmp_path / "j"))
    request_id = journal.accept(replace(request(alert()), credential="grafana"), "", "hash", 1)
    assert pending_status(journal.find(request_id))["credential"] == "grafana"
    journal.close()


class TestShortId:
    @pytest.fixture
    def find(self, tmp_path):
        journal = Journal(str(tmp_path / "j"))
        for n in (1, 2):
            request_id = f"8f1b254{n}-0000-4000-8000-000000000000"
            journal.accept(request(alert()), request_id, "hash", 1)
        installation = Installation(None, None, None, SimpleNamespace(journal=journal))
        yield lambda text: installation._find_entry(text)[0]
        journal.close()

    def test_it_finds_a_request_in_the_journal(self, find):
        for text in ("8f1b2542", "8f1b2542-0000", "8f1b2542-0000-4000-8000-000000000000"):
            assert find(text).request_id == "8f1b2542-0000-4000-8000-000000000000"

    @pytest.mark.parametrize("text", ["8f1", "8f1c", "8F1B2542", "8f1b%", "", "\U0010ffff" * 4])
    def test_other_texts_find_nothing(self, find, text):
        assert find(text) is None

    def test_an_ambiguous_one_is_an_error_that_lists_the_requests(self, find):
        with pytest.raises(FilterError, match="^request_id: 8f1b is ambiguous; .*8f1b2541-.*, 8f1"):
            find("8f1b")
