"""Figures over images, and models set against each other."""

import json
import math

import numpy as np
import pytest

from models.box_truth import BOX_METRICS, BoxScore
from models.evaluation import SIGNED, UNJUDGED, Evaluation, compare
from models.scores import METRICS, ImageScore


def score(name: str, miou: float, error_percent: float = 0.0) -> ImageScore:
    figures = dict.fromkeys(METRICS, 0.5)
    figures |= {"miou": miou, "mean_diameter_error_percent": error_percent}
    return ImageScore(name=name, **figures)


def boxed(name: str, f1: float, count_error: float = 0.0) -> BoxScore:
    figures = dict.fromkeys(BOX_METRICS, 0.5)
    figures |= {"f1": f1, "found": 3, "boxed": 4, "count_error_percent": count_error}
    return BoxScore(name=name, **figures)


def evaluation(model_id: str, mious: list[float], error: float = 0.0) -> Evaluation:
    scores = [score(f"{i}", miou, error) for i, miou in enumerate(mious)]
    return Evaluation(model_id, tuple(scores))


def test_figures_are_over_the_images_that_have_them() -> None:
    scores = (score("a", 0.5, math.nan), score("b", 0.9, -4.0), score("c", 0.7, 2.0))
    result = Evaluation("m", scores)
    assert result.mean("miou") == pytest.approx(0.7)
    assert result.std("miou") == pytest.approx(math.sqrt(0.08 / 3))
    assert result.mean("mean_diameter_error_percent") == -1
    assert result.count("mean_diameter_error_percent") == 2
    table = result.as_table()
    assert "m: 3 images" in table
    assert "0.7000 ± 0.1633" in table
    assert "-1.0000 ± 3.0000   n = 2" in table


def test_an_answer_without_an_image_is_still_the_contracts() -> None:
    answer = Evaluation("m", (), (("a", "no picture"),)).as_json()
    assert answer["images"] == 0
    assert answer["mean"] == dict.fromkeys(METRICS)
    assert answer["unreadable"] == [{"name": "a", "reason": "no picture"}]
    json.dumps(answer, allow_nan=False)


def test_boxes_have_figures_of_their_own() -> None:
    result = Evaluation("m", (boxed("a", 0.5), boxed("b", 0.75)))
    assert result.metrics == BOX_METRICS
    answer = result.as_json()
    assert answer["mean"]["f1"] == 0.625
    assert answer["per_image"][0]["found"] == 3
    assert "f1" in result.as_table()


def test_the_better_model_is_said_to_be_better() -> None:
    rng = np.random.default_rng(0)
    weak = rng.uniform(0.5, 0.6, 8).tolist()
    strong = [miou + 0.1 for miou in weak]
    (ahead,) = compare(evaluation("s", strong), [evaluation("w", weak)])
    verdict = ahead.verdicts["miou"]
    assert verdict.is_better is True
    assert verdict.test.median_difference == pytest.approx(0.1)
    assert verdict.p_holm == verdict.test.p == pytest.approx(2 / 2**8)
    assert ahead.verdicts["pa"].test.p == 1
    assert ahead.verdicts["pa"].is_better is None
    (behind,) = compare(evaluation("w", weak), [evaluation("s", strong)])
    assert behind.verdicts["miou"].is_better is False
    assert "worse" in behind.as_table()
    assert "no difference on any image" in behind.as_table()


def test_a_lower_loss_is_better() -> None:
    def of(model_id: str, loss: float) -> Evaluation:
        figures = [dict.fromkeys(METRICS, 0.5) | {"loss": loss + i} for i in range(8)]
        return Evaluation(
            model_id, tuple(ImageScore(f"{i}", **f) for i, f in enumerate(figures))
        )

    (verdicts,) = compare(of("a", 0.1), [of("b", 0.2)])
    assert verdicts.verdicts["loss"].is_better is True


def test_signed_errors_are_compared_by_their_size() -> None:
    mious = [0.5] * 8
    small, large = evaluation("a", mious, 5.0), evaluation("b", mious, -20.0)
    (verdicts,) = compare(small, [large])
    verdict = verdicts.verdicts["mean_diameter_error_percent"]
    assert verdict.test.median_difference == -15
    assert verdict.is_better is True
    assert "count_error_percent" in SIGNED


def test_several_models_are_corrected_for_their_number() -> None:
    weak = [0.5 + 0.01 * i for i in range(8)]
    others = [evaluation("w", weak), evaluation("same", [m + 0.1 for m in weak])]
    first, second = compare(evaluation("s", [m + 0.1 for m in weak]), others)
    assert first.verdicts["miou"].test.p == pytest.approx(2 / 2**8)
    assert first.verdicts["miou"].p_holm == pytest.approx(4 / 2**8)
    assert second.verdicts["miou"].p_holm == 1
    assert compare(evaluation("s", weak), []) == []


def test_only_images_that_both_could_score_are_paired() -> None:
    other = Evaluation("o", (score("2", 0.1), score("0", 0.2), score("9", 0.3)))
    (verdicts,) = compare(evaluation("m", [0.3, 0.9, 0.4]), [other])
    assert verdicts.verdicts["miou"].test.n == 2
    assert verdicts.verdicts["miou"].test.median_difference == pytest.approx(0.2)


def test_a_comparison_is_json_with_the_other_models_figures() -> None:
    (verdicts,) = compare(
        evaluation("m", [0.3, 0.9], math.nan), [evaluation("o", [0.1, 0.2])]
    )
    answer = json.loads(json.dumps(verdicts.as_json(), allow_nan=False))
    assert answer["model_id"] == "o"
    assert answer["mean"]["miou"] == pytest.approx(0.15)
    assert set(answer["tests"]) == set(METRICS)
    assert answer["tests"]["miou"]["n"] == 2
    assert "cannot reach" in answer["tests"]["miou"]["note"]
    size = answer["tests"]["mean_diameter_error_percent"]
    assert (size["n"], size["p"], size["p_holm"], size["better"]) == (
        0,
        None,
        None,
        None,
    )


def test_what_only_describes_is_not_tested() -> None:
    result = Evaluation("m", tuple(boxed(f"{i}", 0.5) for i in range(7)))
    (verdicts,) = compare(result, [result])
    assert set(verdicts.verdicts) == set(BOX_METRICS) - UNJUDGED
