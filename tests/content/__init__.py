"""Check a pack's YAML against what StackStorm takes, and against this pack's own rules.

    python -m tests.content [PACK_DIRECTORY]

StackStorm checks each file when it registers it, and not what joins them: a rule that names an
action or a parameter that is not there, an entry point that is refused at run time, a
payload_schema by which every trigger is silently dropped. It also never asks where alert text
ends up: no expression of a workflow may name a result that somebody else wrote.
"""

from __future__ import annotations

from tests.content.pack import Pack, problems

__all__ = ["Pack", "problems"]
