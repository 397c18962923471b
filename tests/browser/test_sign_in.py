"""A browser asks for a name and a password, and any name with a token is accepted."""

from __future__ import annotations

import pytest

from tests.browser import boards

TOKEN = "a-token-for-reading-0123456789"


@pytest.fixture
def guarded_board(recorded_history, stopped_time, tmp_path):
    """Return an endpoint that requires a token."""
    with boards.start_board(tmp_path, recorded_history, auth_tokens=[TOKEN]) as board:
        yield board


def test_a_token_as_the_password_signs_in(visit, guarded_board):
    credentials = {"username": "anna", "password": TOKEN}
    page = visit(on=guarded_board, http_credentials=credentials).open("/board")
    assert page.locator("h1").inner_text() == "Now"
    page.get_by_role("link", name="Episodes").first.click()
    page.wait_for_url("**/board/episodes")
    assert page.locator(".episodes > li").count()
