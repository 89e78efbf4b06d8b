"""The systemd unit in `examples/deploy/`: systemd understands it, and what it starts is a gateway."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..cli.programs import Program
from ..support.asking import TOKEN, ask
from .programs import free_port

UNIT = Path(__file__).parents[2] / "examples" / "deploy" / "wsclient-gateway.service"
TEXT = UNIT.read_text(encoding="utf-8")
COMMAND = "/opt/wsclient/bin/wsclient"


def setting(name: str) -> str:
    found = re.search(rf"^{name}=((?:.*\\\n)*.*)$", TEXT, re.MULTILINE)
    assert found is not None
    return found[1].replace("\\\n", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # A program that is there, as the gateway will be where the unit is used.
    copy.write_text(TEXT.replace(COMMAND, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_command_is_a_gateway_with_state_token_and_figures(tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text(TOKEN)
    (tmp_path / "admin-token").chmod(0o400)
    (tmp_path / "state").mkdir()
    line = setting("ExecStart")
    for name, folder in (("STATE_DIRECTORY", tmp_path / "state"), ("CREDENTIALS_DIRECTORY", tmp_path)):
        line = line.replace(f"${{{name}}}", str(folder))
    command, *flags = shlex.split(line)
    assert command == COMMAND
    # Ports that nobody uses here; the last flag counts.
    ports = (free_port(), free_port())
    with Program(*flags, f"--port={ports[0]}", f"--metrics-port={ports[1]}", cwd=tmp_path) as program:
        program.wait_for(f"kill {program.pid}\n")
        assert str(tmp_path / "state" / "authorized_clients.json") in program.out
        assert f"http://127.0.0.1:{ports[1]}/metrics\n" in program.out
        assert ask(f"http://127.0.0.1:{ports[1]}", "/metrics").status == 200
        assert ask(f"http://127.0.0.1:{ports[0]}", "/metrics", token=TOKEN).status == 200
        program.send_signal(signal.Signals[setting("KillSignal")])
        assert program.wait() == 0


def test_a_generation_has_its_whole_drain_before_systemd_kills() -> None:
    drain = re.search(r"--drain=(\d+)", setting("ExecStart"))
    assert drain is not None
    assert int(setting("TimeoutStopSec")) >= int(drain[1]) + 5
