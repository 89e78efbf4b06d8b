"""The Ollama backend against a fake Ollama: what it sends, what it makes of answers, and how it lets go."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import pytest

from tests.gateway.collecting import collect
from tests.support.fake_ollama import FakeOllama
from wsclient.errors import ErrorCode
from wsclient.gateway.backends import BackendError, Final, GenerateRequest, Piece
from wsclient.gateway.backends.ollama import OllamaBackend, is_ollama_answering, parse_ollama_host

T = TypeVar("T")
FIVE = [Piece(f" t00{number}") for number in range(5)]


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama() as server:
        yield server


def with_backend(url: str, use: Callable[[OllamaBackend], Awaitable[T]], **settings: Any) -> T:
    """Run something with a backend that is closed afterwards."""

    async def run() -> T:
        backend = OllamaBackend(url, **settings)
        await backend.start()
        try:
            return await use(backend)
        finally:
            await backend.close()

    return asyncio.run(run())


def generate(url: str, prompt: str = "hi", **request: Any) -> tuple[list[Any], BackendError | None]:
    return with_backend(url, lambda backend: collect(backend, prompt, **request))


def failure(url: str, prompt: str = "hi", **request: Any) -> tuple[str, ErrorCode, float | None]:
    error = generate(url, prompt, **request)[1]
    assert error is not None
    return error.message, error.code, error.retry_after


# --- what it sends ---


def test_the_body_is_the_request_and_nothing_can_override_it(fake: FakeOllama) -> None:
    generate(
        fake.url,
        options={"temperature": 0.7, "stop": ["x"]},
        fields={"system": "be brief", "think": False, "stream": False, "model": "other", "prompt": "other"},
    )
    assert fake.requests[0].body == {
        "model": "llama2",
        "prompt": "hi",
        "stream": True,
        "options": {"temperature": 0.7, "stop": ["x"]},
        "system": "be brief",
        "think": False,
    }


def test_without_options_none_are_sent(fake: FakeOllama) -> None:
    generate(fake.url)
    assert fake.requests[0].body == {"model": "llama2", "prompt": "hi", "stream": True}


def test_a_prompt_with_half_a_surrogate_pair_can_be_sent(fake: FakeOllama) -> None:
    assert generate(fake.url, "\ud83d\u2028é")[1] is None
    assert fake.requests[0].raw.isascii()


def test_a_request_that_is_no_json_is_refused_here(fake: FakeOllama) -> None:
    message, code, _ = failure(fake.url, fields={"format": {"x": float("nan")}})
    assert (message, code) == ("the request cannot be written as JSON", ErrorCode.INVALID_REQUEST)
    assert fake.requests == []


def test_an_api_key_is_sent_as_a_bearer_token_and_not_shown(fake: FakeOllama) -> None:
    with_backend(fake.url, collect, api_key="s3cret")
    assert fake.requests[0].headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(OllamaBackend(fake.url, api_key="s3cret"))


def test_a_path_before_the_api_is_kept(fake: FakeOllama) -> None:
    failure(f"{fake.url}/ollama/")
    assert fake.requests[0].path == "/ollama/api/generate"


def test_a_proxy_in_the_environment_is_not_asked_for_loopback(
    fake: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert generate(fake.url)[1] is None
    assert failure("http://ollama.invalid:11434")[0] == "Cannot connect to Ollama: Connection refused"


# --- what it makes of answers ---


def test_a_generation_is_its_pieces_and_the_final_word_last(fake: FakeOllama) -> None:
    pieces, error = generate(fake.url)
    assert error is None
    assert pieces[:-1] == FIVE
    final = pieces[-1]
    assert isinstance(final, Final)
    assert (final.done_reason, final.prompt_tokens, final.completion_tokens) == ("stop", 1, 5)
    assert final.total_duration is not None
    assert final.eval_duration is not None
    assert 0 < final.eval_duration < final.total_duration < 10_000


def test_thinking_final_text_and_missing_metrics_come_through(fake: FakeOllama) -> None:
    fake.script(thinking=["hm"], tokens=1, final_text=" end", has_metrics=False)
    assert generate(fake.url)[0] == [Piece("hm", True), Piece(" t000"), Piece(" end"), Final("stop")]


def test_bytes_cut_inside_characters_and_a_very_long_final_line_are_read(fake: FakeOllama) -> None:
    fake.script(pieces=["é\U0001f600", "\u2028"], split=1, has_metrics=False)
    assert generate(fake.url)[0] == [Piece("é\U0001f600"), Piece("\u2028"), Final("stop")]
    fake.script(tokens=1, context=500_000, has_metrics=False)
    assert generate(fake.url)[0] == [Piece(" t000"), Final("stop")]


def test_an_answer_to_an_empty_prompt_is_one_final_object(fake: FakeOllama) -> None:
    assert generate(fake.url, "")[0] == [Final("load")]


def test_what_arrived_together_comes_together_in_lists_of_bounded_size(fake: FakeOllama) -> None:
    async def sizes(backend: OllamaBackend) -> list[int]:
        request = GenerateRequest(model="llama2", prompt='@@{"tokens":20000,"unlimited":true}')
        async with aclosing(backend.generate(request)) as lists:
            return [len(batch) async for batch in lists]

    counts = with_backend(fake.url, sizes)
    assert sum(counts) == 20_001
    assert len(counts) < 2_000
    assert max(counts) < 3_000


def test_garbage_is_skipped_and_logged_without_its_text(fake: FakeOllama, caplog: pytest.LogCaptureFixture) -> None:
    fake.script(mode="garbage", after=2, garbage="secret words")
    with caplog.at_level(logging.WARNING):
        assert generate(fake.url)[0][:-1] == FIVE
    assert [record.getMessage() for record in caplog.records] == [
        "Ollama sent lines that are not JSON objects: 1; skipped"
    ]


def test_an_unknown_model_is_told_in_the_originals_words(fake: FakeOllama) -> None:
    text = 'Ollama API error: 404 {"error":"model \'nope\' not found"}'
    assert failure(fake.url, model="nope") == (text, ErrorCode.MODEL_NOT_FOUND, None)


def test_a_crash_before_the_first_line_is_told_in_the_originals_words(fake: FakeOllama) -> None:
    text = 'Ollama API error: 500 {"error":"llama runner process has terminated: exit status 2"}'
    assert failure(fake.url, '@@{"mode":"500"}') == (text, ErrorCode.SERVER_ERROR, None)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ErrorCode.INVALID_REQUEST),
        (401, ErrorCode.SERVER_ERROR),
        (403, ErrorCode.SERVER_ERROR),
        (404, ErrorCode.MODEL_NOT_FOUND),
        (429, ErrorCode.RATE_LIMITED),
        (500, ErrorCode.SERVER_ERROR),
        (502, ErrorCode.SERVER_ERROR),
        (503, ErrorCode.SERVER_BUSY),
    ],
)
def test_each_status_has_its_code(fake: FakeOllama, status: int, code: ErrorCode) -> None:
    fake.fail("/api/generate", status, "why")
    assert failure(fake.url) == (f'Ollama API error: {status} {{"error":"why"}}', code, None)


@pytest.mark.parametrize(("header", "expected"), [("7", 7.0), ("999999", 3600.0), ("soon", None), ("-1", None)])
def test_a_busy_servers_retry_after_is_passed_on(fake: FakeOllama, header: str, expected: float | None) -> None:
    fake.fail("/api/generate", 503, headers={"Retry-After": header})
    assert failure(fake.url)[2] == expected
    fake.fail("/api/generate", 500, headers={"Retry-After": header})
    assert failure(fake.url)[2] is None


def test_a_404_that_is_not_ollamas_names_no_missing_model(fake: FakeOllama) -> None:
    fake.fail("/api/generate", 404, body=b"404 page not found", headers={"Content-Type": "text/plain"})
    assert failure(fake.url) == ("Ollama API error: 404 404 page not found", ErrorCode.SERVER_ERROR, None)


def test_an_error_without_a_body_is_its_status(fake: FakeOllama) -> None:
    fake.fail("/api/generate", 403, body=b"")
    assert failure(fake.url)[0] == "Ollama API error: 403"


def test_error_texts_are_bounded_and_without_control_characters(fake: FakeOllama) -> None:
    fake.fail("/api/generate", 500, body=b"\x1b[31m\n" + b"x" * 1_000_000)
    message = failure(fake.url)[0]
    assert message.isprintable()
    assert len(message) < 600
    fake.fail("/api/generate", 500, error="\x1b" + "y" * 10_000)
    assert len(failure(fake.url)[0]) < 600


def test_of_an_error_only_the_error_is_passed_on(fake: FakeOllama) -> None:
    fake.fail("/api/generate", 401, body=b'{"error":"unauthorized","signin_url":"https://example.com/key"}')
    assert failure(fake.url)[0] == 'Ollama API error: 401 {"error":"unauthorized"}'


def test_an_error_line_in_mid_stream_comes_after_the_text_so_far(fake: FakeOllama) -> None:
    fake.script(mode="error_line", after=2, error="out of\x07 memory")
    pieces, error = generate(fake.url)
    assert pieces == FIVE[:2]
    assert error is not None
    assert (error.message, error.code) == ("Ollama error: out of  memory", ErrorCode.SERVER_ERROR)


def test_a_stream_without_a_final_line_is_incomplete_after_the_text_so_far(fake: FakeOllama) -> None:
    pieces, error = generate(fake.url, '@@{"mode":"nodone","tokens":2}')
    assert pieces == FIVE[:2]
    assert error is not None
    assert error.code is ErrorCode.GENERATION_INCOMPLETE
    assert error.message == "Ollama ended the stream without its final message"


def test_a_broken_connection_is_a_premature_close_after_the_text_so_far(fake: FakeOllama) -> None:
    pieces, error = generate(fake.url, '@@{"mode":"drop","after":2}')
    assert pieces == FIVE[:2]
    assert error is not None
    assert (error.message, error.code) == ("Premature close", ErrorCode.GENERATION_INCOMPLETE)


def test_text_that_arrived_before_the_connection_broke_is_not_lost_to_a_slow_reader(fake: FakeOllama) -> None:
    async def read_slowly(backend: OllamaBackend) -> tuple[list[Any], BackendError | None]:
        lists = backend.generate(GenerateRequest(model="llama2", prompt="hi"))
        first = await anext(lists)
        # By then the fake is through, and this side has taken in the rest and the end of the connection.
        await asyncio.to_thread(fake.requests[0].finished.wait, 10)
        await asyncio.sleep(0.05)
        rest = await anext(lists)
        with pytest.raises(BackendError) as caught:
            await anext(lists)
        return first + rest, caught.value

    fake.script(pieces=[" t000", " t001", " t002", " t003"], mode="drop", after=4, delay=0.01)
    pieces, error = with_backend(fake.url, read_slowly)
    assert pieces == FIVE[:4]
    assert error is not None
    assert error.message == "Premature close"


def test_a_line_without_an_end_is_an_error_not_memory(fake: FakeOllama) -> None:
    fake.script(tokens=1, mode="garbage", garbage="x" * (9 * 1024 * 1024))
    assert failure(fake.url)[0] == "Ollama sent a line without an end"


# --- when there is no answer ---


def test_nobody_listening_is_told_without_the_address() -> None:
    with FakeOllama() as fake:
        url = fake.url
    assert failure(url) == ("Cannot connect to Ollama: Connection refused", ErrorCode.SERVER_ERROR, None)
    assert failure("http://no-such-host.invalid:1")[0] == "Cannot connect to Ollama: unknown host"


def test_failing_tls_is_told(fake: FakeOllama) -> None:
    assert failure(fake.url.replace("http:", "https:"))[0] == "Cannot connect to Ollama: TLS failed"


def test_a_server_that_hangs_up_or_speaks_no_http_is_told() -> None:
    def answer(data: bytes) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            writer.close()
            await writer.wait_closed()

        async def run() -> str:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            backend = OllamaBackend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            async with server:
                error = (await collect(backend))[1]
            await backend.close()
            assert error is not None
            return error.message

        return asyncio.run(run())

    assert answer(b"") == "Ollama closed the connection without an answer"
    assert answer(b"SSH-2.0-OpenSSH_9.6\r\n") == "Ollama gave no valid HTTP answer"


@pytest.mark.parametrize("prompt", ['@@{"mode":"hang","after":0}', '@@{"firstDelay":60000}'])
def test_a_model_that_never_begins_is_an_error_after_the_first_deadline(fake: FakeOllama, prompt: str) -> None:
    started = time.monotonic()
    error = with_backend(fake.url, lambda backend: collect(backend, prompt), first_token_timeout=0.2)[1]
    assert error is not None
    assert (error.message, error.code) == ("Ollama did not answer in time", ErrorCode.SERVER_ERROR)
    assert 0.15 < time.monotonic() - started < 5
    assert fake.requests[0].disconnected.wait(10)


def test_a_model_that_falls_silent_is_an_error_after_the_second_deadline(fake: FakeOllama) -> None:
    prompt = '@@{"mode":"hang","after":2}'
    pieces, error = with_backend(fake.url, lambda backend: collect(backend, prompt), token_timeout=0.2)
    assert pieces == FIVE[:2]
    assert error is not None
    assert (error.message, error.code) == ("Ollama fell silent", ErrorCode.GENERATION_INCOMPLETE)
    assert fake.requests[0].disconnected.wait(10)


def test_a_slow_first_token_is_no_silence_and_slow_tokens_are_no_late_start(fake: FakeOllama) -> None:
    slow_start = '@@{"tokens":1,"firstDelay":600}'
    assert with_backend(fake.url, lambda backend: collect(backend, slow_start), token_timeout=0.4)[1] is None
    steady = '@@{"tokens":9,"delay":100}'
    assert (
        with_backend(fake.url, lambda backend: collect(backend, steady), first_token_timeout=0.6, token_timeout=5)[1]
        is None
    )


def test_a_reader_that_takes_its_time_is_not_the_models_silence(fake: FakeOllama) -> None:
    async def dawdle(backend: OllamaBackend) -> int:
        count = 0
        request = GenerateRequest(model="llama2", prompt='@@{"tokens":2,"delay":10}')
        async with aclosing(backend.generate(request)) as lists:
            async for batch in lists:
                count += len(batch)
                await asyncio.sleep(0.4)
        return count

    assert with_backend(fake.url, dawdle, token_timeout=0.3) == 3


# --- letting go ---


@pytest.mark.parametrize("prompt", ['@@{"mode":"hang","after":2}', '@@{"tokens":100000}'])
def test_closing_the_generator_closes_the_connection(fake: FakeOllama, prompt: str) -> None:
    async def stop_early(backend: OllamaBackend) -> bool:
        lists = backend.generate(GenerateRequest(model="llama2", prompt=prompt))
        await anext(lists)
        await lists.aclose()
        return await asyncio.to_thread(fake.requests[0].disconnected.wait, 10)

    assert with_backend(fake.url, stop_early)


@pytest.mark.parametrize("prompt", ['@@{"mode":"hang","after":0}', '@@{"mode":"hang","after":2}'])
def test_cancelling_the_task_closes_the_connection(fake: FakeOllama, prompt: str) -> None:
    async def cancel(backend: OllamaBackend) -> bool:
        task = asyncio.create_task(collect(backend, prompt))
        await asyncio.to_thread(fake.wait_for_request)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.to_thread(fake.requests[0].disconnected.wait, 10)

    assert with_backend(fake.url, cancel)


@pytest.mark.parametrize("after", [0, 2])
def test_closing_the_backend_ends_its_generations_and_twice_is_once(fake: FakeOllama, after: int) -> None:
    async def close(backend: OllamaBackend) -> BackendError | None:
        task = asyncio.create_task(collect(backend, f'@@{{"mode":"hang","after":{after}}}'))
        request = await asyncio.to_thread(fake.wait_for_request)
        while request.lines_sent < after:
            await asyncio.sleep(0.001)
        await backend.close()
        await backend.close()
        return (await task)[1]

    assert with_backend(fake.url, close) is not None
    assert fake.requests[0].disconnected.wait(10)


def test_a_closed_backend_refuses_and_starts_again_when_told(fake: FakeOllama) -> None:
    async def reopen(backend: OllamaBackend) -> tuple[BackendError | None, BackendError | None]:
        await backend.close()
        refused = (await collect(backend))[1]
        await backend.start()
        return refused, (await collect(backend))[1]

    refused, again = with_backend(fake.url, reopen)
    assert str(refused) == "the gateway is shutting down"
    assert again is None


def test_many_generations_run_at_once(fake: FakeOllama) -> None:
    async def many(backend: OllamaBackend) -> int:
        tasks = [asyncio.create_task(collect(backend, "hi")) for _ in range(150)]
        await asyncio.to_thread(fake.wait_for_request, 150)
        fake.release(150)
        return sum(len(pieces) for pieces, error in await asyncio.gather(*tasks) if error is None)

    fake.script(mode="hold", after=0)
    assert with_backend(fake.url, many) == 150 * 6


# --- the list of models ---


def models(url: str, **settings: Any) -> list[dict[str, Any]]:
    return with_backend(url, lambda backend: backend.list_models(), **settings)


def test_models_are_listed_as_ollama_describes_them(fake: FakeOllama) -> None:
    assert models(fake.url) == [model.to_tag() for model in fake.models]


@pytest.mark.parametrize("body", [b'{"models":null}', b'{"models":[]}', b'{"models":[5,null]}', b'{"models":"x"}'])
def test_a_list_without_models_is_empty(fake: FakeOllama, body: bytes) -> None:
    fake.fail("/api/tags", 200, body=body)
    assert models(fake.url) == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"5", b"\xff"])
def test_a_list_that_is_none_is_an_error(fake: FakeOllama, body: bytes) -> None:
    fake.fail("/api/tags", 200, body=body)
    with pytest.raises(BackendError, match="list of models cannot be read"):
        models(fake.url)


def test_a_failed_listing_is_told_in_the_originals_words(fake: FakeOllama) -> None:
    fake.fail("/api/tags", 500, "boom")
    with pytest.raises(BackendError) as caught:
        models(fake.url)
    assert caught.value.message == 'Ollama API error: 500 {"error":"boom"}'


def test_a_list_that_does_not_come_is_an_error_after_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BackendError, match="Ollama did not answer in time"):
            models(url, request_timeout=0.1)


def test_a_list_that_breaks_off_is_an_error() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"models":')
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        backend = OllamaBackend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with server:
            with pytest.raises(BackendError, match="broke off its list of models"):
                await backend.list_models()
        await backend.close()

    asyncio.run(run())


# --- is it there at all ---


def test_the_probe_tells_an_ollama_from_its_absence_and_from_others(fake: FakeOllama) -> None:
    def probe(url: str, timeout: float = 10.0) -> bool:
        return asyncio.run(is_ollama_answering(url, timeout))

    assert probe(fake.url)
    assert probe(parse_ollama_host(fake.url.removeprefix("http://")))
    for body in (b"Ollama is running", b'{"version":5}', b"[]"):
        fake.fail("/api/version", 200, body=body)
        assert not probe(fake.url)
    fake.fail("/api/version", 500, body=b'{"version":"1"}')
    assert not probe(fake.url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not probe(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
    assert not probe("http://127.0.0.1:1")
    assert not probe("not a url")
