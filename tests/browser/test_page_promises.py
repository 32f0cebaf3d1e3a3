"""What the page promises and no other file shows, in a real Chromium.

First the window of models: registry, routes and self-test are real, over models made of a
threshold; see `learning_server.py`. Then the page before nothing, before nothing but empty frames,
and before 5,000 particles; see `benchmarks/page_server.py`.
"""

import base64
import json
import re
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from gpu_server import tables
from gpu_server.database import Database
from gpu_server.tokens import Tokens

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("learning_server.py")
PAGE_SERVER = Path(__file__).parents[2] / "benchmarks" / "page_server.py"
CROWD = 5000
PATIENCE_MS = 60_000  # a busy core: a claim is about what happens, not about how soon
HOSTILE = '<img src=x onerror="window.hacked=1">.zip'
QUIET = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking"
LIVE, OLDER, ADAPTED = "haadf-model", "older-model", "adapted-worse"


class Site:
    """The server as a process, to which is said what has happened."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, SERVER, folder, "--size", "256"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._line()
        self.url, self.login = said["url"], said["login"]

    def do(self, what: str, /, **arguments: object):
        assert self.process.stdin
        self.process.stdin.write(json.dumps([what, arguments]) + "\n")
        self.process.stdin.flush()
        answer = self._line()
        assert not str(answer).startswith("error"), answer
        return answer

    def post(self, path: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"}
        headers["content-type"] = "application/json"
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}", data=b"{}", headers=headers
        )
        urllib.request.urlopen(request, timeout=60).close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        for end in (self.process.stdin, self.process.stdout):
            assert end
            end.close()

    def _line(self):
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())


class Visit:
    """One browser page with the window of models open, and what it complained about."""

    def __init__(self, browser: Browser, address: str, token: str = "") -> None:
        context = browser.new_context(viewport={"width": 1366, "height": 768})
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        if token:
            self.page.get_by_label("Access token").fill(token)
            self.page.get_by_role("button", name="Log in").click()
        self.says("live-model", LIVE)
        opens = self.part("learning-panel").get_by_role("button", name="Models")
        opens.focus()
        self.page.keyboard.press("Enter")
        expect(self.part("models")).to_be_visible()

    def part(self, name: str) -> Locator:
        return self.page.locator(f'[data-part="{name}"]')

    def says(self, part: str, what: str | re.Pattern[str]) -> None:
        expect(self.part(part)).to_contain_text(what, timeout=PATIENCE_MS)

    def row(self, model_id: str) -> Locator:
        return self.part("models").locator(".emc-model", has_text=model_id)

    def button(self, name: str) -> Locator:
        return self.part("models").get_by_role("button", name=name, exact=True)

    def drop(self, name: str, data: bytes) -> None:
        drop(self.page, "[data-part=models]", name, data)


def drop(page: Page, target: str, name: str, data: bytes) -> None:
    """Drop a file as a person does from a folder; on the page where `target` is not there."""
    page.evaluate(
        """([target, name, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const carried = new DataTransfer();
          carried.items.add(new File([bytes], name));
          const place = document.querySelector(target) ?? document.body;
          for (const kind of ["dragenter", "dragover", "drop"]) {
            place.dispatchEvent(new DragEvent(
              kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
          } }""",
        [target, name, base64.b64encode(data).decode()],
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("models") / "data")
    site.post("/domains/2/adapt", site.do("token", scope="operator"))
    site.do("candidate", job_id=1, verdict="reject", name=ADAPTED)
    yield site
    site.stop()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=QUIET.split()
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(site: Site, browser: Browser) -> Iterator[Visit]:
    visit = Visit(browser, site.login)
    yield visit
    visit.page.context.close()


def test_what_is_needed_is_listed_but_cannot_be_deleted(visit: Visit) -> None:
    expect(visit.row(LIVE)).to_contain_text("LIVE")
    expect(visit.row(ADAPTED)).to_contain_text("judged worse")
    expect(visit.row(OLDER)).to_contain_text("imported by admin")
    assert visit.button(f"promote {LIVE}").count() == 0
    for model_id in (LIVE, OLDER, ADAPTED):  # live, to roll back to, a candidate
        assert visit.button(f"delete {model_id}").count() == 0, model_id


def test_a_model_is_promoted_only_after_being_asked(visit: Visit, site: Site) -> None:
    visit.button(f"promote {OLDER}").click()
    visit.says("promote-what", f"{OLDER} takes the place of {LIVE}")
    visit.page.keyboard.press("Escape")
    expect(visit.part("ask-promote")).to_be_hidden()
    expect(visit.part("models")).to_be_visible()
    assert site.do("live")[0] == LIVE


@pytest.fixture(scope="module")
def archive(visit: Visit) -> bytes:
    """The adapted model, as the browser saved it."""
    with visit.page.expect_download() as saved:
        visit.button(f"export {ADAPTED}").focus()
        visit.page.keyboard.press("Enter")
    assert saved.value.suggested_filename == f"{ADAPTED}.zip"
    visit.says("models-news", f"{ADAPTED} is handed to the browser")
    return Path(saved.value.path()).read_bytes()


def test_an_export_is_the_archive_that_rest_gives(
    visit: Visit, archive: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "saved.zip"
    file.write_bytes(archive)
    with zipfile.ZipFile(file) as found:
        assert {"model.safetensors", "card.json"} <= set(found.namelist())


def test_a_model_that_was_turned_down_is_deleted_after_being_asked(
    visit: Visit, archive: bytes, site: Site
) -> None:
    visit.page.keyboard.press("Escape")
    visit.part("candidate").get_by_role("button", name="Report").click()
    visit.part("report").get_by_role("button", name="Turn down").click()
    expect(visit.part("candidate")).to_be_hidden(timeout=PATIENCE_MS)
    visit.part("learning-panel").get_by_role("button", name="Models").click()
    visit.button(f"delete {ADAPTED}").click()
    visit.says("delete-what", re.compile(rf"{ADAPTED} goes for good: .* MB"))
    visit.part("ask-delete").get_by_role("button", name="Cancel").click()
    expect(visit.part("ask-delete")).to_be_hidden()
    assert site.do("audit")[-1][1] != "delete model"
    visit.button(f"delete {ADAPTED}").click()
    visit.part("ask-delete").get_by_role("button", name="Delete").click()
    expect(visit.row(ADAPTED)).to_have_count(0, timeout=PATIENCE_MS)
    assert ["Miriam", "delete model", f"model {ADAPTED}"] in site.do("audit")


def test_an_archive_is_chosen_tested_and_imported(
    visit: Visit, archive: bytes, site: Site, tmp_path: Path
) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(archive)
    with visit.page.expect_file_chooser() as chooser:
        visit.button("Import").click()
    assert visit.page.locator(".emc-drop input").get_attribute("accept") == ".zip"
    chooser.value.set_files(file)
    visit.says("models-news", f"model.zip is here as {ADAPTED}")
    expect(visit.row(ADAPTED)).to_contain_text("adapted to BF")
    assert ["Miriam", "add model", f"model {ADAPTED}"] == site.do("audit")[-1]


def test_a_dropped_archive_that_is_none_is_refused_in_words(visit: Visit) -> None:
    visit.drop(HOSTILE, b"PK, but no archive")
    visit.says("models-news", f"{HOSTILE} was not taken: not a whole model archive")
    assert visit.page.evaluate("window.hacked") is None
    assert visit.page.locator(".emc-drop-plate").count() == 0  # the drop is over


def test_a_dropped_archive_opens_the_window(visit: Visit, archive: bytes) -> None:
    visit.page.keyboard.press("Escape")
    expect(visit.part("models")).to_be_hidden()
    visit.drop("again.ZIP", archive)
    expect(visit.part("models")).to_be_visible(timeout=PATIENCE_MS)
    visit.says("models-news", f"again.ZIP is here as {ADAPTED}")


def test_every_scope_sees_what_it_may_do(site: Site, browser: Browser) -> None:
    may: dict[str, set[str]] = {}
    for scope in ("operator", "viewer"):
        guest = Visit(browser, site.url, site.do("token", scope=scope))
        expect(guest.row(ADAPTED)).to_be_visible()
        may[scope] = set(guest.part("models").get_by_role("button").all_inner_texts())
        assert guest.complaints == []
        guest.page.context.close()
    assert may == {
        "operator": {"Promote", "Export", "Import", "Close"},
        "viewer": {"Close"},
    }


def test_the_keyboard_stays_in_the_window_and_names_are_whole(visit: Visit) -> None:
    reached: set[str] = set()
    for _ in range(24):
        visit.page.keyboard.press("Tab")
        reached.add(
            visit.page.evaluate(
                """() => { const e = document.activeElement;
                if (!e.closest('[data-part=models]')) return '';
                return e.getAttribute('aria-label') || e.textContent.trim(); }"""
            )
        )
    assert {f"export {LIVE}", f"delete {ADAPTED}", "Import", "Close"} <= reached


def test_every_text_of_the_window_stands_out_in_both_themes(visit: Visit) -> None:
    for theme in ("dark", "light"):
        expect(visit.page.locator("body")).to_have_class(re.compile(f"body--{theme}"))
        visit.page.wait_for_timeout(600)  # colours fade
        ground, *texts = visit.page.evaluate(
            """() => { const panel = document.querySelector('[data-part=models]');
            const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            const shown = [...panel.querySelectorAll("*")].filter(own);
            return [["", getComputedStyle(panel).backgroundColor],
                    ...shown.map((e) => [e.textContent, getComputedStyle(e).color])]; }"""
        )
        assert len(texts) > 10
        for text, colour in texts:
            assert contrast(colour, ground[1]) >= 4.5, (theme, text)  # WCAG 2.2, AA
        visit.page.keyboard.press("Escape")
        visit.part("menu").click()
        visit.page.locator(".emc-entry", has_text="Light or dark").click()
        visit.part("learning-panel").get_by_role("button", name="Models").click()
        expect(visit.row(LIVE)).to_be_visible(timeout=PATIENCE_MS)


def contrast(ink: str, ground: str) -> float:
    """Return by how much colours, as `rgb(r, g, b)`, stand out; WCAG 2.2, contrast ratio."""

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [
            v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts
        ]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, bright = sorted((light(ink), light(ground)))
    return (bright + 0.05) / (dark + 0.05)


def test_nothing_was_complained_about(visit: Visit) -> None:
    assert visit.complaints == []


class PageServer:
    """The page over a store of drawn frames, as a process."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, PAGE_SERVER, folder, "--fps", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        said = json.loads(self.process.stdout.readline())
        self.url, self.login = said["url"], said["login"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        assert self.process.stdout
        self.process.stdout.close()

    def change(self, *statements: sa.Update) -> None:
        """Change rows beside the server, as a frame that fails or a wrong clock would."""
        database = Database(self.folder, must_exist=True)
        with database.write() as connection:
            for statement in statements:
                connection.execute(statement)
        database.close()

    def token(self, scope: str, lifetime_s: float | None = None) -> str:
        database = Database(self.folder, must_exist=True)
        token = Tokens(database).create(scope, scope, who="test", lifetime_s=lifetime_s)
        database.close()
        return token


class Screen:
    """The page in one browser, and what it complained about."""

    def __init__(self, browser: Browser, server: PageServer, token: str = "") -> None:
        context = browser.new_context(viewport={"width": 1366, "height": 768})
        context.set_default_timeout(PATIENCE_MS)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(server.url if token else server.login)
        if token:
            self.page.get_by_label("Access token").fill(token)
            self.page.get_by_role("button", name="Log in").click()
        self.says("convergence", re.compile("Mean|Enough"))

    def part(self, name: str) -> Locator:
        return self.page.locator(f'[data-part="{name}"]')

    def says(self, part: str, what: str | re.Pattern[str]) -> None:
        expect(self.part(part)).to_contain_text(what, timeout=PATIENCE_MS)

    def wait_shown(self, key: str, pattern: str) -> None:
        expect(self.page.locator(".frame-canvas")).to_have_attribute(
            f"data-{key}", re.compile(pattern), timeout=PATIENCE_MS
        )

    def wait_counted(self, particles: int) -> None:
        """Wait until the counted ones and those cut by the border are so many together."""
        self.page.wait_for_function(
            """(wanted) => ["kpi-particles", "kpi-particles-note"]
            .map((name) => document.querySelector(`[data-part="${name}"]`).textContent)
            .reduce((sum, text) => sum + Number.parseInt(text.replaceAll(",", "")), 0)
            === wanted""",
            arg=particles,
        )

    def menu(self, entry: str) -> None:
        self.part("menu").click()
        self.page.locator(".emc-entry", has_text=entry).click()

    def pick(self, session: str) -> None:
        self.page.locator(".emc-picker input").click()
        self.page.locator(".emc-sessions .q-item", has_text=session).click()
        expect(self.page.locator(".q-menu")).to_have_count(0, timeout=PATIENCE_MS)

    def slider(self, name: str) -> Locator:
        return self.page.get_by_role("slider", name=name, exact=True)

    def focus(self, slider: str) -> None:
        self.slider(slider).locator("[tabindex='0']").focus()

    def canvas(self, what: str) -> float:
        """Return a mean over the canvas's pixels: of "light", or of "colour"."""
        return self.page.evaluate(
            """(what) => { const c = document.querySelector(".frame-canvas canvas");
            const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
            let sum = 0;
            for (let i = 0; i < data.length; i += 4) {
              const rgb = [data[i], data[i + 1], data[i + 2]];
              sum += what === "light" ? rgb[1] : Math.max(...rgb) - Math.min(...rgb);
            }
            return (4 * sum) / data.length; }""",
            what,
        )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    server = PageServer(tmp_path_factory.mktemp("bare") / "data", "--frames", "0")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    sizes = ["--frames", "2", "--size", "1024", "--particles", str(CROWD)]
    server = PageServer(
        tmp_path_factory.mktemp("crowded") / "data",
        *sizes, "--second", "empty", "--second-particles", "0",
    )  # fmt: skip
    yield server
    server.stop()


@pytest.fixture(scope="module")
def screen(crowded: PageServer, browser: Browser) -> Iterator[Screen]:
    screen = Screen(browser, crowded)
    screen.wait_shown("frame", r"^\d+$")
    yield screen
    screen.page.context.close()


def test_before_the_first_frame_and_agent_the_page_says_what_to_do(
    bare: PageServer, browser: Browser
) -> None:
    screen = Screen(browser, bare)
    screen.says("place", "no frames")
    screen.says("agents", "run emcopilot keys new on the server")
    screen.says("light-agent", "none enrolled")
    screen.says("problems", "None: every file has its result")
    screen.says("convergence", "Too few to say")
    screen.says("kpi-particles", "0")
    expect(screen.part("kpi-mean")).to_have_text("–")
    for key in ("n", "Delete", "Shift+Delete", "Control+z", " ", "End", "a", "f"):
        screen.page.keyboard.press(key)
    screen.menu("Export session")
    expect(screen.page.get_by_text("there is no session yet")).to_be_visible()
    screen.menu("Set pixel size")
    expect(screen.page.get_by_text("show a frame of the session first")).to_be_visible()
    assert screen.complaints == []
    screen.page.context.close()


def test_frames_without_a_particle_are_figures_without_a_value(screen: Screen) -> None:
    screen.wait_shown("particles", f"^{CROWD}$")  # the live one, before what is picked
    screen.pick("empty")
    screen.wait_shown("mode", "review")
    screen.wait_shown("particles", "^0$")
    screen.says("caption", "0 particles")
    expect(screen.part("kpi-particles")).to_have_text("0", timeout=PATIENCE_MS)
    expect(screen.part("kpi-mean")).to_have_text("–")
    screen.says("convergence", "Too few to say")
    screen.page.keyboard.press("n")
    said = screen.page.get_by_role("status").filter(has_text="no particles on")
    expect(said).to_be_attached(timeout=PATIENCE_MS)
    screen.page.keyboard.press("x")
    screen.page.keyboard.press("x")


def test_brightness_contrast_auto_and_reset_change_the_picture(screen: Screen) -> None:
    plain = screen.canvas("light")
    screen.focus("Brightness")
    for _ in range(10):
        screen.page.keyboard.press("ArrowRight")
    expect(screen.slider("Brightness")).to_have_attribute("aria-valuenow", "1.5")
    screen.page.wait_for_timeout(300)  # the knob has moved; the canvas follows
    assert screen.canvas("light") > 1.1 * plain
    screen.page.get_by_role("button", name="Auto").click()
    expect(screen.slider("Contrast")).not_to_have_attribute("aria-valuenow", "1")
    screen.page.get_by_role("button", name="Reset").click()
    for name in ("Brightness", "Contrast"):
        expect(screen.slider(name)).to_have_attribute("aria-valuenow", "1")
    screen.page.wait_for_timeout(300)
    assert screen.canvas("light") == pytest.approx(plain, rel=0.01)


def test_5000_particles_are_drawn_counted_filled_and_gone_through(
    screen: Screen,
) -> None:
    screen.pick("film")
    screen.wait_shown("particles", f"^{CROWD}$")
    screen.wait_counted(2 * CROWD)
    screen.page.keyboard.press("n")
    said = screen.page.get_by_role("status").filter(has_text=f"1 of {CROWD}")
    expect(said).to_be_attached(timeout=PATIENCE_MS)
    screen.page.keyboard.press("f")
    outlined = screen.canvas("colour")
    screen.page.keyboard.press("x")
    screen.page.wait_for_timeout(500)
    faint = screen.canvas("colour")
    screen.focus("Opacity")
    for _ in range(2):
        screen.page.keyboard.press("PageUp")
    expect(screen.slider("Opacity")).to_have_attribute("aria-valuenow", "1")
    screen.page.wait_for_timeout(500)
    assert outlined < faint < screen.canvas("colour")
    screen.page.get_by_role("button", name="Reset").click()
    screen.page.keyboard.press("x")


def test_the_last_minute_ends_with_the_frame_that_is_shown(screen: Screen) -> None:
    screen.page.get_by_role("button", name="60 s", exact=True).click()
    screen.page.keyboard.press("Home")
    screen.wait_shown("number", "^1$")
    screen.wait_counted(CROWD)
    screen.page.keyboard.press("End")
    screen.wait_shown("number", "^2$")
    screen.wait_counted(2 * CROWD)
    screen.page.get_by_role("button", name="Session", exact=True).click()


def test_a_microscope_tells_its_last_frame_and_a_wrong_clock(
    screen: Screen, crowded: PageServer
) -> None:
    screen.says("agents", re.compile("titan.*never heard, 0 waiting.*last frame"))
    ahead = tables.files.update().values(sealed_at=tables.files.c.received_at + 3700)
    crowded.change(ahead)
    screen.says("agents", "its clock is 1:01:40 h ahead")


def test_a_problem_file_tells_why_and_is_tried_again(
    screen: Screen, crowded: PageServer
) -> None:
    last = sa.select(sa.func.max(tables.frames.c.id)).scalar_subquery()
    spoilt = {"state": "quarantined", "reason": "cut short: 512 bytes missing"}
    is_last = tables.frames.c.id == last
    crowded.change(tables.frames.update().where(is_last).values(**spoilt))
    screen.says("problems", "quarantined: cut short: 512 bytes missing")
    screen.part("problems").get_by_role("button", name="Retry").click()
    screen.says("problems", "None: every file has its result")
    screen.says("light-queue", "1 waiting")


def test_an_image_is_taken_by_dropping_it(screen: Screen) -> None:
    drop(screen.page, "body", "<i>one.tif", b"II*\x00" + bytes(60))
    screen.says("uploads", re.compile("<i>one.tif.*stored; it is measured now"))


def test_tokens_are_made_and_revoked_on_the_page(
    screen: Screen, crowded: PageServer
) -> None:
    crowded.token("viewer")
    screen.menu("Users and tokens")
    users = screen.part("users")
    users.get_by_role("button", name="revoke viewer").click()
    row = users.locator(".emc-row", has_text="viewer").filter(has_text="revoked now")
    expect(row).to_be_visible(timeout=PATIENCE_MS)
    screen.page.keyboard.press("Escape")


def test_a_token_that_expires_under_an_open_page_says_so(
    crowded: PageServer, browser: Browser
) -> None:
    guest = Screen(browser, crowded, crowded.token("operator", lifetime_s=20.0))
    guest.wait_shown("state", "^connected$")
    guest.wait_shown("state", "logged out")
    guest.page.context.close()


def test_the_report_of_an_export_opens_by_itself(
    screen: Screen, browser: Browser, tmp_path: Path
) -> None:
    with screen.page.expect_download() as saved:
        screen.menu("Export session")
    with zipfile.ZipFile(saved.value.path()) as found:
        found.extract("report.html", tmp_path)
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    expect(page.locator("body")).to_contain_text("film")
    expect(page.locator("svg, img").first).to_be_visible()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_no_state_was_complained_about(screen: Screen) -> None:
    assert screen.complaints == []
