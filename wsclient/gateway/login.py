"""Whether a login is right: blocking, the registered key, the signature.

Nobody learns from a refusal which of these it was. An unknown client's signature is checked as well, against a key
whose private half nobody has, and no refusal leaves before `_REFUSAL_TIME`: RSA and EC keys of different sizes take
different times to say no. Before any refusal, whatever its reason, the clients file is looked at again: somebody may
have registered this client a moment ago.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any

from ..core.auth import verify_signature
from ..keys import load_public_key
from .conversation import Verify
from .guard import Guard, LoginGuard, Refusal
from .registry import ClientRegistry, RegisteredClient

__all__ = ["LoginDesk"]

_log = logging.getLogger(__name__)

_REFUSAL_TIME = 0.05
# At most one look at the clients file in this time, however many logins fail; all that came before it share it. Less
# than half of the above, so that waiting for it cannot be told from a refusal without.
_LOOK_EVERY = 0.02

_NOBODYS_KEY = """-----BEGIN PUBLIC KEY-----
MIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEA6SBajDrXJMfhgsx0sPbR
ygIUwOU6q9+qKpqzzri2OikxKBjknLGfuJ21OZiHMXtSAc8Fom+N2uvq4jVex0uc
zH9lMKNZkLqatVo73s5KMEl/IYNBJ2COh8PHZe/K2lr99IQ74d377QhFoOleT465
uJONWtgwVG1zOLEOY5F4BYCu4eA6bmsPR2cNhdBElxRVx8bhdipyQ5kkMcqe4Uql
86SA44Q8PCUxLcMtOJEqm3UYAZfcP33q+4OUGVCYVN8EU3qSMJv4bVz7eTlqf05Z
ZuR9AsfiWxIoQLnXcvHCSJP8l+12W2h8ZWIsc05IfoObO50PmAFcZTz2VmkfqpnP
iJB8T75jcdafH1K9PoKCdoEv7AbXd7OVQr45V/RRAH7e7aQFnWXz9vGiB1stY5Cw
UbIbGGF6f8k7nPyWN8Dvy6/hbbTn3xcYDIE4rJibvyPgIXwCqFZwi6p+raSjH1D3
cEFDcYa5FqCkEL4kQwFcQsAbjSlY+JMs845Qw0TNu91nAgMBAAE=
-----END PUBLIC KEY-----
"""


class _OwnGuard:
    """The gateway's own `LoginGuard`, asked as one that several gateways share (`Guard`)."""

    def __init__(self, guard: LoginGuard) -> None:
        self._guard = guard

    async def blocked_for(self, address: str, client_id: str) -> int | None:
        return self._guard.blocked_for(address, client_id, time.monotonic())

    async def failure(self, address: str, client_id: str) -> Refusal:
        return self._guard.failure(address, client_id, time.monotonic())

    async def success(self, address: str, client_id: str) -> None:
        self._guard.success(address, client_id)


class LoginDesk:
    """Judges the logins of one gateway.

    Args:
        registry: the registered clients; read before, so that asking it needs no disk.
        guard: counts the failures; a `LoginGuard` counts those at this gateway.
        executor: where signatures are verified. A verification costs a millisecond, most of it outside of the
            interpreter lock, and in a thread it does not hold up everybody's tokens; one thread, so that a flood of
            logins takes one core at most.
        look_again: reads the clients file if it is another one than before; never when left out.
    """

    def __init__(
        self,
        registry: ClientRegistry,
        guard: LoginGuard | Guard,
        executor: Executor,
        look_again: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._registry = registry
        self._guard: Guard = _OwnGuard(guard) if isinstance(guard, LoginGuard) else guard
        self._executor = executor
        self._look_again = look_again
        self._nobodys_key = load_public_key(_NOBODYS_KEY)
        self._looked_at = float("-inf")
        # The look that has not begun yet, for whoever asks meanwhile.
        self._next_look: asyncio.Task[None] | None = None

    async def check(self, attempt: Verify, address: str) -> str | Refusal:
        """Judge a login.

        Args:
            attempt: what the client sent, and the challenge that it was given.
            address: where it comes from.

        Returns:
            The id of the client that it is, or how it is refused.

        Raises:
            CannotCountError: nobody can log in now, right or wrong.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        claimed_id = _as_text(attempt.client_id)
        blocked_for = await self._guard.blocked_for(address, claimed_id)
        if blocked_for is not None:
            return Refusal(0, blocked_for)
        before = self._find(attempt.client_id, address)
        key = await self._judge(attempt, address, before)
        if key is None:
            await self._look()
            now = self._find(attempt.client_id, address)
            if now is not None and _login_of(now) != _login_of(before):
                key = await self._judge(attempt, address, now)
        if key is not None:
            await self._guard.success(address, claimed_id)
            if self._registry.note_login(attempt.client_id, address, time.time(), key):
                _log.info("client %s has logged in with its new key; the old one is no longer valid", attempt.client_id)
            return str(attempt.client_id)
        refusal = await self._guard.failure(address, claimed_id)
        await asyncio.sleep(_REFUSAL_TIME - (loop.time() - started))
        return refusal

    async def _judge(self, attempt: Verify, address: str, client: RegisteredClient | None) -> str | None:
        """Return the PEM of the client's key that made the signature, `None` when none did."""
        keys = {} if client is None else client.login_keys
        algorithm = client.signature_algorithm if client is not None else "SHA256"
        loop = asyncio.get_running_loop()
        for pem, key in (keys or {"": self._nobodys_key}).items():
            is_right = await loop.run_in_executor(
                self._executor, verify_signature, key, attempt.challenge, attempt.signature, algorithm
            )
            # Asked again: it may have been revoked, or been given another key, in the meantime.
            now = self._find(attempt.client_id, address)
            if is_right and now is not None and pem in now.login_keys and now.signature_algorithm == algorithm:
                return pem
        return None

    async def _look(self) -> None:
        """Look at the clients file, at a time that is not before this call."""
        if self._look_again is None:
            return
        if self._next_look is None:
            self._next_look = asyncio.get_running_loop().create_task(self._look_in_turn())
        # Shielded: a client that goes away meanwhile must not take the look from the others.
        await asyncio.shield(self._next_look)

    async def _look_in_turn(self) -> None:
        assert self._look_again is not None
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._looked_at + _LOOK_EVERY - loop.time())
        self._next_look, self._looked_at = None, loop.time()
        await self._look_again()

    def _find(self, client_id: Any, address: str) -> RegisteredClient | None:
        client = self._registry.get(client_id) if isinstance(client_id, str) else None
        return client if client is not None and client.allows_address(address) else None


def _login_of(client: RegisteredClient | None) -> tuple[str | None, ...] | None:
    """Return what a verdict about a client's signature rests on."""
    return None if client is None else (client.public_key, client.pending_key, client.signature_algorithm)


def _as_text(client_id: Any) -> str:
    return client_id if isinstance(client_id, str) else json.dumps(client_id)
