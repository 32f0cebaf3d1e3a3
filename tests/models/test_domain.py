"""A job's frames and rough masks, made once and found again."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcopilot.simulate import demo_scene, render_micrograph
from models.adapt_settings import AdaptSettings, chosen_job
from models.domain import MASKS_FILE, NOTE_FILE, Domain, open_domain

pytestmark = pytest.mark.timeout(400)  # on a machine that is busy otherwise


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("frames")
    files = [folder / f"frame{number}.tif" for number in range(6)]
    for number, file in enumerate(files):
        scene = demo_scene("bf", size=96)
        frame = render_micrograph(scene, np.random.default_rng((4, number)))
        tifffile.imwrite(file, frame.pixels)
    return files


@pytest.fixture(scope="module")
def made(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("round")
    opened(frames, directory)
    return directory


def opened(frames: list[Path], directory: Path) -> Domain:
    given = {"frames": frames[0].parent, "out": directory, "rough": "classical"}
    job: AdaptSettings = chosen_job(None, {**given, "preset": "quick", "device": "cpu"})
    return open_domain(job, frames, "base", directory)


@pytest.mark.parametrize(
    "damage",
    [
        (NOTE_FILE, b'{"how": "classical", '),
        (NOTE_FILE, b'{"how": "by hand", "why": "", "left_out": {}}'),
        (NOTE_FILE, None),
        (MASKS_FILE, b"torn"),
    ],
)
def test_masks_and_their_note_are_made_anew_together(
    frames: list[Path],
    made: Path,
    tmp_path: Path,
    damage: tuple[str, bytes | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, torn = damage
    ours = [tmp_path / NOTE_FILE, tmp_path / MASKS_FILE]
    before = [(made / path.name).read_bytes() for path in ours]
    for path, content in zip(ours, before, strict=True):
        path.write_bytes(content)
    if torn is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(torn)
    (other,) = (path for path in ours if path.name != file)
    written_at = other.stat().st_mtime_ns
    domain = opened(frames, tmp_path)
    assert [path.read_bytes() for path in ours] == before
    assert other.stat().st_mtime_ns > written_at  # neither is of another making
    assert (domain.how, len(domain.frames)) == ("classical", len(frames))
    assert torn is None or "made anew" in caplog.text
