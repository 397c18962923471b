"""Check the pack in the working directory, or in the directory given on the command line."""

from __future__ import annotations

import sys

from tests.content import find_problems

problems = find_problems(sys.argv[1] if len(sys.argv) > 1 else ".")
print("\n".join(problems) or "the pack's content: no problems")
sys.exit(bool(problems))
