"""The first matching entry of `remediations` applies; an error disables only its entry."""

from __future__ import annotations

import pathlib

import pytest
import yaml

from poundcake.config import ConfigError, changed_keys, load
from poundcake.inert import make_inert
from poundcake.remediations import (
    KEYS,
    LabelError,
    LabelLimits,
    Mode,
    first_match,
    nearest_misses,
    read_remediations,
)

FOLDER = pathlib.Path(__file__).parents[2] / "etc" / "remediations"
DISK = {"alertname": "DiskFull", "mountpoint": "/var", "instance": "db-3:9100"}


def entry(name="one", **keys):
    return {"name": name, "match": ['alertname="DiskFull"'], "mode": "evidence", **keys}


def live_entry(**keys):
    return entry(**{"mode": "live", "action": "mypack.clean", **keys})


def read(*entries):
    """Return the entries, all of which must be valid."""
    remediations, errors = read_remediations(list(entries))
    assert errors == ()
    return remediations


def error_of(keys):
    """Return the error about an entry, without its position."""
    remediations, (error,) = read_remediations([keys])
    assert remediations == ()
    position, _, message = error.partition(": ")
    assert position.startswith("remediations, entry 1")
    return message


class TestKeys:
    def test_every_key_is_read(self):
        keys = {
            "name": "scale-api",
            "match": ['alertname="ApiSaturated"', "cluster!="],
            "mode": "ask",
            "approvers": ["anna", "ben"],
            "action": "mypack.scale",
            "with": {"max": 12, "where": {"namespace": "$namespace"}},
            "host_parameter": "node",
            "check": ["alert", "tcp:22", "action:mypack.look"],
            "only_if": "count(up) > 1",
            "per": {"label": "rack", "at_once": 2, "storm": 5},
            "wait": 900,
            "verify": "expression",
            "target": ["cluster", "namespace"],
            "evidence": ["mypack.snapshot"],
            "silence_minutes": 20,
        }
        assert set(keys) == set(KEYS)
        (remediation,) = read(keys)
        assert remediation.mode is Mode.ASK
        assert remediation.approvers == ("anna", "ben")
        assert (remediation.action, remediation.host_parameter) == ("mypack.scale", "node")
        assert remediation.check == ("alert", "tcp:22", "action:mypack.look")
        assert remediation.per == LabelLimits("rack", 2, 5)
        assert (remediation.wait, remediation.verify, remediation.only_if) == (
            900,
            "expression",
            "count(up) > 1",
        )
        assert remediation.target == ("cluster", "namespace")
        assert remediation.evidence == ("mypack.snapshot",)
        assert remediation.silence_minutes == 20
        round_trip = remediation.as_dict()
        assert round_trip == {**keys, "match": ['alertname="ApiSaturated"', 'cluster!=""']}

    def test_optional_keys_have_defaults(self):
        (remediation,) = read(entry())
        assert (remediation.approvers, remediation.action, remediation.parameters) == ((), "", {})
        assert (remediation.check, remediation.only_if, remediation.per, remediation.verify) == (
            (),
            "",
            None,
            "",
        )
        assert (remediation.wait, remediation.target, remediation.evidence) == (None, (), ())
        assert remediation.silence_minutes == 0

    def test_the_action_gets_the_host_unless_labels_define_the_target(self):
        assert read(live_entry())[0].host_parameter == "host"
        assert read(live_entry(target=["cluster"]))[0].host_parameter == ""
        assert read(live_entry(host_parameter=""))[0].host_parameter == ""

    def test_null_counts_as_missing(self):
        assert read(live_entry(check=None, wait=None)) == read(live_entry())

    def test_one_item_of_match_may_contain_several_matchers(self):
        (remediation,) = read(entry(match=['{alertname="A", rack!=""}']))
        assert [str(matcher) for matcher in remediation.match] == ['alertname="A"', 'rack!=""']


