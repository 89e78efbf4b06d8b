"""Imports go one way, and `import wsclient` is light (design.md section 4): read from the source, and tried."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsclient

ROOT = Path(wsclient.__file__).parent
STANDARD = sys.stdlib_module_names

# The floors of the house, lowest first; a module imports from floors below its own, and `line` and below within theirs.
FLOORS = (
    {"version", "errors"},
    {"events", "core"},
    {"options", "generation_options", "models", "forks", "ids", "clocks", "interruptions", "futures", "logs"},
    {"keys", "outbox", "transport", "feed", "generation"},
    {"reader", "dispatcher", "watchdog", "delivery"},
    {"line", "connection", "outgoing"},
    {"client"},
    {""},
    {"cli", "contrib", "testing", "__main__"},
)
# What each part may import besides the standard library and the package itself; all others nothing but attrs.
PACKAGES = {
    "core": {"attrs"},
    "core.auth": {"attrs", "Crypto"},
    "core.json_values": {"attrs", "orjson"},
    "keys": {"attrs", "Crypto"},
    "transport": {"attrs", "websocket"},
    "gateway": {"attrs", "aiohttp", "filelock", "Crypto", "prometheus_client"},
    # The extra `redis`; the rest of the gateway runs without.
    "gateway.store.connecting": {"redis"},
    "gateway.store.link": {"redis"},
    "gateway.store.notices": {"redis"},
    "gateway.store.registry": {"attrs", "redis"},
    "cli": {"attrs", "click", "markdown_it", "rich"},
    "contrib": {"attrs", "flask", "django", "IPython"},
    "contrib.flask": {"attrs", "click", "flask"},
    "contrib.ipython.markdown": {"markdown_it"},
    "testing": {"attrs"},
    "testing.pytest_plugin": {"pytest"},
}
GATEWAY_MAY = {"core", "keys", "errors", "events", "version", "gateway"}
# What of `wsclient.testing` needs the gateway, and with it the extra; the rest works without.
NEEDS_GATEWAY = {"testing.gateway", "testing.model"}
# Imported only for type checkers, against the stream: names in annotations.
ANNOTATIONS = {("reader", "line"), ("watchdog", "line"), ("generation", "client")}


def name_of(path: Path) -> str:
    """Return a module's name below the package: `core.session`, and `""` for the package itself."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(name: str) -> str:
    return name.split(".")[0]


