"""With RBAC, users of the pack that have no role are found."""

from __future__ import annotations

import pytest

from poundcake.doctor.account import read_account
from poundcake.doctor.finding import Status
from poundcake.doctor.permissions import SENSOR_USER, RbacFacts, check_rbac, read_rbac
from poundcake.stackstorm import StackStormError

ASSIGNMENTS = [
    {"user": SENSOR_USER, "role": "observer"},
    {"user": "stanley", "role": "admin"},
    {"user": "st2admin", "role": "system_admin"},
]
ST2_CONF = {"system_user": {"user": "stanley"}}


class Api:
    """StackStorm's API."""

    def __init__(self, assignments=ASSIGNMENTS, enabled=True):
        self.assignments = assignments
        self.user = {"username": "st2admin", "rbac": {"enabled": enabled}}

    def get(self, path, **params):
        answer = {"/user": self.user, "/rbac/role_assignments": self.assignments}[path]
        if isinstance(answer, Exception):
            raise answer
        return answer


def without(user):
    return [assignment for assignment in ASSIGNMENTS if assignment["user"] != user]


def check(api, has_api_key=False, st2_conf=ST2_CONF):
    return check_rbac(read_rbac(api, read_account(api)), has_api_key, st2_conf)


def test_a_response_that_is_not_json_is_no_finding_here():
    api = Api()
    api.user = "<html>Log in</html>"
    assert check(api) == []
    (finding,) = check(Api("<html>Log in</html>"))
    assert finding.status is Status.UNKNOWN


@pytest.mark.parametrize(
    "api, what",
    [
        (Api(), "the users of the pack have roles"),
        (Api(enabled=False), "RBAC is off"),
        (Api([], enabled=False), "RBAC is off"),
    ],
)
def test_nothing_is_missing(api, what):
    (finding,) = check(api)
    assert finding.status is Status.OK
    assert what in finding.what


def test_a_stackstorm_without_rbac_backend_does_not_say_whether_it_is_on():
    api = Api()
    api.user = {"username": "st2admin"}
    (finding,) = check(api)
    assert finding.status is Status.OK


def test_the_sensor_needs_a_role_to_read_executions():
    (finding,) = check(Api(without(SENSOR_USER)))
    assert finding.status is Status.WARNING
    assert finding.remedy == ("assign the role observer to sensor_service (docs/INSTALL.md, RBAC)")


def test_the_system_user_needs_a_role_for_sync():
    (finding,) = check(Api(without("stanley")))
    assert finding.status is Status.PROBLEM
    assert "rules run poundcake.sync, has no role" in finding.what
    assert finding.remedy == "assign the role admin to stanley (docs/INSTALL.md, RBAC)"


def test_the_system_user_is_the_one_in_st2_conf():
    (finding,) = check(Api(), st2_conf={"system_user": {"user": "worker"}})
    assert finding.remedy.startswith("assign the role admin to worker")
    (finding,) = check(Api(), st2_conf={})
    assert finding.status is Status.OK


def test_without_st2_conf_the_system_user_may_be_another_one():
    (finding,) = check(Api(without("stanley")), st2_conf=None)
    assert finding.status is Status.UNKNOWN
    assert "unless [system_user] in st2.conf names another one" in finding.what
    (finding,) = check(Api(), st2_conf=None)
    assert finding.status is Status.OK


def test_nobody_has_a_role():
    assert [finding.status for finding in check(Api([]))] == [Status.WARNING, Status.PROBLEM]


def test_with_an_api_key_only_its_user_matters():
    (finding,) = check(Api([]), has_api_key=True)
    assert finding.status is Status.OK


@pytest.mark.parametrize(
    "assignments, reason",
    [
        (StackStormError("GET /rbac/role_assignments: 403 no", 403), "403 no"),
        (None, "its API does not list the roles"),
    ],
)
def test_roles_that_cannot_be_read_are_unknown(assignments, reason):
    (finding,) = check(Api(assignments))
    assert finding.status is Status.UNKNOWN
    assert finding.what.endswith(reason)
    assert "run doctor as an administrator" in finding.remedy


def test_an_api_that_is_away_is_reported_by_other_checks():
    api = Api()
    api.user = StackStormError("ConnectionError: no route")
    assert read_rbac(api, read_account(api)) == RbacFacts("ConnectionError: no route")
    assert check(api) == []
