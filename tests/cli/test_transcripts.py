"""What users see of the managing commands: transcripts at a terminal and in a pipe.

Takes 17 s, and 15 s more for what is slow: the terminal of 120 columns, and asking a gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from wsclient.cli.program import program
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import generate_key, public_pem, save_key_pair

from ..support.asking import TOKEN
from ..support.client_files import new_pem
from ..support.fake_ollama import FakeOllama
from ..support.gateway_peers import Peer
from ..support.redis_server import RedisServer
from .golden import Transcript
from .test_rotate_command import make_client


@pytest.fixture
def alice(folder: Path) -> str:
    """The id of a client that is registered, with its key and its configuration in the usual places."""
    return make_client(folder, "alice")


@pytest.fixture
def administered(folder: Path, ollama: FakeOllama) -> Iterator[GatewayThread]:
    """A gateway with an administrator, whose token is in the file `admin-token`."""
    (folder / "admin-token").write_text(TOKEN)
    (folder / "admin-token").chmod(0o600)
    settings = GatewaySettings(
        port=0, data_dir=folder / "data", ollama_url=ollama.url, admin_token=TOKEN, close_timeout=0.2
    )
    with GatewayThread(settings) as thread:
        yield thread


@pytest.fixture
def registry(folder: Path) -> ClientRegistry:
    """The clients file."""
    return ClientRegistry(folder / "data" / "authorized_clients.json")


def test_transcript_of_generate_keys(transcript: Transcript) -> None:
    transcript.run("generate-keys", "--name=alice", "--key-size=2048")
    transcript.run("generate-keys", "--name=bob", "--type=ec", "--create-config")
    transcript.run("generate-keys", "--name=bob")
    typed = [("Passphrase", "correct horse\n"), ("again", "correct horse\n")]
    transcript.run("generate-keys", "--name=carol", "--type=ec", "--passphrase", answers=typed)
    transcript.check("generate-keys")


def test_transcript_of_register_client(transcript: Transcript, folder: Path) -> None:
    save_key_pair(generate_key("ec"), folder / "keys", "alice")
    register = ("register-client", "--name=alice", "--key-path=keys/alice_key.pub")
    transcript.run(*register)
    transcript.run(*register, answers=[("[y/N]", "n\n")])
    transcript.run(*register, "--yes")
    transcript.check("register-client")


@pytest.mark.slow
def test_transcript_of_register_client_online(
    transcript: Transcript, administered: GatewayThread, folder: Path
) -> None:
    save_key_pair(generate_key("ec"), folder / "keys", "alice")
    register = ("register-client", "--online", f"--server-url={administered.url}", "--name=alice")
    register = (*register, "--key-path=keys/alice_key.pub")
    transcript.run(*register, "--admin-token-file=admin-token")
    transcript.run(*register, "--admin-token-file=admin-token", answers=[("[y/N]", "y\n")])
    transcript.check("register-client-online")


def test_transcript_of_list_clients(transcript: Transcript, registry: ClientRegistry) -> None:
    transcript.run("list-clients")
    for name in ("alice", "a client with a rather long name"):
        registry.register(name, new_pem())
    registry.rotate("alice", new_pem())
    transcript.run("list-clients")
    transcript.run("list-clients", "--detailed")
    transcript.check("list-clients")


def test_transcript_of_revoke_client(transcript: Transcript, registry: ClientRegistry) -> None:
    ids = [registry.register(name, new_pem()).id for name in ("alice", "bob")]
    transcript.varying["start"] = rf"(?<=revoke-client ){ids[1][:8]}(?= )"
    transcript.run("revoke-client", "alice", answers=[("[y/N]", "y\n")])
    transcript.run("revoke-client", ids[1][:8], "--yes")
    transcript.check("revoke-client")


def test_transcript_of_rotate_key(transcript: Transcript, alice: str) -> None:
    transcript.run("rotate-key", "alice")
    transcript.run("rotate-key", "alice", answers=[("[y/N]", "n\n")])
    transcript.check("rotate-key")


def test_transcript_of_store_copy(transcript: Transcript, registry: ClientRegistry, redis_server: RedisServer) -> None:
    for name in ("alice", "bob"):
        registry.register(name, new_pem())
    copy = ("store", "copy", "data/authorized_clients.json", redis_server.url)
    transcript.run(*copy)
    transcript.run(*copy)
    transcript.run("list-clients", f"--store={redis_server.url}")
    transcript.check("store-copy")


@pytest.mark.slow
def test_transcript_of_rotate_key_online(
    transcript: Transcript, alice: str, administered: GatewayThread, registry: ClientRegistry, folder: Path
) -> None:
    rotate = ("rotate-key", "--online", f"--server-url={administered.url}", "--admin-token-file=admin-token", "alice")
    transcript.run(*rotate)
    (folder / "sent_key.pub").write_text(new_pem())
    transcript.run(*rotate, "--key-path=sent_key.pub", answers=[("[y/N]", "y\n")])
    transcript.check("rotate-key-online")


def test_transcript_of_status(transcript: Transcript, administered: GatewayThread, folder: Path) -> None:
    key = generate_key("ec")
    client_id = ClientRegistry(folder / "data" / "authorized_clients.json").register("alice", public_pem(key)).id
    transcript.varying |= {"python!": r"(?<=Python )3\.[\d.]+", "up!": r"(?<=up for       )\d+ s"}
    server = f"--server-url={administered.url}"
    with Peer(administered.url) as peer:
        peer.log_in(client_id, key)
        transcript.run("status", server)
        transcript.run("status", server, "--admin-token-file=admin-token")
    transcript.run("status", "--server-url=ws://127.0.0.1:1")
    transcript.check("status")


def test_transcript_of_serve(transcript: Transcript) -> None:
    transcript.varying["pid!"] = r"(?<=kill )\d+"
    transcript.run("serve", "--backend=builtin", "--port=0", "--log-level=error", interrupted_at="Nobody can log in")
    transcript.check("serve")


def test_transcript_of_demo(transcript: Transcript, ollama: FakeOllama) -> None:
    transcript.env["OLLAMA_HOST"] = ollama.url
    transcript.varying |= {"n!": r"(?<=after )[\d,.]+ m?s|[\d,.]+(?= tokens/s)"}
    transcript.run("demo", "Hello")
    transcript.check("demo")


def test_transcript_of_completion(transcript: Transcript) -> None:
    transcript.run("completion", "tcsh")
    transcript.check("completion")


def test_no_transcript_is_kept_that_nobody_compares() -> None:
    names = {path.name.split(".")[0] for path in (Path(__file__).with_name("transcripts")).iterdir()}
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in sorted(names) if f'check("{name}")' not in sources] == []


@pytest.mark.parametrize("name", sorted({*program.commands, "store-copy"} - {"store"}))
def test_each_command_has_its_transcripts(name: str) -> None:
    kept = {path.name for path in Path(__file__).with_name("transcripts").iterdir()}
    assert {f"{name}.{place}.txt" for place in ("80", "120", "pipe")} <= kept
