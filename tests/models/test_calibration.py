"""Probabilities are held against generators whose truth is drawn from known chances."""

import math

import numpy as np
import pytest
import torch

from emcopilot.confidence import ParticleConfidence, particle_features
from models.calibration import (
    Reliability,
    fit_particle_confidence,
    fit_temperature,
    is_found,
    lead_of,
    probability_at,
    temper,
)
from models.npssegnet import build, particle_probability
from models.tiling import to_uint8

SHAPE = (200, 250)
"""50,000 pixels: a bin's rate is known to about 0.01, chance alone gives an ECE of 0.004."""


def leads(seed: int = 0, spread: float = 2.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(-0.5, spread, SHAPE)
    return (np.rint(values * 64) / 64).astype(np.float32)  # about bfloat16's steps


def drawn(probability: np.ndarray, seed: int = 1) -> np.ndarray:
    """Truth that comes true exactly as often as promised."""
    return np.random.default_rng(seed).random(probability.shape) < probability


def test_a_calibrated_generator_has_no_error() -> None:
    probability = probability_at(leads())
    assert Reliability.of(probability, drawn(probability)).ece < 0.01


def test_the_error_of_an_overconfident_generator_is_the_known_gap() -> None:
    said = np.full(SHAPE, 0.95)
    reliability = Reliability.of(said, drawn(np.full(SHAPE, 0.7)))
    assert reliability.ece == pytest.approx(0.25, abs=0.01)
    ((confidence, observed, count),) = reliability.rows()
    assert confidence == pytest.approx(0.95)
    assert observed == pytest.approx(0.7, abs=0.01)
    assert count == said.size


def test_over_and_underconfidence_in_different_bins_do_not_cancel() -> None:
    said = np.repeat([0.9, 0.1], 500)
    is_true = np.concatenate([np.arange(500) < 350, np.arange(500) < 150])
    assert Reliability.of(said, is_true).ece == pytest.approx(0.2)


def test_tables_of_parts_add_up_to_the_table_of_the_whole() -> None:
    probability = probability_at(leads())
    truth = drawn(probability)
    parts = Reliability.of(probability[:80], truth[:80]) + Reliability.of(
        probability[80:], truth[80:]
    )
    whole = Reliability.of(probability, truth)
    np.testing.assert_array_equal(parts.count, whole.count)
    assert parts.ece == pytest.approx(whole.ece)


def test_certainty_has_a_bin_and_nothing_has_no_error() -> None:
    assert Reliability.of(np.array([0.0, 1.0]), np.array([False, True])).ece == 0.0
    assert Reliability.none().total == 0
    assert math.isnan(Reliability.none().ece)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_recovered(temperature: float) -> None:
    calm = [leads(seed) for seed in range(3)]
    masks = [drawn(probability_at(lead), seed + 9) for seed, lead in enumerate(calm)]
    hot = [lead * temperature for lead in calm]
    # 150,000 draws determine the scale of a logit to about half a per cent.
    assert fit_temperature(hot, masks) == pytest.approx(temperature, rel=0.02)


def test_each_frame_weighs_the_same_whatever_its_size() -> None:
    lead = leads()
    calm, bold = lead, 4 * lead
    truth = drawn(probability_at(lead))
    small = [calm[:20], bold]
    masks = [truth[:20], truth]
    # By pixels the bold frame would decide alone, at 3.9.
    assert 1.3 < fit_temperature(small, masks) < 3.4
    assert fit_temperature(small, masks, [0.0, 1.0]) == pytest.approx(4.0, rel=0.03)


def test_no_frames_leave_the_network_as_it_is() -> None:
    assert fit_temperature([], []) == 1.0


def test_the_folded_network_keeps_its_edges_and_tempers_the_rest() -> None:
    network = build().eval()
    frame = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(frame)
        temper(network, 2.5)
        tempered = network(frame)
    lead = (logits[:, 1] - logits[:, 0]).numpy()
    expected = probability_at(lead, 2.5)
    after = particle_probability(tempered).numpy()
    # Float32 sums of 16 channels in another order of magnitude agree to about 1e-6.
    np.testing.assert_allclose(after, expected, atol=1e-5)
    clear = np.abs(lead) > 1e-4
    np.testing.assert_array_equal(after[clear] >= 0.5, lead[clear] >= 0)


def test_eight_bits_at_a_high_temperature_hold_strong_leads() -> None:
    lead = np.linspace(-20, 20, 401, dtype=np.float32)
    back = lead_of(to_uint8(probability_at(lead, 4.0)), 4.0)
    # At a lead of 20 one step of 255 is 4 * 1.4 wide; near the edge it is 0.06.
    assert np.abs(back - lead).max() < 3.0
    near = np.abs(lead) < 4
    assert np.abs(back - lead)[near].max() < 0.05
    np.testing.assert_array_equal((back >= 0)[lead != 0], (lead >= 0)[lead != 0])


def test_a_particle_is_found_if_it_covers_half_of_a_true_one() -> None:
    labels, truth = np.zeros((20, 60), np.int32), np.zeros((20, 60), np.int32)
    labels[2:12, 2:12] = 1  # exact
    truth[2:12, 2:12] = 7
    labels[2:12, 20:30] = 2  # a third of the union
    truth[2:12, 25:35] = 3
    labels[2:12, 45:55] = 3  # invented
    assert is_found(labels, truth).tolist() == [True, False, False]
    assert is_found(labels, np.zeros_like(truth)).tolist() == [False] * 3
    assert is_found(np.zeros_like(labels), truth).shape == (0,)


def test_the_particle_map_is_recovered_and_calibrates() -> None:
    rng = np.random.default_rng(3)
    mean, diameter = rng.uniform(0.5, 1, 10_000), np.exp(rng.uniform(1, 5, 10_000))
    truth = ParticleConfidence(constant=-3.0, per_lead=0.8, per_log_diameter=0.7)
    found = drawn(truth(mean, diameter))
    fitted = fit_particle_confidence(particle_features(mean, diameter), found)
    assert Reliability.of(mean, found).ece > 0.1
    assert Reliability.of(fitted(mean, diameter), found).ece < 0.03


def test_without_contrary_evidence_the_map_is_the_identity() -> None:
    mean = np.array([0.5, 0.8, 0.95])
    features = particle_features(mean, np.full(3, 9.0))
    assert fit_particle_confidence(features, np.ones(3, bool)) == ParticleConfidence()
