"""Promote and roll back through the real queue with real, small networks."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from emcopilot.errors import ModelError
from gpu_server import promotion_rows
from gpu_server.golden import read_masks
from gpu_server.inference_child import InferenceSpec
from gpu_server.promotion import (
    BusyError,
    NeedsOverrideError,
    NothingToUndoError,
    Promotion,
)
from gpu_server.registry import Registry
from gpu_server.segment import Segmentation, Segmenter
from gpu_server.side_segmenter import SideSegmenter
from gpu_server.tables import audit, domains, events, jobs


def spec(folder: Path) -> InferenceSpec:
    return InferenceSpec(model=str(folder), device="cpu", engine="torch", warm_px=0)


@dataclass
class Site:
    """A server's models with the first one live, and whoever sends frames."""

    registry: Registry
    promotion: Promotion
    segmenter: Segmenter
    ids: tuple[str, str]
    answers: list[Segmentation] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    sending: bool = True

    async def send(self) -> None:
        """Send frames one after the other, as a camera does."""
        pixels = np.random.default_rng(1).integers(0, 999, (96, 96), np.uint16)
        while self.sending:
            started = time.monotonic()
            self.answers.append(await self.segmenter.segment(pixels))
            self.gaps_s.append(time.monotonic() - started)
            await asyncio.sleep(0.05)

    @property
    def live(self) -> str | None:
        with self.registry.database.read() as connection:
            return self.registry.live(connection)


Body = Callable[[Site], Coroutine[None, None, None]]


@asynccontextmanager
async def site_of(registry: Registry, first: Path, second: Path) -> AsyncIterator[Site]:
    live = registry.add(first, "imported", "ada")
    other = registry.add(second, "adapted", "job 1", verdict="promote")
    with registry.database.write() as connection:
        promotion_rows.record(connection, live, "settings", at=1.0)
    async with Segmenter(spec(registry.folder(live))) as segmenter:
        promotion = Promotion(registry, segmenter, spec)
        yield Site(registry, promotion, segmenter, (live, other))
        await promotion.close()


@pytest.fixture
def registry(lab) -> Registry:
    made = Registry(lab.store)
    made.open()
    return made


@pytest.fixture
def run(registry: Registry, papers, paper_children) -> Callable[[Body], None]:
    """Carry out a test on a site whose models are of paper."""

    def carry_out(body: Body) -> None:
        async def whole() -> None:
            site = site_of(registry, papers["a"], papers["b"])
            async with site as one, asyncio.timeout(60):
                await body(one)

        asyncio.run(whole())

    return carry_out


def test_row_audit_event_and_job_are_of_one_transaction(run) -> None:
    async def body(site: Site) -> None:
        _, second = site.ids
        with site.registry.database.write() as connection:
            where = {"name": "BF", "created_at": 1.0, "seen_at": 1.0, "features": "f"}
            domain = connection.execute(
                domains.insert().values(**where, look=b"").returning(domains.c.id)
            ).scalar_one()
            connection.execute(
                jobs.insert().values(
                    domain_id=domain,
                    state="awaiting_operator",
                    preset="quick",
                    start_model="base",
                    frame_count=9,
                    who="ada",
                    queued_at=1.0,
                    candidate=second,
                )
            )
        site.registry.add(
            site.registry.folder(second), "adapted", "job 1", domain_id=domain
        )
        await site.promotion.promote(second, "ada", reason="good")
        with site.registry.database.read() as connection:
            line = connection.execute(
                sa.select(audit).where(audit.c.action == "promote model")
            ).all()[-1]
            kinds = connection.scalars(
                sa.select(events.c.kind).order_by(events.c.id.desc()).limit(2)
            ).all()
            assert connection.scalar(sa.select(jobs.c.state)) == "promoted"
            assert connection.scalar(sa.select(domains.c.model_id)) == second
        assert (line.who, line.subject) == ("ada", f"model {second}")
        assert line.detail["reason"] == "good"
        assert set(kinds) == {"model", "job"}
        await site.promotion.rollback("ada")
        with site.registry.database.read() as connection:
            assert connection.scalar(sa.select(domains.c.model_id)) is None

    run(body)


