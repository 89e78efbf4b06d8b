"""The README is complete, and says what the code says."""

from __future__ import annotations

import inspect
import re

import attrs
import pytest

import wsclient
from wsclient import ClientOptions, ConnectionStatus, WSClient
from wsclient.cli.program import program
from wsclient.generation_options import GenerationKeywords

from .documentation import README, anchor_of, attributes_of, write_into

TEXT = README.read_text(encoding="utf-8")


def test_what_is_drawn_from_the_code_is_up_to_date() -> None:
    assert write_into(TEXT) == TEXT, "run python -m tests.documentation"


def test_a_readme_without_a_sections_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="from the code: options"):
        write_into("nothing of the kind")


def test_every_option_is_documented() -> None:
    assert attributes_of(ClientOptions).keys() == {field.name for field in attrs.fields(ClientOptions)}


@pytest.mark.parametrize("name", GenerationKeywords.__annotations__)
def test_every_option_of_a_generation_is_named(name: str) -> None:
    assert f"`{name}`" in TEXT.partition("Options of a generation")[2].partition("\n#")[0]


@pytest.mark.parametrize("status", ConnectionStatus)
def test_every_status_is_explained(status: ConnectionStatus) -> None:
    assert re.search(rf"^\| `{status}` \| \w", TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(WSClient) if not name.startswith("_")])
def test_every_method_is_named(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)


@pytest.mark.parametrize("name", program.commands)
def test_every_command_is_named(name: str) -> None:
    assert f"wsclient {name}" in TEXT


@pytest.mark.parametrize("name", sorted(set(wsclient.__all__) - {"__version__"}))
def test_every_public_name_is_there(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {anchor_of(chapter) for chapter in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= anchors
