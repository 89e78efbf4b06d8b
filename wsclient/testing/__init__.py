"""What you need to test code that uses wsclient: a real gateway with faults on command, or a client without a network.

    from wsclient.testing import FakeClient, Gateway

    with Gateway({"Hello": "Hi there"}) as gateway:      # everything is real but the model: needs the extra `gateway`
        assert my_code(gateway.client()) == "Hi there"
        gateway.drop()                                   # and so on, see `Gateway`

    client = FakeClient({"Hello": "Hi there"})           # no network, no thread, no server
    assert my_code(client) == "Hi there"

With pytest there are fixtures for both, see `wsclient.testing.pytest_plugin`. `ScriptedServer` plays a server message
by message, for what no gateway does; `FaultProxy` is the bad line by itself.

Nothing is loaded before it is used: pytest imports this package in every run where wsclient is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import Answer, Answers, Request, Thinking
    from .fake_client import Call, FakeClient
    from .fault_proxy import TO_CLIENT, TO_SERVER, FaultProxy
    from .gateway import Gateway
    from .scripted_server import Peer, PeerGone, Script, ScriptedServer, polite

__all__ = [
    "TO_CLIENT",
    "TO_SERVER",
    "Answer",
    "Answers",
    "Call",
    "FakeClient",
    "FaultProxy",
    "Gateway",
    "Peer",
    "PeerGone",
    "Request",
    "Script",
    "ScriptedServer",
    "Thinking",
    "polite",
]

_MODULES = {
    **dict.fromkeys(("Answer", "Answers", "Request", "Thinking"), "answers"),
    **dict.fromkeys(("Call", "FakeClient"), "fake_client"),
    **dict.fromkeys(("TO_CLIENT", "TO_SERVER", "FaultProxy"), "fault_proxy"),
    **dict.fromkeys(("Gateway",), "gateway"),
    **dict.fromkeys(("Peer", "PeerGone", "Script", "ScriptedServer", "polite"), "scripted_server"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("aiohttp", "filelock"):
            raise
        hint = f"{name} needs the extra `gateway`; in a checkout of ws-system-client run: pip install '.[gateway]'"
        raise ModuleNotFoundError(f"{error.msg}: {hint}", name=error.name) from None


def __dir__() -> list[str]:
    return sorted(__all__)
