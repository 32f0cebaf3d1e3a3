"""An hour before the page: server memory, browser heap, and what is complained about.

python benchmarks/page_soak.py --minutes 60 --fps 5 --json page_soak.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil
from machine import machine
from page_fps import ARGUMENTS, start
from playwright.sync_api import Page, sync_playwright

SETTLE = 0.1
"""Of the time: caches fill first, and what they hold is bounded."""
MEMORY_MB, HEAP_MB = 30.0, 15.0
"""What may be added after that; a heap breathes with its garbage collection."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--frames", type=int, default=60, help="in the film")
    parser.add_argument("--every-s", type=float, default=10.0)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, said = start(
            Path(folder) / "data", options.frames, 1024, 300, fps=options.fps
        )
        try:
            figures = soak(psutil.Process(server.pid), said["login"], options)
        finally:
            server.terminate()
            server.wait(30)
    print(json.dumps(figures))
    if options.json:
        report = {"machine": machine(), **figures}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def soak(
    server: psutil.Process, login: str, options: argparse.Namespace
) -> dict[str, object]:
    """Look at the page, and at memory every few seconds."""
    complaints: list[str] = []
    memory_mb: list[float] = []
    heap_mb: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=options.chromium,
            args=[*ARGUMENTS, "--enable-precise-memory-info"],
        )
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type == "error" else None,
        )
        page.goto(login)
        page.wait_for_selector(".frame-canvas[data-frame]", timeout=120_000)
        first = int(_shown(page))
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            page.wait_for_timeout(1000 * options.every_s)
            memory_mb.append(server.memory_info().rss / 2**20)
            heap_mb.append(_heap_mb(page))
        last = int(_shown(page))
        browser.close()
    grown_mb, heap_grown_mb = _growth(memory_mb), _growth(heap_mb)
    return {
        "minutes": options.minutes,
        "offered_fps": options.fps,
        "frames_published_meanwhile": last - first,
        "server_memory_mb": [round(memory_mb[0], 1), round(memory_mb[-1], 1)],
        "server_memory_grown_mb": round(grown_mb, 1),
        "browser_heap_mb": [round(heap_mb[0], 1), round(heap_mb[-1], 1)],
        "browser_heap_grown_mb": round(heap_grown_mb, 1),
        "console_errors": complaints,
        "pass": grown_mb < MEMORY_MB and heap_grown_mb < HEAP_MB and not complaints,
    }


def _growth(samples: list[float]) -> float:
    """Return what the last tenth holds more than the tenth after settling, at their lowest.

    The lowest: between two garbage collections a heap grows without anything being kept.
    """
    tenth = max(1, round(SETTLE * len(samples)))
    return min(samples[-tenth:]) - min(samples[tenth : 2 * tenth] or samples[:1])


def _shown(page: Page) -> str:
    return page.get_attribute(".frame-canvas", "data-seq") or "0"


def _heap_mb(page: Page) -> float:
    return page.evaluate("performance.memory.usedJSHeapSize") / 2**20


if __name__ == "__main__":
    main()
