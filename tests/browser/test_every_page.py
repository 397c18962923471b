"""Every page can be used by everyone: on a phone, in the dark, with a keyboard, on paper."""

from __future__ import annotations

import pytest

from tests.browser.page_list import PAGES

PHONE = {"width": 360, "height": 780}
DESKTOP = {"width": 1440, "height": 900}
# Everything that WCAG 2.2 AA requires and a program can check, and axe's own recommendations.
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

every_page = pytest.mark.parametrize("name", PAGES)

# Pairs of texts that lie on top of each other. Two lines of one text may touch.
FIND_OVERLAPS = """() => {
  // Text for screen readers only.
  const isClipped = element => element !== null
    && (getComputedStyle(element).clipPath === 'inset(50%)' || isClipped(element.parentElement));
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || !parent.checkVisibility({visibilityProperty: true})) continue;
    if (parent.closest('.skip-link, svg, option') || isClipped(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const text = node.data.trim();
    for (const {left, right, top, bottom} of range.getClientRects()) {
      const box = {left, right, top, bottom};
      for (let frame = parent; frame; frame = frame.parentElement) {
        if (getComputedStyle(frame).overflowX === 'visible') continue;
        const {left, right} = frame.getBoundingClientRect();  // the rest is scrolled out of view
        box.left = Math.max(box.left, left);
        box.right = Math.min(box.right, right);
      }
      if (box.right - box.left > 1 && bottom - top > 1) boxes.push({box, parent, text});
    }
  }
  boxes.sort((a, b) => a.box.top - b.box.top);
  const overlaps = [];
  boxes.forEach((first, index) => {
    for (const second of boxes.slice(index + 1)) {
      if (second.box.top > first.box.bottom - 4) break;
      if (first.parent === second.parent) continue;
      const width = Math.min(first.box.right, second.box.right)
        - Math.max(first.box.left, second.box.left);
      if (width > 2) overlaps.push(`${first.text.slice(0, 60)} / ${second.text.slice(0, 60)}`);
    }
  });
  return overlaps;
}"""
# Texts that their own box cuts off, without a way to scroll to the rest.
FIND_CUT_TEXTS = """() => [...document.querySelectorAll('main *')].filter(element => {
  const style = getComputedStyle(element);
  const isHidden = ['hidden', 'clip'].includes(style.overflowX);
  return isHidden && element.scrollWidth > element.clientWidth + 1
    && element.clientWidth > 1 && !element.closest('svg');
}).map(element => element.outerHTML.slice(0, 200))"""
# The page cannot be scrolled sideways. A table may have its own scrollbar.
FIND_WIDEST = """() => document.documentElement.scrollWidth <= window.innerWidth ? [] :
  [...document.querySelectorAll('body *')]
    .filter(element => element.getBoundingClientRect().right > window.innerWidth + 1)
    .map(element => element.outerHTML.slice(0, 160)).slice(0, 5)"""
CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1'])"
# The control that has the focus, and how it shows that.
DESCRIBE_FOCUS = """() => {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  element.dataset.reached = 'yes';
  return {
    html: element.outerHTML.slice(0, 160),
    outline: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
    isInView: box.bottom > 0 && box.top < window.innerHeight && box.right > 0,
    isCovered: (() => {
      const y = Math.min(Math.max(box.top + 2, 0), window.innerHeight - 1);
      const top = document.elementFromPoint(box.left + Math.min(box.width / 2, 20), y);
      return !!top && !element.contains(top) && !top.contains(element)
        && getComputedStyle(top).position !== 'static';
    })(),
  };
}"""


UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true; })"


@every_page
def test_axe_finds_no_violation(visit, paths, name):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(viewport=DESKTOP).open(paths[name])
    page.evaluate(UNFOLD)
    only = {"type": "tag", "values": STANDARDS}
    for viewport in (DESKTOP, PHONE):
        page.set_viewport_size(viewport)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            results = Axe().run(page, options={"resultTypes": ["violations"], "runOnly": only})
            report = f"{viewport}, {scheme}: {results.generate_report()}"
            assert not results.violations_count, report


@every_page
def test_nothing_overlaps_is_cut_off_or_needs_scrolling_sideways(visit, paths, name):
    page = visit(viewport=PHONE).open(paths[name])
    for is_unfolded in (False, True):
        if is_unfolded:
            page.evaluate(UNFOLD)
        for viewport in (PHONE, DESKTOP):
            page.set_viewport_size(viewport)
            assert page.evaluate(FIND_WIDEST) == []
            assert page.evaluate(FIND_OVERLAPS) == []
            assert page.evaluate(FIND_CUT_TEXTS) == []


@every_page
def test_the_text_can_be_twice_as_large(visit, paths, name):
    """WCAG 1.4.4 and 1.4.10: at 200%, a window of 720 pixels is as wide as a phone."""
    page = visit(viewport={"width": 720, "height": 800}).open(paths[name])
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert page.evaluate(FIND_WIDEST) == []
    assert page.evaluate(FIND_OVERLAPS) == []


@every_page
def test_the_page_says_the_same_without_scripts(visit, paths, name):
    with_scripts = visit().open(paths[name])
    without_scripts = visit(java_script_enabled=False).open(paths[name])
    for selector in ("h1", "h2", "h3", ".verdict", "main a"):
        texts = [
            page.locator(selector).all_text_contents() for page in (with_scripts, without_scripts)
        ]
        assert texts[0] == texts[1], selector
    # What only a script could do is not offered.
    assert not [
        button
        for button in without_scripts.locator("button").all()
        if button.is_visible() and button.get_attribute("type") != "submit"
    ]


@every_page
def test_the_keyboard_reaches_every_control_and_shows_where_it_is(visit, paths, name):
    page = visit(viewport=DESKTOP).open(paths[name])
    for _ in range(600):
        page.keyboard.press("Tab")
        focus = page.evaluate(DESCRIBE_FOCUS)
        if focus is None:
            break
        assert focus["outline"] >= 2, f"the focus is not visible: {focus['html']}"
        assert focus["isInView"], f"the focus is out of view: {focus['html']}"
        assert not focus["isCovered"], f"the focus is covered: {focus['html']}"
    unreached = [
        control.evaluate("element => element.outerHTML.slice(0, 160)")
        for control in page.locator(CONTROLS).all()
        if control.is_visible() and not control.get_attribute("data-reached")
    ]
    assert unreached == []


@every_page
def test_the_page_can_be_printed(visit, paths, name):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(viewport=DESKTOP).open(paths[name])
    title = page.locator("h1").text_content()
    # Whoever reads the board in the dark still prints on white paper.
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator("h1").is_visible() and title
    assert not page.locator("nav").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
    page.set_viewport_size({"width": 720, "height": 1000})  # A4
    assert page.evaluate(FIND_WIDEST) == []
    contrast = {"type": "rule", "values": ["color-contrast"]}
    results = Axe().run(page, options={"runOnly": contrast})
    assert not results.violations_count, results.generate_report()
    assert page.pdf(format="A4").startswith(b"%PDF")


@every_page
def test_the_page_is_small_and_has_a_title_of_its_own(visit, board, paths, name):
    page = visit().open(paths[name])
    response = board.get(paths[name])
    assert len(response.body) < 100_000
    assert page.title().endswith(" · PoundCake")
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
