"""The frame viewer on a static page in a real Chromium: no server, one packet of drawn discs."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route

from emcopilot.decode import Frame
from emcopilot.live_packet import LivePacket
from gpu_server import page as page_package
from gpu_server.measure import measure
from gpu_server.publish import LiveFrame, pack
from gpu_server.segment import Segmentation

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

SITE = "http://viewer.test"  # never looked up: every request is answered here
MODULES = Path(page_package.__file__).parent / "frame_viewer"
SIDE_PX = 512
CENTRES = ((128, 128), (128, 384), (300, 256))
RADIUS_PX = 40
HINT = "counted like the others"  # so not, where the border cuts them
HTML = """<!doctype html><style>body { margin: 0; font-family: sans-serif }
canvas { width: 512px; height: 512px }</style><canvas></canvas>
<script type="module">
import { FrameViewer } from "/index.js";
import { levels } from "/levels.js";
import { readPacket } from "/packet.js";
import { colourOf } from "/particles.js";
window.viewer = new FrameViewer(document.querySelector("canvas"), {
  onHover: (text) => { window.hover = text; },
  onPick: (packet, index) => { window.picked = packet.ids[index]; },
});
Object.assign(window, { levels, colourOf });
const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
  window.words = [...(window.words ?? []), text];
  write.call(this, text, ...place);
};
window.show = async (name) =>
  window.viewer.show(readPacket(await (await fetch(name)).arrayBuffer()));
</script>"""


def packet(confidence: Sequence[float]) -> bytes:
    """Return a live packet of equal discs with the chances given, in label order.

    On a blank picture, so that everything seen is drawn over it.
    """
    y, x = np.ogrid[:SIDE_PX, :SIDE_PX]
    discs = [np.hypot(y - cy, x - cx) <= RADIUS_PX for cy, cx in CENTRES]
    probability = np.where(np.logical_or.reduce(discs), 255, 0).astype(np.uint8)
    pixels = np.full((SIDE_PX, SIDE_PX), 60, np.uint16)
    found = measure(Frame(pixels, None, None), Segmentation(probability, "m", 0, "cpu"))
    frame = LiveFrame(
        frame_id=1, session_id=1, session="s", name="n", page=0, pixels=pixels,
        pixel_size_nm=None, pixel_size_source=None, model_id="m", unit="px",
        counted=found.psd.n, mean_diameter=found.psd.mean_number,
        median_diameter=found.psd.d50, infer_s=0.0, latency_s=None, time_s=None,
        ids=found.particles.label, diameter=found.diameters,
        touches_border=found.particles.touches_border,
        confidence=np.array(confidence), outlines=found.outlines,
    )  # fmt: skip
    return pack(frame, seq=1)


@dataclass
class Viewer:
    """The page, and what it shows."""

    page: Page
    packets: dict[str, bytes]

    def show(self, name: str, confidence: Sequence[float]) -> None:
        self.packets[name] = packet(confidence)
        self.page.evaluate(
            "name => { window.words = []; return window.show(name); }", name
        )

    def words(self) -> list[str]:
        """Return what was written on the canvas since it was last told what to show."""
        return self.page.evaluate("window.words")

    def picture(self) -> np.ndarray:
        """Return the canvas as int array, shape (SIDE_PX, SIDE_PX, 3)."""
        shot = self.page.locator("canvas").screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def around(self, disc: int) -> np.ndarray:
        """Return the pixels near a disc's edge, shape (N, 3)."""
        y, x = np.ogrid[:SIDE_PX, :SIDE_PX]
        centre_y, centre_x = CENTRES[disc]
        off = np.abs(np.hypot(y - centre_y, x - centre_x) - RADIUS_PX)
        return self.picture()[off < 4]


def coloured(pixels: np.ndarray) -> int:
    return int(np.count_nonzero(np.ptp(pixels, axis=-1) > 20))


def lighter(pixels: np.ndarray, field: int) -> int:
    return int(np.count_nonzero(pixels.min(axis=-1) > field + 25))


def darker(pixels: np.ndarray, field: int) -> int:
    return int(np.count_nonzero(pixels.max(axis=-1) < field - 25))


@pytest.fixture(scope="module")
def viewer(browser: Browser) -> Iterator[Viewer]:
    packets: dict[str, bytes] = {}

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(f"{SITE}/")
        if name in packets:
            route.fulfill(body=packets[name])
        elif name.endswith(".js"):
            route.fulfill(path=MODULES / name, content_type="text/javascript")
        else:
            route.fulfill(body=HTML, content_type="text/html")

    page = browser.new_page(viewport={"width": SIDE_PX, "height": SIDE_PX})
    page.route(f"{SITE}/**", answer)
    page.goto(SITE)
    page.wait_for_function("() => window.show")
    yield Viewer(page, packets)
    page.close()


def test_a_doubtful_particle_is_grey_and_dotted_where_a_sure_one_has_a_colour(
    viewer: Viewer,
) -> None:
    viewer.show("some", [0.93, 0.31, 0.5])
    sure, doubtful, even = (viewer.around(disc) for disc in range(3))
    field = int(viewer.picture()[10, 10, 0])
    assert coloured(sure) > 250  # a circle of 251 px, drawn 1.5 px wide
    assert coloured(even) > 250  # an even chance is not below one
    assert coloured(doubtful) == 0
    # Grey dots on a dark line, so that they are seen on bright and dark alike.
    assert 30 < lighter(doubtful, field) < 250
    assert darker(doubtful, field) > 250
    assert darker(sure, field) == 0


