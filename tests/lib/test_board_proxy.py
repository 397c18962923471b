"""The key board_proxy: from where the header of a reverse proxy is believed."""

from __future__ import annotations

import pytest

from poundcake.board_proxy import BoardProxy
from poundcake.config import Config, ConfigError, changed_keys, load


def error_of(value):
    with pytest.raises(ConfigError) as caught:
        load({"board_proxy": value})
    return str(caught.value)


class TestSettings:
    @pytest.mark.parametrize(
        "value",
        # StackStorm passes the last one if the key is not set.
        [{}, None, {"header": None, "addresses": None}, {"addresses": []}],
    )
    def test_there_is_no_proxy_by_default(self, value):
        loaded = load({"board_proxy": value})
        assert loaded.board_proxy == BoardProxy() and not loaded.board_proxy.is_configured
        assert loaded.settings["board_proxy"] == {}

    def test_the_health_view_shows_the_proxy_as_it_is_configured(self):
        value = {"header": "X-Forwarded-User", "addresses": ["10.0.0.7/32", "fd00::/64"]}
        loaded = load({"board_proxy": value})
        assert loaded.settings["board_proxy"] == value
        assert changed_keys(Config(), loaded) == ["board_proxy"]

    def test_a_proxy_does_not_permit_an_address_other_than_loopback(self):
        """The proxy signs people in to the board only; the API has to have credentials."""
        proxy = {"header": "X-Forwarded-User", "addresses": ["10.0.0.7"]}
        with pytest.raises(ConfigError, match="host: other machines could reach"):
            load({"board_proxy": proxy, "host": "0.0.0.0"})

    @pytest.mark.parametrize(
        "value, problem",
        [
            ("X-Forwarded-User", "must have header and addresses, for example {header: "),
            (["X-Forwarded-User"], "must have header and addresses"),
            ({"headers": "X"}, "unknown key headers; did you mean header?"),
            ({"addresses": ["::1"]}, "header: must be the name of an HTTP header, such as X-"),
            ({"header": "", "addresses": ["::1"]}, "header: must be the name"),
            ({"header": "X User", "addresses": ["::1"]}, "header: must be the name"),
            ({"header": "x_user", "addresses": ["::1"]}, "header: must be the name"),
            ({"header": 5, "addresses": ["::1"]}, "header: must be the name"),
            ({"header": "Host", "addresses": ["::1"]}, "header: Host does not say who has signed"),
            ({"header": "cookie", "addresses": ["::1"]}, "header: cookie does not say who has si"),
            ({"header": "X-Forwarded-For", "addresses": ["::1"]}, "header: X-Forwarded-For does "),
            ({"header": "X-User"}, "addresses: must list the proxy's IP addresses or networks"),
            ({"header": "X-User", "addresses": []}, "addresses: must list the proxy's"),
            ({"header": "X-User", "addresses": "::1"}, "addresses: must list the proxy's"),
            ({"header": "X-User", "addresses": ["proxy"]}, "addresses: 'proxy' must be an IP add"),
            ({"header": "X-User", "addresses": [5]}, "addresses: 5 must be an IP address or a ne"),
            ({"header": "X-User", "addresses": ["10.0.0.7/24"]}, "addresses: '10.0.0.7/24' must "),
            ({"header": "X-User", "addresses": ["0.0.0.0/0"]}, "addresses: 0.0.0.0/0 contains ev"),
            ({"header": "X-User", "addresses": ["::1", "::/0"]}, "addresses: ::/0 contains every"),
        ],
    )
    def test_the_error_about_an_unusable_value_names_the_key(self, value, problem):
        assert error_of(value).startswith(f"board_proxy: {problem}")


class TestAddresses:
    @pytest.mark.parametrize(
        "address, is_proxy",
        [
            ("10.0.0.7", True),
            ("::ffff:10.0.0.7", True),
            ("10.0.0.8", False),
            ("192.0.2.200", True),
            ("192.0.3.1", False),
            ("fe80::1%eth0", True),
            ("fe80::2", False),
            ("", False),
            ("localhost", False),
        ],
    )
    def test_only_the_listed_addresses_and_networks_are_believed(self, address, is_proxy):
        addresses = ["10.0.0.7", "192.0.2.0/24", "fe80::1"]
        proxy = load({"board_proxy": {"header": "X-User", "addresses": addresses}}).board_proxy
        assert proxy.has_address(address) == is_proxy

    @pytest.mark.parametrize("address", ["10.0.0.7", "::ffff:10.0.0.7"])
    @pytest.mark.parametrize("listed", ["::ffff:10.0.0.7", "::ffff:10.0.0.0/120"])
    def test_a_listed_address_may_be_ipv4_mapped(self, listed, address):
        proxy = load({"board_proxy": {"header": "X-User", "addresses": [listed]}}).board_proxy
        assert proxy.has_address(address) and not proxy.has_address("10.0.1.7")

    def test_a_network_that_maps_every_ipv4_address_is_refused(self):
        error = error_of({"header": "X-User", "addresses": ["::ffff:0.0.0.0/96"]})
        assert "0.0.0.0/0 contains every address" in error
