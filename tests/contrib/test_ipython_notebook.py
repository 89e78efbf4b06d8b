"""The notebook among the examples runs as it is, and so do the README's cells. Takes 6 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from wsclient.testing import Gateway

from ..end_to_end.programs import Site
from ..end_to_end.test_readme import IPYTHON_BLOCKS
from ..support.kernels import Kernel, kernel_environment
from ..support.waiting import wait_until

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def execute(notebook: Any, tmp_path: Path) -> Any:
    """Runs the whole notebook in a fresh kernel, in a folder of its own."""

    def execute(**environment: str) -> Any:
        client = NotebookClient(
            notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute(env={**kernel_environment(tmp_path), **environment})
        return notebook

    return execute


def _html(cell: Any) -> str:
    return "".join(output["data"].get("text/html", "") for output in cell["outputs"] if "data" in output)


def test_it_is_stored_without_outputs_and_short(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert sum(len(cell.source.splitlines()) for cell in notebook.cells) < 80
    nbformat.validate(notebook)


def test_it_runs_as_it_is_with_a_gateway_of_its_own(execute: Any) -> None:
    _, _, connect, models, _, generate, figures, _, compare, _, disconnect = execute().cells

    assert "<b>connected</b>" in _html(connect)
    assert "builtin" in _html(models)
    assert len(generate.outputs) == 1
    assert "builtin · 60 tokens" in _html(generate)
    assert figures.outputs[0].data["text/plain"] == "(60, 'length')"
    assert len(compare.outputs) == 2
    assert "○ <b>not connected</b>" in _html(disconnect)


@pytest.mark.wsclient_answers(answers="It **rains** here")
def test_it_runs_with_a_gateway_that_is_there_already(execute: Any, wsclient_gateway: Gateway) -> None:
    cells = execute(WSCLIENT_CONFIG=wsclient_gateway.config_path).cells

    assert "It <strong>rains</strong> here" in _html(cells[5])
    assert [request.outcome for request in wsclient_gateway.requests] == ["done"] * 3
    wait_until(lambda: wsclient_gateway.connections == 0)


@pytest.mark.wsclient_answers({"Write a haiku about rain": "It **rains**"})
def test_the_cells_of_the_readme_run_as_they_are(
    tmp_path: Path, wsclient_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    Site.make(tmp_path, wsclient_gateway.url, wsclient_gateway.client_id, wsclient_gateway.private_key)
    monkeypatch.chdir(tmp_path)

    with Kernel(tmp_path) as kernel:
        connect, generate, display = map(kernel.run, IPYTHON_BLOCKS)
        kept = kernel.run("print(haiku is _, haiku.text == result.text)")

    assert wsclient_gateway.url in connect.html
    assert "It <strong>rains</strong>" in generate.html
    assert "It <strong>rains</strong>" in display.html
    assert kept.text == "True True\n"
    assert [request.options for request in wsclient_gateway.requests] == [
        {"temperature": 0.7, "max_tokens": 60},
        {"max_tokens": 60},
    ]
