"""Every broken rule of RFC 6455, and thousands of mutated streams, against a gateway in a process of its own.

Each ends the connection that it came on, with the right code; a client that streams meanwhile misses nothing, and the
gateway needs no more memory after it than before.
"""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from Crypto.PublicKey.RSA import RsaKey

from wsclient.core.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

from ..core.streams import frame, mixed_stream
from ..core.test_frames_model import mutated, reference
from ..support.gateway_peers import RawPeer
from .conftest import MakeClient, StartProcess
from .gateway_process import GatewayProcess
from .witness import Witness

LIMIT = 8192
BEFORE_LOGIN = 4
# Memory that one generation, or the allocator's whim, may take for a while.
SPARE_BYTES = 12 << 20


def masked(opcode: int, payload: bytes = b"", **wrong: int | bool | None) -> bytes:
    return frame(opcode, payload, masked=True, **wrong)  # type: ignore[arg-type]


def close_of(code: int, reason: bytes = b"") -> bytes:
    return masked(CLOSE, code.to_bytes(2, "big") + reason)


GOODBYE = close_of(1000)

# By RFC 6455 section: how a stream breaks it, and the code that answers it.
FAULTS: dict[str, tuple[bytes, int]] = {
    "5.1 a frame without a mask": (frame(TEXT, b"{}", masked=False), 1002),
    "5.1 a ping without a mask": (frame(PING, b"", masked=False), 1002),
    **{f"5.2 reserved bit {bit}": (masked(TEXT, b"{}", reserved=bit), 1002) for bit in (1, 2, 4, 7)},
    "5.2 a reserved bit of a ping": (masked(PING, reserved=4), 1002),
    **{f"5.2 opcode {opcode}": (masked(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "5.2 16 bits for a length of 125": (masked(TEXT, b"x" * 125, width=16), 1002),
    "5.2 64 bits for a length of 200": (masked(TEXT, b"x" * 200, width=64), 1002),
    "5.2 64 bits for a length of 65535": (masked(TEXT, width=64, claimed=65535), 1002),
    "5.2 a negative length": (masked(TEXT, claimed=1 << 63), 1002),
    "5.2 a length of minus one": (masked(TEXT, claimed=(1 << 64) - 1), 1002),
    "5.4 a continuation of nothing": (masked(CONTINUATION, b"x"), 1002),
    "5.4 a continuation after the end": (masked(TEXT, b"5") + masked(CONTINUATION, b"x"), 1002),
    "5.4 a message inside a message": (masked(TEXT, b"5", fin=False) + masked(TEXT, b"6"), 1002),
    "5.5 a ping in fragments": (masked(PING, fin=False), 1002),
    "5.5 a close in fragments": (masked(CLOSE, b"\x03\xe8", fin=False), 1002),
    "5.5 a ping of 126 bytes": (masked(PING, b"x" * 126), 1002),
    "5.5 a pong of 126 bytes": (masked(PONG, b"x" * 126), 1002),
    "5.5 a close of 126 bytes": (close_of(1000, b"x" * 124), 1002),
    "5.5.1 a close of one byte": (masked(CLOSE, b"\x03"), 1002),
    "5.6 a binary message": (masked(BINARY, b"{}"), 1003),
    "5.6 a binary message in fragments": (masked(BINARY, b"{}", fin=False), 1003),
    **{f"7.4 close code {code}": (close_of(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000)},
    "8.1 a byte that is no UTF-8": (masked(TEXT, b'"\xff"'), 1007),
    "8.1 half a character": (masked(TEXT, b'"\xe2\x82'), 1007),
    "8.1 a surrogate": (masked(TEXT, b'"\xed\xa0\x80"'), 1007),
    "8.1 an overlong form": (masked(TEXT, b'"\xc0\xaf"'), 1007),
    "8.1 half a character in fragments": (masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION, b"\x82"), 1007),
    "8.1 a reason that is no UTF-8": (close_of(1000, b"\xff"), 1007),
    "7.4.1 a message over the limit": (masked(TEXT, b"x" * (LIMIT + 1)), 1009),
    "7.4.1 a length of a terabyte": (masked(TEXT, claimed=1 << 40), 1009),
    "7.4.1 fragments over the limit": (masked(TEXT, b"x" * LIMIT, fin=False) + masked(CONTINUATION, b"x"), 1009),
    "a flood of pings": (masked(PING) * 2000, 1008),
    "a flood of pongs": (masked(PONG, b"x" * 125) * 2000, 1008),
    "a flood of empty fragments": (masked(TEXT, fin=False) + masked(CONTINUATION, fin=False) * 2000, 1008),
}


def text(**message: object) -> bytes:
    return masked(TEXT, json.dumps(message).encode())


SEEDS = [
    mixed_stream(masked=True),
    text(type="ping", id="p") + masked(PING, b"x"),
    text(type="generate", id="g", prompt="hello", options={"max_tokens": 3}) + text(type="stop", requestId="g"),
    text(type="batch", messages=[{"type": "models", "id": 1}, {"type": "ping", "id": 2}]),
    masked(TEXT, b'{"type":"pi', fin=False) + masked(PONG) + masked(CONTINUATION, b'ng","id":"\xc3\xa9"}'),
    masked(PING, b"x") + close_of(4000, b"no"),
]


def codes_of(gateway: GatewayProcess, stream: bytes, login: tuple[str, RsaKey] | None) -> int:
    with RawPeer(gateway.url) as peer:
        if login is not None:
            peer.log_in(*login)
        peer.socket.sendall(stream)
        return peer.read_to_end()


def verdict(stream: bytes, is_logged_in: bool) -> int | None:
    """Return the code that a stream must end with, by the slow and simple parser; `None` when it does not end."""
    out = reference(stream, True, LIMIT)
    if not is_logged_in and len(out.texts) > BEFORE_LOGIN:
        return 1008
    return out.violation if out.violation is not None else out.close.code if out.close is not None else None


def next_stream(dice: random.Random, is_logged_in: bool) -> tuple[bytes, int | None, int]:
    """Return mutations up to the one that ends the connection, the code of that, and how many they are."""
    stream = b""
    for count in range(1, 7):
        stream += mutated(dice.choice(SEEDS), dice)
        code = verdict(stream, is_logged_in)
        if code is not None:
            return stream, code, count
        if dice.random() < 0.3:
            break
    # Not ended by any of them: then by the goodbye, unless a frame is open that swallows it.
    stream += GOODBYE
    return stream, verdict(stream, is_logged_in), count


def mutate(gateway: GatewayProcess, login: tuple[str, RsaKey], times: int, dice: random.Random) -> Counter[int]:
    """Send so many mutated streams and check each connection's end; return the codes."""
    codes: Counter[int] = Counter()
    done = 0
    while done < times:
        is_logged_in = dice.random() < 0.4
        stream, code, count = next_stream(dice, is_logged_in)
        done += count
        if code is None:
            with RawPeer(gateway.url) as peer:
                peer.socket.sendall(stream)
            continue
        assert codes_of(gateway, stream, login if is_logged_in else None) == code, stream.hex()
        codes[code] += 1
    return codes


@pytest.fixture
def gateway(start_process: StartProcess) -> GatewayProcess:
    """A gateway with the built-in model and small messages."""
    return start_process("--backend=builtin", "--log-level=error", f"--max-message-size={LIMIT}")


def test_every_fault_ends_its_connection_with_its_code_and_a_witness_misses_nothing(
    gateway: GatewayProcess, make_client: MakeClient, client_id: str, rsa_key: RsaKey
) -> None:
    with Witness(make_client(gateway.url)) as witness:
        for login in (None, (client_id, rsa_key)):
            got = {name: codes_of(gateway, stream, login) for name, (stream, _) in FAULTS.items()}
            assert got == {name: code for name, (_, code) in FAULTS.items()}
    assert witness.texts >= 2


def test_hundreds_of_mutations_end_as_the_reference_says(
    gateway: GatewayProcess, make_client: MakeClient, client_id: str, rsa_key: RsaKey
) -> None:
    with Witness(make_client(gateway.url)):
        mutate(gateway, (client_id, rsa_key), 500, random.Random(6455))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_20000_mutations_end_as_the_reference_says_and_cost_no_memory(
    gateway: GatewayProcess, make_client: MakeClient, client_id: str, rsa_key: RsaKey
) -> None:
    dice = random.Random(20_000)
    with Witness(make_client(gateway.url)) as witness:
        codes = mutate(gateway, (client_id, rsa_key), 2_000, dice)
        before = gateway.resident_bytes
        codes += mutate(gateway, (client_id, rsa_key), 20_000, dice)
        assert gateway.resident_bytes - before < SPARE_BYTES
    # The mutations reach every verdict; else this test would prove little.
    assert {1000, 1002, 1003, 1007, 1008, 1009, 4000} <= set(codes)
    assert witness.texts >= 20
    # Half a second when the machine is busy; nobody holds the gateway up.
    assert witness.longest < 10
