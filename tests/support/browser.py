"""A real headless Chromium: Debian's (`chromium`, `chromium-driver`), driven by Selenium."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from .waiting import wait_until

__all__ = ["MISSING", "PHONE", "SCREEN", "Browser", "Keys", "browser"]

_BINARY = shutil.which("chromium")
_DRIVER = shutil.which("chromedriver")

MISSING = "" if _BINARY and _DRIVER else "chromium or its driver is missing: apt-get install chromium chromium-driver"
"""Why tests with a browser are skipped; empty when there is one."""

SCREEN = (1280, 800)
PHONE = (390, 844)
# A loaded machine draws late.
_PATIENCE = 20.0


class Browser:
    """A tab of Chromium, looked at as its user does.

    Attributes:
        driver: Selenium's, for what is not here.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go to a page; returns when it is loaded."""
        self.driver.get(url)

    def size(self, size: tuple[int, int]) -> None:
        """Lay pages out for a screen of this width and height; one narrower than 600 pixels is a phone's."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        """Prefer the `dark` or the `light` colours."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def find(self, selector: str) -> WebElement:
        """Return the last element of a CSS selector that can be seen; waits until there is one."""
        return wait_until(lambda: next(iter(reversed(self.seen(selector))), None), _PATIENCE)

    def seen(self, selector: str) -> list[WebElement]:
        """Return what can be seen of a CSS selector now."""
        return [found for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def type(self, selector: str, *keys: str) -> None:
        """Press keys in an element."""
        self.find(selector).send_keys(*keys)

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.find(selector).click()

    def text(self, selector: str) -> str:
        """Return the text of the last such element that can be seen, an empty one when there is none."""
        script = """
            const seen = [...document.querySelectorAll(arguments[0])].filter(element => element.checkVisibility());
            return seen.length ? seen.at(-1).innerText : "";"""
        return str(self.driver.execute_script(script, selector))

    def wait_for(self, selector: str, part: str, timeout: float = _PATIENCE) -> str:
        """Wait until an element's text has this part, and return the text; fails with what it had instead."""
        try:
            return wait_until(lambda: text if part in (text := self.text(selector)) else "", timeout)
        except TimeoutError:
            raise AssertionError(f"{selector} never said {part!r} but {self.text(selector)!r}") from None

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the screen."""
        script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.driver.execute_script(script))

    def screenshot(self, path: Path) -> None:
        """Save what is on the screen as PNG."""
        answer = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(answer["data"]))

    def complaints(self) -> list[str]:
        """Return what the page wrote to the console as errors since the last call, failed requests left out."""
        found = self.driver.get_log("browser")
        return [entry["message"] for entry in found if entry["source"] != "network" and entry["level"] == "SEVERE"]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser that reaches nothing but this machine; it is gone after the block. Takes about 2 s."""
    options = webdriver.ChromeOptions()
    options.binary_location = _BINARY or ""
    # Root, as in CI, has no sandbox; /dev/shm is small in containers.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"):
        options.add_argument(flag)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(_DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
