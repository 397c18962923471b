"""Outputs that documents show are recognised, and only run-specific text may differ."""

from __future__ import annotations

import re

import pytest

from tests import documents
from tests.shown_output import find_shown_outputs, is_shown_in, normalize, read_result

SHOWN = (
    "HostDown  db1:9100  critical  firing since 2026-11-26T10:45:17.583872Z, 12 min ago",
    "  episode 794804a1ec391dce-1795689917583",
    "    request 8f1b2543-18b3-432f-9a45-f53c769e7cd4",
    "…",
    "1 episode",
)
ACTUAL = [
    "HostDown  db1:9100    critical  firing since 2027-01-01T00:00:00Z, 3 h ago",
    "  episode 0123456789abcdef-1800000000000",
    "    request 00000000-18b3-432f-9a45-f53c769e7cd4",
    "another line",
    "another line",
    "1 episode",
]
USER_DOCUMENTS = [documents.ROOT / "README.md", *sorted(documents.ROOT.glob("docs/*.md"))]
# Blocks without a language are diagrams or, from states that are hard to produce, golden files.
DRAWN = re.compile("[─│▶]")
GOLDEN_FILES = sorted((documents.ROOT / "tests" / "lib" / "trail" / "text").glob("golden*/*.txt"))


def test_ids_times_and_durations_may_differ():
    assert is_shown_in(SHOWN, ACTUAL)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, "one more line"],
        lambda lines: [line.replace("critical", "warning") for line in lines],
        lambda lines: [line.replace("db1", "db2") for line in lines],
        lambda lines: [line.replace("1 episode", "2 episodes") for line in lines],
    ],
)
def test_nothing_else_may_differ(change):
    assert not is_shown_in(SHOWN, change(ACTUAL))


def test_a_port_and_a_short_id_may_differ():
    assert normalize("http://127.0.0.1:8000/x episode=3f9c") == "http://127.0.0.1:PORT/x episode=ID"


def test_a_word_is_no_id():
    assert normalize("defaced facade, 8 requests") == "defaced facade, 8 requests"


@pytest.mark.parametrize("quote", ['"', "'"])
def test_the_result_is_read_from_the_clients_output(quote):
    text = f"status: succeeded\nresult: \n  result: {quote}\n    a\n      b\n\n    1 c{quote}\n"
    assert read_result(text + "  stderr: ''\n") == ["a", "  b", "", "1 c"]


@pytest.mark.parametrize("path", USER_DOCUMENTS, ids=documents.display_name)
def test_an_output_is_not_shown_without_its_command(path):
    """Only blocks with the language `console` are compared with the real output."""
    find_shown_outputs(path)  # each has a command
    golden_texts = [file.read_text(encoding="utf-8") for file in GOLDEN_FILES]
    unchecked = [
        block
        for block in documents.find_code_blocks(path, "")
        if not DRAWN.search(block) and not any(block in text for text in golden_texts)
    ]
    assert unchecked == []


def test_these_documents_show_outputs():
    shown_in = {path.name for path in documents.DOCUMENTS if find_shown_outputs(path)}
    assert shown_in >= {"README.md", "ESCALATION.md", "REMEDIATION.md"}
