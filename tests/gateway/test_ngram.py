"""The small language model: real words, reproducible when asked, never a dead end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

from wsclient.gateway.ngram import NgramModel, Sampling, default_model

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return default_model()


def text(model: NgramModel, count: int = 60, prompt: str = "hi", **sampling: float | None) -> str:
    return "".join(model.walk(prompt, Sampling(**sampling)).take(count))  # type: ignore[arg-type]


def test_the_same_seed_prompt_and_sampling_give_the_same_text(model: NgramModel) -> None:
    assert text(model, seed=7) == text(model, seed=7)


def test_the_text_of_a_seed_is_the_same_in_another_process(model: NgramModel) -> None:
    code = (
        "from wsclient.gateway.ngram import *\n"
        "print(''.join(default_model().walk('hi', Sampling(seed=7)).take(60)).encode('unicode_escape').decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == text(model, seed=7).encode("unicode_escape").decode()


def test_another_seed_prompt_or_temperature_gives_another_text(model: NgramModel) -> None:
    texts = {
        text(model, seed=7),
        text(model, seed=8),
        text(model, seed=7, prompt="ho"),
        text(model, seed=7, temperature=0.1),
    }
    assert len(texts) == 4


@pytest.mark.parametrize("seed", [None, -1])
def test_without_a_seed_every_text_is_another_one(model: NgramModel, seed: int | None) -> None:
    assert len({text(model, seed=seed) for _ in range(5)}) == 5


def test_temperature_0_takes_the_likeliest_word_and_needs_no_seed() -> None:
    model = NgramModel(["a b c."] * 3 + ["a b d."])
    assert text(model, 4, temperature=0.0) == "A b c."
    assert text(default_model(), temperature=0.0) == text(default_model(), temperature=0.0)


@pytest.mark.parametrize("sampling", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": -1.0}])
def test_one_allowed_word_is_the_same_as_temperature_0(model: NgramModel, sampling: dict[str, Any]) -> None:
    assert text(model, **sampling) == text(model, temperature=0.0)


def followers(model: NgramModel, **sampling: float) -> Counter[str]:
    """Draw what follows "a" many times."""
    return Counter(model.walk("x a", Sampling(**sampling)).take(1)[0].lower() for _ in range(400))  # type: ignore[arg-type]


# After "x a" come b (6 of 10), c (3) and d (1).
THREE = ["x a b."] * 6 + ["x a c."] * 3 + ["x a d."]


def test_top_k_allows_only_the_k_likeliest_words() -> None:
    assert set(followers(NgramModel(THREE), top_k=2, top_p=1.0)) == {"b", "c"}
    assert set(followers(NgramModel(THREE), top_k=0, top_p=1.0)) == {"b", "c", "d"}


def test_top_p_allows_only_the_likeliest_words_that_have_this_probability_together() -> None:
    assert set(followers(NgramModel(THREE), temperature=1.0, top_p=0.9)) == {"b", "c"}
    assert set(followers(NgramModel(THREE), temperature=1.0, top_p=0.91)) == {"b", "c", "d"}
    assert set(followers(NgramModel(THREE), temperature=1.0, top_p=0.5)) == {"b"}


def test_a_higher_temperature_makes_rare_words_likelier() -> None:
    model = NgramModel(THREE)
    cold, hot = (followers(model, temperature=heat, top_p=1.0)["d"] for heat in (0.4, 50.0))
    assert cold < 20 < 90 < hot


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-3, 1e300])
def test_extreme_temperatures_are_only_that(temperature: float) -> None:
    rare = followers(NgramModel(THREE), temperature=temperature, top_p=1.0)["d"]
    assert rare == 0 if temperature < 1 else rare > 90


def test_a_prompts_last_two_words_are_continued() -> None:
    small = NgramModel(["one two three.", "zero two four."])
    assert text(small, 1, prompt="count: one two", temperature=0.0) == "Three"
    assert text(small, 1, prompt="count: Zero TWO?", temperature=0.0) == "Four"


def test_a_prompts_last_known_word_counts_when_those_after_it_are_strangers() -> None:
    small = NgramModel(["one two three.", "five six seven."])
    assert text(small, 1, prompt="six of one, half a dozen", temperature=0.0) == "Two"


@pytest.mark.parametrize("prompt", ["", "qwzx qwzxy", "?!", "\x00\ud800", "\U0001f600" * 10])
def test_a_prompt_of_strangers_begins_like_any_text(model: NgramModel, prompt: str) -> None:
    assert text(model, prompt=prompt, temperature=0.0) == text(model, prompt="", temperature=0.0)


def test_a_huge_prompt_is_read_from_its_end_only(model: NgramModel) -> None:
    huge = "one two " * 4_000_000
    started = time.thread_time()
    model.walk(huge + "the value", GREEDY).take(1)
    assert time.thread_time() - started < 1.0
    assert model.count(huge) < 20_000


def test_a_text_begins_with_a_word_and_reads_as_sentences(model: NgramModel) -> None:
    for seed in range(50):
        written = text(model, 200, prompt="What is an exception?", seed=seed)
        assert written[0].isalnum() or written[0] == "_"
        assert not set('"`*{}[]<>|\\') & set(written)
        assert "  " not in written
        assert " ." not in written
        assert " ," not in written


def test_words_come_with_the_space_before_them(model: NgramModel) -> None:
    words = model.walk("hi", Sampling(seed=1)).take(200)
    assert all(word == "\n\n" or word.strip(" ") for word in words)
    assert sum(word.startswith(" ") for word in words) > 100


def test_taking_in_other_portions_gives_the_same_text(model: NgramModel) -> None:
    walk = model.walk("hi", Sampling(seed=3))
    portions = [word for size in (0, 1, 2, 0, 57) for word in walk.take(size)]
    assert "".join(portions) == text(model, 60, seed=3)


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(top_k=1), Sampling(top_k=2, seed=1), Sampling(top_p=0.05, seed=1)]
    + [Sampling(temperature=0.01, seed=1), Sampling(seed=1), Sampling(temperature=2.0, top_k=0, top_p=1.0, seed=1)],
)
def test_no_sampling_makes_it_go_round_in_circles(model: NgramModel, sampling: Sampling) -> None:
    words = model.walk("hi", sampling).take(60_000)
    last = words[-30_000:]
    passages = Counter(tuple(last[start : start + 20]) for start in range(len(last) - 20))
    assert passages.most_common(1)[0][1] < 30
    assert len(passages) > 0.9 * len(last)


def test_a_choice_that_is_next_to_certain_is_used_up_in_the_end() -> None:
    # At this temperature b comes after "x a" once in 10**30 times; without being used up the text would be x a x a x a.
    walk = NgramModel(["x a x a x a x a b."]).walk("", Sampling(temperature=0.01, top_p=1.0, seed=1))
    assert 10 < walk.take(200).count(" b") < 30


def test_a_corpus_with_one_way_through_it_is_walked_for_ever() -> None:
    assert text(NgramModel(["a b."]), 9, temperature=0.0) == "A b.\n\na b.\n\na"


@pytest.mark.parametrize("corpus", [[], [""], ["()", "* *"]])
def test_a_corpus_without_a_word_is_refused(corpus: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one word"):
        NgramModel(corpus)


def test_two_walks_do_not_touch_each_other(model: NgramModel) -> None:
    one, other = model.walk("hi", Sampling(seed=1)), model.walk("hi", Sampling(seed=2))
    mixed = [(one.take(5), other.take(5)) for _ in range(12)]
    assert "".join(word for words, _ in mixed for word in words) == text(model, 60, seed=1)
    assert "".join(word for _, words in mixed for word in words) == text(model, 60, seed=2)


def test_the_model_of_this_python_is_built_within_a_second() -> None:
    started = time.thread_time()
    built = default_model.__wrapped__()
    assert time.thread_time() - started < 1.0
    assert built.size > 10_000
