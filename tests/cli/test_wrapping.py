"""Words wrapped while they come in pieces, as a terminal shows them."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from wsclient.cli.wrapping import WordWrapper

from .screens import Screen


def show(pieces: list[str], width: int) -> list[str]:
    wrapper, screen = WordWrapper(), Screen()
    for piece in pieces:
        screen.write(wrapper.feed(piece, width))
    return screen.lines


NARROW = st.text(alphabet="abc  \n", max_size=80)
WIDTHS = st.integers(4, 20)


def test_a_word_that_reaches_the_edge_begins_the_next_line() -> None:
    assert show(["the quick bro", "wn fox"], 12) == ["the quick ", "brown fox"]


def test_a_word_longer_than_the_line_is_cut() -> None:
    assert show(["see https://example.org/abc now"], 11) == ["see ", "https://ex", "ample.org/", "abc now"]


def test_a_line_break_of_the_text_stays_one() -> None:
    assert show(["one\n\ntwo"], 40) == ["one", "", "two"]


def test_a_space_at_the_edge_becomes_the_line_break() -> None:
    assert show(["aaaa bbbb"], 5) == ["aaaa", "bbbb"]


def test_a_tab_reaches_to_its_column() -> None:
    assert show(["ab\tc"], 40) == ["ab      c"]


def test_wide_characters_break_anywhere_and_count_double() -> None:
    assert show(["漢字かな"], 6) == ["漢字", "かな"]


def test_characters_without_width_stay_with_their_word() -> None:
    word = "e\u0301" * 3
    assert show([f"aaa {word}"], 7) == ["aaa ", word]


def test_what_has_no_width_alone_is_not_taken_back() -> None:
    assert show(["漢字\u200d漢"], 6) == ["漢字\u200d", "漢"]


def test_a_piece_is_shown_at_once() -> None:
    assert WordWrapper().feed("hal", 80) == "hal"


@given(NARROW, WIDTHS)
def test_where_the_text_is_cut_into_pieces_makes_no_difference(text: str, width: int) -> None:
    assert show(list(text), width) == show([text], width)


@given(st.text(alphabet="abc 漢字\n\t", max_size=80), WIDTHS)
@example(" aa字", 4)
def test_no_line_reaches_the_last_column(text: str, width: int) -> None:
    assert all(cell_len(line) < width for line in show([text], width))


@given(NARROW, WIDTHS)
def test_no_word_that_fits_is_broken_and_none_is_lost(text: str, width: int) -> None:
    lines = show([text], width)
    longest = max(map(len, text.split()), default=0)
    if longest < width:
        assert [word for line in lines for word in line.split()] == text.split()
    else:
        assert "".join("".join(lines).split()) == "".join(text.split())
