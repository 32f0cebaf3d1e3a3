"""The operator's page in a real Chromium: review, rejecting, curves, uploads, users, keys.

The server is the page's own with everything but the network, over drawn frames; see
`benchmarks/page_server.py`. What needs a network is in `test_page.py`.
"""

import json
import re
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SERVER = Path(__file__).parents[2] / "benchmarks" / "page_server.py"
FRAMES, PARTICLES = 6, 20
PATIENCE_MS = 60_000  # a busy core: a claim is about what happens, not about how soon
HOSTILE = '<img src=x onerror="window.hacked=1">'
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
)


class Server:
    """The page's server as a process, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        self.url = self.login = ""
        self.token = ""

    def start(self, port: int = 0) -> None:
        sizes = ["--frames", str(FRAMES), "--size", "512"]
        more = ["--particles", str(PARTICLES), "--fps", "0", "--second", HOSTILE]
        self.process = subprocess.Popen(
            [sys.executable, SERVER, self.folder, *sizes, *more, "--port", str(port)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        said = json.loads(self.process.stdout.readline())
        self.url, self.login = said["url"], said["login"]

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        assert self.process.stdout
        self.process.stdout.close()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def rest(self, path: str, body: object = None) -> dict | list:
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self.token}",
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

    def part(self, name: str) -> Locator:
        return self.page.locator(f'[data-part="{name}"]')

    def shown(self, key: str) -> str:
        return self.page.locator(".frame-canvas").get_attribute(f"data-{key}") or ""

    def wait_shown(self, key: str, pattern: str) -> None:
        expect(self.page.locator(".frame-canvas")).to_have_attribute(
            f"data-{key}", re.compile(pattern), timeout=PATIENCE_MS
        )

    def wait_connected(self) -> None:
        """Wait until the page's own socket works: a menu that opens before is closed by it."""
        figure = self.part("kpi-particles")
        expect(figure).not_to_have_text("–", timeout=PATIENCE_MS)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def go_to(self, number: int) -> None:
        self.press("Home")
        self.wait_shown("number", "^1$")
        for step in range(2, number + 1):
            self.press("ArrowRight")
            self.wait_shown("number", f"^{step}$")

    def menu(self, entry: str) -> None:
        found = self.page.locator(".emc-entry", has_text=entry)
        self.part("menu").click()
        expect(found).to_be_visible(timeout=PATIENCE_MS)
        found.click()

    def place(self, x_px: float, y_px: float) -> tuple[float, float]:
        box = self.page.locator(".frame-canvas canvas").bounding_box()
        assert box
        scale, x, y = map(float, self.shown("view").split())
        return box["x"] + x + scale * x_px, box["y"] + y + scale * y_px


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("page") / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=QUIET.split()
        )
        yield browser
        browser.close()


def open_page(browser: Browser, address: str, pattern: str = r"^\d+$") -> Visit:
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page())
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on(
        "console",
        lambda said: (
            visit.complaints.append(said.text) if said.type == "error" else None
        ),
    )
    visit.page.goto(address)
    visit.wait_shown("frame", pattern)
    visit.wait_connected()
    return visit


@pytest.fixture(scope="module")
def visit(server: Server, browser: Browser) -> Iterator[Visit]:
    visit = open_page(browser, server.login)
    visit.menu("Users and tokens")
    server.token = make_token(visit, "test script", "admin")
    visit.press("Escape")
    expect(visit.part("users")).to_be_hidden()
    yield visit
    visit.page.context.close()


def make_token(visit: Visit, name: str, scope: str) -> str:
    users = visit.part("users")
    users.get_by_label("Name").fill(name)
    users.locator(".q-select").first.click()
    visit.page.locator(".q-menu").get_by_text(scope, exact=True).click()
    users.get_by_role("button", name="Create").click()
    expect(visit.part("secret")).to_contain_text("emct_", timeout=PATIENCE_MS)
    return visit.part("secret").inner_text()


def film(server: Server) -> dict:
    sessions = server.rest("/sessions")
    return next(session for session in sessions if session["name"] == "film")


def pick_film(visit: Visit, server: Server) -> None:
    frames = server.rest(f"/sessions/{film(server)['id']}/frames")["frames"]
    visit.wait_shown("frame", r"^\d+$")
    if visit.shown("frame") not in {str(frame["id"]) for frame in frames}:
        picker = visit.page.locator(".emc-picker input")
        # It follows the canvas, which may show another session's frame by now.
        expect(picker).not_to_have_value(re.compile("film"), timeout=PATIENCE_MS)
        picker.click()
        visit.page.locator(".emc-sessions .q-item", has_text="film").click()
        visit.wait_shown("frame", f"^{frames[0]['id']}$")  # the newest one first
        # Until the list has faded keys are its own.
        expect(visit.page.locator(".q-menu")).to_have_count(0, timeout=PATIENCE_MS)
    visit.press("Home")
    visit.wait_shown("frame", f"^{frames[-1]['id']}$")


