"""How a prompt tells what was said before. Takes 1 s."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsclient.cli.conversation import Conversation, Turn, build_prompt, to_markdown

TURNS = [Turn("My name is Ada.", "Hello Ada!"), Turn("I like rain.", "So do I.")]


def test_the_first_prompt_goes_as_it_is() -> None:
    assert build_prompt([], "Hello\n there ", 100).text == "Hello\n there "


def test_later_prompts_tell_what_was_said_in_order() -> None:
    assert build_prompt(TURNS, "What is my name?", 1000).text == (
        "Continue this conversation. Answer the user's last message; write only the answer.\n\n"
        "User: My name is Ada.\n\nAssistant: Hello Ada!\n\n"
        "User: I like rain.\n\nAssistant: So do I.\n\n"
        "User: What is my name?\n\nAssistant:"
    )


def test_the_oldest_turns_are_dropped_first_and_counted() -> None:
    whole = len(build_prompt(TURNS, "And?", 1000).text)
    assert build_prompt(TURNS, "And?", whole).dropped == 0
    prompt = build_prompt(TURNS, "And?", whole - 1)
    assert prompt.dropped == 1
    assert "Ada" not in prompt.text
    assert "I like rain." in prompt.text


def test_of_a_last_answer_that_is_too_long_its_beginning_and_end_are_kept() -> None:
    turns = [*TURNS, Turn("Tell me all.", "begin " + "x" * 5000 + " end")]
    prompt = build_prompt(turns, "And?", 1000)
    assert prompt.dropped == 2
    assert "User: Tell me all.\n\nAssistant: begin xx" in prompt.text
    assert "\n[...]\n" in prompt.text
    assert "xx end\n\nUser: And?" in prompt.text
    assert 900 < len(prompt.text) <= 1000


def test_a_character_is_not_cut_in_half() -> None:
    text = build_prompt([Turn("q", "漢" * 2000)], "And?", 1000).text
    assert "\ufffd" not in text
    assert len(text.encode()) <= 1000


def test_what_the_user_says_now_is_never_shortened() -> None:
    text = "word " * 1000
    assert build_prompt(TURNS, text, 100) == build_prompt([], text, 0).__class__(text, 2)


def test_without_room_every_prompt_goes_as_it_is() -> None:
    assert build_prompt(TURNS, "What is my name?", 0).text == "What is my name?"


turns = st.lists(st.builds(Turn, st.text(min_size=1), st.text()), max_size=6)


@given(turns, st.text(min_size=1), st.integers(0, 2000))
def test_a_prompt_is_never_longer_than_its_bound_and_always_ends_with_what_is_said_now(
    before: list[Turn], text: str, max_bytes: int
) -> None:
    prompt = build_prompt(before, text, max_bytes)
    assert 0 <= prompt.dropped <= len(before)
    if prompt.dropped < len(before):
        assert len(prompt.text.encode(errors="replace")) <= max_bytes
        assert prompt.text.endswith(f"User: {text.strip()}\n\nAssistant:")
    else:
        assert prompt.text == text


def test_a_turn_without_an_answer_is_none() -> None:
    conversation = Conversation()
    assert not conversation.add("Hello", " \n")
    assert conversation.turns == ()


def test_a_turn_can_be_taken_back() -> None:
    conversation = Conversation()
    assert conversation.add("Hello", "Hi")
    conversation.take_back()
    assert conversation.prompt_for("Hello").text == "Hello"


def test_only_the_last_thousand_turns_are_kept() -> None:
    conversation = Conversation()
    for number in range(1001):
        conversation.add(str(number), "x")
    assert [conversation.turns[0].prompt, len(conversation.turns)] == ["1", 1000]


def test_a_saved_conversation_has_prompts_as_quotations() -> None:
    assert to_markdown([Turn("one\n\ntwo", "# Title\n"), Turn("three", "four")]) == (
        "> one\n>\n> two\n\n# Title\n\n> three\n\nfour\n"
    )
