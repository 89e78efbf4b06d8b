"""What of a Markdown text under way can no longer change. Takes 2 s."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsclient.cli.markdown_blocks import parse, split_settled

# What models write, and what is hard to tell before its line, or the next one, is whole.
LINES = st.sampled_from(
    ["", "", "word", "Two words", "#", "# Title", "#tag", "-", "- item", "  - nested", "1. one", "2) two", "  more"]
    + ["---", "===", "```", "```python", "~~~", "    code", "| a | b |", "|---|---|", "> quote", "<div>", "[x]: /url"]
    + ["***bold", "* * *", "$$", "+", "`", "\\", "漢字", "&amp;", "[x]"]
)
TEXTS = st.lists(LINES, max_size=12).map("\n".join)


def blocks_of(pieces: list[str]) -> list[str]:
    """Return the blocks of a text that comes in pieces, as a page takes them."""
    found, rest = [], ""
    for piece in pieces:
        blocks, rest = split_settled(rest + piece)
        found += blocks
    blocks, last = split_settled(rest + "\n")
    return [*found, *blocks, last]


@given(TEXTS, st.integers(1, 9))
@example("Foo\n#hash", 1)
@example("a\n\n- b\n\n\n- c\nd", 2)
def test_the_blocks_are_the_same_however_the_text_comes(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert blocks_of(pieces) == blocks_of([text])


@given(st.one_of(TEXTS, st.text()))
def test_blocks_and_rest_are_the_text(text: str) -> None:
    blocks, rest = split_settled(text)
    assert "".join(blocks) + rest == text


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("one\n\ntwo\n", ["one\n\n"]),
        ("one\n\ntwo", []),
        ("# Title\ntext\nmore\n", ["# Title\n"]),
        ("```\none\n\ntwo\n```\nthree\n", ["```\none\n\ntwo\n```\n"]),
        ("```\none\n\ntwo\n", []),
        ("- a\n\n- b\n  c\n", []),
        ("1. a\n\ntext\n", ["1. a\n\n"]),
    ],
)
def test_a_block_is_settled_once_the_first_line_of_the_next_is_whole(text: str, blocks: list[str]) -> None:
    assert split_settled(text)[0] == blocks


@pytest.mark.parametrize("text", ["List<String> x", "<div>\nx\n</div>", "[x]: http://example.org", "![cat](cat.png)"])
def test_nothing_is_taken_for_something_that_is_not_shown(text: str) -> None:
    types = {child.type for token in parse(text) for child in token.children or ()} | {
        each.type for each in parse(text)
    }
    assert not types & {"html_inline", "html_block", "image"}
    assert "inline" in types
