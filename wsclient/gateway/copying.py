"""Clients that move from one registry to another: which are new there, and which are there already, or otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

__all__ = ["TakenOver"]

# What a gateway writes at each login says nothing about who the client is.
_OF_THE_LAST_LOGIN = frozenset({"lastConnected", "lastIP"})


@attrs.frozen(slots=True)
class TakenOver:
    """What was done with clients from elsewhere, by their names.

    Attributes:
        copied: were not there.
        overwritten: were there otherwise, and are now as they were elsewhere.
        unchanged: were there already, the last login aside.
        differing: are there otherwise, and stay so.
        news: the entries to write, by id.
    """

    copied: tuple[str, ...] = ()
    overwritten: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()
    news: Mapping[str, dict[str, Any]] = attrs.field(factory=dict, repr=False, hash=False)

    @classmethod
    def compare(
        cls, entries: Iterable[dict[str, Any]], here: Mapping[str, dict[str, Any]], overwrite: bool = False
    ) -> TakenOver:
        """Decide about each entry.

        Args:
            entries: those from elsewhere.
            here: those that are here, by id.
            overwrite: whether those that differ are taken over too.
        """
        names: dict[str, list[str]] = {"copied": [], "overwritten": [], "unchanged": [], "differing": []}
        news = {}
        for entry in entries:
            other = here.get(entry["id"])
            if other is None:
                fate = "copied"
            elif _identity(other) == _identity(entry):
                fate = "unchanged"
            else:
                fate = "overwritten" if overwrite else "differing"
            names[fate].append(str(entry.get("name")))
            if fate in ("copied", "overwritten"):
                news[entry["id"]] = entry
        return cls(**{fate: tuple(found) for fate, found in names.items()}, news=news)


def _identity(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in _OF_THE_LAST_LOGIN}
