"""How many frames a second the page shows, how soon after publishing, and at what price.

Frames are replayed from a store with inference idle (`page_server.py`); viewers are pages in
headless Chromium. Publish-to-pixel is the time from handing a frame to the publisher to the
moment after the canvas has drawn it, by one clock on one machine.

    python benchmarks/page_fps.py --seconds 20 --json page_fps.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from machine import machine
from playwright.sync_api import Browser, Page, sync_playwright

SERVER = Path(__file__).with_name("page_server.py")
CASES = (
    # (name, side px, particles, viewers, fps offered)
    ("1024, 300 outlines, one viewer", 1024, 300, 1, 10.0),
    ("1024, 300 outlines, three viewers", 1024, 300, 3, 5.0),
    ("2048, 1,000 outlines, one viewer", 2048, 1000, 1, 5.0),
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
# Every drawn frame leaves its number and the time at which it was on the canvas.
COUNT = """() => { window.drawn = []; const e = document.querySelector('.frame-canvas');
  new MutationObserver(() => requestAnimationFrame(() =>
    window.drawn.push([Number(e.dataset.seq), Date.now()])
  )).observe(e, { attributes: true, attributeFilter: ['data-seq'] }); }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--frames", type=int, default=20, help="in the film")
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="one only")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = CASES if options.case is None else CASES[options.case : options.case + 1]
    figures = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=ARGUMENTS
        )
        for case in chosen:
            figures.append(measure(browser, case, options.frames, options.seconds))
            print(json.dumps(figures[-1]), flush=True)
        browser.close()
    if options.json:
        report = {"machine": machine(), "cases": figures}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(
    browser: Browser,
    case: tuple[str, int, int, int, float],
    frames: int,
    seconds: float,
) -> dict[str, object]:
    """Show one film to some viewers and count what they draw."""
    name, size, particles, viewers, fps = case
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "published.txt"
        server, said = start(
            Path(folder) / "data", frames, size, particles, fps=fps, log=str(log)
        )
        try:
            context = browser.new_context(viewport={"width": 1366, "height": 768})
            pages = [context.new_page() for _ in range(viewers)]
            began = time.monotonic()
            pages[0].goto(said["login"])
            _wait_for_frame(pages[0])
            first_picture_s = time.monotonic() - began
            for page in pages[1:]:
                page.goto(said["url"])
                _wait_for_frame(page)
            figures = watch(pages, psutil.Process(server.pid), seconds, log)
            context.close()
        finally:
            server.terminate()
            server.wait(30)
    return {
        "case": name,
        "offered_fps": fps,
        "first_useful_picture_s": round(first_picture_s, 2),
        **figures,
    }


def start(
    folder: Path, frames: int, size: int, particles: int, *, fps: float, log: str = ""
) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """Start the page's server on a fresh store; return it with its addresses."""
    film = ["--frames", str(frames), "--size", str(size), "--particles", str(particles)]
    server = subprocess.Popen(
        [sys.executable, SERVER, folder, *film, "--fps", str(fps), "--log", log],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None, "its output is a pipe"
    return server, json.loads(server.stdout.readline())


def watch(
    pages: list[Page], server: psutil.Process, seconds: float, log: Path
) -> dict[str, object]:
    """Count drawn frames, their delay and the server's CPU time for `seconds`."""
    for page in pages:
        page.evaluate(COUNT)
    pages[0].wait_for_timeout(2000)  # past the first draws, which compile code
    for page in pages:
        page.evaluate("() => { window.drawn.length = 0; }")
    cpu_before, began = server.cpu_times(), time.monotonic()
    pages[0].wait_for_timeout(1000 * seconds)
    drawn = [page.evaluate("window.drawn") for page in pages]
    took_s, cpu = time.monotonic() - began, server.cpu_times()
    used_s = cpu.user + cpu.system - cpu_before.user - cpu_before.system
    lines = (line.split() for line in log.read_text().splitlines())
    published = {int(seq): float(at) for seq, at in lines}
    delays_ms = [
        at - 1000 * published[seq]
        for page in drawn
        for seq, at in page
        if seq in published
    ]
    shown = sum(map(len, drawn))
    return {
        "shown_fps": [round(len(page) / took_s, 2) for page in drawn],
        "publish_to_pixel_p50_ms": round(statistics.median(delays_ms), 1),
        "publish_to_pixel_p95_ms": round(
            sorted(delays_ms)[int(0.95 * len(delays_ms))], 1
        ),
        "server_cpu_ms_a_shown_frame": round(1000 * used_s / max(1, shown), 2),
    }


def _wait_for_frame(page: Page) -> None:
    page.wait_for_selector(".frame-canvas[data-frame]", timeout=120_000)


if __name__ == "__main__":
    main()
