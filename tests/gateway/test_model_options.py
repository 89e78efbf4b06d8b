"""What a client may tell a model server, and in which words (protocol.md section 4)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.gateway.model_options import LOAD_OPTIONS, InvalidOptionError, parse_model_options

RECORDING = Path(__file__).parent.parent / "transcripts" / "3_options.jsonl"
PNG = base64.b64encode(b"\x89PNG\r\n").decode()


def options_of(given: Any, **arguments: Any) -> dict[str, Any]:
    return parse_model_options(given, **arguments)[0]


def fields_of(given: Any) -> dict[str, Any]:
    return parse_model_options(given)[1]


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"options": {"temperature": 0.1, "num_predict": 5}}, {"temperature": 0.1, "num_predict": 5}),
        ({"max_tokens": 500}, {"num_predict": 500}),
        ({"maxTokens": 100, "topP": 0.9, "topK": 40}, {"num_predict": 100, "top_p": 0.9, "top_k": 40}),
        ({"options": {"maxTokens": 7}}, {"num_predict": 7}),
        ({"stop": "\n"}, {"stop": ["\n"]}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"num_predict": -1, "top_k": -1, "seed": -1}, {"num_predict": -1, "top_k": -1, "seed": -1}),
        ({"presence_penalty": -1.5, "repeat_last_n": -1}, {"presence_penalty": -1.5, "repeat_last_n": -1}),
        ({"temperature": 1}, {"temperature": 1}),
    ],
)
def test_options_are_read_flat_and_nested_under_all_their_names(given: Any, options: dict[str, Any]) -> None:
    assert parse_model_options(given) == (options, {})


def test_nested_options_win_over_flat_ones_also_under_another_name() -> None:
    given = {"max_tokens": 500, "temperature": 0.5, "options": {"num_predict": 10, "temperature": 0.1}}
    assert options_of(given) == {"num_predict": 10, "temperature": 0.1}


@pytest.mark.parametrize("given", [{"num_predict": 1, "max_tokens": 2}, {"max_tokens": 2, "num_predict": 1}])
def test_ollamas_own_name_wins_over_an_alias_beside_it(given: Any) -> None:
    assert options_of(given) == {"num_predict": 1}


def test_null_is_unset_and_does_not_hide_the_other_form() -> None:
    assert parse_model_options({"temperature": 0.5, "seed": None, "options": {"temperature": None}}) == (
        {"temperature": 0.5},
        {},
    )


@pytest.mark.parametrize("given", [None, "a string", [1, 2], 5, True, 1.5, {}, {"options": "x"}, {"options": [1]}])
def test_anything_but_an_object_counts_as_no_options(given: Any) -> None:
    assert parse_model_options(given) == ({}, {})


@pytest.mark.parametrize("name", ["model", "prompt", "stream", "template", "context", "a", "0"])
def test_names_that_would_override_the_request_or_mean_nothing_are_dropped(name: str) -> None:
    assert parse_model_options({name: "x", "options": {name: "x"}}) == ({}, {})


@pytest.mark.parametrize("name", sorted(LOAD_OPTIONS))
def test_options_that_reload_the_model_need_the_operators_leave(name: str) -> None:
    value = name == "use_mmap" or 8
    assert options_of({name: value}) == {}
    assert options_of({name: value}, allow=[name]) == {name: value}


def test_an_option_of_a_newer_ollama_can_be_allowed_by_name() -> None:
    assert options_of({"mirostat": 2, "options": {"other": 1}}, allow=["mirostat"]) == {"mirostat": 2}
    with pytest.raises(InvalidOptionError, match=r"^mirostat must be a number, a text or a truth value \(got a list"):
        options_of({"mirostat": [2]}, allow=["mirostat"])


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"system": "Be brief"}, {"system": "Be brief"}),
        ({"systemPrompt": "Be brief"}, {"system": "Be brief"}),
        ({"systemPrompt": "a", "options": {"system": "b"}}, {"system": "b"}),
        ({"format": "json"}, {"format": "json"}),
        ({"format": {"type": "object"}}, {"format": {"type": "object"}}),
        ({"images": [PNG, f"data:image/png;base64,{PNG}"]}, {"images": [PNG, PNG]}),
        ({"images": [f"{PNG[:4]}\r\n{PNG[4:]}"]}, {"images": [PNG]}),
        ({"keep_alive": 300}, {"keep_alive": 300}),
        ({"keep_alive": 0}, {"keep_alive": 0}),
        ({"keep_alive": "1h30m"}, {"keep_alive": "1h30m"}),
        ({"keep_alive": "-1s"}, {"keep_alive": "-1s"}),
        ({"keep_alive": "0"}, {"keep_alive": "0"}),
        ({"think": False}, {"think": False}),
        ({"think": "high"}, {"think": "high"}),
        ({"raw": True, "suffix": "end"}, {"raw": True, "suffix": "end"}),
        ({"system": "", "suffix": "", "format": "", "keep_alive": "", "stop": "", "images": []}, {}),
    ],
)
def test_fields_that_stand_beside_ollamas_options_are_kept_apart(given: Any, fields: dict[str, Any]) -> None:
    assert parse_model_options(given) == ({}, fields)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": "0.7"}, 'temperature must be a number >= 0 (got "0.7")'),
        ({"temperature": True}, "temperature must be a number >= 0 (got true)"),
        ({"temperature": -0.1}, "temperature must be a number >= 0 (got -0.1)"),
        ({"temperature": 1e39}, "temperature must be a number >= 0 (got 1e+39)"),
        ({"temperature": float("nan")}, "temperature must be a number >= 0 (got NaN)"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty must be a number (got Infinity)"),
        ({"topP": 1.1}, "topP must be a number from 0 to 1 (got 1.1)"),
        ({"options": {"min_p": -1}}, "min_p must be a number from 0 to 1 (got -1)"),
        ({"max_tokens": "many"}, 'max_tokens must be a whole number >= -2 (got "many")'),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number >= -2 (got 1.5)"),
        ({"num_predict": -3}, "num_predict must be a whole number >= -2 (got -3)"),
        ({"seed": 2**63}, "seed must be a whole number (got 9223372036854775808)"),
        ({"seed": False}, "seed must be a whole number (got false)"),
        ({"stop": 0}, "stop must be a text or a list of texts, none of them empty (got 0)"),
        ({"stop": {}}, "stop must be a text or a list of texts, none of them empty (got an object)"),
        ({"stop": ["a", ""]}, "stop must be a text or a list of texts, none of them empty (got a list of 2)"),
        ({"stop": ["a"] * 65}, "stop must be at most 64 texts of at most 1024 characters (got a list of 65)"),
        ({"stop": "a" * 1025}, "stop must be at most 64 texts of at most 1024 characters"),
        ({"system": 5}, "system must be a text (got 5)"),
        ({"format": "xml"}, 'format must be "json" or a JSON Schema object (got "xml")'),
        ({"images": PNG}, "images must be a list of base64 texts"),
        ({"images": ["not base64!"]}, "images must be a list of base64 texts (got a list of 1)"),
        ({"images": [""]}, "images must be a list of base64 texts (got a list of 1)"),
        ({"images": [5]}, "images must be a list of base64 texts (got a list of 1)"),
        ({"keep_alive": "300"}, 'keep_alive must be a number of seconds or a duration such as "5m" or "1h30m"'),
        ({"keep_alive": True}, "keep_alive must be a number of seconds or a duration"),
        ({"keep_alive": 1e300}, "keep_alive must be a number of seconds or a duration"),
        ({"think": 1}, 'think must be true, false, "low", "medium", "high" or "max" (got 1)'),
        ({"raw": "yes"}, 'raw must be true or false (got "yes")'),
    ],
)
def test_a_wrong_value_is_named_with_its_option_and_what_is_allowed(given: Any, message: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_model_options(given)
    assert str(caught.value).startswith(message)


def test_a_wrong_value_is_shown_shortened_and_without_control_characters() -> None:
    with pytest.raises(InvalidOptionError) as caught:
        parse_model_options({"temperature": "\x1b[31m" + "x" * 10_000})
    assert len(str(caught.value)) < 120
    assert str(caught.value).isprintable()


def test_a_wrong_flat_value_does_no_harm_when_a_nested_one_wins() -> None:
    assert options_of({"temperature": "warm", "options": {"temperature": 0.2}}) == {"temperature": 0.2}


def test_a_whole_number_may_be_written_as_javascript_and_others_write_floats() -> None:
    options = options_of({"max_tokens": 500.0})
    assert options == {"num_predict": 500}
    assert type(options["num_predict"]) is int


def test_what_original_clients_sent_is_read_as_they_meant_it() -> None:
    # Not splitlines(): recorded texts hold U+2028.
    lines = [json.loads(line) for line in RECORDING.read_text(encoding="utf-8").split("\n") if line]
    sent = [json.loads(line["raw"]) for line in lines if line.get("dir") == "send"]
    read = {message["id"]: parse_model_options(message.get("options")) for message in sent if "prompt" in message}
    assert read["o4"] == ({"top_p": 0.9, "top_k": 40, "num_predict": 100}, {"system": "Be brief"})
    assert read["o5"] == ({"top_p": 0.9, "top_k": 40, "num_predict": 100, "seed": 42, "stop": ["\n"]}, {})
    assert read["o7"] == ({"temperature": 0.1, "num_predict": 5}, {})
    assert read["o11"] == ({}, {"format": "json", "keep_alive": "5m", "raw": True})
    assert all(read[name] == ({}, {}) for name in ("o8", "o9", "o10", "o12", "o13", "o14", "o15", "o16", "on"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["temperature", "top_k", "stop", "num_predict", "max_tokens", "seed", "system", "format", "images", "keep_alive"]
    + ["think", "raw", "options", "model", "prompt", "stream", "num_ctx", "systemPrompt", "top_p"]
)


@settings(deadline=None, database=None, max_examples=300)
@given(st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=4), max_size=6))
def test_whatever_comes_is_refused_by_name_or_made_fit_for_ollama(given: dict[str, Any]) -> None:
    try:
        options, fields = parse_model_options(given)
    except InvalidOptionError:
        return
    assert not {"model", "prompt", "stream", "num_ctx", "options"} & {*options, *fields}
    schemaless = {name: value for name, value in fields.items() if name != "format"}
    json.dumps([options, schemaless], allow_nan=False)
    for name, value in options.items():
        wanted = {"stop": list, "temperature": int | float, "top_p": int | float}.get(name, int)
        assert isinstance(value, wanted)
        assert not isinstance(value, bool)
