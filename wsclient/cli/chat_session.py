"""A chat under way: what is asked next depends on what was said, on the model and on the instructions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..errors import ErrorCode, WSClientError
from . import terminal
from .answering import Answer, Asking
from .conversation import Conversation
from .failures import describe, refusing_wrong_values

__all__ = ["ChatSession"]

# What helps in a chat, where a command would be run again.
_NEXT_STEPS = {
    ErrorCode.CONNECTION_LOST: "To ask again: /retry",
    ErrorCode.GENERATION_INCOMPLETE: "To ask again: /retry",
    ErrorCode.MODEL_NOT_FOUND: "See /models, and choose one with /model",
}


class ChatSession:
    """A chat under way.

    Args:
        asking: how prompts are sent.
        model: whom to ask, `None` for the server's default.
        options: of each generation.
        max_bytes: see `build_prompt`.

    Attributes:
        asking: the same.
        model: may be changed.
        system: instructions that come before each prompt; may be changed.
        conversation: what was said.
    """

    def __init__(self, asking: Asking, model: str | None, options: Mapping[str, Any], max_bytes: int) -> None:
        self.asking = asking
        self.model = model
        self.system: str | None = options.get("system")
        self.conversation = Conversation(max_bytes)
        self._options = dict(options)
        self._is_talking = terminal.is_terminal(sys.stderr)
        self._has_told_of_dropping = False
        # What was asked last, and whether an answer to it is in the conversation.
        self._last: str | None = None
        self._has_answer = False

    def ask(self, text: str) -> Answer:
        """Ask, show the answer and keep both; why an answer is not whole is said on stderr.

        Raises:
            KeyboardInterrupt: Ctrl-C before the prompt was sent.
            click.UsageError: an option is wrong.
            WSClientError: there is no connection.
        """
        self._last, self._has_answer = text, False
        prompt = self.conversation.prompt_for(text)
        if prompt.dropped and not self._has_told_of_dropping:
            self._has_told_of_dropping = True
            self._note("(the model is no longer told how this chat began: see --context)")
        with refusing_wrong_values():
            answer = self.asking.ask(prompt.text, self.model, {**self._options, "system": self.system})
        self._has_answer = self.conversation.add(text, answer.text)
        self._comment(answer)
        return answer

    def retry(self) -> None:
        """Ask the last prompt once more, as if it had not been answered; otherwise as `ask`."""
        if self._last is None:
            terminal.complain("there is nothing to retry")
            return
        if self._has_answer:
            self.conversation.take_back()
        self.ask(self._last)

    def clear(self) -> None:
        """Begin a new conversation."""
        self.conversation.clear()
        self._last, self._has_told_of_dropping = None, False

    def _comment(self, answer: Answer) -> None:
        is_kept = self._has_answer
        if answer.figures is not None:
            self._note(str(answer.figures))
        elif answer.is_stopped:
            self._note("(stopped; the text so far is part of the chat)" if is_kept else "(stopped)")
        elif answer.error is not None:
            terminal.complain(describe(_with_next_step(answer.error) if self._is_talking else answer.error))
            if is_kept:
                self._note("(the text so far is part of the chat)")

    def _note(self, text: str) -> None:
        if self._is_talking:
            terminal.show_line(text, "dim", to_stderr=True)


def _with_next_step(error: WSClientError) -> WSClientError:
    step = _NEXT_STEPS.get(error.code)
    if step is not None:
        error.description = step
    return error
