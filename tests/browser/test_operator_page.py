"""The operator's page in a real Chromium: review, rejecting, curves, uploads, users, keys.

The server is the page's own with everything but the network, over drawn frames; see
`benchmarks/page_server.py`. What needs a network is in `test_page.py`.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from visit import HOSTILE, LAPTOP, PATIENCE_MS, PageServer, Visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "page_server.py"
FRAMES, PARTICLES = 6, 20
PARTS = (
    "html", ".emc-header", ".emc-film", ".emc-tools", ".emc-cells", ".emc-heading", ".emc-known",
)  # fmt: skip
"""What must hold all that is in it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    folder = tmp_path_factory.mktemp("page") / "data"
    sizes = ("--frames", FRAMES, "--size", 512, "--particles", PARTICLES)
    with PageServer(PROGRAM, folder, *sizes, "--fps", 0, "--second", HOSTILE) as server:
        yield server


@pytest.fixture(scope="module")
def visit(server: PageServer, browser: Browser) -> Iterator[Visit]:
    visit = Visit.of(browser, server.login)
    visit.wait_shown("frame", r"^\d+$")
    visit.wait_connected()
    yield visit
    visit.leave()


def film(server: PageServer) -> dict:
    sessions = server.rest("/sessions")
    return next(session for session in sessions if session["name"] == "film")


def pick_film(visit: Visit, server: PageServer) -> None:
    frames = server.rest(f"/sessions/{film(server)['id']}/frames")["frames"]
    visit.wait_shown("frame", r"^\d+$")
    if visit.shown("frame") not in {str(frame["id"]) for frame in frames}:
        # It follows the canvas, which may show another session's frame by now.
        expect(visit.picker).not_to_have_value(re.compile("film"), timeout=PATIENCE_MS)
        visit.picker.click()
        visit.page.locator(".emc-sessions .q-item", has_text="film").click()
        visit.wait_shown("frame", f"^{frames[0]['id']}$")  # the newest one first
        # Until the list has faded keys are its own.
        expect(visit.page.locator(".q-menu")).to_have_count(0, timeout=PATIENCE_MS)
    visit.press("Home")
    visit.wait_shown("frame", f"^{frames[-1]['id']}$")


def test_a_page_without_live_frames_shows_the_last_stored_one(visit: Visit) -> None:
    assert visit.shown("mode") == "live"
    expect(visit.part("mode")).to_have_text("LIVE")
    visit.says("caption", "512 × 512 px")


def test_sessions_are_picked_and_frames_stepped_scrubbed_and_played_by_keys(
    visit: Visit, server: PageServer
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
    visit: Visit, server: PageServer
) -> None:
    pick_film(visit, server)
    slider = visit.page.get_by_role("slider", name="frame of the session")
    for number in (5, 2, 6, 3, 1, 4):
        slider.fill(str(number))
    visit.wait_shown("number", "^4$")
    visit.page.wait_for_timeout(500)
    assert visit.shown("number") == "4"


