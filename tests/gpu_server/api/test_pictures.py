"""Frames as images, over a real socket."""

import io

import numpy as np
import tifffile
from PIL import Image


def image_of(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_image_shows_the_particles_bright_on_dark(rest) -> None:
    frame = rest.add([20, 20])
    shown = image_of(rest.http.get(f"/api/v1/frames/{frame}/image.png"))
    truth = rest.lab.discs([20, 20]) > 500
    assert shown.dtype == np.uint8
    assert shown[truth].min() > 200
    assert shown[~truth].max() < 50


def test_large_images_come_reduced_by_a_whole_factor(rest) -> None:
    frame = rest.add([20], shape=(256, 200))
    shown = image_of(rest.http.get(f"/api/v1/frames/{frame}/image.png?max_px=100"))
    assert shown.shape == (86, 67)  # a third, the last blocks cut by the edge


def test_overlay_draws_the_outline_and_reddens_what_was_rejected(rest) -> None:
    frame = rest.add([40])
    path = f"/api/v1/frames/{frame}"
    before = image_of(rest.http.get(f"{path}/overlay.png")).astype(int)
    assert before.shape == (256, 256, 3)
    cyan = (before[..., 2] - before[..., 0]) > 100
    truth = rest.lab.discs([40]) > 500
    rows, columns = np.nonzero(cyan)
    centre = np.argwhere(truth).mean(axis=0)
    radius = np.hypot(rows - centre[0], columns - centre[1])
    assert len(rows) > 60
    assert np.abs(radius - 20).max() < 2.5  # a 1 px pen on an edge that is ±1 px
    rest.http.post(f"{path}/particles/1/reject").raise_for_status()
    after = image_of(rest.http.get(f"{path}/overlay.png")).astype(int)
    assert ((after[..., 0] - after[..., 2]) > 100).sum() > 60


def test_labels_are_the_instances_at_native_size(rest) -> None:
    frame = rest.add([10, 20, 30])
    answer = rest.http.get(f"/api/v1/frames/{frame}/labels.tif")
    labels = tifffile.imread(io.BytesIO(answer.content))
    np.testing.assert_array_equal(labels > 0, rest.lab.discs([10, 20, 30]) > 500)
    assert labels.max() == 3


def test_a_blank_frame_still_has_a_picture(rest) -> None:
    frame = rest.add([])
    shown = image_of(rest.http.get(f"/api/v1/frames/{frame}/overlay.png"))
    assert np.ptp(shown) == 0
