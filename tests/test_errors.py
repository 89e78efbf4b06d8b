"""The error tree: codes, sentences, what can be caught as what, and when a connection is dialled again."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from typing import Any

import pytest

import wsclient.errors
from wsclient.errors import (
    AuthTimeoutError,
    ChallengeTimeoutError,
    ClientClosedError,
    ConnectionFailedError,
    ConnectionLostError,
    ConnectionTimeoutError,
    ErrorCode,
    GenerationIncompleteError,
    InvalidAuthError,
    InvalidKeyError,
    InvalidRequestError,
    MessageTooBigError,
    ModelNotFoundError,
    ProtocolError,
    RateLimitedError,
    ReconnectFailedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    SlowConsumerError,
    WSClientError,
    error_for_close,
    error_for_code,
    may_reconnect,
)

# class: code, built-in base, parent, retryable, dialled again, sentence
TREE: dict[type[WSClientError], tuple[str, type[BaseException], type[WSClientError], bool, bool, str]] = {
    ConnectionFailedError: (
        "connection_failed",
        ConnectionError,
        WSClientError,
        True,
        True,
        "Check server_url, and that the gateway runs there and can be reached.",
    ),
    ConnectionLostError: (
        "connection_lost",
        ConnectionError,
        WSClientError,
        True,
        True,
        "The request may or may not have been carried out; send it again if that is safe.",
    ),
    ReconnectFailedError: (
        "reconnect_failed",
        ConnectionError,
        WSClientError,
        True,
        True,
        "Call connect() to try again, or raise max_reconnect_attempts.",
    ),
    ConnectionTimeoutError: (
        "connection_timeout",
        TimeoutError,
        WSClientError,
        True,
        True,
        "Check server_url and the network between, or raise connect_timeout.",
    ),
    ChallengeTimeoutError: (
        "auth_challenge_timeout",
        TimeoutError,
        WSClientError,
        True,
        True,
        "Check that server_url leads to a WebSocket System gateway.",
    ),
    AuthTimeoutError: (
        "auth_timeout",
        TimeoutError,
        WSClientError,
        True,
        True,
        "A new connection gets a fresh challenge; try again.",
    ),
    RequestTimeoutError: (
        "request_timeout",
        TimeoutError,
        WSClientError,
        True,
        True,
        "The server may be busy; give the call more time or try again.",
    ),
    InvalidAuthError: (
        "invalid_auth",
        Exception,
        WSClientError,
        False,
        False,
        "Check client_id, that the private key is the registered one, and that the client was not revoked.",
    ),
    InvalidKeyError: (
        "invalid_key",
        Exception,
        WSClientError,
        False,
        False,
        "Make a key pair with: wsclient generate-keys.",
    ),
    ClientClosedError: (
        "client_closed",
        Exception,
        WSClientError,
        False,
        False,
        "Call connect() before sending requests again.",
    ),
    ProtocolError: (
        "protocol_error",
        Exception,
        WSClientError,
        False,
        True,
        "Check that server_url leads to a WebSocket System gateway of a matching version.",
    ),
    MessageTooBigError: (
        "message_too_big",
        Exception,
        WSClientError,
        False,
        True,
        "Send less at once, or raise max_message_size.",
    ),
    SlowConsumerError: (
        "slow_consumer",
        Exception,
        WSClientError,
        False,
        False,
        "Read the tokens faster, or raise max_unread_bytes.",
    ),
    ServerError: ("server_error", Exception, WSClientError, False, True, "See the gateway's log for the cause."),
    RateLimitedError: ("rate_limited", Exception, ServerError, True, True, "Wait before trying again."),
    ServerBusyError: ("server_busy", Exception, ServerError, True, True, "Try again in a moment."),
    InvalidRequestError: (
        "invalid_request",
        Exception,
        ServerError,
        False,
        False,
        "Check the arguments of the call.",
    ),
    ModelNotFoundError: (
        "model_not_found",
        Exception,
        ServerError,
        False,
        False,
        "See list_models() for the models there are.",
    ),
    GenerationIncompleteError: (
        "generation_incomplete",
        Exception,
        ServerError,
        True,
        True,
        "The text so far is in .text; generate again for the whole.",
    ),
}
CLASSES = pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
FACTS = {"description": "Do this", "id": "g7", "retryable": True, "retry_after": 2.5, "text": "Once upon"}


class UsersError(ConnectionLostError):
    """An error class of a user's own."""


# --- the tree ---------------------------------------------------------------------------------------------------------


def test_the_tree_is_all_of_the_module() -> None:
    defined = {
        cls
        for cls in vars(wsclient.errors).values()
        if inspect.isclass(cls) and issubclass(cls, WSClientError) and cls is not WSClientError
    }
    assert defined == TREE.keys()
    assert {cls.__name__ for cls in TREE} < set(wsclient.errors.__all__)