def test_a_page_without_live_frames_shows_the_last_stored_one(visit: Visit) -> None:
    assert visit.shown("mode") == "live"
    expect(visit.part("mode")).to_have_text("LIVE")
    expect(visit.part("caption")).to_contain_text("512 × 512 px")


def test_sessions_are_picked_and_frames_stepped_scrubbed_and_played_by_keys(
    visit: Visit, server: Server
) -> None:
    pick_film(visit, server)
    expect(visit.part("mode")).to_have_text("REVIEW", timeout=PATIENCE_MS)
    expect(visit.part("place")).to_have_text(f"1 / {FRAMES}", timeout=PATIENCE_MS)
    visit.press("ArrowRight")
    visit.wait_shown("number", "^2$")
    visit.press("End")
    visit.wait_shown("number", f"^{FRAMES}$")
    visit.press("ArrowLeft")
    visit.wait_shown("number", f"^{FRAMES - 1}$")
    visit.press("Home")
    visit.wait_shown("number", "^1$")
    visit.press(" ")  # plays to the end
    visit.wait_shown("number", f"^{FRAMES}$")
    visit.page.get_by_role("slider", name="frame of the session").fill("3")
    visit.wait_shown("number", "^3$")
    visit.part("live").click()
    visit.wait_shown("mode", "^live$")


def test_scrubbing_shows_the_last_wish_whatever_came_before(
    visit: Visit, server: Server
) -> None:
    pick_film(visit, server)
    slider = visit.page.get_by_role("slider", name="frame of the session")
    for number in (5, 2, 6, 3, 1, 4):
        slider.fill(str(number))
    visit.wait_shown("number", "^4$")
    visit.page.wait_for_timeout(500)
    assert visit.shown("number") == "4"


def test_a_click_rejects_statistics_follow_and_undo_takes_back(
    visit: Visit, server: Server
) -> None:
    pick_film(visit, server)
    visit.press("f")
    frame = visit.shown("frame")
    before = server.rest(f"/sessions/{film(server)['id']}/psd")["counted"]
    expect(visit.part("kpi-particles")).to_have_text(f"{before:,}", timeout=PATIENCE_MS)
    rows = server.rest(f"/frames/{frame}/particles")["particles"]
    largest = max(rows, key=lambda row: row["area_px"])
    spot = visit.place(largest["centroid_x_px"] + 0.5, largest["centroid_y_px"] + 0.5)
    visit.page.mouse.click(*spot)
    visit.wait_shown("rejected", "^1$")
    expect(visit.part("rejected")).to_have_text("1 rejected")
    expect(visit.part("kpi-particles")).to_have_text(
        f"{before - 1:,}", timeout=PATIENCE_MS
    )
    rows = server.rest(f"/frames/{frame}/particles")["particles"]
    assert [row["particle"] for row in rows if row["rejected"]] == [largest["particle"]]
    visit.press("Control+z")
    visit.wait_shown("rejected", "^0$")
    expect(visit.part("kpi-particles")).to_have_text(f"{before:,}", timeout=PATIENCE_MS)


def test_particles_and_frames_are_rejected_without_a_mouse(
    visit: Visit, server: Server
) -> None:
    pick_film(visit, server)
    visit.page.mouse.move(2, 2)
    visit.press("n", "n", "N")
    said = visit.page.get_by_role("status").filter(has_text="particle")
    expect(said).to_contain_text(f"1 of {PARTICLES}")
    visit.press("Delete")
    visit.wait_shown("rejected", "^1$")
    visit.press("Delete")  # the same one back
    visit.wait_shown("rejected", "^0$")
    visit.press("Shift+Delete")
    visit.wait_shown("rejected", f"^{PARTICLES}$")
    expect(visit.page.get_by_role("button", name="Restore frame")).to_be_visible()
    expect(visit.part("events")).to_contain_text("frame rejected", timeout=PATIENCE_MS)
    visit.press("Control+z")
    visit.wait_shown("rejected", "^0$")


def test_a_click_on_the_course_goes_to_that_frame(visit: Visit, server: Server) -> None:
    pick_film(visit, server)
    chart = visit.page.locator(".emc-timeline")
    expect(visit.part("timeline-panel")).to_contain_text(
        f"{FRAMES} frames counted", timeout=PATIENCE_MS
    )
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box
    chart.click(position={"x": box["width"] - 18, "y": 40})  # the right end
    visit.wait_shown("number", f"^{FRAMES}$")


