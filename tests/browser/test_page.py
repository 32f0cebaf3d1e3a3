"""The operator's page in a real Chromium, before a real server, agent and microscope."""

import json
import math
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, WebSocketRoute, expect
from visit import HOSTILE, PATIENCE_MS, Visit

from emcopilot.virtual_microscope import acquire
from gpu_server.demo_programs import DemoPrograms
from gpu_server.tokens import Tokens

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

SIZE_PX = 512


@pytest.fixture(scope="module")
def visit(installation: DemoPrograms, browser: Browser) -> Iterator[Visit]:
    """A page that was opened after the last frame: it has to show it all the same."""
    write_frames(installation, 2, seed=21)
    visit = Visit.of(browser, installation.login_url())
    visit.wait_shown("frame", r"^\d+$")
    yield visit
    visit.leave()


def write_frames(installation: DemoPrograms, frames: int, seed: int) -> None:
    done = sum(installation.done())
    acquire(
        installation.watched,
        frames=frames,
        fps=4.0,
        size=SIZE_PX,
        seed=seed,
        truth_path=installation.truth,
    )
    installation.wait_until_done(done + frames)


def rest(installation: DemoPrograms, path: str) -> dict | list:
    token = Tokens(installation.database).create("page test", "viewer", who="test")
    request = urllib.request.Request(
        f"{installation.url}/api/v1{path}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def coloured(page: Page) -> int:
    """Count coloured pixels on the canvas: the micrograph itself is grey."""
    return page.evaluate(
        """() => { const c = document.querySelector(".frame-canvas canvas");
        const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
        let n = 0;
        for (let i = 0; i < data.length; i += 4) {
          const rgb = [data[i], data[i + 1], data[i + 2]];
          if (Math.max(...rgb) - Math.min(...rgb) > 20) n += 1;
        }
        return n; }"""
    )


def test_the_login_link_opens_the_page_with_the_last_frame(visit: Visit) -> None:
    assert visit.page.url.endswith("/")
    assert visit.shown("state") == "connected"
    visit.says("caption", f"{SIZE_PX} × {SIZE_PX} px")
    visit.says("caption", "0.2 nm/px from metadata")
    expect(visit.picker).to_have_value(re.compile("^acquisitions"))


def test_frames_advance_while_the_microscope_writes(
    visit: Visit, installation: DemoPrograms
) -> None:
    seq = int(visit.shown("seq"))
    write_frames(installation, 2, seed=22)
    (session, *_) = rest(installation, "/sessions")
    newest = rest(installation, f"/sessions/{session['id']}/frames")["frames"]
    visit.wait_shown("frame", rf"^({newest[0]['id']}|{newest[1]['id']})$")
    assert int(visit.shown("seq")) > seq


def test_hovering_tells_number_and_diameter(
    visit: Visit, installation: DemoPrograms
) -> None:
    rows = rest(installation, f"/frames/{visit.shown('frame')}/particles")["particles"]
    largest = max(
        (row for row in rows if not row["touches_border"]),
        key=lambda row: row["area_px"],
    )
    x, y = visit.place(largest["centroid_x_px"] + 0.5, largest["centroid_y_px"] + 0.5)
    visit.page.mouse.move(x, y)
    visit.wait_shown("hover", r"^#\d+")
    name, size = visit.shown("hover").split("  ")
    assert name == f"#{largest['particle']}"
    number, unit = size.split(" ")
    # Four digits are shown, of a 32-bit float.
    assert float(number) == pytest.approx(largest["equivalent_diameter_nm"], rel=6e-4)
    assert unit == "nm"
    visit.page.mouse.move(2, 2)
    visit.wait_shown("hover", r"^$")


def test_the_wheel_zooms_where_the_pointer_is_and_dragging_moves(visit: Visit) -> None:
    visit.press("f")
    fitted = visit.view()
    pointer = visit.place(200.0, 150.0)
    visit.page.mouse.move(*pointer)
    visit.page.mouse.wheel(0, -600)
    visit.page.wait_for_function(
        "before => document.querySelector('.frame-canvas').dataset.view !== before",
        arg=" ".join(map(str, fitted)),
    )
    assert visit.view()[0] == pytest.approx(fitted[0] * math.exp(0.9), rel=1e-3)
    assert visit.place(200.0, 150.0) == pytest.approx(
        pointer, abs=1.0
    )  # a screen pixel
    visit.page.mouse.down()
    visit.page.mouse.move(pointer[0] + 40, pointer[1] - 25, steps=4)
    visit.page.mouse.up()
    assert visit.place(200.0, 150.0) == pytest.approx(
        (pointer[0] + 40, pointer[1] - 25), abs=1.0
    )
    visit.press("f")
    visit.wait_shown("view", "^" + re.escape(str(fitted[0])[:5]))
    assert visit.view() == pytest.approx(fitted, abs=0.01)


def test_z_and_x_switch_outlines_and_masks(visit: Visit) -> None:
    outlined = coloured(visit.page)
    assert outlined > 200  # a few hundred at least: 20 outlines of tens of pixels
    visit.press("z")
    visit.page.get_by_role("switch", name="Outlines", checked=False).wait_for()
    visit.page.wait_for_timeout(300)  # the switch has moved; the canvas follows
    assert coloured(visit.page) < 0.05 * outlined
    visit.press("x")
    visit.page.get_by_role("switch", name="Masks", checked=True).wait_for()
    visit.page.wait_for_timeout(300)
    assert coloured(visit.page) > outlined
    visit.press("x")
    visit.press("z")
    visit.page.get_by_role("switch", name="Outlines", checked=True).wait_for()


def test_the_scale_bar_is_a_round_length(visit: Visit) -> None:
    visit.page.mouse.move(2, 2)
    bar_px = visit.page.evaluate(
        """() => { const c = document.querySelector(".frame-canvas canvas");
        const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
        let longest = 0; let run = 0;
        for (let i = 0; i < data.length; i += 4) {
          const ink = data[i] === 0xe6 && data[i + 1] === 0xeb && data[i + 2] === 0xf0;
          run = ink ? run + 1 : 0;
          longest = Math.max(longest, run);
        }
        return longest; }"""
    )
    length_nm = bar_px * 0.2 / visit.view()[0]
    assert any(
        # Ends are drawn to a pixel.
        length_nm == pytest.approx(round_nm, abs=2 * 0.2 / visit.view()[0])
        for round_nm in (1, 2, 5, 10, 20, 50)
    ), length_nm


def test_figures_are_those_of_rest(visit: Visit, installation: DemoPrograms) -> None:
    (session, *_) = rest(installation, "/sessions")
    whole = rest(installation, f"/sessions/{session['id']}/psd")
    expect_figures(visit, whole)
    visit.page.get_by_role("button", name="Frame", exact=True).click()
    expect_figures(visit, rest(installation, f"/frames/{visit.shown('frame')}/psd"))
    visit.page.get_by_role("button", name="Session", exact=True).click()
    expect_figures(visit, whole)
    visit.says("convergence", re.compile("Mean known|Enough"))


def expect_figures(visit: Visit, psd: dict) -> None:
    expect(visit.part("kpi-particles")).to_have_text(
        f"{psd['counted']:,}", timeout=PATIENCE_MS
    )
    number, unit = visit.part("kpi-mean").inner_text().split(" ")
    assert float(number) == pytest.approx(psd["mean_number"], rel=6e-4)  # 4 digits
    assert unit == psd["unit"]
    assert float(visit.part("psd-D50").inner_text()) == pytest.approx(
        psd["d50"], rel=6e-3
    )  # 3 digits


def test_the_distribution_is_drawn(visit: Visit) -> None:
    drawn = visit.page.evaluate(
        """() => { const c = document.querySelector(".emc-chart canvas");
        const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
        let blue = 0;
        for (let i = 0; i < data.length; i += 4) blue += data[i + 2] > data[i] + 50;
        return blue; }"""
    )
    assert drawn > 1000  # bars fill a good part of a chart of 300 x 150


def test_lights_are_green_and_say_why(visit: Visit) -> None:
    for part, figure in {
        "light-agent": "connected",
        "light-queue": "0 waiting",
        "light-inference": re.compile("CPU|CUDA"),
    }.items():
        expect(visit.part(part)).to_contain_text(figure, timeout=PATIENCE_MS)
        expect(visit.part(part).get_by_role("img")).to_have_attribute(
            "aria-label", "green", timeout=PATIENCE_MS
        )
        assert visit.part(part).get_attribute("title")
    visit.says("agents", "virtual microscope")


def test_a_page_opened_later_shows_the_frame_and_reconnects(
    visit: Visit, installation: DemoPrograms
) -> None:
    connections: list[WebSocketRoute] = []

    def relay(route: WebSocketRoute) -> None:
        route.connect_to_server()
        connections.append(route)

    other = Visit(visit.page.context.new_page())
    other.page.route_web_socket(re.compile("/api/v1/live$"), relay)
    other.page.goto(installation.url)
    other.wait_shown("frame", f"^{visit.shown('frame')}$")
    connections[0].close()
    other.page.wait_for_function(
        "() => document.querySelector('.frame-canvas').dataset.state === 'disconnected'"
    )
    other.wait_shown("state", "^connected$")
    assert len(connections) > 1
    other.page.close()


def test_without_a_valid_token_nobody_gets_past_the_login(
    browser: Browser, installation: DemoPrograms
) -> None:
    stranger = Visit.of(browser, installation.url)
    page = stranger.page
    expect(page).to_have_url(f"{installation.url}/login")
    stranger.log_in("emct_wrong")
    expect(page.get_by_role("alert")).to_contain_text("unknown")
    page.goto(installation.url)
    expect(page).to_have_url(f"{installation.url}/login")
    token = Tokens(installation.database).create("browser", "viewer", who="test")
    stranger.log_in(token)
    expect(page).to_have_url(f"{installation.url}/", timeout=PATIENCE_MS)
    stranger.leave()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such file names")
def test_names_from_outside_are_text_and_never_markup(
    visit: Visit, installation: DemoPrograms
) -> None:
    done = sum(installation.done())
    (installation.watched / f"{HOSTILE}.tif").write_text("not an image at all\n" * 20)
    installation.wait_until_done(done + 1)
    # After the bad file, so that its session is the one that was active last.
    folder = installation.watched / HOSTILE
    folder.mkdir()
    frame = next(installation.watched.glob("frame_*.tif"))
    shutil.copy(frame, folder / f"{HOSTILE}.tif")
    installation.wait_until_done(done + 2)
    visit.says("problems", HOSTILE)
    expect(visit.picker).to_have_value(
        re.compile("^" + re.escape(HOSTILE)), timeout=PATIENCE_MS
    )
    visit.says("caption", HOSTILE)
    assert visit.page.locator("img[src=x]").count() == 0
    assert visit.page.evaluate("window.hacked") is None


def test_nothing_overlaps_or_is_cut_at_either_screen(
    visit: Visit, tmp_path: Path
) -> None:
    for width, height in ((1366, 768), (1920, 1080)):
        visit.page.set_viewport_size({"width": width, "height": height})
        visit.page.wait_for_timeout(500)  # the chart takes its new size
        parts = ("html", ".emc-header", ".emc-tools", ".emc-cells", ".emc-quantiles")
        assert visit.cut(*parts, ".emc-known") == []
        picture = tmp_path / f"page_{width}x{height}.png"
        visit.page.screenshot(path=picture)
        assert picture.stat().st_size > 50_000  # an empty page is a tenth of that


def test_no_request_left_the_machine_and_nothing_was_complained_about(
    visit: Visit, installation: DemoPrograms
) -> None:
    local = (installation.url, "data:", "blob:")
    assert [url for url in visit.requests if not url.startswith(local)] == []
    assert visit.complaints == []
