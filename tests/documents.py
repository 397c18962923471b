"""Read the project's documents: code blocks, links and anchors."""

from __future__ import annotations

import pathlib
import re
import subprocess
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*/README.md")]
    + [ROOT / "bench" / "README.md"]
)
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def display_name(path):
    """Return the path of a document relative to the repository, for messages and test ids."""
    return str(path.relative_to(ROOT))


def find_code_blocks(path, language):
    """Return the code blocks in a document that have this language, also those in lists."""
    return [
        textwrap.dedent(text)
        for _, block_language, text in _BLOCK.findall(_read(path))
        if block_language == language
    ]


def find_block(path, language, text):
    """Return the only code block in a document that has this language and contains this text."""
    (block,) = [b for b in find_code_blocks(path, language) if text in b]
    return block


def run_commands(block, replacements):
    """Run a block of commands in a shell, with other paths, without StackStorm's commands."""
    lines = [line for line in block.splitlines() if not line.startswith(("st2 ", "st2ctl "))]
    commands = "\n".join(lines)
    for old, new in replacements.items():
        commands = commands.replace(old, new)
    subprocess.run(["sh", "-eu"], input=commands.encode(), check=True)


def find_links(path):
    """Return the targets of a document's links, except those in code."""
    return _LINK.findall(_without_code(path))


def find_anchors(path):
    """Return the anchors of a document, as GitHub generates them."""
    names = set()
    for heading in _HEADING.findall(_without_code(path)):
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        names.add(plain.replace(" ", "-"))
    return names


def find_inline_code(path):
    """Return the strings between single backticks in a document."""
    return re.findall(r"`([^`\n]+)`", _BLOCK.sub("", _read(path)))


def _without_code(path):
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", _read(path)))


def _read(path):
    return path.read_text(encoding="utf-8")
