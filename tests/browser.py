"""Pages in a real browser: Debian's chromium with its driver."""

from __future__ import annotations

import importlib.resources
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

needed = pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="chromium or its driver is not installed")
"""A mark for tests that need the browser."""

WIDTHS = (390, 1280)
"""Of a telephone and of a computer."""

_VIOLATIONS = """
const [done] = arguments;
axe.run(document, {resultTypes: ["violations"]}).then(
    (found) => done(found.violations.map((each) => each.id + ": " + each.nodes.map((node) => node.html).join("\\n"))),
    (error) => done([String(error)]),
);
"""


@contextmanager
def browser(folder: Path) -> Iterator[Chrome]:
    """A browser without a window, whose profile is in *folder*."""
    # Its import takes 0.2 s of each worker, also of those that run no test of a page.
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    assert BROWSER is not None
    options = ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = Chrome(options, ChromeService(DRIVER))
    try:
        chrome.set_page_load_timeout(60)
        chrome.set_script_timeout(60)
        yield chrome
    finally:
        chrome.quit()


def open_page(chrome: Chrome, page: Path, width: int = 1280, *, dark: bool = False) -> None:
    """Open *page* in a window of *width* pixels."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get(page.as_uri())


def console_of(chrome: Chrome) -> Sequence[str]:
    """What the browser has complained about since the last call, but not of its own pages, as that of a new tab."""
    messages = [str(entry["message"]) for entry in chrome.get_log("browser")]  # type: ignore[no-untyped-call]
    return [message for message in messages if not message.startswith("chrome://")]


def violations(chrome: Chrome) -> Sequence[str]:
    """What axe-core finds on the open page."""
    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text()
    # The page's policy lets no other script run; this one is the driver's.
    chrome.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
    found: list[str] = chrome.execute_async_script(_VIOLATIONS)
    return found


def opening_seconds(chrome: Chrome, page: Path) -> float:
    """How long *page* takes from its opening until it is loaded and laid out."""
    open_page(chrome, page)
    milliseconds: float = chrome.execute_script(
        """
        const begin = performance.now();
        document.body.getBoundingClientRect();
        return performance.getEntriesByType("navigation")[0].loadEventEnd + performance.now() - begin;
        """
    )
    return milliseconds / 1000
