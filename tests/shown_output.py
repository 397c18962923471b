"""Compare the output of commands with the output that the documents show.

A document shows a command and its output in a code block with the language `console`: the command
after `$ `, then the output. A line that contains only `…` stands for any number of lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests import documents

_PROMPT = "$ "
_LEFT_OUT = "…"
# Each of these differs from run to run. The order matters: later patterns see the replaced text.
_VARIABLE_TEXTS = [
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{16}-\d{13}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{24}\b"), "ID"),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{8,12}\b"), "ID"),
    (re.compile(r"\b(episode|request)([= ])[0-9a-f]{4,8}\b"), r"\1\2ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?\b"), "TIME"),
    (re.compile(r"\b\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z\b"), "TIME"),
    (re.compile(r"\b(?:\d+(?:\.\d+)? ?(?:ms|s|min|h|d|months?|days?|hours?)\b ?)+"), "DURATION "),
    (re.compile(r"(?<![\d.])\d+\.\d+\b(?!\.)"), "NUMBER"),
    (re.compile(r"(127\.0\.0\.1):\d+"), r"\1:PORT"),
    (re.compile(r"\s+"), " "),
]


@dataclass(frozen=True)
class ShownOutput:
    """A command and its output in a document.

    Attributes:
        block: The content of the code block.
        command: The command, with its parameters.
        lines: The lines of the output that the document shows.
    """

    block: str
    command: str
    lines: tuple[str, ...]


def find_shown_outputs(path):
    """Return the commands whose output a document shows."""
    outputs = []
    for block in documents.find_code_blocks(path, "console"):
        first_line, *lines = block.splitlines()
        assert first_line.startswith(_PROMPT), f"{path}: a console block has no command: {block}"
        outputs.append(ShownOutput(block, first_line[len(_PROMPT) :], tuple(lines)))
    return outputs


def normalize(line):
    """Return a line with all text that differs from run to run replaced."""
    for pattern, replacement in _VARIABLE_TEXTS:
        line = pattern.sub(replacement, line)
    return line.strip()


def is_shown_in(shown_lines, actual_lines):
    """Return True if the actual output consists of the shown lines."""
    pattern = "".join(
        "(?:.*\n)*?" if line.strip() == _LEFT_OUT else re.escape(normalize(line)) + "\n"
        for line in shown_lines
    )
    return bool(re.fullmatch(pattern, "".join(normalize(line) + "\n" for line in actual_lines)))


def read_result(client_output):
    """Return the lines of the text that an action returned, from the output of `st2 run`."""
    match = re.search(r"result: (['\"])\n(.*?)\1\n\s+stderr:", client_output, re.DOTALL)
    assert match, f"the client shows no text as the result:\n{client_output}"
    lines = match.group(2).splitlines()
    indentation = min((len(s) - len(s.lstrip()) for s in lines if s.strip()), default=0)
    return [line[indentation:] for line in lines]
