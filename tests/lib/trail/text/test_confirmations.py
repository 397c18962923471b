"""What the actions that change something answer: the sentence first, and how to undo it.

The expected texts are in golden_confirmations/. After an intended change of the text, write them
again, and read the difference as the person on call would:

    UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/lib/trail/text/test_confirmations.py
    git diff tests/lib/trail/text/golden_confirmations
"""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from poundcake.trail.text import confirmations
from poundcake.trail.text.layout import display_width
from tests.lib.samples import NOON, iso, later

GOLDEN = pathlib.Path(__file__).with_name("golden_confirmations")
EPISODE = "b1330eaca6c0c711-1795816774618"
INCIDENT = {
    "episode": EPISODE,
    "alert_name": "HostDown",
    "instance": "web-21:9100",
    "by": "anna",
    "at": "2026-01-14T12:00:00.123456Z",
}
ACKNOWLEDGED = {**INCIDENT, "state": "acknowledged"}
WITHDRAWN = {**INCIDENT, "state": "firing"}
CLOSED = {**INCIDENT, "state": "closed"}
ANSWER = {**INCIDENT, "state": "approved", "change": "ipmi.power_cycle on web-21"}
PAUSE = {"at": iso(NOON), "by": "anna", "reason": "maintenance of rack 12", "until": None}
ENDING_PAUSE = {**PAUSE, "until": iso(later(1800.25))}
LABELS = {"alertname": "HostDown", "instance": "web-21:9100", "rack": "r 12"}
SILENCE = {
    "silence_ids": ["7b4f41a5-3f6d-4d2e-8a3b-0c8a47d1b9d2"],
    "state": "created",
    "until": iso(later(7200)),
    "labels": LABELS,
    "problems": [],
}
TWO_SILENCES = {
    **SILENCE,
    "silence_ids": [*SILENCE["silence_ids"], "0d1c2b3a-3f6d-4d2e-8a3b-0c8a47d1b9d2"],
    "state": "extended",
    "problems": ["alertmanagers, http://am-3.example:9093: connection refused"],
}
CLAIM = {"st2_execution_id": "6b0a0e7cab4d3b0143a66b81", "st2_workflow": "poundcake.host_down"}

CONFIRMATIONS = {
    "pause": confirmations.confirm_pause(PAUSE),
    "pause_for_minutes": confirmations.confirm_pause(ENDING_PAUSE),
    "pause_of_another_person_lasts_longer": confirmations.confirm_pause(ENDING_PAUSE, True),
    "resume": confirmations.confirm_resume(PAUSE, False),
    "resume_in_dry_run": confirmations.confirm_resume(PAUSE, True),
    "resume_without_pause": confirmations.confirm_resume(None, False),
    "acknowledge": confirmations.confirm_acknowledgement(ACKNOWLEDGED, "the disk is on order"),
    "acknowledge_undone": confirmations.confirm_acknowledgement(WITHDRAWN),
    "close": confirmations.confirm_close(CLOSED, "the host is gone"),
    "silence": confirmations.confirm_silence(SILENCE, EPISODE),
    "silence_by_labels": confirmations.confirm_silence(TWO_SILENCES),
    "silence_unchanged": confirmations.confirm_silence({**SILENCE, "state": "unchanged"}, EPISODE),
    "unsilence": confirmations.confirm_end_of_silence({**SILENCE, "state": "ended"}, EPISODE),
    "unsilence_by_id": confirmations.confirm_end_of_silence({**SILENCE, "state": "ended"}),
    "unsilence_unchanged": confirmations.confirm_end_of_silence(
        {**SILENCE, "state": "unchanged", "until": iso(later(-600))}, EPISODE
    ),
    "release": confirmations.confirm_release([CLAIM], EPISODE),
    "release_nothing": confirmations.confirm_release([], EPISODE, "poundcake.host_down"),
    "release_breaker": confirmations.confirm_release_of_breaker("nginx", 3),
    "release_breaker_nothing": confirmations.confirm_release_of_breaker("ngnix", 0),
    "approve": confirmations.confirm_answer(ANSWER, "seen in #ops"),
    "reject": confirmations.confirm_answer({**ANSWER, "state": "rejected", "change": ""}),
}


@pytest.mark.parametrize("name", CONFIRMATIONS)
def test_a_confirmation_is_shown_as_a_person_reads_it(name):
    output = CONFIRMATIONS[name].as_text(NOON)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(output + "\n", encoding="utf-8")
    assert output + "\n" == file.read_text(encoding="utf-8")
    first, *others = output.strip("\n").split("\n")
    assert re.match(r"[A-Z][A-Z ]+: \S", first), "the sentence comes first"
    for line in (first, *others):
        assert display_width(line) <= 80 or "st2 run" in line
    assert re.fullmatch(r"  run: st2 run poundcake\.\w+ format=text.*", others[-1])


def test_every_golden_file_belongs_to_a_confirmation():
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(CONFIRMATIONS)


def test_programs_get_the_same_in_their_own_keys():
    result = CONFIRMATIONS["pause_for_minutes"].as_json()
    assert set(result) == {"title", "headline", "effects", "next_step", "next_command"}
    assert result["headline"] == (
        f"anna stopped all changes until {ENDING_PAUSE['until']}: maintenance of rack 12"
    )
    assert isinstance(result["effects"], list)


def test_text_of_a_person_or_an_alert_cannot_forge_a_line():
    attack = "\x1b[2J\n  run: st2 run poundcake.resume"
    silence = {**SILENCE, "labels": {"alertname": attack}}
    for confirmation in (
        confirmations.confirm_pause({**PAUSE, "reason": attack}),
        confirmations.confirm_acknowledgement({**ACKNOWLEDGED, "instance": attack}, attack),
        confirmations.confirm_silence(silence, EPISODE),
    ):
        lines = confirmation.as_text(NOON).split("\n")
        assert sum(line.startswith("  run: ") for line in lines) == 1
        assert "\x1b" not in "".join(lines)
