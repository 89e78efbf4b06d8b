"""The chat page of the Flask example in a real browser: what its user sees when all is well, and when it is not.

Each state is looked at on a screen and on a phone; `--basetemp=FOLDER` keeps the pictures. Takes 20 s.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsclient import ServerBusyError
from wsclient.testing import Gateway, Request, Thinking

from ..end_to_end.programs import free_port
from ..support.browser import MISSING, PHONE, SCREEN, Browser, Keys, browser
from ..support.waiting import wait_until
from ..support.web_servers import Served, serving

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

EXAMPLE = Path(__file__).parents[2] / "examples" / "flask_chat.py"
HAIKU = "Rain on the roof tiles,\nthe gutter counts what it caught,\nand forgets <b>again</b> &amp; again."
ANSWER = "article:last-child"
WIDE = "x" * 400


class Model:
    """What the gateway under test says: `HAIKU`; for `wait` only half of it before `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, request: Request) -> Iterator[str]:
        if request.prompt == "busy":
            raise ServerBusyError("12 generations wait for this model", retry_after=3.0)
        if request.prompt == "think":
            yield Thinking("A haiku has three lines.")
        words = HAIKU.split(" ")
        for number, word in enumerate(words):
            if number == len(words) // 2 and request.prompt == "wait":
                self.go_on.wait(30)
            yield word + " " * (number < len(words) - 1)
        if request.prompt == "wide":
            yield WIDE


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as tab:
        yield tab


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.go_on.set()


@pytest.fixture
def gateway(model: Model) -> Iterator[Gateway]:
    with Gateway(model) as gateway:
        yield gateway


@pytest.fixture
def served(gateway: Gateway, tmp_path: Path) -> Iterator[Served]:
    with serving([sys.executable, str(EXAMPLE)], tmp_path, {**gateway.environment, "PORT": "0"}) as served:
        yield served


@pytest.fixture
def page(chromium: Browser, served: Served, tmp_path: Path) -> Iterator[Page]:
    page = Page(chromium, tmp_path)
    page.tab.open(served.url)
    yield page
    assert page.tab.complaints() == []


class Page:
    """The chat page, as its user sees it.

    Attributes:
        tab: the browser's tab that it is in.
    """

    def __init__(self, tab: Browser, pictures: Path) -> None:
        self.tab = tab
        self._pictures = pictures
        tab.size(SCREEN)

    def ask(self, prompt: str) -> None:
        self.tab.type("#prompt", prompt, Keys.ENTER)

    def look(self, name: str) -> None:
        """Take pictures on a screen and on a phone, and check that everything has room."""
        for kind, size in (("phone", PHONE), ("screen", SCREEN)):
            self.tab.size(size)
            wait_until(self._is_at_the_end)
            self.tab.screenshot(self._pictures / f"{name}-{kind}.png")
            assert self.tab.overflow() == 0, (name, kind)
            assert self.hidden_parts() == [], (name, kind)

    def _is_at_the_end(self) -> bool:
        script = """
            const main = document.querySelector("main");
            return main.scrollHeight - main.scrollTop - main.clientHeight < 2"""
        return bool(self.tab.driver.execute_script(script))

    def hidden_parts(self) -> list[str]:
        """Return what sticks out: of the window, or sideways out of the part of the page that has the texts."""
        script = """
            const out = [];
            for (const element of document.querySelectorAll("header *, form *, footer p, main *")) {
                if (!element.checkVisibility() || element.closest(".unseen, option")) continue;
                const box = element.getBoundingClientRect(), isText = element.closest("main");
                if (box.left < 0 || box.right > innerWidth || !isText && (box.top < 0 || box.bottom > innerHeight))
                    out.push(element.outerHTML.slice(0, 80));
            }
            return out"""
        found = self.tab.driver.execute_script(script)
        return [str(part) for part in found]


def test_text_appears_while_the_model_writes_it(page: Page, model: Model, gateway: Gateway) -> None:
    page.tab.wait_for("#state", "Ready")
    page.look("empty")
    assert page.tab.text("#models") == "scripted:latest"

    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    assert "forgets" not in page.tab.text(ANSWER)
    assert page.tab.text("#stop") == "Stop"
    assert page.tab.find("#log").get_attribute("aria-busy") == "true"
    page.look("streaming")

    model.go_on.set()
    page.tab.wait_for(ANSWER, "14 tokens")
    # What looks like HTML is text like any other.
    assert HAIKU in page.tab.text(ANSWER)
    assert page.tab.find("#log").get_attribute("aria-busy") == "false"
    assert page.tab.text("#stop") == ""
    page.look("done")
    assert gateway.requests[-1].model == "scripted:latest"


def test_thinking_is_folded_away_and_long_words_are_broken_also_in_the_dark(page: Page) -> None:
    page.tab.scheme("dark")
    try:
        page.ask("think")
        page.tab.wait_for(ANSWER, "tokens")
        assert "three lines" not in page.tab.text(ANSWER)
        page.tab.click("summary")
        assert "A haiku has three lines." in page.tab.text(ANSWER)
        page.ask("wide")
        page.tab.wait_for(ANSWER, WIDE)
        page.tab.wait_for(ANSWER, "tokens")
        page.look("dark")
    finally:
        page.tab.scheme("light")


@pytest.mark.parametrize("key", ["button", Keys.ESCAPE], ids=["button", "escape"])
def test_stop_stops_the_generation_on_the_server_and_keeps_the_text(key: str, page: Page, gateway: Gateway) -> None:
    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    running = gateway.requests[-1]
    assert running.outcome is None

    if key == "button":
        page.tab.click("#stop")
    else:
        page.tab.type("#prompt", key)
    wait_until(lambda: running.outcome == "stopped")
    assert "the gutter" in page.tab.wait_for(ANSWER, "Stopped")
    page.look("stopped")

    page.ask("Once more")
    assert HAIKU in page.tab.wait_for(ANSWER, "tokens")


def test_leaving_the_page_stops_the_generation_on_the_server(page: Page, gateway: Gateway) -> None:
    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    page.tab.open("about:blank")
    wait_until(lambda: gateway.requests[-1].outcome == "stopped")


def test_enter_sends_shift_and_enter_does_not_and_nothing_is_never_sent(page: Page, gateway: Gateway) -> None:
    page.tab.type("#prompt", Keys.ENTER, "  ", Keys.ENTER)
    page.tab.type("#prompt", "<i>one</i>", Keys.SHIFT + Keys.ENTER + Keys.NULL, "two")
    page.look("typing")
    assert gateway.requests == []
    page.tab.type("#prompt", Keys.ENTER)
    page.tab.wait_for(ANSWER, "tokens")
    assert [request.prompt for request in gateway.requests] == ["<i>one</i>\ntwo"]
    assert page.tab.text(".mine") == "<i>one</i>\ntwo"


def wait_until_away(served: Served) -> None:
    """Wait until the server of the page knows that the gateway is down; what it sends before is lost."""
    wait_until(lambda: served.get("/models").get("error", {}).get("code") == "connection_failed")


def test_a_gateway_that_is_down_is_said_and_comes_back_by_itself(page: Page, gateway: Gateway, served: Served) -> None:
    page.tab.wait_for("#state", "Ready")
    gateway.stop()
    # Else it is said differently.
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
    assert len(page.tab.seen(".mine")) == 1


def test_a_page_that_is_opened_while_the_gateway_is_down_gets_its_models_later(page: Page, gateway: Gateway) -> None:
    gateway.stop()
    page.tab.driver.refresh()
    page.tab.wait_for("#state", "The gateway cannot be reached")
    assert page.tab.text("#models") == "Default model"
    gateway.start()
    page.tab.wait_for("#state", "Ready")
    assert page.tab.text("#models") == "scripted:latest"


def test_a_connection_that_is_lost_in_the_middle_leaves_the_text(page: Page, model: Model, gateway: Gateway) -> None:
    page.ask("wait")
    page.tab.wait_for(ANSWER, "the gutter")
    gateway.drop()
    said = page.tab.wait_for(f"{ANSWER} .trouble", "The connection to the gateway was lost")
    assert "What came before is kept." in said
    assert "the gutter" in page.tab.text(ANSWER)
    page.look("lost")

    model.go_on.set()
    page.tab.click(".again")
    assert HAIKU in page.tab.wait_for(ANSWER, "tokens")
    assert len(page.tab.seen("article")) == 2


def test_a_busy_model_is_said_and_asked_again_only_after_its_time(page: Page) -> None:
    page.ask("busy")
    page.tab.wait_for(f"{ANSWER} .trouble", "12 generations wait for this model")
    again = page.tab.find(".again")
    assert not again.is_enabled()
    assert "Try again in" in again.text
    page.look("busy")
    wait_until(again.is_enabled)
    assert again.text == "Try again"


def test_the_chosen_model_is_asked(page: Page, gateway: Gateway) -> None:
    page.tab.wait_for("#state", "Ready")
    page.tab.driver.execute_script("document.querySelector('#models').append(new Option('tiny:1b'))")
    page.tab.type("#models", "tiny")
    page.ask("Hello")
    page.tab.wait_for(ANSWER, "tiny:1b · 14 tokens")
    assert gateway.requests[0].model == "tiny:1b"


def test_a_login_that_is_refused_is_said_and_not_tried_again_and_again(page: Page, gateway: Gateway) -> None:
    page.tab.wait_for("#state", "Ready")
    gateway.wrong_login()
    gateway.drop()
    page.tab.driver.refresh()
    page.tab.wait_for("#state", "The gateway refuses this site's key")
    page.ask("Hello?")
    page.tab.wait_for(f"{ANSWER} .trouble", "The gateway refuses this site's key")
    page.look("refused")


def test_a_server_of_the_page_that_is_away_is_said_and_found_again(
    chromium: Browser, model: Model, gateway: Gateway, tmp_path: Path
) -> None:
    port = free_port()
    command, env = [sys.executable, str(EXAMPLE)], {**gateway.environment, "PORT": str(port)}
    page = Page(chromium, tmp_path)
    with serving(command, tmp_path, env) as served:
        page.tab.open(served.url)
        page.ask("wait")
        page.tab.wait_for(ANSWER, "the gutter")
        served.process.kill()
        said = page.tab.wait_for(f"{ANSWER} .trouble", "The connection to this page's server was lost")
        assert "What came before is kept." in said
    page.ask("Anyone?")
    page.tab.wait_for(f"{ANSWER} .trouble", "This page's server cannot be reached")
    page.tab.wait_for("#state", "This page's server cannot be reached")
    page.look("unreachable")
    with serving(command, tmp_path, env):
        page.tab.wait_for("#state", "Ready")
        page.tab.click(f"{ANSWER} .again")
        assert HAIKU in page.tab.wait_for(ANSWER, "tokens")
