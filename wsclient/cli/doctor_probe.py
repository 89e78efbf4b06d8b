"""A connection of the doctor's own, made to hear the challenge."""

from __future__ import annotations

import queue
import threading

from ..core.decoding import decode_server_message
from ..core.frames import CLOSE, FrameParser, close_payload
from ..core.json_values import decode_values
from ..core.messages import ChallengeMessage
from ..errors import ConnectionLostError, ProtocolError, WSClientError, error_for_close
from ..options import ClientOptions
from ..transport import Transport

__all__ = ["Probe"]

_MAX_MESSAGE = 64 * 1024


class Probe:
    """A connection that is made to hear the challenge, and says nothing.

    It goes the library's own way, in a thread of its own that closes the socket; two steps are waited for, one after
    the other.

    Args:
        options: where to.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._transport = Transport(options)
        self._steps: queue.SimpleQueue[WSClientError | str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="wsclient-doctor", daemon=True)
        self._thread.start()

    def wait(self, seconds: float, late: WSClientError) -> str:
        """Wait for the next step: the upgrade (`""`), then the challenge.

        Raises:
            WSClientError: it failed, or came too late.
        """
        try:
            step = self._steps.get(timeout=seconds)
        except queue.Empty:
            self.end()
            raise late from None
        except BaseException:
            self.end()
            raise
        if isinstance(step, WSClientError):
            raise step
        return step

    def end(self) -> None:
        """Give it up; from any thread."""
        self._transport.abort()

    def _run(self) -> None:
        transport = self._transport
        try:
            transport.dial()
            self._steps.put("")
            self._steps.put(self._hear())
            transport.post(CLOSE, close_payload(1000))
        except WSClientError as error:
            self._steps.put(error)
        except Exception as error:
            self._steps.put(ConnectionLostError(f"unexpected {type(error).__name__}: {error}"))
        finally:
            transport.close()

    def _hear(self) -> str:
        parser = FrameParser(masked=False, max_message_size=_MAX_MESSAGE)
        while True:
            data = self._transport.receive()
            if not data:
                raise error_for_close(1006)
            for value in decode_values(parser.feed(data)):
                message = decode_server_message(value)
                if isinstance(message, ChallengeMessage):
                    return message.challenge
            if parser.close is not None:
                raise error_for_close(parser.close.code, parser.close.reason)
            if parser.violation is not None:
                raise ProtocolError(f"the server broke RFC 6455: {parser.violation.reason}")
