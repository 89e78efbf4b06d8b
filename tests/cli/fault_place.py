"""A place where everything is wrong in its own way: the servers, keys and files that the table of faults needs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import attrs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from wsclient import WSClient, WSClientError
from wsclient.cli.client_config import ClientConfig
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import generate_key, public_pem, save_key_pair
from wsclient.testing.scripted_server import Peer, PeerGone, ScriptedServer, polite

from ..support.asking import TOKEN
from ..support.certificates import make_certificate
from ..support.fake_ollama import FakeOllama
from ..support.waiting import wait_until
from .programs import TIMEOUT, Finished, environment

__all__ = ["DROP_PRIVILEGES", "FULL_DISK", "Fault", "Place", "Running", "open_place"]

# Shell text before the command: as somebody whom permissions hold back, root too; and where `full` is a disk without
# room, which nobody else sees.
_AS_ANYBODY = "setpriv --bounding-set=-dac_override,-dac_read_search -- "
DROP_PRIVILEGES = f'exec {_AS_ANYBODY if os.geteuid() == 0 else ""}"$@"'
_MOUNT_FULL = "mkdir -p full && mount -t tmpfs -o size=4k,nr_inodes=1 none full"
FULL_DISK = f'exec unshare --mount sh -c \'{_MOUNT_FULL} && exec "$@"\' sh "$@"'


@attrs.define
class Running:
    """A `wsclient` that runs.

    Attributes:
        process: the process, its stdout and stderr going to files.
        place: where.
        folder: its working directory.
    """

    process: subprocess.Popen[bytes]
    place: Place
    folder: Path

    @property
    def out(self) -> str:
        """What it has written to stdout so far."""
        return (self.folder / "stdout").read_text(encoding="utf-8")

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait for something to be so; the program must not end before."""
        wait_until(lambda: condition() or self.process.poll() is not None, TIMEOUT)
        assert condition(), f"it ended with {self.process.poll()}"

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


def _nothing(_: Running) -> None:
    """Most faults are there before the program begins."""


@attrs.frozen(kw_only=True)
class Fault:
    """A row of the table.

    Attributes:
        name: what is wrong.
        command: what stands after `wsclient`; `{names}` are the place's.
        line: what stderr says after `error: `, exactly; `...` stands for any text.
        code: the exit code.
        env: variables.
        stdin: what it reads.
        shell: how it is run: shell text in which `"$@"` is the command.
        needs: shell text that must succeed, or the machine cannot have this fault.
        meanwhile: what happens while it runs.
        out: what of an answer it had written before.
    """

    name: str
    command: Sequence[str]
    line: str
    code: int = 1
    env: dict[str, str] = attrs.field(factory=dict)
    stdin: bytes = b""
    shell: str = 'exec "$@"'
    needs: str = ""
    meanwhile: Callable[[Running], None] = _nothing
    out: str = ""


