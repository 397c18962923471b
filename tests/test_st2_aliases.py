"""StackStorm's own code matches each chat command to one alias, and extracts its parameters.

`st2-run-pack-tests` runs this file (docs/CONTRIBUTING.md). tests/lib/trail/text/test_aliases.py
tests the answers.
"""

from __future__ import annotations

import glob
import os

import pytest

pytest.importorskip("st2tests", reason="st2tests is part of StackStorm: run st2-run-pack-tests")

import yaml
from st2common.exceptions.content import ParseException
from st2common.models.api.action import ActionAliasAPI
from st2common.models.utils.action_alias_utils import extract_parameters
from st2common.util import schema
from st2common.util.actionalias_matching import match_command_to_alias
from st2common.util.jinja import get_jinja_environment
from st2tests.action_aliases import BaseActionAliasTestCase

EPISODE = "b1330eaca6c0c711-1795816774618"
FILES = sorted(
    glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "aliases", "*.yaml"))
)


def load_all():
    """Return the aliases of the pack by name, as StackStorm's API shows them."""
    aliases = {}
    for file in FILES:
        with open(file, encoding="utf-8") as stream:
            content = {**yaml.safe_load(stream), "pack": "poundcake"}
        schema.validate(content, ActionAliasAPI.schema, schema.CustomValidator)
        alias = ActionAliasAPI(**content)
        aliases[alias.name] = ActionAliasAPI.to_model(alias)
    return aliases


class Commands:
    """The commands of one alias, each with the parameters that StackStorm extracts from it."""

    commands = {}

    def test_each_command_gives_its_parameters(self):
        (representation,) = self.action_alias_db.get_format_strings()
        for command, parameters in self.commands.items():
            self.assertExtractedParametersMatch(representation, command, parameters)

    def test_each_command_matches_no_other_alias(self):
        aliases = load_all()
        representations = [
            text for alias in aliases.values() for text in alias.get_format_strings()
        ]
        for command in self.commands:
            self.assertCommandMatchesExactlyOneFormatString(representations, command)
            (match,) = match_command_to_alias(command, aliases.values())
            assert match["alias"].name == self.action_alias_name

    def test_the_answer_is_valid_jinja(self):
        text = self.action_alias_db.result["format"]
        execution = {"status": "failed", "result": {"result": "no"}}
        rendered = get_jinja_environment(allow_undefined=True).from_string(text)
        assert ": no```" in rendered.render(execution=execution)


class WhyTestCase(Commands, BaseActionAliasTestCase):
    action_alias_name = "poundcake_why"
    commands = {
        "poundcake why HostDown": {"alert_name": "HostDown", "instance": ""},
        "poundcake why HostDown on web-1:9100": {
            "alert_name": "HostDown",
            "instance": "web-1:9100",
        },
        "poundcake why HostDown web-1": {"alert_name": "HostDown", "instance": "web-1"},
        'poundcake why "Disk full" on web-1': {"alert_name": "Disk full", "instance": "web-1"},
        f"poundcake why episode={EPISODE}": {
            "alert_name": "",
            "instance": "",
            "episode": EPISODE,
        },
        'poundcake why HostDown labels="team=infra"': {
            "alert_name": "HostDown",
            "instance": "",
            "labels": "team=infra",
        },
    }


class ActiveTestCase(Commands, BaseActionAliasTestCase):
    action_alias_name = "poundcake_active"
    commands = {
        "poundcake active": {"alert_name": ""},
        "poundcake active HostDown": {"alert_name": "HostDown"},
        "poundcake active severity=critical": {"alert_name": "", "severity": "critical"},
    }


class RecentTestCase(Commands, BaseActionAliasTestCase):
    action_alias_name = "poundcake_recent"
    commands = {
        "poundcake recent": {"alert_name": ""},
        "poundcake recent HostDown": {"alert_name": "HostDown"},
    }


class ApproveTestCase(Commands, BaseActionAliasTestCase):
    action_alias_name = "poundcake_approve"
    commands = {
        f"poundcake approve {EPISODE}": {"episode": EPISODE, "comment": ""},
        "poundcake approve b133 the rack has power": {
            "episode": "b133",
            "comment": "the rack has power",
        },
    }


class RejectTestCase(Commands, BaseActionAliasTestCase):
    action_alias_name = "poundcake_reject"
    commands = {"poundcake reject b133 not now": {"episode": "b133", "comment": "not now"}}


class SilenceTestCase(Commands, BaseActionAliasTestCase):
    action_alias_name = "poundcake_silence"
    commands = {
        command: {"episode": "b133", "minutes": "30", "comment": "the disk is replaced"}
        for command in (
            "poundcake silence b133 30m the disk is replaced",
            "poundcake silence b133 30 min the disk is replaced",
            "poundcake silence b133 for 30 minutes the disk is replaced",
        )
    }


class AcknowledgeTestCase(Commands, BaseActionAliasTestCase):
    action_alias_name = "poundcake_acknowledge"
    commands = {
        "poundcake acknowledge b133": {"episode": "b133", "comment": ""},
        "poundcake ack b133 I look at it": {"episode": "b133", "comment": "I look at it"},
    }


@pytest.mark.parametrize(
    "command", ["poundcake", "poundcake why2 x", "poundcake approve", "poundcake silence b133 x y"]
)
def test_other_commands_match_nothing(command):
    for alias in load_all().values():
        for representation in alias.get_format_strings():
            with pytest.raises(ParseException):
                extract_parameters(representation, command)


def test_each_alias_has_a_test():
    tested = {case.action_alias_name for case in Commands.__subclasses__()}
    assert tested == set(load_all())
