"""The extension in a real JupyterLab server, through its kernel protocol. Takes 10 s."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsclient.testing import Gateway, Request

from ..support.jupyterlab import JupyterLab
from ..support.waiting import wait_until

# From an interrupt to the end of the generation on the server (issue 6).
STOPPED_WITHIN = 2.0


def endless(request: Request) -> Iterator[str]:
    for number in range(1_000_000):
        time.sleep(0.01)
        yield f"{number} "


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.wsclient_answers({"Hello": "Hi **there**", "endless": endless})
def test_a_kernel_of_jupyterlab_generates_is_interrupted_and_goes_on(tmp_path: Path, wsclient_gateway: Gateway) -> None:
    with JupyterLab(tmp_path) as server, server.start_kernel() as kernel:
        kernel.run(f"%env WSCLIENT_CONFIG={wsclient_gateway.config_path}\n%load_ext wsclient.contrib.ipython")
        assert wsclient_gateway.url in kernel.run("%wsclient connect --into client").html

        cell = kernel.run("%%generate\nHello")
        assert (cell.status, len(cell.outputs)) == ("ok", 1)
        assert "Hi <strong>there</strong>" in cell.html

        begun = kernel.begin("%%generate\nendless")
        kernel.finish(begun, lambda cell: "5 6 7" in cell.html)
        interrupted = time.monotonic()
        kernel.interrupt()
        wsclient_gateway.wait_idle(STOPPED_WITHIN)
        assert time.monotonic() - interrupted < STOPPED_WITHIN
        cell = kernel.finish(begun)

        assert cell.status == "error"
        assert cell.error.startswith("KeyboardInterrupt: interrupted")
        assert cell.error.count("\n") == 0
        assert [request.outcome for request in wsclient_gateway.requests] == ["done", "stopped"]
        assert "Hi <strong>there</strong>" in kernel.run("%%generate\nHello").html
        assert wsclient_gateway.connections == 1

        kernel.shut_down()
        wait_until(lambda: wsclient_gateway.connections == 0)
