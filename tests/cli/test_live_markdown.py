"""An answer shown as Markdown while it is being written. Takes 6 s."""

from __future__ import annotations

import io
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsclient.cli.live_markdown import MarkdownPage

from ..support.terminal_sessions import TerminalSession, needs_tmux
from .programs import environment

WORD = st.text("abcdefgh", min_size=3, max_size=6)
# Words in all the forms that models give them.
FORMS = st.sampled_from(
    ["{}", "**{}**", "*{}*", "`{}`", "<{}>", "</{}>", "[{}]", "~~{}~~", "# {}", "- {}", "1. {}", "> {}"]
    + ["| {} |", "    {}", "  - {}", "$ {} $", "\\{}", "![{}]", "{}\n===", "```\n{}\n```", "***{}", "`{}", "\n{}"]
    + ["{}\n---\n"]
)
SOURCES = st.lists(st.tuples(FORMS, WORD), max_size=12)


def shown(text: str, size: int) -> str:
    """Return what a page writes of a text that comes in pieces."""
    with redirect_stdout(io.StringIO()) as out:
        page = MarkdownPage()
        for start in range(0, len(text), size):
            page.write(text[start : start + size])
        page.end()
    return out.getvalue()


@given(SOURCES, st.integers(1, 40))
def test_no_word_is_lost_or_doubled_whatever_the_markdown(source: list[tuple[str, str]], size: int) -> None:
    text = "\n".join(form.format(word) for form, word in source)
    # Letter by letter: code in the middle of a word is a part of it.
    assert re.sub("[^a-h]", "", shown(text, size)) == "".join(word for _, word in source)


@given(st.text(), st.integers(1, 40))
@example("&#13;&#12;&#27;[2J&#155;31m&NewLine;&Tab;", 100)
@example("`\x1b[2J`\n```\n\x1b]0;owned\x07\n```", 100)
def test_no_control_character_gets_through_not_even_one_spelt_as_an_entity(text: str, size: int) -> None:
    assert not [c for c in shown(text, size) if unicodedata.category(c) == "Cc" and c != "\n"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one\ntwo", "one\ntwo\n"),
        ("# Title\ntext\n\n\n\nmore\n\n", "Title\n\ntext\n\nmore\n"),
        ("List<String> and <b>bold</b>", "List<String> and <b>bold</b>\n"),
        ("see [docs](http://example.org/x)", "see docs (http://example.org/x)\n"),
        ("[x]: http://example.org", "[x]: http://example.org\n"),
        ("```python\nprint(1)\n```\nafter", " print(1)\n\nafter\n"),
        ("* a\n* b\n", " • a\n • b\n"),
        ("", ""),
        ("\n\n", ""),
    ],
)
def test_markdown_reads(text: str, lines: str) -> None:
    assert re.sub(r"(?m)\A\n+", "", shown(text, 1000)) == lines


ANSWER = "\n".join(
    [
        "# Wide 漢字漢字 title",
        "Some *text* " + "漢字 and words " * 30,
        "```python",
        *(f"print({number}, 'a line of a program that is longer than the screen, 漢字')" for number in range(30)),
        "```",
        *(f"{number}. item {number} " + "word " * 20 for number in range(1, 20)),
        "",
        "| a | 漢字 |",
        "|---|---|",
        *(f"| {number} | cell {number} |" for number in range(20)),
        "",
        "The **end**",
    ]
)
PROGRAM = """
import sys
from wsclient.cli import live_markdown
text, size = open(sys.argv[1], encoding="utf-8").read(), int(sys.argv[2])
live_markdown._PAUSE = live_markdown._SHARE = 0
page = live_markdown.MarkdownPage()
for start in range(0, len(text), size):
    page.write(text[start : start + size])
page.end()
"""


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    """A file with an answer that is longer than any screen."""
    path = tmp_path / "answer.md"
    path.write_text(ANSWER, encoding="utf-8")
    return path


@contextmanager
def showing(answer: Path, size: int, columns: int, lines: int, **env: str) -> Iterator[TerminalSession]:
    """Give a terminal to which an answer has come in pieces."""
    command = [sys.executable, "-c", PROGRAM, str(answer), str(size)]
    env = environment(**env)
    with TerminalSession(command, cwd=answer.parent, env=env, columns=columns, lines=lines) as session:
        assert session.wait() == 0
        yield session


@needs_tmux
@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (30, 5)])
def test_an_answer_longer_than_the_screen_reads_as_if_it_had_come_at_once(
    answer: Path, columns: int, lines: int
) -> None:
    with showing(answer, len(ANSWER), columns, lines) as session:
        whole = session.lines
    with showing(answer, 40, columns, lines) as session:
        assert session.lines == whole
    assert whole.endswith("The end")


@needs_tmux
def test_with_no_color_there_is_no_style_and_the_same_text(answer: Path) -> None:
    with showing(answer, 40, 80, 24) as session:
        coloured, text = session.styled_screen, session.lines
    with showing(answer, 40, 80, 24, NO_COLOR="1") as session:
        assert "\x1b[" not in session.styled_screen
        assert session.lines == text
    assert "\x1b[" in coloured
