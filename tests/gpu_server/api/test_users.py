"""Administrators make and revoke tokens over REST; nobody else learns who there is."""

import httpx
import pytest


@pytest.fixture
def admin(rest) -> httpx.Client:
    rest.http.headers["authorization"] = f"Bearer {rest.admin}"
    return rest.http


def test_a_token_is_shown_once_works_and_ends_when_it_is_revoked(admin, rest) -> None:
    made = admin.post(
        "/api/v1/users", json={"name": "ada", "scope": "operator", "days": 1}
    ).json()
    hers = {"authorization": f"Bearer {made['token']}"}
    assert admin.get("/api/v1/sessions", headers=hers).status_code == 200
    listed = admin.get("/api/v1/users")
    assert made["token"] not in listed.text
    row = next(row for row in listed.json() if row["id"] == made["id"])
    assert (row["name"], row["scope"], row["revoked_at"]) == ("ada", "operator", None)
    assert row["expires_at"] == pytest.approx(row["created_at"] + 86_400)
    gone = admin.post(f"/api/v1/users/{made['id']}/revoke").json()
    assert gone["revoked_at"] is not None
    assert admin.get("/api/v1/sessions", headers=hers).status_code == 401
    assert admin.post(f"/api/v1/users/{made['id']}/revoke").status_code == 404


def test_ones_own_token_stays(admin) -> None:
    rows = admin.get("/api/v1/users").json()
    mine = next(row["id"] for row in rows if row["name"] == "chief")
    assert admin.post(f"/api/v1/users/{mine}/revoke").status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [{}, {"name": ""}, {"name": "a\nb"}, {"name": "a", "scope": "god"},
     {"name": "a", "days": 0}, {"name": "a", "day": 3},
     {"name": "server"}, {"name": "settings "}],
)  # fmt: skip
def test_impossible_tokens_are_refused(admin, wrong: dict) -> None:
    assert admin.post("/api/v1/users", json=wrong).status_code == 422


def test_operators_and_viewers_learn_nothing(rest) -> None:
    for token in (rest.operator, rest.viewer):
        shown = {"authorization": f"Bearer {token}"}
        assert rest.http.get("/api/v1/users", headers=shown).status_code == 403
        made = rest.http.post("/api/v1/users", json={"name": "x"}, headers=shown)
        assert made.status_code == 403
