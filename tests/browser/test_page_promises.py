"""The window of models in a real Chromium: list, promote, export, import, delete.

The registry, the routes and the self-test are real, over models made of a threshold; see
`learning_server.py`.
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
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("learning_server.py")
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
        """Drop a file on the window as a person does from a folder."""
        self.page.evaluate(
            """([name, data]) => {
              const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
              const carried = new DataTransfer();
              carried.items.add(new File([bytes], name));
              const target = document.querySelector('[data-part=models]') ?? document.body;
              for (const kind of ["dragenter", "dragover", "drop"]) {
                target.dispatchEvent(new DragEvent(
                  kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
              } }""",
            [name, base64.b64encode(data).decode()],
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


def test_nothing_was_complained_about(visit: Visit) -> None:
    assert visit.complaints == []
