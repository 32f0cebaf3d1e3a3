"""Model and domain on the operator's page in a real Chromium, told in the order of a session.

Rows and folders of jobs are written as a running job writes them; promotion, comparison and the
self-test are real, over models made of a threshold. See `learning_server.py`.
"""

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("learning_server.py")
PATIENCE_MS = 60_000  # a busy core: a claim is about what happens, not about how soon
HOSTILE = '<img src=x onerror="window.hacked=1">'
QUIET = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking"
LIVE, OLDER = "haadf-model", "older-model"


class Site:
    """The server as a process, to which is said what has happened."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, SERVER, folder, "--size", "384"],
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
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            data=b"{}",
            headers={
                "authorization": f"Bearer {token}",
                "content-type": "application/json",
            },
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
    """One browser page, and what it complained about."""

    def __init__(self, browser: Browser, address: str) -> None:
        context = browser.new_context(viewport={"width": 1366, "height": 768})
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text) if said.type == "error" else None
            ),
        )
        self.page.goto(address)

    def part(self, name: str) -> Locator:
        return self.page.locator(f'[data-part="{name}"]')

    def says(self, part: str, what: str | re.Pattern[str]) -> None:
        expect(self.part(part)).to_contain_text(what, timeout=PATIENCE_MS)

    def press(self, part: str, button: str) -> None:
        self.part(part).get_by_role("button", name=button, exact=True).click()

    def close(self, part: str) -> None:
        self.page.keyboard.press("Escape")
        expect(self.part(part)).to_be_hidden(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("learning") / "data")
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
    visit.says("live-model", LIVE)
    yield visit
    visit.page.context.close()


def above(visit: Visit, part: str, other: str) -> bool:
    first, second = (visit.part(name).bounding_box() for name in (part, other))
    assert first
    assert second
    return first["y"] < second["y"]


def test_without_news_the_panel_lies_low(visit: Visit) -> None:
    visit.says("live-facts", "promoted by Miriam")
    visit.says("domain", "BF")
    visit.says("light-adapter", "idle")
    for hidden in ("shift", "candidate", "job"):
        expect(visit.part(hidden)).to_be_hidden()
    expect(visit.part("promote")).to_be_disabled()
    assert above(visit, "psd-panel", "learning-panel")


def test_a_shift_shows_a_badge_with_its_reason_and_moves_the_panel_up(
    visit: Visit, site: Site
) -> None:
    site.do("shift", state="shifted", reason="contrast inverted, particles 4x smaller")
    visit.says("shift-reason", "contrast inverted, particles 4x smaller")
    visit.says("shift-advice", "adapt to it")
    visit.says("light-adapter", "image changed")
    assert above(visit, "learning-panel", "psd-panel")


def test_adapting_shows_its_estimate_first_and_is_ordered_by_keyboard(
    visit: Visit, site: Site
) -> None:
    visit.page.keyboard.press("m")
    expect(visit.part("adapt")).to_be_focused(timeout=PATIENCE_MS)
    visit.page.keyboard.press("Enter")
    visit.says("estimate", "About 26 min")
    visit.says("estimate-stages", "Second generation")
    visit.says("estimate-source", "no job of this preset has ended")
    frames = visit.part("ask-adapt").get_by_label("Frames at most")
    frames.fill("3")
    visit.says("adapt-refused", "3 were asked for")
    expect(visit.part("ask-adapt").get_by_role("button", name="Start")).to_be_disabled()
    frames.fill("8")
    visit.says("estimate", "About")
    visit.press("ask-adapt", "Start")
    visit.says("job-line", "Queued: begins in a moment")
    expect(visit.part("adapt")).to_be_disabled(timeout=PATIENCE_MS)
    assert ["Miriam", "adapt", "domain 2"] in site.do("audit")


def test_a_running_job_shows_stage_time_left_curves_and_pictures(
    visit: Visit, site: Site
) -> None:
    site.do("run_job", job_id=1, stage="train", part=0.4)
    visit.says("job-line", re.compile("Training, step 160 of 400.*about 6 min left"))
    visit.says("light-adapter", "learning, 6 min")
    visit.press("job", "Curves")
    window = visit.part("job-window")
    visit.says("job-window-line", "Training")
    for stage in ("First generation", "Second generation", "Training"):
        expect(window.get_by_role("button", name=stage)).to_be_visible()
    chart = window.locator("[aria-label*='held out mean IoU']")
    expect(chart).to_be_visible(timeout=PATIENCE_MS)
    picture = window.get_by_alt_text("First generation")
    picture.scroll_into_view_if_needed()
    visit.page.wait_for_function(
        "document.querySelector('[data-part=samples] img').naturalWidth > 0"
    )
    site.do("run_job", job_id=1, stage="train", part=0.8)
    visit.says("job-window-line", "step 320 of 400")  # while it is open
    visit.close("job-window")


def test_a_job_is_cancelled_and_goes_on(visit: Visit, site: Site) -> None:
    visit.press("job", "Cancel")
    visit.says("job-line", "Stopping")
    site.do("end_job", job_id=1, state="cancelled")
    visit.says("job-line", "Cancelled: it can go on")
    visit.press("job", "Resume")
    visit.says("job-line", "Queued")


def test_why_a_job_failed_is_said_as_it_was_written(visit: Visit, site: Site) -> None:
    site.do("end_job", job_id=1, state="failed", reason=HOSTILE)
    visit.says("job-line", f"Failed: {HOSTILE}")
    assert visit.page.evaluate("window.hacked") is None


def test_a_worse_candidate_says_so_with_figures_and_reasons(
    visit: Visit, site: Site
) -> None:
    visit.press("job", "Resume")
    site.do("candidate", job_id=1, verdict="reject", name="adapted-worse")
    visit.says("candidate-title", "Worse than the live model")
    visit.says("light-adapter", "candidate ready")
    visit.press("candidate", "Report")
    visit.says("report-verdict", "Worse than the live model")
    visit.says("report-reasons", f"Forgets: {HOSTILE}")
    visit.says("report-table", "Worth of the outlines")
    visit.close("report")


def test_promoting_a_worse_candidate_takes_a_reason(visit: Visit, site: Site) -> None:
    visit.part("promote").click()
    visit.says("promote-objection", "its report says reject")
    anyway = visit.part("ask-promote").get_by_role("button", name="Promote anyway")
    expect(anyway).to_be_disabled()
    visit.part("ask-promote").get_by_label("Your reason").fill("only to look at it")
    expect(anyway).to_be_enabled(timeout=PATIENCE_MS)
    visit.close("ask-promote")
    assert site.do("live")[0] == LIVE  # asked, and not done
    visit.part("promote").click()
    visit.part("ask-promote").get_by_label("Your reason").fill("only to look at it")
    anyway.click()
    visit.says("live-model", "adapted-worse")
    assert site.do("live") == ["adapted-worse", "Miriam", "only to look at it"]
    expect(visit.part("candidate")).to_be_hidden(timeout=PATIENCE_MS)
    expect(visit.part("shift")).to_be_hidden()  # that was said of another model


def test_a_roll_back_asks_once(visit: Visit, site: Site) -> None:
    visit.part("roll-back").click()
    visit.says("roll-back-what", f"{LIVE} is live again in place of adapted-worse")
    visit.close("ask-roll-back")
    assert site.do("live")[0] == "adapted-worse"
    visit.part("roll-back").click()
    visit.press("ask-roll-back", "Roll back")
    visit.says("live-model", LIVE)


def test_a_better_candidate_is_compared_under_a_wipe_that_arrows_move(
    visit: Visit, site: Site
) -> None:
    visit.part("adapt").click()
    visit.press("ask-adapt", "Start")
    visit.says("job-line", "Queued")
    site.do("candidate", job_id=2, verdict="promote")
    visit.says("candidate-title", "Better than the live model")
    visit.part("compare").click()
    visit.says("compare-said", "the masks overlap by")
    visit.says("compare-live", LIVE)
    shown = visit.page.locator(".emc-compare")
    expect(shown).to_have_attribute("data-frame", "14", timeout=PATIENCE_MS)
    for _ in range(5):
        visit.page.keyboard.press("ArrowLeft")
    expect(visit.part("wipe")).to_have_value("40")
    visit.part("wipe").focus()
    visit.page.keyboard.press("ArrowRight")
    expect(visit.part("wipe")).to_have_value("42")
    visit.page.keyboard.press("PageDown")
    expect(shown).to_have_attribute("data-frame", "13", timeout=PATIENCE_MS)
    visit.says("compare-place", "2 / 6")
    visit.page.keyboard.press("b")
    expect(shown.get_by_role("button", name="Wipe")).to_be_visible()


def test_the_outlines_are_drawn_over_the_particles(visit: Visit) -> None:
    """Both shown: the candidate's orange is there, and none of it outside the picture."""
    orange = visit.page.evaluate(
        """() => { const canvas = document.querySelector('.emc-compare canvas');
        const { width, height } = canvas;
        const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        let found = 0, outside = 0;
        const margin = (width - height) / 2;
        for (let i = 0; i < data.length; i += 4) {
          if (data[i] > 220 && data[i + 2] < 90 && data[i + 1] > 120) {
            const [x, y] = [(i / 4) % width, Math.floor(i / 4 / width)];
            if (y < 60) continue;  // names
            found += 1;
            if (x < margin - 3 || x > width - margin + 3) outside += 1;
          }
        }
        return [found, outside]; }"""
    )
    assert orange[0] > 200
    assert orange[1] == 0
    visit.close("compare-window")


