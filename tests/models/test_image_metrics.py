"""Likeness of generated frames: nothing for equal sets, more for every step away."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from torchvision.models import inception_v3

from emcopilot.errors import AdaptationError, ConfigError
from emcopilot.simulate import demo_scene, render_micrograph
from models import checkpoint
from models.image_metrics import (
    FRAME_RANGE,
    Features,
    MetricSettings,
    compare_frames,
    encoder_features,
    frechet_distance,
    inception_features,
    inception_score,
    kernel_mmd,
    look,
    psnr_db,
    ssim,
)
from models.npssegnet import NPSSEGNET, build
from models.preprocess import normalise

Frame = NDArray[np.float32]
SMALL = MetricSettings(tile_px=32, step_px=16, most_tiles=300)


@pytest.fixture(scope="module")
def features() -> Features:
    """Return a network of one layer: seconds instead of minutes on one core."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Features("one random layer", body.eval(), 12)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    rng = np.random.default_rng(0)
    scene = demo_scene("haadf", size=160)
    return [normalise(render_micrograph(scene, rng).pixels) for _ in range(6)]


def blurred(frames: list[Frame], blur_px: float) -> list[Frame]:
    return [ndimage.gaussian_filter(frame, blur_px) for frame in frames]


def test_equal_sets_are_at_no_distance(features: Features, frames: list[Frame]) -> None:
    result = compare_frames(frames, frames, features, SMALL, is_paired=True)
    assert result.frechet == pytest.approx(0, abs=1e-6)
    assert result.ssim == pytest.approx(1)
    assert result.psnr_db == math.inf
    # Subsets of one set differ by chance: the mean lies within their spread of nothing.
    assert abs(result.mmd) < max(result.mmd_std, 1e-9)


@pytest.mark.parametrize("change", ["blur", "noise", "contrast"])
def test_distances_grow_with_every_step_away(
    change: str, features: Features, frames: list[Frame]
) -> None:
    grain = np.random.default_rng(1).standard_normal(frames[0].shape, np.float32)
    changed = {
        "blur": [blurred(frames, step) for step in (0.5, 1.0, 2.0)],
        "noise": [[f + grain * s for f in frames] for s in (0.1, 0.3, 0.9)],
        "contrast": [[f * np.float32(s) for f in frames] for s in (0.9, 0.7, 0.4)],
    }[change]
    real = look(frames, features, SMALL)
    seen = [look(step, features, SMALL) for step in changed]
    frechet = [frechet_distance(one, real) for one in seen]
    mmd = [kernel_mmd(one, real, SMALL)[0] for one in seen]
    assert 0 < frechet[0] < frechet[1] < frechet[2]
    assert mmd[0] < mmd[1] < mmd[2]


def test_mmd_of_two_halves_of_one_distribution_is_nothing_on_average() -> None:
    values = [
        kernel_mmd(
            torch.from_numpy(rng.standard_normal((300, 8))),
            torch.from_numpy(rng.standard_normal((300, 8))),
            SMALL,
        )[0]
        for rng in map(np.random.default_rng, range(12))
    ]
    # Unbiased: of both signs, and the mean within three standard errors.
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


def test_frechet_distance_of_two_gaussians_is_the_formulas() -> None:
    rng = np.random.default_rng(3)
    one = torch.from_numpy(rng.standard_normal((40_000, 3)))
    other = torch.from_numpy(2 * rng.standard_normal((40_000, 3)) + 1)
    # |mean|^2 = 3 and (2 - 1)^2 for each of three standard deviations.
    assert frechet_distance(one, other) == pytest.approx(6, rel=0.03)


def test_psnr_of_a_known_error_is_its_decibels() -> None:
    frame = np.zeros((32, 32), np.float32)
    off = frame + np.float32(FRAME_RANGE / 10)
    assert psnr_db(frame, off) == pytest.approx(20, abs=1e-3)


def test_ssim_of_even_frames_is_its_luminance_term() -> None:
    one, other = (np.full((32, 32), v, np.float32) for v in (1.0, 2.0))
    constant = (0.01 * FRAME_RANGE) ** 2
    expected = (2 * 1 * 2 + constant) / (1 + 4 + constant)
    assert ssim(one, other) == pytest.approx(expected, abs=1e-4)


