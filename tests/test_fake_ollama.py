"""The fake Ollama is one: the official client and raw HTTP see what they would see of the real one."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ollama
import pytest

from tests.support.fake_ollama import MODELS, Answer, FakeModel, FakeOllama

RECORDINGS = Path(__file__).parent / "transcripts"
THINKER = FakeModel(name="thinker:latest", families=None, capabilities=("completion", "thinking"))
EMBEDDER = FakeModel(name="embedder:latest", capabilities=("embedding",))


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama([*MODELS, THINKER, EMBEDDER]) as server:
        yield server


@pytest.fixture
def client(fake: FakeOllama) -> Iterator[ollama.Client]:
    with ollama.Client(host=fake.url) as made:
        yield made


def call(fake: FakeOllama, method: str, path: str, body: Any = None) -> tuple[int, str, str]:
    """Make one request and return status, content type and text."""
    connection = http.client.HTTPConnection(urlsplit(fake.url).netloc, timeout=10)
    try:
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, raw)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


def error_of(fake: FakeOllama, path: str, body: Any) -> tuple[int, str]:
    status, kind, text = call(fake, "POST", path, body)
    assert kind == "application/json; charset=utf-8"
    return status, json.loads(text)["error"]


def lines_of(fake: FakeOllama, **body: Any) -> list[Any]:
    status, kind, text = call(fake, "POST", "/api/generate", {"model": "llama2", "prompt": "hi", **body})
    assert (status, kind) == (200, "application/x-ndjson")
    return [json.loads(line) for line in text.split("\n") if line]


# --- the official client ---


def test_the_official_client_lists_the_models(client: ollama.Client) -> None:
    models = client.list().models
    assert [model.model for model in models][:3] == ["llama2:latest", "llama3.2:latest", "tiny:1b"]
    assert models[0].details is not None
    assert models[0].details.families == ["llama"]


def test_families_can_be_null(client: ollama.Client) -> None:
    details = client.list().models[3].details
    assert details is not None
    assert details.families is None


def test_the_official_client_generates_in_one_piece(client: ollama.Client) -> None:
    answer = client.generate("llama2", "hi")
    assert answer.response == " t000 t001 t002 t003 t004"
    assert (answer.done, answer.done_reason, answer.eval_count, answer.prompt_eval_count) == (True, "stop", 5, 1)


def test_the_official_client_streams(client: ollama.Client) -> None:
    parts = list(client.generate("llama2:latest", '@@{"tokens":3}', stream=True))
    assert [part.response for part in parts] == [" t000", " t001", " t002", ""]
    assert [part.done for part in parts] == [False, False, False, True]


def test_an_unknown_model_is_the_official_clients_404(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=r"model 'nope' not found") as caught:
        list(client.generate("nope", "hi", stream=True))
    assert caught.value.status_code == 404


def test_an_error_line_in_mid_stream_is_the_official_clients_error(client: ollama.Client) -> None:
    stream = client.generate("llama2", '@@{"mode":"error_line","after":2,"error":"out of memory"}', stream=True)
    assert [next(stream).response, next(stream).response] == [" t000", " t001"]
    with pytest.raises(ollama.ResponseError, match="out of memory") as caught:
        next(stream)
    assert caught.value.status_code == -1


def test_the_official_clients_options_arrive_as_sent(fake: FakeOllama, client: ollama.Client) -> None:
    client.generate("llama2", "hi", system="be brief", options={"temperature": 0.7, "stop": ["x"], "max_tokens": 5})
    body = fake.requests[0].body
    assert (body["model"], body["prompt"], body["system"], body["stream"]) == ("llama2", "hi", "be brief", False)
    assert body["options"] == {"temperature": 0.7, "stop": ["x"], "max_tokens": 5}


def test_the_official_client_chats(client: ollama.Client) -> None:
    messages = [{"role": "user", "content": '@@{"list":["Hello"," you"]}'}]
    assert client.chat("llama2", messages).message.content == "Hello you"
    parts = list(client.chat("llama2", messages, stream=True))
    assert [part.message.content for part in parts] == ["Hello", " you", ""]


def test_the_official_client_shows_a_model(client: ollama.Client) -> None:
    assert client.show("thinker").capabilities == ["completion", "thinking"]
    with pytest.raises(ollama.ResponseError, match=r"model 'nope' not found"):
        client.show("nope")


def test_running_models_are_those_used_and_not_unloaded(client: ollama.Client) -> None:
    assert client.ps().models == []
    assert client.generate("llama2").done_reason == "load"
    assert [model.model for model in client.ps().models] == ["llama2:latest"]
    assert client.generate("llama2", keep_alive=0).done_reason == "unload"
    assert client.ps().models == []


def test_the_official_client_embeds(client: ollama.Client) -> None:
    assert len(client.embed("llama2", ["one", "two"]).embeddings) == 2
    with pytest.raises(ollama.ResponseError, match='model "nope" not found, try pulling it first'):
        client.embed("nope", "one")


def test_a_busy_server_answers_503(fake: FakeOllama, client: ollama.Client) -> None:
    fake.is_busy = True
    with pytest.raises(ollama.ResponseError, match=r"server busy, please try again\.  maximum pending") as caught:
        client.generate("llama2", "hi")
    assert caught.value.status_code == 503


# --- HTTP, as it is ---


def test_the_root_tells_that_ollama_is_running(fake: FakeOllama) -> None:
    assert call(fake, "GET", "/")[2] == "Ollama is running"
    assert call(fake, "HEAD", "/")[0] == 200
    assert json.loads(call(fake, "GET", "/api/version")[2])["version"]


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/api/nothing", 404, "404 page not found"),
        ("GET", "/api/generate", 405, "405 method not allowed"),
        ("POST", "/api/tags", 405, "405 method not allowed"),
    ],
)
def test_a_wrong_path_or_method_is_answered_in_plain_text(
    fake: FakeOllama, method: str, path: str, status: int, text: str
) -> None:
    assert call(fake, method, path) == (status, "text/plain; charset=utf-8", text)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        (b"x", 400, "invalid character 'x' looking for beginning of value"),
        (b"[]", 400, "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        ({}, 404, "model '' not found"),
        ({"model": "llama2", "prompt": 42}, 400, "json: cannot unmarshal number into Go struct field "),
        ({"model": "llama2", "options": "x"}, 400, "json: cannot unmarshal string into Go struct field "),
        ({"model": "llama2", "keep_alive": "300"}, 400, 'time: missing unit in duration "300"'),
        ({"model": "llama2", "think": True}, 400, '"llama2" does not support thinking'),
        ({"model": "thinker", "think": "very"}, 400, 'invalid think value: "very"'),
        ({"model": "embedder", "prompt": "hi"}, 400, '"embedder" does not support generate'),
        ({"model": "llama2", "raw": True, "system": "x"}, 400, "raw mode does not support template, system, or "),
        ({"model": "llama2", "format": "xml"}, 500, 'invalid format: "xml"; expected "json" or a valid JSON Schema'),
        ({"model": "llama2", "options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
        ({"model": "llama2", "options": {"stop": [1]}}, 500, 'option "stop" must be of an array of strings'),
        ({"model": "llama2", "options": {"temperature": "1"}}, 500, 'option "temperature" must be of type float32'),
        ({"model": "llama2", "options": {"top_k": True}}, 500, 'option "top_k" must be of type integer'),
        ({"model": "llama2", "options": {"use_mmap": 1}}, 500, 'option "use_mmap" must be of type boolean'),
    ],
)
def test_a_wrong_request_is_refused_in_ollamas_words(fake: FakeOllama, body: Any, status: int, error: str) -> None:
    actual_status, actual_error = error_of(fake, "/api/generate", body)
    assert (actual_status, actual_error[: len(error)]) == (status, error)


def test_unknown_and_null_options_are_ignored(fake: FakeOllama) -> None:
    assert len(lines_of(fake, options={"max_tokens": "five", "temperature": None, "top_k": 5.0})) == 6


def test_streaming_is_the_default_and_lines_look_like_ollamas(fake: FakeOllama) -> None:
    first = lines_of(fake)[0]
    assert first == {
        "model": "llama2",
        "created_at": "2025-05-01T10:20:30.123456789Z",
        "response": " t000",
        "done": False,
    }


def test_thinking_comes_before_the_answer_unless_it_is_turned_off(fake: FakeOllama) -> None:
    fake.script(thinking=["hm", "!"], tokens=1)
    lines = lines_of(fake, model="thinker")
    assert [line.get("thinking") for line in lines] == ["hm", "!", None, None]
    assert [line["response"] for line in lines] == ["", "", " t000", ""]
    assert "thinking" not in lines_of(fake, model="thinker", think=False)[0]


def test_the_final_line_can_carry_text_and_lack_everything_else(fake: FakeOllama) -> None:
    fake.script(final_text=" end", has_metrics=False, done_reason=None)
    final = lines_of(fake)[-1]
    assert sorted(final) == ["created_at", "done", "model", "response"]
    assert final["response"] == " end"


def test_the_final_line_can_be_very_long(fake: FakeOllama) -> None:
    fake.script(context=100_000)
    assert len(lines_of(fake)[-1]["context"]) == 100_000


@pytest.mark.parametrize("split", [1, 2, 3, 7])
def test_bytes_are_cut_where_it_hurts(fake: FakeOllama, split: int) -> None:
    fake.script(pieces=["é\U0001f600\u2028", "<b>&"], split=split)
    assert [line["response"] for line in lines_of(fake)] == ["é\U0001f600\u2028", "<b>&", ""]


def test_text_is_escaped_as_go_does(fake: FakeOllama) -> None:
    text = call(fake, "POST", "/api/generate", {"model": "llama2", "prompt": '@@{"list":["<é\u2028"]}'})[2]
    assert '"response":"\\u003cé\\u2028"' in text


@pytest.mark.parametrize(
    ("mode", "texts"),
    [
        ("garbage", [" t000", " t001", None, " t002", " t003", " t004", ""]),
        ("nodone", [" t000", " t001"]),
        ("error_line", [" t000", " t001", "error"]),
    ],
)
def test_a_mode_takes_effect_after_the_lines_asked_for(fake: FakeOllama, mode: str, texts: list[str | None]) -> None:
    fake.script(mode=mode, after=2, garbage='"no object"')
    lines = lines_of(fake)
    seen = [None if isinstance(line, str) else line.get("response", "error") for line in lines]
    assert seen == texts


def test_a_dropped_connection_leaves_the_body_incomplete(fake: FakeOllama) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        call(fake, "POST", "/api/generate", {"model": "llama2", "prompt": '@@{"mode":"drop","after":2}'})
    assert caught.value.partial.count(b"\n") == 2
    assert fake.requests[0].finished.wait(10)
    assert not fake.requests[0].disconnected.is_set()


def test_an_error_before_the_first_line_is_a_status(fake: FakeOllama) -> None:
    body = {"model": "llama2", "prompt": '@@{"mode":"500"}'}
    assert error_of(fake, "/api/generate", body) == (500, "llama runner process has terminated: exit status 2")
    body["prompt"] = '@@{"mode":"503"}'
    assert error_of(fake, "/api/generate", body)[0] == 503


def test_a_prompt_goes_before_a_script_and_a_script_before_the_default(fake: FakeOllama) -> None:
    fake.script(model="tiny:1b", tokens=1)
    fake.script(prompt="two", token="B", tokens=2)
    assert len(lines_of(fake)) == 6
    assert len(lines_of(fake, model="tiny:1b")) == 2
    assert [line["response"] for line in lines_of(fake, model="tiny:1b", prompt="one two")] == ["B", "B", ""]
    assert len(lines_of(fake, prompt='@@{"tokens":4} two')) == 5


def test_a_path_can_be_made_to_fail_a_number_of_times(fake: FakeOllama) -> None:
    fake.fail("/api/tags", 500, "boom", times=1)
    assert call(fake, "GET", "/api/tags")[::2] == (500, '{"error":"boom"}')
    assert call(fake, "GET", "/api/tags")[0] == 200


def test_times_in_prompts_are_milliseconds_as_recorded() -> None:
    answer = Answer.from_prompt('@@{"tokens":3,"firstDelay":1000,"delay":20} and more', Answer())
    assert (answer.first_delay, answer.delay, answer.tokens) == (1.0, 0.02, 3)


def recorded_messages(direction: str) -> Iterator[Any]:
    for path in sorted(RECORDINGS.glob("*.jsonl")):
        # Not splitlines(): recorded texts hold U+2028.
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            record = json.loads(line)
            if record.get("dir") == direction and record["op"] == "text":
                try:
                    yield json.loads(record["raw"])
                except ValueError:
                    continue


def test_the_models_are_those_of_the_recorded_sessions() -> None:
    lists = [message["models"] for message in recorded_messages("recv") if message.get("type") == "models_result"]
    assert [model.to_tag() for model in MODELS] == lists[0]


def test_all_prompts_of_the_recorded_sessions_are_understood() -> None:
    messages = [message for message in recorded_messages("send") if isinstance(message, dict)]
    prompts = {str(message["prompt"]) for message in messages if str(message.get("prompt")).startswith("@@")}
    answers = [Answer.from_prompt(prompt, Answer()) for prompt in prompts]
    assert len(answers) > 15
    assert {answer.mode for answer in answers} == {"", "drop", "error_line", "garbage", "nodone", "hang"}
    assert {answer.status for answer in answers} == {200, 500}


# --- what tests wait for ---


def open_generation(fake: FakeOllama, prompt: str) -> socket.socket:
    address = urlsplit(fake.url)
    body = json.dumps({"model": "llama2", "prompt": prompt}).encode()
    connection = socket.create_connection((address.hostname, address.port), timeout=10)
    connection.sendall(b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    return connection


@pytest.mark.parametrize("prompt", ['@@{"mode":"hang","after":0}', '@@{"firstDelay":60000}', '@@{"mode":"hang"}'])
def test_a_client_that_goes_away_is_noticed(fake: FakeOllama, prompt: str) -> None:
    connection = open_generation(fake, prompt)
    request = fake.wait_for_request()
    assert not request.disconnected.is_set()
    connection.close()
    assert request.disconnected.wait(10)
    assert request.finished.wait(10)


def test_a_client_that_goes_away_while_text_flows_is_noticed(fake: FakeOllama) -> None:
    connection = open_generation(fake, '@@{"tokens":100000,"delay":1}')
    connection.recv(1)
    connection.close()
    assert fake.wait_for_request().disconnected.wait(10)


def test_a_held_generation_goes_on_when_it_is_released(fake: FakeOllama) -> None:
    fake.script(mode="hold", after=1, tokens=2)
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(len(lines_of(fake))))
    thread.start()
    request = fake.wait_for_request()
    assert not request.finished.wait(0.05)
    fake.release()
    thread.join(10)
    assert done == [3]


def test_waiting_for_a_request_that_does_not_come_ends(fake: FakeOllama) -> None:
    with pytest.raises(TimeoutError, match="there were 0 of 1 requests"):
        fake.wait_for_request(timeout=0.01)


def test_an_unlimited_answer_has_every_line(fake: FakeOllama) -> None:
    lines = lines_of(fake, prompt='@@{"tokens":20000,"unlimited":true}')
    assert len(lines) == 20_001
    assert lines[19_999]["response"] == " t19999"
    assert lines[-1]["eval_count"] == 20_000


def test_leaving_the_context_ends_the_server_even_in_mid_answer() -> None:
    with FakeOllama() as fake:
        connection = open_generation(fake, '@@{"mode":"hang","after":2}')
        fake.wait_for_request()
    address = urlsplit(fake.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), timeout=10)
    connection.close()


def test_a_port_that_is_taken_is_told_at_once(fake: FakeOllama) -> None:
    taken = urlsplit(fake.url).port
    assert taken is not None
    with pytest.raises(OSError, match="Address already in use"), FakeOllama(port=taken):
        pass