SOURCES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(name: str) -> Iterator[tuple[str, bool]]:
    """Yield what a module imports, and whether only for type checkers; of the package itself with a leading dot."""
    path = SOURCES[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" and name else name.split(".")[:-1]
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        is_annotation = id(node) in for_checkers
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, is_annotation
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module or "", is_annotation
                continue
            base = package[: len(package) - node.level + 1]
            if node.module:
                yield "." + ".".join([*base, *node.module.split(".")]), is_annotation
            else:
                for alias in node.names:
                    yield "." + ".".join([*base, alias.name]), is_annotation


def inside(name: str, *, with_annotations: bool = False) -> set[str]:
    """Return what a module imports of the package."""
    found = set()
    for target, is_annotation in imports_of(name):
        if is_annotation and not with_annotations:
            continue
        if target == "wsclient" or target.startswith("wsclient."):
            target = "." + target.removeprefix("wsclient").removeprefix(".")
        if target.startswith("."):
            found.add(target[1:])
    return found


def outside(name: str) -> set[str]:
    """Return the packages that a module imports besides this one and the standard library."""
    tops = {target.split(".")[0] for target, _ in imports_of(name) if not target.startswith(".")}
    return tops - STANDARD - {"wsclient"}


def floor_of(part: str) -> int:
    (floor,) = [index for index, parts in enumerate(FLOORS) if part in parts]
    return floor


CLIENT = [name for name in SOURCES if part_of(name) not in ("gateway", "cli", "contrib", "testing", "core", "__main__")]


def test_the_rules_cover_every_module() -> None:
    known = set().union(*FLOORS) | {"gateway"}
    assert {part_of(name) for name in SOURCES} <= known


@pytest.mark.parametrize("name", CLIENT)
def test_the_client_imports_only_from_its_own_floor_or_below(name: str) -> None:
    for target in inside(name):
        assert part_of(target) != "gateway", f"{name} imports the gateway"
        assert floor_of(part_of(target)) <= floor_of(part_of(name)), f"{name} imports {target}"


@pytest.mark.parametrize("name", CLIENT)
def test_within_a_floor_nobody_imports_in_a_circle(name: str) -> None:
    seen: set[str] = set()
    ahead = {part_of(target) for target in inside(name)}
    while ahead - seen:
        following = (ahead - seen).pop()
        seen.add(following)
        if following not in ("core", part_of(name)):
            ahead |= {part_of(target) for target in inside(following)}
    assert part_of(name) not in seen


@pytest.mark.parametrize("name", [name for name in SOURCES if part_of(name) == "core"])
def test_the_core_imports_errors_events_and_itself(name: str) -> None:
    assert {part_of(target) for target in inside(name, with_annotations=True)} <= {"core", "errors", "events"}


@pytest.mark.parametrize("name", [name for name in SOURCES if part_of(name) == "core"])
def test_the_core_is_pure(name: str) -> None:
    tops = {target.split(".")[0] for target, _ in imports_of(name) if not target.startswith(".")}
    impure = {"asyncio", "logging", "os", "pathlib", "queue", "random", "secrets", "select", "selectors", "socket"}
    assert tops & (impure | {"ssl", "subprocess", "tempfile", "threading", "time", "concurrent"}) == set()


@pytest.mark.parametrize("name", [name for name in SOURCES if part_of(name) == "gateway"])
def test_the_gateway_imports_no_module_of_the_client(name: str) -> None:
    assert {part_of(target) for target in inside(name, with_annotations=True)} <= GATEWAY_MAY


def test_only_the_gateway_for_tests_imports_the_gateway() -> None:
    found = {name for name in SOURCES if "gateway" in {part_of(target) for target in inside(name)}}
    assert {name for name in found if part_of(name) == "testing"} == NEEDS_GATEWAY


@pytest.mark.parametrize("name", SOURCES)
def test_each_part_imports_only_its_own_packages(name: str) -> None:
    allowed = PACKAGES.get(name, PACKAGES.get(part_of(name), {"attrs"}))
    assert outside(name) <= allowed


def test_the_gateway_runs_without_the_extra_redis() -> None:
    loaded, _ = probe("wsclient.gateway.server")
    assert "wsclient.gateway.store.address" in loaded
    assert [name for name in loaded if name.split(".")[0] == "redis"] == []


def test_only_the_transport_imports_websocket() -> None:
    assert [name for name in SOURCES if "websocket" in outside(name)] == ["transport"]


def test_imports_against_the_stream_are_for_annotations_only_and_few() -> None:
    found = {
        (part_of(name), part_of(target))
        for name in CLIENT
        for target in inside(name, with_annotations=True) - inside(name)
        if floor_of(part_of(target)) > floor_of(part_of(name))
    }
    assert found == ANNOTATIONS


@pytest.mark.parametrize("name", SOURCES)
def test_no_file_is_called_what_says_nothing(name: str) -> None:
    assert {"utils", "util", "helpers", "helper", "common", "misc"} & set(name.split(".")) == set()


@pytest.mark.parametrize("name", CLIENT)
def test_locks_queues_and_threads_are_called_through_their_module(name: str) -> None:
    # gunicorn's gevent worker patches the modules after a fork: a name taken from them before would stay unpatched.
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    taken = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert taken & {"threading", "queue", "select", "socket", "ssl", "time"} == set()


# --- tried ------------------------------------------------------------------------------------------------------------

PROBE = """
import json, threading, {before}
before = set(sys.modules)
import {module}
loaded = sorted(set(sys.modules) - before)
names = [thread.name for thread in threading.enumerate()]
print(json.dumps([loaded, names]))
"""


def probe(module: str, *before: str) -> tuple[list[str], list[str]]:
    """Return what an import loads in a fresh interpreter after others, and the threads that run after it."""
    program = PROBE.format(before=", ".join(("sys", *before)), module=module)
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert output.stderr == ""
    loaded, threads = json.loads(output.stdout)
    return loaded, threads


@pytest.fixture(scope="module")
def fresh() -> tuple[list[str], list[str]]:
    """What `import wsclient` loads in a fresh interpreter, and the threads that run after it."""
    return probe("wsclient")


def test_importing_the_client_starts_no_thread(fresh: tuple[list[str], list[str]]) -> None:
    assert fresh[1] == ["MainThread"]


@pytest.mark.parametrize(
    "module",
    ["aiohttp", "asyncio", "click", "rich", "filelock", "Crypto", "pytest", "wsclient.gateway", "wsclient.cli"],
)
def test_importing_the_client_does_not_load(module: str, fresh: tuple[list[str], list[str]]) -> None:
    assert [name for name in fresh[0] if name == module or name.startswith(f"{module}.")] == []


def test_importing_the_client_loads_the_client(fresh: tuple[list[str], list[str]]) -> None:
    # A guard for the tests above: the probe sees what is loaded.
    assert {"wsclient.client", "wsclient.transport", "websocket", "attrs"} <= set(fresh[0])


def test_the_pytest_plugin_loads_next_to_nothing_in_every_run(fresh: tuple[list[str], list[str]]) -> None:
    loaded, threads = probe("wsclient.testing.pytest_plugin", "pytest")

    assert {name for name in loaded if name.startswith("wsclient.testing")} == {
        "wsclient.testing",
        "wsclient.testing.pytest_plugin",
    }
    assert set(loaded) - set(fresh[0]) == {"wsclient.testing", "wsclient.testing.pytest_plugin"}
    assert threads == ["MainThread"]
