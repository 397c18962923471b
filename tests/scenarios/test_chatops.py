"""The chat commands, from the text in the chat to the answer, on a live StackStorm.

The stand-in does not run aliases, and has no pack chatops. tests/lib/trail/text/test_aliases.py
tests the answers, and tests/test_st2_aliases.py the commands.
"""

from __future__ import annotations

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification

pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
HOSTILE = "``` {{ st2kv.system.x }} <% ctx() %> <!here>"


class Chat:
    """A chat whose bot is the user of ST2_AUTH_TOKEN."""

    def __init__(self, stack):
        self.stack = stack

    def write(self, command, user="carol"):
        """Write a command as a chat user, and return the bot's answer, as hubot posts it."""
        body = {"command": command, "user": user, "source_channel": "ops"}
        started = self.stack.api("/aliasexecution/match_and_execute", "POST", body)
        execution_id = started["results"][0]["execution"]["id"]
        self.stack.wait_until_ended(execution_id)
        result = self.stack.run("chatops.format_execution_result", execution_id=execution_id)
        message = result["message"].strip()
        assert result["enabled"]
        assert len(message.split("\n")) <= 10
        assert message.startswith("```") and message.endswith("```") and message.count("`") == 6
        return message


@pytest.fixture
def chat(stack):
    if not stack.is_live:
        pytest.skip("the stand-in does not run aliases")
    return Chat(stack)


@pytest.fixture
def incident(stack, chat):
    """Return an open incident with hostile labels, as alerts_active shows it."""
    fired = alert("ScenarioChat")
    name = fired["labels"]["alertname"]
    fired["labels"]["note"] = HOSTILE
    stack.wait_until_completed(stack.send(notification(fired)))
    (row,) = stack.active_alerts(name)
    return row


def test_people_ask_about_an_alert(chat, incident):
    name, episode = incident["alert_name"], incident["episode"]
    answer = chat.write(f"poundcake why {name}")
    assert incident["title"] in answer and name in answer and "next: " in answer
    assert chat.write(f"poundcake why {name} on {incident['instance']}") == answer
    assert chat.write(f"poundcake why episode={episode}") == answer
    assert name in chat.write(f"poundcake active {name}")
    assert f"episode={episode}" in chat.write(f"poundcake active {name}")
    assert name in chat.write(f"poundcake recent {name}")
    assert "no matching alert is recorded" in chat.write("poundcake why NoSuchAlert")


def test_an_acknowledgement_names_the_chat_user(chat, incident, stack):
    answer = chat.write(f"poundcake ack {incident['episode']} I look at it", user="carol")
    assert "acknowledged by" in answer and "undo=true" in answer
    (row,) = stack.active_alerts(incident["alert_name"])
    assert row["acknowledged_comment"] == "I look at it (carol in chat)"


def test_a_command_that_is_refused_says_why(chat, incident):
    answer = chat.write(f"poundcake approve {incident['episode']} it is safe")
    assert f"no change of episode {incident['episode']} waits for approval" in answer
    answer = chat.write("poundcake acknowledge ffff0000")
    assert "no open incident matches" in answer


def test_a_fixed_parameter_cannot_be_changed_in_the_chat(chat):
    with pytest.raises(AssertionError, match="Immutable"):
        chat.write("poundcake why NoSuchAlert format=text")


def test_the_name_of_the_chat_user_is_not_evaluated(chat, incident, stack):
    chat.write(f"poundcake ack {incident['episode']} x", user="{{ st2kv.system.poundcake_secret }}")
    (row,) = stack.active_alerts(incident["alert_name"])
    assert "((" in row["acknowledged_comment"] or "{{" in row["acknowledged_comment"]
