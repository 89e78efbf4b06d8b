"""What a message may be made of: values, depth, digits; and that looking costs little."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.gateway.json_limits import MAX_DEPTH, MAX_NUMBER_CHARS, MAX_VALUES, fault_of

from ..support.gateway_peers import Peer

MIB = 1 << 20
DEEP = f"brackets nested more than {MAX_DEPTH} deep"
MANY = f"more than {MAX_VALUES} values"
LONG = f"a number of more than {MAX_NUMBER_CHARS} characters"


def nested(depth: int) -> bytes:
    return b"[" * depth + b"5" + b"]" * depth


def listed(count: int) -> bytes:
    return b"[" + b",".join([b"5"] * (count - 1)) + b"]"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (nested(MAX_DEPTH), None),
        (nested(MAX_DEPTH + 1), DEEP),
        (b'{"a":' * (MAX_DEPTH + 1) + b"5" + b"}" * (MAX_DEPTH + 1), DEEP),
        (b"[" * 100_000, DEEP if MAX_VALUES > 100_000 else MANY),
        (b"[" + b"[],[[]]," * 1000 + b"5]", None),
        (listed(MAX_VALUES), None),
        (listed(MAX_VALUES + 1), MANY),
        (b"[" + b'"",' * (3 * MAX_VALUES) + b'""]', MANY),
        (b"[" + b" " * (24 * MAX_VALUES) + b"]", MANY),
        (b"[" + b"9" * MAX_NUMBER_CHARS + b"]", None),
        (b"[" + b"9" * (MAX_NUMBER_CHARS + 1) + b"]", LONG),
        (b"-0." + b"1" * MAX_NUMBER_CHARS + b"e5", LONG),
        (b"1" * MIB, LONG),
    ],
    ids=lambda value: repr(value[:12]) + str(len(value)) if isinstance(value, bytes) else None,
)
def test_a_text_over_a_limit_is_named(text: bytes, fault: str | None) -> None:
    assert fault_of(text) == fault


@pytest.mark.parametrize(
    "prompt",
    ["[" * MIB, "{[,:" * 100_000, "1" * MIB, '"[' * 100_000, '\\"[' * 100_000, "\\\\[" * 100_000, '\\\\\\"[' * 50_000],
    ids=lambda prompt: repr(prompt[:8]),
)
def test_what_a_prompt_says_counts_for_nothing(prompt: str) -> None:
    assert fault_of(json.dumps({"type": "generate", "prompt": prompt}).encode()) is None
    # The same outside of the text, right after it.
    assert fault_of(json.dumps({"prompt": prompt}).encode()[:-1] + b"," + nested(MAX_DEPTH)) == DEEP


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('a"\\[]{},:9é'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{,', max_size=3), inner, max_size=4),
)


@given(value=values, is_ascii=st.booleans())
@settings(deadline=None, max_examples=300, database=None)
def test_no_ordinary_message_has_a_fault(value: Any, is_ascii: bool) -> None:
    text = json.dumps([value, "x" * MAX_NUMBER_CHARS], ensure_ascii=is_ascii)
    assert fault_of(text.encode()) is None
    # One level more than it has is what the limit would have to be.
    around = b"[" * MAX_DEPTH + text.encode() + b"]" * MAX_DEPTH
    assert fault_of(around) == DEEP


def test_looking_at_32_mib_costs_no_more_than_parsing_them_would() -> None:
    # 0.02 to 0.15 s; a scan in Python takes four seconds, and so does what it spares us.
    size = 32 * MIB
    texts = (b"[" + b"[]," * (size // 3) + b"[]]", b'{"prompt":"' + b'\\"' * (size // 2) + b'"}', b"1" * size)
    for text in texts:
        began = time.process_time()
        fault_of(text)
        assert time.process_time() - began < 1.5


@pytest.mark.parametrize(
    ("text", "fault"),
    [("[" * 100_000, MANY if MAX_VALUES <= 100_000 else DEEP), ("1" * MIB, LONG), ("[" * 600 + "]" * 600, DEEP)],
    ids=["brackets", "digits", "depth"],
)
def test_a_client_is_told_and_stays_connected(peer: Peer, text: str, fault: str) -> None:
    peer.send_text(text)
    answer = peer.receive()
    assert (answer["type"], answer["code"]) == ("error", "server_error")
    assert answer["error"] == f"Server error: a message has {fault}"
    peer.send(type="ping", id="still here")
    assert peer.receive()["id"] == "still here"
