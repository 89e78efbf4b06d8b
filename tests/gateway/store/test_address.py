"""URLs of stores: what they mean, and that a password is never shown. 0.1 s."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.store.address import StoreAddress, check_prefix

SECRET = "s3cr3t-of-the-store"


@pytest.mark.parametrize(
    ("url", "host", "port", "db", "shown"),
    [
        ("redis://localhost", "localhost", 6379, 0, "redis://localhost:6379/0"),
        ("redis://10.0.0.5:7000/3", "10.0.0.5", 7000, 3, "redis://10.0.0.5:7000/3"),
        ("rediss://:pw@[::1]:1/2", "::1", 1, 2, "rediss://[::1]:1/2"),
        (" redis://me:a%40b@host?db=4 ", "host", 6379, 4, "redis://host:6379/4"),
    ],
)
def test_a_url_names_host_port_and_database(url: str, host: str, port: int, db: int, shown: str) -> None:
    address = StoreAddress.parse(url)
    assert (address.host, address.port, address.db, address.shown) == (host, port, db, shown)


def test_a_socket_is_a_path_and_its_database_a_parameter() -> None:
    address = StoreAddress.parse(f"unix://:{SECRET}@/run/redis/a%20b.sock?db=2")
    assert (address.socket_path, address.db, address.password) == ("/run/redis/a b.sock", 2, SECRET)
    assert address.shown == "unix:///run/redis/a b.sock?db=2"


def test_user_and_password_are_unquoted() -> None:
    address = StoreAddress.parse("redis://us%3Aer:p%40ss%2F@host")
    assert (address.username, address.password) == ("us:er", "p@ss/")


def test_files_for_tls_are_parameters() -> None:
    address = StoreAddress.parse("rediss://host?ssl_ca_certs=/etc/ca.pem")
    assert (address.is_encrypted, address.tls_files) == (True, {"ssl_ca_certs": "/etc/ca.pem"})


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"http://:{SECRET}@host", "must be a URL like redis://"),
        (f"{SECRET}", "must be a URL like redis://"),
        (None, "must be a URL like redis://"),
        (f"redis://:{SECRET}@", "it names no host"),
        (f"redis://:{SECRET}@host:port", "host or port is wrong"),
        (f"redis://:{SECRET}@host:99999", "host or port is wrong"),
        (f"redis://:{SECRET}@[host", "host or port is wrong"),
        (f"redis://:{SECRET}@host/one", "must name its database by a number"),
        (f"redis://:{SECRET}@host/-1", "must name its database by a number"),
        (f"redis://:{SECRET}@host/#1", "must have no '#'"),
        (f"unix://:{SECRET}@relative/path", "must be unix:///absolute/path.sock"),
        (f"redis://host?password={SECRET}", "may have only the parameters db"),
        (f"rediss://:{SECRET}@host?ssl_cert_reqs=none", "may have only the parameters db, ssl_ca_certs"),
        (f"rediss://:{SECRET}@host?ssl_check_hostname=no", "may have only the parameters db, ssl_ca_certs"),
    ],
)
def test_what_is_no_url_of_a_store_is_refused_without_showing_it(url: object, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("(", r"\(").replace("?", r"\?")) as caught:
        StoreAddress.parse(url)
    assert SECRET not in str(caught.value)


def test_no_repr_shows_the_password() -> None:
    url = f"redis://user:{SECRET}@host"
    assert SECRET not in repr(StoreAddress.parse(url)) + repr(GatewaySettings(store=url))


def test_a_setting_that_is_wrong_does_not_show_the_password() -> None:
    with pytest.raises(ValueError, match=r"^the environment variable WSCLIENT_STORE: store must name its") as caught:
        GatewaySettings.from_env({"WSCLIENT_STORE": f"redis://:{SECRET}@host/x"})
    assert SECRET not in str(caught.value)


def test_the_store_can_come_from_the_environment() -> None:
    assert GatewaySettings.from_env({"WSCLIENT_STORE": "redis://host/1"}).store == "redis://host/1"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"store": "redis://host", "clients_file": "a.json"}, "clients_file is of no use with store"),
        ({"store_password_file": "a"}, "store_password_file is of no use without store"),
        ({"store_prefix": ""}, "store_prefix must be 1 to 64 printable characters"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        GatewaySettings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["", "a" * 65, "a\nb", None])
def test_a_prefix_is_short_and_printable(prefix: object) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64 printable characters"):
        check_prefix(prefix)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text(f"{SECRET}\n")
    return path


def test_the_password_can_be_in_a_file(password_file: Path) -> None:
    settings = GatewaySettings(store="redis://user@host", store_password_file=password_file)
    address = settings.find_store()
    assert address is not None
    assert (address.username, address.password) == ("user", SECRET)


def test_a_password_file_that_others_can_read_is_refused(password_file: Path) -> None:
    password_file.chmod(0o644)
    if os.geteuid() == 0:
        # Root's own files may be readable: so are container secrets. Writable ones are nobody's secret.
        password_file.chmod(0o666)
    with pytest.raises(ValueError, match="by others") as caught:
        StoreAddress.parse("redis://host").with_password_from(password_file)
    assert SECRET not in str(caught.value)


def test_two_passwords_are_one_too_many(password_file: Path) -> None:
    with pytest.raises(ValueError, match="in the store's URL and in a file"):
        StoreAddress.parse("redis://:other@host").with_password_from(password_file)


def test_an_empty_password_file_is_refused(password_file: Path) -> None:
    password_file.write_text(" \n")
    with pytest.raises(ValueError, match="holds no password"):
        StoreAddress.parse("redis://host").with_password_from(password_file)
