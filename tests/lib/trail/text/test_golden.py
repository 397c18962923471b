"""The view why as a person on call reads it, in each state.

The expected texts are in golden/. After an intended change of the text, write them again, and read
the difference as the person on call would: does it say within 30 seconds what to do now?

    UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/lib/trail/text/test_golden.py
    git diff tests/lib/trail/text/golden
"""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from poundcake.trail import text
from poundcake.trail.queries.episode_verdict import NOTHING_TO_DO, EpisodeVerdict, Judgement
from poundcake.trail.text.layout import display_width
from tests.lib.trail.text.on_call_states import STATES
from tests.lib.trails import on_sqlite

ON_CALL = pathlib.Path(__file__).parents[4] / "docs" / "ON_CALL.md"
QUOTED = (
    "changed_and_not_cleared",
    "waiting_for_approval",
    "storm",
    "no_rule",
    "waiting_in_the_journal",
)
GOLDEN = pathlib.Path(__file__).with_name("golden")
MICROSECONDS = re.compile(r"\d\d:\d\d:\d\d\.\d")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT")


def split_blocks(output):
    """Return the lines of each episode and of each request that waits."""
    blocks = [block.split("\n") for block in output.strip("\n").split("\n\n")]
    return [block for block in blocks[:-1] if not block[0].startswith("PAUSED by")]


@on_sqlite
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_state_is_shown_as_a_person_reads_it(world, state):
    filters = state(world)
    view = world.why(**filters)
    output = text.why(view, world.now)
    file = GOLDEN / f"{state.__name__}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(output + "\n", encoding="utf-8")
    assert output + "\n" == file.read_text(encoding="utf-8")
    assert not MICROSECONDS.search(output) and not TIMESTAMP.search(output)
    for line in output.split("\n"):
        is_command = line.strip().startswith(("st2 ", "run: st2 ", "`st2 "))
        assert display_width(line) <= 80 or is_command, line
    rows = [*view.get("waiting", []), *view["episodes"]]
    assert len(split_blocks(output)) == len(rows)
    for row, block in zip(rows, split_blocks(output)):
        assert block[0].startswith(row["title"])
        command = row["next_command"]
        if command:
            assert block[-1].endswith(command), "the command is on one line, and is the last"
        else:
            assert block[-1] == f"  next: {NOTHING_TO_DO}"


@pytest.mark.parametrize("name", QUOTED)
def test_the_page_for_people_on_call_quotes_the_golden_files(name):
    golden = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert golden.strip("\n").rpartition("\n\n")[0] in ON_CALL.read_text(encoding="utf-8")


def test_the_page_for_people_on_call_explains_each_verdict():
    page = ON_CALL.read_text(encoding="utf-8")
    table = page.partition("## Verdicts")[2].partition("## Outcomes")[0]
    titles = {Judgement(verdict, "x").title for verdict in EpisodeVerdict}
    missing = {title for title in titles if f"`{title}`" not in table}
    assert not missing


def test_every_golden_file_belongs_to_a_state():
    names = {state.__name__ for state in STATES}
    assert {file.stem for file in GOLDEN.glob("*.txt")} == names


@on_sqlite
@pytest.mark.parametrize("width", [40, 60, 120])
def test_the_text_uses_the_width_of_the_terminal(world, width):
    from tests.lib.trail.text.on_call_states import storm

    lines = text.why(world.why(**storm(world)), world.now, width).split("\n")
    longest = max(display_width(line) for line in lines if "st2 run" not in line)
    assert longest <= width and longest > min(width, 80) - 20
