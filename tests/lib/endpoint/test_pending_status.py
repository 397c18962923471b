"""The status of a request that has not been recorded yet comes from the journal."""

from __future__ import annotations

from dataclasses import replace

from poundcake.endpoint.installation import pending_status
from poundcake.endpoint.journal import Journal
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
