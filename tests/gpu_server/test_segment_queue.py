"""The queue in front of the network, with children that fail in every way; no network needed."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from emcopilot.errors import ModelError
from gpu_server import segment as segment_module
from gpu_server.segment import InferenceSpec, Segmentation, Segmenter, Trial

Deed = Callable[[list[np.ndarray]], list[Segmentation]]


def answer(frames: list[np.ndarray]) -> list[Segmentation]:
    return [Segmentation(np.zeros(f.shape, np.uint8), "m", 0.0, "cpu") for f in frames]


class Child:
    """Starts, or fails to, and answers as the test has written."""

    deeds: list[Deed]
    start_failures: list[Exception]
    started = 0
    model_id, device, batch = "m", "cpu", 4

    def __init__(self, _spec: InferenceSpec) -> None:
        self.is_alive = True

    def wait_until_ready(self) -> None:
        if Child.start_failures:
            raise Child.start_failures.pop(0)
        Child.started += 1

    def exchange(self, frames: list[np.ndarray]) -> list[Segmentation]:
        return (Child.deeds.pop(0) if Child.deeds else answer)(frames)

    def come_forward(self) -> None:
        """There is no process to rank."""

    def kill(self) -> None:
        self.is_alive = False


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> type[Child]:
    Child.deeds, Child.start_failures, Child.started = [], [], 0
    monkeypatch.setattr(segment_module, "InferenceChild", Child)
    monkeypatch.setattr(segment_module, "_RESTART_PAUSE_S", 0.01)
    monkeypatch.setattr(segment_module, "_IDLE_LOOK_S", 0.01)
    return Child


def fail(error: Exception) -> Deed:
    def deed(_frames: list[np.ndarray]) -> list[Segmentation]:
        raise error

    return deed


def run(count: int) -> tuple[list[Segmentation | BaseException], Segmenter]:
    async def body() -> tuple[list[Segmentation | BaseException], Segmenter]:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            frames = [np.full((8, 8), number, np.uint8) for number in range(count)]
            waiting = [segmenter.segment(frame) for frame in frames]
            return await asyncio.gather(*waiting, return_exceptions=True), segmenter

    return asyncio.run(body())


def test_one_frame_that_cannot_run_does_not_cost_its_batch(children) -> None:
    def refuse_third(frames: list[np.ndarray]) -> list[Segmentation]:
        if any(frame[0, 0] == 2 for frame in frames):
            raise ModelError("out of memory")
        return answer(frames)

    children.deeds = [refuse_third] * 5
    answers, _ = run(4)
    assert [isinstance(a, ModelError) for a in answers] == [False, False, True, False]


@pytest.mark.parametrize(
    "error",
    [EOFError(), OSError("broken pipe"), TimeoutError(), ValueError("no JSON")],
)
def test_a_child_that_dies_or_babbles_is_replaced_and_the_frame_tried_again(
    children, error: Exception
) -> None:
    children.deeds = [fail(error)]
    answers, segmenter = run(1)
    assert isinstance(answers[0], Segmentation)
    assert (segmenter.restarts, children.started) == (1, 2)


def test_a_frame_that_kills_two_children_is_given_up(children) -> None:
    children.deeds = [fail(EOFError()), fail(EOFError())]
    answers, _ = run(1)
    assert isinstance(answers[0], ModelError)
    assert "died 2 times" in str(answers[0])


def test_frames_wait_for_a_child_that_does_not_start_and_the_reason_is_said(
    children,
) -> None:
    troubles = set[str | None]()

    async def body() -> Segmentation:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            assert segmenter.trouble is None
            children.deeds = [fail(EOFError())]
            children.start_failures = [ModelError("the weights have gone")] * 5
            waiting = asyncio.ensure_future(segmenter.segment(np.zeros((4, 4))))
            while not waiting.done():
                troubles.add(segmenter.trouble)
                await asyncio.sleep(0.002)
            assert segmenter.trouble is None
            return await waiting

    assert isinstance(asyncio.run(body()), Segmentation)
    assert any("the weights have gone" in (trouble or "") for trouble in troubles)


def test_a_child_that_dies_while_idle_is_replaced_before_the_next_frame(
    children,
) -> None:
    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            assert segmenter._child is not None
            segmenter._child.kill()
            assert "has ended" in (segmenter.trouble or "")
            while segmenter.trouble:
                await asyncio.sleep(0.002)

    asyncio.run(body())
    assert children.started == 2


def test_a_stop_cancels_what_is_under_way(children) -> None:
    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter:
            children.start_failures = [ModelError("never")] * 10**4
            children.deeds = [fail(EOFError())]
            waiting = asyncio.ensure_future(segmenter.segment(np.zeros((4, 4))))
            while not segmenter.trouble:
                await asyncio.sleep(0.002)
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(body())


# Swaps


def test_a_swap_turns_between_two_batches_and_ends_the_old_child(children) -> None:
    under_way, go_on = threading.Event(), threading.Event()

    def slowly(frames: list[np.ndarray]) -> list[Segmentation]:
        under_way.set()
        assert go_on.wait(10)
        return answer(frames)

    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            old = segmenter._child
            children.deeds = [slowly]
            waiting = asyncio.ensure_future(segmenter.segment(np.zeros((4, 4))))
            await asyncio.to_thread(under_way.wait, 10)
            swapping = asyncio.ensure_future(segmenter.swap(InferenceSpec("other")))
            await asyncio.sleep(0.05)
            # The batch under way is the old child's to the end.
            assert (segmenter._child, swapping.done()) == (old, False)
            go_on.set()
            await waiting
            await swapping
            assert segmenter._child is not old
            assert segmenter.spec.model == "other"
            assert old is not None
            while old.is_alive:
                await asyncio.sleep(0.002)

    asyncio.run(body())


def test_a_new_child_is_warmed_with_the_shapes_seen_lately(children) -> None:
    shown: list[tuple[int, tuple[int, ...]]] = []

    def note(frames: list[np.ndarray]) -> list[Segmentation]:
        shown.append((len(frames), frames[0].shape))
        return answer(frames)

    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            for side in (4, 5, 6, 7, 7):
                await segmenter.segment(np.zeros((side, side)))
            children.deeds = [note] * 10
            await segmenter.swap(InferenceSpec())

    asyncio.run(body())
    sides = (5, 6, 7)  # the last three; alone, and as many as go together
    assert shown == [(count, (side, side)) for side in sides for count in (1, 4)]


def test_a_frame_that_cannot_be_run_bars_no_other_model(children) -> None:
    shown: list[tuple[int, ...]] = []

    def note(frames: list[np.ndarray]) -> list[Segmentation]:
        shown.append(frames[0].shape)
        return answer(frames)

    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            children.deeds = [fail(ModelError("too large"))]
            with pytest.raises(ModelError):
                await segmenter.segment(np.zeros((9, 9)))
            children.deeds = [note] * 10
            await segmenter.swap(InferenceSpec("other"))

    asyncio.run(body())
    assert shown == []


@pytest.mark.parametrize("what", ["start", "commit", "warming"])
def test_a_swap_that_fails_leaves_the_live_child_as_it_was(children, what: str) -> None:
    async def refuse(_trial: object) -> None:
        raise ModelError("no")

    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            await segmenter.segment(np.zeros((4, 4)))
            old = segmenter._child
            if what == "start":
                children.start_failures = [ModelError("no")]
            if what == "warming":
                children.deeds = [fail(EOFError())]
            with pytest.raises(ModelError):
                await segmenter.swap(
                    InferenceSpec("other"), refuse if what == "commit" else None
                )
            await segmenter.segment(np.zeros((4, 4)))
            assert segmenter._child is old
            assert (segmenter.spec.model, segmenter.restarts) == ("base", 0)

    asyncio.run(body())


def test_a_child_that_dies_after_a_swap_starts_again_with_the_new_weights(
    children, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Noted(Child):
        def __init__(self, spec: InferenceSpec) -> None:
            super().__init__(spec)
            asked.append(spec.model)

    monkeypatch.setattr(segment_module, "InferenceChild", Noted)

    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            await segmenter.swap(InferenceSpec("other"))
            children.deeds = [fail(EOFError())]
            await segmenter.segment(np.zeros((4, 4)))
            assert segmenter.restarts == 1

    asyncio.run(body())
    assert asked == ["base", "other", "other"]


def test_a_new_child_gives_way_until_it_is_the_live_one(
    children, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []

    class Noted(Child):
        def __init__(self, spec: InferenceSpec) -> None:
            super().__init__(spec)
            said.append((spec.model, spec.gives_way))

        def come_forward(self) -> None:
            said.append("comes forward")

    async def commit(_trial: object) -> None:
        said.append("committed")

    monkeypatch.setattr(segment_module, "InferenceChild", Noted)

    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            await segmenter.swap(InferenceSpec("other"), commit)
            children.deeds = [fail(EOFError())]
            await segmenter.segment(np.zeros((4, 4)))

    asyncio.run(body())
    assert said == [
        ("base", False), ("other", True), "committed", "comes forward", ("other", False),
    ]  # fmt: skip


@pytest.mark.parametrize("error", [EOFError(), TimeoutError(), ValueError("no JSON")])
def test_a_trial_whose_answer_nobody_heard_is_not_asked_again(
    children, error: Exception
) -> None:
    async def body() -> None:
        child = Child(InferenceSpec())
        children.deeds = [fail(error)]
        with pytest.raises((ModelError, ValueError)):
            await Trial(child).segment(np.zeros((4, 4)))  # type: ignore[arg-type]
        assert not child.is_alive

    asyncio.run(body())


def test_another_model_is_the_way_out_where_the_live_one_does_not_start(
    children,
) -> None:
    async def body() -> None:
        async with Segmenter(InferenceSpec()) as segmenter, asyncio.timeout(20):
            children.deeds = [fail(EOFError())]
            children.start_failures = [ModelError("gone")] * 3
            waiting = asyncio.ensure_future(segmenter.segment(np.zeros((4, 4))))
            while "gone" not in (segmenter.trouble or ""):
                await asyncio.sleep(0.001)
            children.start_failures = []
            await segmenter.swap(InferenceSpec("other"))
            assert isinstance(await waiting, Segmentation)
            assert segmenter.trouble is None

    asyncio.run(body())
