"""An examination asks StackStorm for the same thing only once."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone

from poundcake.doctor import Examination
from poundcake.stackstorm import StackStormError
from tests.documents import ROOT


class Api:
    """A StackStorm without content and with RBAC, which counts the requests for each path."""

    def __init__(self):
        self.requests = Counter()

    def now(self):
        return datetime.now(timezone.utc)

    def get(self, path, **params):
        self.requests[path] += 1
        if path == "/user":
            return {"username": "stanley", "rbac": {"enabled": True}}
        if path == "/packs/poundcake":
            return {"version": "0.0.0"}
        raise StackStormError(f"GET {path}: 403", 403)

    def __getattr__(self, name):
        def refuse(*_, **__):
            raise StackStormError(f"{name}: 403", 403)

        return refuse


def test_the_user_is_read_once(tmp_path):
    api = Api()
    config = {"state_dir": str(tmp_path), "endpoint_url": "http://127.0.0.1:9"}
    findings = Examination(config, str(ROOT), lambda _: api).run()
    assert any("the roles of the users cannot be read" in finding.what for finding in findings)
    assert api.requests["/user"] == 1
