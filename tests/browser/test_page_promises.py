"""What the page promises and no other file shows, in a real Chromium.

First the window of models: registry, routes and self-test are real, over models made of a
threshold; see `learning_server.py`. Then the page before nothing, before nothing but empty frames,
and before 5,000 particles; see `benchmarks/page_server.py`.
"""

import base64
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Locator, Route, expect
from visit import HOSTILE, PATIENCE_MS, PageServer, Visit

from gpu_server import tables
from gpu_server.database import Database
from gpu_server.tokens import Tokens

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SITE_PROGRAM = Path(__file__).with_name("learning_server.py")
STORE_PROGRAM = Path(__file__).parents[2] / "benchmarks" / "page_server.py"
CROWD = 5000
LIVE, OLDER, ADAPTED = "haadf-model", "older-model", "adapted-worse"


class Site(PageServer):
    """The server, to which is said what has happened."""

    def do(self, what: str, /, **arguments: object) -> Any:
        self.say([what, arguments])
        answer = self.hear()
        assert not str(answer).startswith("error"), answer
        return answer


def open_models(visit: Visit) -> None:
    """Open the window of models by keyboard."""
    visit.says("live-model", LIVE)
    visit.part("learning-panel").get_by_role("button", name="Models").focus()
    visit.press("Enter")
    expect(visit.part("models")).to_be_visible(timeout=PATIENCE_MS)


def row(visit: Visit, model_id: str) -> Locator:
    return visit.part("models").locator(".emc-model", has_text=model_id)


def button(visit: Visit, name: str) -> Locator:
    return visit.part("models").get_by_role("button", name=name, exact=True)


