"""Check a pack's YAML against StackStorm's schemas, and against this pack's own rules.

    python -m tests.content [PACK_DIRECTORY]

StackStorm checks each file when it registers it, but not the connections between files: a rule that
names a missing action or parameter, an entry point that is refused at run time, a payload_schema
that silently drops every trigger. Nor does StackStorm check which text is evaluated: no expression
of a workflow may use a result of another pack.
"""

from __future__ import annotations

from tests.content.pack import Pack, find_problems

__all__ = ["Pack", "find_problems"]
