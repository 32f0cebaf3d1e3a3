"""The one-file client against a real server; its source stays readable by Python 3.8."""

import ast
import io
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tifffile

from emcopilot import client
from emcopilot.client import Client, ServerError

DRAWN = 0.03  # a disc drawn by pixel centres
SOURCE = Path(client.__file__)
# Added after 3.8, and tempting in code like ours.
TOO_NEW = {
    "removeprefix",
    "removesuffix",
    "to_thread",
    "aclosing",
    "pairwise",
    "timeout_at",
}


@pytest.fixture
def copilot(rest) -> Client:
    return Client(rest.url, rest.operator)


def test_source_is_python_3_8_and_standard_library_only() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & TOO_NEW
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots = {(node.module or "").partition(".")[0]}
        else:
            continue
        assert roots <= set(sys.stdlib_module_names), roots


def test_run_time_expressions_need_no_new_syntax() -> None:
    """`X | Y` and `list[...]` are fine in annotations only: 3.8 never evaluates those."""
    tree = ast.parse(SOURCE.read_text())
    annotations = set()
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            inside = getattr(node, field, None)
            if inside is not None:
                annotations |= {id(child) for child in ast.walk(inside)}
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr))
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in {"list", "dict", "tuple", "type", "Iterator"}


def test_sessions_frames_and_particles_come_as_plain_values(rest, copilot) -> None:
    ids = [rest.add([10, 20], pixel_size_nm=0.5) for _ in range(3)]
    session = copilot.find_session("run1")
    assert session == copilot.find_session("acquisitions/run1")
    assert [frame["id"] for frame in copilot.frames(session["id"])] == ids[::-1]
    assert copilot.frame(ids[0])["unit"] == "nm"
    sizes = [row["equivalent_diameter_nm"] for row in copilot.particles(ids[0])]
    assert sorted(sizes) == pytest.approx([5, 10], rel=DRAWN)
    assert copilot.particles_csv(ids[0]).startswith("session,frame,time_s,particle")
    assert tifffile.imread(io.BytesIO(copilot.labels(ids[0]))).max() == 2
    assert copilot.overlay(ids[0]).startswith(b"\x89PNG")
    assert copilot.psd(session["id"])["counted"] == 6
    assert copilot.timeline(session["id"])["frame"] == ids


def test_waiting_ends_with_the_frame_that_decides(rest, copilot) -> None:
    rest.add([19, 20, 21], pixel_size_nm=1.0)
    session = copilot.find_session("run1")
    assert copilot.convergence(session["id"])["known"] is False
    adding = threading.Timer(
        0.3, rest.add, ([19, 20, 21] * 20,), {"pixel_size_nm": 1.0, "shape": (512, 512)}
    )
    adding.start()
    answer = copilot.wait_until_known(session["id"], target=0.02, timeout_s=30)
    adding.join()
    assert answer["known"] is True
    assert answer["mean_diameter"] == pytest.approx(20, rel=DRAWN)


def test_waiting_gives_up_when_time_is_up(rest, copilot) -> None:
    rest.add([10, 20])
    answer = copilot.wait_until_known(1, target=0.001, timeout_s=0.2)
    assert answer["known"] is False
    assert answer["counted"] == 2


def test_a_session_can_be_waited_for(rest, copilot) -> None:
    with pytest.raises(ServerError, match="'run1'"):
        copilot.find_session("run1")
    adding = threading.Timer(0.2, rest.add, ([10],))
    adding.start()
    assert copilot.find_session("run1", timeout_s=20)["name"] == "run1"
    adding.join()


def test_a_file_is_segmented_without_being_kept(rest, copilot, tmp_path) -> None:
    file = tmp_path / "frame 1.tif"
    file.write_bytes(rest.lab.tiff_of(rest.lab.discs([10, 30])))
    found = copilot.segment(str(file), pixel_size_nm=0.1)
    sizes = [row["equivalent_diameter_nm"] for row in found["particles"]]
    assert sorted(sizes) == pytest.approx([1, 3], rel=DRAWN)
    assert tifffile.imread(io.BytesIO(copilot.segment_labels(str(file)))).max() == 2
    assert copilot.sessions() == []


def test_the_operators_word_is_passed_on(rest, copilot) -> None:
    frame = rest.add([10, 10])
    copilot.reject_particle(frame, 1)
    assert copilot.psd(1)["rejected"] == 1
    copilot.restore_particle(frame, 1)
    copilot.reject_frame(frame)
    assert copilot.psd(1)["counted"] == 0
    copilot.restore_frame(frame)
    assert copilot.psd(1)["counted"] == 2
    copilot.calibrate(1, 0.5)
    assert copilot.sessions()[0]["pixel_size_nm"] == [0.5, 0.5]


def test_events_follow_what_happens_and_resume(rest, copilot) -> None:
    frame = rest.add([10])
    stream = copilot.events(after=0)
    first = next(stream)
    seen = [first, *(next(stream) for _ in range(1))]
    assert [event["id"] for event in seen] == sorted({event["id"] for event in seen})
    copilot.reject_frame(frame)
    event = next(stream)
    while event["body"].get("change") != "reject frame":
        event = next(stream)
    assert event["frame_id"] == frame
    stream.close()
    again = next(copilot.events(after=event["id"] - 1))
    assert again == event


def test_a_refusal_says_what_got_expected_and_what_to_do(
    rest, copilot, tmp_path
) -> None:
    with pytest.raises(ServerError, match="there is no frame 99") as missing:
        copilot.frame(99)
    assert missing.value.status == 404
    notes = tmp_path / "notes.tif"
    notes.write_text("no image")
    with pytest.raises(ServerError, match="do: ") as refused:
        copilot.segment(str(notes))
    assert refused.value.problem["title"]


def test_a_wrong_token_is_named_as_the_cause(rest) -> None:
    with pytest.raises(ServerError, match="token") as refused:
        Client(rest.url, "emct_wrong").sessions()
    assert refused.value.status == 401


def test_an_absent_server_is_named_with_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ServerError, match=f"no EMcopilot server at .*{port}") as error:
        Client(f"http://127.0.0.1:{port}", "t").sessions()
    assert error.value.status == 0


@contextmanager
def answering_once(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Give one connection a ready answer; yield the address and the requests."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(65536))
                connection.sendall(answer)

        answering = threading.Thread(target=answer_once)
        answering.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        answering.join()


def test_a_redirect_never_carries_the_token_elsewhere() -> None:
    redirect = (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/elsewhere\r\n"
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    with answering_once(redirect) as (url, requests):
        copilot = Client(url, "secret")
        with pytest.raises(ServerError) as refused:
            copilot.sessions()
    assert refused.value.status == 302
    assert len(requests) == 1


def test_a_model_whose_transfer_breaks_leaves_the_file_as_it_was(
    tmp_path: Path,
) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(b"whole")
    broken = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"half" * 100
    with answering_once(broken) as (url, _):
        copilot = Client(url, "secret")
        with pytest.raises(ServerError, match="broke off after 400 of 1000 bytes"):
            copilot.export_model("a", str(file))
    assert file.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [file]


def test_a_model_replaces_the_file_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(b"the model before")
    other = tmp_path / "model.zip.part"
    other.write_bytes(b"of somebody else")
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwork"
    with answering_once(whole) as (url, _):
        assert Client(url, "secret").export_model("a", str(file)) == 4
    assert file.read_bytes() == b"work"
    assert other.read_bytes() == b"of somebody else"
    assert set(tmp_path.iterdir()) == {file, other}
