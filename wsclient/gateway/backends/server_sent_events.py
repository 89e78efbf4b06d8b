"""Server-sent events: bytes -> the data of each event. Pure, and in bulk.

Source: the WHATWG's HTML standard, section 9.2.6, "Interpreting an event stream". One thing is taken more easily than
there: an event at the end of the stream counts without the empty line after it.
"""

from __future__ import annotations

from .reading import MAX_LINE_BYTES, LineCutter

__all__ = ["EventCutter"]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventCutter:
    """Cuts a stream into events, wherever the network cut it.

    Attributes:
        is_too_long: whether a line or an event has come that is longer than `MAX_LINE_BYTES`; it and what follows is
            lost.
    """

    def __init__(self) -> None:
        self._lines = LineCutter()
        self._is_after_return = False
        self._is_first_line = True
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""
        self.is_too_long = False

    @property
    def has_partial(self) -> bool:
        """Return whether an event has begun that has no end yet."""
        return self._lines.has_partial or bool(self._data)

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Return the name, `b""` for none, and the data of each event that is complete now."""
        if self._is_after_return and data:
            self._is_after_return = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            # A line may end with either or both: the second half of a pair may come with the next read.
            self._is_after_return = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = self._lines.feed(data)
        self.is_too_long = self.is_too_long or self._lines.is_too_long
        return self._take(lines)

    def finish(self) -> list[tuple[bytes, bytes]]:
        """Return the event that the stream ended in, if there is one."""
        return self._take([self._lines.take_rest(), b""])

    def _take(self, lines: list[bytes]) -> list[tuple[bytes, bytes]]:
        events: list[tuple[bytes, bytes]] = []
        if self._is_first_line and lines:
            self._is_first_line = False
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        for line in lines:
            if not line:
                if self._data:
                    events.append((self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)))
                self._data, self._data_size, self._name = [], 0, b""
                continue
            # A comment is a field without a name.
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                self._data.append(value)
                self._data_size += len(value)
                if self._data_size > MAX_LINE_BYTES:
                    self.is_too_long = True
                    break
            elif field == b"event":
                self._name = value
        return events
