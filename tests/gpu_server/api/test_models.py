"""Models over REST: what is live, who made it so, and what may not be."""

import io
import json
import shutil
import zipfile

import httpx
import pytest
import sqlalchemy as sa

from gpu_server.domains import SETTLED
from gpu_server.tables import domains


def test_the_list_says_what_is_live_and_what_needs_a_word(model_site) -> None:
    rows = {
        row["model_id"]: row
        for row in model_site.ask("GET", "/models", "viewer").json()
    }
    assert {name for name, row in rows.items() if row["live"]} == {"a"}
    assert rows["c"]["needs_override"]
    assert not rows["b"]["needs_override"]
    assert not rows["a"]["needs_override"]  # live before: trusted
    assert rows["a"]["promoted_by"] == "settings"
    one = model_site.ask("GET", "/models/b", "viewer").json()
    assert (one["card"]["above"], one["report"]) == (1.5, {"figure": 1})
    assert model_site.ask("GET", "/models/b/card").json()["model_id"] == "b"
    assert model_site.ask("GET", "/models/zebra").status_code == 404
    assert model_site.ask("GET", "/models/..%2f..%2fetc").status_code in (404, 422)


def test_a_verdict_against_a_model_that_is_not_live_any_more_is_told(
    model_site, judge
) -> None:
    judge(model_site.registry.folder("b"), incumbent="a")
    row = model_site.ask("GET", "/models/b").json()
    assert (row["judged_against"], row["needs_override"], row["objection"]) == (
        "a", False, None,
    )  # fmt: skip
    forced = {"override": True, "reason": "a trial"}
    model_site.ask("POST", "/models/c/promote", json=forced).raise_for_status()
    row = model_site.ask("GET", "/models/b").json()
    assert row["needs_override"]
    assert "judged against a, but c is live now" in row["objection"]
    refused = model_site.ask("POST", "/models/b/promote")
    assert (refused.status_code, "a, but c" in refused.json()["detail"]) == (409, True)


@pytest.mark.parametrize("data", ["no report", {"verdict": "promote"}, [], {"x": 1}])
def test_a_card_that_holds_no_report_is_no_verdict_against_anything(
    model_site, data
) -> None:
    path = model_site.registry.folder("b") / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": data}))
    row = model_site.ask("GET", "/models/b").json()
    assert (row["judged_against"], row["objection"]) == (None, None)


def test_promote_and_roll_back_and_what_they_leave(model_site) -> None:
    done = model_site.ask("POST", "/models/b/promote", json={"reason": "smaller"})
    assert (done.status_code, done.json()["replaced"]) == (200, "a")
    assert model_site.ask("GET", "/models/b").json()["tested_at"] is not None
    again = model_site.ask("POST", "/models/b/promote")
    assert again.json()["id"] == done.json()["id"]  # pressed twice
    refused = model_site.ask("POST", "/models/a/rollback")
    assert (refused.status_code, refused.json()["expected"]) == (409, "b")
    told = model_site.ask("GET", "/models/promotions").json()
    assert (told["live"], told["rollback_to"]) == ("b", "a")
    back = model_site.ask("POST", "/models/b/rollback", json={"reason": "worse"})
    assert (back.json()["model_id"], back.json()["undoes"]) == ("a", done.json()["id"])
    assert model_site.ask("POST", "/models/rollback").status_code == 409
    history = model_site.ask("GET", "/models/promotions", "viewer").json()["changes"]
    assert [(row["who"], row["reason"]) for row in history[:2]] == [
        ("operator", "worse"), ("operator", "smaller"),
    ]  # fmt: skip


def test_a_rejected_candidate_is_not_promotable_without_override(model_site) -> None:
    refused = model_site.ask("POST", "/models/c/promote")
    assert refused.status_code == 409
    assert "override" in refused.json()["do"]
    assert "worse than the incumbent" in refused.json()["detail"]
    for reason in ({}, {"reason": " \n"}):
        request = {"override": True, **reason}
        unsaid = model_site.ask("POST", "/models/c/promote", json=request)
        assert unsaid.status_code == 422
        assert "an override needs a reason" in unsaid.json()["detail"]
    assert model_site.ask("GET", "/models/promotions").json()["live"] == "a"
    request = {"override": True, "reason": "I compared them"}
    forced = model_site.ask("POST", "/models/c/promote", json=request)
    assert forced.status_code == 200


