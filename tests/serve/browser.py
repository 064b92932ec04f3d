"""A real headless Chromium for the tests of the page, and a watch over what the page does in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_AWAY = ("net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET", "net::ERR_INCOMPLETE_CHUNKED_ENCODING")


def chromium() -> str:
    """The browser's program; where there is none, the test says so and is left out."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"the page is tested in a browser, and there is none of: {', '.join(_NAMES)}")
    return found


@contextmanager
def a_browser() -> Iterator[Browser]:
    """Start the browser, without a sandbox where the user is root: it would refuse to start."""
    program = chromium()
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*sandbox, "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched_page(
    browser: Browser, base: str, *, may_be_away: bool = False, expected: tuple[str, ...] = (), **options: Any
) -> Iterator[Page]:
    """Open a page, and fail if it asked another host for anything, threw an error, or complained on the console.

    Args:
        browser: that of `a_browser`.
        base: the server's address; addresses given to the page are relative to it.
        may_be_away: whether the server is stopped on the way, so that requests may be refused.
        expected: parts of complaints that the test provokes.
        options: of the browser's context, such as `viewport` and `color_scheme`.
    """
    context = browser.new_context(base_url=base, **options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    asked: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None,
    )
    try:
        try:
            yield page
        except Exception as error:
            seen = page.locator("body").inner_text()[:2000]
            error.add_note(f"the page at {page.url} said: {seen}\nthe console said: {complaints}")
            raise
        allowed = (*expected, *(_AWAY if may_be_away else ()))
        left = [text for text in complaints if not any(part in text for part in allowed)]
        assert not left, left
        here = urlsplit(base).netloc
        elsewhere = [url for url in asked if urlsplit(url).scheme in {"http", "https", "ws", "wss"}]
        assert {urlsplit(url).netloc for url in elsewhere} <= {here}
    finally:
        context.close()
