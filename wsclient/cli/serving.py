"""Commands about the gateway: `serve`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..gateway.errors import GatewayError
from ..gateway.settings import GatewaySettings
from ..version import __version__
from . import terminal
from .command import Command, State, path
from .failures import Failure, refusing_wrong_values
from .logs import log_to_stderr

if TYPE_CHECKING:
    from ..gateway.server import Gateway

__all__ = ["serve"]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

# Every setting of the gateway, by name: what the help says and the original's variable, if it has one. Types,
# defaults and limits are the settings' own.
_SETTINGS: dict[str, tuple[str, str]] = {
    "host": ("Address to listen on; 127.0.0.1 is for this machine only.", "HOST"),
    "port": ("Port to listen on; 0 for a free one.", "PORT"),
    "data_dir": ("Folder of the clients file.", "DATA_DIR"),
    "clients_file": ("The clients file, if it is elsewhere.", ""),
    "store": (
        "The Redis that several gateways share, instead of a clients file: redis://, rediss:// or unix://. A password "
        "in it can be read by everybody here; give it by the variable then, or by a file.",
        "WSCLIENT_STORE",
    ),
    "store_prefix": ("What the names of all keys in the store begin with.", ""),
    "store_password_file": ("File of the store's password.", ""),
    "backend": ("ollama, openai: any server of OpenAI's API, or builtin: a small model that makes no sense.", ""),
    "ollama_url": ("Where Ollama answers. Repeatable: several share the work.", "OLLAMA_API_URL, OLLAMA_HOST"),
    "openai_url": (
        "Where a server of OpenAI's API answers; its key is read from OPENAI_API_KEY. Repeatable.",
        "OPENAI_BASE_URL",
    ),
    "openai_key_file": ("File of that key.", ""),
    "openai_api": ("chat or completions.", ""),
    "openai_options": ("standard: only what OpenAI documents, extended: also llama.cpp's and vLLM's, or auto.", ""),
    "default_model": ("Model of requests that name none.", "OLLAMA_DEFAULT_MODEL"),
    "admin_token_file": (
        "File with the token that administrators' requests over HTTP ask for; without a token they are off.",
        "or the token itself in WSCLIENT_ADMIN_TOKEN",
    ),
    "metrics_port": ("Port for /metrics, /healthz and /readyz without a token; 0 for a free one.", ""),
    "metrics_host": ("Address of that port, which must be given too.", ""),
    "allow_origin": ("Web page that may connect, as https://host; * for all. Repeatable.", ""),
    "trusted_proxy": ("Address or network of a reverse proxy whose X-Forwarded-For is believed. Repeatable.", ""),
    "tls_cert": ("PEM file of the certificate and its chain: serve wss://.", ""),
    "tls_key": ("PEM file of its private key, if it is not in the same file.", ""),
    "log_level": ("error, warn, info or debug.", "LOG_LEVEL"),
    "drain": ("Seconds that running generations have when the gateway stops.", ""),
}
_LIMITS: dict[str, tuple[str, str]] = {
    "auth_timeout": ("Seconds to log in.", "AUTH_TIMEOUT_MS"),
    "max_auth_attempts": ("Failed logins in a row before an address must wait.", "MAX_AUTH_ATTEMPTS"),
    "default_signature_algorithm": ("Of clients registered without one.", "DEFAULT_SIGNATURE_ALGORITHM"),
    "first_token_timeout": ("Seconds for the model's first token; a cold model loads meanwhile.", ""),
    "token_timeout": ("Seconds that the model may be silent after that.", ""),
    "max_running": (
        "Generations of one model at the same time, at each model server; with openai 64, with builtin any number.",
        "",
    ),
    "max_waiting": ("Generations that may wait for one model; beyond that it is busy.", ""),
    "max_wait": ("Seconds that a generation may wait for its turn.", ""),
    "write_timeout": ("Seconds that a client may read hardly anything.", ""),
    "close_timeout": ("Seconds that a client has to answer a close.", ""),
    "max_message_size": ("Bytes of one message; the clients file can say otherwise.", ""),
    "max_message_size_before_login": ("Bytes of one message before the login.", ""),
    "max_messages_before_login": ("Messages before the login.", ""),
    "max_sockets_before_login_per_address": ("Connections of one address before the login.", ""),
    "max_open_requests": ("Requests of one client at the same time.", ""),
    "max_open_bytes": ("Bytes of the requests of one client at the same time.", ""),
    "max_open_generations": ("Generations of one client at the same time; the clients file can say otherwise.", ""),
    "requests_per_minute": ("Generations and lists of models of one client; the clients file can say otherwise.", ""),
    "max_prompt_size": ("Bytes of a prompt; the clients file can say otherwise.", ""),
    "max_unsent_bytes": ("Bytes that may wait for one client to read them.", ""),
}


_DEFAULTS = GatewaySettings()
_METAVARS = {str: "TEXT", int: "NUMBER", float: "SECONDS", tuple: "TEXT"}
# Whose default does not show their type; all others without a default are paths.
_UNLIMITED = ("max_open_generations", "requests_per_minute", "max_prompt_size")
_WITHOUT_DEFAULT = {"store": str, **dict.fromkeys(_UNLIMITED, int)}


def _flags(command: _Decorated) -> _Decorated:
    for name, (text, variables) in reversed((_SETTINGS | _LIMITS).items()):
        default = getattr(_DEFAULTS, name)
        kind = int if name.endswith("_port") else _WITHOUT_DEFAULT.get(name, type(default))
        origins = [variables] if variables else []
        if default is None:
            origins += ["no limit unless given"] if name in _UNLIMITED else []
        elif default != ():
            shown = ",".join(default) if kind is tuple else f"{default:g}" if kind is float else default
            origins.append(f"default: {shown}")
        command = click.option(
            "--" + name.replace("_", "-"),
            name,
            type=str if kind is tuple else kind if kind in _METAVARS else path,
            multiple=kind is tuple,
            metavar=_METAVARS.get(kind, "PATH"),
            help=f"{text}  [{', '.join(origins)}]" if origins else text,
        )(command)
    return command


@click.command(
    "serve",
    cls=Command,
    sections={"Limits": tuple(_LIMITS)},
    examples="""
        wsclient serve
        wsclient serve --backend=builtin --port=0
        wsclient serve --ollama-url=http://gpu-box:11434 --default-model=llama3.2
        wsclient serve --backend=openai --openai-url=http://gpu-box:8000/v1
        wsclient serve --ollama-url=http://gpu1:11434 --ollama-url=http://gpu2:11434
        """,
)
@_flags
@click.pass_obj
def serve(state: State, /, **given: Any) -> None:
    """Run the gateway until Ctrl-C or SIGTERM.

    Settings come from the flags, then from the environment variables named in brackets. Clients are registered with
    register-client, while it runs too.
    """
    # Here, because aiohttp takes longer to import than most commands take to run.
    from ..gateway.server import run_gateway

    if not given["ollama_url"] and given["backend"] in (None, "ollama") and not os.environ.get("OLLAMA_API_URL"):
        given["ollama_url"] = os.environ.get("OLLAMA_HOST") or None
    with refusing_wrong_values():
        settings = GatewaySettings.from_env(**given)
    log_to_stderr(logging.DEBUG if state.is_debugging else settings.log_level_number)
    try:
        run_gateway(settings, on_ready=_show_ready)
    except GatewayError as error:
        raise Failure(str(error)) from error
    terminal.show_line("The gateway has stopped.")


def _show_ready(gateway: Gateway) -> None:
    settings = gateway.settings
    registry = gateway.registry
    count = len(registry.list())
    terminal.show_line(f"The gateway {__version__} is ready.", "bold")
    facts = [
        ("url", gateway.url),
        ("backend", " at ".join(filter(None, (settings.backend, ", ".join(settings.model_server_urls))))),
        ("default model", settings.default_model),
        (registry.kind, f"{registry.place} ({count} registered)"),
    ]
    if gateway.metrics_url:
        facts.append(("metrics", gateway.metrics_url))
    terminal.show_facts([*facts, ("stop it with", f"Ctrl-C, or: kill {os.getpid()}")])
    if not count:
        terminal.show_line("Nobody can log in yet; see: wsclient register-client --help")
