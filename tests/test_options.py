"""The options of a client: each wrong one has a sentence that names it, its value and what is allowed."""

from __future__ import annotations

import copy
import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest
from Crypto.PublicKey.RSA import RsaKey

from wsclient import ClientOptions, WSClient

PEM = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"
GIVEN: dict[str, Any] = {"server_url": "wss://host", "client_id": "my-client", "private_key": PEM}
TIMES = {
    "reconnect_delay": 300,
    "ping_interval": 3600,
    "request_timeout": 20_000,
    "max_reconnect_delay": 3600,
    "pong_timeout": 1000,
    "connect_timeout": 1000,
    "auth_timeout": 1000,
}


def options(**more: Any) -> ClientOptions:
    return ClientOptions(**GIVEN | more)


def sentence(**more: Any) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        options(**more)
    return str(caught.value)


# --- what is right ----------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_seeds_in_seconds() -> None:
    made = options()
    assert (made.signature_algorithm, made.auto_reconnect, made.auto_connect) == ("RSA-SHA256", True, False)
    assert (made.reconnect_delay, made.ping_interval, made.request_timeout) == (1.0, 30.0, 60.0)
    assert (made.max_reconnect_attempts, made.max_reconnect_delay) == (10, 30.0)
    assert (made.pong_timeout, made.connect_timeout, made.auth_timeout) == (10.0, 10.0, 10.0)
    assert (made.max_message_size, made.max_unread_bytes) == (64 << 20, 64 << 20)
    assert (made.ssl_context, made.proxy, made.headers) == (None, None, {})
    assert (made.allow_insecure, made.allow_readable_key) == (False, False)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("wss://host", "wss://host/"),
        ("https://host", "wss://host/"),
        ("http://localhost:3000", "ws://localhost:3000/"),
        ("ws://127.0.0.1:3000/path?a=b#fragment", "ws://127.0.0.1:3000/path?a=b"),
        (" wss://host ", "wss://host/"),
        ("wss://[2001:db8::1]:8443/x", "wss://[2001:db8::1]:8443/x"),
    ],
)
def test_http_urls_mean_the_same_as_websocket_urls(given: str, used: str) -> None:
    assert options(server_url=given).server_url == used


def test_several_addresses_are_taken_in_their_order() -> None:
    made = options(server_url=["https://b", "wss://a"])
    assert made.server_url == made.server_urls == ("wss://b/", "wss://a/")


def test_one_address_is_all_there_are() -> None:
    assert options(server_url="wss://host").server_urls == ("wss://host/",)


