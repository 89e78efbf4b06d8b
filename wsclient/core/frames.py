"""WebSocket frames (RFC 6455 section 5) cut out of a byte stream in bulk, for both ends of a connection.

`FrameParser.feed` takes whatever one read of the socket gave and returns all text messages that are complete now, in
order. Client mode expects unmasked frames, server mode masked ones. Nothing here raises: a peer that breaks the rules
is described in `violation`, with the close code to answer it, and the messages before that are still returned.
"""

from __future__ import annotations

import attrs

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "CloseFrame",
    "ControlFrame",
    "FrameParser",
    "Violation",
    "close_payload",
    "encode_frame",
    "encode_texts",
    "mask_payload",
]

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_FINAL_TEXT = 0x80 | TEXT
_MASKED = 0x80
_MAX_CONTROL_PAYLOAD = 125
_LARGE = 64 * 1024
# A fragment below this costs more than its bytes.
_SMALL_FRAGMENT = 1024

# RFC 6455 section 7.4: 1004 to 1006 and 1015 are never sent, 1016 to 2999 are not assigned.
_SENDABLE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


@attrs.frozen(slots=True)
class ControlFrame:
    """A ping or pong from the peer; `opcode` is `PING` or `PONG`."""

    opcode: int
    payload: bytes


@attrs.frozen(slots=True)
class CloseFrame:
    """The peer's close frame; `code` is 1005 when it carried none (RFC 6455 section 7.1.5)."""

    code: int
    reason: str


@attrs.frozen(slots=True)
class Violation:
    """How the peer broke RFC 6455, and the close code that answers it."""

    code: int
    reason: str


