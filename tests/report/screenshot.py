"""Pictures of a report for the documentation: python -m tests.report.screenshot REPORT.html docs/report

Writes NAME.png, NAME-dark.png and NAME-phone.png: the page down to the end of its first figures.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.report.browser import chromium

LOOKS = {"": (1400, "light"), "-dark": (1400, "dark"), "-phone": (400, "light")}
END = "document.querySelector('.panels').getBoundingClientRect().bottom + 24"


def main(report: Path, name: str) -> None:
    """Write the pictures of one page."""
    with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
        for suffix, (width, scheme) in LOOKS.items():
            browser.open(report.resolve().as_uri(), width, scheme=scheme)
            browser.screenshot(Path(f"{name}{suffix}.png"), height=browser.evaluate(END))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
