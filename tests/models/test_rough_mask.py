"""Rough masks without a label: the right particles, the right polarity, nothing out of nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from transformers import (
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from emcopilot.errors import AdaptationError, ConfigError, ModelError
from emcopilot.optics import Mode
from emcopilot.simulate import Scene, demo_scene, random_scene, render_micrograph
from models import checkpoint
from models.classical_cut import choose_way, cut
from models.npssegnet import Architecture, build, last_convolution
from models.preprocess import normalise
from models.rough_mask import rough_masks
from models.sam_masks import SamSettings
from models.segmentation_metrics import pixel_score

Frame = NDArray[np.float32]
Mask = NDArray[np.bool_]


def render(scene: Scene, count: int, seed: int = 0) -> tuple[list[Frame], list[Mask]]:
    rng = np.random.default_rng(seed)
    seen = [render_micrograph(scene, rng) for _ in range(count)]
    return [normalise(one.pixels) for one in seen], [one.labels > 0 for one in seen]


def empty(scene: Scene) -> Scene:
    return replace(scene, population=replace(scene.population, count=0))


def mean_miou(masks: list[Mask], truths: list[Mask]) -> float:
    pairs = zip(masks, truths, strict=True)
    return float(np.mean([pixel_score(mask, truth).miou for mask, truth in pairs]))


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_the_classical_cut_finds_particles_and_polarity_on_the_demo_scene(
    mode: Mode,
) -> None:
    frames, truths = render(demo_scene(mode, size=200), 2)
    way = choose_way(frames)
    reached = mean_miou([cut(frame, way).mask for frame in frames], truths)
    print(f"demo {mode}: {reached:.3f} by {way}")
    assert way.is_bright is (mode == "haadf")
    assert reached >= 0.9


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_outlines_lie_where_particles_end(mode: Mode) -> None:
    # Along the steepest contour, areas are 4 (bf) to 8 % (haadf) small.
    frames, truths = render(demo_scene(mode, size=320), 3)
    way = choose_way(frames)
    shown = sum(np.count_nonzero(cut(frame, way).mask) for frame in frames)
    true = sum(np.count_nonzero(truth) for truth in truths)
    assert shown == pytest.approx(true, rel=0.04)


def test_a_particle_far_larger_than_the_domain_s_others_is_cut_whole() -> None:
    usual, _ = render(demo_scene("bf", size=200), 2)
    way = replace(choose_way(usual), background_px=16.0)
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:300, :300]
    reach = np.hypot(y - 150, x - 140) / 100
    thickness = np.clip(1 - reach**2, 0, None) ** 0.3
    large = normalise(200 - 120 * thickness + rng.normal(0, 8, reach.shape))
    assert pixel_score(cut(large, way).mask, reach < 1).miou >= 0.95


def test_the_edge_of_a_film_is_not_cut_with_the_particles_on_it() -> None:
    usual, _ = render(demo_scene("bf", size=200), 2)
    way = replace(choose_way(usual), background_px=16.0)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:300, :300]
    thickness = np.zeros(x.shape)
    for row, column in [(60, 60), (150, 70), (240, 60), (100, 120), (200, 120)]:
        reach = np.hypot(y - row, x - column) / 14
        thickness += np.clip(1 - reach**2, 0, None) ** 0.3
    grey = np.where(x < 180, 150.0, 200.0) - 90 * thickness
    found = cut(normalise(grey + rng.normal(0, 3, x.shape)), way).mask
    assert pixel_score(found, thickness > 0).miou >= 0.9


def test_a_crowded_frame_of_a_known_domain_is_cut_and_its_support_is_not() -> None:
    # So many dark particles that they cover three quarters, bright bands between them.
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:200, :200]
    is_gap = (rows % 50 < 6) | (columns % 50 < 6)
    crowded = np.where(is_gap, 140.0, 60.0) + rng.normal(0, 4.0, (200, 200))
    usual, truths = render(demo_scene("bf", size=200), 2)
    way = choose_way(usual)
    found = cut(normalise(crowded), way)
    print(f"{found.soundness:.0f} sound, {found.mask.mean():.2f} covered")
    assert pixel_score(found.mask, ~is_gap).miou >= 0.9
    # The same way, where nothing is: what covers most of it is the support.
    bare, _ = render(empty(demo_scene("bf", size=200)), 2)
    assert not any(cut(frame, way).mask.any() for frame in bare)
    assert mean_miou([cut(frame, way).mask for frame in usual], truths) >= 0.9


# Clean scenes: large and small, one and many, both modes; none of them told.
@pytest.mark.parametrize(
    ("seed", "mode", "diameter_px"),
    [(104, "haadf", None), (103, "bf", None), (2, "haadf", 12.0), (8, "bf", 10.0)],
)
def test_the_classical_cut_finds_particles_of_any_size(
    seed: int, mode: Mode, diameter_px: float | None
) -> None:
    scene = random_scene(
        np.random.default_rng(seed),
        shape=(200, 200),
        mode=mode,
        median_diameter_px=diameter_px,
    )
    frames, truths = render(scene, 2)
    way = choose_way(frames)
    reached = mean_miou([cut(frame, way).mask for frame in frames], truths)
    print(f"{seed} {mode}: {reached:.3f} by {way}")
    assert way.is_bright is (mode == "haadf")
    assert reached >= 0.8


@pytest.mark.parametrize("mode", ["haadf", "bf"])
def test_an_empty_field_gives_an_empty_mask(mode: Mode) -> None:
    frames, _ = render(empty(demo_scene(mode, size=192)), 2)
    result = rough_masks(frames, "classical")
    assert not any(mask.any() for mask in result.masks)
    assert result.leave_out == ("no particle found",) * 2
    assert result.usable == ()
    assert "no particle" in result.why


def test_an_empty_frame_among_full_ones_stays_empty() -> None:
    scene = demo_scene("haadf", size=192)
    frames, _ = render(scene, 2)
    frames += render(empty(scene), 1)[0]
    result = rough_masks(frames, "classical")
    assert [bool(mask.any()) for mask in result.masks] == [True, True, False]
    assert result.usable == (0, 1)


def test_bad_frames_are_left_out_with_the_reason() -> None:
    frames, _ = render(demo_scene("haadf", size=200), 4)
    saturated = np.minimum(frames[0], np.float32(np.quantile(frames[0], 0.6)))
    blurred = np.asarray(ndimage.gaussian_filter(frames[1], 7.0), np.float32)
    blank = np.zeros((200, 150), np.float32)
    result = rough_masks([*frames, saturated, blank, blurred], "classical")
    assert result.leave_out[:4] == (None,) * 4
    reasons = [str(reason) for reason in result.leave_out[4:]]
    assert reasons[0].startswith("saturated: 40%")
    assert reasons[1].startswith("blank")
    assert reasons[2].startswith("defocused")
    assert result.masks[5].shape == (200, 150)


def test_a_domain_that_was_never_in_focus_is_not_learnt() -> None:
    frames, _ = render(demo_scene("bf", size=256), 4)
    rng = np.random.default_rng(0)
    blurred = [
        normalise(
            ndimage.gaussian_filter(frame, 9.0)
            + 0.05 * rng.standard_normal(frame.shape)
        )
        for frame in frames
    ]
    assert rough_masks(frames, "classical").usable == (0, 1, 2, 3)
    result = rough_masks(blurred, "classical")
    assert result.usable == ()
    found = [
        reason
        for reason, mask in zip(result.leave_out, result.masks, strict=True)
        if mask.any()
    ]
    assert found
    assert all("radii of the particles wide" in str(reason) for reason in found)


def test_nothing_to_mask_is_an_error() -> None:
    with pytest.raises(AdaptationError, match="no frames"):
        rough_masks([])
    with pytest.raises(AdaptationError, match="none of 2 frames can be masked"):
        rough_masks([np.zeros((64, 64), np.float32)] * 2)


def dull_model(directory: Path, lead: float) -> Path:
    """Save a network that gives every pixel the same lead."""
    architecture = Architecture(encoder="resnet18")
    network = build(architecture)
    last = last_convolution(network)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, lead]))
    checkpoint.save(
        directory, network, name="dull", architecture=architecture, data={}, training={}
    )
    return directory


@pytest.mark.parametrize("how", ["incumbent", "auto"])
def test_an_incumbent_that_finds_nothing_falls_back_and_says_so(
    tmp_path: Path, how: str
) -> None:
    frames, truths = render(demo_scene("haadf", size=128), 2)
    model = dull_model(tmp_path, -5.0)
    result = rough_masks(frames, how, model=model)  # pyright: ignore[reportArgumentType]
    assert result.how == "classical"
    assert "the incumbent dull-" in result.why
    assert "found no particle in any frame" in result.why
    assert mean_miou(list(result.masks), truths) > 0.8


def test_an_incumbent_full_of_doubt_is_not_taken(tmp_path: Path) -> None:
    frames, _ = render(demo_scene("haadf", size=128), 2)
    # A lead of one half: every pixel is a particle with 62 %, every pixel is doubtful.
    model = dull_model(tmp_path, 0.5)
    assert rough_masks(frames, "incumbent", model=model).how == "incumbent"
    result = rough_masks(frames, "auto", model=model)
    assert result.how == "classical"
    assert "do not hold: it found particles in 2 of 2 frames" in result.why


def test_the_shipped_model_is_taken_where_it_is_at_home() -> None:
    frames, truths = render(demo_scene("haadf", size=128), 2)
    result = rough_masks(frames)
    assert result.how == "incumbent"
    assert mean_miou(list(result.masks), truths) > 0.8


def test_a_missing_incumbent_is_an_error(tmp_path: Path) -> None:
    frames = [np.random.default_rng(0).standard_normal((64, 64), np.float32)]
    with pytest.raises(ModelError, match="no model"):
        rough_masks(frames, "incumbent", model=tmp_path / "none")


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a SAM of random weights, a thousand times smaller than the smallest."""
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=64, patch_size=8, mlp_dim=16, num_pos_feats=8, window_size=4,
        global_attn_indexes=[0],
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(
        hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2,
        iou_head_depth=2, iou_head_hidden_dim=16,
    )  # fmt: skip
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    folder = tmp_path_factory.mktemp("sam")
    SamModel(config).save_pretrained(folder)
    side = {"height": 64, "width": 64}
    images = SamImageProcessor(size={"longest_edge": 64}, pad_size=side)
    SamProcessor(images).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("least", [-100.0, 100.0])
def test_a_tiny_sam_runs_on_frames_of_any_shape(tiny_sam: Path, least: float) -> None:
    frames, _ = render(demo_scene("haadf", size=128), 2)
    frames[1] = frames[1][:90]
    asked = SamSettings(
        points_per_side=4, least_predicted_iou=least, least_stability=0.0,
        most_covered=1.0, most_of_rim=1.0,
    )  # fmt: skip
    result = rough_masks(frames, "sam", sam_weights=tiny_sam, sam=asked)
    assert [mask.shape for mask in result.masks] == [(128, 128), (90, 128)]
    assert all(mask.dtype == np.bool_ for mask in result.masks)
    # Random weights are sure of nothing: where sureness is asked for, the fallback is told.
    assert result.how == ("sam" if least < 0 else "classical")
    assert "Segment Anything" in result.why


def test_a_wrong_sam_folder_says_what_is_expected(tmp_path: Path) -> None:
    frames, _ = render(demo_scene("haadf", size=64), 1)
    for weights in (None, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"no folder of SAM weights .* expected"):
            rough_masks(frames, "sam", sam_weights=weights)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no SAM that transformers can load"):
        rough_masks(frames, "sam", sam_weights=tmp_path)
