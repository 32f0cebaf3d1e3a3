"""Models on disk and in rows: whole or not at all, and never the one that is needed."""

import json
import shutil

import pytest
import sqlalchemy as sa

from emcopilot.errors import ModelError
from gpu_server import promotion_rows
from gpu_server.domains import SETTLED, remember_model
from gpu_server.live_start import LiveStart
from gpu_server.model_files import UnfitModelError, checked_card
from gpu_server.registry import InUseError, Registry
from gpu_server.tables import audit, domains, events, jobs, models


@pytest.fixture
def registry(lab) -> Registry:
    made = Registry(lab.store)
    made.open()
    return made


def ids(registry: Registry) -> set[str]:
    with registry.database.read() as connection:
        return {row.model_id for row in registry.list(connection)}


def go_live(registry: Registry, *names: str) -> None:
    for name in names:
        with registry.database.write() as connection:
            promotion_rows.record(connection, name, "ada", at=1.0)


def test_the_shipped_model_is_always_there(registry: Registry) -> None:
    with registry.database.read() as connection:
        (row,) = registry.list(connection)
    assert (row.source, row.folder) == ("shipped", "base")
    assert checked_card(registry.folder(row.model_id)).model_id == row.model_id
    registry.open()
    assert len(ids(registry)) == 1


def test_an_added_model_is_a_copy_with_a_row_an_audit_line_and_an_event(
    registry: Registry, papers
) -> None:
    assert (
        registry.add(papers["a"], "adapted", "job 3", job_id=3, verdict="doubtful")
        == "a"
    )
    shutil.rmtree(papers["a"])
    folder = registry.folder("a")
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "card.json", "report.json",
    }  # fmt: skip
    with registry.database.read() as connection:
        row = registry.find(connection, "a")
        line = connection.execute(sa.select(audit)).one()
        event = connection.execute(
            sa.select(events).where(events.c.kind == "model")
        ).one()
    assert (row.job_id, row.verdict, row.tested_at) == (3, "doubtful", None)
    assert (line.who, line.action, line.subject) == ("job 3", "add model", "model a")
    assert event.data["change"] == "added"


def test_adding_twice_is_adding_once(registry: Registry, papers) -> None:
    registry.add(papers["a"], "adapted", "job 3", job_id=3)
    registry.add(papers["a"], "adapted", "job 3", verdict="promote")
    with registry.database.read() as connection:
        row = registry.find(connection, "a")
    assert (row.job_id, row.verdict) == (3, "promote")


def test_damaged_weights_are_refused_and_nothing_stays(
    registry: Registry, papers
) -> None:
    with (papers["a"] / "model.safetensors").open("ab") as file:
        file.write(b"!")
    before = set(registry.root.iterdir())
    with pytest.raises(UnfitModelError, match="damaged or another model's"):
        registry.add(papers["a"], "imported", "ada")
    assert set(registry.root.iterdir()) == before
    assert "a" not in ids(registry)


@pytest.mark.parametrize("name", ["../evil", "", "a/b", ".hidden", "x" * 200])
def test_an_id_that_is_no_plain_name_is_refused(
    registry: Registry, papers, name: str
) -> None:
    folder = papers["a"]
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "model_id": name}))
    with pytest.raises(UnfitModelError, match="model_id"):
        registry.add(folder, "imported", "ada")


def test_an_id_belongs_to_one_model_for_good(registry: Registry, papers) -> None:
    registry.add(papers["a"], "imported", "ada")
    card = json.loads((papers["b"] / "card.json").read_text())
    (papers["b"] / "card.json").write_text(json.dumps({**card, "model_id": "a"}))
    with pytest.raises(UnfitModelError, match="other weights"):
        registry.add(papers["b"], "imported", "ada")


def test_other_weights_put_into_a_folder_by_hand_are_not_the_model(
    registry: Registry, papers
) -> None:
    registry.add(papers["a"], "imported", "ada")
    card = json.loads((papers["b"] / "card.json").read_text())
    (papers["b"] / "card.json").write_text(json.dumps({**card, "model_id": "a"}))
    for name in ("model.safetensors", "card.json"):  # whole, and of the same name
        shutil.copyfile(papers["b"] / name, registry.root / "a" / name)
    with pytest.raises(ModelError, match="holds another one now"):
        registry.folder("a")


