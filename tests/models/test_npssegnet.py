"""The network itself."""

import pytest
import torch

from models.npssegnet import Architecture, build, particle_probability


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
