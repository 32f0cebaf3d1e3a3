"""Frames join domains, reservoirs stay bounded and fair, sessions raise the alarm."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from scipy import ndimage

from emcopilot.decode import Frame
from emcopilot.errors import StoreError
from emcopilot.frame_look import (
    LOOK_WIDTH,
    NETWORK_WIDTH,
    STATISTICS,
    FrameLook,
    ruined,
)
from emcopilot.seen import SEEN_FILE, Seen
from emcopilot.simulate import demo_scene
from emcopilot.simulate import film as simulated_film
from gpu_server import domains, reservoir, shift_rows
from gpu_server.accumulate import Accumulator
from gpu_server.inference_child import Segmentation
from gpu_server.tables import domains as domain_table
from gpu_server.tables import events, frames, looks, models, promotions
from gpu_server.tables import reservoir as reservoir_table
from models.look import Looker

HAADF = {"polarity": 0.4, "structure": 1.5, "sharpness": -0.9, "grain_px": 4.0}
BF = HAADF | {"polarity": -0.4}
UNSET = "unset"
AT_BF = 15.0
"""Where bright field lies in these tests; HAADF lies at 0."""


def look(place: float, number: int, statistics: dict[str, float]) -> FrameLook:
    """Draw a look around a place on the first axis, always the same for a number."""
    rng = np.random.default_rng(number)
    vector = np.zeros(LOOK_WIDTH, np.float32)
    vector[:NETWORK_WIDTH] = 0.3 * rng.standard_normal(NETWORK_WIDTH)
    vector[0] += place
    for name, value in statistics.items():
        vector[NETWORK_WIDTH + STATISTICS.index(name)] = value
    return FrameLook(vector)


@dataclass
class Film:
    """Delivers frames to a real store and hands their looks to the accumulator."""

    lab: object
    accumulate: Accumulator
    seen: Path | None = None
    model_id: str = "threshold"
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0))
    number: int = 0
    real: FrameLook | str | None = UNSET

    def show_pixels(
        self, shown: Iterable[np.ndarray], looker: Looker, *, is_empty: bool = False
    ) -> list[int]:
        """Show frames as they are, each with its real look."""
        taken = []
        for pixels in shown:
            found = ruined(pixels) is None
            self.real = looker(pixels) if found else None
            taken += self.show(1, features=looker.features, is_empty=is_empty)
        self.real = UNSET
        return taken

    def flaws(self, frame_ids: list[int]) -> list[str | None]:
        """Return the flaws of frames, in order."""
        chosen = sa.select(looks).where(looks.c.frame_id.in_(frame_ids))
        return [row.flaw for row in self.rows(chosen.order_by(looks.c.frame_id))]

    def show(
        self,
        count: int,
        place: float = 0.0,
        statistics: dict[str, float] = HAADF,
        *,
        folder: str = "watched/run1",
        change: Callable[[Frame], Frame] = lambda frame: frame,
        features: str = "net",
        is_empty: bool = False,
    ) -> list[int]:
        async def body() -> list[int]:
            return [
                await self._one(place, statistics, folder, change, features, is_empty)
                for _ in range(count)
            ]

        return asyncio.run(body())

    async def _one(  # noqa: PLR0917
        self, place, statistics, folder, change, features, is_empty
    ) -> int:
        self.number += 1
        pixels = self.lab.discs([] if is_empty else [20, 30, 24])
        pixels[0, 0] = self.number  # no two files alike
        self.lab.deliver(pixels, folder)
        leased, measured = self.lab.process(pixels)
        measured = replace(
            measured, frame=change(measured.frame), model_id=self.model_id
        )
        segmentation = Segmentation(
            np.zeros((1, 1), np.uint8),
            self.model_id,
            0.01,
            "cpu",
            look=look(place, self.number, statistics)
            if self.real is UNSET
            else self.real,
            features=features,
            seen=self.seen,
        )
        await self.accumulate(leased, measured, segmentation)
        return leased.frame_id

    def rows(self, query) -> list[sa.Row]:
        with self.lab.store.read() as connection:
            return list(connection.execute(query))

    def told(self) -> list[shift_rows.Shift]:
        found = self.rows(sa.select(events).where(events.c.kind == "domain"))
        data = [row.data for row in found if row.data["change"] == "shift"]
        return [shift_rows._read(one) for one in data]


@pytest.fixture
def film(lab) -> Film:
    return Film(lab, Accumulator(lab.store))


@pytest.fixture
def seen_haadf(tmp_path) -> Path:
    """What a model that saw HAADF alone was trained on."""
    shown = [look(0, 10_000 + n, HAADF).vector for n in range(60)]
    path = tmp_path / SEEN_FILE
    Seen("net", np.stack(shown), np.ones(60, np.float32), 3.0, 0.2).write(path)
    return path


def known_domains(film: Film) -> list[domains.DomainRow]:
    with film.lab.store.read() as connection:
        return domains.domain_list(connection)


# Domains


def test_three_frames_that_agree_make_a_domain_and_two_do_not(film) -> None:
    film.show(2)
    assert known_domains(film) == []
    film.show(1)
    (domain,) = known_domains(film)
    assert (domain.frame_count, domain.reservoir_count) == (3, 3)


def test_an_odd_frame_opens_no_domain_that_anyone_sees(film) -> None:
    film.show(5)
    film.show(1, place=AT_BF, statistics=BF)
    film.show(5)
    (domain,) = known_domains(film)
    assert domain.frame_count == 10


def test_another_mode_is_another_domain_without_any_metadata(film) -> None:
    film.show(6)
    film.show(6, place=AT_BF, statistics=BF)
    assert sorted(d.frame_count for d in known_domains(film)) == [6, 6]
    assert len({d.name for d in known_domains(film)}) == 2


def test_a_specimen_that_changes_slowly_stays_in_its_domain(film) -> None:
    for step in range(60):
        film.show(1, place=0.25 * step)  # as far as bright field, in the end
    (domain,) = known_domains(film)
    assert domain.frame_count == 60


def test_metadata_split_what_looks_alike(film) -> None:
    for modality in ("HAADF", "BF"):
        film.show(3, change=lambda f, m=modality: replace(f, modality=m))
    film.show(3, change=lambda f: replace(f, modality="BF", pixel_size_nm=(0.3, 0.3)))
    film.show(3, change=lambda f: replace(f, modality="BF", pixel_size_nm=(0.9, 0.9)))
    assert (
        len(known_domains(film)) == 3
    )  # the first of BF to say its pixel size says it for all


@pytest.mark.parametrize("fact", ["detector", "sample"])
def test_detectors_and_samples_split_what_looks_alike(film, fact) -> None:
    for told in ("one", "other"):
        film.show(3, change=lambda f, t=told: replace(f, **{fact: t}))
    film.show(2)  # nobody says of which: that forbids neither
    found = known_domains(film)
    assert {getattr(domain, fact) for domain in found} == {"one", "other"}
    assert sum(domain.frame_count for domain in found) == 8


def test_looks_of_another_network_share_no_domain(film) -> None:
    film.show(3)
    film.show(3, features="another")
    assert len(known_domains(film)) == 2


def test_domains_and_reservoirs_survive_a_restart(film) -> None:
    film.show(4)
    film.accumulate = Accumulator(film.lab.store)
    film.show(4)
    (domain,) = known_domains(film)
    assert (domain.frame_count, domain.reservoir_count) == (8, 8)


def test_a_frame_that_is_processed_again_counts_once(film, lab) -> None:
    (frame_id,) = film.show(1)
    film.show(3)
    lab.store.reprocess_frame(frame_id, "test")
    film.number = 0  # the same look again
    leased, measured = lab.process(lab.discs([20, 30]))
    segmentation = Segmentation(
        np.zeros((1, 1), np.uint8),
        "newer",
        0.01,
        "cpu",
        look=look(0, 1, HAADF),
        features="net",
    )
    asyncio.run(film.accumulate(leased, measured, segmentation))
    (domain,) = known_domains(film)
    assert domain.frame_count == 4
    rows = film.rows(sa.select(looks).where(looks.c.frame_id == frame_id))
    assert [row.model_id for row in rows] == ["newer"]


def test_a_backend_that_does_not_look_changes_nothing(film) -> None:
    film.show(5, features="")
    assert film.rows(sa.select(looks)) == []
    assert film.accumulate.failures == 0


# Flaws


def test_a_defocused_frame_is_flagged_and_not_learnt(film) -> None:
    film.show(6)
    (frame_id,) = film.show(1, statistics=HAADF | {"sharpness": -1.4})
    (row,) = film.rows(sa.select(looks).where(looks.c.frame_id == frame_id))
    assert (row.flaw, row.domain_id) == ("defocused", None)
    (domain,) = known_domains(film)
    assert domain.reservoir_count == 6


def test_soft_frames_that_do_not_end_are_a_look_of_their_own(film) -> None:
    film.show(6)
    film.show(20, place=AT_BF, statistics=BF | {"sharpness": -1.4})
    assert len(known_domains(film)) == 2


def test_a_blank_frame_is_flagged(film) -> None:
    film.show(3)
    noise = {"structure": 0.0, "sharpness": -0.6}
    (frame_id,) = film.show(1, statistics=noise, is_empty=True)
    (row,) = film.rows(sa.select(looks).where(looks.c.frame_id == frame_id))
    assert row.flaw == "blank"


def test_flaws_are_told_with_the_domain(film, lab) -> None:
    film.show(6)
    film.show(2, statistics=HAADF | {"sharpness": -1.4})
    (domain,) = known_domains(film)
    with lab.store.read() as connection:
        assert domains.flaws(connection, domain.id) == {"defocused": 2}


# The reservoir


def test_the_reservoir_is_bounded_and_spread_over_time(film, monkeypatch) -> None:
    monkeypatch.setattr(reservoir, "MOST_KEPT", 20)
    shown = film.show(80)
    (domain,) = known_domains(film)
    with film.lab.store.read() as connection:
        kept = [f.frame_id for f in domains.reservoir_frames(connection, domain.id)]
    assert len(kept) == 20
    halves = [sum(low <= shown.index(k) < low + 40 for k in kept) for low in (0, 40)]
    assert min(halves) >= 4  # of 20 even draws fewer come once in 200 times


def test_rejected_and_superseded_frames_leave(film, lab) -> None:
    shown = film.show(5)
    lab.store.reject_frame(shown[0], "test")
    with lab.store.database.write() as connection:
        connection.execute(
            frames.update().where(frames.c.id == shown[1]).values(state="superseded")
        )
    (domain,) = known_domains(film)
    with lab.store.read() as connection:
        kept = [f.frame_id for f in domains.reservoir_frames(connection, domain.id)]
    assert kept == shown[2:]
    assert domain.reservoir_count == 3
    lab.store.restore_frame(shown[0], "test")
    with lab.store.read() as connection:
        assert len(domains.reservoir_frames(connection, domain.id)) == 4


def test_of_many_frames_as_many_as_asked_come_evenly(film, lab) -> None:
    shown = film.show(9)
    (domain,) = known_domains(film)
    with lab.store.read() as connection:
        chosen = domains.reservoir_frames(connection, domain.id, 3)
    assert [one.frame_id for one in chosen] == [shown[0], shown[4], shown[8]]
    assert all(lab.store.blob_path(one.sha256).is_file() for one in chosen)


def test_odd_frames_do_not_pile_up_for_ever(film, monkeypatch) -> None:
    monkeypatch.setattr(reservoir, "_MOST_PROVISIONAL", 4)
    for step in range(12):
        film.show(1, place=20.0 * step)
    assert len(film.rows(sa.select(domain_table))) == 4
    assert len(film.rows(sa.select(reservoir_table))) == 4
    assert len(film.rows(sa.select(looks))) == 12


# The alarm


def test_a_model_that_knows_haadf_alone_notices_bright_field(film, seen_haadf) -> None:
    film.seen = seen_haadf
    film.show(20)
    assert film.told() == []
    film.show(10, place=AT_BF, statistics=BF)
    shift = film.told()[-1]
    assert shift.state == "shifted"
    assert "contrast inverted" in shift.reason
    assert shift.proposal.action == "adapt"
    assert shift.proposal.domain_id == known_domains(film)[0].id


def test_an_unchanged_domain_raises_no_alarm(film, seen_haadf) -> None:
    film.seen = seen_haadf
    film.show(60)
    assert film.told() == []


def test_a_few_odd_frames_raise_no_alarm(film, seen_haadf) -> None:
    film.seen = seen_haadf
    for _ in range(5):
        film.show(3, place=AT_BF, statistics=BF)
        film.show(4)
    assert film.told() == []


def test_coming_back_ends_the_alarm(film, seen_haadf) -> None:
    film.seen = seen_haadf
    film.show(10)
    film.show(10, place=AT_BF, statistics=BF)
    film.show(10)
    assert [shift.state for shift in film.told()][-1] == "ok"


def test_a_restart_neither_forgets_an_alarm_nor_tells_it_twice(
    film, seen_haadf
) -> None:
    film.seen = seen_haadf
    film.show(10)
    film.show(15, place=AT_BF, statistics=BF)
    told = len(film.told())
    film.accumulate = Accumulator(film.lab.store)
    film.show(10, place=AT_BF, statistics=BF)
    assert len(film.told()) == told


def test_an_alarm_that_the_disk_did_not_take_is_told_with_the_next_frame(
    film, seen_haadf, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[bool] = []
    known = shift_rows.last_undone

    def last_undone(connection: sa.Connection) -> str | None:
        if not refused and shift_rows.last_shift(connection, 1):
            refused.append(True)
            raise StoreError("database or disk is full")
        return known(connection)

    monkeypatch.setattr(shift_rows, "last_undone", last_undone)
    film.seen = seen_haadf
    film.show(10)
    film.show(10, place=AT_BF, statistics=BF)
    assert (refused, film.accumulate.failures) == ([True], 1)
    assert film.told()[0].state == "shifted"


def test_without_knowing_the_training_a_session_that_changes_is_noticed(film) -> None:
    film.show(20)
    film.show(10, place=AT_BF, statistics=BF)
    assert film.told()[-1].state == "shifted"


def test_a_damaged_account_of_the_training_is_none(film, tmp_path) -> None:
    film.seen = tmp_path / SEEN_FILE
    film.seen.write_bytes(b"rubbish")
    film.show(5)
    assert film.accumulate.failures == 0
    assert known_domains(film)[0].frame_count == 5


# Going back


def add_model(lab, model_id: str) -> None:
    with lab.store.database.write() as connection:
        connection.execute(
            models.insert().values(
                model_id=model_id,
                source="adapted",
                folder=f"models/{model_id}",
                sha256="0" * 64,
                added_at=1.0,
                added_by="test",
            )
        )


def remember(film: Film, domain_id: int, model_id: str, *, selects: bool) -> None:
    add_model(film.lab, model_id)
    with film.lab.store.database.write() as connection:
        domains.remember_model(
            connection, domain_id, model_id, selects, who="test", at=2.0
        )


def test_going_back_to_a_domain_proposes_its_model(film) -> None:
    film.show(5)
    remember(film, known_domains(film)[0].id, "of-haadf", selects=False)
    film.show(2)
    shift = film.told()[-1]
    assert shift.state == "returned"
    assert (shift.proposal.action, shift.proposal.model_id) == ("promote", "of-haadf")


def test_a_domain_that_is_so_set_turns_to_its_model_itself(film) -> None:
    called: list[tuple[int, str]] = []

    async def on_return(domain_id: int, model_id: str) -> None:
        called.append((domain_id, model_id))

    film.accumulate = Accumulator(film.lab.store, on_return=on_return)
    film.show(5)
    domain_id = known_domains(film)[0].id
    remember(film, domain_id, "of-haadf", selects=True)
    film.show(4)
    assert called == []  # it stays, and whoever chose the live model has the last word
    film.show(4, place=AT_BF, statistics=BF)
    film.show(6)
    assert called == [(domain_id, "of-haadf")]


def test_a_model_that_was_rolled_back_is_not_turned_to(film, lab) -> None:
    called: list[int] = []

    async def on_return(domain_id: int, _model_id: str) -> None:
        called.append(domain_id)

    film.accumulate = Accumulator(lab.store, on_return=on_return)
    film.show(5)
    remember(film, known_domains(film)[0].id, "of-haadf", selects=True)
    add_model(lab, "threshold")
    with lab.store.database.write() as connection:
        for model_id, replaced, undoes in (
            ("of-haadf", "threshold", None),
            ("threshold", "of-haadf", 1),
        ):
            connection.execute(
                promotions.insert().values(
                    model_id=model_id, replaced=replaced, undoes=undoes, at=3.0, who="x"
                )
            )
    film.show(4, place=AT_BF, statistics=BF)
    film.show(6)
    assert called == []
    assert film.told()[-1].proposal.model_id == "of-haadf"


def test_a_turn_that_fails_costs_no_frame(film) -> None:
    async def on_return(_domain_id: int, _model_id: str) -> None:
        raise RuntimeError("weights are gone")

    film.accumulate = Accumulator(film.lab.store, on_return=on_return)
    film.show(5)
    remember(film, known_domains(film)[0].id, "of-haadf", selects=True)
    film.show(4, place=AT_BF, statistics=BF)
    film.show(4)
    assert film.accumulate.failures == 1
    assert known_domains(film)[0].frame_count == 9


def test_two_sessions_do_not_wrestle_for_the_live_model(film) -> None:
    called: list[int] = []

    async def on_return(domain_id: int, _model_id: str) -> None:
        called.append(domain_id)

    film.accumulate = Accumulator(film.lab.store, on_return=on_return)
    film.show(5)
    remember(film, known_domains(film)[0].id, "of-haadf", selects=True)
    film.show(4, place=AT_BF, statistics=BF, folder="watched/run2")
    film.show(4, place=AT_BF, statistics=BF)
    film.show(4)
    assert called == []


def test_no_proposal_where_the_domains_model_is_live(film) -> None:
    film.show(5)
    remember(film, known_domains(film)[0].id, "threshold", selects=True)
    film.show(5)
    assert film.told() == []


def test_a_deleted_model_is_proposed_to_nobody(film, lab) -> None:
    film.show(5)
    remember(film, known_domains(film)[0].id, "gone", selects=False)
    with lab.store.database.write() as connection:
        connection.execute(models.update().values(deleted_at=3.0))
    film.show(5)
    assert film.told() == []


# What goes wrong


def test_a_failure_here_is_counted_and_never_the_frames(film, lab) -> None:
    film.show(3)
    with lab.store.database.write() as connection:
        connection.execute(domain_table.update().values(look=b"damaged"))
    film.show(2)
    assert film.accumulate.failures == 2
    states = {row.state for row in film.rows(sa.select(frames.c.state))}
    assert states == {"processed"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_film_its_other_mode_and_its_mishaps_are_told_apart(film) -> None:
    looker = Looker.load()
    rng = np.random.default_rng(6)
    first, second = (
        simulated_film(demo_scene(mode, size=256), 3) for mode in ("haadf", "bf")
    )
    haadf = [frame.pixels for frame in islice(first, 90)]
    bf = [frame.pixels for frame in islice(second, 40)]
    before = film.show_pixels(haadf[:50], looker)
    soft = [
        ndimage.gaussian_filter(pixels.astype(np.float32), 6)
        + rng.normal(0, 2, pixels.shape)
        for pixels in haadf[50:58]
    ]
    assert film.flaws(film.show_pixels(soft, looker)).count("defocused") >= 6
    dark = [rng.poisson(30, (256, 256)) for _ in range(5)]
    shown = film.show_pixels(dark, looker, is_empty=True)
    assert film.flaws(shown) == ["blank"] * 5
    after = film.show_pixels(haadf[58:70], looker)
    film.show_pixels(bf, looker)
    back = film.show_pixels(haadf[70:], looker)
    assert set(film.flaws(before + after + back)) == {None}
    assert sorted(d.frame_count for d in known_domains(film)) == [40, 82]
