"""Sessions by one more model: every frame once, and nothing kept of what ended long ago."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from emcopilot.model_messages import RecomputationAnswer
from gpu_server import promotion_rows, recompute
from gpu_server.recompute import CHUNK, Recomputation
from gpu_server.registry import Registry
from gpu_server.side_results import lacking
from gpu_server.tables import frames, results


class Bench:
    """Stands in for the quiet child: notes what it computes, and keeps an empty result."""

    def __init__(self, lab, *, broken: Sequence[int] = ()) -> None:
        self.lab, self.broken = lab, broken
        self.computed: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None

    async def fill(self, model_id: str, frame_ids: Sequence[int]) -> dict[int, str]:
        whole = [one for one in frame_ids if one not in self.broken]
        self.computed += frame_ids
        with self.lab.store.database.write() as connection:
            for frame_id in whole:
                connection.execute(results.insert().values(**_result(frame_id)))
        self.meanwhile()
        return {one: "torn" for one in frame_ids if one in self.broken}


def _result(frame_id: int) -> dict[str, object]:
    return {
        "frame_id": frame_id,
        "session_id": 1,
        "model_id": "b",
        "counts": False,
        "saved_at": 1.0,
        "particle_count": 0,
        "counted_count": 0,
        "unit": "px",
        "summary": {},
        "timings": {},
        "diameters": b"",
    }


@pytest.fixture
def registry(lab, papers) -> Registry:
    made = Registry(lab.store)
    made.open()
    for name in ("a", "b"):
        made.add(papers[name], "imported", "ada")
    with lab.store.database.write() as connection:
        promotion_rows.record(connection, "a", "test", at=1.0)
    return made


def film(lab, count: int) -> None:
    for _ in range(count):
        lab.add([20], pixel_size_nm=0.5)


def told(recomputation: Recomputation, session_id: int) -> RecomputationAnswer:
    told = recomputation.progress(session_id)
    return next(one for one in told if one.model_id == "b")


def told_or_none(recomputation: Recomputation, session_id: int) -> int | None:
    known = {one.model_id: one for one in recomputation.progress(session_id)}
    return known["b"].failed if "b" in known else None


def run(lab, registry: Registry, bench: Bench, sessions: int = 1) -> Recomputation:
    """Compute sessions by "b", one after the other, to the end."""

    async def whole() -> Recomputation:
        recomputation = Recomputation(lab.store, registry, bench)  # type: ignore[arg-type]
        for session_id in range(1, sessions + 1):
            await recomputation.start(session_id, "b", "ada")
            while told(recomputation, session_id).state in {"waiting", "running"}:
                await asyncio.sleep(0)
        await recomputation.close()
        return recomputation

    return asyncio.run(whole())


def test_a_run_goes_on_from_the_frame_that_it_reached(
    lab, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(lab, 2 * CHUNK + 3)
    begun: list[int] = []

    def noting(*given, after: int) -> list[int]:
        begun.append(after)
        return lacking(*given, after=after)

    monkeypatch.setattr(recompute, "lacking", noting)
    bench = Bench(lab, broken=[2, CHUNK + 1])
    answer = told(run(lab, registry, bench), 1)
    assert bench.computed == list(range(1, 2 * CHUNK + 4))
    # From the start again once, at the end, for what was processed late.
    assert begun == [0, CHUNK, 2 * CHUNK, 2 * CHUNK + 3, 0]
    assert (answer.failed, answer.done) == (2, 2 * CHUNK + 1)
    assert (answer.state, answer.reason) == ("stopped", "torn")


def test_a_frame_that_was_processed_after_younger_ones_is_computed_too(
    lab, registry: Registry
) -> None:
    film(lab, 2 * CHUNK)
    first = frames.update().where(frames.c.id == 1)
    with lab.store.database.write() as connection:
        connection.execute(first.values(state="queued"))
    bench = Bench(lab)

    def process_the_first() -> None:
        with lab.store.database.write() as connection:
            connection.execute(first.values(state="processed"))

    bench.meanwhile = process_the_first
    run(lab, registry, bench)
    assert bench.computed == [*range(2, 2 * CHUNK + 1), 1]


def test_of_runs_that_ended_only_the_last_are_remembered(
    lab, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        lab.add([20], folder=f"acquisitions/{number}")
    monkeypatch.setattr(recompute, "ENDED_KEPT", 2)
    recomputation = run(lab, registry, Bench(lab, broken=[1, 2, 3, 4, 5]), sessions=5)
    failed = [told_or_none(recomputation, number) for number in range(1, 6)]
    assert failed == [None, None, 1, 1, 1]