def test_what_a_kill_left_is_swept_and_is_never_a_model(
    registry: Registry, papers
) -> None:
    registry.add(papers["a"], "imported", "ada")
    (registry.root / "1234.part").mkdir()
    shutil.copytree(papers["b"], registry.root / "b")  # renamed, killed before its row
    registry.open()
    assert {path.name for path in registry.root.iterdir()} == {"a"}
    with pytest.raises(LookupError):
        registry.folder("b")
    # Not thrown away: an older database, restored, knows nothing of models made since.
    aside = registry.root.with_name("models-aside") / "b"
    assert {file.name for file in aside.iterdir()} >= {"card.json", "model.safetensors"}


def test_the_live_the_last_and_the_shipped_model_cannot_be_deleted(
    registry: Registry, papers
) -> None:
    (base,) = ids(registry)
    for name, folder in papers.items():
        registry.add(folder, "imported", "ada")
        go_live(registry, name)
    for name, why in (("c", "live"), ("b", "roll back"), (base, "product")):
        with pytest.raises(InUseError, match=why):
            registry.delete(name, "root")
    registry.delete("a", "root")
    assert not (registry.root / "a").exists()
    assert ids(registry) == {base, "b", "c"}
    with registry.database.read() as connection:
        assert registry.find(connection, "a").deleted_at is not None
        assert len(registry.list(connection, deleted=True)) == 4
    with pytest.raises(ModelError, match="was deleted"):
        registry.folder("a")
    with pytest.raises(LookupError, match="deleted already"):
        registry.delete("a", "root")


def test_a_model_that_an_open_job_starts_from_cannot_be_deleted(
    registry: Registry, papers
) -> None:
    registry.add(papers["a"], "imported", "ada")
    with registry.database.write() as connection:
        where = {"name": "BF", "created_at": 1.0, "seen_at": 1.0, "features": "f"}
        connection.execute(domains.insert().values(**where, look=b""))
        job = {"domain_id": 1, "preset": "quick", "frame_count": 9, "who": "ada"}
        connection.execute(
            jobs.insert().values(**job, state="train", start_model="a", queued_at=1.0)
        )
    with pytest.raises(InUseError, match="job 1 starts from it"):
        registry.delete("a", "root")
    with registry.database.write() as connection:
        connection.execute(jobs.update().values(state="failed"))
    registry.delete("a", "root")


def test_a_candidate_cannot_be_deleted_before_its_job_says_that_it_is_one(
    registry: Registry, papers
) -> None:
    registry.add(papers["a"], "imported", "ada")
    registry.add(papers["b"], "adapted", "ada", job_id=1)
    with registry.database.write() as connection:
        where = {"name": "BF", "created_at": 1.0, "seen_at": 1.0, "features": "f"}
        connection.execute(domains.insert().values(**where, look=b""))
        job = {"domain_id": 1, "preset": "quick", "frame_count": 9, "who": "ada"}
        connection.execute(
            jobs.insert().values(
                **job, state="evaluate", start_model="a", queued_at=1.0
            )
        )
    with pytest.raises(InUseError, match="job 1 made it"):
        registry.delete("b", "root")
    with registry.database.write() as connection:
        connection.execute(jobs.update().values(state="failed"))
    registry.delete("b", "root")


def test_a_deleted_model_comes_back_when_it_is_added_again(
    registry: Registry, papers
) -> None:
    registry.add(papers["a"], "imported", "ada")
    registry.delete("a", "root")
    registry.add(papers["a"], "imported", "ada")
    assert registry.folder("a").is_dir()


# Roll backs


def test_a_roll_back_undoes_one_promotion_and_a_second_the_one_before(
    registry: Registry, papers
) -> None:
    for folder in papers.values():
        registry.add(folder, "imported", "ada")
    go_live(registry, "a", "b", "c")
    lives = []
    for _ in range(2):
        with registry.database.write() as connection:
            change = promotion_rows.standing(connection)
            assert change is not None
            back = promotion_rows.model_to_return_to(connection)
            assert back is not None
            promotion_rows.record(connection, back, "ada", at=2.0, undoes=change.id)
            lives.append(registry.live(connection))
    assert lives == ["b", "a"]
    with registry.database.read() as connection:
        assert promotion_rows.standing(connection) is None
        assert promotion_rows.was_trusted(connection, "a")
        assert not promotion_rows.was_trusted(connection, "c")


