"""A Jupyter kernel in a process of its own, and what its reader sees: outputs, and updates of them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import attrs
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

__all__ = ["Cell", "Kernel", "kernel_environment"]

# Of a machine that does other things as well.
_STARTS_WITHIN = 60.0
_ANSWERS_WITHIN = 30.0


def kernel_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a kernel or server that leaves nothing outside of a folder."""
    places = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    return {**os.environ, **{place: str(folder / place.lower()) for place in places}}


@attrs.define
class Cell:
    """A cell that was run, as a frontend shows it.

    Attributes:
        status: `ok` or `error`, `""` while it runs.
        outputs: what is below it now; each a message's content, and its type as `type`.
        updates: how often an output was replaced.
    """

    status: str = ""
    outputs: list[dict[str, Any]] = attrs.field(factory=list)
    updates: int = 0

    @property
    def html(self) -> str:
        """All HTML below it."""
        return "\n".join(output["data"].get("text/html", "") for output in self.outputs if "data" in output)

    @property
    def text(self) -> str:
        """What it printed."""
        return "".join(output["text"] for output in self.outputs if output["type"] == "stream")

    @property
    def error(self) -> str:
        """The error as it is shown; empty when there is none."""
        shown = ["\n".join(output["traceback"]) for output in self.outputs if output["type"] == "error"]
        return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(shown))

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """Take a message of the kernel's."""
        if kind == "update_display_data":
            self.updates += 1
            for output in self.outputs:
                if output.get("transient", {}).get("display_id") == content["transient"]["display_id"]:
                    output["data"] = content["data"]
        elif kind in ("stream", "display_data", "execute_result", "error"):
            self.outputs.append({"type": kind, **content})


class Kernel:
    """A kernel; a context manager.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._environment = kernel_environment(folder)

    def __enter__(self) -> Self:
        self._manager.start_kernel(env=self._environment)
        self._client: BlockingKernelClient = self._manager.blocking_client()
        self._client.start_channels()
        try:
            self._client.wait_for_ready(timeout=_STARTS_WITHIN)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._client.context.term()

    def run(self, code: str) -> Cell:
        """Run a cell to its end."""
        return self.finish(self.begin(code))

    def begin(self, code: str) -> tuple[str, Cell]:
        """Begin to run a cell."""
        return self._client.execute(code), Cell()

    def finish(self, begun: tuple[str, Cell], until: Callable[[Cell], bool] = lambda cell: False) -> Cell:
        """Take what comes from a cell to its end, or until something is seen there."""
        id, cell = begun
        deadline = time.monotonic() + _ANSWERS_WITHIN
        while not until(cell):
            message = self._client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != id:
                continue
            content = message["content"]
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
            cell.take(message["msg_type"], content)
        else:
            return cell
        reply = self._client.get_shell_msg(timeout=_ANSWERS_WITHIN)
        while reply["parent_header"].get("msg_id") != id:
            reply = self._client.get_shell_msg(timeout=_ANSWERS_WITHIN)
        cell.status = reply["content"]["status"]
        return cell

    def interrupt(self) -> None:
        """Press the stop button."""
        self._manager.interrupt_kernel()
