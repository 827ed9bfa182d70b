"""The page in Chromium: every figure drawn, nothing complained of, nothing too wide, no text on other text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import CHROMIUM, Browser, chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")

LOOKS = [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")]
FIGURES = """
[...document.querySelectorAll('.plot svg')].map(svg => {
  const box = svg.getBoundingClientRect(), shapes = svg.querySelectorAll('path, use').length
  return [box.width, box.height, shapes]
})
"""
OVERLAPS = """
[...document.querySelectorAll('.plot svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')], frame = svg.getBoundingClientRect(), found = []
  texts.forEach((text, index) => {
    const a = text.getBoundingClientRect()
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.bottom > frame.bottom + 1 || a.top < frame.top - 1)
      found.push(text.textContent + ' leaves its figure')
    texts.slice(index + 1).forEach(other => {
      const b = other.getBoundingClientRect()
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left)
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
      if (wide > 1 && high > 3) found.push(text.textContent + ' on ' + other.textContent)
    })
  })
  return found
})
"""
LETTERS = "Math.min(...[...document.querySelectorAll('.plot text')].map(t => t.getBoundingClientRect().height))"
COLORS = """
[document.body, document.querySelector('.plot path[style*="series-1"]')].map((element, index) =>
  getComputedStyle(element)[index ? 'stroke' : 'backgroundColor'])
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_page(
    browser: Browser, url: str, width: int, scheme: str
) -> None:
    browser.open(url, width, scheme=scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    figures = browser.evaluate(FIGURES)
    assert len(figures) == 9
    for wide, high, shapes in figures:
        assert 320 < wide <= 470
        assert high > 80
        assert shapes > 5
    assert browser.evaluate(OVERLAPS) == []
    assert browser.evaluate(LETTERS) > 10
    assert browser.complaints == []
    assert browser.requests == [url]


def test_tables_fit_a_phone(browser: Browser, url: str) -> None:
    browser.open(url, 400)
    widest = "Math.max(...[...document.querySelectorAll('.scroll')].map(box => box.scrollWidth - box.clientWidth))"
    assert browser.evaluate(widest) == 0


def test_dark_is_dark_and_light_is_light_and_print_is_always_light(browser: Browser, url: str) -> None:
    colors = {}
    for scheme, medium in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        browser.open(url, 1400, scheme=scheme, medium=medium)
        colors[scheme, medium] = browser.evaluate(COLORS)
    assert colors["light", "screen"] == ["rgb(255, 255, 255)", "rgb(0, 114, 178)"]
    assert colors["dark", "screen"] == ["rgb(22, 24, 27)", "rgb(86, 180, 233)"]
    assert colors["dark", "print"] == colors["light", "screen"]


def test_print_shows_every_figure_within_the_paper(browser: Browser, url: str) -> None:
    browser.open(url, 690, medium="print")
    assert browser.evaluate("document.documentElement.scrollWidth") == 690
    assert all(wide > 250 and high > 60 for wide, high, _ in browser.evaluate(FIGURES))


def test_faults_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    texts = '<text x="5" y="20">one</text><text x="8" y="22">two</text><text x="90" y="90">three</text>'
    figure = f'<div class="plot"><svg width="100" height="100">{texts}</svg></div>'
    (tmp_path / "bad.html").write_text(f"{figure}<script>console.error('no'); missing()</script>")
    browser.open((tmp_path / "bad.html").as_uri(), 400)
    assert browser.evaluate(OVERLAPS) == ["one on two", "three leaves its figure"]
    assert len(browser.complaints) == 2