def test_a_domain_selects_no_model_that_no_operator_trusted(model_site) -> None:
    row = {"name": "BF", "created_at": 1.0, "seen_at": 1.0, "features": "f"}
    with model_site.registry.database.write() as connection:
        connection.execute(
            domains.insert().values(**row, look=b"", frame_count=SETTLED)
        )

    def remember(model_id: str, *, selects: bool) -> httpx.Response:
        request = {"model_id": model_id, "selects": selects}
        return model_site.ask("POST", "/domains/1/model", json=request)

    # "b" may be promoted now, but at a return another model will be live than it was judged by.
    for model in ("b", "c"):
        refused = remember(model, selects=True)
        assert refused.status_code == 409
        assert "no operator promoted it so far" in refused.json()["detail"]
        assert '{"selects": false}' in refused.json()["do"]
    assert remember("zebra", selects=True).status_code == 404
    with model_site.registry.database.read() as connection:
        assert connection.scalar(sa.select(domains.c.model_id)) is None
    assert remember("c", selects=False).status_code == 200  # it is proposed
    request = {"override": True, "reason": "best on thick support"}
    model_site.ask("POST", "/models/c/promote", json=request).raise_for_status()
    model_site.ask("POST", "/models/b/promote").raise_for_status()
    for model in ("b", "c"):
        assert remember(model, selects=True).status_code == 200


def test_viewers_look_operators_promote_and_admins_delete(model_site) -> None:
    assert model_site.ask("POST", "/models/b/promote", "viewer").status_code == 403
    assert model_site.ask("POST", "/models/rollback", "viewer").status_code == 403
    assert model_site.ask("POST", "/models/import", "viewer").status_code == 403
    assert model_site.ask("DELETE", "/models/b").status_code == 403
    kept = model_site.ask("DELETE", "/models/a", "admin")
    assert (kept.status_code, "live" in kept.json()["detail"]) == (409, True)
    gone = model_site.ask("DELETE", "/models/b", "admin").json()
    assert gone["deleted_at"] is not None
    assert "b" not in {
        row["model_id"] for row in model_site.ask("GET", "/models").json()
    }
    shown = model_site.ask("GET", "/models", params={"deleted": True}).json()
    assert "b" in {row["model_id"] for row in shown}
    assert model_site.ask("GET", "/models/b/card").status_code == 404
    assert model_site.ask("POST", "/models/b/promote").status_code == 503


def test_an_exported_model_is_imported_elsewhere_tested_and_not_live(
    model_site,
) -> None:
    sent = model_site.ask("GET", "/models/b/export")
    assert sent.headers["content-type"] == "application/zip"
    assert 'filename="b.zip"' in sent.headers["content-disposition"]
    assert {"manifest.json", "golden.npz"} <= set(
        zipfile.ZipFile(io.BytesIO(sent.content)).namelist()
    )
    model_site.ask("DELETE", "/models/b", "admin").raise_for_status()
    taken = model_site.ask("POST", "/models/import", content=sent.content)
    assert taken.json() == {"model_id": "b"}
    one = model_site.ask("GET", "/models/b").json()
    assert one["deleted_at"] is None
    assert one["tested_at"] is not None
    assert one["live"] is False
    assert not list(model_site.services.scratch_dir.iterdir())


def test_what_is_imported_must_segment_as_it_did(model_site) -> None:
    """The weights of one model beside the golden masks of another."""
    export = {
        name: model_site.ask("GET", f"/models/{name}/export").content for name in "bc"
    }
    files = {name: dict(_read(content).items()) for name, content in export.items()}
    forged = files["b"] | {"golden.npz": files["c"]["golden.npz"]}
    manifest = json.loads(forged["manifest.json"])
    manifest["files"]["golden.npz"] = json.loads(files["c"]["manifest.json"])["files"][
        "golden.npz"
    ]
    forged["manifest.json"] = json.dumps(manifest).encode()
    model_site.ask("DELETE", "/models/b", "admin").raise_for_status()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in forged.items():
            archive.writestr(name, data)
    before = set(model_site.registry.root.iterdir())
    refused = model_site.ask("POST", "/models/import", content=target.getvalue())
    assert refused.status_code == 422
    assert "overlap" in refused.json()["detail"]
    assert set(model_site.registry.root.iterdir()) == before
    assert model_site.ask("GET", "/models/b").json()["deleted_at"] is not None


def _read(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_is_refused_with_a_reason(
    model_site, content: bytes
) -> None:
    refused = model_site.ask("POST", "/models/import", content=content)
    assert refused.status_code == 422
    assert refused.json()["title"] == "Not a working model"


def test_an_import_that_is_too_large_is_cut(model_site) -> None:
    refused = model_site.ask("POST", "/models/import", content=bytes(2**24 + 1))
    assert refused.status_code == 413
    assert not list(model_site.services.scratch_dir.iterdir())


def test_a_model_whose_files_are_gone_says_so(model_site) -> None:
    shutil.rmtree(model_site.registry.root / "b")
    row = model_site.ask("GET", "/models/b").json()
    assert "card.json" in row["trouble"]
    assert row["card"] is None
    assert model_site.ask("POST", "/models/b/promote").status_code == 422
    assert model_site.ask("GET", "/models/b/export").status_code == 422
