"""The demo tells a story, and its board shows it until the user presses Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request

from tests.standalone.conftest import ROOT


def test_the_demo_keeps_the_board_with_its_story_until_an_interrupt(tmp_path):
    environment = dict(os.environ, PYTHONUNBUFFERED="1", TMPDIR=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-m", "standalone.demo", "--keep"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        output = ""
        for line in process.stdout:
            output += line
            if "Ctrl-C" in line:
                break
        urls = re.findall(r"http://127\.0\.0\.1:\d+/board\S*", output)
        assert len(urls) == 2, output
        pages = [urllib.request.urlopen(url, timeout=30).read().decode() for url in urls]
        assert "nothing is firing" in pages[0].lower()
        assert "HostDown" in pages[1] and "db1.example.invalid:9100" in pages[1]
    finally:
        process.send_signal(signal.SIGINT)
        remaining_output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, remaining_output
    assert not list(tmp_path.glob("poundcake-demo-*"))
