"""The Flask extension by itself: configuration, one client an application, streamed answers, `flask wsclient check`.

Takes 6 s: half of it are processes that are looked at from outside.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from flask import Flask, request

from wsclient import ClientOptions, ConnectionFailedError, Generation, ServerBusyError, WSClient, WSClientError
from wsclient.contrib.flask import FlaskWSClient, error_facts, stream_response
from wsclient.contrib.server_sent_events import HEADERS
from wsclient.testing import FakeClient, Gateway

from ..support.waiting import wait_until
from .test_server_sent_events import told

SETTINGS = {"WSCLIENT_SERVER_URL": "ws://localhost:9", "WSCLIENT_CLIENT_ID": "me", "WSCLIENT_PRIVATE_KEY_PATH": "k.pem"}


def make_app(**config: Any) -> tuple[Flask, FlaskWSClient]:
    app = Flask("site")
    app.config.update(config)
    return app, FlaskWSClient(app)


def options_of(**config: Any) -> ClientOptions:
    app, extension = make_app(**SETTINGS | config)
    with app.app_context():
        return extension.client._options


# --- configuration ----------------------------------------------------------------------------------------------------


def test_every_option_of_a_client_has_a_key() -> None:
    given = {
        field.name: not field.default if isinstance(field.default, bool) else field.default * 0.5
        for field in attrs.fields(ClientOptions)
        if isinstance(field.default, bool | float)
    }
    given |= {"signature_algorithm": "RSA-SHA512", "max_reconnect_attempts": None, "max_message_size": 2048}
    given |= {"max_unread_bytes": 4096, "headers": {"X-A": "b"}, "proxy": "", "passphrase": b"secret"}
    given |= {"auto_connect": False}
    options = options_of(**{f"WSCLIENT_{name.upper()}": value for name, value in given.items()})
    assert {name: getattr(options, name) for name in given} == given
    untold = {field.name for field in attrs.fields(ClientOptions)} - set(given)
    assert untold == {"server_url", "client_id", "private_key_path", "private_key", "ssl_context"}


def test_texts_mean_what_they_mean_in_the_environment() -> None:
    options = options_of(WSCLIENT_REQUEST_TIMEOUT="7.5", WSCLIENT_AUTO_RECONNECT="no", WSCLIENT_HEADERS="X-A: b")
    assert (options.request_timeout, options.auto_reconnect, options.headers) == (7.5, False, {"X-A": "b"})


def test_flasks_own_way_of_reading_the_environment_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(f"FLASK_{name}", value)
    monkeypatch.setenv("FLASK_WSCLIENT_PASSPHRASE", "123456")
    monkeypatch.setenv("FLASK_WSCLIENT_REQUEST_TIMEOUT", "7")
    app = Flask("site")
    app.config.from_prefixed_env()
    extension = FlaskWSClient(app)
    with app.app_context():
        options = extension.client._options
    assert (options.client_id, options.passphrase, options.request_timeout) == ("me", "123456", 7)


def test_the_file_of_register_client_is_enough_and_other_keys_win_over_it(wsclient_gateway: Gateway) -> None:
    app, extension = make_app(WSCLIENT_CONFIG=wsclient_gateway.config_path, WSCLIENT_REQUEST_TIMEOUT=9)
    with app.app_context():
        extension.connect()
        assert wsclient_gateway.connections == 1
        assert extension.client._options.request_timeout == 9
        extension.client.close()


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ({"WSCLIENT_SERVER_URL": ""}, ValueError, "server_url must be a URL"),
        ({"WSCLIENT_REQUEST_TIMEOUT": 60000}, ValueError, "did you mean 60"),
        ({"WSCLIENT_REQUEST_TIMEOUT": "soon"}, ValueError, "WSCLIENT_REQUEST_TIMEOUT must be a number"),
        ({"WSCLIENT_REQEST_TIMEOUT": 9}, ValueError, "did you mean WSCLIENT_REQUEST_TIMEOUT"),
        ({"WSCLIENT_AUTO_CONNECT": 2}, TypeError, "auto_connect must be True or False"),
        ({"WSCLIENT_CLIENT": "me"}, TypeError, "WSCLIENT_CLIENT is a WSClient or a function"),
        ({"WSCLIENT_CONFIG": "nowhere.json"}, FileNotFoundError, "nowhere.json"),
    ],
)
def test_what_is_wrong_in_the_configuration_is_told_at_once(config: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make_app(**SETTINGS | config)


def test_what_is_missing_in_the_configuration_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="lacks WSCLIENT_SERVER_URL and WSCLIENT_CLIENT_ID, or WSCLIENT_CONFIG"):
        make_app()


def test_keys_that_resemble_none_of_ours_are_somebody_elses() -> None:
    assert options_of(WSCLIENT_ADMIN_TOKEN="x", WSCLIENTS=3).client_id == "me"


# --- applications -----------------------------------------------------------------------------------------------------


def test_setting_up_needs_no_gateway_and_starts_no_thread() -> None:
    threads = threading.enumerate()
    app, extension = make_app(**SETTINGS)
    with app.app_context():
        assert extension.client.status == "disconnected"
    assert threading.enumerate() == threads


def test_an_application_is_not_set_up_twice() -> None:
    app, extension = make_app(**SETTINGS)
    for again in (extension, FlaskWSClient()):
        with pytest.raises(RuntimeError, match="'site' has this extension already"):
            again.init_app(app)


def test_each_application_has_a_client_of_its_own() -> None:
    extension = FlaskWSClient()
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        app.config.update(SETTINGS, WSCLIENT_CLIENT_ID=app.name)
        extension.init_app(app)
    clients = []
    for app in apps:
        with app.app_context():
            clients.append(extension.client)
            assert extension.client is extension.client
    assert [client._options.client_id for client in clients] == ["one", "two"]


def test_without_an_application_flask_says_so() -> None:
    with pytest.raises(RuntimeError, match="Working outside of application context"):
        _ = FlaskWSClient().client


def test_an_application_that_was_not_set_up_is_told_apart() -> None:
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match=r"call init_app\(\).* 'bare' first"):
        _ = FlaskWSClient().client


def test_threads_that_come_first_together_get_the_same_client() -> None:
    together = threading.Barrier(8)
    made = []

    def make() -> WSClient:
        client = FakeClient()
        made.append(client)
        together.wait(10)
        return client

    app, extension = make_app(WSCLIENT_CLIENT=make)

    def get(_: int) -> WSClient:
        with app.app_context():
            return extension.client

    with ThreadPoolExecutor(8) as pool:
        (client,) = set(pool.map(get, range(8)))
    assert [other for other in made if not other.calls] == [client]
    assert all([call.method for call in other.calls] == ["close"] for other in made if other is not client)


def test_an_application_that_is_dropped_closes_its_client(wsclient_gateway: Gateway) -> None:
    app, extension = make_app(WSCLIENT_CONFIG=wsclient_gateway.config_path)
    with app.app_context():
        extension.connect()
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
    wait_until(lambda: wsclient_gateway.connections == 0)


def test_the_calls_of_the_extension_are_those_of_the_client() -> None:
    fake = FakeClient({"Hi": ["One", " two"]}, models=["llama2"])
    app, extension = make_app(WSCLIENT_CLIENT=fake)
    with app.app_context():
        extension.connect(timeout=3)
        assert [model.name for model in extension.list_models()] == ["llama2"]
        assert extension.complete("Hi", "llama2", seed=7).text == "One two"
        assert "".join(extension.stream("Hi", options={"seed": 7})) == "One two"
    assert [(call.method, call.arguments) for call in fake.calls] == [
        ("connect", {"timeout": 3}),
        ("list_models", {}),
        ("complete", {"prompt": "Hi", "model": "llama2", "options": None, "seed": 7}),
        ("stream", {"prompt": "Hi", "model": None, "options": {"seed": 7}}),
    ]


# --- answers ----------------------------------------------------------------------------------------------------------


def site(fake: FakeClient, **arguments: Any) -> Flask:
    """Return a site that streams what is asked for: at `/now` begun in the view, at `/later` when it is sent."""
    app, extension = make_app(WSCLIENT_CLIENT=fake)

    def begin() -> Generation:
        return extension.stream(request.get_json()["prompt"])

    app.add_url_rule("/now", view_func=lambda: stream_response(begin(), **arguments), endpoint="now", methods=["POST"])
    later = lambda: stream_response(begin, **arguments)  # noqa: E731
    app.add_url_rule("/later", view_func=later, endpoint="later", methods=["POST"])

    @app.errorhandler(WSClientError)
    def failed(error: WSClientError) -> tuple[dict[str, Any], int]:
        return error_facts(error), 503

    return app


@pytest.mark.parametrize("path", ["/now", "/later"])
def test_a_streamed_answer_is_an_event_stream_that_nobody_keeps(path: str) -> None:
    answer = site(FakeClient({"Hi": ["One", " two"]})).test_client().post(path, json={"prompt": "Hi"})
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in answer.headers
    events = told(answer.data)
    assert (events[0][0], events[-1][0]) == ("start", "end")
    assert "".join(data["text"] for name, data in events if name == "token") == "One two"


def test_what_goes_wrong_when_it_begins_is_the_views_error_or_an_event() -> None:
    fake = FakeClient(connect_error=ConnectionFailedError("nobody there"))
    answers = [site(fake).test_client().post(path, json={"prompt": "Hi"}) for path in ("/now", "/later")]
    assert [answer.status_code for answer in answers] == [503, 200]
    assert answers[0].json["code"] == "connection_failed"
    assert told(answers[1].data) == [("error", answers[0].json)]


def test_what_goes_wrong_in_the_middle_is_the_last_event() -> None:
    fake = FakeClient({"Hi": ["One", ServerBusyError("no room", retry_after=3.0)]})
    events = told(site(fake).test_client().post("/now", json={"prompt": "Hi"}).data)
    assert [name for name, _ in events] == ["start", "token", "error"]
    assert events[-1][1] | {"description": ""} == {
        "code": "server_busy",
        "message": "no room",
        "description": "",
        "retryable": True,
        "retry_after": 3.0,
    }


def test_an_answer_that_is_closed_stops_its_generation() -> None:
    fake = FakeClient(lambda _: (f"{number} " for number in range(1_000_000)))
    answer = site(fake).test_client().post("/now", json={"prompt": "Hi"}, buffered=False)
    assert next(answer.response).startswith(b"event: start")
    answer.close()
    assert fake.requests[0].outcome == "stopped"


def test_an_answer_that_was_never_read_stops_its_generation_too() -> None:
    fake = FakeClient(lambda _: (f"{number} " for number in range(1_000_000)))
    site(fake).test_client().post("/now", json={"prompt": "Hi"}, buffered=False).close()
    assert fake.requests[0].outcome == "stopped"


def test_a_heartbeat_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="heartbeat is 0"):
        stream_response(FakeClient().stream("Hi"), heartbeat=0)


# --- processes --------------------------------------------------------------------------------------------------------

PROGRAM = """
import os
from flask import Flask
from wsclient.contrib.flask import FlaskWSClient