def test_a_click_rejects_statistics_follow_and_undo_takes_back(
    visit: Visit, server: PageServer
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
    visit: Visit, server: PageServer
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
    visit.says("events", "frame rejected")
    visit.press("Control+z")
    visit.wait_shown("rejected", "^0$")


def test_undo_takes_back_the_last_wish_though_one_before_it_was_slow(
    visit: Visit, server: PageServer
) -> None:
    """Side by side, a slow change was committed after the next, and undone in its place."""
    pick_film(visit, server)
    visit.page.evaluate(
        """() => {
          const fast = (window.fastFetch = window.fetch);
          window.fetch = async (path, how) => {
            const isSlow = /particles.*restore$/.test(path);
            if (isSlow) await new Promise((done) => setTimeout(done, 1500));
            return fast(path, how);
          };
        }"""
    )
    visit.press("n", "Delete")
    visit.wait_shown("rejected", "^1$")
    visit.press("Delete", "Shift+Delete")
    visit.wait_shown("rejected", f"^{PARTICLES}$")
    visit.press("Control+z")
    visit.wait_shown("rejected", "^0$")
    visit.page.evaluate("() => { window.fetch = window.fastFetch; }")


def test_a_click_on_the_course_goes_to_that_frame(
    visit: Visit, server: PageServer
) -> None:
    pick_film(visit, server)
    chart = visit.page.locator(".emc-timeline")
    visit.says("timeline-panel", f"{FRAMES} frames counted")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box
    chart.click(position={"x": box["width"] - 18, "y": 40})  # the right end
    visit.wait_shown("number", f"^{FRAMES}$")


def test_spans_and_bins_change_the_distribution_and_it_can_be_taken_away(
    visit: Visit, server: PageServer
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
    visit.picker.click()
    visit.page.locator(".emc-sessions .q-item", has_text="img").click()
    visit.says("caption", "no pixel size")
    visit.says("kpi-mean", "px")
    visit.page.get_by_role("button", name="Set pixel size").click()
    size = visit.page.get_by_label("nm per pixel")
    size.fill("0")
    expect(
        visit.part("pixel-size").get_by_role("button", name="Use", exact=True)
    ).to_be_disabled()
    size.fill("0.25")
    visit.says("pixel-size-preview", "128")
    visit.part("pixel-size").get_by_role("button", name="Use", exact=True).click()
    visit.says("caption", "0.25 nm/px from operator")
    visit.says("kpi-mean", "nm")
    visit.says("events", "pixel size 0.25 nm")
    assert visit.page.evaluate("window.hacked") is None
    assert visit.page.locator("img[src=x]").count() == 0


def test_a_session_is_exported_by_the_menu(visit: Visit, server: PageServer) -> None:
    pick_film(visit, server)
    visit.page.wait_for_timeout(1000)  # the menu exports what is looked at
    with visit.page.expect_download() as saved:
        visit.menu("Export session")
    with zipfile.ZipFile(saved.value.path()) as found:
        assert len([n for n in found.namelist() if n.startswith("labels/")]) == FRAMES
        assert "report.html" in found.namelist()


def test_dropped_files_are_stored_in_a_session_of_their_own(
    visit: Visit, server: PageServer, tmp_path: Path
) -> None:
    frame = tmp_path / "<b>dropped.tif"
    frame.write_bytes(b"II*\x00" + b"\x00" * 60)
    visit.page.locator(".emc-drop input[type=file]").set_input_files(frame)
    visit.says("uploads", "stored")
    visit.says("uploads", "<b>dropped.tif")
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
    visit.page.wait_for_timeout(600)  # colours fade from one theme to the other
    assert visit.low_contrast(".emc-header *", ".emc-main *") == []
    visit.menu("Light or dark")
    expect(body).to_have_class(re.compile("body--dark"))
    visit.page.wait_for_timeout(600)  # colours fade from one theme to the other
    assert visit.low_contrast(".emc-header *", ".emc-main *") == []


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


def test_a_token_made_on_the_page_lets_its_owner_in(
    visit: Visit, server: PageServer
) -> None:
    visit.menu("Users and tokens")
    users = visit.part("users")
    users.get_by_label("Name").fill("test script")
    users.locator(".q-select").first.click()
    visit.page.locator(".q-menu").get_by_text("admin", exact=True).click()
    users.get_by_role("button", name="Create").click()
    visit.says("secret", "emct_")
    token = visit.part("secret").inner_text()
    visit.escape("users")
    (made,) = [
        one
        for one in server.rest("/users", token=token)
        if one["name"] == "test script"
    ]
    assert made["scope"] == "admin"


def test_a_viewer_may_look_but_neither_reject_nor_upload(
    visit: Visit, server: PageServer, browser: Browser
) -> None:
    made = server.rest("/users", {"name": "guest", "scope": "viewer"})
    guest = Visit.of(browser, server.url)
    guest.log_in(made["token"])
    guest.wait_shown("frame", r"^\d+$")
    guest.wait_connected()
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
    guest.leave()


def test_without_websockets_the_page_still_shows_the_last_frame(
    server: PageServer, visit: Visit, browser: Browser
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
        assert visit.cut(*PARTS) == [], (width, height)
    visit.page.set_viewport_size(LAPTOP)


def test_no_request_left_the_machine_and_nothing_was_complained_about(
    visit: Visit, server: PageServer
) -> None:
    local = (server.url, "data:", "blob:")
    assert [url for url in visit.requests if not url.startswith(local)] == []
    assert visit.complaints == []


def test_an_open_page_survives_a_restart_of_the_server(
    visit: Visit, server: PageServer
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
