"""A warning that a client can cause is logged once a minute, with the number of repetitions."""

from __future__ import annotations

import logging

from poundcake.endpoint import rate_limited_logger
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger


def test_a_message_is_logged_once_a_minute_with_its_count(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(rate_limited_logger, "monotonic", lambda: now[0])
    log = RateLimitedLogger(logging.getLogger("limited"))
    for number in range(3):
        log.warning("refused %s", number)
    log.warning("another text")
    now[0] += 61
    log.warning("refused %s", 9)
    assert [r.getMessage() for r in caplog.records] == [
        "refused 0",
        "another text",
        "refused 9 (and 2 times since it was last logged)",
    ]
