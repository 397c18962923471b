"""Matchers mean the same as in Alertmanager, as its amtool confirms."""

from __future__ import annotations

import json
import subprocess

import pytest

from poundcake.matchers import (
    MAX_LABEL_CHARACTERS,
    Matcher,
    MatchType,
    find_contradiction,
    parse_matcher,
    parse_matchers,
)
from tests import services

LABELS = {"alertname": "DiskFull", "path": "/var", "text": 'a"b\\c', "team": "db", "n": "10"}

# A matcher and whether it matches LABELS, or None if the text is not a matcher.
TABLE = [
    ('alertname="DiskFull"', True),
    ("alertname=DiskFull", True),
    ("  alertname  =  DiskFull  ", True),
    ('alertname="diskfull"', False),
    ('alertname!="DiskFull"', False),
    ('alertname!="HostDown"', True),
    ('alertname=~"Disk.*"', True),
    ('alertname=~"Disk"', False),  # anchored
    ('alertname=~"Full|DiskFull"', True),
    ("alertname=~Disk.*|Host.*", True),
    ('alertname!~"Disk.*"', False),
    ('alertname!~"Disk"', True),
    ('alertname=~"(?i)diskfull"', True),
    ('alertname=~"[A-Z][a-z]+[A-Z][a-z]{3}"', True),
    ('alertname=~"DiskFull$"', True),
    ('path="/var"', True),
    ("path=/var", True),
    ('path=~"/(var|tmp)"', True),
    ('n=~"\\d+"', True),  # a backslash before any other character is literal
    ('n=~"\\\\d+"', True),
    ("n=~\\d+", True),
    ('text="a\\"b\\\\c"', True),
    ('rack=""', True),  # a missing label is an empty string
    ("rack=", True),
    ('rack!=""', False),
    ('rack=~".*"', True),
    ('rack=~".+"', False),
    ('rack!~".+"', True),
    ('team=~"db|"', True),
    ('{team="db"}', True),
    ('team="db",n="10"', True),
    ('{team="db", n="11"}', False),
    ('team="db",', True),
    ('team="a,b"', False),
    ('_x:y="1"', False),
    ("alertname", None),
    ("alertname==DiskFull", False),
    ('alertname="DiskFull', None),
    ('alertname=Disk"Full', None),
    ('alertname="Disk"Full"', None),
    ("=DiskFull", None),
    ('alertname~"x"', None),
    ('alertname=~"("', None),
    ('alertname=~"a**"', None),
    ('alertname=~"(?=a)"', None),
    ('alertname=~"(a)\\1"', None),
]


def matches(text, labels=None):
    return all(
        matcher.matches(LABELS if labels is None else labels) for matcher in parse_matchers(text)
    )


@pytest.mark.parametrize("text, expected", TABLE)
def test_each_matcher_in_the_table_is_evaluated_or_refused(text, expected):
    if expected is None:
        with pytest.raises(ValueError):
            parse_matchers(text)
    else:
        assert matches(text) is expected


class Amtool:
    """Alertmanager's command, which checks a configuration and finds the route of an alert."""

    def __init__(self, folder):
        try:
            self.program = services.program("amtool")
        except services.MissingProgram as error:
            pytest.skip(f"amtool: {error}")
        self.file = folder / "alertmanager.yml"

    def run(self, *arguments):
        completed = subprocess.run([self.program, *arguments], capture_output=True, check=False)
        return completed.returncode, completed.stdout.decode()

    def accepts(self, text):
        """Return True if a matcher is valid in a configuration."""
        route = {"receiver": "other", "routes": [{"receiver": "matching", "matchers": [text]}]}
        receivers = [{"name": "other"}, {"name": "matching"}]
        self.file.write_text(json.dumps({"route": route, "receivers": receivers}))  # JSON is YAML
        return self.run("check-config", str(self.file))[0] == 0

    def matches(self, labels):
        """Return True if the matcher last passed to accepts() matches the labels."""
        arguments = [f"{name}={json.dumps(value)}" for name, value in labels.items()]
        code, output = self.run(
            "config", "routes", "test", f"--config.file={self.file}", *arguments
        )
        assert code == 0, output
        return output.strip() == "matching"


def test_amtool_agrees_with_the_table(tmp_path):
    amtool = Amtool(tmp_path)
    results = []
    for text, _ in TABLE:
        results.append((text, amtool.matches(LABELS) if amtool.accepts(text) else None))
    assert results == TABLE


# Alertmanager 0.27 and newer; older releases, such as Debian's, do not have this syntax.
@pytest.mark.parametrize(
    "text, name, value",
    [
        ('"app.kubernetes.io/name"="shop"', "app.kubernetes.io/name", "shop"),
        ('"größe"=klein', "größe", "klein"),
        ("größe=klein", "größe", "klein"),
        ("9name=x", "9name", "x"),
        ("name-with-dash=x", "name-with-dash", "x"),
        ("app.kubernetes.io/name=shop", "app.kubernetes.io/name", "shop"),
        ('"a\\"b"="\\u00e9\\t"', 'a"b', "é\t"),
    ],
)
def test_a_label_name_may_contain_any_characters(text, name, value):
    assert parse_matcher(text) == Matcher(name, MatchType.EQUAL, value)
    assert parse_matcher(str(parse_matcher(text))) == parse_matcher(text)


@pytest.mark.parametrize("text", ['""="x"', '"a"="\\q"', '"a"="\\ud800"', '"a"', '"a=b', '"a"="b'])
def test_invalid_matchers_with_quoted_names_are_refused(text):
    with pytest.raises(ValueError, match="is not a matcher"):
        parse_matcher(text)


@pytest.mark.parametrize("text", ["", "{}", "  ", ","])
def test_text_without_a_matcher_is_refused(text):
    with pytest.raises(ValueError):
        parse_matchers(text)


def test_the_error_about_an_unmatched_brace_suggests_a_fix():
    with pytest.raises(ValueError, match="quote the value, or remove the brace"):
        parse_matchers("n=~a{2}")


def test_a_regular_expression_never_matches_a_label_over_the_length_limit():
    for text in ('team=~"x*"', 'team!~"y"'):
        assert matches(text, {"team": "x" * MAX_LABEL_CHARACTERS})
        assert not matches(text, {"team": "x" * (MAX_LABEL_CHARACTERS + 1)})


@pytest.mark.parametrize(
    "text, pair",
    [
        ('a="1", a="2"', ['a="1"', 'a="2"']),
        ('a="1", a!="1"', ['a="1"', 'a!="1"']),
        ('a=~"2.*", a="1"', ['a="1"', 'a=~"2.*"']),
        ('a="1", a!~"[0-9]"', ['a="1"', 'a!~"[0-9]"']),
        ('a=~"x.*", a!~"x.*"', ['a=~"x.*"', 'a!~"x.*"']),
        ('a="", b="1", a!=""', ['a=""', 'a!=""']),
        ('a="1", b="2"', None),
        ('a="1", a=~"[0-9]"', None),
        ('a=~"x.*", a!~"xy.*"', None),
    ],
)
def test_matchers_that_contradict_each_other_are_found(text, pair):
    contradiction = find_contradiction(parse_matchers(text))
    assert (contradiction and [str(matcher) for matcher in contradiction]) == pair