@pytest.mark.parametrize("host", ["localhost", "app.localhost", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_a_plain_connection_to_this_machine_is_allowed(host: str) -> None:
    assert options(server_url=f"ws://{host}:3000").server_url.startswith("ws://")


def test_a_plain_connection_elsewhere_can_be_allowed() -> None:
    assert options(server_url="ws://gateway.lan", allow_insecure=True).server_url == "ws://gateway.lan/"


def test_attempts_can_go_on_for_ever_or_never_begin() -> None:
    assert options(max_reconnect_attempts=None).max_reconnect_attempts is None
    assert options(max_reconnect_attempts=0).max_reconnect_attempts == 0


def test_a_home_directory_in_the_path_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert options(private_key=None, private_key_path="~/key.pem").private_key_path == "/home/me/key.pem"
    assert options(private_key=None, private_key_path=Path("a/key.pem")).private_key_path == "a/key.pem"
    assert options(private_key=None, private_key_path="~nobody-here/k").private_key_path == "~nobody-here/k"


def test_every_kind_of_key_is_taken(rsa_key: RsaKey) -> None:
    for key in (PEM, PEM.encode(), bytearray(PEM.encode()), rsa_key, lambda challenge: b""):
        assert options(private_key=key).private_key is key


@pytest.mark.parametrize("proxy", [None, "", "http://host:3128", "http://me:pw@host", "socks5h://host:1080"])
def test_a_proxy_is_a_url_or_none_or_the_environments(proxy: str | None) -> None:
    assert options(proxy=proxy).proxy == proxy


def test_headers_are_copied() -> None:
    headers = {"X-Tenant": "a"}
    made = options(headers=headers)
    headers["X-Tenant"] = "b"
    assert made.headers == {"X-Tenant": "a"}


def test_options_are_frozen_and_for_keywords_only() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        options().client_id = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        ClientOptions("wss://host", client_id="my-client")  # type: ignore[misc]


def test_equal_options_are_equal_and_can_be_changed_by_copying() -> None:
    assert options() == options()
    assert attrs.evolve(options(), ping_interval=5.0).ping_interval == 5.0
    assert copy.copy(options()) == options()


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [0, -1, "30", None, True, float("nan"), float("inf"), 10**400, [5]])
def test_a_time_that_is_no_number_above_zero(name: str, value: Any) -> None:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    assert sentence(**{name: value}) == f"{name} must be a number of seconds > 0 (got {shown})"


@pytest.mark.parametrize(("name", "bound"), TIMES.items())
def test_a_time_that_can_only_be_milliseconds_is_refused_with_the_hint(name: str, bound: int) -> None:
    text = sentence(**{name: bound})
    assert text == f"{name} is in seconds: {bound} looks like milliseconds; did you mean {bound / 1000:g}?"
    assert getattr(options(**{name: bound - 1}), name) == bound - 1


@pytest.mark.parametrize(
    ("name", "seeds"), [("reconnect_delay", 1000), ("ping_interval", 30_000), ("request_timeout", 60_000)]
)
def test_the_seeds_own_defaults_are_refused_with_the_hint(name: str, seeds: int) -> None:
    assert f"did you mean {seeds / 1000:g}?" in sentence(**{name: seeds})


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"server_url": ""}, "server_url must be a URL like 'wss://host' (got '')"),
        ({"server_url": None}, "server_url must be a URL like 'wss://host' (got None)"),
        (
            {"server_url": []},
            "server_url has no address in it; give a URL like 'wss://host', or several different ones",
        ),
        (
            {"server_url": ["wss://a", "wss://b", "wss://a/"]},
            "server_url names 'wss://a/' twice; give a URL like 'wss://host', or several different ones",
        ),
        ({"server_url": ["wss://a", 7]}, "server_url must be a URL like 'wss://host' (got 7)"),
        (
            {"server_url": ["wss://a", "ws://gateway.lan"]},
            "server_url 'ws://gateway.lan/' is not encrypted; use wss://, or allow_insecure=True in a trusted network",
        ),
        ({"server_url": "host:3000"}, "server_url must start with ws:// or wss:// and name a host (got 'host:3000')"),
        ({"server_url": "wss://"}, "server_url must start with ws:// or wss:// and name a host (got 'wss://')"),
        ({"server_url": "ftp://host"}, "server_url must start with ws:// or wss:// and name a host (got 'ftp://host')"),
        ({"server_url": "wss://host:99999"}, "server_url has an invalid port (got 'wss://host:99999')"),
        ({"server_url": "wss://host:port"}, "server_url has an invalid port (got 'wss://host:port')"),
        ({"server_url": "wss://[::1"}, "server_url is not a URL: Invalid IPv6 URL (got 'wss://[::1')"),
        (
            {"server_url": "wss://me:secret@host"},
            "server_url must not carry a user name or password; pass headers= instead",
        ),
        (
            {"server_url": "ws://gateway.lan"},
            "server_url 'ws://gateway.lan/' is not encrypted; use wss://, or allow_insecure=True in a trusted network",
        ),
        ({"client_id": ""}, "client_id must be a text that is not empty (got '')"),
        ({"client_id": "  "}, "client_id must be a text that is not empty (got '  ')"),
        ({"client_id": 5}, "client_id must be a text that is not empty (got 5)"),
        ({"private_key": None}, "give either private_key_path or private_key (got both or neither)"),
        ({"private_key_path": "k.pem"}, "give either private_key_path or private_key (got both or neither)"),
        ({"private_key_path": 5}, "private_key_path must be the path of a file (got 5)"),
        ({"private_key_path": ""}, "private_key_path must be the path of a file (got '')"),
        ({"private_key_path": b"k.pem"}, "private_key_path must be the path of a file (got b'k.pem')"),
        (
            {"private_key": 5},
            "private_key must be PEM text or bytes, a key object, or a function that signs (got int)",
        ),
        (
            {"private_key": "keys/secret.pem"},
            "private_key must be PEM text, '-----BEGIN ...'; for a file give private_key_path",
        ),
        ({"passphrase": 5}, "passphrase must be text or bytes, or a function that returns one (got int)"),
        ({"signature_algorithm": 5}, "signature_algorithm must be a text like 'RSA-SHA256' (got 5)"),
        ({"auto_reconnect": 1}, "auto_reconnect must be True or False (got 1)"),
        ({"auto_connect": "yes"}, "auto_connect must be True or False (got 'yes')"),
        ({"allow_insecure": None}, "allow_insecure must be True or False (got None)"),
        ({"allow_readable_key": 0}, "allow_readable_key must be True or False (got 0)"),
        (
            {"max_reconnect_attempts": -1},
            "max_reconnect_attempts must be a whole number >= 0, or None for ever (got -1)",
        ),
        (
            {"max_reconnect_attempts": 1.5},
            "max_reconnect_attempts must be a whole number >= 0, or None for ever (got 1.5)",
        ),
        ({"max_message_size": 1000}, "max_message_size must be a whole number of bytes >= 1024 (got 1000)"),
        ({"max_unread_bytes": 1e6}, "max_unread_bytes must be a whole number of bytes >= 1024 (got 1000000.0)"),
        ({"max_unread_bytes": True}, "max_unread_bytes must be a whole number of bytes >= 1024 (got True)"),
        ({"ssl_context": True}, "ssl_context must be an ssl.SSLContext or None (got True)"),
        ({"headers": ["a"]}, "headers must map names to texts (got list)"),
        ({"headers": "X: y"}, "headers must map names to texts (got str)"),
        ({"headers": None}, "headers must map names to texts (got NoneType)"),
        (
            {"headers": {"X-A": "secret\r\nX-B: 1"}},
            "headers must map names to texts without line breaks (see 'X-A')",
        ),
        ({"headers": {"X-A": 5}}, "headers must map names to texts without line breaks (see 'X-A')"),
        (
            {"proxy": "ftp://me:secret@host"},
            "proxy must be a URL like 'http://host:3128', '' for none, or None for the environment's",
        ),
        ({"proxy": 5}, "proxy must be a URL like 'http://host:3128', '' for none, or None for the environment's"),
        (
            {"proxy": "http://host:port"},
            "proxy must be a URL like 'http://host:3128', '' for none, or None for the environment's",
        ),
        (
            {"proxy": "http://[::1"},
            "proxy must be a URL like 'http://host:3128', '' for none, or None for the environment's",
        ),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(wrong: dict[str, Any], expected: str) -> None:
    assert sentence(**wrong) == expected


