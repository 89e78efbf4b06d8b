"""The library's log, when somebody asked for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from wsclient.cli.logs import log_nowhere, log_to_stderr

LOGGER = logging.getLogger("wsclient.somewhere")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    logger = logging.getLogger("wsclient")
    before = logger.handlers, logger.level
    yield
    logger.handlers, logger.level = before


def test_a_record_is_a_line_with_time_level_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO)
    LOGGER.info("listening on %s", "ws://x")
    assert capsys.readouterr().err.endswith(" INFO wsclient.somewhere: listening on ws://x\n")


def test_a_record_cannot_talk_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO)
    LOGGER.warning("a client named %s", "\x1b]0;owned\x07")
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().err)


def test_what_is_below_the_level_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.WARNING)
    LOGGER.info("details")
    assert capsys.readouterr().err == ""


def test_asked_twice_it_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO)
    log_to_stderr(logging.INFO)
    LOGGER.info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_nowhere_is_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.DEBUG)
    log_nowhere()
    LOGGER.error("not for anybody")
    assert capsys.readouterr().err == ""
