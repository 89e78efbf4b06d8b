"""The chat page of the Django example in a real browser, served by Django's own server and by uvicorn.

What the page looks like in every state is tested with the Flask example; here it is that Django serves the same page,
forgery protection and all. Pictures are kept by `--basetemp=FOLDER`. Takes 16 s, all of it slow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("django")
pytest.importorskip("uvicorn")
pytest.importorskip("selenium")

from wsclient.testing import Gateway

from ..end_to_end.programs import free_port
from ..support.browser import MISSING
from ..support.waiting import wait_until
from ..support.web_servers import Served, serving
from .test_django_servers import UVICORN
from .test_flask_page import (
    ANSWER,
    HAIKU,
    Model,
    Page,
    chromium,
    gateway,
    model,
    page,
    wait_until_away,
)

__all__ = ["chromium", "gateway", "model", "page"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "django_chat.py"


@pytest.fixture(params=["runserver", "uvicorn"])
def served(request: pytest.FixtureRequest, gateway: Gateway, tmp_path: Path) -> Iterator[Served]:
    command = UVICORN
    if request.param == "runserver":
        command = [sys.executable, "-u", str(EXAMPLE), "runserver", "--noreload", str(free_port())]
    with serving(command, tmp_path, gateway.environment) as served:
        yield served


def test_a_prompt_is_answered_as_the_model_writes_and_can_be_stopped(
    page: Page, model: Model, gateway: Gateway
) -> None:
    page.tab.wait_for("#state", "Ready")
    page.look("empty")
    assert page.tab.text("#models") == "scripted:latest"

    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    assert "forgets" not in page.tab.text(ANSWER)
    page.look("streaming")
    page.tab.click("#stop")
    wait_until(lambda: gateway.requests[-1].outcome == "stopped")
    assert "the gutter" in page.tab.wait_for(ANSWER, "Stopped")
    page.look("stopped")

    page.ask("Once more")
    page.tab.wait_for(ANSWER, "14 tokens")
    assert HAIKU in page.tab.text(ANSWER)
    page.look("done")


def test_a_tab_that_is_closed_stops_its_generation(page: Page, gateway: Gateway, served: Served) -> None:
    windows = page.tab.driver.window_handles
    page.tab.driver.switch_to.new_window("tab")
    page.tab.open(served.url)
    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    page.tab.driver.close()
    page.tab.driver.switch_to.window(windows[0])
    wait_until(lambda: gateway.requests[-1].outcome == "stopped")


def test_a_page_that_is_left_stops_its_generation(page: Page, gateway: Gateway) -> None:
    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    page.tab.open("about:blank")
    wait_until(lambda: gateway.requests[-1].outcome == "stopped")


def test_a_gateway_that_is_down_is_said_and_comes_back(page: Page, gateway: Gateway, served: Served) -> None:
    page.tab.wait_for("#state", "Ready")
    gateway.stop()
    wait_until_away(served)
    page.ask("Hello?")
    page.tab.wait_for(f"{ANSWER} .trouble", "The gateway cannot be reached")
    page.tab.wait_for("#state", "The gateway cannot be reached")
    page.look("down")

    gateway.start()
    page.tab.wait_for("#state", "Ready")
    page.tab.click(".again")
    assert HAIKU in page.tab.wait_for(ANSWER, "tokens")
    assert page.tab.seen(".trouble") == []
    page.look("recovered")


def test_a_connection_that_is_lost_in_the_middle_leaves_the_text(page: Page, model: Model, gateway: Gateway) -> None:
    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    gateway.drop()
    page.tab.wait_for(f"{ANSWER} .trouble", "The connection to the gateway was lost")
    assert "the gutter" in page.tab.text(ANSWER)
    page.look("lost")