@pytest.mark.parametrize("algorithm", ["SHA1", "RSA-MD5", "RSA-PSS", ""])
def test_a_wrong_algorithm_is_named_with_what_is_allowed(algorithm: str) -> None:
    text = sentence(signature_algorithm=algorithm)
    assert text.startswith(f"signature_algorithm {algorithm!r} is ")
    assert "SHA256, SHA384 or SHA512" in text


def test_every_option_has_a_sentence_of_its_own() -> None:
    checked = {"server_url", "client_id", "private_key_path", "private_key", "passphrase", "signature_algorithm"}
    checked |= {"auto_reconnect", "auto_connect", "allow_insecure", "allow_readable_key", "max_reconnect_attempts"}
    checked |= {"max_message_size", "max_unread_bytes", "ssl_context", "headers", "proxy", *TIMES}
    assert checked == {field.name for field in attrs.fields(ClientOptions)}


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    [
        {"private_key": PEM},
        {"private_key": PEM, "passphrase": "s3cret"},
        {"headers": {"Authorization": "s3cret"}},
        {"proxy": "http://me:s3cret@host"},
        {"ssl_context": ssl.create_default_context()},
    ],
)
def test_no_secret_is_in_the_repr_of_options_or_client(secret: dict[str, Any]) -> None:
    for shown in (repr(options(**secret)), repr(WSClient.from_options(options(**secret)))):
        assert "secret" not in shown
        assert "s3cret" not in shown
        assert "SSLContext" not in shown


@pytest.mark.parametrize(
    "wrong", [{"private_key": "s3cret"}, {"passphrase": ["s3cret"]}, {"headers": {"a\n": "s3cret"}}]
)
def test_no_secret_is_in_a_sentence(wrong: dict[str, Any]) -> None:
    assert "s3cret" not in sentence(**wrong)