def test_spans_and_bins_change_the_distribution_and_it_can_be_taken_away(
    visit: Visit, server: Server
) -> None:
    pick_film(visit, server)
    expect(visit.part("kpi-particles")).to_have_text(
        f"{FRAMES * PARTICLES}", timeout=PATIENCE_MS
    )
    visit.page.get_by_role("button", name="Frame", exact=True).click()
    expect(visit.part("kpi-particles")).to_have_text(
        f"{PARTICLES}", timeout=PATIENCE_MS
    )
    visit.page.get_by_role("button", name="Session").click()
    visit.page.get_by_role("button", name="bins and export").click()
    visit.page.get_by_text("10 bins", exact=True).click()
    visit.page.wait_for_timeout(1500)
    visit.page.get_by_role("button", name="bins and export").click()
    with visit.page.expect_download() as saved:
        visit.page.get_by_text("Save as CSV").click()
    lines = Path(saved.value.path()).read_text().splitlines()
    assert len(lines) == 1 + 10
    assert sum(int(line.rsplit(",", 1)[1]) for line in lines[1:]) == FRAMES * PARTICLES
    visit.page.get_by_role("button", name="bins and export").click()
    with visit.page.expect_download() as saved:
        visit.page.get_by_text("Save as PNG").click()
    assert Path(saved.value.path()).read_bytes()[:4] == b"\x89PNG"


def test_an_uncalibrated_session_says_px_until_the_operator_gives_a_size(
    visit: Visit,
) -> None:
    picker = visit.page.locator(".emc-picker input")
    picker.click()
    visit.page.locator(".emc-sessions .q-item", has_text="img").click()
    expect(visit.part("caption")).to_contain_text("no pixel size", timeout=PATIENCE_MS)
    expect(visit.part("kpi-mean")).to_contain_text("px", timeout=PATIENCE_MS)
    visit.page.get_by_role("button", name="Set pixel size").click()
    size = visit.page.get_by_label("nm per pixel")
    size.fill("0")
    expect(
        visit.part("pixel-size").get_by_role("button", name="Use", exact=True)
    ).to_be_disabled()
    size.fill("0.25")
    expect(visit.part("pixel-size-preview")).to_contain_text("128")
    visit.part("pixel-size").get_by_role("button", name="Use", exact=True).click()
    expect(visit.part("caption")).to_contain_text(
        "0.25 nm/px from operator", timeout=PATIENCE_MS
    )
    expect(visit.part("kpi-mean")).to_contain_text("nm", timeout=PATIENCE_MS)
    expect(visit.part("events")).to_contain_text("pixel size 0.25 nm")
    assert visit.page.evaluate("window.hacked") is None
    assert visit.page.locator("img[src=x]").count() == 0


def test_a_session_is_exported_by_the_menu(visit: Visit, server: Server) -> None:
    pick_film(visit, server)
    visit.page.wait_for_timeout(1000)  # the menu exports what is looked at
    with visit.page.expect_download() as saved:
        visit.menu("Export session")
    with zipfile.ZipFile(saved.value.path()) as found:
        assert len([n for n in found.namelist() if n.startswith("labels/")]) == FRAMES
        assert "report.html" in found.namelist()


def test_dropped_files_are_stored_in_a_session_of_their_own(
    visit: Visit, server: Server, tmp_path: Path
) -> None:
    frame = tmp_path / "<b>dropped.tif"
    frame.write_bytes(b"II*\x00" + b"\x00" * 60)
    visit.page.locator(".emc-drop input[type=file]").set_input_files(frame)
    expect(visit.part("uploads")).to_contain_text("stored", timeout=PATIENCE_MS)
    expect(visit.part("uploads")).to_contain_text("<b>dropped.tif")
    names = [session["name"] for session in server.rest("/sessions")]
    assert any(name.startswith("uploads 2") for name in names)
    visit.part("uploads").get_by_role("button", name="Close").click()


def test_help_opens_by_its_key_and_the_theme_is_remembered(visit: Visit) -> None:
    visit.press("?")
    expect(visit.part("help")).to_be_visible()
    visit.press("Escape")
    expect(visit.part("help")).to_be_hidden()
    body = visit.page.locator("body")
    visit.menu("Light or dark")
    expect(body).to_have_class(re.compile("body--light"))
    visit.page.reload()
    visit.wait_shown("frame", r"^\d+$")
    expect(body).to_have_class(re.compile("body--light"), timeout=PATIENCE_MS)
    assert low_contrast(visit.page) == []
    visit.menu("Light or dark")
    expect(body).to_have_class(re.compile("body--dark"))
    assert low_contrast(visit.page) == []


