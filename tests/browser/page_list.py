"""The pages of the board that the tests visit."""

from __future__ import annotations

from tests.browser.history import HOSTILE


def fixed(path):
    """Return a function that returns a path for every board."""
    return lambda board: path


def episode(**filters):
    """Return a function that finds the page of the newest episode that matches."""
    return lambda board: f"/board/episodes/{board.find_episode(**filters)['episode']}"


def request(**filters):
    """Return a function that finds the page of the first request of an episode."""

    def find(board):
        return f"/board/requests/{board.find_episode(**filters)['alerts'][-1]['request_id']}"

    return find


PAGES = {
    "now": fixed("/board"),
    "episodes": fixed("/board/episodes"),
    "episodes, filtered": fixed("/board/episodes?instance=node-7"),
    "episodes, none": fixed("/board/episodes?alert_name=NoSuchAlert"),
    "episode, waiting": episode(instance="db-7:9100"),
    "episode, did not help": episode(instance="web-21:9100"),
    "episode, refused": episode(instance="node-7:9100"),
    "episode, cleared": episode(instance="web-44:9100"),
    "request": request(alert_name="KubeNodeNotReady"),
    "automation": fixed("/board/automation"),
    "health": fixed("/board/health"),
    **{
        f"episode, {name}": episode(labels=f'instance="{fields["instance"]}"')
        for name, fields in HOSTILE.items()
    },
}
"""A function for each page that returns its path on a board, by the name of the page."""