def undo(registry: Registry) -> None:
    with registry.database.write() as connection:
        change = promotion_rows.standing(connection)
        assert change is not None
        assert change.replaced is not None
        promotion_rows.record(
            connection, change.replaced, "ada", at=2.0, undoes=change.id
        )


def test_an_undo_passes_over_what_the_server_turned_to_by_itself(
    registry: Registry, papers
) -> None:
    for folder in papers.values():
        registry.add(folder, "imported", "ada")
    go_live(registry, "c", "b", "a")
    with registry.database.write() as connection:
        for model in ("b", "a"):  # "a" could not be read at one start
            promotion_rows.record(connection, model, promotion_rows.SERVER, at=2.0)
    undo(registry)
    assert live_and_trusted(registry, "a", "b") == ("b", [False, True])
    undo(registry)
    assert live_and_trusted(registry, "a", "b") == ("c", [False, False])


def test_what_the_server_turned_to_is_not_what_an_undo_takes_back(
    registry: Registry, papers
) -> None:
    for folder in papers.values():
        registry.add(folder, "imported", "ada")
    go_live(registry, "a", "b", "c")
    with registry.database.write() as connection:  # "c" could not be read at one start
        promotion_rows.record(connection, "a", promotion_rows.SERVER, at=2.0)
    undo(registry)
    assert live_and_trusted(registry, "a", "b", "c") == ("b", [True, True, False])


def test_what_is_rolled_back_is_not_trusted_for_an_earlier_promotion(
    registry: Registry, papers
) -> None:
    for folder in papers.values():
        registry.add(folder, "imported", "ada")
    go_live(registry, "b", "a", "b", "a")
    undo(registry)
    assert live_and_trusted(registry, "a", "b") == ("b", [False, True])
    with registry.database.read() as connection:
        standing = promotion_rows.not_taken_back(connection)
    assert {change.model_id for change in standing} == {"b"}
    go_live(registry, "a")
    assert live_and_trusted(registry, "a") == ("a", [True])


def live_and_trusted(registry: Registry, *models: str) -> tuple[str | None, list[bool]]:
    with registry.database.read() as connection:
        trusted = [promotion_rows.was_trusted(connection, one) for one in models]
        return registry.live(connection), trusted


def remembered(registry: Registry) -> tuple[str | None, bool]:
    with registry.database.read() as connection:
        row = connection.execute(sa.select(domains)).one()
    return row.model_id, row.selects_model


@pytest.fixture
def learnt(registry: Registry, papers) -> Registry:
    """Models of which "b" and "c" learnt domain 1, and "a" is live."""
    row = {"name": "BF", "created_at": 1.0, "seen_at": 1.0, "features": "f"}
    with registry.database.write() as connection:
        connection.execute(
            domains.insert().values(**row, look=b"", frame_count=SETTLED)
        )
    registry.add(papers["a"], "imported", "ada")
    for name in ("b", "c"):
        registry.add(papers[name], "adapted", "job", domain_id=1)
    go_live(registry, "a")
    return registry


def choose(registry: Registry, model_id: str | None, *, selects: bool) -> None:
    with registry.database.write() as connection:
        remember_model(connection, 1, model_id, selects, who="ada", at=1.0)


def test_a_roll_back_makes_a_domain_remember_what_it_had_before(learnt) -> None:
    go_live(learnt, "b", "c")
    assert remembered(learnt) == ("c", False)
    undo(learnt)
    assert remembered(learnt) == ("b", False)
    undo(learnt)
    assert remembered(learnt) == (None, False)


@pytest.mark.parametrize("is_before", [True, False])
def test_what_the_operator_chose_stays_in_a_roll_back_but_is_not_turned_to(
    learnt, is_before: bool
) -> None:
    if is_before:
        choose(learnt, "b", selects=True)
    go_live(learnt, "b")
    if not is_before:
        choose(learnt, "b", selects=True)
    undo(learnt)
    # A model that a person rolled back must not turn the server to itself again.
    assert remembered(learnt) == ("b", False)


