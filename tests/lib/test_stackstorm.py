"""What is asked of StackStorm's API, with a client that answers as it is told."""

import types
from datetime import datetime, timezone

import pytest

from poundcake.stackstorm import StackStorm, StackStormError


class Answer:
    def __init__(self, status, body=None):
        self.status_code, self._body, self.text = status, body, str(body)

    def json(self):
        if self._body is None:
            raise ValueError
        return self._body


@pytest.fixture
def api():
    """answers: one for each question. asked: the paths. tokens: how often a new one was made."""
    found = types.SimpleNamespace(answers=[], asked=[], fresh=[])

    def get(path, **more):
        found.asked.append(path)
        return found.answers.pop(0)

    def connect(fresh):
        found.fresh.append(fresh)
        executions = types.SimpleNamespace(client=types.SimpleNamespace(get=get))
        return types.SimpleNamespace(executions=executions, token="t", api_key=None)

    found.stackstorm = StackStorm(connect)
    return found


@pytest.mark.parametrize(
    "given, path",
    [
        ("5f0c", "/executions/5f0c"),
        ("../keys", "/executions/..%2Fkeys"),
        ("x/re_run?a=b#c", "/executions/x%2Fre_run%3Fa%3Db%23c"),
        ("{{ x }}", "/executions/%7B%7B%20x%20%7D%7D"),
    ],
)
def test_an_id_stays_in_its_place(api, given, path):
    api.answers = [Answer(404)]
    assert api.stackstorm.execution(given) is None
    assert api.asked == [path]


def test_an_id_that_can_be_none_is_none(api):
    api.answers = [Answer(400, {"faultstring": "Invalid ObjectId"})]
    assert api.stackstorm.execution("x") is None


def test_a_token_that_has_ended_is_made_anew_once(api):
    api.answers = [Answer(401), Answer(200, {"id": "e1"})]
    assert api.stackstorm.execution("e1") == {"id": "e1"}
    assert api.fresh == [False, True]
    api.answers = [Answer(401, {"faultstring": "Unauthorized"})] * 2
    with pytest.raises(StackStormError, match="401") as caught:
        api.stackstorm.execution("e1")
    assert caught.value.status == 401 and not api.answers


def test_one_id_that_is_none_does_not_spoil_a_list(api):
    api.answers = [Answer(400, {"faultstring": "Invalid"}), Answer(400), Answer(200, {"id": "e2"})]
    assert api.stackstorm.executions(["x", "e2"]) == {"x": None, "e2": {"id": "e2"}}


def test_an_error_is_a_line(api):
    api.answers = [Answer(500, {"faultstring": "oh\nno"})]
    with pytest.raises(StackStormError) as caught:
        api.stackstorm.execution("e1")
    assert str(caught.value).startswith("GET /executions/e1: 500") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "status, process",
    [("requested", "st2scheduler"), ("scheduled", "st2actionrunner"), ("running", ""), (None, "")],
)
def test_who_does_not_take_an_execution_is_named(api, status, process):
    api.answers = [Answer(200, [{"id": "e1", "status": status}] if status else [])]
    said = api.stackstorm.not_taken("poundcake.record", datetime.now(timezone.utc))
    wanted = "execution e1 of poundcake.record stays %s: st2ctl restart-component %s"
    assert said == (wanted % (status, process) if process else "")