def test_ssim_falls_with_blur_and_is_negative_for_inverted_texture(
    frames: list[Frame],
) -> None:
    y, x = np.mgrid[:64, :64]
    # A chequerboard: even in the mean, so that structure alone decides.
    texture = np.where((y + x) % 2, 1, -1).astype(np.float32)
    assert ssim(texture, -texture) < -0.8
    assert (
        ssim(frames[0], blurred(frames, 2)[0])
        < ssim(frames[0], blurred(frames, 1)[0])
        < 1
    )


def test_one_seed_gives_one_result_and_leaves_torchs_numbers_alone() -> None:
    one, other = torch.randn(2, 100, 4, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first, again = (kernel_mmd(one, other, SMALL) for _ in range(2))
    assert first == again
    assert torch.equal(before, torch.get_rng_state())


def test_inception_score_counts_the_classes_that_are_surely_seen() -> None:
    sure = 100 * torch.eye(4, dtype=torch.float64).repeat(5, 1)
    assert inception_score(sure) == pytest.approx(4)
    assert inception_score(torch.zeros(20, 4)) == pytest.approx(1)


def test_the_features_are_named_and_unpaired_frames_have_no_ssim(
    tmp_path: Path, frames: list[Frame]
) -> None:
    architecture = NPSSEGNET.model_copy(update={"encoder": "resnet18"})
    card = checkpoint.save(
        tmp_path, build(architecture), name="own", architecture=architecture,
        data={}, training={},
    )  # fmt: skip
    features = encoder_features(tmp_path)
    settings = MetricSettings(tile_px=32, step_px=8, most_tiles=449)
    result = compare_frames(frames[:3], frames, features, settings).as_json()
    assert features.name == card.model_id
    assert (
        result["frechet_name"] == f"Frechet distance in the features of {features.name}"
    )
    assert result["inception_score"] is result["ssim"] is result["psnr_db"] is None
    assert (result["generated_frames"], result["real_frames"]) == (3, 6)
    assert json.loads(json.dumps(result)) == result


def test_frames_of_other_sizes_are_cut_to_equal_tiles(features: Features) -> None:
    rng = np.random.default_rng(0)
    shapes = [(200, 170), (64, 300), (128, 129)]
    frames = [rng.standard_normal(shape, np.float32) for shape in shapes]
    # 12 x 10, 3 x 18 and 7 x 8 windows, 16 px apart or a little less.
    assert look(frames, features, SMALL).shape == (230, features.width)


def test_too_few_tiles_say_how_many_are_needed(
    features: Features, frames: list[Frame]
) -> None:
    whole = MetricSettings(tile_px=160, step_px=64)
    with pytest.raises(AdaptationError, match=r"6 frames give 6 tiles .* need 13"):
        compare_frames(frames, frames, features, whole)


def test_a_frame_smaller_than_a_tile_is_named(features: Features) -> None:
    small = [np.zeros((30, 90), np.float32)]
    with pytest.raises(AdaptationError, match=r"frame 0 is .30, 90. px, smaller"):
        compare_frames(small, small, features, SMALL)


def test_pairs_that_do_not_match_are_refused(
    features: Features, frames: list[Frame]
) -> None:
    with pytest.raises(AdaptationError, match="5 generated frames cannot be paired"):
        compare_frames(frames[:5], frames, features, SMALL, is_paired=True)
    cut = [frame[:-1] for frame in frames]
    with pytest.raises(AdaptationError, match="pair 0"):
        compare_frames(cut, frames, features, SMALL, is_paired=True)


def test_inception_weights_of_a_file_give_features_and_logits(tmp_path: Path) -> None:
    network = inception_v3(weights=None, init_weights=False, aux_logits=False)
    path = tmp_path / "inception.pt"
    torch.save(network.state_dict(), path)
    features = inception_features(path)
    tiles = torch.zeros(2, 1, 64, 64)
    with torch.inference_mode():
        seen = features.network(tiles)
        assert features.classify is not None
        logits = features.classify(seen)
        pictures = torch.zeros(2, 3, 299, 299)
        expected = network.eval()(pictures)
    assert seen.shape == (2, 2048)
    assert features.name.startswith("Inception v3 ")
    torch.testing.assert_close(logits, expected)


def test_inception_weights_that_are_missing_or_others_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="cannot read Inception weights"):
        inception_features(tmp_path / "none.pt")
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(ConfigError, match="no state dict of torchvision's"):
        inception_features(other)
    text = tmp_path / "text.pt"
    text.write_text("not weights")
    with pytest.raises(ConfigError, match="no state dict of torchvision's"):
        inception_features(text)