def low_contrast(page: Page) -> list[str]:
    """Return texts that stand out from their ground by less than 4.5 to 1."""
    page.wait_for_timeout(600)  # colours fade from one theme to the other
    return page.evaluate(
        """() => {
          const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
          const part = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
          const ground = (e) => {
            for (; e; e = e.parentElement) {
              const c = rgb(getComputedStyle(e).backgroundColor);
              if (c.length < 4 || c[3] > 0.5) return c;
            }
            return [255, 255, 255];
          };
          const found = [];
          for (const e of document.querySelectorAll(".emc-header *, .emc-main *")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!own || !e.offsetParent || e.closest("[disabled]")) continue;
            const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) found.push(`${e.textContent.trim()} ${ratio.toFixed(2)}`);
          }
          return found; }"""
    )


def test_every_control_is_reached_by_tab(visit: Visit) -> None:
    visit.page.evaluate("document.activeElement.blur()")
    reached: list[str] = []
    for _ in range(60):
        visit.press("Tab")
        reached.append(
            visit.page.evaluate(
                """() => { const e = document.activeElement;
                return e.getAttribute('aria-label') || e.textContent.trim(); }"""
            )
        )
    said = " | ".join(reached)
    for name in (
        "session", "Menu", "pause", "frame of the session", "LIVE", "Undo", "Reject frame",
        "Outlines", "Masks", "Auto", "Reset", "Fit", "Frame", "60 s", "Session",
        "bins and export",
    ):  # fmt: skip
        assert name in said, name


def test_a_viewer_may_look_but_neither_reject_nor_upload(
    visit: Visit, server: Server, browser: Browser
) -> None:
    made = server.rest("/users", {"name": "guest", "scope": "viewer"})
    guest = open_page_with(browser, server, made["token"])
    guest.press("n", "Delete")
    guest.page.wait_for_timeout(500)
    assert guest.shown("rejected") == "0"
    guest.part("menu").click()
    entries = guest.page.locator(".emc-entry").all_inner_texts()
    assert "Export session" in entries
    assert not {"Users and tokens", "Add image files", "Set pixel size"} & set(entries)
    guest.press("Escape")
    server.rest(f"/users/{made['id']}/revoke", {})
    # The gate looks every five seconds, then the page says so instead of trying for ever.
    guest.wait_shown("state", "logged out")
    guest.page.context.close()


def open_page_with(browser: Browser, server: Server, token: str) -> Visit:
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context.new_page())
    visit.page.goto(server.url)
    visit.page.get_by_label("Access token").fill(token)
    visit.page.get_by_role("button", name="Log in").click()
    visit.wait_shown("frame", r"^\d+$")
    visit.wait_connected()
    return visit


def test_without_websockets_the_page_still_shows_the_last_frame(
    server: Server, visit: Visit, browser: Browser
) -> None:
    state = visit.page.context.storage_state()
    context = browser.new_context(storage_state=state)
    context.add_init_script("delete window.WebSocket")
    plain = Visit(context.new_page())
    plain.page.goto(server.url)
    plain.wait_shown("frame", r"^\d+$")
    plain.wait_shown("state", "^connected$")
    context.close()


def test_nothing_is_cut_at_any_of_the_screens(visit: Visit) -> None:
    for width, height in ((1366, 768), (1920, 1080), (1024, 768), (768, 1024)):
        visit.page.set_viewport_size({"width": width, "height": height})
        visit.page.wait_for_timeout(600)  # the charts take their new size
        cut = visit.page.evaluate(
            """() => [document.documentElement, ...document.querySelectorAll(
              ".emc-header, .emc-film, .emc-tools, .emc-cells, .emc-heading, .emc-known")]
              .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.className)"""
        )
        assert cut == [], (width, height)
    visit.page.set_viewport_size({"width": 1366, "height": 768})


def test_no_request_left_the_machine_and_nothing_was_complained_about(
    visit: Visit, server: Server
) -> None:
    local = (server.url, "data:", "blob:")
    assert [url for url in visit.requests if not url.startswith(local)] == []
    assert visit.complaints == []


def test_an_open_page_survives_a_restart_of_the_server(
    visit: Visit, server: Server
) -> None:
    visit.press("l")
    port = server.port
    server.stop()
    visit.wait_shown("state", "^disconnected$")
    server.start(port)
    visit.wait_shown("state", "^connected$")
    visit.wait_shown("frame", r"^\d+$")
    visit.press("Home")
    visit.wait_shown("number", "^1$")