def test_the_second_of_two_operators_is_told_who_promotes(
    visit: Visit, site: Site
) -> None:
    token = site.do("token", scope="operator")
    visit.part("promote").click()
    visit.says("promote-what", "adapted-1f00ba11 takes the place")
    site.do("slow", seconds=4.0)
    other = threading.Thread(target=site.post, args=(f"/models/{OLDER}/promote", token))
    other.start()
    visit.says("live-facts", f"operator is promoting {OLDER}")
    visit.press("ask-promote", "Promote")
    notice = visit.page.get_by_text("just now; look at the outcome, then try again")
    expect(notice).to_be_visible(timeout=PATIENCE_MS)
    other.join(60)
    site.do("slow", seconds=0.0)
    visit.says("live-model", OLDER)


def test_a_promoted_domain_can_select_its_model(visit: Visit, site: Site) -> None:
    visit.part("promote").click()
    visit.press("ask-promote", "Promote")
    visit.says("live-model", "adapted-1f00ba11")
    visit.says("selects", "Its frames turn the server to adapted-1f00ba11")
    visit.part("selects").click()
    expect(visit.part("selects")).to_have_attribute("aria-checked", "true")
    visit.page.wait_for_timeout(1500)  # the page read it back meanwhile
    expect(visit.part("selects")).to_have_attribute("aria-checked", "true")
    assert ["Miriam", "remember model", "domain 2"] in site.do("audit")


