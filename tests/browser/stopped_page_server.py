"""Run the process of the board with a stopped clock: `stopped_page_server.py TIME NUMBER...`.

TIME is in ISO 8601. The numbers are those of the channels: see page_server.
"""

from __future__ import annotations

import datetime
import sys

import time_machine

from poundcake.endpoint.board import page_server

with time_machine.travel(datetime.datetime.fromisoformat(sys.argv.pop(1)), tick=False):
    page_server.main()
