"""The errors of wsclient: one tree, one code each, and whether a retry can help.

    WSClientError
    |-- ConnectionFailedError      connection_failed       (also ConnectionError)
    |-- ConnectionLostError        connection_lost         (also ConnectionError)
    |-- ReconnectFailedError       reconnect_failed        (also ConnectionError)
    |-- ConnectionTimeoutError     connection_timeout      (also TimeoutError)
    |-- ChallengeTimeoutError      auth_challenge_timeout  (also TimeoutError)
    |-- AuthTimeoutError           auth_timeout            (also TimeoutError)
    |-- RequestTimeoutError        request_timeout         (also TimeoutError)
    |-- InvalidAuthError           invalid_auth
    |-- InvalidKeyError            invalid_key
    |-- ClientClosedError          client_closed
    |-- ProtocolError              protocol_error
    |-- MessageTooBigError         message_too_big
    |-- SlowConsumerError          slow_consumer
    `-- ServerError                server_error
        |-- RateLimitedError       rate_limited
        |-- ServerBusyError        server_busy
        |-- InvalidRequestError    invalid_request
        |-- ModelNotFoundError     model_not_found
        `-- GenerationIncompleteError  generation_incomplete

Nine of the codes are the seed's table ("Error Handling"); the others name what that table leaves unsaid.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

__all__ = [
    "AuthTimeoutError",
    "ChallengeTimeoutError",
    "ClientClosedError",
    "ConnectionFailedError",
    "ConnectionLostError",
    "ConnectionTimeoutError",
    "ErrorCode",
    "GenerationIncompleteError",
    "InvalidAuthError",
    "InvalidKeyError",
    "InvalidRequestError",
    "MessageTooBigError",
    "ModelNotFoundError",
    "ProtocolError",
    "RateLimitedError",
    "ReconnectFailedError",
    "RequestTimeoutError",
    "ServerBusyError",
    "ServerError",
    "SlowConsumerError",
    "WSClientError",
    "error_for_close",
    "error_for_code",
    "may_reconnect",
]


class ErrorCode(StrEnum):
    """Every code that `WSClientError.code` can have."""

    SERVER_ERROR = "server_error"
    AUTH_TIMEOUT = "auth_timeout"
    INVALID_AUTH = "invalid_auth"
    RATE_LIMITED = "rate_limited"
    INVALID_REQUEST = "invalid_request"
    MODEL_NOT_FOUND = "model_not_found"
    RECONNECT_FAILED = "reconnect_failed"
    CONNECTION_TIMEOUT = "connection_timeout"
    AUTH_CHALLENGE_TIMEOUT = "auth_challenge_timeout"
    CONNECTION_FAILED = "connection_failed"
    CONNECTION_LOST = "connection_lost"
    CLIENT_CLOSED = "client_closed"
    REQUEST_TIMEOUT = "request_timeout"
    SERVER_BUSY = "server_busy"
    PROTOCOL_ERROR = "protocol_error"
    MESSAGE_TOO_BIG = "message_too_big"
    SLOW_CONSUMER = "slow_consumer"
    INVALID_KEY = "invalid_key"
    GENERATION_INCOMPLETE = "generation_incomplete"


class WSClientError(Exception):
    """The base of every error that wsclient raises on purpose; wrong arguments are `ValueError` or `TypeError`.

    Args:
        message: what happened, naming the thing and its value.
        description: what it means and what to do next; the code's own text when left out.
        id: the id of the request or generation that it belongs to, if any.
        retryable: whether the same call can succeed later; the code's own answer when left out.
        retry_after: seconds to wait before that, when the server said so.
        text: the text of a generation received before it failed.
    """

    code: ClassVar[ErrorCode] = ErrorCode.SERVER_ERROR
    _description: ClassVar[str] = ""
    _retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        description: str | None = None,
        id: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        text: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.description = self._description if description is None else description
        self.id = id
        self.retryable = self._retryable if retryable is None else retryable
        self.retry_after = retry_after
        self.text = text

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]. {self.description}".rstrip(". ") + "."

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.code}: {self.message}>"

    def facts(self) -> dict[str, Any]:
        """Return the attributes as keyword arguments of the constructor, `message` left out."""
        return {
            "description": self.description,
            "id": self.id,
            "retryable": self.retryable,
            "retry_after": self.retry_after,
            "text": self.text,
        }

    def again(self, *, id: str | None = None, text: str | None = None) -> WSClientError:
        """Return a fresh copy, for one more waiter.

        One exception object raised in several threads would collect all their tracebacks, and the first
        waiter's `id` and `text` would be read by the others.
        """
        facts = self.facts()
        facts["id"] = self.id if id is None else id
        facts["text"] = self.text if text is None else text
        copy = type(self)(self.message, **facts)
        if self.__cause__ is not None:
            # Setting it, even to None, would hide the context in which the copy is raised.
            copy.__cause__ = self.__cause__
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts())


def _rebuild(cls: type[WSClientError], message: str, facts: dict[str, Any]) -> WSClientError:
    return cls(message, **facts)


class ConnectionFailedError(WSClientError, ConnectionError):
    """No connection came about: refused, unknown host, TLS, or an HTTP answer other than 101."""

    code = ErrorCode.CONNECTION_FAILED
    _description = "Check server_url, and that the gateway runs there and can be reached"
    _retryable = True


class ConnectionLostError(WSClientError, ConnectionError):
    """The connection ended while this request or generation was open. Nothing is sent again by itself."""

    code = ErrorCode.CONNECTION_LOST
    _description = "The request may or may not have been carried out; send it again if that is safe"
    _retryable = True


class ReconnectFailedError(WSClientError, ConnectionError):
    """All reconnect attempts failed; the next explicit call starts afresh."""

    code = ErrorCode.RECONNECT_FAILED
    _description = "Call connect() to try again, or raise max_reconnect_attempts"
    _retryable = True


class ConnectionTimeoutError(WSClientError, TimeoutError):
    """DNS, TCP, TLS and the WebSocket upgrade took longer than `connect_timeout`."""

    code = ErrorCode.CONNECTION_TIMEOUT
    _description = "Check server_url and the network between, or raise connect_timeout"
    _retryable = True


class ChallengeTimeoutError(WSClientError, TimeoutError):
    """The server accepted the WebSocket but sent no challenge within `auth_timeout`."""

    code = ErrorCode.AUTH_CHALLENGE_TIMEOUT
    _description = "Check that server_url leads to a WebSocket System gateway"
    _retryable = True


class AuthTimeoutError(WSClientError, TimeoutError):
    """The login did not finish in time, or the challenge had expired."""

    code = ErrorCode.AUTH_TIMEOUT
    _description = "A new connection gets a fresh challenge; try again"
    _retryable = True


class RequestTimeoutError(WSClientError, TimeoutError):
    """A request or generation got no (further) answer before its deadline."""

    code = ErrorCode.REQUEST_TIMEOUT
    _description = "The server may be busy; give the call more time or try again"
    _retryable = True


class InvalidAuthError(WSClientError):
    """The server does not accept this client id with this key. Only `connect()` tries again."""

    code = ErrorCode.INVALID_AUTH
    _description = "Check client_id, that the private key is the registered one, and that the client was not revoked"


class InvalidKeyError(WSClientError):
    """The key cannot be read, has the wrong type or size, or its file can be read by others."""

    code = ErrorCode.INVALID_KEY
    _description = "Make a key pair with: wsclient generate-keys"


class ClientClosedError(WSClientError):
    """The client was closed; `connect()` opens it again."""

    code = ErrorCode.CLIENT_CLOSED
    _description = "Call connect() before sending requests again"


class ProtocolError(WSClientError):
    """The other side broke RFC 6455 or the protocol of WebSocket System."""

    code = ErrorCode.PROTOCOL_ERROR
    _description = "Check that server_url leads to a WebSocket System gateway of a matching version"


class MessageTooBigError(WSClientError):
    """A message is larger than `max_message_size`, or than what the server takes."""

    code = ErrorCode.MESSAGE_TOO_BIG
    _description = "Send less at once, or raise max_message_size"


class SlowConsumerError(WSClientError):
    """A generation's text was not read while more than `max_unread_bytes` came in; it was stopped."""

    code = ErrorCode.SLOW_CONSUMER
    _description = "Read the tokens faster, or raise max_unread_bytes"


