"""Writes the pictures of docs/serve.md from a server that runs. Needs playwright and a chromium.

neuroscan-farm serve --runs-dir runs
python docs/page_pictures.py http://127.0.0.1:8642 RUN BLOCK     docs/images/serve-*.png; BLOCK is one cell, such as 9,10
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
_LARGE: dict[str, Any] = {"viewport": {"width": 1360, "height": 1020}}
_SMALL: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 1.5,
    "has_touch": True,
    "is_mobile": True,
}


def settled(page: Page) -> None:
    """Wait until nothing is drawn any more."""
    page.wait_for_selector("[aria-busy=false]")
    page.wait_for_timeout(2500)


def main(base: str, run: str, block: str) -> None:
    """Take all pictures."""
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)

        def shot(
            name: str, address: str, *, scheme: str, size: dict[str, Any], to: str | None = None
        ) -> None:
            context = browser.new_context(base_url=base, color_scheme=scheme, **size)
            page = context.new_page()
            page.goto(address)
            settled(page)
            if to is not None:
                page.evaluate("(to) => document.querySelector(to).scrollIntoView({ block: 'start' })", to)
                page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / f"serve-{name}.png")
            context.close()

        page = browser.new_page(base_url=base)
        found = page.request.get(f"/api/v1/runs/{run}/configurations?block={block}").json()
        cell = f"/run/{run}?cell={found['configurations'][0]['task_id']}"
        shot("runs", "/", scheme="light", size=_LARGE)
        shot("run", cell, scheme="light", size=_LARGE, to="#choices")
        shot("dark", f"/run/{run}?significant=1", scheme="dark", size=_LARGE, to="#choices")
        shot("narrow", f"/run/{run}", scheme="light", size=_SMALL, to="#choices")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
