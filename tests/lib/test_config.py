"""The pack's configuration: its types, bounds and secrets, and the schema for StackStorm."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib

import pytest
import yaml

from poundcake import config
from poundcake.board_proxy import BoardProxy
from poundcake.config import Config, ConfigError, load
from poundcake.credentials import Credential, Kind, Scope
from tests.content.pack import LOADER

ROOT = pathlib.Path(__file__).parents[2]
SCHEMA = yaml.load((ROOT / "config.schema.yaml").read_text(), LOADER)
KEYS = {f.name for f in dataclasses.fields(Config)} - {"literal_secrets", "remediation_errors"}
TLS_FILES = {"tls_certificate": "/c.pem", "tls_key": "/c.key", "tls_client_ca": "/ca.pem"}
LONG_SECRET = "a-secret-that-is-long"
INTEGERS = sorted(key for key in SCHEMA if SCHEMA[key]["type"] == "integer")


def has_secret(spec):
    """Return True if a key of the schema, or anything in it, is marked as secret."""
    nested = [spec.get("items", {}), *spec.get("properties", {}).values()]
    return bool(spec.get("secret")) or any(has_secret(inner) for inner in nested if inner)


def secret_value(key, secret):
    """Return a valid value of a secret key that contains this secret."""
    if key == "credentials":
        return [{"name": "one", "scope": "both", "token": secret}]
    if key in config.MONITORING_KEYS:
        return [{"url": "http://one.example:9093", "token": secret}]
    return [secret] if key == "auth_tokens" else secret


def error_of(**settings):
    with pytest.raises(ConfigError) as caught:
        load(settings)
    return str(caught.value)


class TestSchema:
    """config.schema.yaml and Config agree."""

    def test_schema_and_code_have_the_same_keys(self):
        assert set(SCHEMA) == KEYS

    @pytest.mark.parametrize("key", sorted(SCHEMA))
    def test_schema_and_code_have_the_same_defaults(self, key):
        assert SCHEMA[key]["default"] == config._as_json(getattr(Config(), key))

    @pytest.mark.parametrize("key", sorted(SCHEMA))
    def test_each_key_has_its_type_and_a_description(self, key):
        assert SCHEMA[key]["description"]
        schema_type = {
            str: "string",
            bool: "boolean",
            int: "integer",
            tuple: "array",
            BoardProxy: "object",
        }[type(getattr(Config(), key))]
        assert SCHEMA[key]["type"] == schema_type

    @pytest.mark.parametrize("key", INTEGERS)
    def test_bounds_are_enforced_and_shown_in_the_error(self, key):
        minimum, maximum = SCHEMA[key]["minimum"], SCHEMA[key]["maximum"]
        assert getattr(load({key: minimum}), key) == minimum
        assert getattr(load({key: maximum}), key) == maximum
        for value in (minimum - 1, maximum + 1):
            assert error_of(**{key: value}) == (
                f"{key}: must be a whole number from {minimum} to {maximum}"
            )

    def test_schema_and_code_have_the_same_log_levels(self):
        assert SCHEMA["log_level"]["enum"] == list(config.LOG_LEVELS)

    def test_every_secret_is_marked_as_secret(self):
        secret = {key for key, spec in SCHEMA.items() if has_secret(spec)}
        assert secret == set(config.SECRETS)
        # If the array itself were marked, StackStorm would pass ciphertext to the sensor.
        for key in ("auth_tokens", "credentials", *config.MONITORING_KEYS):
            assert "secret" not in SCHEMA[key]
        entry = SCHEMA["credentials"]["items"]
        assert all(entry["properties"][kind.value]["secret"] for kind in Kind)

    def test_schema_and_code_have_the_same_credential_scopes_and_keys(self):
        properties = SCHEMA["credentials"]["items"]["properties"]
        assert properties["scope"]["enum"] == [scope.value for scope in Scope]
        assert set(properties) == {"name", "scope", *(kind.value for kind in Kind)}

    def test_the_example_is_accepted(self):
        settings = yaml.safe_load((ROOT / "poundcake.yaml.example").read_text())
        assert set(settings) <= KEYS
        for name in config.SECRETS:
            settings.pop(name, None)
        settings["host"] = "127.0.0.1"
        load(settings)


class TestUnknownKeys:
    """An unknown key is refused, because it may be a misspelling."""

    @pytest.mark.parametrize(
        "key, nearest",
        [
            ("allowed_host", "allowed_hosts"),
            ("cooldown_second", "cooldown_seconds"),
            ("dryrun", "dry_run"),
            ("dry-run", "dry_run"),
            ("auth_token", "auth_tokens"),
            ("databaseurl", "database_url"),
        ],
    )
    def test_the_most_similar_key_is_suggested(self, key, nearest):
        assert error_of(**{key: 1}) == f"unknown key {key}; did you mean {nearest}?"

    @pytest.mark.parametrize("value", [None, 1, "", []])
    def test_an_unknown_key_is_refused_whatever_its_value(self, value):
        assert error_of(allowed_host=value).startswith("unknown key allowed_host;")

    def test_all_keys_are_listed_if_none_is_similar(self):
        error = error_of(xyzzy=1)
        assert error.startswith("unknown key xyzzy; known: alertmanagers, allowed_actions, ")
        assert error.endswith("tls_key")

    @pytest.mark.parametrize("key", [5, True, None, 1.5])
    def test_a_key_that_is_not_text_is_refused(self, key):
        with pytest.raises(ConfigError, match=f"unknown key {key}; "):
            load({key: "x"})

    def test_ignored_keys_are_not_unknown(self):
        load({"auth_tokens": ["t"], "basic_auth": "u:p"}, without=("auth_tokens", "basic_auth"))

    @pytest.mark.parametrize("key", ["auth_tokens", "allowed_hosts", "allowed_actions"])
    def test_the_error_shows_the_position_of_a_mapping_in_a_list(self, key):
        error = error_of(**{key: ["one", {"name": "two"}]})
        assert error == f"{key}: must be a list of strings, but entry 2 is not a string"


class TestSettings:
    def test_settings_contain_every_key_except_secrets(self):
        assert set(Config().settings) == KEYS - set(config.SECRETS)
        assert Config(allowed_hosts=("a",)).settings["allowed_hosts"] == ["a"]

    def test_changed_keys_are_listed(self):
        changed = config.changed_keys(Config(), Config(port=1, auth_tokens=("t",)))
        assert changed == ["port", "auth_tokens"]


class TestWarnings:
    @pytest.mark.parametrize(
        "settings", [{}, {"dry_run": False, "allowed_hosts": ["*"]}, {"allowed_hosts": ["web-1"]}]
    )
    def test_a_safe_configuration_has_no_warnings(self, settings):
        assert load(settings).warnings == []

    def test_a_live_configuration_without_allowed_hosts_has_a_warning(self):
        (warning,) = load({"dry_run": False}).warnings
        assert warning.startswith("dry_run is false and allowed_hosts is empty, so no host may be")
        assert '"*" for any' in warning


class TestTypes:
    @pytest.mark.parametrize("key", sorted(SCHEMA))
    def test_the_error_about_a_wrong_type_names_the_key(self, key):
        wrong = {"string": 5, "boolean": "true", "integer": "5", "array": "x", "object": "x"}
        error = error_of(**{key: wrong[SCHEMA[key]["type"]]})
        assert error.startswith((f"{key}: must be ", f"{key}: must have "))

    @pytest.mark.parametrize("key", INTEGERS)
    @pytest.mark.parametrize("value", [True, 5.0, "5"])
    def test_an_integer_must_be_a_whole_number(self, key, value):
        assert error_of(**{key: value}).startswith(key + ": must be a whole number")

    @pytest.mark.parametrize("value", [1, 0, "yes", []])
    def test_a_boolean_must_be_true_or_false(self, value):
        assert error_of(dry_run=value) == "dry_run: must be true or false"

    @pytest.mark.parametrize("value", [[5], [None], [""], ["a", " "], {}, "a"])
    @pytest.mark.parametrize("key", ["auth_tokens", "allowed_hosts", "allowed_actions"])
    def test_a_list_must_contain_nonempty_strings(self, key, value):
        assert error_of(**{key: value}).startswith(key + ": ")

    @pytest.mark.parametrize("pattern", ["web-1:9100", "10.0.0.0/33", "http://x", "a b", "web/8"])
    def test_an_allowed_host_that_matches_no_host_is_refused(self, pattern):
        error = error_of(allowed_hosts=["*", pattern])
        assert error.startswith("allowed_hosts: must contain host names")

    def test_allowed_hosts_accept_names_addresses_and_networks(self):
        patterns = ("*", "WEB-[12].*.org.", "10.0.0.*", "10.0.0.0/8", "2001:DB8::/32", "::1")
        assert load({"allowed_hosts": list(patterns)}).allowed_hosts == patterns

    @pytest.mark.parametrize("settings", [None, {}])
    def test_missing_keys_have_their_defaults(self, settings):
        assert load(settings) == Config()

    def test_null_means_the_default(self):
        assert load(dict.fromkeys(SCHEMA)) == Config()

    @pytest.mark.parametrize(
        "settings",
        [
            {"log_level": "loud"},
            {"log_level": "INFO"},
            {"log_level": ""},
            {"host_label": ""},
            {"ssh_user": "root -oProxyCommand=x"},
            {"ssh_key_file": ".ssh/id_ed25519"},
            {"state_dir": "relative"},
            {"state_dir": ""},
            {"endpoint_url": "ftp://x"},
            {"endpoint_url": "localhost:8000"},
            {"endpoint_url": "http://[bad"},
            {"st2_web_url": "javascript:alert(1)"},
            {"st2_web_url": "http://[bad"},
            {"grafana_url": "javascript:alert(1)"},
            {"st2_api_url": "st2.example"},
            {"st2_api_url": "http://[bad"},
            {"endpoint_url": "https://on-call:hush@poundcake.example"},
            {"st2_api_url": "https://hush@st2.example/api/v1"},
            {"database_url": "postgresql://x/y"},
            {"database_url": "mysql://u:p@h/d"},
            {"database_url": "/tmp/x.db"},
        ],
    )
    def test_the_error_about_an_unusable_string_names_the_key(self, settings):
        ((key, _),) = settings.items()
        assert error_of(**settings).startswith(key + ": must be ")


class TestSecrets:
    @pytest.mark.parametrize("key", ["database_url", "st2_api_key"])
    def test_a_reference_is_resolved(self, key, tmp_path):
        (tmp_path / "secret").write_text(" sqlite:////x \n")
        loaded = load({key: f"file:{tmp_path}/secret"})
        assert getattr(loaded, key) == "sqlite:////x"
        assert loaded.literal_secrets == ()

    def test_each_entry_of_a_list_is_resolved(self, monkeypatch):
        monkeypatch.setenv("THE_TOKEN", "a-token-from-the-environment ")
        loaded = load({"auth_tokens": ["env:THE_TOKEN", "a-literal-token-1"]})
        assert loaded.auth_tokens == ("a-token-from-the-environment", "a-literal-token-1")
        assert loaded.literal_secrets == ("auth_tokens",)

    @pytest.mark.parametrize("key", config.SECRETS)
    def test_the_error_about_an_unresolvable_reference_names_the_key(self, key):
        reference = "file:/no/such/file"
        error = error_of(**{key: secret_value(key, reference)})
        location = "entry 1 (one): token: " if key == "credentials" else ""
        location = "entry 1: token: " if key in config.MONITORING_KEYS else location
        assert error == f"{key}: {location}cannot read /no/such/file: no such file or directory"

    @pytest.mark.parametrize("key", config.SECRETS)
    @pytest.mark.parametrize("reference", ["FILE:/a-path-of-16-characters", "env: A_LONG_VARIABLE"])
    def test_a_misspelt_reference_is_not_used_as_the_secret(self, key, reference):
        error = error_of(**{key: secret_value(key, reference)})
        correct_form = "file:/path" if "path" in reference else "env:NAME"
        assert error.endswith(f"must be {correct_form}, in lower case and without a space")

    def test_secrets_that_are_not_needed_are_not_read(self):
        settings = {key: secret_value(key, "file:/no/such/file") for key in config.CREDENTIAL_KEYS}
        assert load({**settings, "host": "0.0.0.0"}, config.CREDENTIAL_KEYS).all_credentials == ()

    @pytest.mark.parametrize("key", sorted(KEYS - set(config.SECRETS)))
    def test_only_secrets_can_be_references(self, key, monkeypatch):
        monkeypatch.setenv("OTHER", "/other")
        if SCHEMA[key]["type"] == "string":
            with contextlib.suppress(ConfigError):
                assert getattr(load({key: "env:OTHER"}), key) != "/other"

    def test_keys_with_literal_secrets_are_listed(self):
        loaded = load(
            {
                "auth_tokens": [LONG_SECRET],
                "basic_auth": "a:" + LONG_SECRET,
                **{
                    key: secret_value(key, LONG_SECRET)
                    for key in ("credentials", *config.MONITORING_KEYS)
                },
                "st2_api_key": "b",
                "database_url": "sqlite:////x",
            }
        )
        assert sorted(loaded.literal_secrets) == sorted(config.SECRETS)

    def test_no_secret_is_printed(self):
        loaded = load(
            {
                "auth_tokens": ["hush-token-that-is-long"],
                "basic_auth": "hush-user:hush-word-that-is-long",
                "credentials": secret_value("credentials", "hush-token-that-is-another"),
                **{key: secret_value(key, "hush-token") for key in config.MONITORING_KEYS},
                "st2_api_key": "hush-key",
                "database_url": "mysql+pymysql://u:hush-word@h/d",
            }
        )
        for text in (repr(loaded), str(loaded), f"{loaded}"):
            assert "hush" not in text

    @pytest.mark.parametrize("key", config.SECRETS)
    def test_no_secret_is_in_an_error(self, key):
        for value in (
            "hush hush",
            "hush\n1",
            "hüsh",
            "A" * 5 + "hush://",
            "FILE:hush",
            "env: hush",
        ):
            try:
                load({key: secret_value(key, value)})
            except ConfigError as error:
                assert "hush" not in str(error)


class TestMonitoringServers:
    def test_optional_keys_of_an_entry_have_defaults(self):
        (server,) = load({"alertmanagers": [{"url": "http://am-1.example:9093/"}]}).alertmanagers
        assert (server.url, server.external_url) == ("http://am-1.example:9093",) * 2
        assert (server.token, server.basic, server.ca_file) == ("", "", "")

    def test_each_key_of_an_entry_is_read(self, monkeypatch):
        monkeypatch.setenv("THE_TOKEN", "of-am-1")
        first_server = {
            "url": "https://am-1.example/am",
            "external_url": "http://alerts.example/",
            "token": "env:THE_TOKEN",
            "ca_file": "/etc/ca.pem",
        }
        second_server = {"url": "https://am-2.example", "basic": "anna:word"}
        servers = load({"alertmanagers": [first_server, second_server]}).alertmanagers
        assert (servers[0].url, servers[0].external_url) == (
            "https://am-1.example/am",
            "http://alerts.example",
        )
        assert (servers[0].token, servers[0].ca_file) == ("of-am-1", "/etc/ca.pem")
        assert servers[1].basic == "anna:word"

    @pytest.mark.parametrize("key", config.MONITORING_KEYS)
    @pytest.mark.parametrize(
        "entry, problem",
        [
            ("http://a", "must have a url"),
            ({}, "url: must be a URL that begins with http:// or https://"),
            ({"url": "am:9093"}, "url: must be a URL that begins with http:// or https://"),
            ({"url": "http://u:hush@a"}, "url: must be a URL without a user name or password"),
            ({"url": "http://a", "tokn": "hush"}, "unknown key tokn; did you mean token?"),
            ({"url": "http://a", "token": 5}, "token: must be a string"),
            ({"url": "http://a", "token": "hu sh"}, "token: must contain visible ASCII characters"),
            ({"url": "http://a", "basic": "hush"}, "basic: must be user:password"),
            ({"url": "http://a", "token": "AB" * 64}, "token: contains ciphertext"),
            ({"url": "http://a", "token": "t", "basic": "a:b"}, "must have token or basic, not bo"),
            ({"url": "http://a", "ca_file": "ca.pem"}, "ca_file: must be an absolute path"),
        ],
    )
    def test_the_error_about_an_invalid_entry_shows_no_secret(self, key, entry, problem):
        error = error_of(**{key: [{"url": "http://b"}, entry]})
        assert error.startswith(f"{key}: entry 2: {problem}")
        assert "hush" not in error

    @pytest.mark.parametrize("key", config.MONITORING_KEYS)
    def test_a_duplicate_server_is_refused(self, key):
        error = error_of(**{key: [{"url": "http://a"}, {"url": "http://a/"}]})
        assert error == f"{key}: entry 2: url: http://a is listed twice"

    def test_only_an_alertmanager_may_have_an_external_url(self):
        entry = {"url": "http://a", "external_url": "b"}
        assert "external_url: must be a URL" in error_of(alertmanagers=[entry])
        assert "unknown key external_url" in error_of(prometheus=[entry])


class TestTokens:
    def test_ciphertext_is_refused(self):
        error = error_of(auth_tokens=[LONG_SECRET, "0123456789ABCDEF" * 6])
        assert error.startswith("auth_tokens: contains ciphertext")

    def test_ciphertext_from_a_file_is_refused(self, tmp_path):
        (tmp_path / "t").write_text("AB" * 64)
        assert "ciphertext" in error_of(auth_tokens=[f"file:{tmp_path}/t"])

    @pytest.mark.parametrize(
        "token", ["0123456789abcdef" * 6, "0123456789ABCDEF" * 5, "Ab3-._~+/=Ab3-._~+/="]
    )
    def test_tokens_that_only_look_like_ciphertext_are_accepted(self, token):
        assert load({"auth_tokens": [token]}).auth_tokens == (token,)

    @pytest.mark.parametrize("token", ["two words", "tökén", "a\tb", "a\x7fb", "a\x00b"])
    def test_a_token_that_is_invalid_in_a_header_is_refused(self, token):
        assert error_of(auth_tokens=[token]).startswith("auth_tokens: must contain visible ASCII")


class TestLength:
    """A secret that is too short is refused."""

    @pytest.mark.parametrize("secret, is_accepted", [("x" * 15, False), ("x" * 16, True)])
    def test_a_secret_needs_at_least_16_characters(self, secret, is_accepted):
        for key, value in (
            ("auth_tokens", [secret]),
            ("basic_auth", "a-long-user-name:" + secret),
            ("credentials", [{"name": "a", "scope": "read", "token": secret}]),
            ("credentials", [{"name": "a", "scope": "read", "basic": "on-call:" + secret}]),
            ("credentials", [{"name": "a", "scope": "post", "hmac_sha256": secret}]),
        ):
            if is_accepted:
                assert load({key: value}).authentication
            else:
                assert "must have at least 16 characters" in error_of(**{key: value})


class TestCredentials:
    """Named credentials with a scope."""

    def test_every_form_of_a_credential_is_read(self, tmp_path):
        (tmp_path / "secret").write_text("the-secret-of-grafana\n")
        entries = [
            {"name": "am", "scope": "post", "token": LONG_SECRET},
            {"name": "on-call.2", "scope": "both", "basic": "on-call:" + LONG_SECRET},
            {"name": "grafana", "scope": "post", "hmac_sha256": f"file:{tmp_path}/secret"},
        ]
        loaded = load(
            {
                "credentials": entries,
                "auth_tokens": [LONG_SECRET, LONG_SECRET],
                "basic_auth": "u:" + LONG_SECRET,
            }
        )
        assert loaded.all_credentials == (
            Credential("auth_tokens[1]", Scope.BOTH, Kind.TOKEN, LONG_SECRET),
            Credential("auth_tokens[2]", Scope.BOTH, Kind.TOKEN, LONG_SECRET),
            Credential("basic_auth", Scope.BOTH, Kind.BASIC, "u:" + LONG_SECRET),
            Credential("am", Scope.POST, Kind.TOKEN, LONG_SECRET),
            Credential("on-call.2", Scope.BOTH, Kind.BASIC, "on-call:" + LONG_SECRET),
            Credential("grafana", Scope.POST, Kind.HMAC, "the-secret-of-grafana"),
        )
        assert loaded.authentication == ["bearer", "basic", "hmac"]

    @pytest.mark.parametrize(
        "entry, error",
        [
            ({"scope": "reads"}, "entry 2 (two): scope: must be one of post, read, both"),
            ({"scope": None}, "entry 2 (two): scope: must be one of post, read, both"),
            ({"scope": ["post"]}, "entry 2 (two): scope: must be one of post, read, both"),
            (
                {"basic": "u:" + LONG_SECRET},
                "entry 2 (two): must have exactly one of token, basic, hmac_sha256, but has "
                "token and basic",
            ),
            (
                {"token": None},
                "entry 2 (two): must have exactly one of token, basic, hmac_sha256, but has none",
            ),
            ({"token": ""}, "entry 2 (two): token: must not be empty"),
            ({"token": 5}, "entry 2 (two): token: must be a string"),
            ({"token": "two words, many characters"}, "entry 2 (two): token: must contain visible"),
            ({"token": "AB" * 64}, "entry 2 (two): token: contains ciphertext"),
            ({"token": None, "basic": LONG_SECRET}, "entry 2 (two): basic: must be user:password"),
            (
                {"token": None, "hmac_sha256": " ", "scope": "post"},
                "entry 2 (two): hmac_sha256: must not be empty",
            ),
            (
                {"token": None, "hmac_sha256": LONG_SECRET, "scope": "both"},
                "entry 2 (two): scope: must be post for hmac_sha256",
            ),
            (
                {"secret": LONG_SECRET},
                "entry 2 (two): unknown key secret: the keys are name, scope",
            ),
            ({"name": "one"}, "the name one is used twice"),
            ({"name": None}, "entry 2: name: must consist of letters"),
            ({"name": ""}, "entry 2: name: must consist of letters"),
            ({"name": "a b"}, "entry 2: name: must consist of letters"),
            ({"name": "auth_tokens[1]"}, "entry 2: name: must consist of letters"),
            ({"name": "CN=one"}, "entry 2: name: must consist of letters"),
            ({"name": "a" * 65}, "entry 2: name: must consist of letters"),
            ({"name": "a\n"}, "entry 2: name: must consist of letters"),
        ],
    )
    def test_the_error_about_an_unusable_entry_names_it(self, entry, error):
        first_entry = {"name": "one", "scope": "both", "token": LONG_SECRET + "-1"}
        second_entry = {"name": "two", "scope": "read", "token": LONG_SECRET + "-2", **entry}
        message = error_of(credentials=[first_entry, second_entry])
        assert message.startswith("credentials: " + error)
        assert LONG_SECRET not in message

    @pytest.mark.parametrize("entry", [None, "a", 5, ["a"]])
    def test_an_entry_must_be_a_mapping(self, entry):
        assert error_of(credentials=[entry]).startswith("credentials: entry 1: must have name")

    def test_the_name_basic_auth_is_reserved(self):
        entry = {"name": "basic_auth", "scope": "read", "token": LONG_SECRET}
        assert load({"credentials": [entry]}).all_credentials[0].name == "basic_auth"
        error = error_of(credentials=[entry], basic_auth="u:" + LONG_SECRET)
        assert error.startswith("credentials: the name basic_auth is used twice")

    def test_with_a_credential_the_endpoint_may_listen_on_any_address(self):
        entry = {"name": "grafana", "scope": "post", "hmac_sha256": LONG_SECRET}
        assert load({"host": "0.0.0.0", "credentials": [entry]}).host == "0.0.0.0"


class TestBasicAuth:
    @pytest.mark.parametrize(
        "value", ["on-call:a word and another", "u:p:p" + LONG_SECRET, "ü:a pässword that is long"]
    )
    def test_user_and_password_are_accepted(self, value):
        assert load({"basic_auth": value}).basic_auth == value

    @pytest.mark.parametrize(
        "value", ["user", "user:", ":password", "a:b\x00", "a:b\tc", "AB" * 64]
    )
    def test_any_other_text_is_refused(self, value):
        assert error_of(basic_auth=value) == "basic_auth: must be user:password (RFC 7617)"


class TestTLS:
    def test_actions_reach_the_endpoint_over_https(self):
        assert load(dict(TLS_FILES, port=8443)).endpoint == "https://127.0.0.1:8443"
        assert load({"port": 8443}).endpoint == "http://127.0.0.1:8443"

    @pytest.mark.parametrize("key", sorted(TLS_FILES))
    def test_a_relative_path_is_refused(self, key):
        assert error_of(**dict(TLS_FILES, **{key: "c.pem"})) == f"{key}: must be an absolute path"

    @pytest.mark.parametrize("key", ["tls_certificate", "tls_key"])
    def test_certificate_and_key_must_be_set_together(self, key):
        (other_key,) = {"tls_certificate", "tls_key"} - {key}
        assert error_of(**{key: "/x"}).startswith(other_key + ": must be set")

    def test_a_client_ca_needs_a_server_certificate(self):
        assert error_of(tls_client_ca="/ca.pem").startswith("tls_client_ca: needs tls_certificate")


class TestLoopback:
    """Without credentials, the endpoint listens only on loopback."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
    def test_loopback_needs_no_credentials(self, host):
        assert load({"host": host}).host == host

    @pytest.mark.parametrize(
        "host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "localhost.example", "2130706433"]
    )
    def test_any_other_address_needs_credentials(self, host):
        error = error_of(host=host)
        assert error.startswith("host: ")
        assert "set credentials, auth_tokens, basic_auth or tls_client_ca" in error
        assert load({"host": host, "auth_tokens": [LONG_SECRET]}).host == host
        assert load({"host": host, "basic_auth": "u:" + LONG_SECRET}).host == host
        assert load(dict(TLS_FILES, host=host)).host == host
        with pytest.raises(ConfigError):  # TLS alone does not authenticate clients
            load({"host": host, "tls_certificate": "/c.pem", "tls_key": "/c.key"})