@attrs.frozen
class Place:
    """The place.

    Attributes:
        folder: where everything is.
        names: what commands and lines may mention.
        doomed: a gateway that a fault may kill.
        unanswered: a server that hears a login and never judges it.
    """

    folder: Path
    names: dict[str, str]
    doomed: GatewayThread
    unanswered: ScriptedServer

    def run(self, fault: Fault, number: int) -> Finished:
        """Run a fault's command in a working directory of its own."""
        folder = self.folder / f"run-{number}"
        folder.mkdir()
        (folder / "stdin").write_bytes(fault.stdin)
        command = [sys.executable, "-m", "wsclient", *(self.fill(word) for word in fault.command)]
        env = environment(**{name: self.fill(value) for name, value in fault.env.items()})
        with (
            open(folder / "stdin", "rb") as stdin,
            open(folder / "stdout", "wb") as stdout,
            open(folder / "stderr", "wb") as stderr,
        ):
            process = subprocess.Popen(
                ["sh", "-c", fault.shell, "sh", *command],
                cwd=folder,
                env=env,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            fault.meanwhile(Running(process, self, folder))
            code = process.wait(TIMEOUT)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return Finished(code, *((folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")))

    def can_have(self, fault: Fault) -> bool:
        """Return whether this machine can have a fault."""
        return not fault.needs or subprocess.run(["sh", "-c", fault.needs], cwd=self.folder).returncode == 0

    def fill(self, text: str) -> str:
        """Put the place's names into a text."""
        for name, value in self.names.items():
            text = text.replace(f"{{{name}}}", value)
        return text


# --- what is in it ----------------------------------------------------------------------------------------------------


def _answering(status: str, **headers: str) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.respond(
            status, {"Content-Length": "0", **{name.replace("_", "-"): text for name, text in headers.items()}}
        )

    return script


def _ssh(peer: Peer) -> None:
    peer.read_request()
    peer.send_frame(b"SSH-2.0-OpenSSH_9.6\r\n")
    peer.accept_and_say_nothing()


def _silent(peer: Peer) -> None:
    peer.accept_and_say_nothing()


def _unchallenging(peer: Peer) -> None:
    peer.upgrade()
    peer.accept_and_say_nothing()


def _never_judging(peer: Peer) -> None:
    peer.challenge()
    with suppress(PeerGone):
        peer.receive(60)
        peer.wait_until_gone()


def _garbled(peer: Peer) -> None:
    peer.upgrade()
    peer.send_frame(b"\xff\xff\xff\xff")
    peer.wait_until_gone()


_PLAIN = {
    "unauthorized": _answering("401 Unauthorized"),
    "missing": _answering("404 Not Found"),
    "unavailable": _answering("503 Service Unavailable"),
    "ssh": _ssh,
    "silent": _silent,
    "unchallenging": _unchallenging,
    "garbled": _garbled,
}
_CERTIFICATES: dict[str, tuple[tuple[str, ...], int]] = {
    "elsewhere": (("elsewhere.test",), 1),
    "expired": ((), -1),
    "self_signed": ((), 1),
}


@contextmanager
def open_place(folder: Path) -> Iterator[Place]:
    """Make the place, and stop its servers at the end."""
    with ExitStack() as stack:
        names = {"folder": str(folder), "python": sys.executable}
        key = generate_key("ec")
        paths = save_key_pair(key, folder / "keys", "tester")
        names["key"], names["public"] = str(paths.private), str(paths.public)
        ollama = stack.enter_context(FakeOllama())
        data = folder / "data"
        registry = ClientRegistry(data / "authorized_clients.json")
        names["clients"] = str(registry.path)
        for name in ("tester", "limited"):
            registry.register(name, public_pem(key), is_unique=False)
        _limit(registry)
        revoked = registry.register("revoked", public_pem(key), is_unique=False)
        registry.revoke(revoked.id)
        names["revoked"] = revoked.id

        def serve(**settings: object) -> GatewayThread:
            given: dict[str, object] = {"data_dir": data, "ollama_url": ollama.url, "close_timeout": 0.2} | settings
            return stack.enter_context(GatewayThread(GatewaySettings(port=0, **given)))  # type: ignore[arg-type]

        gateways = {
            "url": serve(admin_token=TOKEN),
            "doomed": serve(),
            "no_models": serve(ollama_url="http://127.0.0.1:1"),
            "tight": serve(max_message_size=8192),
        }
        names |= {name: gateway.url for name, gateway in gateways.items()}
        names |= {
            name: stack.enter_context(ScriptedServer(script, upgrade=False)).url for name, script in _PLAIN.items()
        }
        unanswered = stack.enter_context(ScriptedServer(_never_judging))
        names["unanswered"] = unanswered.url
        names["unjudged"] = stack.enter_context(ScriptedServer(_never_judging)).url
        for name, (hosts, days) in _CERTIFICATES.items():
            (folder / name).mkdir()
            certificate = make_certificate(folder / name, *hosts, days=days)
            server = stack.enter_context(ScriptedServer(polite, tls=certificate.server_context))
            names |= {name: server.url, f"{name}_pem": str(certificate.file)}
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        names["taken"] = str(taken.getsockname()[1])
        with socket.create_server(("127.0.0.1", 0)) as free:
            names["nobody"] = f"ws://127.0.0.1:{free.getsockname()[1]}"
        for client in registry.list():
            names[f"{client.name}_id"] = client.id
            file = folder / "keys" / f"{client.name}_config.json"
            ClientConfig(
                client_id=client.id, name=client.name, private_key=paths.private, server_url=names["url"]
            ).write(file)
            names[client.name] = str(file)
        names["port"] = names["url"].rpartition(":")[2]
        _spoil_keys(folder, names)
        _write_files(folder, names)
        _use_up_logins(names)
        yield Place(folder, names, gateways["doomed"], unanswered)


def _limit(registry: ClientRegistry) -> None:
    """Let the client `limited` ask once a minute."""
    text = registry.path.read_text(encoding="utf-8")
    limit = '"name": "limited",\n    "limits": {"requestsPerMinute": 1},'
    registry.path.write_text(text.replace('"name": "limited",', limit), encoding="utf-8")


def _spoil_keys(folder: Path, names: dict[str, str]) -> None:
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    good = Path(names["key"]).read_bytes()
    contents = {
        "others_key": good,
        "small_key": rsa.generate_private_key(65537, 1024).private_bytes(*private),
        "ed_key": ed25519.Ed25519PrivateKey.generate().private_bytes(*private),
        "garbage_key": b"garbage\n",
        "public_half": Path(names["public"]).read_bytes(),
        "unreadable_key": good,
    }
    for name, content in contents.items():
        file = folder / "keys" / f"{name}.pem"
        file.touch(mode=0o600)
        file.write_bytes(content)
        names[name] = str(file)
    Path(names["others_key"]).chmod(0o666)
    Path(names["unreadable_key"]).chmod(0)
    wrong = save_key_pair(generate_key("ec"), folder / "keys", "wrong")
    names["wrong_key"], names["wrong_public"] = str(wrong.private), str(wrong.public)
    names["locked_key"] = str(save_key_pair(generate_key("ec"), folder / "keys", "locked", "sesame").private)


def _write_files(folder: Path, names: dict[str, str]) -> None:
    for name, content in {"broken": "{", "template": '{"clientId": "", "serverUrl": "ws://localhost"}'}.items():
        file = folder / f"{name}.json"
        file.write_text(content)
        names[name] = str(file)
    locked = folder / "read-only"
    locked.mkdir()
    (locked / "clients.json").write_bytes(Path(names["clients"]).read_bytes())
    locked.chmod(0o555)
    names["read_only"] = str(locked)


def _use_up_logins(names: dict[str, str]) -> None:
    """Fail to log in until the gateway has the client `blocked` wait."""
    for _ in range(5):
        client = WSClient(names["url"], client_id="blocked", private_key_path=names["key"], auto_reconnect=False)
        with suppress(WSClientError):
            client.connect()
        client.close()
