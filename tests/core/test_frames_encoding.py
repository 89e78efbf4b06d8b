"""Frames that we send: byte for byte as RFC 6455 says, and understood by another implementation and back."""

from __future__ import annotations

import pytest
import websocket
from hypothesis import given
from hypothesis import strategies as st

from wsclient.core.frames import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    CloseFrame,
    ControlFrame,
    close_payload,
    encode_frame,
    encode_texts,
    mask_payload,
)

from .streams import (
    KEY,
    MODES,
    Outcome,
    fast,
    feed_whole,
    frame,
    parser_for,
)


@MODES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_encoded_frames_are_what_the_rfc_says_byte_for_byte(masked: bool, size: int) -> None:
    text = b"b" * size
    assert encode_frame(TEXT, text, KEY if masked else None) == frame(TEXT, text, masked=masked)


@MODES
@given(opcode=st.sampled_from([TEXT, PING, PONG]), text=st.text(max_size=31))
@fast
def test_encoded_frames_come_back(masked: bool, opcode: int, text: str) -> None:
    payload = text.encode()[:125].decode(errors="ignore").encode()
    out = feed_whole(encode_frame(opcode, payload, KEY if masked else None), masked)
    assert out == (Outcome([payload]) if opcode == TEXT else Outcome([], [ControlFrame(opcode, payload)]))


@given(texts=st.lists(st.one_of(st.text(max_size=20), st.integers(120, 130).map(lambda n: "ü" * n)), max_size=10))
@fast
def test_texts_encoded_for_one_write_come_back(texts: list[str]) -> None:
    assert parser_for(False).feed(encode_texts(texts)) == [text.encode() for text in texts]


def test_texts_encoded_for_one_write_may_be_long() -> None:
    texts = ["a" * 65536, "b" * 65535, "", "c"]
    assert parser_for(False).feed(encode_texts(texts)) == [text.encode() for text in texts]


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_over_125_bytes_is_never_encoded(opcode: int) -> None:
    encode_frame(opcode, b"a" * 125)
    with pytest.raises(ValueError, match=r"at most 125 bytes \(got 126\)"):
        encode_frame(opcode, b"a" * 126)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_mask_key_of_any_other_size_than_four_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"four bytes \(got {size}\)"):
        encode_frame(TEXT, b"hello", b"k" * size)


@given(key=st.binary(min_size=4, max_size=4), payload=st.binary(max_size=300))
@fast
def test_masking_is_xor_with_the_key_over_and_over(key: bytes, payload: bytes) -> None:
    naive = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    assert mask_payload(key, payload) == naive
    assert mask_payload(key, naive) == payload


@given(
    messages=st.lists(st.lists(st.text(max_size=140), min_size=1, max_size=4), max_size=6),
    pings=st.lists(st.binary(max_size=125), max_size=3),
)
@fast
def test_frames_of_websocket_client_are_understood_in_server_mode(
    messages: list[list[str]], pings: list[bytes]
) -> None:
    stream = b""
    for fragments in messages:
        for index, fragment in enumerate(fragments):
            opcode = websocket.ABNF.OPCODE_TEXT if index == 0 else websocket.ABNF.OPCODE_CONT
            last = int(index == len(fragments) - 1)
            stream += websocket.ABNF.create_frame(fragment.encode(), opcode, last).format()
        for ping in pings:
            stream += websocket.ABNF.create_frame(ping, websocket.ABNF.OPCODE_PING).format()
    assert feed_whole(stream, True) == Outcome(
        ["".join(fragments).encode() for fragments in messages],
        [ControlFrame(PING, ping) for _ in messages for ping in pings],
    )


@given(texts=st.lists(st.text(max_size=140), max_size=6), code=st.sampled_from([1000, 1011, 4003]))
@fast
def test_unmasked_frames_of_websocket_client_are_understood_in_client_mode(texts: list[str], code: int) -> None:
    def unmasked(opcode: int, data: bytes) -> bytes:
        return bytes(websocket.ABNF(1, 0, 0, 0, opcode, 0, data).format())

    stream = b"".join(unmasked(websocket.ABNF.OPCODE_TEXT, text.encode()) for text in texts)
    stream += unmasked(websocket.ABNF.OPCODE_CLOSE, code.to_bytes(2, "big") + b"bye")
    assert feed_whole(stream, False) == Outcome([text.encode() for text in texts], [], CloseFrame(code, "bye"))


@given(code=st.sampled_from([1000, 1001, 1002, 1007, 1009, 1012, 3000, 4000, 4003, 4999]), reason=st.text(max_size=200))
@fast
def test_a_close_payload_keeps_as_many_whole_characters_as_fit(code: int, reason: str) -> None:
    payload = close_payload(code, reason)
    out = feed_whole(encode_frame(CLOSE, payload), False)
    assert out.close is not None
    assert out.close.code == code
    kept = out.close.reason
    assert reason.startswith(kept)
    assert kept == reason or len((kept + reason[len(kept)]).encode()) > 123


@pytest.mark.parametrize(("character", "fitting"), [("x", 123), ("é", 61), ("€", 41), ("😀", 30)])
def test_a_long_close_reason_fills_the_frame(character: str, fitting: int) -> None:
    assert close_payload(1000, character * 200) == b"\x03\xe8" + (character * fitting).encode()


def test_a_close_reason_with_a_lone_surrogate_is_still_sent() -> None:
    assert close_payload(1011, "bad \ud800 text") == b"\x03\xf3bad ? text"


def test_a_close_without_a_code_is_echoed_without_one() -> None:
    assert close_payload(1005) == b""


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 65536])
def test_a_close_code_that_takes_the_original_server_down_is_never_encoded(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} is never sent"):
        close_payload(code)