class ServerError(WSClientError):
    """The server reports an error of its own or of the model server."""

    code = ErrorCode.SERVER_ERROR
    _description = "See the gateway's log for the cause"


class RateLimitedError(ServerError):
    """Too many attempts or requests; wait `retry_after` seconds."""

    code = ErrorCode.RATE_LIMITED
    _description = "Wait before trying again"
    _retryable = True


class ServerBusyError(ServerError):
    """The model server has no room now."""

    code = ErrorCode.SERVER_BUSY
    _description = "Try again in a moment"
    _retryable = True


class InvalidRequestError(ServerError):
    """The server does not accept the request as it was sent."""

    code = ErrorCode.INVALID_REQUEST
    _description = "Check the arguments of the call"


class ModelNotFoundError(ServerError):
    """The model server does not have this model."""

    code = ErrorCode.MODEL_NOT_FOUND
    _description = "See list_models() for the models there are"


class GenerationIncompleteError(ServerError):
    """The model server's stream ended without its final message; the text may be cut short."""

    code = ErrorCode.GENERATION_INCOMPLETE
    _description = "The text so far is in .text; generate again for the whole"
    _retryable = True


_CLASSES: dict[str, type[WSClientError]] = {
    str(cls.code): cls
    for cls in (
        ServerError,
        AuthTimeoutError,
        InvalidAuthError,
        RateLimitedError,
        InvalidRequestError,
        ModelNotFoundError,
        ReconnectFailedError,
        ConnectionTimeoutError,
        ChallengeTimeoutError,
        ConnectionFailedError,
        ConnectionLostError,
        ClientClosedError,
        RequestTimeoutError,
        ServerBusyError,
        ProtocolError,
        MessageTooBigError,
        SlowConsumerError,
        InvalidKeyError,
        GenerationIncompleteError,
    )
}