def test_of_two_operators_one_wins_and_the_other_is_told_who(run) -> None:
    async def body(site: Site) -> None:
        _, second = site.ids
        winning = asyncio.create_task(site.promotion.promote(second, "ada"))
        await asyncio.sleep(0)
        for late in (
            site.promotion.promote(second, "bob"),
            site.promotion.rollback("bob"),
        ):
            with pytest.raises(BusyError, match=f"ada is promoting {second}"):
                await late
        first_change = await winning
        # Pressed again afterwards: nothing more happens.
        assert await site.promotion.promote(second, "bob") == first_change

    run(body)


def test_a_candidate_that_lost_or_was_not_judged_needs_a_word_that_the_audit_keeps(
    run,
) -> None:
    async def body(site: Site) -> None:
        _, second = site.ids
        registry = site.registry
        registry.add(registry.folder(second), "adapted", "job 1", verdict="reject")
        with pytest.raises(NeedsOverrideError, match="worse than the incumbent"):
            await site.promotion.promote(second, "ada")
        assert site.live == site.ids[0]
        await site.promotion.promote(second, "ada", override=True, reason="I saw it")
        with registry.database.read() as connection:
            line = connection.execute(
                sa.select(audit).order_by(audit.c.id.desc())
            ).first()
        assert line is not None
        assert line.detail["override"] is True
        assert line.detail["verdict"] == "reject"
        await site.promotion.rollback("ada")
        # Taken back is not trusted: it needs the word again.
        with pytest.raises(NeedsOverrideError):
            await site.promotion.promote(second, "ada")

    run(body)


def test_a_verdict_holds_against_the_model_that_it_compares_with_and_no_other(
    run, papers, judge
) -> None:
    """Two domains' candidates beat the same incumbent; nobody compared them with each other."""

    async def body(site: Site) -> None:
        first, second = site.ids
        judge(papers["c"], incumbent=first)
        third = site.registry.add(papers["c"], "adapted", "job 2", verdict="promote")
        await site.promotion.promote(second, "ada")
        told = f"judged against {first}, but {second} is live now.*run its job again"
        with pytest.raises(NeedsOverrideError, match=told):
            await site.promotion.promote(third, "ada")
        assert site.live == second
        await site.promotion.rollback("ada")
        await site.promotion.promote(third, "ada")  # its incumbent is live again
        # What an operator put in place before needs no word, whatever it was judged against.
        await site.promotion.promote(first, "ada")
        await site.promotion.promote(third, "domain 1", reason="back in its domain")

    run(body)


def test_a_candidate_that_forgets_takes_a_word_whatever_its_verdict(
    run, papers, judge
) -> None:
    async def body(site: Site) -> None:
        replay = [
            {"domain": "simulated BF", "is_forgotten": True},
            {"domain": "gold on carbon", "is_forgotten": True},
            {"domain": "simulated HAADF", "is_forgotten": False},
        ]
        judge(papers["c"], incumbent=site.ids[0], replay=replay)
        site.registry.add(papers["c"], "adapted", "job 2", verdict="doubtful")
        told = "forgets what the model before it knew: simulated BF, gold on carbon;"
        with pytest.raises(NeedsOverrideError, match=told):
            await site.promotion.promote("c", "ada")
        await site.promotion.promote("c", "ada", override=True, reason="BF is done")

    run(body)


def test_a_candidate_older_than_that_figure_was_judged_against_its_jobs_model(
    run, papers
) -> None:
    async def body(site: Site) -> None:
        first, second = site.ids
        row = {"name": "BF", "created_at": 1.0, "seen_at": 1.0, "features": "f"}
        job = {"domain_id": 1, "preset": "quick", "frame_count": 9, "who": "ada"}
        told = {"state": "awaiting_operator", "start_model": first, "queued_at": 1.0}
        with site.registry.database.write() as connection:
            connection.execute(domains.insert().values(**row, look=b""))
            connection.execute(jobs.insert().values(**job, **told, candidate="c"))
        site.registry.add(papers["c"], "adapted", "job 1", job_id=1, verdict="promote")
        await site.promotion.promote(second, "ada")
        with pytest.raises(NeedsOverrideError, match=f"judged against {first}"):
            await site.promotion.promote("c", "ada")
        await site.promotion.promote(
            "c", "ada", override=True, reason="I compared them"
        )

    run(body)


