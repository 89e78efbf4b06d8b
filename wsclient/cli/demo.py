"""`wsclient demo`: all of it on one machine, each part the real one."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from ..client import WSClient
from ..errors import ServerError
from ..gateway.backends import BackendError
from ..gateway.errors import GatewayError
from ..gateway.ollama_host import DEFAULT_OLLAMA_URL, parse_ollama_host
from ..gateway.registry import ClientRegistry, RegistryError
from ..gateway.settings import GatewaySettings
from ..keys import fingerprint, generate_key, public_pem, save_key_pair
from . import terminal
from .command import Command
from .failures import Failure, describe
from .signals import ending_in_order
from .streaming import duration, stream_answer

__all__ = ["ModelChoice", "choose_model", "demo", "pick_model"]

_PROMPT = "Explain in a few sentences what a WebSocket is."
_PROBE_TIMEOUT = 2.0


@click.command(
    "demo",
    cls=Command,
    examples="""
        wsclient demo
        wsclient demo "Write a haiku about rain"
        wsclient demo --backend=builtin
        """,
)
@click.argument("prompt", default=_PROMPT)
@click.option(
    "--backend",
    type=click.Choice(["ollama", "builtin"]),
    help="Where the text comes from; Ollama if one answers, else the built-in model, when left out.",
)
def demo(prompt: str, backend: str | None) -> None:
    """Stream an answer to PROMPT through a real login over a real WebSocket, all on this machine.

    Makes a key pair and a clients file in a temporary folder, starts a gateway on a free port that only this machine
    can reach, logs in, generates, and removes everything again. Ollama is looked for at OLLAMA_HOST, else at
    localhost:11434.
    """
    if not prompt.strip():
        raise click.UsageError("the prompt is empty", click.get_current_context())
    with ending_in_order(), tempfile.TemporaryDirectory(prefix="wsclient-demo-") as folder:
        _run(Path(folder), prompt, backend)


def _run(folder: Path, prompt: str, backend: str | None) -> None:
    # Here, because aiohttp takes longer to import than most commands take to run.
    from ..gateway.thread import GatewayThread

    terminal.show_line("All of this happens on this machine, and is removed again at the end.", "dim")
    # An RSA key takes seconds to make, and nobody keeps this one.
    key = generate_key("ec")
    paths = save_key_pair(key, folder / "keys", "demo")
    _show("key pair", f"EC P-256, {fingerprint(key)}")
    choice = choose_model(backend)
    _show("model", f"{choice.model} ({choice.why})")
    if choice.backend == "builtin":
        _show("", "It has read only Python's documentation: expect words, not sense.")
    settings = choice.settings(folder / "data")
    try:
        registered = ClientRegistry(settings.clients_path).register("demo", public_pem(key))
        _show("client", f"registered with the id {registered.id}")
        with GatewayThread(settings) as gateway:
            _show("gateway", f"{gateway.url}, for this machine only")
            # A proxy from the environment never leads back to this machine.
            client = WSClient(gateway.url, client_id=registered.id, private_key_path=paths.private, proxy="")
            _converse(client, prompt)
    except (GatewayError, RegistryError) as error:
        raise Failure(str(error)) from error
    except ServerError as error:
        if choice.backend == "builtin":
            raise
        raise Failure(f"{describe(error)} Without Ollama: wsclient demo --backend=builtin") from error


def _converse(client: WSClient, prompt: str) -> None:
    begun = time.monotonic()
    with client:
        _show("login", f"challenge signed with the key, accepted after {duration(time.monotonic() - begun)}")
        terminal.show_line()
        terminal.show_line(f"> {prompt}", "bold")
        terminal.show_line()
        figures = stream_answer(client, prompt)
    terminal.show_line()
    terminal.show_line(str(figures), "green")
    terminal.show_line("To do it yourself: wsclient generate-keys, register-client, serve, generate", "dim")


def _show(name: str, value: str) -> None:
    terminal.show_facts([(f"{name:<8}", value)])


# --- the model --------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ModelChoice:
    """Which model the demo uses.

    Attributes:
        backend: of the gateway.
        model: its name.
        why: what the user should know about it.
        ollama_url: where Ollama is, if it is one of Ollama's.
    """

    backend: str
    model: str
    why: str
    ollama_url: str = DEFAULT_OLLAMA_URL

    def settings(self, data_dir: Path) -> GatewaySettings:
        """Return the settings of a gateway for it, on a free port."""
        return GatewaySettings(
            port=0,
            data_dir=data_dir,
            backend=self.backend,
            default_model=self.model,
            ollama_url=self.ollama_url,
            drain=0.0,
        )


def choose_model(backend: str | None) -> ModelChoice:
    """Look for Ollama and decide.

    Args:
        backend: what the user wants; `None` for Ollama if it can be had.

    Raises:
        Failure: Ollama is wanted and cannot be had.
    """
    if backend == "builtin":
        return _builtin("you asked for it")
    try:
        url = parse_ollama_host(os.environ.get("OLLAMA_HOST"))
        models = asyncio.run(_list_ollama(url))
    except (ValueError, BackendError) as error:
        reason = str(error)
    else:
        preferred = os.environ.get("OLLAMA_DEFAULT_MODEL") or GatewaySettings().default_model
        model = pick_model(models or [], preferred)
        if model is not None:
            return ModelChoice(backend="ollama", model=model, why=f"by Ollama at {url}", ollama_url=url)
        reason = f"no Ollama answers at {url}"
        if models is not None:
            reason = f"Ollama at {url} has no model that writes text; get one with: ollama pull llama3.2"
    if backend == "ollama":
        raise Failure(f"{reason}; without --backend=ollama the demo uses the built-in model")
    return _builtin(reason)


def _builtin(reason: str) -> ModelChoice:
    return ModelChoice(backend="builtin", model="builtin:latest", why=f"because {reason}")


async def _list_ollama(url: str) -> list[dict[str, Any]] | None:
    """Return the models that Ollama has, `None` when there is no Ollama."""
    from ..gateway.backends.ollama import OllamaBackend, is_ollama_answering

    if not await is_ollama_answering(url, _PROBE_TIMEOUT):
        return None
    ollama = OllamaBackend(url, request_timeout=_PROBE_TIMEOUT)
    try:
        return await ollama.list_models()
    finally:
        await ollama.close()


def pick_model(models: Sequence[dict[str, Any]], preferred: str) -> str | None:
    """Return the name of the model to use.

    Args:
        models: as Ollama lists them, the newest first.
        preferred: the name of the one to use if it is there, with or without its tag.

    Returns:
        The preferred one, else the first that runs on Ollama's own machine, else the first; `None` for none.
    """
    writers = [model for model in models if isinstance(model.get("name"), str) and _writes_text(model)]
    names = [model["name"] for model in writers]
    for name in (preferred, f"{preferred}:latest"):
        if name in names:
            return name
    own = [model["name"] for model in writers if not model.get("remote_host")]
    return next(iter(own + names), None)


def _writes_text(model: dict[str, Any]) -> bool:
    capabilities = model.get("capabilities")
    if isinstance(capabilities, list):
        return "completion" in capabilities
    # Older ones do not say: embedding models are of BERT's family, or called so.
    details = model.get("details")
    family = details.get("family") if isinstance(details, dict) else None
    return "embed" not in model["name"] and "bert" not in str(family)
