"""`wsclient doctor`: how its findings are shown, and how it ends. Takes 8 s."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest

from wsclient.cli.doctor_certificate import Certificate, days_left
from wsclient.cli.doctor_findings import Check, Finding, Status, Trouble, examine, found
from wsclient.testing.scripted_server import Peer, ScriptedServer

from ..support.waiting import wait_until
from .doctor_reports import NAMES
from .golden import Transcript
from .programs import TIMEOUT, Program, run_program


def quiet(peer: Peer) -> None:
    peer.wait_until_gone()


def test_ctrl_c_shows_what_was_found_so_far(folder: Path, config: Path) -> None:
    with ScriptedServer(quiet) as server:
        arguments = ("doctor", f"--config={config}", f"--server-url={server.url}")
        with Program(*arguments, cwd=folder) as program:
            program.wait_for("HTTP 101")
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
    assert " - challenge     interrupted by Ctrl-C\n" in program.out
    assert program.out.count("\n") == len(NAMES) + 1
    assert program.out.splitlines()[-1].startswith("Interrupted: ")
    assert program.err == ""


def test_ctrl_c_leaves_json_whole(folder: Path, config: Path) -> None:
    with ScriptedServer(quiet) as server:
        arguments = ("doctor", "--json", f"--config={config}", f"--server-url={server.url}")
        with Program(*arguments, cwd=folder) as program:
            # The first connection is the check of TCP.
            wait_until(lambda: any(peer.request for peer in server.peers), TIMEOUT)
            program.send_signal(signal.SIGINT)
            assert program.wait() == 130
    report = json.loads(program.out)
    assert (report["ok"], report["interrupted"]) == (False, True)
    assert [check["check"] for check in report["checks"]] == NAMES


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}])
def test_where_there_is_no_utf_8_the_marks_are_ascii(folder: Path, config: Path, env: dict[str, str]) -> None:
    done = run_program(["doctor", f"--config={config}", "--client-id=nobody"], folder, env)
    assert {line[:4] for line in done.out.splitlines()[:-1]} == {" ok ", " NO ", " -- "}


def test_colours_are_for_terminals_and_obey_no_color(folder: Path, config: Path) -> None:
    arguments = ["doctor", f"--config={config}"]
    assert "\x1b[" in run_program(arguments, folder, columns=80).out
    assert "\x1b[" not in run_program(arguments, folder, {"NO_COLOR": "1"}, columns=80).out
    assert "\x1b[" not in run_program(arguments, folder).out


def test_a_pipe_that_is_closed_ends_it_without_a_word(folder: Path, config: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with Program("doctor", f"--config={config}", cwd=folder, stdout=write_end) as program:
        os.close(write_end)
        assert program.wait() == 1
    assert program.err == ""


def test_transcript_of_doctor(transcript: Transcript, config: Path) -> None:
    values = json.loads(config.read_text())
    url = f"--server-url={values['serverUrl']}"
    transcript.varying = {
        "time!": r"\b\d+(\.\d+)? m?s\b",
        "rate!": r"\b[\d,.]+(?= tokens/s)",
        "port!": r"(?<=port )\d+",
        "versions!": r"(?<=versions      )[^$]*?(?=\n\d+ passed)",
    }
    transcript.run("doctor", url, f"--client-id={values['clientId']}", "--key=keys/tester_key.pem")
    transcript.run("doctor", url, "--client-id=nobody", "--key=keys/nobody_key.pem")
    transcript.check("doctor")


# --- going through the checks -----------------------------------------------------------------------------------------


def passes(_: list[str]) -> tuple[str, dict[str, object]]:
    return found("fine")


def fails(_: list[str]) -> tuple[str, dict[str, object]]:
    raise Trouble("broken", "Mend it")


def surprises(_: list[str]) -> tuple[str, dict[str, object]]:
    raise RuntimeError("nobody foresaw this")


def interrupts(_: list[str]) -> tuple[str, dict[str, object]]:
    raise KeyboardInterrupt


def statuses(*checks: Check[list[str]], deadline: float = math.inf) -> list[tuple[Status, str]]:
    noted: list[Finding] = []
    findings, _ = examine(checks, [], lambda: deadline, noted.append)
    assert noted == findings
    return [(finding.status, finding.text) for finding in findings]


def test_what_needs_a_failed_check_is_skipped_and_so_is_what_needs_that() -> None:
    checks = Check("a", "A", fails), Check("b", "B", passes, ("a",)), Check("c", "C", passes, ("b",))
    assert statuses(*checks, Check("d", "D", passes)) == [
        ("failed", "broken"),
        ("skipped", "it needs: A"),
        ("skipped", "it needs: B"),
        ("ok", "fine"),
    ]


def test_a_check_that_nobody_foresaw_does_not_take_the_others_along() -> None:
    assert statuses(Check("a", "A", surprises), Check("b", "B", passes)) == [
        ("failed", "unexpected RuntimeError: nobody foresaw this"),
        ("ok", "fine"),
    ]


def test_after_ctrl_c_nothing_more_is_tried() -> None:
    assert statuses(Check("a", "A", passes), Check("b", "B", interrupts), Check("c", "C", fails)) == [
        ("ok", "fine"),
        ("skipped", "interrupted by Ctrl-C"),
        ("skipped", "interrupted by Ctrl-C"),
    ]


def test_ctrl_c_while_a_line_is_written_waits_for_its_end() -> None:
    noted = []

    def note(finding: Finding) -> None:
        signal.raise_signal(signal.SIGINT)
        noted.append(finding.status)

    findings, is_interrupted = examine((Check("a", "A", passes), Check("b", "B", passes)), [], lambda: math.inf, note)
    assert noted == [finding.status for finding in findings] == ["ok", "skipped"]
    assert is_interrupted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_after_the_deadline_nothing_more_is_tried() -> None:
    assert statuses(Check("a", "A", fails), deadline=0) == [("skipped", "no time is left; give more with --timeout")]


@pytest.mark.parametrize(
    ("code", "fault"),
    [(10, "date_fault"), (9, "date_fault"), (62, "name_fault"), (64, "name_fault"), (18, "chain_fault")],
)
def test_openssls_verdict_says_which_of_the_three_is_at_fault(code: int, fault: str) -> None:
    assert Certificate.refused(code, "because") == Certificate(**{fault: "because"})


def test_the_days_of_a_certificate_are_whole_ones() -> None:
    fields = {"notAfter": "Jan  3 00:00:00 1970 GMT"}
    assert days_left(fields, 0.0) == (2, "3 Jan 1970")
    assert days_left(fields, 1.0) == (1, "3 Jan 1970")
