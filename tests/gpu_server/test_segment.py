import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emcopilot.confidence import IDENTITY, ParticleConfidence
from emcopilot.errors import ConfigError, ModelError
from emcopilot.seen import SEEN_FILE
from gpu_server.engines.openvino_engine import OpenVinoEngine
from gpu_server.inference import build_engine
from gpu_server.segment import InferenceSpec, Segmentation, Segmenter
from models.checkpoint import load, write_card
from models.look import Looker
from models.npssegnet import NPSSEGNET, build, parted
from models.predict import predict


@pytest.fixture(scope="module")
def model(random_model: Path) -> Path:
    return random_model


def spec(model: Path, **changes: object) -> InferenceSpec:
    values = {
        "model": str(model),
        "device": "cpu",
        "engine": "torch",
        "warm_px": 0,
        **changes,
    }
    return InferenceSpec(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[tuple[asyncio.Runner, Segmenter]]:
    """One child for all tests that only ask: starting it costs seconds."""
    with asyncio.Runner() as runner:
        segmenter = runner.run(Segmenter(spec(model)).__aenter__())
        yield runner, segmenter
        runner.run(segmenter.__aexit__(None, None, None))


def frames(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 4000, shape, dtype=np.uint16) for shape in shapes]


async def segment_all(segmenter: Segmenter, *pixels: np.ndarray) -> list[Segmentation]:
    return await asyncio.gather(*map(segmenter.segment, pixels))


def test_the_child_answers_as_the_engine_does_here(running, model: Path) -> None:
    runner, segmenter = running
    pixels = frames((96, 130))[0]
    engine, card = build_engine(spec(model))
    (answer,) = runner.run(segment_all(segmenter, pixels))
    assert answer.model_id == card.model_id == segmenter.model_id
    assert answer.confidence == IDENTITY  # no map was fitted to random weights
    assert answer.infer_s > 0
    np.testing.assert_array_equal(answer.probability, predict(pixels, engine.run))


def test_every_answer_comes_with_the_look_of_its_frame(running, model: Path) -> None:
    runner, segmenter = running
    pixels, blank = frames((96, 130))[0], np.zeros((96, 130), np.uint16)
    answer, of_blank = runner.run(segment_all(segmenter, pixels, blank))
    looker = Looker.load()
    assert answer.look is not None
    # bf16 on another number of threads rounds otherwise
    assert np.abs(answer.look.vector - looker(pixels).vector).max() < 0.3
    assert of_blank.look is None
    assert answer.features == of_blank.features == looker.features
    assert answer.seen == model / SEEN_FILE


def test_the_cards_map_of_confidence_comes_with_every_answer(
    model: Path, tmp_path: Path
) -> None:
    fitted = ParticleConfidence(constant=-1.9, per_lead=3.1, per_log_diameter=-1.2)
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    card = load(model)[1].model_copy(update={"particle_confidence": fitted})
    write_card(tmp_path, card)

    async def run() -> list[Segmentation]:
        async with Segmenter(spec(tmp_path)) as segmenter:
            return await segment_all(segmenter, *frames((64, 64), (64, 64), (40, 64)))

    assert [a.confidence for a in asyncio.run(run())] == [fitted] * 3


def test_frames_of_several_shapes_come_back_to_whom_they_belong(running) -> None:
    runner, segmenter = running
    shapes = [(64, 64), (64, 96), (64, 64), (33, 70), (64, 96)]
    answers = runner.run(segment_all(segmenter, *frames(*shapes)))
    assert [answer.probability.shape for answer in answers] == shapes


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_any_real_dtype_goes_through(running, dtype: type) -> None:
    runner, segmenter = running
    pixels = np.zeros((40, 40), dtype)
    pixels[10:20, 10:20] = 7
    (answer,) = runner.run(segment_all(segmenter, pixels))
    assert answer.probability.dtype == np.uint8


def test_a_killed_child_starts_again_and_the_frame_gets_its_result(running) -> None:
    runner, segmenter = running
    assert segmenter._child is not None
    os.kill(segmenter._child._process.pid or 0, signal.SIGKILL)
    (answer,) = runner.run(segment_all(segmenter, *frames((64, 64))))
    assert answer.probability.shape == (64, 64)
    assert segmenter.restarts == 1


def test_stopping_does_not_wait_for_frames_in_the_queue(model: Path) -> None:
    async def run() -> None:
        async with Segmenter(spec(model)) as segmenter:
            waiting = [
                asyncio.ensure_future(segmenter.segment(p))
                for p in frames((64, 64)) * 3
            ]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(task.done() for task in waiting)

    asyncio.run(asyncio.wait_for(run(), 100))


def test_a_gpu_that_is_not_there_is_said_at_start(model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")

    async def run() -> None:
        with pytest.raises(ConfigError, match="PyTorch sees no NVIDIA GPU"):
            await Segmenter(spec(model, device="cuda", engine="auto")).__aenter__()

    asyncio.run(run())


def test_missing_weights_are_said_at_start(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(ModelError):
            await Segmenter(spec(tmp_path)).__aenter__()

    asyncio.run(run())


def test_openvino_and_torch_give_the_same_probability(model: Path) -> None:
    pixels = frames((160, 160))[0]
    openvino, _ = build_engine(spec(model, engine="openvino"))
    torch_fp32, _ = build_engine(spec(model))
    ours = predict(pixels, openvino.run).astype(int)
    reference = predict(pixels, torch_fp32.run).astype(int)
    # bf16 keeps 8 bits of mantissa: a few per cent of probability where it is steepest.
    assert np.abs(ours - reference).mean() < 4


def test_local_contrast_of_faint_grain_survives_the_engines_16_bits() -> None:
    """On a bright support the grain is per mille of the signal: bfloat16 would round it away."""
    grain = np.random.default_rng(8).normal(0, 0.02, (1, 1, 128, 128)) + 6.0
    tiles = grain.astype(np.float32)
    network = build(NPSSEGNET).eval()
    # A network that shows its second channel: particle where contrast is positive.
    shown = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        shown.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1))
        shown.bias.zero_()
    network = nn.Sequential(parted(network)[0], shown).eval()
    with torch.inference_mode():
        exact = network(torch.from_numpy(tiles)).softmax(1)[:, 1].numpy()
    assert exact.std() > 0.1
    np.testing.assert_allclose(OpenVinoEngine(network).run(tiles), exact, atol=0.01)


def test_the_api_process_never_imports_torch() -> None:
    code = "import sys, gpu_server.segment; print('torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "False"


@pytest.mark.gpu
def test_fp16_on_the_gpu_agrees_with_fp32(model: Path) -> None:
    pixels = frames((256, 256))[0]
    fast, _ = build_engine(spec(model, device="cuda", engine="auto"))
    reference, _ = build_engine(spec(model))
    for _ in range(2):  # the second run replays the captured graph
        ours = predict(pixels, fast.run).astype(int)
    assert np.abs(ours - predict(pixels, reference.run).astype(int)).mean() < 2
