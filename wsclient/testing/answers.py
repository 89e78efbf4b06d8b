"""What the model says in a test: answers by prompt, for the gateway and for the client without a network alike.

    {"Hello": "Hi there"}                        two tokens, "Hi" and " there"
    {"Hello": ["Hi", " the", "re"]}              these tokens
    {"Hello": ["Hi", ServerBusyError("full")]}   a token, then the error
    {"Hello": ModelNotFoundError("no llama")}    the error at once
    {"Hello": [Thinking("hm"), "Hi"]}            thinking text, then the answer
    {"Hello": count_slowly}                      what the function returns when it is called with the `Request`:
                                                 any of these, or an iterator that makes tokens one by one

Instead of a mapping one answer can stand for all prompts. A prompt that has none is refused with `invalid_request`, in
words that name it; a `collections.defaultdict` answers it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from ..errors import InvalidRequestError, ModelNotFoundError, WSClientError
from ..options import got

__all__ = ["Answer", "Answers", "Request", "Script", "Thinking", "echo", "fresh"]

_TOKEN = re.compile(r"\s*\S+|\s+\Z")


class Thinking(str):
    """A token of thinking text: it goes to `Generation.thinking`, not into the answer."""


@attrs.define(kw_only=True)
class Request:
    """A generation that was asked for.

    Attributes:
        prompt: its prompt.
        model: the model asked for; the gateway's default when none was.
        options: by wsclient's names (`temperature`, `max_tokens`, `system`, ...); `stop` as a list.
        id: the generation's id.
        outcome: `None` while it runs, then `"done"`, `"stopped"` (by whomever, a lost client included) or `"failed"`.
    """

    prompt: str
    model: str
    options: dict[str, Any] = attrs.field(factory=dict)
    id: str = ""
    outcome: Literal["done", "stopped", "failed"] | None = None


Answer: TypeAlias = (
    "str | list[str | WSClientError] | tuple[str | WSClientError, ...] | WSClientError | type[WSClientError]"
    " | Callable[[Request], Answer | Iterable[str]]"
)
"""What a model says to one prompt; see the module's text."""

Answers: TypeAlias = "Mapping[str, Answer] | Answer"
"""Answers by prompt, or one for all prompts."""


def echo(request: Request) -> str:
    """Answer with the prompt."""
    return request.prompt


class Script:
    """Answers to prompts, and the models that give them.

    Args:
        answers: see the module's text.
        models: names, or objects of Ollama's list, of the models there are; others are refused with `model_not_found`.
            Left out, any model's name is taken, and `scripted:latest` is listed.

    Raises:
        TypeError: an answer is none.
    """

    def __init__(self, answers: Answers, models: Iterable[str | Mapping[str, Any]] | None = None) -> None:
        self._answers = answers
        for answer in answers.values() if isinstance(answers, Mapping) else (answers,):
            _check(answer)
        self._takes_any_model = models is None
        given = ("scripted:latest",) if models is None else tuple(models)
        self.models = [{"name": model, "model": model} if isinstance(model, str) else dict(model) for model in given]

    @property
    def default_model(self) -> str:
        """The model of a request that names none."""
        return str(self.models[0]["name"]) if self.models else "scripted:latest"

    def tokens(self, request: Request) -> Iterator[str]:
        """Iterate the tokens of an answer; functions of the test's run, and may block, in the thread that iterates.

        Raises:
            WSClientError: the answer's error, in its place.
            Exception: what a function of the test's raised.
        """
        if not self._takes_any_model and _tagged(request.model) not in {_tagged(m["name"]) for m in self.models}:
            raise ModelNotFoundError(f"model {request.model!r} not found")
        # Without the empty ones, which a gateway does not send either.
        yield from filter(None, _tokens_of(self._answer_to(request), request))

    def _answer_to(self, request: Request) -> Any:
        if not isinstance(self._answers, Mapping):
            return self._answers
        try:
            return self._answers[request.prompt]
        except KeyError:
            known = ", ".join(map(repr, self._answers)) or "none"
            raise InvalidRequestError(
                f"the test has no answer to the prompt {request.prompt!r}; it has: {known}"
            ) from None


def _tagged(name: str) -> str:
    """Return a model's name as Ollama completes it."""
    return name if ":" in name else f"{name}:latest"


def _check(answer: Any) -> None:
    items = answer if isinstance(answer, list | tuple) else [answer]
    is_said = all(isinstance(item, str | WSClientError) or _is_error_class(item) for item in items)
    if not is_said and not callable(answer):
        raise TypeError(f"an answer is text, a list of tokens, a WSClientError or a function (got {got(answer)})")


def _is_error_class(answer: Any) -> bool:
    return isinstance(answer, type) and issubclass(answer, WSClientError)


def fresh(error: WSClientError | type[WSClientError]) -> WSClientError:
    """Return an error of this kind that nobody has raised yet."""
    return error.again() if isinstance(error, WSClientError) else error("the test says so")


def _tokens_of(answer: Any, request: Request) -> Iterator[str]:
    if isinstance(answer, WSClientError) or _is_error_class(answer):
        raise fresh(answer)
    if callable(answer):
        answer = answer(request)
        if not isinstance(answer, Iterator):
            _check(answer)
        yield from _tokens_of(answer, request)
    elif isinstance(answer, str):
        yield from [answer] if isinstance(answer, Thinking) else _TOKEN.findall(answer)
    else:
        for item in answer:
            if isinstance(item, str):
                yield item
            else:
                _check(item)
                yield from _tokens_of(item, request)
