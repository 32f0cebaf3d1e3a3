"""The loss against hand-worked values and against the library that the paper used."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from models.losses import focal_and_jaccard, probability_loss


def test_focal_of_an_undecided_network_is_known_by_hand() -> None:
    # Each class, each pixel: (1 - 1/2)^2 * ln 2, times 0.25 where true and 0.75 where not.
    masks = torch.tensor([[[0, 1], [1, 0]]])
    loss = focal_and_jaccard(torch.zeros(1, 2, 2, 2), masks)
    assert loss.focal.item() == pytest.approx(0.5 * 0.25 * math.log(2))


def test_jaccard_of_an_undecided_network_is_known_by_hand() -> None:
    # Half of 4 px is particle: overlap 1, union 2 + 2 - 1 = 3 for either class.
    masks = torch.tensor([[[0, 1], [1, 0]]])
    loss = focal_and_jaccard(torch.zeros(1, 2, 2, 2), masks)
    assert loss.jaccard.item() == pytest.approx(2 / 3)
    assert loss.total.item() == pytest.approx((loss.focal + loss.jaccard).item() / 2)


def test_a_sure_and_right_network_has_no_loss() -> None:
    masks = torch.tensor([[[0, 1], [1, 0]]])
    sure = torch.where(
        masks[:, None] == torch.tensor([0, 1])[None, :, None, None], 40.0, -40.0
    )
    assert focal_and_jaccard(sure, masks).total.item() == pytest.approx(0, abs=1e-6)


def test_both_terms_agree_with_the_papers_library() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(3, 2, 16, 16), torch.randint(0, 2, (3, 16, 16))
    ours = focal_and_jaccard(logits, masks, "batch")
    focal = smp.losses.FocalLoss("multiclass", alpha=0.25)(logits, masks)
    jaccard = smp.losses.JaccardLoss("multiclass", from_logits=True)(logits, masks)
    assert ours.focal.item() == pytest.approx(focal.item(), rel=1e-5)
    assert ours.jaccard.item() == pytest.approx(jaccard.item(), rel=1e-5)


def test_every_tile_weighs_alike_however_small_its_particles() -> None:
    torch.manual_seed(2)
    logits, masks = torch.randn(2, 2, 16, 16), torch.zeros(2, 16, 16, dtype=torch.int64)
    masks[0, :12], masks[1, 3:5, 3:5] = 1, 1
    ours = focal_and_jaccard(logits, masks).jaccard.item()
    alone = [
        focal_and_jaccard(logits[[i]], masks[[i]], "batch").jaccard for i in (0, 1)
    ]
    assert ours == pytest.approx(torch.stack(alone).mean().item(), rel=1e-6)
    assert ours != pytest.approx(
        focal_and_jaccard(logits, masks, "batch").jaccard.item(), rel=1e-2
    )


def test_a_tile_without_particles_minds_an_invented_one() -> None:
    masks = torch.zeros(1, 100, 100, dtype=torch.int64)
    nothing = torch.tensor([20.0, -20.0])[None, :, None, None].repeat(1, 1, 100, 100)
    invented = nothing.clone()
    invented[:, :, 40:47, 40:47] *= -1  # 49 px: as large as ABSENT_SHARE of the tile
    assert focal_and_jaccard(nothing, masks).jaccard.item() == pytest.approx(
        0, abs=1e-4
    )
    # 1 - 50 / (50 + 49) for the particle, 49 of 10,000 px for the background
    assert focal_and_jaccard(invented, masks).jaccard.item() == pytest.approx(
        (49 / 99 + 49 / 10_000) / 2, rel=1e-3
    )


def test_exchanging_the_classes_changes_nothing() -> None:
    torch.manual_seed(1)
    logits, masks = torch.randn(2, 2, 8, 8), torch.randint(0, 2, (2, 8, 8))
    ours = focal_and_jaccard(logits, masks)
    mirrored = focal_and_jaccard(logits.flip(1), 1 - masks)
    assert ours.total.item() == pytest.approx(mirrored.total.item(), rel=1e-6)


@pytest.mark.parametrize("value", [0, 1])
def test_a_batch_of_one_class_has_a_finite_gradient(value: int) -> None:
    logits = torch.randn(2, 2, 8, 8, requires_grad=True)
    focal_and_jaccard(logits, torch.full((2, 8, 8), value)).total.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_judged_in_full() -> None:
    logits = torch.full((1, 2, 4, 4), 30.0, dtype=torch.bfloat16)
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    assert focal_and_jaccard(logits, masks).total.dtype == torch.float32


def test_the_loss_of_a_shown_map_grows_with_the_error() -> None:
    truth = np.zeros((16, 16), bool)
    truth[4:9, 4:9] = True
    sure, unsure = truth.astype(np.float32), np.full(truth.shape, 0.5, np.float32)
    losses = [probability_loss(p, truth) for p in (sure, unsure, 1 - sure)]
    assert losses == sorted(losses)
    assert losses[0] < 0.01 < losses[1] < losses[2]
