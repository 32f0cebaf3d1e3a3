"""The codec: what is said arrives as it was said; anything else is a WireError."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from emcopilot import wire
from emcopilot.errors import ConfigError, WireError

JOURNAL = "0f8fad5b-d9cb-469f-a165-70867728950e"
SHA256 = "ab" * 32


def header(**changes: object) -> wire.FileHeader:
    fields: dict[str, object] = {
        "seq": 1,
        "rev": 1,
        "source_key": "acquisitions/frame_0001.tif",
        "size": 10,
        "sha256": SHA256,
        "mtime_ns": 1,
        "sealed_at": 1.5,
    }
    return wire.FileHeader.model_validate(fields | changes)


EXAMPLES: list[wire.Message] = [
    wire.Hello(journal=JOURNAL, host="scope", agent_version="0.1.0"),
    wire.Welcome(server_version="0.1.0", paused="disk full"),
    wire.Offer(files=(header(), header(seq=2))),
    wire.NeedBytes(files=(wire.Need(seq=1, rev=1, offset=0, upto=10),)),
    wire.Stored(items=((1, 1), (2, 3))),
    wire.Retry(seq=1, rev=1, reason="lost"),
    wire.Refused(code="file_too_large", reason="9 GB", seq=1, rev=1),
    wire.Gone(
        items=(wire.GoneItem(seq=1, rev=1, source_key="a/ä.tif", reason="vanished"),)
    ),
    wire.GoneOk(items=((1, 1),)),
    wire.Ping(report=wire.Report(discovered=3, problems=("x",))),
    wire.Pong(),
    wire.Reset(),
    wire.Enrol(code="12345678", host="scope"),
    wire.Enrolled(agent="scope", data_port=5570),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: m.name)
def test_every_message_arrives_as_it_was_said(message: wire.Message) -> None:
    parts = wire.encode(message)
    assert wire.decode(parts) == (message, memoryview(b""))


def test_a_chunk_carries_its_payload_uncopied() -> None:
    payload = bytes(1000)
    parts = wire.encode(wire.Chunk(seq=1, rev=1, offset=5), payload)
    assert parts[3] is payload
    message, view = wire.decode(parts)
    assert (message, view) == (wire.Chunk(seq=1, rev=1, offset=5), payload)


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_random_bytes_raise_nothing_but_wire_errors(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.decode(parts)


NAMES = st.sampled_from([m.name.encode() for m in EXAMPLES] + [b"CHUNK"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["seq", "rev", "files", "items", "size", "report", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(NAMES, JSON | st.binary(max_size=100), st.none() | st.binary(max_size=50))
def test_any_json_under_a_right_name_is_a_message_or_a_wire_error(
    name: bytes, body: object, payload: bytes | None
) -> None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    parts = [wire.TAG, name, text, *([payload] if payload is not None else [])]
    try:
        message, _ = wire.decode(parts)
    except WireError:
        return
    assert wire.decode(wire.encode(message, payload))[0] == message


@pytest.mark.parametrize(
    "parts",
    [
        [b"EMC2", b"RESET", b"{}"],
        [b"EMC1", b"RESET"],
        [b"EMC1", b"RESET", b"{}", b"payload"],
        [b"EMC1", b"CHUNK", b'{"seq":1,"rev":1,"offset":0}'],
        [b"EMC1", b"CHUNK", b'{"seq":1,"rev":1,"offset":0}', b""],
        [b"EMC1", b"CHUNK", b'{"seq":1,"rev":1,"offset":0}', bytes(2**20 + 1)],
        [b"EMC1", b"RETRY", b'{"seq":"1","rev":1,"reason":"lost"}'],
        [b"EMC1", b"RETRY", b'{"seq":9007199254740992,"rev":1,"reason":"lost"}'],
        [b"EMC1", b"RETRY", b'{"seq":1,"rev":1,"reason":"lost","more":1}'],
        [b"EMC1", b"RESET", b"[" * 60_000],
        [b"EMC1", b"RESET", b" " * (64 * 2**10 + 1)],
    ],
)
def test_what_breaks_the_protocol_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.decode(parts)


def test_the_largest_offer_fits_one_header() -> None:
    # Quotation marks double in JSON: no other character that is allowed grows more.
    largest = header(
        seq=2**53 - 1, rev=2**53 - 1, source_key='"' * wire.NAME_BYTES, size=2**53 - 1
    )
    offer = wire.Offer(files=(largest,) * wire.ITEMS)
    assert len(wire.encode(offer)[2]) <= wire.HEADER_BYTES
    wire.decode(wire.encode(offer))


@pytest.mark.parametrize(
    "name",
    ["", "a\nb", "a\x00", "\x85", "\ud800.tif", "x" * 1025, "e\u0301.tif"],
    ids=repr,
)
def test_names_that_could_do_harm_do_not_travel(name: str) -> None:
    with pytest.raises(ValidationError):
        header(source_key=name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\x", "<script>", "日本.tif"])
def test_names_are_data_and_need_not_look_like_ours(name: str) -> None:
    assert header(source_key=name).source_key == name


@given(st.text(max_size=2000))
def test_a_shown_name_always_travels(name: str) -> None:
    shown = wire.shown_name(name)
    assert header(source_key=shown).source_key == shown


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=100))
def test_a_good_name_is_shown_as_it_is(name: str) -> None:
    composed = unicodedata.normalize("NFC", name)
    assert wire.shown_name(composed) == composed


KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


@pytest.mark.parametrize("host", ["gpu01", "192.168.1.5", "[::1]", "gpu.lab.example"])
def test_an_invitation_survives_being_pasted(host: str) -> None:
    invitation = wire.Invitation(host=host, port=5571, server_key=KEY, code="0a1b2c3d")
    text = str(invitation)
    assert wire.Invitation.parse(f' "{text}"\n') == invitation
    assert not set(text) & set("$&!%^*()<>?{}|\\'\"` ")  # nothing for a shell to eat


@pytest.mark.parametrize("text", ["", "emc1", "emc1:a:b:c:d", "emc2:h:1:k:c", "é:::::"])
def test_another_text_is_no_invitation(text: str) -> None:
    with pytest.raises(ConfigError, match="enrolment string"):
        wire.Invitation.parse(text)
