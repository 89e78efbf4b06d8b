"""The magics `%wsclient` and `%%generate`."""

from __future__ import annotations

import keyword
import os
import shlex
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from IPython.core.display_functions import display as show
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments

from ...client import WSClient
from ...events import ModelInfo
from ...generation import Generation
from ...options import ClientOptions
from .failures import in_one_line, refusing_wrong_values
from .live import display
from .views import View, client_view

__all__ = ["WSClientMagics"]

_HOW = "%wsclient connect --config keys/NAME_config.json"
_CONNECTION = ("url", "client_id", "key", "config", "allow_insecure", "into")
_THINKING: dict[str, bool] = {"yes": True, "no": False}


@magics_class
class WSClientMagics(Magics):
    """The magics, and the one client that they use.

    Attributes:
        client: what `%wsclient connect` made.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell
        self.client: WSClient | None = None

    def close(self) -> None:
        """Close the client; idempotent."""
        client, self.client = self.client, None
        if client is not None:
            client.close()

    @magic_arguments()
    @argument("action", nargs="?", default="status", help="connect, status, models or disconnect")
    @argument("url", nargs="*", help="the gateway, such as wss://host, or several addresses of one")
    @argument("--client-id", help="the id that registering the client gave")
    @argument("--key", help="the file of the private key")
    @argument("--config", help="the file that register-client wrote; WSCLIENT_CONFIG unless given")
    @argument("--allow-insecure", action="store_true", help="allow ws:// to other machines than this one")
    @argument("--into", metavar="NAME", help="the variable to keep the client in, for Python cells")
    @line_magic
    def wsclient(self, line: str) -> list[ModelInfo] | None:
        """Connect to a gateway (%wsclient connect), look at it, and leave it.

        Whatever is not given comes from the configuration file, then from WSCLIENT_*. Connecting closes the client
        that was connected before. `%wsclient models` returns the list.
        """
        arguments = _parse(self.wsclient, line)
        if arguments.action != "connect" and any(getattr(arguments, name) for name in _CONNECTION):
            raise UsageError(f"{arguments.action} takes no arguments; they belong to: %wsclient connect")
        with in_one_line():
            match arguments.action:
                case "connect":
                    self._connect(arguments)
                case "status":
                    self._show_status()
                case "models":
                    return self._connected().list_models()
                case "disconnect":
                    self.close()
                    self._show_status()
                case other:
                    raise UsageError(f"there is no %wsclient {other}; there are connect, status, models, disconnect")
        return None

    def _connect(self, arguments: Namespace) -> None:
        name = _variable(arguments.into)
        with refusing_wrong_values():
            options = _connection_options(arguments)
        self.close()
        client = WSClient.from_options(options)
        client.connect()
        self.client = client
        if name is not None:
            self._shell.user_ns[name] = client
        self._show_status()

    def _show_status(self) -> None:
        view = View(_HOW_HTML, _HOW_TEXT) if self.client is None else client_view(self.client)
        show(view.bundle, raw=True)

    def _connected(self) -> WSClient:
        if self.client is None:
            raise UsageError(f"not connected; connect with: {_HOW}")
        return self.client

    @magic_arguments()
    @argument("model", nargs="?", help="the model's name; the server's default when left out")
    @argument("--into", metavar="NAME", help="the variable to keep the result in")
    @argument("--temperature", type=float, help="0 takes the likeliest words; 1 varies more")
    @argument("--top-p", type=float, help="only the likeliest words, with this share together")
    @argument("--top-k", type=int, help="only so many of the likeliest words")
    @argument("--max-tokens", type=int, help="at most so many tokens")
    @argument("--seed", type=int, help="the same seed gives the same text")
    @argument("--stop", action="append", help="end before this text; may be given several times")
    @argument("--system", help="instructions that come before the prompt")
    @argument("--format", choices=["json"], help="have the model answer in JSON")
    @argument("--image", action="append", metavar="FILE", help="a picture to look at; may be given several times")
    @argument("--keep-alive", metavar="TIME", help="how long the model stays loaded: 5m, or seconds")
    @argument("--think", choices=["yes", "no", "low", "medium", "high", "max"], help="whether to think first, how much")
    @argument("--first-token-timeout", type=float, metavar="SECONDS", help="until the first token")
    @argument("--token-timeout", type=float, metavar="SECONDS", help="of silence between tokens")
    @argument("--timeout", type=float, metavar="SECONDS", help="in all")
    @cell_magic
    def generate(self, line: str, cell: str) -> None:
        """Generate from the cell's text, shown as it comes.

        The text is the prompt as it stands: `{name}` and `$name` in it are left alone. In the first line IPython puts
        variables in their place, as in every magic: `--system {instructions!r}`. The result is `_` afterwards, and
        `Out[n]`. Interrupting the kernel stops the generation on the server.
        """
        options = vars(_parse(self.generate, line))
        name, model = _variable(options.pop("into")), options.pop("model")
        prompt = cell.strip("\n")
        if not prompt.strip():
            raise UsageError("the prompt is empty")
        client = self._connected()
        with in_one_line():
            # Kept by no name here, so that an interrupt in between lets go of it.
            result = display(_begin(client, prompt, model, options))
        if name is not None:
            self._shell.user_ns[name] = result
        # Returned, it would be shown a second time.
        self._shell.displayhook.update_user_ns(result)


_HOW_TEXT = f"WSClient not connected; connect with: {_HOW}"
_HOW_HTML = f"<div>○ <b>not connected</b>; connect with: <code>{_HOW}</code></div>"


def _parse(magic: Any, line: str) -> Namespace:
    # Not IPython's own split, which leaves quotes in their place.
    with refusing_wrong_values():
        words = shlex.split(line)
    arguments: Namespace = magic.parser.parse_args(words)
    return arguments


def _variable(name: str | None) -> str | None:
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise UsageError(f"--into takes the name of a variable (got {name!r})")
    return name


def _connection_options(arguments: Namespace) -> ClientOptions:
    """Return what the arguments say; they win over the file, the file over `WSCLIENT_*`."""
    urls = arguments.url[0] if len(arguments.url) == 1 else arguments.url or None
    flags = {"server_url": urls, "client_id": arguments.client_id, "private_key_path": arguments.key}
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    config = arguments.config or os.environ.get("WSCLIENT_CONFIG")
    if config:
        # Whether an unencrypted line will do is decided when everything is together.
        options = ClientOptions.from_config(Path(config).expanduser(), allow_insecure=True, **given)
        given = {name: getattr(options, name) for name in (*flags, "signature_algorithm")}
    if arguments.allow_insecure:
        given["allow_insecure"] = True
    try:
        return ClientOptions.from_env(**given)
    except ValueError as error:
        raise ValueError(str(error).replace("allow_insecure=True", "--allow-insecure")) from error


def _begin(client: WSClient, prompt: str, model: str | None, options: dict[str, Any]) -> Generation:
    with refusing_wrong_values():
        options["images"] = [Path(file).expanduser().read_bytes() for file in options.pop("image") or ()] or None
        with suppress(TypeError, ValueError):
            # A number, as text, has no unit.
            options["keep_alive"] = float(options["keep_alive"])
        options["think"] = _THINKING.get(options["think"], options["think"])
        return client.stream(prompt, model, options)
