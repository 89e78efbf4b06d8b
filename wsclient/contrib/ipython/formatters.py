"""Has IPython show the library's objects as `views` draws them; the library itself knows nothing of IPython."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.interactiveshell import ExecutionResult, InteractiveShell

from ...client import WSClient
from ...events import GenerationResult, ModelInfo
from ...generation import Generation
from .live import display, was_just_shown
from .views import View, client_view, generation_view, models_view, result_view

__all__ = ["Formatters"]

_VIEWS: dict[type, Callable[[Any], View]] = {
    GenerationResult: result_view,
    Generation: generation_view,
    ModelInfo: lambda model: models_view([model]),
    WSClient: client_view,
}


class Formatters:
    """What a shell shows the library's objects with, between `install()` and `remove()`.

    Args:
        shell: the shell.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._removers: list[Callable[[], None]] = []
        # What showed lists before: as HTML nothing, unless another extension did.
        self._list_html: Callable[..., Any] | None = None
        self._list_text: Callable[..., Any]

    def install(self) -> None:
        """Register them."""
        formatter = self._shell.display_formatter
        assert formatter is not None
        html, plain = formatter.formatters["text/html"], formatter.formatters["text/plain"]
        for kind, view_of in _VIEWS.items():
            self._set(html, kind, lambda thing, view_of=view_of: view_of(thing).html)
            self._set(plain, kind, lambda thing, printer, cycle, view_of=view_of: _write(thing, printer, view_of))
        self._list_html = self._set(html, list, self._show_list)
        self._list_text = self._set(plain, list, self._write_list)
        self._set(formatter.ipython_display_formatter, Generation, _show_running)
        self._set(formatter.ipython_display_formatter, GenerationResult, _show_once)
        self._shell.events.register("post_run_cell", self._let_go)

    def remove(self) -> None:
        """Have the shell show everything as before."""
        self._shell.events.unregister("post_run_cell", self._let_go)
        while self._removers:
            self._removers.pop()()

    def _set(self, formatter: Any, kind: type, function: Callable[..., Any]) -> Any:
        before = formatter.type_printers.get(kind)
        formatter.for_type(kind, function)

        def restore() -> None:
            if before is None:
                formatter.pop(kind, None)
            else:
                formatter.for_type(kind, before)

        self._removers.append(restore)
        return before

    def _show_list(self, things: list[Any]) -> Any:
        if _are_models(things):
            return models_view(things).html
        return self._list_html(things) if self._list_html is not None else None

    def _write_list(self, things: list[Any], printer: Any, cycle: bool) -> None:
        if _are_models(things) and not _is_inside(printer):
            printer.text(models_view(things).text)
        else:
            self._list_text(things, printer, cycle)

    def _let_go(self, result: ExecutionResult) -> None:
        """Take what holds a connection out of `Out`, which keeps all values of a session: a client that a cell ends
        with would never be dropped, and each run of the cell would leave one more connection."""
        if isinstance(result.result, WSClient | Generation):
            outputs = self._shell.user_ns.get("_oh", {})
            for number in [number for number, value in outputs.items() if value is result.result]:
                del outputs[number]
                self._shell.del_var(f"_{number}", by_name=True)


def _write(thing: Any, printer: Any, view_of: Callable[[Any], View]) -> None:
    printer.text(repr(thing) if _is_inside(printer) else view_of(thing).text)


def _is_inside(printer: Any) -> bool:
    """Return whether something else is printed of which this is a part: lines of its own would tear that apart."""
    return len(printer.stack) > 1


def _are_models(things: list[Any]) -> bool:
    return bool(things) and all(isinstance(thing, ModelInfo) for thing in things)


def _show_running(generation: Generation) -> None:
    """Show what a cell ends with live, as long as it runs."""
    if generation.is_done:
        # Leaves it to the other formatters.
        raise NotImplementedError
    display(generation)


def _show_once(result: GenerationResult) -> None:
    if not was_just_shown(result):
        # As above: how IPython's formatters are told that this one has nothing to show.
        raise NotImplementedError
