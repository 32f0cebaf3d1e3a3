"""Agents, queue and problem files: everything is accounted for by name."""

import numpy as np

from gpu_server.intake import GoneItem
from gpu_server.store import AgentReport


def test_an_agents_light_follows_what_it_says(rest) -> None:
    silent = rest.http.get("/api/v1/agents").json()[0]
    assert (silent["name"], silent["light"], silent["last_seen_s"]) == (
        "titan",
        "red",
        None,
    )
    rest.lab.store.agent_seen(rest.lab.agent_id, report())
    well = rest.http.get("/api/v1/agents").json()[0]
    assert (well["light"], well["stored"]) == ("green", 3)
    assert well["last_seen_s"] < 15
    rest.lab.store.agent_seen(rest.lab.agent_id, report(problems=("share is gone",)))
    worried = rest.http.get("/api/v1/agents").json()[0]
    assert (worried["light"], worried["problems"]) == ("yellow", ["share is gone"])


def report(problems: tuple[str, ...] = ()) -> AgentReport:
    return AgentReport(
        host="scope-pc",
        version="0.1.0",
        journal="journal",
        discovered=5,
        stored=3,
        pending=2,
        vanished=0,
        rejected=0,
        pending_bytes=100,
        oldest_unsent_s=1.0,
        problems=problems,
    )


def test_stats_account_for_every_frame(rest) -> None:
    rest.lab.store.agent_seen(rest.lab.agent_id, report())
    rest.add([10])
    rest.lab.deliver(np.zeros((8, 8), np.uint16))
    rest.lab.deliver(np.ones((8, 8), np.uint16))
    leased = rest.lab.store.lease_frame()
    rest.lab.store.quarantine(leased.frame_id, "no image in it")
    stats = rest.http.get("/api/v1/stats").json()
    assert (stats["processed"], stats["queued"], stats["quarantined"]) == (1, 1, 1)
    assert stats["balanced"] is True
    assert 0 <= stats["lag_s"] < 60
    assert stats["latency_p50_s"] > 0


def test_problem_files_are_listed_by_name_and_reason(rest) -> None:
    rest.lab.deliver(np.zeros((8, 8), np.uint16), name="notes.tif")
    leased = rest.lab.store.lease_frame()
    rest.lab.store.quarantine(leased.frame_id, "not a TIFF: it is text")
    lost = GoneItem(seq=9, rev=1, source_key="acquisitions/lost.tif", reason="vanished")
    rest.lab.store.record_gone(rest.lab.agent_id, "journal", [lost])
    problems = rest.http.get("/api/v1/problems").json()
    assert {problem["name"]: problem["kind"] for problem in problems} == {
        "acquisitions/lost.tif": "vanished",
        "acquisitions/run1/notes.tif": "quarantined",
    }
    quarantined = next(p for p in problems if p["kind"] == "quarantined")
    assert quarantined["frame_id"] == leased.frame_id
    assert "text" in quarantined["reason"]