def drop(visit: Visit, target: str, name: str, data: bytes) -> None:
    """Drop a file as a person does from a folder; on the page where `target` is not there."""
    visit.page.evaluate(
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
    folder = tmp_path_factory.mktemp("models") / "data"
    with Site(SITE_PROGRAM, folder, "--size", 256) as site:
        site.rest("/domains/2/adapt", {})
        site.do("candidate", job_id=1, verdict="reject", name=ADAPTED)
        yield site


@pytest.fixture(scope="module")
def visit(site: Site, browser: Browser) -> Iterator[Visit]:
    visit = Visit.of(browser, site.login)
    open_models(visit)
    yield visit
    visit.leave()


def test_what_is_needed_is_listed_but_cannot_be_deleted(visit: Visit) -> None:
    expect(row(visit, LIVE)).to_contain_text("LIVE")
    expect(row(visit, ADAPTED)).to_contain_text("judged worse")
    expect(row(visit, OLDER)).to_contain_text("imported by admin")
    assert button(visit, f"promote {LIVE}").count() == 0
    for model_id in (LIVE, OLDER, ADAPTED):  # live, to roll back to, a candidate
        assert button(visit, f"delete {model_id}").count() == 0, model_id


def test_a_model_is_promoted_only_after_being_asked(visit: Visit, site: Site) -> None:
    button(visit, f"promote {OLDER}").click()
    visit.says("promote-what", f"{OLDER} takes the place of {LIVE}")
    visit.press("Escape")
    expect(visit.part("ask-promote")).to_be_hidden()
    expect(visit.part("models")).to_be_visible()
    assert site.do("live")[0] == LIVE


@pytest.fixture(scope="module")
def archive(visit: Visit) -> bytes:
    """The adapted model, as the browser saved it."""
    with visit.page.expect_download() as saved:
        button(visit, f"export {ADAPTED}").focus()
        visit.press("Enter")
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
    visit.press("Escape")
    visit.part("candidate").get_by_role("button", name="Report").click()
    visit.part("report").get_by_role("button", name="Turn down").click()
    expect(visit.part("candidate")).to_be_hidden(timeout=PATIENCE_MS)
    visit.part("learning-panel").get_by_role("button", name="Models").click()
    button(visit, f"delete {ADAPTED}").click()
    visit.says("delete-what", re.compile(rf"{ADAPTED} goes for good: .* MB"))
    visit.part("ask-delete").get_by_role("button", name="Cancel").click()
    expect(visit.part("ask-delete")).to_be_hidden()
    assert site.do("audit")[-1][1] != "delete model"
    button(visit, f"delete {ADAPTED}").click()
    visit.part("ask-delete").get_by_role("button", name="Delete").click()
    expect(row(visit, ADAPTED)).to_have_count(0, timeout=PATIENCE_MS)
    assert ["Miriam", "delete model", f"model {ADAPTED}"] in site.do("audit")


def test_an_archive_is_chosen_tested_and_imported(
    visit: Visit, archive: bytes, site: Site, tmp_path: Path
) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(archive)
    with visit.page.expect_file_chooser() as chooser:
        button(visit, "Import").click()
    assert visit.page.locator(".emc-drop input").get_attribute("accept") == ".zip"
    chooser.value.set_files(file)
    visit.says("models-news", f"model.zip is here as {ADAPTED}")
    expect(row(visit, ADAPTED)).to_contain_text("adapted to BF")
    assert ["Miriam", "add model", f"model {ADAPTED}"] == site.do("audit")[-1]


def test_a_dropped_archive_that_is_none_is_refused_in_words(visit: Visit) -> None:
    drop(visit, "[data-part=models]", f"{HOSTILE}.zip", b"PK, but no archive")
    visit.says("models-news", f"{HOSTILE}.zip was not taken: not a whole model archive")
    assert visit.page.evaluate("window.hacked") is None
    assert visit.page.locator(".emc-drop-plate").count() == 0  # the drop is over
    (refusal,) = visit.complaints  # the browser's own word of it
    assert "422" in refusal
    visit.complaints.clear()


def test_a_dropped_archive_opens_the_window(visit: Visit, archive: bytes) -> None:
    visit.press("Escape")
    expect(visit.part("models")).to_be_hidden()
    drop(visit, "[data-part=models]", "again.ZIP", archive)
    expect(visit.part("models")).to_be_visible(timeout=PATIENCE_MS)
    visit.says("models-news", f"again.ZIP is here as {ADAPTED}")


def test_a_window_that_was_shut_while_an_archive_was_on_its_way_stays_shut(
    visit: Visit, archive: bytes
) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    visit.page.route("**/models/import", hold)
    drop(visit, "[data-part=models]", "late.zip", archive)
    visit.says("models-news", "late.zip is on its way")
    visit.press("Escape")
    expect(visit.part("models")).to_be_hidden()
    held.pop().continue_()
    visit.page.unroute("**/models/import")
    note = visit.page.get_by_text(f"late.zip is here as {ADAPTED}")
    expect(note.locator("visible=true").first).to_be_visible(timeout=PATIENCE_MS)
    expect(visit.part("models")).to_be_hidden()
    open_models(visit)  # for the tests that follow


def test_every_scope_sees_what_it_may_do(site: Site, browser: Browser) -> None:
    may: dict[str, set[str]] = {}
    for scope in ("operator", "viewer"):
        guest = Visit.of(browser, site.url)
        guest.log_in(site.new_token(scope))
        open_models(guest)
        expect(row(guest, ADAPTED)).to_be_visible()
        may[scope] = set(guest.part("models").get_by_role("button").all_inner_texts())
        assert guest.complaints == []
        guest.leave()
    assert may == {
        "operator": {"Promote", "Export", "Import", "Close"},
        "viewer": {"Close"},
    }


def test_the_keyboard_stays_in_the_window_and_names_are_whole(visit: Visit) -> None:
    reached: set[str] = set()
    for _ in range(24):
        visit.press("Tab")
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
        visit.page.wait_for_timeout(600)  # colours and windows fade in
        expect(row(visit, LIVE)).to_be_visible()
        assert visit.low_contrast("[data-part=models] *") == [], theme
        visit.escape("models")
        visit.menu("Light or dark")
        open_models(visit)


def test_nothing_was_complained_about(visit: Visit) -> None:
    assert visit.complaints == []


class StoreServer(PageServer):
    """The page over a store of drawn frames, whose rows a test changes."""

    def __init__(self, folder: Path, *options: object) -> None:
        super().__init__(STORE_PROGRAM, folder, "--fps", 0, *options)
        self.folder = folder

    def change(self, statement: sa.Insert | sa.Update) -> None:
        """Change rows beside the server, as a frame that fails or a wrong clock would."""
        database = Database(self.folder, must_exist=True)
        with database.write() as connection:
            connection.execute(statement)
        database.close()

    def lasting_token(self, name: str) -> str:
        database = Database(self.folder, must_exist=True)
        tokens = Tokens(database)
        token = tokens.create(name, "operator", lifetime_s=3600.0, who="test")
        database.close()
        return token


def wait_counted(visit: Visit, particles: int) -> None:
    """Wait until the counted ones and those cut by the border are so many together."""
    visit.page.wait_for_function(
        """(wanted) => ["kpi-particles", "kpi-particles-note"]
        .map((name) => document.querySelector(`[data-part="${name}"]`).textContent)
        .reduce((sum, text) => sum + Number.parseInt(text.replaceAll(",", "")), 0)
        === wanted""",
        arg=particles,
    )


def pick(visit: Visit, session: str) -> None:
    # Before the canvas has said what it shows, it is the session of the last file: picked already.
    expect(visit.picker).not_to_have_value(re.compile(session), timeout=PATIENCE_MS)
    visit.picker.click()
    visit.page.locator(".emc-sessions .q-item", has_text=session).click()
    expect(visit.page.locator(".q-menu")).to_have_count(0, timeout=PATIENCE_MS)


def turn(visit: Visit, knob: str, key: str, *, to: str) -> None:
    """Press a key on a slider until it has a value."""
    slider = visit.page.get_by_role("slider", name=knob, exact=True)
    slider.locator("[tabindex='0']").focus()
    while slider.get_attribute("aria-valuenow") != to:
        visit.press(key)
        visit.page.wait_for_timeout(50)


def announced(visit: Visit, what: str) -> None:
    """Wait until a screen reader is told something."""
    said = visit.page.get_by_role("status").filter(has_text=what)
    expect(said).to_be_attached(timeout=PATIENCE_MS)


MEANS = """() => { const c = document.querySelector(".frame-canvas canvas");
  const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
  let [light, colour] = [0, 0];
  for (let i = 0; i < data.length; i += 4) {
    const rgb = [data[i], data[i + 1], data[i + 2]];
    light += rgb[1];
    colour += Math.max(...rgb) - Math.min(...rgb);
  }
  return { light: (4 * light) / data.length, colour: (4 * colour) / data.length }; }"""
"""Means over the canvas."""


def mean(visit: Visit, what: str) -> float:
    return visit.page.evaluate(MEANS)[what]


def wait_mean(visit: Visit, what: str, low: float, high: float = 255.0) -> None:
    """Wait until the canvas's mean lies between bounds."""
    visit.page.wait_for_function(
        f"([what, low, high]) => {{ const found = ({MEANS})()[what];"
        " return low <= found && found <= high; }",
        arg=[what, low, high],
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    folder = tmp_path_factory.mktemp("bare") / "data"
    with StoreServer(folder, "--frames", 0) as server:
        yield server


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    folder = tmp_path_factory.mktemp("crowded") / "data"
    film = ("--frames", 2, "--size", 1024, "--particles", CROWD)
    with StoreServer(
        folder, *film, "--second", "empty", "--second-particles", 0
    ) as server:
        yield server


@pytest.fixture(scope="module")
def crowd(crowded: StoreServer, browser: Browser) -> Iterator[Visit]:
    """The page in review of the session without a particle, then of the crowded one."""
    visit = Visit.of(browser, crowded.login)
    visit.wait_shown("particles", f"^{CROWD}$")  # the live one, before what is picked
    visit.wait_connected()
    yield visit
    visit.leave()


def test_before_the_first_frame_and_agent_the_page_says_what_to_do(
    bare: StoreServer, browser: Browser
) -> None:
    visit = Visit.of(browser, bare.login)
    visit.wait_connected()
    visit.says("place", "no frames")
    visit.says("agents", "run emcopilot keys new on the server")
    visit.says("light-agent", "none enrolled")
    visit.says("problems", "None: every file has its result")
    visit.says("convergence", "Too few to say")
    expect(visit.part("kpi-particles")).to_have_text("0", timeout=PATIENCE_MS)
    expect(visit.part("kpi-mean")).to_have_text("–")
    visit.press("n", "Delete", "Shift+Delete", "Control+z", " ", "End", "a", "f")
    visit.menu("Export session")
    notice = visit.page.get_by_text("there is no session yet")
    expect(notice).to_be_visible(timeout=PATIENCE_MS)
    visit.menu("Set pixel size")
    notice = visit.page.get_by_text("show a frame of the session first")
    expect(notice).to_be_visible(timeout=PATIENCE_MS)
    assert visit.complaints == []
    visit.leave()


def test_frames_without_a_particle_are_figures_without_a_value(crowd: Visit) -> None:
    pick(crowd, "empty")
    crowd.wait_shown("mode", "review")
    crowd.wait_shown("particles", "^0$")
    crowd.says("caption", "0 particles")
    expect(crowd.part("kpi-particles")).to_have_text("0", timeout=PATIENCE_MS)
    expect(crowd.part("kpi-mean")).to_have_text("–")
    crowd.says("convergence", "Too few to say")
    crowd.press("n")
    announced(crowd, "no particles on this frame")
    crowd.press("x", "x")


def test_brightness_contrast_auto_and_reset_change_the_picture(crowd: Visit) -> None:
    plain = mean(crowd, "light")
    turn(crowd, "Brightness", "ArrowRight", to="1.5")
    wait_mean(crowd, "light", 1.1 * plain)
    crowd.page.get_by_role("button", name="Auto").click()
    contrast = crowd.page.get_by_role("slider", name="Contrast", exact=True)
    expect(contrast).not_to_have_attribute("aria-valuenow", "1", timeout=PATIENCE_MS)
    crowd.page.get_by_role("button", name="Reset").click()
    expect(contrast).to_have_attribute("aria-valuenow", "1", timeout=PATIENCE_MS)
    wait_mean(crowd, "light", 0.99 * plain, 1.01 * plain)


def test_5000_particles_are_drawn_counted_filled_and_gone_through(crowd: Visit) -> None:
    pick(crowd, "film")
    crowd.wait_shown("particles", f"^{CROWD}$")
    wait_counted(crowd, 2 * CROWD)
    crowd.press("n")
    announced(crowd, f"1 of {CROWD}")
    crowd.press("f")
    outlined = mean(crowd, "colour")
    crowd.press("x")
    wait_mean(crowd, "colour", 1.05 * outlined)
    faint = mean(crowd, "colour")
    turn(crowd, "Opacity", "PageUp", to="1")
    wait_mean(crowd, "colour", 1.2 * faint)
    crowd.page.get_by_role("button", name="Reset").click()
    crowd.press("x")


def test_the_list_of_sessions_stands_still_while_it_is_open(
    crowded: StoreServer, crowd: Visit
) -> None:
    crowd.picker.click()
    rows = crowd.page.locator(".emc-sessions .q-item")
    expect(rows).to_have_count(2, timeout=PATIENCE_MS)
    before = rows.all_inner_texts()
    now = time.time()
    crowded.change(
        tables.sessions.insert().values(
            agent_id=1, folder="late", name="late", created_at=now, updated_at=now
        )
    )
    expect(rows).to_have_count(3, timeout=PATIENCE_MS)
    assert rows.all_inner_texts()[:2] == before
    rows.filter(has_text="empty").click()
    expect(crowd.picker).to_have_value(re.compile("empty"), timeout=PATIENCE_MS)
    pick(crowd, "film")


def test_a_choice_stands_however_soon_it_follows_another(crowd: Visit) -> None:
    """A page that was read before the canvas went there once took the choice back."""
    for _ in range(4):
        for session in ("empty", "film"):
            pick(crowd, session)
    crowd.wait_shown("particles", f"^{CROWD}$")
    expect(crowd.picker).to_have_value(re.compile("film"), timeout=PATIENCE_MS)


def test_the_last_minute_ends_with_the_frame_that_is_shown(crowd: Visit) -> None:
    crowd.page.get_by_role("button", name="60 s", exact=True).click()
    for key, number in (("Home", 1), ("End", 2)):
        crowd.press(key)
        crowd.wait_shown("number", f"^{number}$")
        wait_counted(crowd, number * CROWD)
    crowd.page.get_by_role("button", name="Session", exact=True).click()


def test_a_microscope_tells_its_last_frame_and_a_wrong_clock(
    crowd: Visit, crowded: StoreServer
) -> None:
    crowd.says("agents", re.compile("titan.*never heard, 0 waiting.*last frame"))
    received_at = tables.files.c.received_at
    crowded.change(tables.files.update().values(sealed_at=received_at + 3700))
    crowd.says("agents", "its clock is 1:01:40 h ahead")


def test_a_problem_file_tells_why_and_is_tried_again(
    crowd: Visit, crowded: StoreServer
) -> None:
    last = sa.select(sa.func.max(tables.frames.c.id)).scalar_subquery()
    spoilt = tables.frames.update().where(tables.frames.c.id == last)
    crowded.change(spoilt.values(state="quarantined", reason="512 bytes are missing"))
    crowd.says("problems", "quarantined: 512 bytes are missing")
    crowd.click("problems", "Retry")
    crowd.says("problems", "None: every file has its result")
    crowd.says("light-queue", "1 waiting")


def test_an_image_is_taken_by_dropping_it(crowd: Visit) -> None:
    drop(crowd, "body", "<i>one.tif", b"II*\x00" + bytes(60))
    crowd.says("uploads", re.compile("<i>one.tif.*stored; it is measured now"))


def test_tokens_are_revoked_on_the_page(crowd: Visit, crowded: StoreServer) -> None:
    crowded.new_token("viewer")
    crowd.menu("Users and tokens")
    users = crowd.part("users")
    users.get_by_role("button", name="revoke viewer").click()
    revoked = users.locator(".emc-row", has_text="viewer").filter(has_text="revoked")
    expect(revoked).to_be_visible(timeout=PATIENCE_MS)
    crowd.escape("users")


def test_a_token_that_expires_under_an_open_page_says_so(
    crowded: StoreServer, browser: Browser
) -> None:
    guest = Visit.of(browser, crowded.url)
    guest.log_in(crowded.lasting_token("guest"))
    guest.wait_shown("state", "^connected$")
    # Its hour is over: sooner than a test could wait for.
    is_guest = tables.tokens.c.name == "guest"
    crowded.change(tables.tokens.update().where(is_guest).values(expires_at=1.0))
    guest.wait_shown("state", "logged out")
    guest.leave()


def test_the_report_of_an_export_opens_by_itself(
    crowd: Visit, browser: Browser, tmp_path: Path
) -> None:
    with crowd.page.expect_download() as saved:
        crowd.menu("Export session")
    with zipfile.ZipFile(saved.value.path()) as found:
        found.extract("report.html", tmp_path)
    report = Visit.of(browser, (tmp_path / "report.html").as_uri())
    expect(report.page.locator("body")).to_contain_text("film")
    expect(report.page.locator("svg, img").first).to_be_visible()
    outside = [u for u in report.requests if not u.startswith(("file:", "data:"))]
    assert outside == []
    report.leave()


def test_no_state_was_complained_about(crowd: Visit) -> None:
    assert crowd.complaints == []