def test_the_drawing_atop_the_module_shows_each_class_with_its_code() -> None:
    drawn = [line.split() for line in (wsclient.errors.__doc__ or "").splitlines() if "Error  " in line]
    names = {word for words in drawn for word in words if word.endswith("Error")}
    assert names == {cls.__name__ for cls in TREE}
    for cls, (code, base, *_) in TREE.items():
        words = next(words for words in drawn if cls.__name__ in words)
        assert code in words
        assert ("(also" in words) == (base is not Exception)
        assert base is Exception or f"{base.__name__})" in words


@CLASSES
def test_each_class_has_its_code_its_parent_and_its_built_in_base(cls: type[WSClientError]) -> None:
    code, base, parent, *_ = TREE[cls]
    assert cls.code == code
    assert isinstance(cls.code, ErrorCode)
    assert cls.__bases__[0] is parent
    assert issubclass(cls, base)
    assert issubclass(cls, OSError) == (base is not Exception)
    assert issubclass(cls, TimeoutError) == (base is TimeoutError)
    assert issubclass(cls, ConnectionError) == (base is ConnectionError)


def test_no_two_classes_share_a_code_and_none_is_left_over() -> None:
    assert sorted(code for code, *_ in TREE.values()) == sorted(ErrorCode)


def test_time_outs_and_lost_connections_are_caught_as_python_users_catch_them() -> None:
    with pytest.raises(TimeoutError):
        raise RequestTimeoutError("no answer")
    with pytest.raises(ConnectionError):
        raise ConnectionLostError("gone")
    with pytest.raises(OSError, match="gone"):
        raise ConnectionLostError("gone")


@CLASSES
def test_the_class_of_a_code_is_found(cls: type[WSClientError]) -> None:
    assert error_for_code(TREE[cls][0]) is cls
    assert error_for_code(cls.code) is cls


@pytest.mark.parametrize("code", ["", "unknown", "Server_Error", "unauthorized"])
def test_a_code_that_is_not_ours_is_a_server_error(code: str) -> None:
    assert error_for_code(code) is ServerError


# --- words and facts --------------------------------------------------------------------------------------------------


@CLASSES
def test_the_sentence_names_what_happened_the_code_and_the_next_step(cls: type[WSClientError]) -> None:
    assert str(cls("port 1 is closed")) == f"port 1 is closed [{TREE[cls][0]}]. {TREE[cls][5]}"


def test_the_sentence_ends_with_one_full_stop_whatever_the_description() -> None:
    for description, end in (("Do this", ". Do this."), ("Do this.", ". Do this."), ("", ".")):
        assert str(ServerError("x", description=description)) == f"x [server_error]{end}"


@CLASSES
def test_the_repr_shows_class_code_and_message_but_no_generated_text(cls: type[WSClientError]) -> None:
    assert repr(cls("x", text="SECRET")) == f"<{cls.__name__} {TREE[cls][0]}: x>"
    assert "SECRET" not in str(cls("x", text="SECRET"))


@CLASSES
def test_an_error_knows_its_facts_without_being_told(cls: type[WSClientError]) -> None:
    error = cls("x")
    assert (error.message, error.args) == ("x", ("x",))
    assert (error.id, error.retry_after, error.text) == (None, None, "")
    assert error.retryable is TREE[cls][3]
    assert error.description.rstrip(".") + "." == TREE[cls][5]


@CLASSES
def test_the_facts_that_are_told_win(cls: type[WSClientError]) -> None:
    error = cls("x", **FACTS)
    assert error.facts() == FACTS
    assert {name: getattr(error, name) for name in FACTS} == FACTS
    assert cls("x", retryable=False).retryable is False
    assert cls("x", description="").description == ""


# --- copies -----------------------------------------------------------------------------------------------------------


def same(one: WSClientError, other: WSClientError) -> bool:
    return (type(one), one.message, one.facts(), str(one), one.args) == (
        type(other),
        other.message,
        other.facts(),
        str(other),
        other.args,
    )