def error_for_code(code: str) -> type[WSClientError]:
    """Return the exception class of a code; `ServerError` for a code that is not ours."""
    return _CLASSES.get(code, ServerError)


# What a close code says about trying again (RFC 6455 section 7.4.1; 4000 to 4003 are WebSocket System's own).
# A code that is not here is retried: the backoff bounds what that can cost.
_CLOSE_MEANINGS: dict[int, tuple[type[WSClientError], bool, str]] = {
    1000: (ConnectionLostError, True, "the server closed the connection"),
    1001: (ConnectionLostError, True, "the server is going away"),
    1002: (ProtocolError, True, "the server reports a protocol error"),
    1003: (ProtocolError, False, "the server does not take this kind of data"),
    1005: (ConnectionLostError, True, "the server closed the connection without a code"),
    1006: (ConnectionLostError, True, "the connection broke off"),
    1007: (ProtocolError, True, "the server reports invalid text"),
    1008: (ConnectionLostError, False, "the server's policy forbids this connection"),
    1009: (MessageTooBigError, True, "a message was larger than the server takes"),
    1011: (ConnectionLostError, True, "the server met an internal error"),
    1012: (ConnectionLostError, True, "the server restarts"),
    1013: (ConnectionLostError, True, "the server is overloaded"),
    4000: (InvalidAuthError, False, "the server refused the login"),
    4001: (AuthTimeoutError, True, "the login took too long"),
    4002: (RateLimitedError, True, "too many login attempts"),
    4003: (InvalidAuthError, False, "this client was revoked"),
}


def error_for_close(code: int, reason: str = "") -> WSClientError:
    """Return the error that a WebSocket close code stands for.

    Args:
        code: the close code; 1005 for a close frame without one, 1006 for no close frame at all.
        reason: the server's reason text; its control characters are taken out, for it may reach a terminal.
    """
    cls, retryable, meaning = _CLOSE_MEANINGS.get(code, (ConnectionLostError, True, "the server closed the connection"))
    said = ": " + "".join(c if c.isprintable() else " " for c in reason[:125]) if reason else ""
    return cls(f"{meaning} (close code {code}{said})", retryable=retryable)


def may_reconnect(error: WSClientError) -> bool:
    """Decide whether a failed or lost connection is dialled again by itself.

    The table: a wrong key, an unknown or revoked client, an unusable key, a closed client, a policy refusal (1008),
    a certificate that does not verify and an HTTP answer of the 4xx kind never (trying again gives the same answer);
    a rate limit after its `retry_after`; time-outs, an expired challenge, 1001, 1006, 1011, 1012, 1013, a server
    that spoke rubbish or met an error of its own, and every fault of the network are retried. `auth_failed` is the
    status of the first group.
    """
    if isinstance(error, InvalidAuthError | InvalidKeyError | ClientClosedError):
        return False
    if isinstance(error, ProtocolError | MessageTooBigError) or type(error) is ServerError:
        # A garbled line looks like this too, and a fresh connection cures that; the attempts are counted. A server's
        # own error before the login is what it says with 1011 otherwise.
        return True
    return error.retryable
