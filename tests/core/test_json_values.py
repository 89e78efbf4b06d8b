"""A batch of JSON texts gives what each gives alone, with either parser, whatever a peer makes up."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.core.json_values import decode_values, is_accelerated
from wsclient.errors import ProtocolError

try:
    from orjson import loads as orjson_loads
except ImportError:
    orjson_loads = None

Loads = Callable[[bytes], Any] | None

PARSERS = pytest.mark.parametrize(
    "loads",
    [
        pytest.param(None, id="json"),
        pytest.param(orjson_loads, id="orjson", marks=pytest.mark.skipif(orjson_loads is None, reason="no orjson")),
    ],
)
both_parsers = pytest.mark.skipif(orjson_loads is None, reason="no orjson")
fast = settings(deadline=None, database=None, max_examples=100)
MARKER = b"9007199254740993"


def shown(values: list[Any]) -> list[str]:
    """Return values in a form that tells 1 from 1.0 and True, and one refusal like any other."""
    return ["refused" if isinstance(value, ProtocolError) else repr(value) for value in values]


def one_by_one(payloads: list[bytes], loads: Loads) -> list[str]:
    return shown([value for payload in payloads for value in decode_values([payload], loads)])


def strictly(payload: bytes) -> str:
    """Parse one text as RFC 8259 says, by the plainest means there is."""

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(number)
        return float(number)

    try:
        value = json.loads(payload.decode(), parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError):
        return "refused"
    return repr(value)


# --- a batch is what its texts are alone ------------------------------------------------------------------------------

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
good = st.builds(
    lambda value, ascii, space: space + json.dumps(value, ensure_ascii=ascii) + space,
    values,
    st.booleans(),
    st.sampled_from(["", " ", "\n", "\t\r\n"]),
)
pieces = st.sampled_from(
    ["{", "}", "[", "]", ",", ":", '"', "\\", "1", "-", ".", "e", "0", "null", "true", "NaN", " ", '"a"', "\\u00", "//"]
    + [MARKER.decode(), f",{MARKER.decode()},", f'"{MARKER.decode()}"', f"{MARKER.decode()}.0"]
)
junk = st.lists(pieces, max_size=6).map("".join) | st.text(max_size=6)
# Of integers over 64 bits orjson makes floats: the one known difference, tested by itself below.
junk = junk.filter(lambda text: not re.search(r"\d{20}", text))
texts = (good | good | junk).filter(lambda text: text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text))


@PARSERS
@given(batch=st.lists(good.map(str.encode), max_size=8))
@fast
def test_a_batch_of_good_texts_gives_their_values_in_order(loads: Loads, batch: list[bytes]) -> None:
    assert shown(decode_values(batch, loads)) == [strictly(payload) for payload in batch]


@PARSERS
@given(batch=st.lists(texts.map(str.encode), max_size=8))
@settings(parent=fast, max_examples=250)
def test_a_batch_of_good_texts_and_junk_gives_what_each_gives_alone(loads: Loads, batch: list[bytes]) -> None:
    assert shown(decode_values(batch, loads)) == one_by_one(batch, loads) == [strictly(text) for text in batch]


@PARSERS
@given(whole=st.lists(good, min_size=1, max_size=4).map(",".join), data=st.data())
@settings(parent=fast, max_examples=150)
def test_a_text_cut_anywhere_gives_what_its_parts_give_alone(loads: Loads, whole: str, data: st.DataObject) -> None:
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=4)))
    edges = [0, *places, len(whole)]
    batch = [whole[a:b].encode() for a, b in itertools.pairwise(edges)]
    assert shown(decode_values(batch, loads)) == [strictly(text) for text in batch]


@PARSERS
def test_no_texts_give_no_values(loads: Loads) -> None:
    assert decode_values([], loads) == []


@PARSERS
def test_a_batch_of_good_texts_is_parsed_in_one_go(loads: Loads) -> None:
    calls = []

    def counting(text: bytes) -> Any:
        calls.append(text)
        return (loads or json.loads)(text)

    batch = [b'{"token":%d}' % number for number in range(100)]
    assert decode_values(batch, counting) == [{"token": number} for number in range(100)]
    assert len(calls) == 1
    assert decode_values([b"7"], counting) == [7]
    assert calls[1:] == [b"7"]


@PARSERS
@pytest.mark.parametrize("place", [0, 50, 99])
def test_one_bad_text_spoils_no_other(loads: Loads, place: int) -> None:
    batch = [b"%d" % number for number in range(100)]
    batch[place] = b"{"
    decoded = decode_values(batch, loads)
    assert isinstance(decoded.pop(place), ProtocolError)
    assert decoded == [number for number in range(100) if number != place]


def test_the_default_parser_is_orjson_when_it_is_installed() -> None:
    assert is_accelerated() == (importlib.util.find_spec("orjson") is not None)
    assert decode_values([b"1", b"2"]) == [1, 2]


# --- crafted texts ----------------------------------------------------------------------------------------------------

CRAFTED = {
    "an array over two texts": [b'{"a":[1', b"2]}"],
    "an array over two texts, two values in the third": [b"[1", b"2]", b"1,2"],
    "an array over two texts, three values in the third": [b"[1", b"2]", b"{},{},{}"],
    "two values in one text": [b"{},{}", b"{}"],
    "two values first, half a value twice": [b"{},{}", b"[", b"]"],
    "three values in the place of two": [b"1,2,3", b"[4", b"5]"],
    "an object over two texts": [b'{"a":1', b'"b":2}'],
    "the marker as a key": [b'{"a":1', b":2}"],
    "a string over two texts": [b'"a', b'b"'],
    "a string over three texts": [b'"a', b"b", b'c"'],
    "a string that hides a neighbour": [b'"', b'{"secret":1}', b'"'],
    "an escape at the end": [b'"a\\', b'"'],
    "strings that swap inside and outside": [b'"a","', b'","b"'],
    "the outer array closed and opened": [b"1]", b"[2"],
    "the outer array closed and opened in one": [b"1],[2", b"3"],
    "the outer array closed": [b"1]", b"2"],
    "empty": [b"", b"1"],
    "empty last": [b"1", b""],
    "all empty": [b"", b"", b""],
    "only spaces": [b" ", b"\n", b"1"],
    "a comma before": [b"1", b",2"],
    "a comma after": [b"1,", b"2"],
    "only a comma": [b",", b"1"],
    "a number to go on": [b"1", b"e5", b"-"],
    "a minus at the end": [b"-", b"1"],
    "its own separator": [b"1," + MARKER + b",2", b"3"],
    "its own separator, and a real one in a string": [b"1," + MARKER + b',"', b'"'],
    "its own separator, and a real one in an array": [b"1," + MARKER + b",[2", b"3]"],
    "its own separator with spaces": [b"1 , " + MARKER + b' , "', b'"'],
    "its own separator as a float": [b"1," + MARKER + b'.0,"', b'"'],
    "its own separator as a float just beside": [b'1,9007199254740992.0,"', b'"'],
    "its own separator with an exponent": [b'1,9.007199254740993e15,"', b'"'],
    "its own separator with an exponent, the float above": [b'1,9.007199254740994e15,"', b'"'],
    "its own separator with an exponent up": [b'1,900719925474099.3E+1,"', b'"'],
    "its own separator with an exponent down": [b"1," + MARKER + b'0e-1,"', b'"'],
    "its own separator as a string": [b'1,"' + MARKER + b'","', b'"'],
    "its own separator with a leading zero": [b"1,0" + MARKER + b',"', b'"'],
    "its own separator with a sign": [b"1,+" + MARKER + b',"', b'"'],
    "its own separator, negative": [b"1,-" + MARKER + b',"', b'"'],
    "a comment": [b"/*", b"*/1"],
    "a byte order mark": [b"\xef\xbb\xbf1", b"2"],
    "a NUL": [b"1\0", b"2"],
    "a vertical tab as a space": [b"\x0b1", b"2"],
    "a no-break space as a space": [b"\xc2\xa01", b"2"],
}


@PARSERS
@pytest.mark.parametrize("name", CRAFTED)
def test_texts_that_only_join_to_json_are_refused_one_by_one(loads: Loads, name: str) -> None:
    batch = CRAFTED[name]
    alone = [strictly(payload) for payload in batch]
    assert "refused" in alone
    for around in (batch, [b"0", *batch], [*batch, b"0"], batch * 2):
        assert shown(decode_values(around, loads)) == [strictly(payload) for payload in around]


@PARSERS
@pytest.mark.parametrize(
    "spelling",
    [
        MARKER,
        b"-" + MARKER,
        b"1" + MARKER,
        MARKER + b"1",
        MARKER + b".0",
        MARKER + b"e0",
        MARKER + b"0e-1",
        b"9.007199254740993e15",
        b"9007199254740992",
        b"9007199254740992.0",
        b"9007199254740994.0",
        b'"' + MARKER + b'"',
        b'"a,' + MARKER + b',b"',
        b'"\\u0039007199254740993"',
        b"[" + MARKER + b"]",
        b'{"' + MARKER + b'":' + MARKER + b"}",
        b"[1," + MARKER + b",2]",
    ],
)
def test_the_marker_inside_a_text_is_a_value_like_any_other(loads: Loads, spelling: bytes) -> None:
    for batch in ([spelling, b"1"], [b"1", spelling], [spelling] * 3, [b"1", spelling, b"2", spelling, b"[]"]):
        decoded = shown(decode_values(batch, loads))
        assert decoded == [strictly(payload) for payload in batch]
        assert "refused" not in decoded


# --- what is JSON, and what not ---------------------------------------------------------------------------------------


@PARSERS
@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity", "[NaN]", '{"a":-Infinity}', "nan", "inf", "1e999"])
def test_numbers_that_no_json_can_carry_on_are_refused(loads: Loads, name: str) -> None:
    refused = decode_values([name.encode()], loads)[0]
    assert isinstance(refused, ProtocolError)
    assert str(refused).startswith("a message is not JSON: ")
    assert shown(decode_values([b"1", name.encode(), b"2"], loads)) == ["1", "refused", "2"]


@PARSERS
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("is_closed", [False, True])
def test_100000_levels_of_nesting_are_refused_and_harm_no_neighbour(
    loads: Loads, opening: str, is_closed: bool
) -> None:
    closing = "".join({"[": "]", "{": "}"}.get(c, "") for c in reversed(opening))
    deep = opening * 100_000 + ("1" + closing * 100_000 if is_closed else "")
    before, refused, after = decode_values([b"1", deep.encode(), b"2"], loads)
    assert (before, after) == (1, 2)
    assert isinstance(refused, ProtocolError)
    assert refused.message == "a message is not JSON: nested too deeply"


@PARSERS
def test_a_hundred_levels_of_nesting_are_taken(loads: Loads) -> None:
    deep = b"[" * 100 + b"]" * 100
    alone = decode_values([deep], loads)
    assert json.dumps(alone[0]).encode() == deep
    assert decode_values([b"1", deep, deep], loads) == [1, alone[0], alone[0]]


@PARSERS
@pytest.mark.parametrize("digits", [20, 300, 400, 5_000, 100_000])
def test_huge_integers_are_numbers_or_refused_and_harm_no_neighbour(loads: Loads, digits: int) -> None:
    before, huge, after = decode_values([b"1", b"9" * digits, b"2"], loads)
    assert (before, after) == (1, 2)
    if digits <= 400:
        assert huge == (10**digits - 1 if loads is None or digits > 308 else float(10**digits))
    else:
        # CPython's own guard against integers that take for ever.
        assert isinstance(huge, ProtocolError)
        assert huge.message == "a message is not JSON: invalid number or text"


@PARSERS
def test_64_bit_integers_are_exact(loads: Loads) -> None:
    exact = [2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 1795372525641]
    assert shown(decode_values([str(number).encode() for number in exact], loads)) == [str(n) for n in exact]


@PARSERS
@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\udfffb"', '{"\\udead":"\\ud83d"}', '["\\ud83d\\ude00"]'])
def test_lone_surrogates_are_taken(loads: Loads, text: str) -> None:
    assert decode_values([text.encode()], loads) == [json.loads(text)]
    assert decode_values([b"1", text.encode(), b"2"], loads) == [1, json.loads(text), 2]


@PARSERS
def test_the_last_of_two_equal_keys_counts(loads: Loads) -> None:
    assert decode_values([b'{"a":1,"a":2}', b"0"], loads) == [{"a": 2}, 0]


@both_parsers
@given(text=texts | junk)
@settings(parent=fast, max_examples=250)
def test_both_parsers_take_the_same_texts(text: str) -> None:
    payload = text.encode(errors="replace")
    assert one_by_one([payload], None) == one_by_one([payload], orjson_loads)


# --- errors -----------------------------------------------------------------------------------------------------------


@PARSERS
@given(before=junk, after=junk)
@fast
def test_an_error_never_carries_the_text(loads: Loads, before: str, after: str) -> None:
    payload = f"{before}Sesame{after}".encode(errors="replace")
    for error in decode_values([b"1", payload], loads)[1:]:
        if isinstance(error, ProtocolError):
            said = f"{error} {error!r} {error.args} {error.facts()}"
            assert "Sesame" not in said
            # A chained JSONDecodeError would hold the whole text in its `doc`.
            assert error.__cause__ is error.__context__ is None


@PARSERS
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "Expecting value at character 0"),
        (b"[1,", "Expecting value at character 3"),
        (b'{"a" 1}', "Expecting ':' delimiter at character 5"),
        (b"1 2", "Extra data at character 2"),
        (b'"abc', "Unterminated string starting at at character 0"),
        (b"NaN", "invalid number or text"),
        (b"1e400", "invalid number or text"),
    ],
)
def test_an_error_says_what_is_wrong_and_where(loads: Loads, payload: bytes, reason: str) -> None:
    assert decode_values([payload], loads)[0].message == f"a message is not JSON: {reason}"


@PARSERS
def test_no_float_is_infinite(loads: Loads) -> None:
    numbers = decode_values([b"1e308", b"-1e308", b"1e-400", b"1.7976931348623157e308"], loads)
    assert all(math.isfinite(number) for number in numbers)