def test_the_operators_choice_that_a_promotion_replaced_comes_back(learnt) -> None:
    choose(learnt, "a", selects=True)
    go_live(learnt, "b")
    assert remembered(learnt) == ("b", True)
    undo(learnt)
    assert remembered(learnt) == ("a", True)
    choose(learnt, None, selects=False)
    go_live(learnt, "b")
    undo(learnt)
    assert remembered(learnt) == (None, False)


def test_a_choice_between_two_models_that_learnt_a_domain_comes_back(learnt) -> None:
    go_live(learnt, "b")
    choose(learnt, "a", selects=True)
    go_live(learnt, "c")
    assert remembered(learnt) == ("c", True)
    undo(learnt)
    assert remembered(learnt) == ("a", True)


def test_a_choice_after_a_promotion_is_not_undone_with_it(learnt) -> None:
    go_live(learnt, "b")
    choose(learnt, "c", selects=True)
    undo(learnt)
    assert remembered(learnt) == ("c", True)


def test_a_roll_back_brings_no_deleted_model_to_a_domain(learnt) -> None:
    choose(learnt, "c", selects=True)
    go_live(learnt, "b")
    learnt.delete("c", "root")
    undo(learnt)
    assert remembered(learnt) == (None, False)


# Starts


def start(registry: Registry, setting: str) -> str:
    one = LiveStart(registry, setting)
    choice = next(one.choices())
    one.settle(choice)
    with registry.database.read() as connection:
        assert registry.live(connection) == choice.model_id
    return choice.model_id


def test_the_first_start_runs_what_the_settings_name(registry: Registry) -> None:
    assert start(registry, "base") in ids(registry)
    with registry.database.read() as connection:
        (change,) = promotion_rows.history(connection)
    assert (change.who, change.reason) == ("settings", "segment.model = base")
    start(registry, "base")
    with registry.database.read() as connection:
        assert len(promotion_rows.history(connection)) == 1


def test_the_last_promotion_holds_until_the_settings_change(
    registry: Registry, papers
) -> None:
    start(registry, "base")
    registry.add(papers["a"], "imported", "ada")
    go_live(registry, "a")
    assert start(registry, "base") == "a"
    assert start(registry, str(papers["b"])) == "b"
    shutil.rmtree(papers["b"])  # copied: the settings may name what is gone by now
    assert start(registry, str(papers["b"])) == "b"
    go_live(registry, "a")
    assert start(registry, str(papers["b"])) == "a"


def test_settings_that_name_the_live_model_replace_nothing(
    registry: Registry, papers
) -> None:
    base = start(registry, "base")
    registry.add(papers["a"], "imported", "ada")
    go_live(registry, "a")
    assert start(registry, "a") == "a"
    with registry.database.read() as connection:
        change = promotion_rows.history(connection)[0]
        assert (change.who, change.replaced) == ("settings", None)
        assert promotion_rows.model_to_return_to(connection) == base
    # The name is known now: what is promoted later holds.
    registry.add(papers["b"], "imported", "ada")
    go_live(registry, "b")
    assert start(registry, "a") == "b"


def test_a_directory_named_by_the_settings_is_followed_to_its_new_weights(
    registry: Registry, papers
) -> None:
    folder = papers["a"]
    assert start(registry, str(folder)) == "a"
    shutil.rmtree(folder)
    papers["b"].rename(folder)  # trained anew
    assert start(registry, str(folder)) == "b"
    assert start(registry, str(folder)) == "b"


def test_a_directory_that_was_just_named_is_to_be_tested_and_then_no_more(
    registry: Registry, papers
) -> None:
    for setting, untested in (("base", False), (str(papers["a"]), True)):
        one = LiveStart(registry, setting)
        choice = next(one.choices())
        assert one.is_untested(choice) is untested
        one.settle(choice, passed_test=untested)
        assert not one.is_untested(choice)