wsclient = FlaskWSClient()

def create_app():
    app = Flask("site")
    app.config.from_prefixed_env()
    wsclient.init_app(app)
    return app
"""


def run(folder: Path, env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "site_app.py").write_text(PROGRAM)
    given = {f"FLASK_{name}": value for name, value in env.items()}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=os.environ | given, capture_output=True, text=True, timeout=40
    )


def check(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run(folder, env, "-m", "flask", "--app", "site_app", "wsclient", "check")


def test_check_connects_and_lists_the_models(tmp_path: Path) -> None:
    with Gateway({"Hi": "Hello"}, models=["llama2", "tiny:1b"]) as gateway:
        finished = check(tmp_path, gateway.environment)
        expected = f"{gateway.url}/ knows this client; its models: llama2, tiny:1b\n"
        assert (finished.stdout, finished.stderr, finished.returncode) == (expected, "", 0)
        wait_until(lambda: gateway.connections == 0)


def test_check_says_in_one_line_what_failed(wsclient_gateway: Gateway, tmp_path: Path) -> None:
    wsclient_gateway.wrong_login()
    refused = check(tmp_path, wsclient_gateway.environment)
    wsclient_gateway.stop()
    away = check(tmp_path, wsclient_gateway.environment)
    for finished, part in ((refused, "[invalid_auth]"), (away, "[connection_failed]")):
        assert (finished.stdout, finished.returncode) == ("", 1)
        assert finished.stderr.count("\n") == 1
        assert finished.stderr.startswith("Error: ")
        assert part in finished.stderr


def test_at_the_end_of_a_process_the_client_is_closed(tmp_path: Path) -> None:
    with Gateway() as gateway:
        program = """
import atexit
clients = []
# What is registered last is called first, so this is called after what the extension registers.
atexit.register(lambda: print("at the end", clients[0].status))
import site_app
app = site_app.create_app()
with app.app_context():
    generation = site_app.wsclient.stream("Go on", max_tokens=1_000_000)
    clients.append(site_app.wsclient.client)
    print(bool(next(generation)), clients[0].status)
"""
        finished = run(tmp_path, gateway.environment, "-W", "error", "-c", program)
        assert finished.stdout == "True authenticated\nat the end disconnected\n"
        assert (finished.stderr, finished.returncode) == ("", 0)
        gateway.wait_idle()
        wait_until(lambda: gateway.connections == 0)
