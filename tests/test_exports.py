"""What is public is listed, by hand and in full, and described."""

from __future__ import annotations

import inspect
import types
from importlib.metadata import version
from pathlib import Path

import pytest

import wsclient
from wsclient import errors, events

PUBLIC = [name for name in wsclient.__all__ if name != "__version__"]


def test_the_list_is_sorted_and_names_what_is_there() -> None:
    # As ruff sorts it: classes by name, then the rest.
    assert wsclient.__all__ == sorted(wsclient.__all__)
    assert len(set(wsclient.__all__)) == len(wsclient.__all__)
    for name in wsclient.__all__:
        assert hasattr(wsclient, name)


def test_whatever_is_there_is_listed() -> None:
    modules = {name for name, value in vars(wsclient).items() if isinstance(value, types.ModuleType)}
    there = {name for name in vars(wsclient) if not name.startswith("_")} - modules
    assert there == set(PUBLIC)


def test_all_errors_and_events_are_public() -> None:
    functions = {"error_for_close", "error_for_code", "may_reconnect"}
    assert set(errors.__all__) - functions | set(events.__all__) <= set(PUBLIC)


@pytest.mark.parametrize(
    "name", ["Batch", "ClientOptions", "ErrorCode", "Generation", "GenerationResult", "Reply", "WSClient"]
)
def test_the_names_of_the_design_are_public(name: str) -> None:
    assert name in PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_is_described(name: str) -> None:
    thing = getattr(wsclient, name)
    assert inspect.getdoc(thing), name
    # attrs would write a signature where nothing was written.
    assert not (thing.__doc__ or "").startswith(f"{name}("), name
    for member, value in vars(thing).items():
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(value), f"{name}.{member}"


def test_the_version_is_the_packages() -> None:
    assert wsclient.__version__ == version("ws-system-client")


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (Path(wsclient.__file__).parent / "py.typed").exists()
