"""Ids may be shortened to a unique prefix of at least four characters, as in git."""

from __future__ import annotations

import pytest

from poundcake.trail import database, interventions, queries, short_ids
from poundcake.trail.audit import NOBODY
from poundcake.trail.release import release_claims
from poundcake.trail.search import FilterError, Filters
from tests.lib.samples import alert, iso, later
from tests.lib.trails import WORKFLOW, episode, record, record_execution, view

FIRST = "8f1b2543-0000-4000-8000-000000000001"
SECOND = "8f1b9999-0000-4000-8000-000000000002"


def call(engine, function, *args):
    with database.reading(engine) as connection:
        return function(connection, *args)


class TestRequests:
    @pytest.fixture(autouse=True)
    def requests(self, engine):
        record(engine, alert("A"), request_id=FIRST)
        record(engine, alert("B"), request_id=SECOND, received_at=later(60))

    @pytest.mark.parametrize("text", ["8f1b2", "8F1B2543", "8f1b2543-0000", FIRST])
    def test_a_unique_prefix_means_the_request(self, engine, text):
        assert call(engine, short_ids.expand_request_id, text) == FIRST
        assert view(engine, queries.status, text)["request_id"] == FIRST

    def test_an_ambiguous_prefix_is_refused_with_the_candidates(self, engine):
        with pytest.raises(FilterError) as raised:
            view(engine, queries.status, "8f1b")
        assert raised.value.field == "request_id"
        assert str(raised.value) == (
            "request_id: 8f1b is ambiguous; pass more characters of "
            f"{FIRST} (A, 2026-01-14T12:00:00Z), {SECOND} (B, 2026-01-14T12:01:00Z)"
        )

    def test_at_most_five_candidates_are_listed(self, engine):
        for n in range(5):
            record(engine, alert(), request_id=f"8f1c0000-0000-4000-8000-00000000000{n}")
        with pytest.raises(FilterError) as raised:
            call(engine, short_ids.find_request_id, "8f1")  # too short: it finds nothing
            call(engine, short_ids.find_request_id, "8f1c")
        assert str(raised.value).count("8f1c0000") == 5 and "others" not in str(raised.value)
        record(engine, alert(), request_id="8f1c0000-0000-4000-8000-000000000009")
        with pytest.raises(FilterError, match=" and others$"):
            call(engine, short_ids.find_request_id, "8f1c")

    @pytest.mark.parametrize("text", ["8f1", "8f1d", "8f1b%", "", "%%%%", FIRST + "0"])
    def test_other_texts_mean_no_request(self, engine, text):
        assert call(engine, short_ids.find_request_id, text) is None
        assert view(engine, queries.status, text) is None

    def test_the_error_for_an_unknown_prefix_says_what_is_wrong(self, engine):
        with pytest.raises(FilterError, match="^request_id: 8f is too short: pass at least 4 char"):
            call(engine, short_ids.expand_request_id, "8f")
        with pytest.raises(FilterError, match="^request_id: no request_id begins with 9999$"):
            call(engine, short_ids.expand_request_id, "9999")


class TestEpisodes:
    def test_a_prefix_means_the_newest_episode_of_the_alert(self, engine):
        record(engine, alert(fingerprint="3f9c01"))
        resolve = alert(status="resolved", fingerprint="3f9c01", ends_at=later(60))
        record(engine, resolve, received_at=later(60))
        record(engine, alert(fingerprint="3f9c01", starts_at=later(90)), received_at=later(90))
        newest = episode("3f9c01", later(90))
        for text in ("3f9c", "3f9c01", "3f9c01-17", newest):
            assert call(engine, short_ids.expand_episode, text) == newest
        assert call(engine, short_ids.expand_episode, episode("3f9c01")) == episode("3f9c01")
        (row,) = view(engine, queries.why, Filters(episode="3f9c"))["episodes"]
        assert row["episode"] == newest

    def test_a_prefix_of_several_alerts_is_refused_with_the_newest_episode_of_each(self, engine):
        for n in range(7):
            record(engine, alert("A", fingerprint=f"3f9c0{n}"), received_at=later(n))
        with pytest.raises(FilterError) as raised:
            view(engine, queries.why, Filters(episode="3f9c"))
        message = str(raised.value)
        assert message.startswith("episode: 3f9c is ambiguous; pass more characters of 3f9c06-")
        assert message.count("(A web-1:9100, 2026-01-14T12:00:0") == 5
        assert message.endswith(" and others")
        assert call(engine, short_ids.find_episode, "3f9c03") == episode("3f9c03")

    def test_an_unknown_episode_is_an_error_unless_it_is_a_whole_name(self, engine):
        with pytest.raises(FilterError, match="^episode: no episode begins with 3f9c$"):
            call(engine, short_ids.expand_episode, "3f9c")
        with pytest.raises(FilterError, match="^episode: 3f is too short"):
            call(engine, short_ids.expand_episode, "3f")
        assert call(engine, short_ids.expand_episode, episode("3f9c")) == episode("3f9c")

    def test_commands_accept_a_prefix(self, engine):
        request_id = record(engine, alert(fingerprint="3f9c01"))
        record(engine, alert(fingerprint="77aa00", labels={"instance": "db-1"}))
        record_execution(engine, request_id, episode("3f9c01"), "e1")
        (released,) = release_claims(engine, "3f9c")
        assert (released["st2_execution_id"], released["st2_workflow"]) == ("e1", WORKFLOW)
        assert interventions.acknowledge(engine, NOBODY, "3f9c")["episode"] == episode("3f9c01")
        assert interventions.close(engine, NOBODY, "x", "77aa")["instance"] == "db-1"


class TestFingerprints:
    def test_a_prefix_filters_every_view(self, engine):
        request_id = record(engine, alert(fingerprint="3f9c01"), alert(fingerprint="77aa00"))
        record_execution(engine, request_id, episode("3f9c01"), "e1")
        filters = Filters(fingerprint="3f9c")
        assert view(engine, queries.why, filters)["count"] == 1
        assert view(engine, queries.alerts_active, 24, filters)["count"] == 1
        assert view(engine, queries.executions_recent, filters)["total"] == 1
        assert view(engine, queries.st2_executions, "", filters)["count"] == 1
        assert view(engine, queries.why, Filters(fingerprint="3f9"))["count"] == 0
        record(engine, alert(fingerprint="3f9c02"), received_at=later(5))
        with pytest.raises(FilterError) as raised:
            view(engine, queries.why, filters)
        assert str(raised.value) == (
            "fingerprint: 3f9c is ambiguous; pass more characters of "
            "3f9c01 (HostDown web-1:9100, 2026-01-14T12:00:00Z), "
            f"3f9c02 (HostDown web-1:9100, {iso(later(5))})"
        )