def test_back_in_a_known_domain_its_model_is_offered(visit: Visit, site: Site) -> None:
    site.do("shift", state="returned", model_id=LIVE)
    visit.says("shift-reason", "Back in domain BF")
    visit.says("shift-advice", f"Its own model {LIVE} is not live")
    visit.part("promote").click()
    visit.says("promote-what", f"{LIVE} takes the place of adapted-1f00ba11")
    visit.press("ask-promote", "Promote")
    visit.says("live-model", LIVE)


def test_a_domain_is_renamed_and_its_name_never_taken_for_html(
    visit: Visit, site: Site
) -> None:
    visit.press("learning-panel", "Rename")
    visit.part("rename").get_by_label("Name").fill(HOSTILE)
    visit.page.keyboard.press("Enter")
    expect(visit.part("domain")).to_have_text(HOSTILE, timeout=PATIENCE_MS)
    visit.press("learning-panel", "Events")
    visit.says("happenings", f"A domain is called {HOSTILE}")
    visit.says("happenings", "by Miriam: only to look at it")
    visit.close("happenings")
    assert visit.page.evaluate("window.hacked") is None


def test_a_viewer_sees_all_and_changes_nothing(
    visit: Visit, site: Site, browser: Browser
) -> None:
    guest = Visit(browser, site.url)
    guest.page.get_by_label("Access token").fill(site.do("token", scope="viewer"))
    guest.page.get_by_role("button", name="Log in").click()
    guest.says("live-model", LIVE)
    for part in ("adapt", "promote", "roll-back"):
        expect(guest.part(part)).to_be_disabled(timeout=PATIENCE_MS)
        expect(guest.part(part)).to_have_attribute("title", re.compile("operator"))
    panel = guest.part("learning-panel")
    expect(panel.get_by_role("button", name="Rename")).to_be_hidden()
    guest.part("compare").click()  # what is computed already is there for all to see
    guest.says("compare-place", "1 / 6")
    guest.page.context.close()


@pytest.mark.parametrize("size", [(1366, 768), (1920, 1080), (1024, 768), (768, 1024)])
def test_nothing_of_the_panel_is_cut(visit: Visit, site: Site, size) -> None:
    site.do("shift", state="shifted", reason="contrast inverted, particles 4x smaller")
    width, height = size
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.page.wait_for_timeout(600)
    cut = visit.page.evaluate(
        """() => [...document.querySelectorAll(
          ".emc-header, .emc-learning, .emc-actions, .emc-action, .emc-shift, .emc-job")]
          .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.className)"""
    )
    assert cut == []
    visit.page.set_viewport_size({"width": 1366, "height": 768})


LOW_CONTRAST = """() => {
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
  for (const e of document.querySelectorAll(".emc-learning *, .emc-dialog *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.offsetParent || e.closest("[disabled]")) continue;
    const [a, b] = [light(solid(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${e.textContent.trim()} ${ratio.toFixed(2)}`);
  }
  return found; }"""


def test_every_text_stands_out_from_its_ground_in_both_themes(visit: Visit) -> None:
    for theme in ("dark", "light"):
        visit.part("adapt").click()
        visit.says("estimate", "About")
        visit.page.wait_for_timeout(600)  # colours and windows fade in
        assert visit.page.evaluate(LOW_CONTRAST) == [], theme
        visit.close("ask-adapt")
        visit.part("menu").click()
        visit.page.locator(".emc-entry", has_text="Light or dark").click()


def test_nothing_was_complained_about(visit: Visit) -> None:
    assert visit.complaints == []
