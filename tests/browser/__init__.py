"""Visit the board with Chromium: `make browser` and `make screenshots`."""

from __future__ import annotations

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Outside pytest, which knows lib/ already.
sys.path.insert(0, os.path.join(_ROOT, "lib"))
