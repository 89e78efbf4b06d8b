"""The library's loggers: what a program's own handler raises stays with it. Takes no time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from wsclient.logs import Logger


def test_what_a_log_handler_raises_reaches_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise OSError("no space left on device")

    with caplog.filtering(refuse):
        Logger("wsclient.test").warning("gone")


def test_a_record_names_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsclient")
    logger = Logger("wsclient.test")
    logger.warning("%s", "one")
    logger.log(logging.INFO, "two")
    try:
        raise ZeroDivisionError("three")
    except ZeroDivisionError:
        logger.exception("three")
    assert [(record.filename, record.funcName) for record in caplog.records] == [
        (Path(__file__).name, "test_a_record_names_the_line_that_logged_it")
    ] * 3
    assert caplog.records[2].exc_info is not None
    assert [record.getMessage() for record in caplog.records] == ["one", "two", "three"]