class TestErrors:
    @pytest.mark.parametrize(
        "keys, error",
        [
            (5, "must be a mapping with name, match and mode"),
            (entry(aproval=["x"]), "key 'aproval' is unknown; did you mean 'approvers'?"),
            (entry(parameters={}), "key 'parameters' is unknown; did you mean 'with'?"),
            (entry(xyzzy=1), "key 'xyzzy' is unknown; the keys are name, match, mode, approvers"),
            (entry("Nginx"), "name: must consist of lower-case"),
            (entry("x" * 65), "name: must consist of lower-case"),
            ({"match": ["a=b"], "mode": "live"}, "name: is missing; write name: my-remediation"),
            ({"name": "x", "mode": "live"}, "match: is missing; write match: ['alertname"),
            ({"name": "x", "match": ["a=b"]}, "mode: is missing; write mode: evidence, dry_run"),
            (entry(match=[]), "match: must not be empty; to match every alert, write ['alertname"),
            (entry(match='a="b"'), "match: must be a list of matchers, such as ['alertname"),
            (entry(match=[{"a": "b"}]), "match: must be a list of strings, but contains a dict"),
            (entry(match=["a"]), "match: a is not a matcher: write it as name="),
            (entry(match=['a=~"(?=b)"']), "match: the regular expression (?=b) has (?=b, which"),
            (
                entry(match=['alertname="A"', 'alertname="B"']),
                'match: can never match: no alert has both alertname="A" and alertname="B"',
            ),
            (
                entry(match=['a="1"', 'a=~"[2-9]"']),
                'match: can never match: no alert has both a="1" and a=~"[2-9]"',
            ),
            (entry(mode="on"), "mode: must be one of evidence, dry_run, ask, live, but is on"),
            (entry(mode=True), "mode: must be one of evidence, dry_run, ask, live, but is True"),
            (entry(mode="live"), "action: is missing; the mode live needs the action to run"),
            (
                live_entry(mode="ask"),
                "approvers: is missing; the mode ask needs the StackStorm users",
            ),
            (live_entry(mode="ask", approvers=[]), "approvers: is missing"),
            (live_entry(mode="ask", approvers="anna"), "approvers: must be a list, such as [anna]"),
            (live_entry(action="clean"), "action: must be a reference of the form pack.name"),
            (entry(**{"with": {"a": 1}}), "with: needs an action that takes the parameters"),
            (live_entry(**{"with": ["a"]}), "with: must be a mapping of the action's parameters"),
            (live_entry(**{"with": {"a b": 1}}), "with: a b is not the name of a parameter"),
            (
                live_entry(**{"with": {"path": "/x/$service"}}),
                "with: path: /x/$service embeds a label in other text, but a label must be the",
            ),
            (live_entry(**{"with": {"p": ["a", {"b": "$x$y"}]}}), "with: p.b: $x$y embeds a label"),
            (
                live_entry(**{"with": {"p": "{{ st2kv.x }}"}}),
                "with: p: {{ st2kv.x }} contains an expr",
            ),
            (live_entry(**{"with": {"p": {"<% x %>": 1}}}), "with: p: <% x %> cannot be a key"),
            (
                live_entry(**{"with": {"cmd": "$service"}}),
                "with.cmd: must not contain a label: a shell would run the text of the label",
            ),
            (
                live_entry(**{"with": {"hosts": "$instance"}}),
                "with.hosts: must not contain a label: a comma in the label would add another host",
            ),
            (
                live_entry(action="core.remote", **{"with": {"env": {"A": "$team"}}}),
                "with: core.remote runs a command, so its parameters must be fixed, without a label"
                " such as $team",
            ),
            (
                live_entry(**{"with": {"host": "web-1"}}),
                "with.host: is the parameter for the host",
            ),
            (live_entry(host_parameter=5), "host_parameter: must be the name of a parameter"),
            (live_entry(check="alert"), "check: must be a list, such as [alert]"),
            (
                live_entry(check=["ping"]),
                "check: ping is not a check; the checks are alert, expression",
            ),
            (live_entry(check=["tcp:"]), "check: tcp: must have the form tcp:22"),
            (
                live_entry(check=["expression:"]),
                "check: expression: must have the form expression:PRO",
            ),
            (
                live_entry(verify="expression:up"),
                "verify: must be `expression` without an argument",
            ),
            (
                live_entry(check=["tcp:0"]),
                "check: tcp:0 must have the form tcp:22, with a port from",
            ),
            (live_entry(check=["alert:x"]), "check: alert:x must have the form alert"),
            (live_entry(check=["service"]), "check: service must have the form service:nginx"),
            (live_entry(check=["disk:/var"]), "check: disk:/var must have the form disk:/var>90"),
            (live_entry(check=["disk:var>90"]), "check: disk:var>90 must have the form disk:/var"),
            (live_entry(check=["memory"]), "check: memory must have the form memory>90"),
            (live_entry(verify="cpu>100"), "verify: cpu>100 must have the form cpu>95"),
            (live_entry(verify="service:a b"), "verify: service:a b must have the form service:"),
            (live_entry(verify=["alert"]), "verify: must be a string, but is a list"),
            (live_entry(only_if=True), "only_if: must be a string, but is True"),
            (live_entry(per="rack"), "per: must be a mapping such as {label: rack"),
            (
                live_entry(per={"label": "rack", "max": 1}),
                "per: key 'max' is unknown; the keys are",
            ),
            (
                live_entry(per={"label": "rack", "storm": 0}),
                "per: must be a whole number from 1 to",
            ),
            (live_entry(wait="15m"), "wait: must be a whole number from 0 to 3600, but is 15m"),
            (live_entry(wait=True), "wait: must be a whole number from 0 to 3600, but is True"),
            (
                live_entry(target=["$cluster"]),
                "target: must be names of labels: write cluster, not",
            ),
            (
                live_entry(silence_minutes=241),
                "silence_minutes: must be a whole number from 0 to 240, but is 241",
            ),
            (live_entry(silence=20), "key 'silence' is unknown; did you mean 'silence_minutes'?"),
            (entry(silence_minutes=20), "silence_minutes: needs an action, because it applies"),
            (
                live_entry(evidence=["snapshot"]),
                "evidence: must be a reference of the form pack.name",
            ),
        ],
    )
    def test_each_error_explains_the_correct_form(self, keys, error):
        assert error_of(keys).startswith(error)

    def test_an_error_names_its_entry_and_disables_no_other(self):
        remediations, errors = read_remediations(
            [entry("one"), entry("nginx", aproval=1), entry("Two"), entry("three"), entry("one")]
        )
        assert [remediation.name for remediation in remediations] == ["one", "three"]
        assert [error.partition(": ")[0] for error in errors] == [
            "remediations, entry 2 (nginx)",
            "remediations, entry 3",
            "remediations, entry 5 (one)",
        ]
        assert errors[2].endswith("an earlier entry has the same name")

    def test_a_fixed_command_may_contain_quotes(self):
        command = "find /var/log -name '*.gz' -mtime +7 -exec rm \"{}\" \\;"
        (remediation,) = read(live_entry(action="core.remote", **{"with": {"cmd": command}}))
        assert make_inert(remediation.resolve(DISK)) == {"cmd": command}


