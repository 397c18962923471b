"""Read the project's documents: code blocks, links and anchors."""

from __future__ import annotations

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*/README.md")]
    + [ROOT / "bench" / "README.md"]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def display_name(path):
    """Return the path of a document relative to the repository, for messages and test ids."""
    return str(path.relative_to(ROOT))


def find_code_blocks(path, language):
    """Return the code blocks in a document that have this language."""
    return [
        text for block_language, text in _BLOCK.findall(_read(path)) if block_language == language
    ]


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
