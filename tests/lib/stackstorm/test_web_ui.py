"""The addresses of StackStorm's web UI, as its router reads them."""

from __future__ import annotations

from poundcake.stackstorm.web_ui import execution_url, inquiry_url


def test_each_kind_of_page_has_its_route():
    for web_url in ("https://st2.example", "https://st2.example/"):
        assert execution_url(web_url, "6b0a") == "https://st2.example/#/history/6b0a"
        assert inquiry_url(web_url, "6b0b") == "https://st2.example/#/inquiry/6b0b"


def test_without_a_web_ui_or_an_id_there_is_no_address():
    assert execution_url("", "6b0a") == inquiry_url("", "6b0a") == ""
    assert execution_url("https://st2.example", "") == ""
