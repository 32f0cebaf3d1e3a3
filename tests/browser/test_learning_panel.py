"""Model and domain on the operator's page in a real Chromium, told in the order of a session.

Rows and folders of jobs are written as a running job writes them; promotion, comparison and the
self-test are real, over models made of a threshold. See `learning_server.py`.
"""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from visit import HOSTILE, LAPTOP, PATIENCE_MS, PageServer, Visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).with_name("learning_server.py")
LIVE, OLDER = "haadf-model", "older-model"


class Site(PageServer):
    """The server, to which is said what has happened."""

    def do(self, what: str, /, **arguments: object) -> Any:
        self.say([what, arguments])
        answer = self.hear()
        assert not str(answer).startswith("error"), answer
        return answer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("learning") / "data"
    with Site(PROGRAM, folder, "--size", 384) as site:
        yield site


@pytest.fixture(scope="module")
def visit(site: Site, browser: Browser) -> Iterator[Visit]:
    visit = Visit.of(browser, site.login)
    visit.says("live-model", LIVE)
    yield visit
    visit.leave()


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
    visit.click("ask-adapt", "Start")
    visit.says("job-line", "Queued: begins in a moment")
    expect(visit.part("adapt")).to_be_disabled(timeout=PATIENCE_MS)
    assert ["Miriam", "adapt", "domain 2"] in site.do("audit")


def test_a_running_job_shows_stage_time_left_curves_and_pictures(
    visit: Visit, site: Site
) -> None:
    site.do("run_job", job_id=1, stage="train", part=0.4)
    visit.says("job-line", re.compile("Training, step 160 of 400.*about 6 min left"))
    visit.says("light-adapter", "learning, 6 min")
    visit.click("job", "Curves")
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
    visit.escape("job-window")


def test_a_job_is_cancelled_and_goes_on(visit: Visit, site: Site) -> None:
    visit.click("job", "Cancel")
    visit.says("job-line", "Stopping")
    site.do("end_job", job_id=1, state="cancelled")
    visit.says("job-line", "Cancelled: it can go on")
    visit.click("job", "Resume")
    visit.says("job-line", "Queued")


def test_why_a_job_failed_is_said_as_it_was_written(visit: Visit, site: Site) -> None:
    site.do("end_job", job_id=1, state="failed", reason=HOSTILE)
    visit.says("job-line", f"Failed: {HOSTILE}")
    assert visit.page.evaluate("window.hacked") is None


def test_a_worse_candidate_says_so_with_figures_and_reasons(
    visit: Visit, site: Site
) -> None:
    visit.click("job", "Resume")
    site.do("candidate", job_id=1, verdict="reject", name="adapted-worse")
    visit.says("candidate-title", "Worse than the live model")
    visit.says("light-adapter", "candidate ready")
    visit.click("candidate", "Report")
    visit.says("report-verdict", "Worse than the live model")
    visit.says("report-reasons", f"Forgets: {HOSTILE}")
    visit.says("report-table", "Worth of the outlines")
    visit.escape("report")


def test_promoting_a_worse_candidate_takes_a_reason(visit: Visit, site: Site) -> None:
    visit.part("promote").click()
    visit.says("promote-objection", "its report says reject")
    anyway = visit.part("ask-promote").get_by_role("button", name="Promote anyway")
    expect(anyway).to_be_disabled()
    visit.part("ask-promote").get_by_label("Your reason").fill("only to look at it")
    expect(anyway).to_be_enabled(timeout=PATIENCE_MS)
    visit.escape("ask-promote")
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
    visit.escape("ask-roll-back")
    assert site.do("live")[0] == "adapted-worse"
    visit.part("roll-back").click()
    visit.click("ask-roll-back", "Roll back")
    visit.says("live-model", LIVE)


def test_a_better_candidate_is_compared_under_a_wipe_that_arrows_move(
    visit: Visit, site: Site
) -> None:
    visit.part("adapt").click()
    visit.click("ask-adapt", "Start")
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
    visit.escape("compare-window")


def test_the_second_of_two_operators_is_told_who_promotes(
    visit: Visit, site: Site
) -> None:
    token = site.new_token("operator")
    visit.part("promote").click()
    visit.says("promote-what", "adapted-1f00ba11 takes the place")
    site.do("hold")
    promote = (f"/models/{OLDER}/promote", {}, token)
    other = threading.Thread(target=site.rest, args=promote)
    other.start()
    visit.says("live-facts", f"operator is promoting {OLDER}")
    visit.click("ask-promote", "Promote")
    notice = visit.page.get_by_text("just now; look at the outcome, then try again")
    expect(notice).to_be_visible(timeout=PATIENCE_MS)
    site.do("let_go")
    other.join(60)
    visit.says("live-model", OLDER)


