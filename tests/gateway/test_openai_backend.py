"""The backend for OpenAI's API against a fake server: what it sends, what it makes of answers, and how it lets go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from tests.gateway.collecting import collect
from tests.support.fake_openai import FakeOpenAI
from wsclient.errors import ErrorCode
from wsclient.gateway.backends import BackendError, Final, GenerateRequest, Piece
from wsclient.gateway.backends.openai import OpenAIBackend

T = TypeVar("T")
FIVE = [Piece(f" t00{number}") for number in range(5)]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


def with_backend(fake: FakeOpenAI, use: Callable[[OpenAIBackend], Awaitable[T]], **settings: Any) -> T:
    """Run something with a backend that is closed afterwards."""

    async def run() -> T:
        backend = OpenAIBackend(fake.base_url, **settings)
        await backend.start()
        try:
            return await use(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


def generate(
    fake: FakeOpenAI, prompt: str = "hi", *, settings: dict[str, Any] | None = None, **request: Any
) -> tuple[list[Any], BackendError | None]:
    request = {"model": "tiny:1b", **request}
    return with_backend(fake, lambda backend: collect(backend, prompt, **request), **(settings or {}))


def failure(fake: FakeOpenAI, prompt: str = "hi", **request: Any) -> tuple[str, ErrorCode, float | None]:
    error = generate(fake, prompt, **request)[1]
    assert error is not None
    return error.message, error.code, error.retry_after


# --- what it sends ---


def test_a_prompt_is_a_chat_unless_it_is_told_otherwise_or_raw(fake: FakeOpenAI) -> None:
    generate(fake)
    generate(fake, settings={"api": "completions"})
    generate(fake, fields={"raw": True})
    assert [request.path for request in fake.requests] == [CHAT, COMPLETIONS, COMPLETIONS]
    assert [request.body["stream"] for request in fake.requests] == [True] * 3


def test_what_it_sends_of_its_own_accord_is_all_documented(fake: FakeOpenAI) -> None:
    fake.is_strict = True
    options = {"temperature": 0.5, "top_k": 5, "num_predict": 3, "repeat_penalty": 1.5}
    fields = {"system": "x", "format": "json", "think": "low", "keep_alive": 5}
    assert generate(fake, options=options, fields=fields, settings={"options": "standard"})[1] is None
    refused = failure(fake, options=options)
    assert refused[0] == "Model server error: 400 Unrecognized request argument supplied: repeat_penalty"


@pytest.mark.parametrize(
    ("url", "options", "extended", "name"),
    [
        ("http://127.0.0.1:1/v1", "auto", True, "max_tokens"),
        ("http://127.0.0.1:1/v1", "standard", False, "max_tokens"),
        ("https://api.openai.com/v1", "auto", False, "max_completion_tokens"),
        ("https://api.openai.com/v1", "extended", True, "max_completion_tokens"),
    ],
)
def test_openai_itself_is_told_only_what_it_documents(url: str, options: str, extended: bool, name: str) -> None:
    backend = OpenAIBackend(url, options=options)
    assert (backend._is_extended, backend._max_tokens_name) == (extended, name)


def test_an_api_key_is_sent_as_a_bearer_token_and_not_shown() -> None:
    with FakeOpenAI(api_key="s3cret") as fake:
        assert generate(fake, settings={"api_key": "s3cret"})[1] is None
        with_backend(fake, lambda backend: backend.list_models(), api_key="s3cret")
    assert "s3cret" not in repr(OpenAIBackend(api_key="s3cret"))


def test_a_key_that_is_refused_is_told_to_the_administrator_and_shown_to_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with FakeOpenAI(api_key="right") as fake, caplog.at_level(logging.DEBUG):
        error = generate(fake, settings={"api_key": "wr0ng"})[1]
    assert error is not None
    assert (error.message, error.code) == ("Model server error: 401 (it refuses the gateway)", ErrorCode.SERVER_ERROR)
    assert f"the model server at {fake.base_url} answers 401: does it get the right API key?" in caplog.text
    assert "wr0ng" not in caplog.text + error.message


# --- what it makes of answers ---


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_generation_is_its_pieces_and_the_final_word_last(fake: FakeOpenAI, api: str) -> None:
    assert generate(fake, settings={"api": api}) == ([*FIVE, Final("stop", 1, 5, 4.0, None, 2.5)], None)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_comes_through(fake: FakeOpenAI, name: str) -> None:
    fake.thinking_name = name
    fake.script(thinking=["hm"], tokens=1, has_metrics=False)
    assert generate(fake)[0] == [Piece("hm", True), Piece(" t000"), Final("stop")]


def test_bytes_cut_inside_characters_are_read(fake: FakeOpenAI) -> None:
    fake.script(pieces=["é\U0001f600", "\u2028"], split=1, has_metrics=False)
    assert generate(fake)[0] == [Piece("é\U0001f600"), Piece("\u2028"), Final("stop")]


def test_a_stream_without_its_end_mark_is_whole_if_it_has_a_reason_to_end(fake: FakeOpenAI) -> None:
    fake.says_done = False
    assert generate(fake)[1] is None
    fake.script(mode="nodone")
    error = generate(fake)[1]
    assert error is not None
    assert error.message == "The model server ended the stream without its final message"
    assert error.code is ErrorCode.GENERATION_INCOMPLETE


def test_an_unknown_model_is_model_not_found(fake: FakeOpenAI) -> None:
    # Whatever the server's own words: as of a model that a client may not use.
    assert failure(fake, model="nope") == ("model 'nope' not found", ErrorCode.MODEL_NOT_FOUND, None)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (404, b'{"error":{"message":"The model `x` does not exist.","code":404}}', ErrorCode.MODEL_NOT_FOUND),
        (404, b'{"object":"error","message":"The model `x` does not exist."}', ErrorCode.MODEL_NOT_FOUND),
        (400, b'{"error":{"message":"no such thing","code":"model_not_found"}}', ErrorCode.MODEL_NOT_FOUND),
        (400, b'{"error":{"message":"Invalid model name passed in model=x"}}', ErrorCode.MODEL_NOT_FOUND),
        (404, b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}', ErrorCode.SERVER_ERROR),
        (404, b'{"detail":"Not Found"}', ErrorCode.SERVER_ERROR),
        (404, b"404 page not found", ErrorCode.SERVER_ERROR),
        (400, b'{"error":{"message":"prompt too long for this model"}}', ErrorCode.INVALID_REQUEST),
        (413, b"", ErrorCode.INVALID_REQUEST),
        (422, b'{"detail":[{"msg":"x"}]}', ErrorCode.INVALID_REQUEST),
        (403, b"forbidden", ErrorCode.SERVER_ERROR),
        (429, b"", ErrorCode.RATE_LIMITED),
        (500, b"[" * 5000, ErrorCode.SERVER_ERROR),
        (502, b"<html>", ErrorCode.SERVER_ERROR),
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error"}}', ErrorCode.SERVER_BUSY),
    ],
)
def test_each_refusal_has_its_code(fake: FakeOpenAI, status: int, body: bytes, code: ErrorCode) -> None:
    fake.fail(CHAT, status, body=body)
    message, got, retry_after = failure(fake)
    assert (got, retry_after) == (code, None)
    is_missing = code is ErrorCode.MODEL_NOT_FOUND
    assert message.startswith("model '" if is_missing else f"Model server error: {status}")
    assert len(message) < 600


@pytest.mark.parametrize(("status", "expected"), [(429, 7.0), (503, 7.0), (500, None)])
def test_a_retry_after_is_passed_on_where_it_means_something(
    fake: FakeOpenAI, status: int, expected: float | None
) -> None:
    fake.fail(CHAT, status, headers={"Retry-After": "7"})
    assert failure(fake)[2] == expected


def test_a_path_that_is_not_there_is_told_to_the_administrator(
    fake: FakeOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fail(CHAT, 404, body=b"404 page not found")
    failure(fake)
    assert f"the model server at {fake.base_url} does not know the path: is the URL right?" in caplog.text


def test_an_error_in_mid_stream_comes_after_the_text_so_far(fake: FakeOpenAI) -> None:
    fake.script(mode="error_line", after=2, error="out of\x07 memory")
    pieces, error = generate(fake)
    assert pieces == FIVE[:2]
    assert error is not None
    assert (error.message, error.code) == ("Model server error: out of  memory", ErrorCode.SERVER_ERROR)


def test_garbage_is_skipped_and_logged_without_its_text(fake: FakeOpenAI, caplog: pytest.LogCaptureFixture) -> None:
    fake.script(mode="garbage", after=2, garbage="secret words")
    assert generate(fake)[0][:-1] == FIVE
    assert "The model server sent lines that are not JSON objects: 1; skipped" in caplog.text
    assert "secret" not in caplog.text


def test_nobody_listening_is_told_without_the_address() -> None:
    with FakeOpenAI() as fake:
        pass
    text = "Cannot connect to the model server: Connection refused"
    assert failure(fake) == (text, ErrorCode.SERVER_ERROR, None)


# --- deadlines and letting go ---


@pytest.mark.parametrize("after", [0, 2])
def test_a_silent_model_is_an_error_after_its_deadline_and_let_go_of(fake: FakeOpenAI, after: int) -> None:
    fake.script(mode="hang", after=after)
    started = time.monotonic()
    pieces, error = generate(fake, settings={"token_timeout" if after else "first_token_timeout": 0.2})
    assert pieces == FIVE[:after]
    assert error is not None
    assert (error.message, error.code) == (
        ("The model server fell silent", ErrorCode.GENERATION_INCOMPLETE)
        if after
        else ("The model server did not answer in time", ErrorCode.SERVER_ERROR)
    )
    assert 0.15 < time.monotonic() - started < 5
    assert fake.requests[0].disconnected.wait(10)


async def _serve_raw(events: list[bytes], pause: float, use: Callable[[str], Awaitable[T]]) -> T:
    """Serve one stream of these parts, a pause between any two, that never ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        try:
            for event in events:
                writer.write(event)
                await asyncio.sleep(pause)
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await use(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")


def raw(events: list[bytes], pause: float = 0.05, **settings: Any) -> tuple[list[Any], BackendError | None]:
    async def use(url: str) -> tuple[list[Any], BackendError | None]:
        backend = OpenAIBackend(url, **settings)
        try:
            return await collect(backend, model="m")
        finally:
            await backend.close()

    return asyncio.run(_serve_raw(events, pause, use))


ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'


def test_comments_do_not_keep_a_silent_model_alive() -> None:
    pieces, error = raw([TEXT, *[b": ping\n\n"] * 100], token_timeout=0.3)
    assert (pieces, str(error)) == ([Piece("a")], "The model server fell silent")
    pieces, error = raw([b": ping\n\n"] * 100, first_token_timeout=0.3)
    assert (pieces, str(error)) == ([], "The model server did not answer in time")


def test_a_role_is_no_beginning_of_the_answer() -> None:
    pieces, error = raw([ROLE, TEXT, STOP, b"data: [DONE]\n\n"], pause=0.4, token_timeout=0.2, first_token_timeout=20)
    assert pieces == [Piece("a")]
    assert str(error) == "The model server fell silent"
    assert raw([ROLE, TEXT + STOP + b"data: [DONE]\n\n"], pause=0.4, token_timeout=0.2)[1] is None


def test_a_model_that_has_said_why_it_ends_is_not_incomplete_for_falling_silent() -> None:
    assert raw([TEXT, STOP], token_timeout=0.3) == ([Piece("a"), Final("stop")], None)


@pytest.mark.parametrize("behaviour", [{"mode": "hang", "after": 2}, {"tokens": 100_000}])
def test_closing_the_generator_closes_the_connection(fake: FakeOpenAI, behaviour: dict[str, Any]) -> None:
    fake.script(**behaviour)

    async def stop_early(backend: OpenAIBackend) -> bool:
        lists = backend.generate(GenerateRequest(model="tiny:1b", prompt="hi"))
        await anext(lists)
        await lists.aclose()
        return await asyncio.to_thread(fake.requests[0].disconnected.wait, 10)

    assert with_backend(fake, stop_early)


@pytest.mark.parametrize("after", [0, 2])
def test_cancelling_the_task_closes_the_connection(fake: FakeOpenAI, after: int) -> None:
    fake.script(mode="hang", after=after)

    async def cancel(backend: OpenAIBackend) -> bool:
        task = asyncio.create_task(collect(backend, model="tiny:1b"))
        await asyncio.to_thread(fake.wait_for_request)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.to_thread(fake.requests[0].disconnected.wait, 10)

    assert with_backend(fake, cancel)


# --- the models ---


def models(fake: FakeOpenAI) -> list[dict[str, Any]]:
    return with_backend(fake, lambda backend: backend.list_models())


def test_models_are_listed_with_what_is_known_of_them(fake: FakeOpenAI) -> None:
    listed = models(fake)
    assert [model["name"] for model in listed] == [model.name for model in fake.models]
    assert listed[0] == {"name": "llama2:latest", "model": "llama2:latest", "modified_at": "2023-11-14T22:13:20Z"}


def test_what_llama_cpp_and_vllm_say_of_a_model_is_listed_too(fake: FakeOpenAI) -> None:
    llama_cpp = b'{"id":"a","meta":{"n_ctx":2048,"n_params":134515008,"size":96576768,"ftype":"Q4_1"}}'
    vllm = b'{"id":"b","max_model_len":8192}'
    fake.fail("/v1/models", 200, body=b'{"data":[' + llama_cpp + b"," + vllm + b"]}")
    details = {"parameter_size": "134.5M", "quantization_level": "Q4_1", "context_length": 2048}
    assert models(fake) == [
        {"name": "a", "model": "a", "size": 96576768, "details": details},
        {"name": "b", "model": "b", "details": {"context_length": 8192}},
    ]


@pytest.mark.parametrize("body", [b'{"data":null}', b'{"data":[]}', b'{"data":[5,null,{"id":7},{}]}', b'{"data":"x"}'])
def test_a_list_without_models_is_empty(fake: FakeOpenAI, body: bytes) -> None:
    fake.fail("/v1/models", 200, body=body)
    assert models(fake) == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"\xff"])
def test_a_list_that_is_none_is_an_error(fake: FakeOpenAI, body: bytes) -> None:
    fake.fail("/v1/models", 200, body=body)
    with pytest.raises(BackendError, match="The model server's list of models cannot be read"):
        models(fake)


@pytest.mark.parametrize(
    ("listed", "expected"), [(b'[{"id":"a"},{"id":"b"}]', "a"), (b'[{"id":"a"},{"id":"default"}]', "default")]
)
def test_the_default_model_is_the_first_unless_one_is_called_so(fake: FakeOpenAI, listed: bytes, expected: str) -> None:
    fake.fail("/v1/models", 200, body=b'{"data":' + listed + b"}")
    generate(fake, model="default")
    assert fake.requests[-1].body["model"] == expected


def test_without_any_model_there_is_no_default(fake: FakeOpenAI) -> None:
    fake.models = ()
    assert failure(fake, model="default") == ("The model server lists no models", ErrorCode.MODEL_NOT_FOUND, None)
