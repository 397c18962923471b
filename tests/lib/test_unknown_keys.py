"""A misspelt key is refused with the most similar valid one, wherever it is written."""

from __future__ import annotations

import pytest

from poundcake.config import ConfigError, load
from poundcake.unknown_keys import refuse_unknown_keys

SERVER = {"url": "http://prometheus.example:9090"}


def test_valid_keys_are_accepted():
    refuse_unknown_keys({"url": 1}, ["url", "token"])
    refuse_unknown_keys({}, [])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dry_runs": True}, "unknown key dry_runs; did you mean dry_run?"),
        ({"xyzzy": 1}, "unknown key xyzzy; known: alertmanagers, "),
        ({"board_proxy": {"headers": "X"}}, "unknown key headers; did you mean header?"),
        ({"board_proxy": {"xyzzy": 1}}, "unknown key xyzzy; known: header, addresses"),
        ({"prometheus": [{**SERVER, "tokn": "x"}]}, "unknown key tokn; did you mean token?"),
        ({"prometheus": [{**SERVER, "xyzzy": 1}]}, "unknown key xyzzy; known: basic, ca_file, "),
    ],
)
def test_the_error_names_the_key_and_a_valid_one(config, message):
    with pytest.raises(ConfigError) as caught:
        load(config)
    assert message in str(caught.value)