class TestConfiguration:
    def test_valid_entries_are_used_despite_errors_in_others(self):
        config = load({"remediations": [entry("one"), 5]})
        assert [remediation.name for remediation in config.remediations] == ["one"]
        assert config.remediation_errors == (
            "remediations, entry 2: must be a mapping with name, match and mode",
        )

    def test_a_value_that_is_not_a_list_is_refused(self):
        with pytest.raises(ConfigError, match="remediations: must be a list of entries"):
            load({"remediations": {"name": "one"}})

    def test_only_a_changed_matcher_or_error_counts_as_a_change(self):
        old_config = load({"remediations": [entry(match=['a=~"b.*"'])]})
        assert load({"remediations": [entry(match=['a=~"b.*"'])]}) == old_config
        for entries in ([entry(match=['a=~"c.*"'])], [entry(match=['a=~"b.*"']), 5]):
            assert changed_keys(old_config, load({"remediations": entries})) == ["remediations"]

    def test_the_setting_shows_only_a_digest_of_the_parameters(self):
        all_settings = [
            load({"remediations": [live_entry(**{"with": {"password": word}})]}).settings
            for word in ("one-word", "two-words")
        ]
        (first_setting,), (second_setting,) = (
            settings["remediations"] for settings in all_settings
        )
        assert first_setting.startswith("one (live, mypack.clean) ")
        assert first_setting != second_setting
        assert "word" not in first_setting