class FrameParser:
    """Cut one connection's incoming bytes into text messages.

    Args:
        masked: `True` on the server, whose peers must mask every frame; `False` on the client, whose peer must not
            (RFC 6455 section 5.1).
        max_message_size: bytes that one message may have, all its fragments together.

    Attributes:
        small_frames_left: how many pings, pongs and small fragments the peer may still send, of which one read can hold
            thousands; `None` for any number. The caller refills it.
        controls: pings and pongs that came in, in order; the caller takes them out.
        close: the peer's close frame, once there; nothing after it is parsed.
        violation: how the peer broke the rules, once it did; nothing after it is parsed.
    """

    __slots__ = (
        "_control_places",
        "_fragments",
        "_masked",
        "_missing",
        "_partial",
        "_tail",
        "close",
        "controls",
        "max_message_size",
        "small_frames_left",
        "violation",
    )

    def __init__(self, *, masked: bool, max_message_size: int) -> None:
        self._masked = masked
        self.max_message_size = max_message_size
        self.small_frames_left: int | None = None
        self.controls: list[ControlFrame] = []
        self.close: CloseFrame | None = None
        self.violation: Violation | None = None
        # What the last read left over: `_tail` is the start of a frame whose header is incomplete; `_partial` is a
        # frame whose payload still misses `_missing` bytes. It is one growing buffer: appending to a bytes object
        # took 7.9 s for a 16 MiB message at 16 KiB a read, this takes 30 ms, and a list of chunks would let a peer
        # that trickles two bytes a read cost 23 times what it sent.
        self._tail = b""
        self._partial = bytearray()
        self._missing = 0
        self._fragments: bytearray | None = None
        # How many texts of this read came before each of its control frames.
        self._control_places: list[int] = []

    @property
    def is_done(self) -> bool:
        """Whether nothing more will be parsed: the peer closed, or broke the rules."""
        return self.close is not None or self.violation is not None

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream.

        Args:
            data: what one read of the socket gave; any cut position is fine.

        Returns:
            The payloads of all text messages complete now, in order, each valid UTF-8.
        """
        if self.is_done:
            return []
        if self._missing:
            self._partial += data
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = bytes(self._partial)
            self._partial = bytearray()
            self._missing = 0
        elif self._tail:
            data = self._tail + data
            self._tail = b""
        texts: list[bytes] = []
        if self._control_places:
            self._control_places = []
        position = 0
        while position >= 0 and not self.is_done:
            if not self._masked and self._fragments is None:
                position = self._cut_plain_texts(data, position, texts)
            position = self._cut_frame(data, position, texts)
        return self._valid_utf8(texts)

    def _cut_plain_texts(self, data: bytes, position: int, texts: list[bytes]) -> int:
        # The hot loop: unfragmented, unmasked text frames below 64 KiB, that is, practically all a gateway sends.
        # It stops at anything else, and `_cut_frame` decides what that is.
        length = len(data)
        limit = self.max_message_size
        append = texts.append
        while position + 4 <= length and data[position] == _FINAL_TEXT:
            size = data[position + 1]
            if size < 126:
                start = position + 2
            elif size == 126:
                size = data[position + 2] << 8 | data[position + 3]
                if size < 126:
                    break
                start = position + 4
            else:
                break
            end = start + size
            if end > length or size > limit:
                break
            append(data[start:end])
            position = end
        return position

    def _cut_frame(self, data: bytes, position: int, texts: list[bytes]) -> int:
        """Cut one frame of any kind; return the position after it, or -1 when the rest is kept for later."""
        available = len(data) - position
        if available < 2:
            self._tail = data[position:]
            return -1
        first, second = data[position], data[position + 1]
        size = second & 0x7F
        header = 2 + (2 if size == 126 else 8 if size == 127 else 0)
        if not self._check_header(first, second, size):
            return -1
        if available < header:
            self._tail = data[position:]
            return -1
        if size >= 126:
            extended = size
            size = int.from_bytes(data[position + 2 : position + header], "big")
            if not self._check_extended_size(extended, size):
                return -1
        if not self._check_message_size(first & 0x0F, size):
            return -1
        if self._masked:
            header += 4
        start, end = position + header, position + header + size
        if end > len(data):
            # A size that passed the limit; memory is taken as bytes arrive, not as the header promises.
            self._partial += memoryview(data)[position:]
            self._missing = end - len(data)
            return -1
        payload = data[start:end]
        if self._masked:
            payload = mask_payload(data[start - 4 : start], payload)
        self._take_frame(first, payload, texts)
        return end

    def _check_header(self, first: int, second: int, size: int) -> bool:
        opcode = first & 0x0F
        if first & 0x70:
            # RFC 6455 section 5.2: reserved bits belong to extensions, and none is ever negotiated here.
            return self._fail(1002, "reserved bits are set")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            return self._fail(1002, f"unknown opcode {opcode}")
        if bool(second & _MASKED) != self._masked:
            return self._fail(1002, "frame is not masked" if self._masked else "frame is masked")
        if opcode & 0x08:
            if not first & 0x80:
                return self._fail(1002, "control frame is fragmented")
            if size > _MAX_CONTROL_PAYLOAD:
                return self._fail(1002, "control frame is longer than 125 bytes")
        elif opcode == CONTINUATION and self._fragments is None:
            return self._fail(1002, "continuation frame without a message")
        elif opcode != CONTINUATION and self._fragments is not None:
            return self._fail(1002, "new message inside a fragmented one")
        elif opcode == BINARY:
            return self._fail(1003, "binary messages are not part of the protocol")
        return True

    def _check_extended_size(self, field: int, size: int) -> bool:
        # RFC 6455 section 5.2: the shortest encoding, and the highest bit of the long one is zero.
        if size < 126 or (field == 127 and size < 65536):
            return self._fail(1002, "frame length is not encoded in the shortest way")
        if size >> 63:
            return self._fail(1002, "frame length is negative")
        return True

    def _check_message_size(self, opcode: int, size: int) -> bool:
        if opcode & 0x08:
            return True
        whole = size + (len(self._fragments) if self._fragments is not None else 0)
        if whole > self.max_message_size:
            return self._fail(1009, f"message of {whole} bytes is over the limit of {self.max_message_size}")
        return True

    def _take_frame(self, first: int, payload: bytes, texts: list[bytes]) -> None:
        opcode = first & 0x0F
        if opcode == CLOSE:
            self._take_close(payload)
        elif self.small_frames_left is not None and not self._count_small_frame(first, len(payload)):
            self._fail(1008, "too many control frames or small fragments")
        elif opcode & 0x08:
            self.controls.append(ControlFrame(opcode, payload))
            self._control_places.append(len(texts))
        elif first & 0x80 and self._fragments is None:
            texts.append(payload)
        else:
            # One growing buffer, not a list: a million one-byte fragments must not cost a million objects.
            if self._fragments is None:
                self._fragments = bytearray()
            self._fragments += payload
            if first & 0x80:
                texts.append(bytes(self._fragments))
                self._fragments = None

    def _count_small_frame(self, first: int, size: int) -> bool:
        """Return whether the frame is a large or a whole message's, or may still come."""
        assert self.small_frames_left is not None
        if size >= _SMALL_FRAGMENT or first == _FINAL_TEXT:
            return True
        self.small_frames_left -= 1
        return self.small_frames_left >= 0

    def _take_close(self, payload: bytes) -> None:
        if not payload:
            self.close = CloseFrame(1005, "")
            return
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not _is_sendable(code):
            self._fail(1002, "invalid close code")
            return
        try:
            self.close = CloseFrame(code, payload[2:].decode())
        except UnicodeDecodeError:
            self._fail(1007, "close reason is not valid UTF-8")

    def _valid_utf8(self, texts: list[bytes]) -> list[bytes]:
        """Return the messages before the first that is not UTF-8 (RFC 6455 section 8.1), all of them as a rule."""
        # A large message comes first in its read, and joining would copy it; ASCII is seen without a copy at all.
        start = 1 if texts and len(texts[0]) > _LARGE and texts[0].isascii() else 0
        try:
            # All at once; the line break keeps two halves of one character from making a whole.
            b"\n".join(texts[start:] if start else texts).decode()
            return texts
        except UnicodeDecodeError:
            for index, text in enumerate(texts):
                try:
                    text.decode()
                except UnicodeDecodeError:
                    # It came before whatever ended the loop, so it is what the peer is told, and what followed it
                    # counts for nothing: the result is the same wherever the stream was cut.
                    self.close = None
                    later = sum(place > index for place in self._control_places)
                    del self.controls[len(self.controls) - later :]
                    self.violation = Violation(1007, "text message is not valid UTF-8")
                    return texts[:index]
            raise AssertionError("a text is invalid only when joined") from None

    def _fail(self, code: int, reason: str) -> bool:
        self.violation = Violation(code, reason)
        return False


