"""The network itself."""

import pytest
import torch

from models.npssegnet import (
    NPSSEGNET,
    Architecture,
    LocalContrast,
    box_mean,
    build,
    particle_probability,
    widened,
)


def test_it_maps_frames_to_two_classes_at_their_size() -> None:
    network = build().eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 64, 96)).shape == (1, 2, 64, 96)


def test_it_is_unetplusplus_on_resnet34() -> None:
    # 26.1 million weights: the paper's decoder on a grey-scale ResNet34.
    assert sum(p.numel() for p in build().parameters()) == 26_072_482


def test_dropout_acts_in_training_only() -> None:
    network = build(Architecture(dropout=0.5))
    frame = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(frame), network(frame))
        network.train()
        assert not torch.equal(network(frame), network(frame))


def test_probability_is_of_the_particle_class() -> None:
    logits = torch.tensor([0.0, 100.0]).view(1, 2, 1, 1)
    assert particle_probability(logits).item() == pytest.approx(1.0)
    assert particle_probability(logits.flip(1)).item() == pytest.approx(0.0)


def test_local_contrast_is_blind_to_brightness_gain_and_slopes() -> None:
    torch.manual_seed(0)
    grain = torch.randn(1, 1, 192, 192)
    slope = torch.linspace(0, 80, 192).expand(1, 1, 192, 192)
    layer = LocalContrast(16)
    pixels, contrast = layer(grain)[0]
    assert torch.equal(pixels, grain[0, 0])
    changed = layer(3 * grain + slope + 100)[0, 1]
    # Away from the rim, where the surroundings are lopsided and a slope leaves a rest.
    inside = slice(64, -64)
    difference = (changed - contrast)[inside, inside]
    # What the least spread leaves of four deviations.
    assert difference.abs().max() < 0.1
    assert contrast[inside, inside].std() == pytest.approx(1, abs=0.15)


def test_an_even_area_has_no_local_contrast() -> None:
    assert LocalContrast(4)(torch.full((1, 1, 32, 32), 7.0))[0, 1].abs().max() < 1e-3


def test_a_faint_speck_on_a_thick_support_stands_out() -> None:
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    support = 3 * torch.exp(-((y - 64) ** 2 + (x - 64) ** 2) / 2000)
    speck = 0.1 * (((y - 90) ** 2 + (x - 90) ** 2) < 16)
    contrast = LocalContrast(16)((support + speck)[None, None])[0, 1]
    plain = LocalContrast(16)(support[None, None])[0, 1]
    # 3 % of the support's height becomes half of the local spread.
    assert (contrast - plain)[90, 90] == pytest.approx(0.5, abs=0.15)


def test_a_widened_network_answers_as_the_narrow_one_did() -> None:
    narrow, wide = build().eval(), build(NPSSEGNET).eval()
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    frame = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(wide(frame), narrow(frame))


def test_a_box_mean_is_the_mean_of_the_neighbours_within_bounds() -> None:
    values = torch.linspace(-10, 10, 5 * 40).reshape(1, 1, 5, 40).sin() * 10
    means = box_mean(values, 3, 16)
    for column in (0, 7, 20, 39):
        near = values[..., max(0, column - 16) : column + 17]
        assert torch.allclose(means[..., column], near.mean(dim=3), atol=1e-5)
    assert torch.allclose(box_mean(values.mT, 2, 16), means.mT, atol=1e-5)
