"""The text of an alert stays text, whatever its sender writes into it."""

from __future__ import annotations

import pytest

from tests.browser.history import HOSTILE, SCRIPT
from tests.browser.page_list import PAGES

every_page = pytest.mark.parametrize("name", PAGES)
# What only a sender could have put into a page of the board.
FOREIGN_ELEMENTS = (
    "script:not([src^='/board/static/'])",
    "img",
    "iframe",
    "object",
    "embed",
    "base",
    "style",
    "form[action^='http']",
    "meta[http-equiv]",
    "link:not([href^='/board/static/'])",
)
FIND_HANDLERS = """() => [...document.querySelectorAll('*')].flatMap(element =>
  element.getAttributeNames().filter(name => name.startsWith('on') || name === 'style'))"""


@every_page
def test_a_page_contains_only_elements_of_the_board(visit, paths, name):
    page = visit().open(paths[name])
    assert page.locator(", ".join(FOREIGN_ELEMENTS)).count() == 0
    assert page.evaluate(FIND_HANDLERS) == []
    addresses = page.locator("a[href]").evaluate_all("links => links.map(one => one.href)")
    assert [url for url in addresses if not url.startswith(("http://", "https://"))] == []
    assert page.title() != "hacked"
    assert page.locator("h1").count() == 1, "no label ends the page and begins another"


@pytest.mark.parametrize("name", HOSTILE)
def test_an_episode_shows_the_text_as_it_was_sent(visit, paths, name):
    page = visit().open(paths[f"episode, {name}"])
    text = " ".join(page.locator("body").inner_text().split())
    if name == "script":
        assert SCRIPT in text
        assert "</pre></details></main><h1>forged</h1>" in text
        assert "javascript:document.title='hacked'" in text
        assert not page.locator("a[href*='javascript']").count()
    elif name == "quotes":
        assert "\" onmouseover=\"document.title='hacked'\" x='" in text
        assert "&lt;twice&gt;" in text and "{{ 7*7 }}" in text and "${7*7}" in text
    elif name == "wide":
        assert "サーバーが応答しません" in text and "🔥" in text
    elif name == "right to left":
        assert "שלום עולם" in text and "\u202e" not in text
    elif name == "control characters":
        assert "\x1b" not in text and "\u202e" not in text and "\u3164" not in text
    page.mouse.move(300, 300)
    assert page.title() != "hacked"


def test_right_to_left_text_does_not_move_what_surrounds_it(visit, paths):
    """Each label is isolated, so that it cannot swap places with the next one."""
    page = visit().open(paths["episode, right to left"])
    labels = page.locator(".labels").first.locator("li").all()
    boxes = {label.inner_text().split("=")[0]: label.bounding_box() for label in labels}
    order = sorted(boxes, key=lambda name: (boxes[name]["y"], boxes[name]["x"]))
    assert order == [label.inner_text().split("=")[0] for label in labels]
    for label in labels:
        name, value = label.locator(".label-name").bounding_box(), label.bounding_box()
        assert name["x"] - value["x"] < 12, "the name of a label is on the left"


def test_a_search_shows_what_was_typed_as_text(visit):
    page = visit().open("/board/episodes?alert_name=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert page.locator("script:not([src])").count() == 0
    assert page.get_by_label("Alert name").input_value() == '"><script>alert(1)</script>'


def test_an_injected_script_would_be_refused(visit, board):
    """The Content-Security-Policy is the second line of defence."""
    one_visit = visit()
    page = one_visit.open("/board")
    page.evaluate("""() => {
      const script = document.createElement('script');
      script.textContent = "document.title = 'hacked'";
      document.body.append(script);
      const image = document.createElement('img');
      image.src = 'http://127.0.0.1:1/picture.png';
      document.body.append(image);
    }""")
    page.wait_for_timeout(300)
    assert page.title() != "hacked"
    violations = [problem for problem in one_visit.problems if "Content Security Policy" in problem]
    assert len(violations) == 2
    one_visit.problems.clear()
    one_visit.urls.clear()
