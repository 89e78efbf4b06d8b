"""What a request for a generation is in OpenAI's API."""

from __future__ import annotations

from typing import Any

import pytest

from wsclient.errors import ErrorCode
from wsclient.gateway.backends import BackendError, GenerateRequest
from wsclient.gateway.backends.openai_request import chat_body, completion_body, is_completion

STREAMED = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


def chat(fields: dict[str, Any] | None = None, *, is_extended: bool = True, **options: Any) -> dict[str, Any]:
    """Return what a chat's body has beside the model and how it is streamed."""
    request = GenerateRequest(model="m", prompt="hi", options=options, fields=fields or {})
    body = chat_body(request, is_extended=is_extended)
    assert body.items() >= STREAMED.items()
    return {name: value for name, value in body.items() if name not in STREAMED}


MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_prompt_is_a_message_of_the_user_and_always_streamed() -> None:
    assert chat() == {"messages": MESSAGES}


def test_a_system_text_is_a_message_before_it() -> None:
    assert chat({"system": "be brief"})["messages"] == [{"role": "system", "content": "be brief"}, *MESSAGES]


def test_standard_options_have_openais_names() -> None:
    options = {"temperature": 0, "top_p": 0.5, "seed": 7, "stop": ["x"], "presence_penalty": 1, "frequency_penalty": -1}
    assert chat(**options, num_predict=9, is_extended=False) == {**options, "max_tokens": 9, "messages": MESSAGES}


def test_negative_numbers_that_mean_nothing_set_are_not_sent() -> None:
    assert chat(num_predict=-1, seed=-1) == chat(num_predict=-2) == {"messages": MESSAGES}
    assert chat(num_predict=0, seed=0) == {"max_tokens": 0, "seed": 0, "messages": MESSAGES}


def test_the_most_tokens_may_have_another_name() -> None:
    request = GenerateRequest(model="m", prompt="hi", options={"num_predict": 9})
    body = chat_body(request, is_extended=False, max_tokens_name="max_completion_tokens")
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body


def test_further_options_are_sent_where_they_are_taken_only() -> None:
    options = {"top_k": 40, "min_p": 0.1, "typical_p": 1, "repeat_last_n": 64, "repeat_penalty": 1.1, "num_keep": 4}
    extended = {**options, "repetition_penalty": 1.1, "messages": MESSAGES}
    del extended["num_keep"]
    assert chat(**options) == extended
    assert chat(**options, is_extended=False) == {"messages": MESSAGES}


@pytest.mark.parametrize("value", [0, -1, -5])
def test_all_tokens_have_one_spelling(value: int) -> None:
    assert chat(top_k=value)["top_k"] == -1


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("iVBORw0KGgoAAA", "image/png"),
        ("/9j/4AAQ", "image/jpeg"),
        ("R0lGODlh", "image/gif"),
        ("UklGRiQA", "image/webp"),
        ("AAAA", "image/png"),
    ],
)
def test_images_are_parts_after_the_text_as_data_urls(image: str, kind: str) -> None:
    assert chat({"images": [image]})["messages"][-1]["content"] == [
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{image}"}},
    ]


def test_a_format_is_a_response_format() -> None:
    schema = {"type": "object"}
    assert chat({"format": "json"})["response_format"] == {"type": "json_object"}
    assert chat({"format": schema})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": schema},
    }


@pytest.mark.parametrize(
    ("think", "is_extended", "sent"),
    [
        ("low", False, {"reasoning_effort": "low"}),
        ("max", True, {"reasoning_effort": "high"}),
        (True, True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (False, True, {"chat_template_kwargs": {"enable_thinking": False}}),
        (False, False, {}),
    ],
)
def test_thinking_is_an_effort_or_the_templates_matter(
    think: bool | str, is_extended: bool, sent: dict[str, Any]
) -> None:
    assert chat({"think": think}, is_extended=is_extended) == {"messages": MESSAGES, **sent}


def test_keeping_a_model_loaded_means_nothing_there() -> None:
    assert chat({"keep_alive": "5m"}) == {"messages": MESSAGES}


# --- completions ---


def completion(**fields: Any) -> dict[str, Any]:
    request = GenerateRequest(model="m", prompt="hi", options={"num_predict": 9, "top_k": 5}, fields=fields)
    return completion_body(request, is_extended=True)


def test_a_completion_has_the_prompt_itself() -> None:
    assert completion() == {**STREAMED, "prompt": "hi", "max_tokens": 9, "top_k": 5}
    assert completion(suffix="}", raw=True, keep_alive=5)["suffix"] == "}"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("system", "x", "A system text"),
        ("images", ["AAAA"], "Images"),
        ("format", "json", "A format"),
        ("think", True, "Thinking"),
    ],
)
def test_what_only_chats_have_is_refused_in_a_completion(name: str, value: Any, what: str) -> None:
    with pytest.raises(BackendError, match=f"^{what} cannot be had") as caught:
        completion(**{name: value})
    assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("fields", "expected"), [({}, False), ({"raw": False}, False), ({"raw": True}, True), ({"suffix": "x"}, True)]
)
def test_raw_prompts_and_suffixes_are_completions(fields: dict[str, Any], expected: bool) -> None:
    assert is_completion(GenerateRequest(model="m", prompt="hi", fields=fields)) is expected
