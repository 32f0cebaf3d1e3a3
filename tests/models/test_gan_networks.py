"""The networks of tGAN: shapes, ranges, a modest beginning, and whole frames without seams."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.gan_networks import (
    OUTPUT_RANGE,
    Discriminator,
    Generator,
    as_layers,
    paint,
    smooth,
)
from models.gan_settings import CYCLEGAN, PIX2PIX, GanSettings
from models.tiling import Tiling

TINY = GanSettings(
    encoder="resnet18",
    decoder_channels=(16, 8, 8),
    discriminator_encoder="resnet18",
    discriminator_channels=(16, 8, 8),
    noise_channels=2,
)
SMALL_TILES = Tiling(one_pass_px=64, tile_px=64, overlap_px=32)


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def loud(generator: Generator) -> Generator:
    """Give the last layer weights that drive tanh to its ends."""
    torch.nn.init.normal_(generator.head[-1].weight, std=100.0)
    return generator


def test_a_generator_paints_one_image_within_the_range_of_frames() -> None:
    painted = loud(Generator(TINY))(torch.randn(2, 3, 64, 96))
    assert painted.shape == (2, 1, 64, 96)
    assert painted.dtype == torch.float32
    assert OUTPUT_RANGE / 2 < painted.abs().max() <= OUTPUT_RANGE


def test_an_untrained_residual_generator_is_the_identity() -> None:
    layers = torch.randn(2, 3, 64, 64)
    assert torch.equal(Generator(TINY, residual_limit=1.5)(layers), layers[:, :1])


def test_a_residual_generator_changes_no_pixel_by_more_than_its_limit() -> None:
    layers = torch.randn(1, 3, 64, 64)
    change = loud(Generator(TINY, residual_limit=0.5))(layers) - layers[:, :1]
    assert 0.4 < change.abs().max() <= 0.5 + 1e-6  # float32 rounding of the sum


def test_a_discriminator_judges_every_pixel() -> None:
    assert Discriminator(TINY, layers=2)(torch.randn(2, 2, 64, 96)).shape == (
        2, 1, 64, 96,
    )  # fmt: skip


def test_a_tile_does_not_notice_what_shares_its_batch() -> None:
    network, layers = Generator(TINY).train(), torch.randn(2, 3, 64, 64)
    alone = network(layers[:1])
    torch.testing.assert_close(network(layers)[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.eval()(layers[:1]), alone)


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_a_discriminator_sees_contrast(spectral_norm: bool) -> None:
    settings = TINY.model_copy(update={"spectral_norm": spectral_norm})
    network, tiles = Discriminator(settings, layers=1).eval(), torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        rise = network(2 * tiles).std() / network(tiles).std()
    assert rise > 1.05  # 1 where all channels are brought to unit spread


def test_every_weight_takes_part() -> None:
    network = Generator(TINY)
    network(torch.randn(1, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_grain_of_single_pixels_comes_through() -> None:
    network, layers = Generator(TINY), torch.zeros(1, 3, 64, 64)
    layers[0, 1, 32, 32] = 3.0
    change = (network(layers) - network(torch.zeros(1, 3, 64, 64))).abs()[0, 0]
    around = change[28:37, 28:37]
    assert around.argmax() // 9 in range(2, 7)  # within the head's two kernels
    assert change[32, 32] > 10 * change[:16].mean()


def test_spectral_norm_bounds_the_slope_of_each_convolution() -> None:
    network = Discriminator(TINY.model_copy(update={"spectral_norm": True}), layers=1)
    for _ in range(20):  # each pass is one power iteration
        network(torch.randn(1, 1, 32, 32))
    convolution = network.body.encoder.conv1
    slope = torch.linalg.matrix_norm(convolution.weight.flatten(1), ord=2)
    assert slope.item() == pytest.approx(1.0, abs=0.05)


def test_a_mask_goes_in_as_minus_one_and_one_beside_white_noise() -> None:
    mask = np.zeros((128, 128), np.bool_)
    mask[:64] = True
    layers = as_layers(mask, 2, np.random.default_rng(0))
    assert layers.shape == (3, 128, 128)
    assert layers.dtype == np.float32
    assert set(np.unique(layers[0])) == {-1.0, 1.0}
    assert layers[1:].std() == pytest.approx(1.0, abs=0.02)  # of 32,768 numbers
    assert abs(np.corrcoef(layers[1].ravel(), layers[2].ravel())[0, 1]) < 0.03
    again = as_layers(mask, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(layers, again)


@pytest.mark.parametrize("shape", [(50, 41), (64, 64), (65, 200), (131, 97)])
def test_frames_of_any_size_are_painted_without_seams(shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    generator = Generator(TINY, residual_limit=1.5).eval()
    painted = paint(
        generator, as_layers(frame, 2, np.random.default_rng(1)), SMALL_TILES
    )
    assert painted.dtype == np.float32
    np.testing.assert_allclose(painted, frame, atol=1e-5)  # the identity, faded


def test_what_is_painted_stays_within_the_range_of_frames() -> None:
    generator = loud(Generator(TINY, residual_limit=5.0)).eval()
    layers = as_layers(np.full((64, 64), 9.0, np.float32), 2, np.random.default_rng(0))
    assert paint(generator, layers).max() == 10.0


def test_a_blur_keeps_the_mean_and_takes_the_grain() -> None:
    images = torch.randn(1, 1, 128, 128) + 2.0
    blurred = smooth(images, 1.5)
    assert blurred.mean().item() == pytest.approx(images.mean().item(), abs=0.02)
    # White noise through a Gaussian keeps 1 / (2 sqrt(pi) sigma) of its spread.
    assert blurred.std().item() == pytest.approx(0.188, abs=0.03)
    assert smooth(images, 0.0) is images


@pytest.mark.parametrize("channels", [(16, 8), (16, 8, 4), (24, 20, 16)])
def test_channels_that_cannot_be_grouped_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="multiples of 8"):
        GanSettings(decoder_channels=channels)


def test_a_budget_in_epochs_counts_passes_over_the_area() -> None:
    settings = GanSettings(epochs=150, batch=4, tile_px=512)
    assert settings.for_area(5 * 2048**2).steps == 150 * 5 * 16 // 4
    assert GanSettings(steps=7).for_area(10**9).steps == 7


def test_every_preset_is_there_for_both_and_the_paper_is_plain() -> None:
    for presets in (PIX2PIX, CYCLEGAN):
        assert set(presets) == {"paper", "standard", "quick"}
        for settings in presets.values():
            GanSettings.model_validate(settings.model_dump())  # copies are not checked
        paper = presets["paper"]
        assert (paper.encoder, paper.residual_limit, paper.match_px) == (
            "resnet34", 0, 0,
        )  # fmt: skip
        assert (paper.learning_rate, paper.betas, paper.batch) == (
            2e-4,
            (0.5, 0.999),
            4,
        )
