"""A real TCP server on loopback whose WebSocket conversations are written by the test.

A script is a function that takes a `Peer`, one accepted connection, and says and hears what the test wants:

    def script(peer: Peer) -> None:
        peer.login()
        request = peer.receive()
        peer.send({"type": "models_result", "id": request["id"], "models": []})
        peer.wait_until_gone()

    with ScriptedServer(script) as server:
        WSClient(server.url, ...)

Each connection runs the script in a thread of its own; with several scripts the first connection gets the first one,
the second the second, and all others the last. `polite` is a script that answers everything as a gateway would. A
script may end at any time: the connection is then closed. What a script raises is raised again when the server stops,
except `PeerGone`, which only says that the client hung up.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import secrets
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeAlias

from wsclient.core.auth import Key, verify_signature
from wsclient.core.frames import CLOSE, TEXT, CloseFrame, ControlFrame, FrameParser, close_payload, encode_frame

__all__ = ["Peer", "PeerGone", "Script", "ScriptedServer", "polite"]

# A script that waits longer than this for anything waits in vain; far above what a loaded machine needs.
PATIENCE = 10.0
_CHUNK = 256 * 1024
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_MIB = 1 << 20


class PeerGone(Exception):
    """The client hung up, or the server was stopped."""


Script: TypeAlias = Callable[["Peer"], None]


class Peer:
    """One connection of a client, seen from the server; made by `ScriptedServer`.

    Attributes:
        server: the server.
        number: which connection of the server this is, from 0.
        request: the upgrade request's lines, once it came.
        received: every message that was received, login included.
        controls: pings and pongs of the client, in order.
        closed: the client's close frame, once it came.
        socket: for whatever is not foreseen here.
    """

    def __init__(self, server: ScriptedServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.number = number
        self.request: list[str] = []
        self.received: list[dict[str, Any]] = []
        self.controls: list[ControlFrame] = []
        self.closed: CloseFrame | None = None
        self.socket = sock
        # Two threads in one TLS socket at once corrupt it, so it is non-blocking and each call holds the lock.
        sock.setblocking(False)
        self._io_lock = threading.Lock()
        self._parser = FrameParser(masked=True, max_message_size=256 * _MIB)
        self._texts: list[bytes] = []
        # Several threads of a script may send.
        self._send_lock = threading.Lock()

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    def read_request(self) -> list[str]:
        """Read the upgrade request and return its lines."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            # One byte at a time: nothing of the frames after it is swallowed.
            data += self.receive_bytes(1)
        self.request = data.decode().split("\r\n")[:-2]
        return self.request

    def header(self, name: str) -> str | None:
        """Return a header of the upgrade request, `None` when it is not there."""
        for line in self.request[1:]:
            key, _, value = line.partition(":")
            if key.strip().lower() == name.lower():
                return value.strip()
        return None

    def upgrade(self) -> None:
        """Read the upgrade request and accept it."""
        self.read_request()
        key = self.header("Sec-WebSocket-Key") or ""
        accept = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.respond(
            "101 Switching Protocols",
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Accept": base64.b64encode(accept).decode(),
            },
        )

    def respond(self, status: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Answer the upgrade request with a status like `"404 Not Found"`."""
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in (headers or {}).items()), "", ""]
        self.send_frame("\r\n".join(lines).encode() + body)

    # --- the protocol -------------------------------------------------------------------------------------------------

    def challenge(self) -> str:
        """Send a challenge and return it."""
        challenge = secrets.token_hex(32)
        self.send({"type": "challenge", "challenge": challenge, "timestamp": timestamp()})
        return challenge

    def login(self, **verdict: Any) -> dict[str, Any]:
        """Take the client through its login and return its authenticate message.

        Args:
            **verdict: fields of the `auth_result`; left out, the login succeeds if the signature is the key's that
                the server was made with, or any when it was made without.
        """
        challenge = self.challenge()
        answer = self.receive()
        assert answer["type"] == "authenticate", answer
        if not verdict:
            key = self.server.key
            is_right = key is None or verify_signature(key, challenge, answer["signature"], "SHA256")
            verdict = {"success": True} if is_right else {"success": False, "error": "Invalid signature"}
        self.send({"type": "auth_result", **verdict, "timestamp": timestamp()})
        return answer

    def receive(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Return the next message.

        Raises:
            PeerGone: the client closed or hung up.
            TimeoutError: nothing came.
        """
        deadline = time.monotonic() + timeout
        while not self._texts:
            if self._parser.is_done:
                assert self._parser.violation is None, self._parser.violation
                raise PeerGone(f"the client closed with {self.closed}")
            self._texts += self._parser.feed(self.receive_bytes(65536, deadline))
            self.controls += self._parser.controls
            self._parser.controls.clear()
            self.closed = self._parser.close
        message: dict[str, Any] = json.loads(self._texts.pop(0))
        self.received.append(message)
        return message

    def expect(self, type: str, **fields: Any) -> dict[str, Any]:
        """Return the next message, which must be of this type and have these fields."""
        message = self.receive()
        assert message["type"] == type, message
        assert fields.items() <= message.items(), message
        return message

    def send(self, message: dict[str, Any] | str) -> None:
        """Send a message, or any text."""
        self.send_all([message])

    def send_all(self, messages: Iterable[dict[str, Any] | str]) -> None:
        """Send several messages in one write."""
        texts = (message if isinstance(message, str) else json.dumps(message) for message in messages)
        self.send_frame(b"".join(encode_frame(TEXT, text.encode()) for text in texts))

    def send_frame(self, data: bytes) -> None:
        """Send bytes as they are: a frame of your own making, several, half of one, or anything else."""
        with self._send_lock:
            try:
                self._send_bytes(data)
            except (OSError, ValueError) as error:
                raise PeerGone("the client hung up") from error

    def receive_bytes(self, size: int = 65536, deadline: float | None = None) -> bytes:
        """Return bytes as they come, past all framing; `deadline` is a monotonic time.

        Raises:
            PeerGone: the client hung up.
            TimeoutError: nothing came.
        """
        deadline = time.monotonic() + PATIENCE if deadline is None else deadline
        while True:
            try:
                with self._io_lock:
                    data: bytes = self.socket.recv(size)
            except _NOT_NOW:
                self._wait(select.POLLIN, deadline)
            except (OSError, ValueError) as error:
                raise PeerGone("the connection broke") from error
            else:
                if not data:
                    raise PeerGone("the client hung up")
                return data

    def _send_bytes(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                with self._io_lock:
                    rest = rest[self.socket.send(rest[:_CHUNK]) :]
            except _NOT_NOW:
                self._wait(select.POLLOUT, math.inf)

    def _wait(self, event: int, deadline: float) -> None:
        # In short turns: a socket that this end closes does not wake a poll().
        poll = select.poll()
        try:
            poll.register(self.socket, event)
        except ValueError:
            raise PeerGone("the connection was closed") from None
        while not poll.poll(50):
            if time.monotonic() >= deadline:
                raise TimeoutError("the client says nothing")
            if self.socket.fileno() < 0:
                raise PeerGone("the connection was closed")

    # --- ends ---------------------------------------------------------------------------------------------------------

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame and wait for the client's half; the connection is closed then."""
        self.send_frame(encode_frame(CLOSE, close_payload(code, reason)))
        self.wait_until_gone()

    def drop(self, *, reset: bool = False) -> None:
        """Cut the connection without a word, with FIN or with RST."""
        with contextlib.suppress(OSError):
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                # The plain one, on TLS too: it is cut without a word.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        self.socket.close()

    def accept_and_say_nothing(self) -> None:
        """Read what comes without answering, until the client hangs up."""
        with contextlib.suppress(PeerGone):
            while True:
                self.receive_bytes(65536, time.monotonic() + 3600)

    def wait_until_gone(self) -> CloseFrame | None:
        """Read until the client closes or hangs up; return its close frame, if it sent one."""
        with contextlib.suppress(PeerGone):
            while True:
                self.receive(3600)
        return self.closed


class ScriptedServer:
    """Listens on loopback and runs scripts; a context manager.

    Args:
        *scripts: what happens on the first connection, the second and so on; the last one repeats.
        key: the registered key, whose signatures `login` accepts; any signature when left out.
        tls: what to serve TLS with; plain when left out.
        upgrade: whether the upgrade is done before a script begins; without it a script does what it likes.
        port: where to listen; a free port when left out, an earlier server's to be that server's restart.
        host: another address of loopback than the usual one.

    Attributes:
        url: where clients connect.
        peers: all connections so far, in order.
        key: see above.
    """

    def __init__(
        self,
        *scripts: Script,
        key: Key | None = None,
        tls: ssl.SSLContext | None = None,
        upgrade: bool = True,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.key = key
        self.peers: list[Peer] = []
        self._scripts = scripts
        self._tls = tls
        self._upgrades = upgrade
        self._is_stopping = threading.Event()
        self._faults: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self.sockets: list[socket.socket] = []
        self._listener = socket.create_server((host, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'wss' if tls else 'ws'}://{host}:{self.port}"
        self._start(self._accept, "scripted-server-accept")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        faults = self.stop()
        # A failing test says more than the script that it left hanging.
        if faults and kind is None:
            raise faults[0]

    def stop(self) -> list[BaseException]:
        """Stop listening, cut every connection, wait for the scripts; return what they raised. Idempotent."""
        self._is_stopping.set()
        for sock in (self._listener, *self.sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                self._faults.append(TimeoutError(f"{thread.name} does not end: its script hangs"))
        for sock in (self._listener, *self.sockets):
            sock.close()
        return self._faults

    def stop_listening(self) -> None:
        """Refuse new connections; those that are there go on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, target: Callable[..., None], name: str, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.append(sock)
            if self._is_stopping.is_set():
                return
            self._start(self._serve, f"scripted-server-{len(self.sockets)}", sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock.settimeout(PATIENCE)
                sock = self._tls.wrap_socket(sock, server_side=True)
                self.sockets.append(sock)
        except (OSError, ValueError):
            sock.close()
            return
        peer = Peer(self, sock, len(self.peers))
        self.peers.append(peer)
        try:
            if self._upgrades:
                peer.upgrade()
            self._scripts[min(peer.number, len(self._scripts) - 1)](peer)
        except PeerGone:
            pass
        except BaseException as error:
            if not self._is_stopping.is_set():
                self._faults.append(error)
        finally:
            peer.drop()


def polite(peer: Peer) -> None:
    """Answer everything as a gateway would, until the client hangs up; the scripts that only need a server use it.

    The prompt says what is generated: `"a b c"` the three tokens `a`, ` b`, ` c`; `"endless"` tokens until a stop,
    `"silence"` a start and nothing more, `"fail"` one token and then an error.
    """
    peer.login()
    running: dict[str, threading.Event] = {}
    while True:
        _answer(peer, peer.receive(3600), running)


def _answer(peer: Peer, message: dict[str, Any], running: dict[str, threading.Event]) -> None:
    id = message.get("id")
    if message["type"] == "models":
        peer.send({"id": id, "type": "models_result", "models": [{"name": "llama2:latest"}], "timestamp": timestamp()})
    elif message["type"] == "ping":
        peer.send({"id": id, "type": "pong", "timestamp": timestamp()})
    elif message["type"] == "generate":
        _generate(peer, message, running)
    elif message["type"] == "stop" and message["requestId"] in running:
        target = message["requestId"]
        running.pop(target).set()
        peer.send({"id": id, "type": "ack", "requestId": target, "action": "stop", "timestamp": timestamp()})
        peer.send({"id": target, "type": "stream_end", "isCancelled": True, "timestamp": timestamp()})
    elif message["type"] == "stop":
        peer.send({"id": id, "type": "error", "error": "No active generation with that ID", "timestamp": timestamp()})
    elif message["type"] == "batch":
        for item in message["messages"]:
            _answer(peer, item, running)
    else:
        peer.send({"type": "error", "error": f"Unsupported message type: {message['type']}"})


def _generate(peer: Peer, message: dict[str, Any], running: dict[str, threading.Event]) -> None:
    id, prompt = message["id"], message["prompt"]
    start = {"id": id, "type": "stream_start", "model": message.get("model", "llama2"), "timestamp": timestamp()}
    if prompt in ("endless", "silence"):
        peer.send(start)
        running[id] = threading.Event()
        if prompt == "endless":
            threading.Thread(target=_chatter, args=(peer, id, running[id]), daemon=True).start()
    elif prompt == "fail":
        error = {"id": id, "type": "error", "error": "Generation failed: no luck", "code": "generation_error"}
        peer.send_all([start, {"id": id, "type": "stream_token", "token": "so far"}, error])
    else:
        words = prompt.split(" ")
        tokens = [word if index == 0 else f" {word}" for index, word in enumerate(words)]
        end = {"id": id, "type": "stream_end", "totalTokens": len(tokens), "elapsedTime": 18, "timestamp": timestamp()}
        peer.send_all([start, *({"id": id, "type": "stream_token", "token": token} for token in tokens), end])


def _chatter(peer: Peer, id: str, is_stopped: threading.Event) -> None:
    count = 0
    with contextlib.suppress(PeerGone):
        while not is_stopped.wait(0.001):
            peer.send({"id": id, "type": "stream_token", "token": f"{count} "})
            count += 1


def timestamp() -> int:
    """Return the wire's timestamp: epoch milliseconds."""
    return time.time_ns() // 1_000_000