def test_a_candidate_that_does_not_work_leaves_the_live_one_untouched(run) -> None:
    async def body(site: Site) -> None:
        first, second = site.ids
        folder = site.registry.folder(second)
        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1])
        with pytest.raises(ModelError, match="damaged"):
            await site.promotion.promote(second, "ada")
        child = site.segmenter._child
        weights.write_bytes(whole)
        card = (folder / "card.json").read_text()
        (folder / "card.json").write_text(card.replace("above", "below"))
        with pytest.raises(ModelError, match="do not fit"):
            await site.promotion.promote(second, "ada")
        assert site.segmenter._child is child
        assert site.live == first
        assert site.promotion.doing is None
        answer = await site.segmenter.segment(np.zeros((64, 64)))
        assert answer.model_id == first
        with pytest.raises(LookupError, match="there is no model nobody"):
            await site.promotion.promote("nobody", "ada")
        with pytest.raises(NothingToUndoError):
            await site.promotion.rollback("ada")

    run(body)


# Under load


@asynccontextmanager
async def load(site: Site) -> AsyncIterator[None]:
    """Let three cameras send frames meanwhile, and look at all answers afterwards."""
    senders = [asyncio.create_task(site.send()) for _ in range(3)]
    while len(site.answers) < 5:
        await asyncio.sleep(0.01)
    yield
    site.sending = False
    await asyncio.gather(*senders)
    order = [answer.model_id for answer in site.answers]
    assert set(order) == set(site.ids)
    assert order[0] == site.ids[0]
    assert all(answer.probability.shape == (96, 96) for answer in site.answers)
    assert site.segmenter.restarts == 0


async def promote_second(site: Site) -> promotion_rows.Change:
    """Promote, and hold it to what is promised of the frames around it."""
    first, second = site.ids
    change = await site.promotion.promote(second, "ada", reason="smaller particles")
    promoted_at = len(site.answers)
    assert (change.model_id, change.replaced, site.live) == (second, first, second)
    # Effective at the next frame: at most what is under way and what waited is before it.
    site.answers.append(await site.segmenter.segment(np.zeros((96, 96))))
    order = [answer.model_id for answer in site.answers]
    assert order[-1] == second
    assert second in order[promoted_at - 3 :]
    return change


def test_under_load_no_frame_waits_is_lost_or_is_without_its_model(run) -> None:
    async def body(site: Site) -> None:
        async with load(site):
            change = await promote_second(site)
            back = await site.promotion.rollback("bob", reason="worse on thick support")
            assert (back.model_id, back.undoes) == (site.ids[0], change.id)
            answer = await site.segmenter.segment(np.zeros((96, 96)))
            assert answer.model_id == site.ids[0]

    run(body)


@pytest.mark.timeout(300)
def test_real_networks_change_under_load_and_the_new_one_is_tested(
    registry: Registry, two_models: dict[str, Path]
) -> None:
    async def whole() -> None:
        async with site_of(registry, *two_models.values()) as site:
            async with asyncio.timeout(280), load(site):
                await promote_second(site)
            with site.registry.database.read() as connection:
                found = site.registry.find(connection, site.ids[1])
            assert found.tested_at is not None
            assert read_masks(site.registry.golden_file(site.ids[1]).read_bytes())

    asyncio.run(whole())


# The quiet child


def test_the_quiet_child_runs_one_model_at_a_time_and_ends_when_idle(
    papers, paper_children
) -> None:
    pixels = np.random.default_rng(1).integers(0, 999, (64, 64), np.uint16)

    async def body() -> None:
        quiet = SideSegmenter(spec(papers["a"]), idle_s=0.1)
        async with quiet, asyncio.timeout(20):
            assert not quiet.is_running
            for model_id in ("a", "b"):
                async with quiet.using(papers[model_id]) as trial:
                    assert (await trial.segment(pixels)).model_id == model_id
                    assert quiet.is_wanted
            while quiet.is_running:
                await asyncio.sleep(0.02)
            (papers["a"] / "card.json").write_text("{}")
            with pytest.raises(ModelError, match="do not fit"):
                async with quiet.using(papers["a"]):
                    pass
            assert not quiet.is_running or quiet.is_wanted is False

    asyncio.run(body())
