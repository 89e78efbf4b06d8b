"""Taking clients over from elsewhere, into a clients file. 0.1 s."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsclient.gateway.copying import TakenOver
from wsclient.gateway.registry import ClientRegistry

from ..support.client_files import entries, entry, new_pem, put


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authorized_clients.json"


def test_new_clients_are_added_behind_the_others_as_they_are(path: Path) -> None:
    here, other = entry("here", new_pem()), entry("other", new_pem(), color="red")
    put(path, [here])
    taken = ClientRegistry(path).take_over([other])
    assert (taken.copied, entries(path)) == (("other",), [here, other])


def test_doing_it_again_does_not_even_write(path: Path) -> None:
    one = entry("one", new_pem(), lastConnected="2026-11-22T18:33:42.377Z")
    ClientRegistry(path).take_over([one])
    before = path.stat()
    assert ClientRegistry(path).take_over([one | {"lastConnected": "2027"}]) == TakenOver(unchanged=("one",))
    assert path.stat() == before


def test_who_differs_is_named_and_stays_unless_told_otherwise(path: Path) -> None:
    here = entry("a", new_pem())
    put(path, [here])
    other = here | {"name": "b"}
    assert ClientRegistry(path).take_over([other]).differing == ("b",)
    assert entries(path) == [here]
    assert ClientRegistry(path).take_over([other], overwrite=True).overwritten == ("b",)
    assert entries(path) == [other]


def test_what_cannot_be_read_stays_where_it_is(path: Path) -> None:
    put(path, [{"odd": True}])
    ClientRegistry(path).take_over([entry("a", new_pem())])
    assert entries(path)[0] == {"odd": True}


def test_only_good_entries_are_handed_on(path: Path) -> None:
    good = entry("a", new_pem(), color="red")
    put(path, [{"odd": True}, good])
    assert ClientRegistry(path).entries() == (good,)