def mask_payload(key: bytes, payload: bytes) -> bytes:
    """Mask or unmask a payload (RFC 6455 section 5.3), as one big-number operation, not byte by byte."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


def encode_frame(opcode: int, payload: bytes, mask_key: bytes | None = None) -> bytes:
    """Encode one unfragmented frame.

    Args:
        opcode: `TEXT`, `CLOSE`, `PING` or `PONG`.
        payload: up to 125 bytes for a control frame (RFC 6455 section 5.5).
        mask_key: four bytes on the client's side, `None` on the server's.

    Raises:
        ValueError: the frame would break RFC 6455, which takes the original server's whole process down.
    """
    if opcode & 0x08 and len(payload) > _MAX_CONTROL_PAYLOAD:
        raise ValueError(f"a control frame carries at most 125 bytes (got {len(payload)})")
    if mask_key is not None and len(mask_key) != 4:
        raise ValueError(f"a mask key has four bytes (got {len(mask_key)})")
    header = _header(0x80 | opcode, len(payload), _MASKED if mask_key is not None else 0)
    if mask_key is None:
        return header + payload
    return header + mask_key + mask_payload(mask_key, payload)


def encode_texts(texts: list[str]) -> bytes:
    """Encode text messages, unmasked, as the bytes of one write (what a server sends)."""
    chunks: list[bytes] = []
    for text in texts:
        payload = text.encode()
        chunks.append(_header(_FINAL_TEXT, len(payload), 0))
        chunks.append(payload)
    return b"".join(chunks)


def close_payload(code: int, reason: str = "") -> bytes:
    """Return the payload of a close frame, the reason cut to fit at a character's end (RFC 6455 section 5.5.1).

    Args:
        code: a code that may be sent; 1005 means none, so that a received `CloseFrame.code` can be echoed as it is.
        reason: any text; lone surrogates become question marks.

    Raises:
        ValueError: the code is never sent (RFC 6455 section 7.4).
    """
    if code == 1005:
        return b""
    if not _is_sendable(code):
        raise ValueError(f"close code {code} is never sent")
    text = reason.encode(errors="replace")[: _MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore")
    return code.to_bytes(2, "big") + text.encode()


def _is_sendable(code: int) -> bool:
    return code in _SENDABLE_CODES or 3000 <= code <= 4999


def _header(first: int, size: int, mask_bit: int) -> bytes:
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 65536:
        return bytes((first, mask_bit | 126)) + size.to_bytes(2, "big")
    return bytes((first, mask_bit | 127)) + size.to_bytes(8, "big")
