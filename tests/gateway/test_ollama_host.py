"""OLLAMA_HOST means the same to us as to Ollama's own clients (ollama_api.md section 0)."""

from __future__ import annotations

import pytest

from wsclient.gateway.ollama_host import is_loopback, parse_ollama_host


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        (":56789", "http://127.0.0.1:56789"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:56789", "http://1.2.3.4:56789"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:56789", "https://1.2.3.4:56789"),
        ("HTTPS://Example.com", "https://example.com:443"),
        ("example.com/", "http://example.com:11434"),
        ("example.com:56789/path/", "http://example.com:56789/path"),
        ("https://example.com/a/b", "https://example.com:443/a/b"),
        ("[2001:db8::1]:56789", "http://[2001:db8::1]:56789"),
        ("https://[2001:db8::1]/path", "https://[2001:db8::1]:443/path"),
        ("2001:db8::1", "http://[2001:db8::1]:11434"),
        ("'example.com'", "http://example.com:11434"),
    ],
)
def test_scheme_port_and_path_are_filled_in(text: str | None, url: str) -> None:
    assert parse_ollama_host(text) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:8080/x", "http://127.0.0.1:8080/x"),
        ("::", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
    ],
)
def test_an_address_to_listen_on_becomes_one_to_connect_to(text: str, url: str) -> None:
    assert parse_ollama_host(text) == url


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ftp://example.com", "must begin with http:// or https://"),
        ("example.com:99999", "a port from 1 to 65535"),
        ("example.com:x", "a port from 1 to 65535"),
        ("http://user:secret@example.com", "must not have a user name or password"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason_and_no_secret(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="OLLAMA_HOST") as caught:
        parse_ollama_host(text)
    assert complaint in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://127.8.9.10", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://ollama.localhost", True),
        ("http://10.0.0.1", False),
        ("http://notlocalhost", False),
    ],
)
def test_loopback_is_known_by_its_name(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected
