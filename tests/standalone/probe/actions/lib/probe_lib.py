from __future__ import annotations

NAME = "probe_lib"