class TestMatching:
    def test_the_first_entry_that_matches_applies(self):
        entries = read(
            entry("other", match=["alertname=HostDown"]),
            entry("var", match=["alertname=DiskFull", "mountpoint=/var"]),
            entry("any", match=['alertname=~".*"']),
        )
        assert first_match(entries, DISK).name == "var"
        assert first_match(entries, {**DISK, "mountpoint": "/"}).name == "any"
        assert first_match(entries[:2], {}) is None

    def test_the_nearest_miss_comes_first_and_shows_the_differences(self):
        entries = read(
            entry("nginx", match=["alertname=ServiceDown", 'service=~"nginx|app-.*"', "team=web"]),
            entry("var-log", match=["alertname=DiskAlmostFull", "mountpoint=/var/log"]),
            entry("rack", match=["alertname=DiskFull", "rack!="]),
            entry("var", match=["alertname=DiskFull"]),
        )
        assert [str(miss) for miss in nearest_misses(entries, {**DISK, "team": "web"})] == [
            "rack (rack is missing, wants any value)",
            "nginx (alertname is DiskFull, wants ServiceDown; service is missing, wants "
            "=~nginx|app-.*)",
            "var-log (alertname is DiskFull, wants DiskAlmostFull; mountpoint is /var, wants "
            "/var/log)",
        ]


class TestModes:
    @pytest.mark.parametrize(
        "modes, strictest",
        [("live ask", "ask"), ("ask dry_run live", "dry_run"), ("evidence dry_run", "evidence")],
    )
    def test_the_strictest_mode_wins(self, modes, strictest):
        assert Mode.strictest(*map(Mode, modes.split())) is Mode(strictest)


class TestParameters:
    def resolve(self, labels, **parameters):
        (remediation,) = read(live_entry(**{"with": parameters}))
        return remediation.resolve(labels)

    def test_labels_replace_whole_values_at_any_depth(self):
        labels = {"mountpoint": "/var/log", "app.kubernetes.io/name": "shop", "n": "3"}
        assert self.resolve(
            labels,
            paths=["$mountpoint", "/tmp"],
            app={"name": "${app.kubernetes.io/name}"},
            days=7,
            force=True,
            note="costs $5",
            home="$$HOME/$$n",
        ) == {
            "paths": ["/var/log", "/tmp"],
            "app": {"name": "shop"},
            "days": 7,
            "force": True,
            "note": "costs $5",
            "home": "$HOME/$n",
        }

    @pytest.mark.parametrize(
        "value",
        ["nginx", "nginx@1.service", "/var/log", "web-1:9100", "registry/app:1.2+3", "a..b", "_x"],
    )
    def test_a_safe_value_is_passed_unchanged(self, value):
        assert self.resolve({"x": value}, p="$x") == {"p": value} == make_inert({"p": value})

    @pytest.mark.parametrize(
        "value",
        [
            "a b", "a;b", "$(reboot)", "`id`", "a,b", "{{ st2kv.x }}", "<% ctx() %>", "-rf", "a'b",
            'a"b', "a\nb", "nginx\n", "../etc", "/var/../etc", "/var/..", "é", "x" * 256, "*", "~",
            ".hidden", "a|b", "a\\b", "%NONE%",
        ],
    )  # fmt: skip
    def test_any_other_value_is_refused(self, value):
        with pytest.raises(LabelError, match="the label x has a value that is not passed"):
            self.resolve({"x": value}, p=["$x"])

    @pytest.mark.parametrize("labels", [{}, {"x": ""}])
    def test_a_missing_label_is_refused(self, labels):
        with pytest.raises(LabelError, match="the alert has no label x"):
            self.resolve(labels, p="$x")

    def test_the_target_is_the_host_or_the_values_of_labels(self):
        (by_host,) = read(live_entry())
        assert by_host.resolve_target(DISK, "db-3") == "db-3"
        (by_labels,) = read(live_entry(target=["cluster", "namespace"]))
        alert_labels = {"cluster": "eu-1", "namespace": "shop"}
        assert by_labels.resolve_target(alert_labels, "") == "cluster=eu-1,namespace=shop"
        with pytest.raises(LabelError, match="no label namespace"):
            by_labels.resolve_target({"cluster": "eu-1"}, "")


