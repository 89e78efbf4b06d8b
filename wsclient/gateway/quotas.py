"""What each client may use (`limits` and `models` in the clients file), and what it uses now. Pure.

A limit that the file has wrong locks nobody out, and is no open door either: the gateway's default holds, and where it
has none, a cautious one does.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import attrs

from .guard import RequestGuard
from .settings import GatewaySettings

if TYPE_CHECKING:
    from .backends import Backend, GenerateRequest

__all__ = ["Accounts", "ClientQuota", "Limits", "crowd_message", "rate_message"]

# Names are matched against patterns; no model has a longer one.
_MAX_MODEL_CHARS = 512
_LATEST = ":latest"


@attrs.frozen(slots=True)
class _Limit:
    """One of the file's limits: our name, what is allowed, and what holds when it is wrong and has no default."""

    name: str
    low: int
    high: int
    cautious: int


_LIMITS = {
    "maxOpenGenerations": _Limit("max_open_generations", 0, 1_000_000, 4),
    "requestsPerMinute": _Limit("requests_per_minute", 0, 100_000, 60),
    "maxPromptBytes": _Limit("max_prompt_size", 1, 1 << 30, 64 << 10),
    "maxMessageBytes": _Limit("max_message_size", 8192, 1 << 30, 1 << 20),
}


@attrs.frozen(slots=True)
class ClientQuota:
    """What the clients file says about a client's use of the gateway.

    Attributes:
        limits: by our names; what the file does not say is missing.
        broken: our names of the limits that it has wrong.
        models: names and patterns (`llama3*`) of the models that it may use; `None` for all.
        problems: what is wrong, for the administrator.
    """

    limits: Mapping[str, int] = attrs.field(factory=dict, hash=False)
    broken: frozenset[str] = frozenset()
    models: tuple[str, ...] | None = None
    problems: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ClientQuota:
        """Read the fields `limits` and `models` of a client's entry; never fails."""
        if entry.get("limits") is None and entry.get("models") is None:
            return _NO_QUOTA
        limits, broken, problems = _read_limits(entry.get("limits"))
        models, faults = _read_models(entry.get("models"))
        return cls(limits, frozenset(broken), models, (*problems, *faults))


_NO_QUOTA = ClientQuota()


def _read_limits(given: object) -> tuple[dict[str, int], set[str], list[str]]:
    if given is None:
        return {}, set(), []
    if not isinstance(given, dict):
        return {}, {limit.name for limit in _LIMITS.values()}, [_problem("limits must be an object", given)]
    limits: dict[str, int] = {}
    broken: set[str] = set()
    problems = []
    for key, value in given.items():
        limit = _LIMITS.get(key)
        if limit is None:
            near = difflib.get_close_matches(key, _LIMITS, n=1)
            problems.append(f"limits has no {key[:60]!r}" + (f"; did you mean {near[0]}?" if near else ""))
            # A slip of the pen means the limit that it resembles.
            broken.update(_LIMITS[name].name for name in near if name not in given)
        elif isinstance(value, int) and not isinstance(value, bool) and limit.low <= value <= limit.high:
            limits[limit.name] = value
        elif value is not None:
            broken.add(limit.name)
            problems.append(_problem(f"limits.{key} must be a whole number from {limit.low} to {limit.high}", value))
    return limits, broken, problems


def _read_models(given: object) -> tuple[tuple[str, ...] | None, list[str]]:
    if given is None:
        return None, []
    if not isinstance(given, list):
        return (), [_problem("models must be an array of names or patterns", given) + "; it may use none"]
    problems = [_problem("models has an item that is no name", item) for item in given if not _is_name(item)]
    return tuple(item.strip() for item in given if _is_name(item)), problems


def _is_name(item: object) -> bool:
    return isinstance(item, str) and bool(item.strip())


def _problem(what: str, value: object) -> str:
    return f"{what} (got {repr(value)[:60]})"


