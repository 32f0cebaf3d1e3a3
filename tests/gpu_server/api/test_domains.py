"""Domains and the alarm over REST."""

import numpy as np
import pytest
import sqlalchemy as sa

from emcopilot.frame_look import LOOK_WIDTH, NETWORK_WIDTH, FrameLook
from gpu_server import reservoir, shift_rows
from gpu_server.reservoir import Facts
from gpu_server.shift_rows import Proposal, Shift
from gpu_server.tables import audit, models, promotions


def add_frames(rest, count: int = 4) -> int:
    """Process frames and let them join one domain; return its id."""
    vector = np.zeros(LOOK_WIDTH, np.float32)
    vector[NETWORK_WIDTH:] = 0.5
    facts = Facts.of("Titan", "HAADF", (0.2, 0.2), detector="HAADF")
    for number in range(count):
        frame_id = rest.add([20 + number, 30])
        with rest.lab.store.database.write() as connection:
            look = FrameLook(vector + np.float32(0.01 * number))
            place = reservoir.find_place(connection, look, "net", facts)
            domain_id = reservoir.join(
                connection, frame_id, look, place, features="net", facts=facts, at=5.0
            )
    return domain_id


def add_model(rest, model_id: str) -> None:
    with rest.lab.store.database.write() as connection:
        connection.execute(
            models.insert().values(
                model_id=model_id,
                source="adapted",
                folder="models/x",
                sha256="0" * 64,
                added_at=1.0,
                added_by="test",
            )
        )


def test_a_domain_says_what_it_is(rest) -> None:
    domain_id = add_frames(rest)
    (listed,) = rest.http.get("/api/v1/domains").json()
    one = rest.http.get(f"/api/v1/domains/{domain_id}").json()
    assert (one["instrument"], one["modality"]) == ("Titan", "HAADF")
    assert (one["detector"], one["sample"]) == ("HAADF", None)
    assert one["pixel_size_nm"] == [0.125, 0.25]
    assert one["frame_count"] == one["reservoir_count"] == 4
    assert "bright on dark" in one["look"]
    assert one["flaws"] == {}
    assert listed["name"] == one["name"] == "HAADF, 0.12–0.25 nm/px, Titan"


def test_two_frames_are_no_domain_yet(rest) -> None:
    domain_id = add_frames(rest, 2)
    assert rest.http.get("/api/v1/domains").json() == []
    assert rest.http.get(f"/api/v1/domains/{domain_id}").status_code == 404


def test_the_operator_gives_a_domain_its_name(rest) -> None:
    url = f"/api/v1/domains/{add_frames(rest)}"
    answer = rest.http.patch(url, json={"name": "  gold on\tcarbon "})
    assert answer.json()["event"] > 0
    assert rest.http.get(url).json()["name"] == "gold on carbon"
    with rest.lab.store.read() as connection:
        (line,) = connection.execute(
            sa.select(audit).where(audit.c.action == "rename domain")
        )
    assert line.who == "script"


@pytest.mark.parametrize("name", ["", "   ", "x" * 81])
def test_a_name_says_something_and_is_short(rest, name) -> None:
    url = f"/api/v1/domains/{add_frames(rest)}"
    assert rest.http.patch(url, json={"name": name}).status_code == 422


def test_a_domain_remembers_its_model(rest) -> None:
    url = f"/api/v1/domains/{add_frames(rest)}"
    add_model(rest, "of-gold")
    request = {"model_id": "of-gold", "selects": True}
    assert rest.http.post(f"{url}/model", json=request).status_code == 200
    told = rest.http.get(url).json()
    assert (told["model_id"], told["selects_model"]) == ("of-gold", True)
    rest.http.post(f"{url}/model", json={"model_id": None, "selects": True})
    told = rest.http.get(url).json()
    assert (told["model_id"], told["selects_model"]) == (None, False)


def test_a_misspelt_key_changes_nothing_that_a_domain_remembers(rest) -> None:
    url = f"/api/v1/domains/{add_frames(rest)}"
    add_model(rest, "of-gold")
    request = {"model_id": "of-gold", "select": True}
    refused = rest.http.post(f"{url}/model", json=request)
    assert (refused.status_code, "select" in refused.json()["detail"]) == (422, True)
    assert rest.http.get(url).json()["model_id"] is None


def test_what_is_not_there_is_said(rest) -> None:
    url = f"/api/v1/domains/{add_frames(rest)}"
    unknown = rest.http.post(f"{url}/model", json={"model_id": "no-such"})
    assert unknown.status_code == 404
    assert "no-such" in unknown.json()["detail"]
    for call in ("/api/v1/domains/99", "/api/v1/domains/99/frames"):
        assert rest.http.get(call).status_code == 404
    renamed = rest.http.patch("/api/v1/domains/99", json={"name": "x"})
    assert renamed.status_code == 404


def test_a_viewer_looks_and_changes_nothing(rest) -> None:
    url = f"/api/v1/domains/{add_frames(rest)}"
    viewer = {"authorization": f"Bearer {rest.viewer}"}
    for path in (url, "/api/v1/domains", f"{url}/frames", "/api/v1/shift"):
        assert rest.http.get(path, headers=viewer).status_code == 200
    body = {"name": "mine"}
    assert rest.http.patch(url, json=body, headers=viewer).status_code == 403
    body = {"model_id": None}
    answer = rest.http.post(f"{url}/model", json=body, headers=viewer)
    assert answer.status_code == 403


def test_the_frames_of_a_domain_are_listed(rest) -> None:
    url = f"/api/v1/domains/{add_frames(rest)}/frames"
    assert [f["name"] for f in rest.http.get(url).json()] == [
        f"frame_000{n}.tif" for n in (1, 2, 3, 4)
    ]
    assert len(rest.http.get(url, params={"limit": 2}).json()) == 2


def test_a_shift_is_told_with_reason_and_proposal(rest) -> None:
    domain_id = add_frames(rest)
    shift = Shift(
        "shifted",
        "contrast inverted",
        "old",
        domain_id,
        Proposal("adapt", domain_id),
        since_frame_id=3,
    )
    with rest.lab.store.database.write() as connection:
        shift_rows.tell(connection, 1, shift, at=9.0)
    (told,) = rest.http.get("/api/v1/shift").json()
    assert (told["state"], told["reason"]) == ("shifted", "contrast inverted")
    assert told["proposal"]["action"] == "adapt"
    assert told["session"] == "run1"


def test_a_shift_ends_with_the_model_that_it_was_told_of(rest) -> None:
    add_frames(rest)
    add_model(rest, "new")
    with rest.lab.store.database.write() as connection:
        shift = Shift("shifted", "contrast inverted", "old", 1)
        shift_rows.tell(connection, 1, shift, at=9.0)
        connection.execute(
            promotions.insert().values(model_id="new", at=10.0, who="test")
        )
    (told,) = rest.http.get("/api/v1/shift").json()
    assert (told["state"], told["model_id"], told["reason"]) == ("ok", "new", "")


def test_only_the_last_word_on_a_session_counts(rest) -> None:
    add_frames(rest)
    with rest.lab.store.database.write() as connection:
        for state in ("shifted", "ok"):
            shift_rows.tell(connection, 1, Shift(state, "", "old", 1), at=9.0)
    (told,) = rest.http.get("/api/v1/shift").json()
    assert told["state"] == "ok"