def test_a_candidate_judged_against_another_model_than_the_live_one_takes_a_reason(
    visit: Visit, site: Site
) -> None:
    visit.says("candidate-title", f"Better than {LIVE}, not live now")
    visit.click("candidate", "Report")
    visit.says("report-table", LIVE)  # whose figures stand beside the candidate's
    visit.escape("report")
    visit.part("promote").click()
    visit.says("promote-objection", f"judged against {LIVE}, but {OLDER} is live now")
    reason = visit.part("ask-promote").get_by_label("Your reason")
    expect(
        visit.part("ask-promote").get_by_role("button", name="Promote anyway")
    ).to_be_disabled()
    reason.fill("compared on the last frames")
    visit.click("ask-promote", "Promote anyway")


def test_a_promoted_domain_can_select_its_model(visit: Visit, site: Site) -> None:
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
    visit.click("ask-promote", "Promote")
    visit.says("live-model", LIVE)


def test_a_domain_is_renamed_and_its_name_never_taken_for_html(
    visit: Visit, site: Site
) -> None:
    visit.says("domain-origin", "0.125 to 0.25 nm/px")
    visit.click("learning-panel", "Rename")
    visit.says("rename-origin", "Titan")
    visit.part("rename").get_by_label("Name").fill(HOSTILE)
    visit.page.keyboard.press("Enter")
    expect(visit.part("domain")).to_have_text(HOSTILE, timeout=PATIENCE_MS)
    visit.click("learning-panel", "Events")
    visit.says("happenings", f"A domain is called {HOSTILE}")
    visit.says("happenings", "by Miriam: only to look at it")
    visit.escape("happenings")
    assert visit.page.evaluate("window.hacked") is None


def test_a_job_that_failed_is_discarded_after_one_question(
    visit: Visit, site: Site
) -> None:
    visit.part("adapt").click()
    visit.click("ask-adapt", "Start")
    visit.says("job-line", "Queued")
    site.do("run_job", job_id=3, stage="train")
    site.do("end_job", job_id=3, state="failed", reason="no memory")
    visit.says("job-line", "Failed: no memory")
    visit.click("job", "Discard")
    visit.says("discard-what", re.compile(r"job 3: .* goes for good, [0-9.]+ MB"))
    visit.click("ask-discard", "Cancel")
    visit.says("job-line", "Failed: no memory")
    visit.click("job", "Discard")
    visit.click("ask-discard", "Discard")
    expect(visit.part("job")).to_be_hidden(timeout=PATIENCE_MS)
    assert ["Miriam", "discard job", "job 3"] in site.do("audit")
    visit.click("learning-panel", "Events")
    visit.says("happenings", "Job 3: discarded")
    visit.escape("happenings")


def test_a_viewer_sees_all_and_changes_nothing(
    visit: Visit, site: Site, browser: Browser
) -> None:
    guest = Visit.of(browser, site.url)
    guest.log_in(site.new_token("viewer"))
    guest.says("live-model", LIVE)
    for part in ("adapt", "promote", "roll-back"):
        expect(guest.part(part)).to_be_disabled(timeout=PATIENCE_MS)
        expect(guest.part(part)).to_have_attribute("title", re.compile("operator"))
    panel = guest.part("learning-panel")
    expect(panel.get_by_role("button", name="Rename")).to_be_hidden()
    guest.part("compare").click()  # what is computed already is there for all to see
    guest.says("compare-place", "1 / 6")
    guest.leave()


@pytest.mark.parametrize("size", [(1366, 768), (1920, 1080), (1024, 768), (768, 1024)])
def test_nothing_of_the_panel_is_cut(visit: Visit, site: Site, size) -> None:
    site.do("shift", state="shifted", reason="contrast inverted, particles 4x smaller")
    width, height = size
    visit.page.set_viewport_size({"width": width, "height": height})
    visit.page.wait_for_timeout(600)
    parts = (
        ".emc-header",
        ".emc-learning",
        ".emc-actions",
        ".emc-action",
        ".emc-shift",
    )
    assert visit.cut(*parts, ".emc-job") == []
    visit.page.set_viewport_size(LAPTOP)


def test_every_text_stands_out_from_its_ground_in_both_themes(visit: Visit) -> None:
    for theme in ("dark", "light"):
        visit.part("adapt").click()
        visit.says("estimate", "About")
        visit.page.wait_for_timeout(600)  # colours and windows fade in
        assert visit.low_contrast(".emc-learning *", ".emc-dialog *") == [], theme
        visit.escape("ask-adapt")
        visit.menu("Light or dark")


def test_nothing_was_complained_about(visit: Visit) -> None:
    assert visit.complaints == []
