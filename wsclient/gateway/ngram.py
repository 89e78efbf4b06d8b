"""A small word-level language model: pure, no I/O beyond reading the text it is built from.

It is a trigram model with Witten-Bell backoff to bigrams. What it writes holds together over three words and means
nothing: it stands in for a real model in demos and tests (design.md section 6).

The model is a walk over states. A state is a pair of neighbouring words of the corpus and emits the second one; from
it the walk goes to a state whose pair begins with that second word. What can follow a state is worked out once a
walk, so that a step is no more than a random number and a binary search.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise, product
from random import Random

import attrs

__all__ = ["NgramModel", "Sampling", "Walk", "default_model"]

PARAGRAPH = "\n\n"

# A prompt is read from its end and no further back than this: the model's memory is two words.
_PROMPT_CHARS = 65_536
_PROMPT_WORDS = 16

# A text begins with a word; punctuation is left behind after a step or two.
_MAX_SKIPPED = 64

_TOKEN = re.compile(r" ?\w(?:[\w.'-]*\w)?(?:\(\))?| ?[.,;:!?]")
_PUNCTUATION = frozenset(".,;:!?")


@attrs.frozen(kw_only=True, slots=True)
class Sampling:
    """How the next word is drawn; names, meanings and defaults are Ollama's (ollama_api.md section 2).

    Attributes:
        temperature: 0 takes the likeliest word; higher is more varied.
        top_k: only the k likeliest words are drawn; 0 or less: all.
        top_p: only the likeliest words that together have this probability; 1 or more: all.
        seed: the same seed, prompt and sampling give the same text; `None` or negative: a different one each time.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    seed: int | None = None


@attrs.frozen(slots=True)
class _Followers:
    """The states that can follow, likeliest first, and how often each one did."""

    states: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def ranked(cls, counter: Mapping[int, int]) -> _Followers:
        # Ties keep the order of the corpus: the order must be the same in every process.
        items = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        return cls(tuple(state for state, _ in items), tuple(count for _, count in items))


class NgramModel:
    """The counts of a corpus, ready to walk; never changes, so any number of walks share one.

    Args:
        paragraphs: the corpus; a paragraph is one line of prose.

    Raises:
        ValueError: no paragraph has a word in it.
    """

    def __init__(self, paragraphs: Iterable[str]) -> None:
        # State 0 is the gap between two paragraphs: what came before it has no say in what follows.
        pairs: dict[tuple[str, str], int] = {(PARAGRAPH, PARAGRAPH): 0}
        counters: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for paragraph in paragraphs:
            state, previous = 0, PARAGRAPH
            for word in _TOKEN.findall(paragraph):
                following = pairs.setdefault((previous, word), len(pairs))
                counters[state][following] += 1
                state, previous = following, word
            if state:
                counters[state][0] += 1
        if len(pairs) == 1:
            raise ValueError("an n-gram model needs a corpus with at least one word")
        by_word: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for (_, word), state in pairs.items():
            by_word[word].update(counters[state])
        self._pairs = pairs
        self._texts = [word for _, word in pairs]
        self._after_pair = [_Followers.ranked(counters[state]) for state in range(len(pairs))]
        self._after_word = {word: _Followers.ranked(counter) for word, counter in by_word.items()}
        self._state_with = {word: state for (_, word), state in pairs.items()}

    @property
    def size(self) -> int:
        """Return how many different sequences of three words the model knows."""
        return sum(len(followers.states) for followers in self._after_pair)

    def walk(self, prompt: str = "", sampling: Sampling | None = None) -> Walk:
        """Begin a text.

        Args:
            prompt: the text continues its last words, as far as the model knows them.
            sampling: how words are drawn; the defaults when left out.
        """
        sampling = Sampling() if sampling is None else sampling
        prompt = prompt[-_PROMPT_CHARS:]
        is_seeded = sampling.seed is not None and sampling.seed >= 0
        # The prompt is part of the seed: one seed and two prompts are two texts, as with a real model.
        dice = Random(f"{sampling.seed}\n{prompt}") if is_seeded else Random()
        return Walk(self, self._state_after(prompt), sampling, dice)

    def count(self, prompt: str) -> int:
        """Return how many words of a prompt the model reads, punctuation included."""
        return len(_TOKEN.findall(prompt[-_PROMPT_CHARS:]))

    def _state_after(self, prompt: str) -> int:
        """Find the state that the last known words of a prompt lead to; 0 when all are strangers."""
        words = [word for word in _TOKEN.findall(prompt) if word[-1] not in _PUNCTUATION][-_PROMPT_WORDS:]
        spellings = [self._spellings(word) for word in ["", *words]]
        for before, last in reversed(list(pairwise(spellings))):
            for pair in product(before, last):
                if pair in self._pairs:
                    return self._pairs[pair]
            if last:
                return self._state_with[last[0]]
        return 0

    def _spellings(self, word: str) -> list[str]:
        bare = word.strip()
        forms = dict.fromkeys((bare, bare.lower(), bare.capitalize()))
        return [word for form in forms for word in (f" {form}", form) if word in self._state_with]