def test_the_legend_explains_doubt_only_where_there_is_some(viewer: Viewer) -> None:
    viewer.show("some", [0.93, 0.31, 0.5])
    with_doubt = viewer.picture()[410:455, 120:]  # above the scale of diameters
    assert any(HINT in text for text in viewer.words())
    viewer.show("sure", [0.93, 0.9, 0.5])
    without = viewer.picture()[410:455, 120:]
    assert not any(HINT in text for text in viewer.words())
    assert np.ptp(without) == 0  # the empty field
    assert lighter(with_doubt.reshape(-1, 3), int(without.max())) > 200  # its words


def test_hovering_tells_the_chance_of_a_doubtful_particle(viewer: Viewer) -> None:
    viewer.show("some", [0.93, 0.31, 0.5])
    said = []
    for centre_y, centre_x in CENTRES:
        viewer.page.mouse.move(centre_x, centre_y)
        said.append(viewer.page.evaluate("window.hover"))
    diameter_px = float(said[0].removeprefix("#1  ").removesuffix(" px"))
    assert diameter_px == pytest.approx(2 * RADIUS_PX, rel=0.01)  # a drawn disc
    assert said[1].endswith(" px  doubtful, 31 % likely a particle")
    assert "doubtful" not in said[0] + said[2]
    viewer.page.mouse.move(SIDE_PX - 2, 2)


def test_doubt_alone_gives_no_range_of_diameters(viewer: Viewer) -> None:
    header = LivePacket.unpack(packet([0.1, 0.2, 0.3])).header
    assert (header.doubtful, header.counted) == (3, 3)
    viewer.show("none", [0.1, 0.2, 0.3])
    assert coloured(viewer.around(0)) == coloured(viewer.around(2)) == 0


def test_a_click_picks_a_particle_and_a_drag_does_not(viewer: Viewer) -> None:
    viewer.show("sure", [0.9, 0.9, 0.9])
    mouse, (centre_y, centre_x) = viewer.page.mouse, CENTRES[1]
    viewer.page.evaluate("window.picked = null")
    mouse.move(centre_x, centre_y)
    mouse.down()
    mouse.move(centre_x + 30, centre_y, steps=3)
    mouse.up()
    assert viewer.page.evaluate("window.picked") is None
    viewer.page.evaluate("window.viewer.fit()")
    mouse.click(centre_x + 2, centre_y)
    assert viewer.page.evaluate("window.picked") == 2
    viewer.page.evaluate("window.picked = null")
    mouse.click(4, 4)  # nothing lies there
    assert viewer.page.evaluate("window.picked") is None


def test_a_rejected_particle_is_dotted_says_so_and_is_counted(viewer: Viewer) -> None:
    viewer.show("sure", [0.9, 0.9, 0.9])
    kept = coloured(viewer.around(0))
    viewer.page.evaluate(
        """() => { const { packet } = window.viewer.frame;
        packet.flags[0] |= 2; window.viewer.restyle(packet); }"""
    )
    assert viewer.page.evaluate("window.viewer.rejected") == 1
    assert 10 < coloured(viewer.around(0)) < 0.7 * kept  # dots of a third of the line
    viewer.page.mouse.move(CENTRES[0][1], CENTRES[0][0])
    assert "rejected" in viewer.page.evaluate("window.hover")
    viewer.page.mouse.move(SIDE_PX - 2, 2)


def test_the_keyboard_goes_round_all_particles_and_a_speck_is_zoomed_to(
    viewer: Viewer,
) -> None:
    viewer.show("sure", [0.9, 0.9, 0.9])
    said = [viewer.page.evaluate("window.viewer.choose(1)") for _ in range(4)]
    assert [text.rpartition(", ")[2] for text in said] == [
        "1 of 3", "2 of 3", "3 of 3", "1 of 3",
    ]  # fmt: skip
    assert viewer.page.evaluate("window.viewer.choose(-1)").endswith("3 of 3")
    viewer.page.evaluate(
        "window.viewer.view = { scale: 0.05, x: 240, y: 240 }; window.viewer.choose(1)"
    )
    assert viewer.page.evaluate("window.viewer.view.scale") > 0.5
    viewer.page.evaluate("window.viewer.unchoose(); window.viewer.fit()")


def test_auto_levels_spread_what_is_in_sight_over_the_whole_range(
    viewer: Viewer,
) -> None:
    black, white = viewer.page.evaluate(
        """() => { const { brightness, contrast } = window.levels(0.2, 0.7);
        const shown = (v) => (v * brightness - 0.5) * contrast + 0.5;
        return [shown(0.2), shown(0.7)]; }"""
    )
    assert (black, white) == (pytest.approx(0, abs=1e-9), pytest.approx(1, abs=1e-9))
    viewer.show("sure", [0.9, 0.9, 0.9])
    found = viewer.page.evaluate("window.viewer.autoLevels()")
    assert found["brightness"] > 0
    assert found["contrast"] > 1


def test_the_scale_of_diameters_grows_lighter_all_the_way(viewer: Viewer) -> None:
    colours = viewer.page.evaluate(
        "[0, 0.25, 0.5, 0.75, 1].map((share) => window.colourOf(share))"
    )
    luminance = [
        float(np.dot([0.2126, 0.7152, 0.0722], [int(v) for v in c[4:-1].split()]))
        for c in colours
    ]
    assert luminance == sorted(luminance)
    assert luminance[0] > 100  # seen on a dark micrograph
