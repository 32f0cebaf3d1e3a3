"""Looking back over REST: stored packets, marks on the timeline, undo."""

import numpy as np
import pytest

from emcopilot.live_packet import REJECTED, TOUCHES_BORDER, LivePacket


def packet(rest, path: str) -> LivePacket:
    answer = rest.http.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    return LivePacket.unpack(answer.content)


def particles(rest, frame: int) -> list[dict]:
    return rest.http.get(f"/api/v1/frames/{frame}/particles").json()["particles"]


def test_a_stored_frame_is_the_packet_that_viewers_saw(rest) -> None:
    pixels = rest.lab.discs([10, 20, 30])
    pixels[:9, :9] = 1000  # cut by the border
    rest.lab.deliver(pixels)
    leased, measured = rest.lab.process(pixels, 0.5)
    found = packet(rest, f"/frames/{leased.frame_id}/packet")
    assert (found.header.number, found.header.session) == (1, "run1")
    assert found.header.unit == "nm"
    assert found.header.pixel_size_nm == (0.5, 0.5)
    assert found.jpeg[:2] == b"\xff\xd8"
    whole = ~measured.particles.touches_border
    np.testing.assert_allclose(
        found.diameter[whole], measured.diameters[whole], rtol=1e-6
    )
    np.testing.assert_array_equal(found.flags & TOUCHES_BORDER > 0, ~whole)
    np.testing.assert_array_equal(found.offsets, measured.outlines.offsets)
    assert found.header.counted == measured.psd.n == 3


def test_frames_are_found_by_number_and_the_nearest_stands_in(rest) -> None:
    ids = [rest.add([10 + i]) for i in range(3)]
    assert packet(rest, "/sessions/1/packet?number=2").header.frame_id == ids[1]
    assert packet(rest, "/sessions/1/packet?number=999").header.frame_id == ids[2]
    assert rest.http.get("/api/v1/sessions/1/packet?number=0").status_code == 422
    assert rest.http.get("/api/v1/sessions/9/packet?number=1").status_code == 404
    assert rest.http.get("/api/v1/frames/99/packet").status_code == 404


def test_a_frame_that_waits_shows_its_picture_and_one_set_aside_its_reason(
    rest,
) -> None:
    rest.lab.deliver(rest.lab.discs([10]))
    waiting = packet(rest, "/sessions/1/packet?number=1").header
    assert (waiting.particles, waiting.model_id) == (0, "")
    leased = rest.lab.store.lease_frame()
    rest.lab.store.quarantine(leased.frame_id, "the file ends early")
    answer = rest.http.get("/api/v1/sessions/1/packet?number=1")
    assert answer.status_code == 404
    assert "ends early" in answer.json()["detail"]
    (mark,) = rest.http.get("/api/v1/sessions/1/marks").json()["marks"]
    assert (mark["kind"], mark["number"]) == ("problem", 1)


def test_rejections_and_the_operators_pixel_size_show_in_a_stored_packet(rest) -> None:
    frame = rest.add([10, 20])
    rest.http.post(f"/api/v1/frames/{frame}/particles/1/reject").raise_for_status()
    size = {"pixel_size_nm": 2.0}
    rest.http.post("/api/v1/sessions/1/calibration", json=size).raise_for_status()
    found = packet(rest, f"/frames/{frame}/packet")
    assert found.flags.tolist() == [REJECTED, 0]
    assert (found.header.counted, found.header.unit) == (1, "nm")
    # The large disc begins higher up, so it is number 1; drawn edges are a pixel off.
    assert found.header.mean_diameter == pytest.approx(20, rel=0.03)
    kinds = [
        m["kind"] for m in rest.http.get("/api/v1/sessions/1/marks").json()["marks"]
    ]
    assert sorted(kinds) == ["calibration", "reject"]


def test_undo_takes_back_ones_own_changes_one_after_the_other(rest) -> None:
    frame = rest.add([10, 20, 30])
    path = f"/api/v1/frames/{frame}"
    rest.http.post(f"{path}/particles/1/reject")
    rest.http.post(f"{path}/particles/2/reject")
    rest.http.post(f"{path}/reject")
    undone = rest.http.post("/api/v1/undo").json()
    assert (undone["frame_id"], undone["action"]) == (frame, "reject frame")
    assert [row["rejected"] for row in particles(rest, frame)] == [True, True, False]
    rest.http.post("/api/v1/undo").raise_for_status()
    assert [row["rejected"] for row in particles(rest, frame)] == [True, False, False]
    rest.http.post(f"{path}/particles/1/restore")
    rest.http.post("/api/v1/undo").raise_for_status()  # of the restoring
    assert [row["rejected"] for row in particles(rest, frame)] == [True, False, False]
    rest.http.post("/api/v1/undo").raise_for_status()
    assert not any(row["rejected"] for row in particles(rest, frame))
    empty = rest.http.post("/api/v1/undo")
    assert empty.status_code == 404
    assert "nothing" in empty.json()["detail"]


def test_undo_leaves_alone_what_others_did_and_what_was_measured_anew(rest) -> None:
    first = rest.add([10, 20])
    rest.lab.store.reject_particles(first, [1], "somebody else")
    assert rest.http.post("/api/v1/undo").status_code == 404
    rest.http.post(f"/api/v1/frames/{first}/particles/2/reject").raise_for_status()
    rest.http.post(f"/api/v1/frames/{first}/reprocess").raise_for_status()
    rest.lab.process(rest.lab.discs([40, 30]))  # other particles, the same numbers
    assert rest.http.post("/api/v1/undo").status_code == 404


def test_rejecting_twice_is_undone_once(rest) -> None:
    frame = rest.add([10])
    rest.lab.store.reject_particles(frame, [1], "somebody else")
    rest.http.post(f"/api/v1/frames/{frame}/particles/1/reject").raise_for_status()
    rest.http.post("/api/v1/undo").raise_for_status()
    assert particles(rest, frame)[0]["rejected"]  # it was out before


def test_a_viewer_may_look_back_but_not_undo(rest) -> None:
    rest.add([10])
    viewer = {"authorization": f"Bearer {rest.viewer}"}
    looked = rest.http.get("/api/v1/sessions/1/packet?number=1", headers=viewer)
    assert looked.status_code == 200
    assert rest.http.post("/api/v1/undo", headers=viewer).status_code == 403


def test_a_long_timeline_is_bounded_and_keeps_its_spike(rest) -> None:
    for index in range(20):
        rest.add([30 if index == 7 else 10] * 3)
    line = rest.http.get("/api/v1/sessions/1/timeline?points=10").json()
    assert line["frames"] == 20
    assert 3 <= len(line["frame"]) <= 10
    assert line["number"] == sorted(line["number"])
    assert {1, 8, 20} <= set(line["number"])  # the ends and the spike
    assert max(line["mean_diameter"]) == pytest.approx(30, rel=0.03)