class _Choice:
    """What can follow, under one sampling.

    `bounds` are the cumulated probabilities of the likeliest of `states`; `trust` is the probability that the choice
    is made here, and not by the last word alone.
    """

    __slots__ = ("bounds", "patience", "states", "trust", "visits")

    def __init__(self, followers: _Followers, sampling: Sampling, trust: float) -> None:
        self.states = followers.states
        self.bounds = _bounds(followers.counts, sampling)
        self.trust = trust
        self.visits = 0
        self.patience = _patience(self.bounds)


class Walk:
    """One text in the making; `NgramModel.walk` makes it, `take` returns its next words.

    **It never goes round in circles.** A choice that has been made a number of times (`_patience`) is used up: from
    then on the allowed words are those one rank lower, and after the last rank those of the first again. At
    temperature 0 each visit to a state therefore takes the next likeliest word, which keeps the text deterministic
    and yet not periodic. With ordinary settings it takes thousands of words to show.
    """

    def __init__(self, model: NgramModel, state: int, sampling: Sampling, dice: Random) -> None:
        self._model = model
        self._state = state
        self._sampling = sampling
        self._roll = dice.random
        self._after_pair: dict[int, _Choice] = {}
        self._after_word: dict[str, _Choice] = {}
        self._is_begun = False

    def take(self, count: int) -> list[str]:
        """Return the next `count` words, each with the space before it. A text has no end of its own."""
        if count <= 0:
            return []
        if self._is_begun:
            return self._step(count)
        self._is_begun = True
        return [self._begin(), *self._step(count - 1)]

    def _step(self, count: int) -> list[str]:
        # The hot loop, 0.5 to 1 microsecond a word: no calls that can be avoided.
        words: list[str] = []
        texts = self._model._texts
        choices = self._after_pair
        roll = self._roll
        state = self._state
        for _ in range(count):
            choice = choices.get(state) or self._prepare(state)
            if choice.trust < 1.0 and roll() >= choice.trust:
                choice = self._after_word[texts[state]]
            place = bisect_right(choice.bounds, roll())
            visits = choice.visits
            choice.visits = visits + 1
            if visits >= choice.patience:
                place = (place + visits // choice.patience) % len(choice.states)
            state = choice.states[place]
            words.append(texts[state])
        self._state = state
        return words

    def _begin(self) -> str:
        """Step until there is a real word, and spell it as the beginning of a text."""
        word = ""
        for _ in range(_MAX_SKIPPED):
            word = self._step(1)[0].strip()
            if word and word not in _PUNCTUATION:
                break
        return word.capitalize() if word.isalpha() and word.islower() else word

    def _prepare(self, state: int) -> _Choice:
        """Work out what can follow a state, and what can follow its word alone."""
        model, sampling = self._model, self._sampling
        word = model._texts[state]
        if word not in self._after_word:
            self._after_word[word] = _Choice(model._after_word[word], sampling, 1.0)
        followers = model._after_pair[state]
        # Witten-Bell: a state seen n times with t different followers is trusted with n / (n + t). Which of the two
        # decides is drawn under the same sampling as the words, so that temperature 0 and top_k 1 are strict here too.
        trust = _bounds((sum(followers.counts), len(followers.counts)), sampling)[0]
        choice = self._after_pair[state] = _Choice(followers, sampling, trust)
        return choice


def _bounds(counts: Sequence[int], sampling: Sampling) -> list[float]:
    """Return the cumulated probabilities of those that the sampling allows, likeliest first; the last is exactly 1."""
    if sampling.temperature <= 0:
        return [1.0]
    if sampling.top_k > 0:
        counts = counts[: sampling.top_k]
    sharpness = 1.0 / sampling.temperature
    # Against the likeliest one, not absolute: a power of a number up to 1 cannot overflow.
    bounds = list(accumulate((count / counts[0]) ** sharpness for count in counts))
    if sampling.top_p < 1.0:
        share = max(sampling.top_p, 0.0) * bounds[-1]
        # The tolerance keeps 0.9 of ten equal ones at nine.
        del bounds[bisect_right(bounds, share * (1.0 - 1e-9)) + 1 :]
    total = bounds[-1]
    return [bound / total for bound in bounds]


def _patience(bounds: Sequence[float]) -> int:
    """Return how often a choice is made before it is used up: once if there is none, else by its variety squared."""
    if len(bounds) == 1:
        return 1
    chances = [high - low for low, high in pairwise((0.0, *bounds))]
    # How many equally likely words would be as varied (the inverse Simpson index).
    variety = 1.0 / sum(chance * chance for chance in chances)
    return int(8 * variety * variety)


# Blocks of the documentation that are not prose: grammars, sessions, code, tables, the notes on versions.
_NOT_PROSE = re.compile(r"::=|>>>|\|  |--\+|[{}=\\]|^(?:Changed|New|Deprecated)\b")
_BULLET = re.compile(r"[*-]|\d+\.|\[\d+\]")
_ASIDE = re.compile(r" \([^()]*\)| \[\d+\]")
_QUOTING = re.compile(r'["*`\u201c\u201d\u2018]')
_SYMBOL = re.compile(r"[^\w\s.,;:!?()'-]+|(?<!\w)\(\)|\((?!\))|(?<!\()\)|(?<!\w)[-']+|[-']+(?!\w)")
_GAP = re.compile(r" +(?=[ .,;:!?])")
_WRAPPED_HYPHEN = re.compile(r"(?<=\w)- (?=\w)")


def _paragraphs(text: str) -> Iterator[str]:
    """Return the prose of one documentation topic, paragraph by paragraph, without its markup."""
    for block in re.split(r"\n\s*\n", text):
        words = block.split()
        if words and _BULLET.fullmatch(words[0]):
            del words[0]
        prose = " ".join(words).replace("\u2019", "'")
        if len(words) >= 8 and prose[0].isalpha() and prose[-1] == "." and not _NOT_PROSE.search(prose):
            prose = _QUOTING.sub("", _ASIDE.sub("", _WRAPPED_HYPHEN.sub("-", prose)))
            yield _GAP.sub("", _SYMBOL.sub(" ", prose)).strip()


@lru_cache(maxsize=1)
def default_model() -> NgramModel:
    """Build the model from the documentation text inside this Python, `pydoc_data.topics`; once a process.

    The text differs from one Python version to the next, and so does what the model writes.

    Raises:
        ImportError: this Python was packaged without that text.
    """
    from pydoc_data.topics import topics

    # Topics quote one another; a paragraph counts once.
    return NgramModel(dict.fromkeys(prose for name in sorted(topics) for prose in _paragraphs(topics[name])))