@attrs.frozen(kw_only=True, slots=True)
class Limits:
    """What holds for one client; `None` for no limit. Sizes are bytes."""

    max_message_size: int
    max_open_generations: int | None = None
    requests_per_minute: int | None = None
    max_prompt_size: int | None = None
    models: tuple[str, ...] | None = None

    @classmethod
    def of(cls, settings: GatewaySettings, quota: ClientQuota | None = None) -> Limits:
        """Return the gateway's defaults with what the clients file says about one client."""
        values: dict[str, Any] = {limit.name: getattr(settings, limit.name) for limit in _LIMITS.values()}
        if quota is None:
            return cls(**values)
        for limit in _LIMITS.values():
            if limit.name in quota.broken and values[limit.name] is None:
                values[limit.name] = limit.cautious
        return cls(**{**values, **quota.limits}, models=quota.models)

    def allows_model(self, name: object) -> bool:
        """Tell whether the client may use a model; `llama2` and `llama2:latest` are the same one, as for Ollama."""
        if self.models is None:
            return True
        if not isinstance(name, str) or len(name) > _MAX_MODEL_CHARS:
            return False
        spellings = [name]
        if name.endswith(_LATEST):
            spellings.append(name.removesuffix(_LATEST))
        elif ":" not in name.rpartition("/")[2]:
            spellings.append(name + _LATEST)
        return any(fnmatchcase(spelling, pattern) for spelling in spellings for pattern in self.models)


def rate_message(limits: Limits, seconds: int) -> str:
    """Return what is said to a request that is one too many."""
    return f"More than {limits.requests_per_minute} requests a minute. Please try again in {seconds} seconds."


def crowd_message(most: int) -> str:
    """Return what is said to a generation that is one too many."""
    return f"More than {most} generations are open for this client"


class Accounts:
    """What the clients of one gateway may use, and use, each over all of its connections.

    `store/accounts.py` counts for several gateways together; it has to ask another machine, so it does that in front of
    the backend (`over`), where it can be waited for.

    Not thread-safe: it belongs to the gateway's event loop.

    Args:
        settings: the gateway's.
        quota_of: what the clients file says now about a client id; must not block. `None` for nothing.
        guard: counts requests.

    Attributes:
        open_generations: how many each client has open, by client id.
        open_bytes: how large its open requests are together.
        refused: how many requests each limit has turned away, by the setting's name.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        quota_of: Callable[[str], ClientQuota | None] = lambda _: None,
        guard: RequestGuard | None = None,
    ) -> None:
        self._settings = settings
        self._quota_of = quota_of
        self._guard = guard if guard is not None else RequestGuard()
        self._defaults = Limits.of(settings)
        self.open_generations: Counter[str] = Counter()
        self.open_bytes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def limits_of(self, client_id: str) -> Limits:
        """Return what holds for a client now: the file may have changed since the last question."""
        quota = self._quota_of(client_id)
        return self._defaults if quota is None or quota is _NO_QUOTA else Limits.of(self._settings, quota)

    def admit(self, client_id: str, limits: Limits, now: float) -> int | None:
        """Count a request; return `None`, or in how many seconds it will be admitted (`RequestGuard.admit`)."""
        if limits.requests_per_minute is None:
            return None
        return self._guard.admit(client_id, limits.requests_per_minute, now)

    def begin_generation(self, client_id: str) -> None:
        """Take note that a generation of a client begins."""
        self.open_generations[client_id] += 1

    def end_generation(self, client_id: str) -> None:
        """Take note that one has ended."""
        self.open_generations[client_id] -= 1
        if self.open_generations[client_id] <= 0:
            del self.open_generations[client_id]

    def has_room(self, client_id: str, size: int) -> bool:
        """Return whether a client may have so many bytes more in open requests; one alone may be of any size."""
        held = self.open_bytes[client_id]
        return not size or not held or held + size <= self._settings.max_open_bytes

    def hold_bytes(self, client_id: str, size: int) -> None:
        """Take note that a request of a client, so many bytes of JSON, is open."""
        self.open_bytes[client_id] += size

    def let_go_of_bytes(self, client_id: str, size: int) -> None:
        """Take note that it no longer is."""
        self.open_bytes[client_id] -= size
        if self.open_bytes[client_id] <= 0:
            del self.open_bytes[client_id]

    def over(self, backend: Backend, client_id: Callable[[], str | None]) -> Backend:
        """Return what one connection asks for generations and lists of models.

        Args:
            backend: the model server, for everybody.
            client_id: who has logged in on that connection.
        """
        return backend

    def let_go(self, request: GenerateRequest) -> None:
        """Take note that a generation that was asked for behind `over` counts no longer; any number of times."""
