"""The options of a generation: checked before sending, and flat and nested on the wire (protocol.md section 4)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from wsclient.generation_options import GenerationKeywords, parse_generation_options

EVERYTHING: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "max_tokens": 500,
    "seed": 42,
    "stop": ["END"],
    "system": "Be brief",
    "format": "json",
    "images": ["aGk="],
    "keep_alive": "5m",
    "think": True,
}


def wire(options: Any = None, **keywords: Any) -> dict[str, Any]:
    return parse_generation_options(options, keywords, 60.0)[0].to_wire()


def sentence(options: Any = None, **keywords: Any) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        wire(options, **keywords)
    return str(caught.value)


# --- the wire ---------------------------------------------------------------------------------------------------------


def test_options_are_flat_as_given_and_nested_under_ollamas_names() -> None:
    nested = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "num_predict": 500, "seed": 42, "stop": ["END"]}
    assert wire(**EVERYTHING) == {**EVERYTHING, "options": nested}


def test_options_in_a_mapping_and_as_keywords_are_the_same() -> None:
    assert wire(EVERYTHING) == wire(**EVERYTHING)


def test_a_keyword_wins_over_the_mapping() -> None:
    assert wire({"temperature": 0.1, "seed": 1}, temperature=0.9) == {
        "temperature": 0.9,
        "seed": 1,
        "options": {"temperature": 0.9, "seed": 1},
    }


def test_none_means_not_given() -> None:
    assert wire({"seed": None, "custom": None}, temperature=None) == {}
    assert wire({"seed": 1}, seed=None) == {"seed": 1, "options": {"seed": 1}}


def test_without_options_nothing_is_sent() -> None:
    assert wire() == {}


def test_fields_of_the_top_level_are_not_nested() -> None:
    assert wire(system="Be brief", keep_alive=0) == {"system": "Be brief", "keep_alive": 0}


def test_a_single_stop_text_is_flat_as_given_and_a_list_in_the_nested_form() -> None:
    assert wire(stop="END") == {"stop": "END", "options": {"stop": ["END"]}}


def test_an_unknown_key_of_the_mapping_is_passed_on() -> None:
    assert wire({"num_ctx": 4096, "raw": True}) == {"num_ctx": 4096, "raw": True}


def test_a_nested_mapping_is_passed_on_and_wins() -> None:
    assert wire({"options": {"num_ctx": 4096, "temperature": 0.1}}, temperature=0.9, seed=1) == {
        "temperature": 0.9,
        "seed": 1,
        "options": {"temperature": 0.1, "seed": 1, "num_ctx": 4096},
    }


def test_images_may_be_bytes() -> None:
    assert wire(images=[b"hi", "aGk="])["images"] == [base64.b64encode(b"hi").decode(), "aGk="]


def test_a_json_schema_is_sent_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert wire(format=schema) == {"format": schema}


def test_the_callers_mapping_is_left_alone() -> None:
    options = {"stop": ["END"], "options": {"num_ctx": 1}, "timeout": 5}
    before = json.dumps(options)
    wire(options, seed=1)
    assert json.dumps(options) == before


@pytest.mark.parametrize("name", ["model", "prompt", "stream"])
def test_what_would_override_the_request_is_refused(name: str) -> None:
    assert sentence({name: "x"}) == f"{name!r} cannot be an option; it belongs to the call"


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("temperature", -0.1, "a number >= 0 (got -0.1)"),
        ("temperature", "hot", "a number >= 0 (got 'hot')"),
        ("temperature", float("nan"), "a number >= 0 (got nan)"),
        ("temperature", True, "a number >= 0 (got True)"),
        ("top_p", 1.1, "a number from 0 to 1 (got 1.1)"),
        ("top_k", 1.5, "a whole number >= 0 (got 1.5)"),
        ("top_k", -1, "a whole number >= 0 (got -1)"),
        ("max_tokens", "500", "a whole number >= -2 (got '500')"),
        ("max_tokens", -3, "a whole number >= -2 (got -3)"),
        ("max_tokens", 5.0, "a whole number >= -2 (got 5.0)"),
        ("seed", 1.5, "a whole number (got 1.5)"),
        ("seed", False, "a whole number (got False)"),
        ("stop", "", "a text or a list of texts, none empty (got '')"),
        ("stop", ["a", ""], "a text or a list of texts, none empty (got ['a', ''])"),
        ("stop", 5, "a text or a list of texts, none empty (got 5)"),
        ("system", 5, "text (got 5)"),
        ("format", "xml", "'json' or a JSON Schema as a mapping (got 'xml')"),
        ("images", "aGk=", "a list of images, each bytes or base64 text (got str)"),
        ("images", [5], "a list of images, each bytes or base64 text (got list)"),
        ("keep_alive", [], "seconds, or a duration like '5m' (got [])"),
        ("think", "a lot", "True, False, 'low', 'medium', 'high' or 'max' (got 'a lot')"),
        ("think", [], "True, False, 'low', 'medium', 'high' or 'max' (got [])"),
        ("first_token_timeout", 0, "a number of seconds > 0 (got 0)"),
        ("token_timeout", "long", "a number of seconds > 0 (got 'long')"),
        ("timeout", float("inf"), "a number of seconds > 0 (got inf)"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(option: str, value: Any, expected: str) -> None:
    assert sentence(**{option: value}) == f"{option} must be {expected}"
    assert sentence({option: value}) == f"{option} must be {expected}"


def test_a_value_out_of_range_is_a_value_error_and_one_of_the_wrong_kind_a_type_error() -> None:
    with pytest.raises(ValueError, match="top_p"):
        wire(top_p=2)
    with pytest.raises(TypeError, match="top_p"):
        wire(top_p=[1])


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_number_that_no_float_can_hold_is_refused(value: int) -> None:
    assert sentence(temperature=value).startswith("temperature must be a number >= 0 (got ")


@pytest.mark.parametrize(
    ("typo", "meant"), [("temprature", "temperature"), ("max_token", "max_tokens"), ("time_out", "timeout")]
)
def test_an_unknown_keyword_names_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"unknown generation option '{typo}'; did you mean '{meant}'"):
        wire(**{typo: 1})


def test_an_unknown_keyword_that_is_near_nothing_lists_them_all() -> None:
    text = sentence(xyzzy=1)
    assert text.startswith("unknown generation option 'xyzzy' (there are: ")
    assert all(name in text for name in GenerationKeywords.__annotations__)


def test_options_that_are_no_mapping_are_refused() -> None:
    assert sentence("temperature=1") == "options must be a mapping (got 'temperature=1')"


def circular() -> dict[str, Any]:
    options: dict[str, Any] = {}
    options["custom"] = options
    return options


def deep() -> dict[str, Any]:
    options: Any = []
    for _ in range(100_000):
        options = [options]
    return {"custom": options}


@pytest.mark.parametrize(
    "options", [{"custom": {1, 2}}, {"custom": float("nan")}, {"custom": b"x"}, circular(), deep()]
)
def test_values_that_are_not_json_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="options must be JSON values: "):
        wire(options)


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_deadlines_have_their_defaults() -> None:
    _, deadlines = parse_generation_options(None, {}, 60.0)
    assert (deadlines.first_token, deadlines.token, deadlines.total) == (300.0, 60.0, None)


@pytest.mark.parametrize("as_keywords", [True, False])
def test_deadlines_are_taken_out_of_what_is_sent(as_keywords: bool) -> None:
    given = {"first_token_timeout": 1.5, "token_timeout": 2, "timeout": 3, "seed": 1}
    options, deadlines = parse_generation_options(None if as_keywords else given, given if as_keywords else {}, 60.0)
    assert (deadlines.first_token, deadlines.token, deadlines.total) == (1.5, 2, 3)
    assert options.to_wire() == {"seed": 1, "options": {"seed": 1}}


def test_the_repr_shows_no_value() -> None:
    options, _ = parse_generation_options(None, {"system": "a secret"}, 60.0)
    assert "secret" not in repr(options)
