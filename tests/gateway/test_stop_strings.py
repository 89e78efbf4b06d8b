"""A text is cut before the first stop string, and no word leaves too early or too late."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.gateway.stop_strings import StopStrings


def run(stops: list[str], *batches: list[str]) -> tuple[list[list[str]], StopStrings]:
    filter = StopStrings(stops)
    shown = [filter.feed(batch) for batch in batches]
    return [*shown, filter.flush()], filter


def test_without_stop_strings_words_pass_untouched() -> None:
    shown, _ = run([], ["a", " b"])
    assert shown == [["a", " b"], []]


def test_the_word_with_the_stop_string_in_it_is_cut_before_it() -> None:
    shown, filter = run(["op"], ["the", " stopped", " clock"])
    assert shown == [["the", " st"], []]
    assert filter.is_stopped


def test_a_stop_string_over_several_words_is_found_and_nothing_of_it_was_shown() -> None:
    shown, filter = run([" b c d"], ["a"], [" b"], [" c"], [" d", " e"])
    assert shown == [["a"], [], [], [], []]
    assert filter.is_stopped


def test_words_held_back_come_out_when_the_suspicion_was_wrong() -> None:
    shown, filter = run([" b c d"], ["a", " b"], [" c"], [" e"])
    assert shown == [["a"], [], [" b", " c", " e"], []]
    assert not filter.is_stopped


def test_words_held_back_come_out_at_the_end_of_the_text() -> None:
    shown, _ = run([" b c"], ["a", " b"])
    assert shown == [["a"], [" b"]]


def test_the_earliest_of_several_stop_strings_counts() -> None:
    shown, _ = run(["zz", "y"], ["ayzz"])
    assert shown == [["a"], []]


def test_nothing_comes_out_after_the_stop_string() -> None:
    shown, _ = run(["x"], ["a", "x"], ["b"])
    assert shown == [["a"], [], []]


def test_words_are_counted_up_to_the_one_that_completed_the_stop_string() -> None:
    _, filter = run([" b c"], ["a", " b", " c", " d"])
    assert filter.words_read == 3


def test_an_empty_stop_string_is_none() -> None:
    shown, filter = run(["", "x"], ["a"])
    assert shown == [["a"], []]
    assert not filter.is_stopped


words = st.lists(st.text("ab ", min_size=1, max_size=3), max_size=12)


@settings(deadline=None, database=None, max_examples=300)
@given(words, st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=3), st.integers(1, 5))
def test_what_is_shown_is_the_text_up_to_the_first_stop_string(text: list[str], stops: list[str], size: int) -> None:
    batches = [text[start : start + size] for start in range(0, len(text), size)]
    shown, filter = run(stops, *batches)
    whole = "".join(text)
    # As a reader word by word sees it: of two stop strings that one word completes, the one that begins first counts.
    ends = [
        min(places)
        for end in range(len(text) + 1)
        if (places := [place for stop in stops if (place := "".join(text[:end]).find(stop)) >= 0])
    ]
    expected = whole[: ends[0]] if ends else whole
    assert "".join(word for batch in shown for word in batch) == expected
    assert filter.is_stopped == bool(ends)


@pytest.mark.parametrize("stop", ["zq", "q q"])
def test_words_without_a_first_letter_of_a_stop_string_are_never_held_back(stop: str) -> None:
    shown, _ = run([stop], ["a", " b"], [" c"])
    assert shown == [["a", " b"], [" c"], []]
