"""Every fault of the table is one clear line and the documented exit code, by real processes. Takes 15 s."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from .fault_place import Fault, Place, open_place
from .faults import FAULTS, HANGING
from .programs import Finished, Program, run_program

# A program waits for others half of its time.
_AT_ONCE = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with open_place(tmp_path_factory.mktemp("faults")) as place:
        yield place


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, place: Place) -> Iterator[dict[str, Future[Finished]]]:
    """What came of each fault that was chosen; they run side by side, because each mostly loads Python."""
    here = [item for item in request.session.items if item.parent is request.node]
    chosen = {item.callspec.params["fault"].name for item in here if hasattr(item, "callspec")}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {
            fault.name: pool.submit(place.run, fault, number)
            for number, fault in enumerate(FAULTS)
            if fault.name in chosen and place.can_have(fault)
        }


def test_the_table_has_more_than_40_faults_each_with_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) > 40


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_clear_line_and_the_documented_exit_code(
    fault: Fault, place: Place, outcomes: dict[str, Future[Finished]]
) -> None:
    if fault.name not in outcomes:
        pytest.skip(f"this machine cannot have it: {fault.needs}")
    done = outcomes[fault.name].result()
    pattern = re.escape(f"error: {place.fill(fault.line)}").replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern + "\n", done.err), done.err
    assert (done.code, done.out) == (fault.code, fault.out)


def test_every_exit_code_is_a_documented_one(place: Place) -> None:
    text = run_program(["--help"], place.folder).out
    assert {fault.code for fault in FAULTS} == {1, 2, 130}
    assert all(f"{code} " in text.partition("Exit codes:")[2] for code in (0, 1, 2, 130))


def test_debug_shows_the_traceback_and_the_line_at_its_end(place: Place) -> None:
    done = run_program(["--debug", "models", f"--config={place.names['tester']}", "--key=nowhere.pem"], place.folder)
    assert "Traceback (most recent call last):" in done.err
    assert done.err.splitlines()[-1].startswith("error: the private key nowhere.pem does not exist [invalid_key].")


def test_a_pipe_that_is_closed_in_the_middle_is_no_fault_of_ours_and_says_nothing(place: Place) -> None:
    read_end, write_end = os.pipe()
    command = ("generate", '@@{"tokens":100000,"delay":1}', f"--config={place.names['tester']}")
    with Program(*command, cwd=place.folder, stdout=write_end) as program:
        os.close(write_end)
        assert os.read(read_end, 5) == b" t000"
        os.close(read_end)
        assert program.wait() == 1
    assert program.err == ""


def test_at_a_terminal_the_line_about_ctrl_c_is_one_of_its_own(place: Place) -> None:
    with Program("generate", HANGING, f"--config={place.names['tester']}", cwd=place.folder, columns=80) as program:
        program.wait_for("t001")
        program.send_signal(signal.SIGINT)
        assert program.wait() == 130
    assert "error: interrupted by Ctrl-C" in re.sub(r"\x1b\[[\d;]*m", "", program.out).splitlines()