@pytest.mark.parametrize("cls", [*TREE, UsersError], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    "twin_of",
    [
        *(
            lambda error, p=protocol: pickle.loads(pickle.dumps(error, p))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        copy.copy,
        copy.deepcopy,
        lambda error: error.again(),
    ],
    ids=[*(f"pickle {protocol}" for protocol in range(pickle.HIGHEST_PROTOCOL + 1)), "copy", "deepcopy", "again"],
)
def test_a_copy_is_another_object_with_the_same_facts(cls: type[WSClientError], twin_of: Any) -> None:
    for error in (cls("plain"), cls("told", **FACTS)):
        twin = twin_of(error)
        assert twin is not error
        assert same(twin, error)


def test_a_copy_for_one_more_waiter_may_have_an_id_and_text_of_its_own() -> None:
    error = ConnectionLostError("gone", **FACTS)
    copied = error.again(id="g8", text="")
    assert copied.facts() == {**FACTS, "id": "g8", "text": ""}
    assert error.facts() == FACTS


def test_a_copy_for_one_more_waiter_collects_a_traceback_of_its_own() -> None:
    error = ConnectionLostError("gone")
    for waiter in (error.again(), error.again()):
        with pytest.raises(ConnectionLostError) as caught:
            raise waiter
        assert caught.value.__traceback__ is not None
    assert error.__traceback__ is None


def test_a_copy_for_one_more_waiter_keeps_the_cause() -> None:
    error = ConnectionLostError("gone")
    error.__cause__ = ConnectionResetError("by peer")
    assert error.again().__cause__ is error.__cause__


def test_a_copy_without_a_cause_does_not_hide_where_it_was_raised() -> None:
    try:
        try:
            raise ValueError("the context")
        except ValueError:
            # Whether the context is shown is the copy's own affair here, not that of the way it is raised.
            raise ConnectionLostError("gone").again()  # noqa: B904
    except ConnectionLostError as error:
        shown = "".join(traceback.format_exception(error))
    assert "the context" in shown


# --- close codes ------------------------------------------------------------------------------------------------------

CLOSES: dict[int, tuple[type[WSClientError], bool, bool, str]] = {
    1000: (ConnectionLostError, True, True, "the server closed the connection"),
    1001: (ConnectionLostError, True, True, "the server is going away"),
    1002: (ProtocolError, True, True, "the server reports a protocol error"),
    # The request would fail again, but a fresh connection is tried: a garbled line looks like this too.
    1003: (ProtocolError, False, True, "the server does not take this kind of data"),
    1005: (ConnectionLostError, True, True, "the server closed the connection without a code"),
    1006: (ConnectionLostError, True, True, "the connection broke off"),
    1007: (ProtocolError, True, True, "the server reports invalid text"),
    1008: (ConnectionLostError, False, False, "the server's policy forbids this connection"),
    1009: (MessageTooBigError, True, True, "a message was larger than the server takes"),
    1011: (ConnectionLostError, True, True, "the server met an internal error"),
    1012: (ConnectionLostError, True, True, "the server restarts"),
    1013: (ConnectionLostError, True, True, "the server is overloaded"),
    4000: (InvalidAuthError, False, False, "the server refused the login"),
    4001: (AuthTimeoutError, True, True, "the login took too long"),
    4002: (RateLimitedError, True, True, "too many login attempts"),
    4003: (InvalidAuthError, False, False, "this client was revoked"),
    1004: (ConnectionLostError, True, True, "the server closed the connection"),
    1010: (ConnectionLostError, True, True, "the server closed the connection"),
    1014: (ConnectionLostError, True, True, "the server closed the connection"),
    3000: (ConnectionLostError, True, True, "the server closed the connection"),
    4999: (ConnectionLostError, True, True, "the server closed the connection"),
}


@pytest.mark.parametrize("code", CLOSES)
def test_a_close_code_means_what_the_table_says(code: int) -> None:
    cls, retryable, dials_again, meaning = CLOSES[code]
    error = error_for_close(code)
    assert type(error) is cls
    assert error.message == f"{meaning} (close code {code})"
    assert error.retryable is retryable
    assert may_reconnect(error) is dials_again


def test_the_close_reason_is_told() -> None:
    assert error_for_close(1012, "be right back").message == "the server restarts (close code 1012: be right back)"


def test_a_close_reason_reaches_no_terminal_as_a_command() -> None:
    error = error_for_close(4999, "a\x1b[2Jb\r\nc\u202e" + "x" * 500)
    assert str(error).isprintable()
    assert "(close code 4999: a [2Jb  c x" in error.message
    assert len(error.message) < 200


# --- retry or give up -------------------------------------------------------------------------------------------------


@CLASSES
def test_each_error_is_dialled_again_or_not_as_the_table_says(cls: type[WSClientError]) -> None:
    assert may_reconnect(cls("x")) is TREE[cls][4]


@pytest.mark.parametrize("cls", [InvalidAuthError, InvalidKeyError, ClientClosedError])
def test_a_wrong_key_and_a_closed_client_are_final_whatever_the_error_says_of_itself(cls: type[WSClientError]) -> None:
    assert not may_reconnect(cls("x", retryable=True))


@pytest.mark.parametrize("cls", [ProtocolError, MessageTooBigError])
def test_a_garbled_line_is_dialled_again_though_the_request_is_not_worth_repeating(cls: type[WSClientError]) -> None:
    assert may_reconnect(cls("x", retryable=False))


def test_a_certificate_that_does_not_verify_and_an_http_refusal_are_final() -> None:
    # The transport marks both so: trying again gives the same answer.
    assert not may_reconnect(ConnectionFailedError("certificate verify failed", retryable=False))
    assert not may_reconnect(ConnectionFailedError("HTTP 404", retryable=False))


def test_a_rate_limit_is_dialled_again_with_its_time_to_wait() -> None:
    error = RateLimitedError("x", retry_after=16)
    assert may_reconnect(error)
    assert error.retry_after == 16