class TestShippedRemediations:
    """Shipped remediations, which combine a check, a change and a verification."""

    def test_disk_cleanup_checks_cleans_and_verifies(self):
        parameters = {"directories": ["$path", "/srv/b"], "older_than_days": 7, "max_files": 10}
        (remediation,) = read(
            live_entry(action="poundcake.disk_cleanup", **{"with": {**parameters, "above": 90}})
        )
        assert (remediation.action, remediation.parameters) == ("poundcake.clean_disk", parameters)
        assert (remediation.check, remediation.verify) == (("disk:$path>90",), "disk:$path>90")
        assert str(*remediation.host_checks({"path": "/var"})) == "disk:/var>90"

    def test_service_restart_checks_restarts_and_verifies(self):
        (remediation,) = read(
            live_entry(action="poundcake.service_restart", **{"with": {"service": "nginx"}})
        )
        assert remediation.action == "poundcake.restart_service"
        assert (remediation.check, remediation.verify) == (("service:nginx",), "service:nginx")

    def test_an_entry_may_override_the_check_and_the_verification(self):
        with_ = {"directories": ["/srv"], "older_than_days": 1, "path": "/"}
        keys = {"check": ["alert"], "verify": "expression", "with": with_}
        (remediation,) = read(live_entry(action="poundcake.disk_cleanup", **keys))
        assert (remediation.check, remediation.verify) == (("alert",), "expression")
        assert "path" not in remediation.parameters

    @pytest.mark.parametrize("kind", ["memory", "cpu"])
    def test_memory_check_and_cpu_check_only_collect_evidence(self, kind):
        (remediation,) = read(live_entry(action=f"poundcake.{kind}_check"))
        assert (remediation.action, remediation.check, remediation.verify) == ("", (), "")
        assert remediation.evidence == (f"poundcake.check_{kind}",)

    @pytest.mark.parametrize(
        "name, parameters, error",
        [
            ("disk_cleanup", {"older_than_days": 7}, "with.directories: is missing; write direc"),
            ("disk_cleanup", {"directories": ["/srv"]}, "with.older_than_days: is missing; write"),
            (
                "disk_cleanup",
                {"directories": ["srv"], "older_than_days": 7},
                "with.directories: srv must be an absolute path, such as /var/log/app",
            ),
            (
                "disk_cleanup",
                {"directories": ["/srv"], "older_than_days": 7, "path": "srv"},
                "with.path: srv must be an absolute path",
            ),
            (
                "disk_cleanup",
                {"directories": ["/srv"], "older_than_days": 7, "above": 100},
                "with.above: must be a percentage from 0 to 99, but is 100",
            ),
            ("service_restart", {"service": "-x"}, "with.service: -x must be the name of a serv"),
            ("service_restart", {}, "with.service: is missing; write service: nginx"),
            ("cpu_check", {"top": 5}, "with.top: is unknown; it takes no parameters"),
        ],
    )
    def test_the_error_names_the_parameter(self, name, parameters, error):
        keys = live_entry(action=f"poundcake.{name}", **{"with": parameters})
        assert error_of(keys).startswith(error)


EXAMPLES = {
    "service": {"alertname": "ServiceDown", "service": "app-shop", "instance": "web-1:9100"},
    "dead-host": {"alertname": "NodeDown", "rack": "r12", "instance": "web-1:9100"},
    "disk": {"alertname": "NodeFilesystemAlmostOutOfSpace", "mountpoint": "/var"},
    "scale": {
        "alertname": "ApiSaturated",
        "cluster": "eu-1",
        "namespace": "shop",
        "deployment": "api",
    },
    "evidence": {"alertname": "Anything", "severity": "warning"},
}


class TestExamples:
    """The files in etc/remediations."""

    def test_each_file_is_an_example(self):
        assert {path.stem for path in FOLDER.glob("*")} == set(EXAMPLES)

    @pytest.mark.parametrize("name", sorted(EXAMPLES))
    def test_each_example_is_valid_and_matches_only_its_alert(self, name):
        config = load(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
        assert config.remediation_errors == ()
        (remediation,) = config.remediations
        assert first_match(config.remediations, EXAMPLES[name]) is remediation
        remediation.resolve(EXAMPLES[name])
        other_alerts = [labels for other_name, labels in EXAMPLES.items() if other_name != name]
        assert [labels for labels in other_alerts if remediation.matches(labels)] == []