def test_a_live_model_that_is_gone_is_replaced_by_the_one_before(
    registry: Registry, papers, caplog: pytest.LogCaptureFixture
) -> None:
    base = start(registry, "base")
    for name in ("a", "b"):
        registry.add(papers[name], "imported", "ada")
        go_live(registry, name)
    shutil.rmtree(registry.root / "b")
    assert start(registry, "base") == "a"
    assert "model cannot be loaded id=b" in caplog.text
    with (registry.root / "a" / "model.safetensors").open("ab") as file:
        file.write(b"!")
    assert start(registry, "base") == base
    with registry.database.read() as connection:
        change = promotion_rows.history(connection)[0]
    assert change.who == "server"
    assert "damaged" in change.reason


def test_a_model_that_was_away_at_one_start_is_live_again_at_the_next(
    registry: Registry, papers
) -> None:
    start(registry, "base")
    for name in ("a", "b"):
        registry.add(papers[name], "imported", "ada")
        go_live(registry, name)
    away = registry.root / "b.away"
    (registry.root / "b").rename(away)
    for _ in range(2):
        assert start(registry, "base") == "a"
    away.rename(registry.root / "b")
    for _ in range(2):
        assert start(registry, "base") == "b"
    with registry.database.read() as connection:
        changes = promotion_rows.history(connection)
    assert [change.model_id for change in changes[:3]] == ["b", "a", "b"]
    assert (changes[0].who, changes[0].reason) == ("server", "it can be loaded again")


def test_no_start_brings_back_what_an_operator_rolled_back(
    registry: Registry, papers
) -> None:
    base = start(registry, "base")
    for name in ("a", "b"):
        registry.add(papers[name], "imported", "ada")
        go_live(registry, name)
    undo(registry)
    shutil.rmtree(registry.root / "a")
    assert start(registry, "base") == base
    with registry.database.read() as connection:
        assert not promotion_rows.was_trusted(connection, "b")


def test_two_roll_backs_leave_nothing_of_what_lay_between(
    registry: Registry, papers
) -> None:
    base = start(registry, "base")
    for name in ("a", "b"):
        registry.add(papers[name], "imported", "ada")
        go_live(registry, name)
    assert start(registry, "b") == "b"  # the settings confirm it: one row more
    undo(registry)  # a roll back's row names "a" ...
    undo(registry)  # ... which is taken back in turn
    with registry.database.read() as connection:
        kept = [one.model_id for one in promotion_rows.not_taken_back(connection)]
        assert set(kept) == {base}
        trusted = [promotion_rows.was_trusted(connection, one) for one in ("a", "b")]
    assert trusted == [False, False]
    assert start(registry, "b") == base


def test_what_the_server_turned_to_by_itself_no_operator_trusted(
    registry: Registry, papers
) -> None:
    start(registry, "base")
    for name in ("a", "b"):
        registry.add(papers[name], "imported", "ada")
    with registry.database.write() as connection:
        promotion_rows.record(connection, "a", "server", at=1.0)
        promotion_rows.record(connection, "b", "ada", at=2.0)
    with registry.database.read() as connection:
        assert not promotion_rows.was_trusted(connection, "a")
        assert promotion_rows.was_trusted(connection, "b")


def test_a_model_of_long_ago_is_found_behind_many_promotions(
    registry: Registry, papers
) -> None:
    for folder in papers.values():
        registry.add(folder, "imported", "ada")
    start(registry, "c")
    go_live(registry, *("a", "b") * 30)
    for name in ("a", "b"):
        shutil.rmtree(registry.root / name)
    assert start(registry, "c") == "c"


def test_without_any_whole_model_the_start_says_what_is_wrong_with_each(
    registry: Registry, papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(papers["a"], "imported", "ada")
    go_live(registry, "a")
    start(registry, "a")
    shutil.rmtree(registry.root / "a")
    monkeypatch.setattr("gpu_server.registry.shipped_folders", lambda: iter(()))
    with pytest.raises(ModelError, match="no model can be loaded: a cannot be loaded"):
        start(registry, "a")


def test_settings_that_name_no_model_stop_the_start(registry: Registry) -> None:
    with pytest.raises(ModelError, match=r"'bass' is no model.*'base'"):
        start(registry, "bass")


def test_rows_never_go(registry: Registry, papers) -> None:
    registry.add(papers["a"], "imported", "ada")
    registry.delete("a", "root")
    with registry.database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(models)) == 2