class TestDerivedValues:
    def test_paths_and_urls_are_derived(self):
        loaded = load({"state_dir": "/x", "port": 81})
        assert loaded.journal_path == "/x/journal.sqlite"
        assert loaded.tracking_url == "sqlite:////x/tracking.sqlite"
        assert loaded.endpoint == "http://127.0.0.1:81"
        assert load({"endpoint_url": "https://e/"}).endpoint == "https://e"
        assert load({"database_url": "sqlite:////y"}).tracking_url == "sqlite:////y"
        assert os.path.isabs(Config().state_dir)

    def test_the_url_of_the_other_database_may_be_a_reference(self, tmp_path, monkeypatch):
        url = "mysql+pymysql://u:hush-word@h/d"
        (tmp_path / "url").write_text(url + "\n")
        monkeypatch.setenv("OTHER_URL", url)
        loaded = load({"state_dir": "/x", "database_url": "sqlite:////y"})
        for value in (url, f"file:{tmp_path / 'url'}", "env:OTHER_URL"):
            assert loaded.other_tracking_url("copy_to", value) == url
        assert loaded.other_tracking_url("copy_to", " sqlite ") == "sqlite:////x/tracking.sqlite"

    @pytest.mark.parametrize(
        "value, reason",
        [
            ("postgresql://u:hush-word@h/d", "must be mysql"),
            ("file:/nowhere", "cannot read /nowhere"),
            ("env:NO_SUCH_NAME", "NO_SUCH_NAME is not set"),
            ("SQLite", "must be mysql"),
        ],
    )
    def test_an_unusable_url_of_the_other_database_is_refused(self, value, reason):
        with pytest.raises(ConfigError) as caught:
            Config().other_tracking_url("copy_from", value)
        assert str(caught.value).startswith("copy_from: ") and reason in str(caught.value)
        assert "hush-word" not in str(caught.value)

    def test_an_ipv6_address_is_in_brackets_in_a_url(self):
        assert load({"host": "::1"}).endpoint == "http://[::1]:8000"

    @pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "localhost"])
    def test_actions_reach_an_endpoint_that_listens_on_all_addresses_locally(self, host):
        settings = {"host": host, "auth_tokens": [LONG_SECRET]}
        assert load(settings).endpoint == "http://127.0.0.1:8000"
