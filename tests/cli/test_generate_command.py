"""`generate` and `models`, through a real gateway to an Ollama that does as it is told."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from wsclient.cli.generating import readable_size
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import generate_key, save_key_pair
from wsclient.testing.scripted_server import Peer, ScriptedServer

from ..support.fake_ollama import FakeModel, FakeOllama
from .conftest import Run
from .programs import Program, run_program

TOKENS = " t000 t001 t002 t003 t004"


def sent(ollama: FakeOllama) -> dict[str, object]:
    """Return the body of the latest generation that Ollama was asked for."""
    bodies = [request.body for request in ollama.requests if request.path == "/api/generate"]
    body: dict[str, object] = bodies[-1]
    return body


class TestStreaming:
    def test_the_text_goes_to_stdout_and_the_figures_to_stderr(self, run: Run, config: Path) -> None:
        done = run("generate", "hello", f"--config={config}")
        assert (done.code, done.out) == (0, TOKENS + "\n")
        assert done.err.startswith("llama2, 5 tokens, ")
        assert " tokens/s, first token after " in done.err
        assert done.err.count("\n") == 1

    def test_tokens_are_written_as_they_come(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(mode="hold", after=2)
        with Program("generate", "hello", f"--config={config}", cwd=folder) as program:
            program.wait_for(" t000 t001")
            assert program.out == " t000 t001"
            ollama.release()
            assert program.wait() == 0
        assert program.out == TOKENS + "\n"

    def test_a_text_that_ends_with_a_newline_gets_no_other(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        ollama.script(pieces=["one\n", "two\n"])
        assert run("generate", "hello", f"--config={config}").out == "one\ntwo\n"

    def test_the_prompt_can_come_from_stdin(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        done = run_program(["generate", "-", f"--config={config}"], folder, text="first line\nzweite Zeile: ä\n")
        assert done.code == 0
        assert sent(ollama)["prompt"] == "first line\nzweite Zeile: ä\n"

    def test_every_option_reaches_the_model(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        run(
            "generate",
            "hello",
            f"--config={config}",
            "--model=tiny:1b",
            "--temperature=0.5",
            "--top-p=0.9",
            "--top-k=40",
            "--max-tokens=7",
            "--seed=42",
            "--stop=END",
            "--stop=STOP",
            "--system=Be brief",
        )
        body = sent(ollama)
        assert (body["model"], body["system"]) == ("tiny:1b", "Be brief")
        assert body["options"] == {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "num_predict": 7,
            "seed": 42,
            "stop": ["END", "STOP"],
        }

    def test_options_that_are_not_given_are_not_sent(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        run("generate", "hello", f"--config={config}")
        assert not sent(ollama).get("options")

    @pytest.mark.parametrize(("columns", "shown"), [(0, "a]0;ownedb2Jcde\tf\n"), (80, "a]0;ownedb2Jcde f\r\n")])
    def test_control_characters_of_the_model_reach_neither_a_pipe_nor_a_terminal(
        self, folder: Path, config: Path, ollama: FakeOllama, columns: int, shown: str
    ) -> None:
        ollama.script(pieces=["a\x1b]0;owned", "\x07b\x9b2J", "c\rd\x08e\tf\n"])
        out = run_program(["generate", "hello", f"--config={config}"], folder, columns=columns).out
        assert out.splitlines(keepends=True)[0] == shown

    def test_at_a_terminal_lines_break_between_words(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(pieces=["The quick", " bro", "wn fox", " jumps"])
        out = run_program(["generate", "hello", f"--config={config}"], folder, columns=16).out
        assert out.startswith("The quick brown\r\nfox jumps\r\n")

    def test_what_the_terminals_encoding_lacks_ends_nothing(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(pieces=["caf", "\u00e9", " \u6f22", " ok"])
        done = run_program(["generate", "hello", f"--config={config}"], folder, {"PYTHONIOENCODING": "ascii"})
        assert (done.code, done.out) == (0, "caf? ? ok\n")

    def test_in_a_pipe_lines_are_the_models(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        text = "word " * 100
        ollama.script(pieces=[text])
        assert run("generate", "hello", f"--config={config}").out == text + "\n"


class TestStopping:
    def test_ctrl_c_stops_the_model_and_is_exit_code_130(self, folder: Path, config: Path, ollama: FakeOllama) -> None:
        ollama.script(mode="hang", after=2)
        with Program("generate", "hello", f"--config={config}", cwd=folder) as program:
            program.wait_for("t001")
            request = ollama.wait_for_request(path="/api/generate")
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
        assert request.disconnected.wait(5)
        assert program.out == " t000 t001"
        assert program.err == "error: interrupted by Ctrl-C\n"

    def test_ctrl_c_before_the_first_token_stops_the_model_too(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="hang", after=0)
        with Program("generate", "hello", f"--config={config}", cwd=folder) as program:
            request = ollama.wait_for_request(path="/api/generate")
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
        assert request.disconnected.wait(5)

    def test_a_reader_that_has_seen_enough_stops_the_model(
        self, folder: Path, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="hold", after=1, tokens=100_000, delay=0.001)
        read_end, write_end = os.pipe()
        with Program("generate", "hello", f"--config={config}", cwd=folder, stdout=write_end) as program:
            os.close(write_end)
            assert os.read(read_end, 100) == b" t000"
            os.close(read_end)
            ollama.release()
            assert program.wait() == 1
        assert ollama.requests[-1].disconnected.wait(5)
        assert program.err == ""

    def test_ctrl_c_tells_a_server_that_would_write_on_without_its_client(self, folder: Path, config: Path) -> None:
        heard: list[dict[str, Any]] = []

        def write_on(peer: Peer) -> None:
            peer.login()
            generation = peer.expect("generate")["id"]
            peer.send({"type": "stream_token", "id": generation, "token": "word"})
            while True:
                stop = peer.expect("stop", requestId=generation)
                heard.append(stop)
                peer.send({"type": "ack", "id": stop["id"], "requestId": generation, "action": "stop"})

        with ScriptedServer(write_on) as server:
            arguments = ("generate", "hello", f"--config={config}", f"--server-url={server.url}")
            with Program(*arguments, cwd=folder) as program:
                program.wait_for("word")
                program.send_signal(signal.SIGINT)
                assert program.wait() == 130
        assert heard

    def test_ctrl_c_ends_the_command_even_if_the_server_does_not_answer(self, folder: Path, config: Path) -> None:
        def ignore_everything(peer: Peer) -> None:
            peer.login()
            generation = peer.expect("generate")["id"]
            peer.send({"type": "stream_token", "id": generation, "token": "word"})
            peer.wait_until_gone()

        with ScriptedServer(ignore_everything) as server:
            arguments = ("generate", "hello", f"--config={config}", f"--server-url={server.url}")
            with Program(*arguments, cwd=folder) as program:
                program.wait_for("word")
                program.send_signal(signal.SIGINT)
                # The library would give the server a minute.
                assert program.wait() == 130


class TestFailures:
    def test_a_generation_that_others_stopped_is_no_success(self, run: Run, config: Path) -> None:
        def stop_halfway(peer: Peer) -> None:
            peer.login()
            generation = peer.expect("generate")["id"]
            peer.send({"type": "stream_token", "id": generation, "token": "half"})
            peer.send({"type": "stream_end", "id": generation, "isCancelled": True})
            peer.wait_until_gone()

        with ScriptedServer(stop_halfway) as server:
            done = run("generate", "hello", f"--config={config}", f"--server-url={server.url}")
        assert (done.code, done.out) == (1, "half\n")
        assert done.err == "error: the generation was stopped on the server before its end; run the command again\n"

    def test_a_lost_connection_is_one_line(
        self, folder: Path, config: Path, gateway: GatewayThread, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="hang", after=2)
        with Program("generate", "hello", f"--config={config}", cwd=folder) as program:
            program.wait_for("t001")
            gateway.kill()
            assert program.wait() == 1
        assert program.out == " t000 t001\n"
        assert "[connection_lost]" in program.err
        assert program.err.count("\n") == 1

    def test_an_unknown_model_is_one_line_with_the_next_step(self, run: Run, config: Path) -> None:
        done = run("generate", "hello", f"--config={config}", "--model=nope")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("error: ")
        assert done.err.endswith("[model_not_found]. See which models there are: wsclient models.\n")
        assert done.err.count("\n") == 1

    def test_a_failure_in_the_middle_keeps_the_text_and_ends_its_line(
        self, run: Run, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(mode="drop", after=2)
        done = run("generate", "hello", f"--config={config}")
        assert (done.code, done.out) == (1, " t000 t001\n")
        assert "[generation_incomplete]" in done.err
        assert done.err.count("\n") == 1

    def test_no_gateway_is_one_line_with_the_next_step(self, run: Run, config: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        done = run("generate", "hello", f"--config={config}", f"--server-url=ws://127.0.0.1:{port}")
        assert (done.code, done.out) == (1, "")
        assert "[connection_failed]. Check the server's URL, and that a gateway runs there" in done.err
        assert done.err.count("\n") == 1

    def test_a_revoked_client_is_one_line_with_the_next_step(
        self, run: Run, config: Path, gateway: GatewayThread
    ) -> None:
        run("revoke-client", "--client-id=tester", "--force")
        gateway.gateway.registry.reload_if_changed()
        done = run("generate", "hello", f"--config={config}")
        assert done.code == 1
        assert "[invalid_auth]. Check the client's id and key on the server" in done.err

    def test_a_key_file_that_others_can_write_is_one_line(self, run: Run, config: Path) -> None:
        (config.parent / "tester_key.pem").chmod(0o666)
        done = run("generate", "hello", f"--config={config}")
        assert (done.code, done.out) == (1, "")
        assert "can be written by others" in done.err
        assert done.err.count("\n") == 1

    def test_an_error_of_the_model_server_cannot_talk_to_the_terminal(
        self, run: Run, config: Path, ollama: FakeOllama
    ) -> None:
        ollama.script(status=500, error="\x1b[2Jboom\n\x07")
        done = run("generate", "hello", f"--config={config}")
        assert done.code == 1
        assert "boom" in done.err
        assert not {"\x1b", "\x07"} & set(done.err)
        assert done.err.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments", [("--temperature=-1",), ("--temperature=nan",), ("--top-p=2",), ("--seed=x",), ("--top-k=-1",)]
    )
    def test_a_wrong_option_is_one_line_and_never_reaches_the_model(
        self, run: Run, config: Path, ollama: FakeOllama, arguments: tuple[str, ...]
    ) -> None:
        done = run("generate", "hello", f"--config={config}", *arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.count("\n") == 1
        assert not [request for request in ollama.requests if request.path == "/api/generate"]

    @pytest.mark.parametrize("prompt", ["", " \n"])
    def test_an_empty_prompt_is_wrong_usage(self, run: Run, config: Path, prompt: str) -> None:
        done = run("generate", prompt, f"--config={config}")
        assert (done.code, done.err) == (2, "error: the prompt is empty (see: wsclient generate --help)\n")

    def test_a_prompt_that_is_no_text_is_one_line(self, run: Run, config: Path) -> None:
        done = run("generate", os.fsdecode(b"caf\xe9"), f"--config={config}")
        assert (done.code, done.err) == (1, "error: the prompt must be text in UTF-8; its byte 3 is not\n")

    def test_debug_shows_the_log_but_neither_prompt_nor_text_nor_signature(self, run: Run, config: Path) -> None:
        done = run("--debug", "generate", "a very secret prompt", f"--config={config}")
        assert done.code == 0
        assert "wsclient" in done.err
        assert "secret" not in done.err
        assert "t001" not in done.err


class TestConnecting:
    def test_the_environment_says_how(self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        values = json.loads(config.read_text())
        monkeypatch.setenv("WSCLIENT_SERVER_URL", values["serverUrl"])
        monkeypatch.setenv("WSCLIENT_CLIENT_ID", values["clientId"])
        monkeypatch.setenv("WSCLIENT_PRIVATE_KEY_PATH", values["privateKeyPath"])
        assert run("generate", "hello").code == 0

    def test_the_environment_can_name_the_configuration(
        self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WSCLIENT_CONFIG", str(config))
        assert run("generate", "hello").code == 0

    def test_flags_say_how(self, run: Run, config: Path) -> None:
        values = json.loads(config.read_text())
        flags = [f"--server-url={values['serverUrl']}", f"--client-id={values['clientId']}"]
        assert run("generate", "hello", *flags, f"--key={values['privateKeyPath']}").code == 0

    def test_flags_win_over_the_file_and_the_file_over_the_environment(
        self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = json.loads(config.read_text())["serverUrl"]
        config.write_text(json.dumps(json.loads(config.read_text()) | {"serverUrl": "ws://127.0.0.1:1"}))
        monkeypatch.setenv("WSCLIENT_SERVER_URL", "ws://127.0.0.1:2")
        assert "ws://127.0.0.1:1/" in run("models", f"--config={config}").err
        assert run("models", f"--config={config}", f"--server-url={url}").code == 0

    def test_what_the_file_does_not_say_comes_from_the_environment(
        self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = json.loads(config.read_text())
        key = Path(values["privateKeyPath"])
        save_key_pair(generate_key("ec"), key.parent, "locked", passphrase="sesame")
        monkeypatch.setenv("WSCLIENT_PASSPHRASE", "wrong")
        config.write_text(json.dumps(values | {"privateKeyPath": str(key.with_name("locked_key.pem"))}))
        assert "cannot be decrypted" in run("models", f"--config={config}").err
        monkeypatch.setenv("WSCLIENT_PASSPHRASE", "sesame")
        assert "[invalid_auth]" in run("models", f"--config={config}").err

    def test_the_key_of_the_file_wins_over_one_in_the_environment(
        self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WSCLIENT_PRIVATE_KEY", "not even a key")
        assert run("models", f"--config={config}").code == 0

    def test_a_key_in_the_environment_can_stand_for_the_file(
        self, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = json.loads(config.read_text())
        monkeypatch.setenv("WSCLIENT_PRIVATE_KEY", Path(values["privateKeyPath"]).read_text())
        flags = [f"--server-url={values['serverUrl']}", f"--client-id={values['clientId']}"]
        assert run("models", *flags).code == 0

    def test_nothing_said_is_one_line_that_names_the_file_there_is(self, run: Run, config: Path) -> None:
        done = run("models")
        assert (done.code, done.out) == (2, "")
        assert done.err == (
            "error: how to connect? --server-url, --client-id, --key missing; "
            "give --config=keys/tester_config.json (see: wsclient models --help)\n"
        )

    def test_a_template_is_one_line_that_says_to_register(self, run: Run) -> None:
        run("generate-keys", "--name=x", "--type=ec", "--create-config")
        done = run("models", "--config=keys/x_config.json")
        assert done.code == 2
        assert "keys/x_config.json has no clientId; register the client with: wsclient register-client" in done.err

    @pytest.mark.parametrize(
        ("content", "says"),
        [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "must hold a JSON object"), ("{}", "lacks serverUrl")],
    )
    def test_a_file_that_is_no_configuration_is_one_line(
        self, run: Run, folder: Path, content: str | None, says: str
    ) -> None:
        if content is not None:
            (folder / "x.json").write_text(content)
        done = run("models", "--config=x.json")
        assert (done.code, done.out) == (2, "")
        assert "x.json" in done.err
        assert says in done.err
        assert done.err.count("\n") == 1

    def test_an_unencrypted_line_to_another_machine_wants_a_flag(self, run: Run, config: Path) -> None:
        arguments = ("models", f"--config={config}", "--server-url=ws://gateway.invalid:9")
        refused = run(*arguments)
        assert refused.code == 2
        assert "is not encrypted; use wss://, or --allow-insecure" in refused.err
        assert "[connection_failed]" in run(*arguments, "--allow-insecure").err


class TestModels:
    def test_the_table_has_a_line_a_model(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        ollama.models = [FakeModel(name="llama3.2:latest", size=2_019_393_189, parameter_size="3.2B")]
        done = run("models", f"--config={config}")
        assert done.code == 0
        assert [line.split() for line in done.out.splitlines()] == [
            ["Name", "Size", "Family", "Parameters", "Quantisation"],
            ["llama3.2:latest", "2.0", "GB", "llama", "3.2B", "Q4_0"],
        ]

    def test_json_has_every_field(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        ollama.models = [FakeModel(name="tiny:1b", size=7, digest="abc", modified_at="then")]
        assert json.loads(run("models", "--json", f"--config={config}").out) == [
            {
                "name": "tiny:1b",
                "size": 7,
                "digest": "abc",
                "modified_at": "then",
                "family": "llama",
                "parameter_size": "7B",
                "quantization_level": "Q4_0",
                "format": "gguf",
            }
        ]

    def test_no_models_is_no_error_and_says_what_to_do(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        ollama.models = []
        done = run("models", f"--config={config}")
        assert (done.code, done.out) == (0, "")
        assert "ollama pull" in done.err

    def test_a_model_server_that_fails_is_one_line(self, run: Run, config: Path, ollama: FakeOllama) -> None:
        ollama.fail("/api/tags", 500, "out of order")
        done = run("models", f"--config={config}")
        assert (done.code, done.out) == (1, "")
        assert "out of order" in done.err
        assert done.err.count("\n") == 1

    @pytest.mark.parametrize(
        ("size", "text"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_951, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (3_826_793_677, "3.8 GB"),
            (5_000_000_000_000_000, "5000 TB"),
        ],
    )
    def test_sizes_are_told_in_powers_of_1000(self, size: int, text: str) -> None:
        assert readable_size(size) == text
