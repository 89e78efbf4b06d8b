"""What editors and type checkers are told is what the code takes."""

from __future__ import annotations

import inspect
import typing

import attrs
import pytest

from wsclient import ClientOptions, WSClient
from wsclient.generation_options import _DEADLINE_NAMES, _OPTION_CHECKS, GenerationKeywords


def default_of(field: attrs.Attribute[object]) -> object:
    if field.default is attrs.NOTHING:
        return inspect.Parameter.empty
    # A mapping as a default would be shared; None stands for an empty one.
    return None if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]


def test_the_client_takes_the_options_by_name_with_their_defaults() -> None:
    parameters = list(inspect.signature(WSClient).parameters.values())
    fields = attrs.fields(ClientOptions)
    assert [parameter.name for parameter in parameters] == [field.name for field in fields]
    assert [parameter.default for parameter in parameters] == [default_of(field) for field in fields]


def test_only_the_url_can_be_given_without_its_name() -> None:
    first, *others = inspect.signature(WSClient).parameters.values()
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {parameter.kind for parameter in others} == {inspect.Parameter.KEYWORD_ONLY}


def test_the_client_is_made_of_the_options_it_was_given() -> None:
    client = WSClient("wss://host", client_id="id", private_key=lambda challenge: b"", ping_interval=5.0)
    options = client._options
    assert (options.server_url, options.client_id, options.ping_interval) == ("wss://host/", "id", 5.0)
    assert options.headers == {}


def test_every_option_is_described() -> None:
    # CPython 3.13 takes the indentation out of docstrings when it compiles them; here it is out everywhere.
    text = inspect.getdoc(ClientOptions) or ""
    for field in attrs.fields(ClientOptions):
        assert f"\n    {field.name}: " in text


def test_the_keywords_of_a_generation_are_the_checked_names() -> None:
    assert list(GenerationKeywords.__annotations__) == [*_OPTION_CHECKS, *_DEADLINE_NAMES]
    assert GenerationKeywords.__total__ is False


@pytest.mark.parametrize("method", [WSClient.generate, WSClient.stream, WSClient.complete])
def test_generations_take_the_same_arguments(method: typing.Callable[..., object]) -> None:
    signature = inspect.signature(method)
    assert [*signature.parameters] == ["self", "prompt", "model", "options", "option"]
    assert signature.parameters["option"].kind is inspect.Parameter.VAR_KEYWORD


def test_every_keyword_of_a_generation_is_described() -> None:
    text = WSClient.generate.__doc__ or ""
    for name in GenerationKeywords.__annotations__:
        assert f"`{name}`" in text
