"""What the browser's tests share: one Chromium a file, and the module that they import."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

# Test folders are no packages: this lets `from visit import Visit` find the file beside.
sys.path.insert(0, str(Path(__file__).parent))

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)


# Not for the whole session: Playwright's loop runs in this thread as long as it is open, and
# tests that call `asyncio.run` come after these.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=QUIET.split()
        )
        yield browser
        browser.close()
