"""A browser page that notes what goes wrong on it, and the server behind it as a process."""

import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from gpu_server.database import Database
from gpu_server.tokens import Tokens

PATIENCE_MS = 60_000  # a busy core: a claim is about what happens, not about how soon
LAPTOP = ViewportSize(width=1366, height=768)
HOSTILE = '<img src=x onerror="window.hacked=1">'
"""A name that would be noticed if a page took it for markup."""


class PageServer:
    """A program that serves the page, and says in its first line where and how to log in."""

    def __init__(self, program: Path, folder: Path, *arguments: object) -> None:
        self._command = [sys.executable, str(program), str(folder)]
        self._command += map(str, arguments)
        self._folder = folder

    def start(self, port: int = 0) -> None:
        """Start it, on any free port or on the one that it had before."""
        self._process = subprocess.Popen(
            [*self._command, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self.hear()
        self.url, self.login = said["url"], said["login"]
        self.token = self.new_token("admin")

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def say(self, line: object) -> None:
        """Write one line of JSON to its stdin."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Return the next line of its stdout."""
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def new_token(self, scope: str) -> str:
        database = Database(self._folder, must_exist=True)
        try:
            return Tokens(database).create(scope, scope, who="test")
        finally:
            database.close()

    def rest(self, path: str, body: object = None, token: str = "") -> Any:
        """Ask its REST, as an admin unless a token is given; a body makes it a POST."""
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {token or self.token}",
                "content-type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@dataclass
class Visit:
    """One browser page, and everything it asked for or complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, browser: Browser, address: str, **context: Any) -> "Visit":
        """Open an address in a context of its own."""
        own = browser.new_context(viewport=LAPTOP, **context)
        own.set_default_timeout(PATIENCE_MS)
        visit = cls(own.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on(
            "console",
            lambda said: (
                visit.complaints.append(said.text) if said.type == "error" else None
            ),
        )
        visit.page.goto(address)
        return visit

    def log_in(self, token: str) -> None:
        self.page.get_by_label("Access token").fill(token)
        self.page.get_by_role("button", name="Log in").click()

    def leave(self) -> None:
        self.page.context.close()

    def part(self, name: str) -> Locator:
        return self.page.locator(f'[data-part="{name}"]')

    def says(self, part: str, what: str | re.Pattern[str]) -> None:
        """Wait until a part of the page contains a text."""
        expect(self.part(part)).to_contain_text(what, timeout=PATIENCE_MS)

    def click(self, part: str, button: str) -> None:
        """Click a button of a part by its exact name."""
        self.part(part).get_by_role("button", name=button, exact=True).click()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def escape(self, part: str) -> None:
        """Close a window by its key."""
        self.press("Escape")
        expect(self.part(part)).to_be_hidden(timeout=PATIENCE_MS)

    def menu(self, entry: str) -> None:
        """Choose from the page's menu."""
        found = self.page.locator(".emc-entry", has_text=entry)
        self.part("menu").click()
        expect(found).to_be_visible(timeout=PATIENCE_MS)
        found.click()

    @property
    def picker(self) -> Locator:
        return self.page.locator(".emc-picker input")

    @property
    def canvas(self) -> Locator:
        return self.page.locator(".frame-canvas canvas")

    def shown(self, key: str) -> str:
        """Return what the canvas says of itself: seq, frame, number, view, hover, state."""
        return self.page.locator(".frame-canvas").get_attribute(f"data-{key}") or ""

    def wait_shown(self, key: str, pattern: str) -> None:
        expect(self.page.locator(".frame-canvas")).to_have_attribute(
            f"data-{key}", re.compile(pattern), timeout=PATIENCE_MS
        )

    def wait_connected(self) -> None:
        """Wait until the page's own socket works: a menu that opens before is closed by it."""
        figure = self.part("kpi-particles")
        expect(figure).not_to_have_text("–", timeout=PATIENCE_MS)

    def view(self) -> tuple[float, float, float]:
        """Return (scale, x, y) of the picture on the canvas."""
        scale, x, y = map(float, self.shown("view").split())
        return scale, x, y

    def place(self, x_px: float, y_px: float) -> tuple[float, float]:
        """Return where a point of the frame is on the screen."""
        box = self.canvas.bounding_box()
        assert box
        scale, x, y = self.view()
        return box["x"] + x + scale * x_px, box["y"] + y + scale * y_px

    def cut(self, *parts: str) -> list[str]:
        """Return which of these parts hold more than they show, by CSS selector."""
        return self.page.evaluate(
            """parts => [...document.querySelectorAll(parts)]
              .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.className)""",
            ", ".join(parts),
        )

    def low_contrast(self, *within: str) -> list[str]:
        """Return texts that stand out from their ground by less than 4.5 to 1."""
        return self.page.evaluate(LOW_CONTRAST, ", ".join(within))


LOW_CONTRAST = """within => {
  const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  // Also what `color-mix` makes, which is not written as rgb().
  const solid = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = solid(getComputedStyle(e).backgroundColor);
      if (c[3] > 128) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll(within)) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.offsetParent || e.closest("[disabled]")) continue;
    const [a, b] = [light(solid(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${e.textContent.trim()} ${ratio.toFixed(2)}`);
  }
  return found; }"""
