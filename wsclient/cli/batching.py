"""The command `batch`: many prompts from a file, several at a time, their results in the file's order."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import click

from ..client import WSClient
from ..errors import WSClientError
from ..options import ClientOptions
from . import terminal
from .batch_items import BatchItem, read_items
from .batch_progress import BatchProgress, count_lines
from .batch_results import ResultFile, encode_result
from .batch_worker import BatchWorker
from .command import Command, path
from .connecting import CONNECTION_SECTION, connection_flags
from .failures import FAILED, Failure
from .generation_flags import GENERATION_SECTION, generation_flags
from .ordered_work import OrderedWork
from .signals import deferring_ctrl_c, ending_in_order

__all__ = ["batch"]


@click.command(
    "batch",
    cls=Command,
    sections=GENERATION_SECTION | CONNECTION_SECTION,
    examples="""
        wsclient batch prompts.jsonl --out=results.jsonl --parallel=8
        wsclient batch - --model=llama3.2 < prompts.jsonl | jq -r .text
        jq -c 'select(.error)' results.jsonl
        """,
)
@click.argument("file", type=path)
@click.option("--out", type=path, metavar="FILE", help="Write here instead; the same command again goes on with it.")
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True, help="Lines at the same time.")
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=5,
    show_default=True,
    help="Further attempts for a line whose failure may pass.",
)
@click.option("--model", metavar="NAME", help="Of lines that name none; the server's default when left out.")
@generation_flags
@connection_flags
def batch(
    file: Path,
    out: Path | None,
    parallel: int,
    retries: int,
    model: str | None,
    options: dict[str, Any],
    connection: ClientOptions,
) -> None:
    """Generate text for each line of FILE; "-" reads stdin.

    A line is a JSON object: {"prompt": "..."}, and if need be "model", "id" (any value, for you), "options" or single
    options such as "temperature", which win over the flags. The results are JSON lines in the same order, with the
    line's number and id, "text", "model" and figures; or with "error". Such failures make the exit code 1.

    Interrupted, the same command with --out goes on where it was: what is there is kept, unless FILE or the flags have
    changed, which is an error.
    """
    with ending_in_order(), ExitStack() as stack:
        source = stack.enter_context(_opened(file))
        results = _open_results(file, source, out)
        if results is not None:
            stack.enter_context(results)
        items = read_items(source, model, options)
        progress = stack.enter_context(BatchProgress(_size(source), is_screen_free=out is not None))
        _skip_finished(results, items, progress, file)
        with WSClient.from_options(connection) as client:
            run = _Run(BatchWorker(client, retries), results, progress)
            run.work(items, parallel)
    terminal.show_line(progress.summary, "dim", to_stderr=True)
    click.get_current_context().exit(FAILED if progress.failed else 0)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb") as source:
        yield source


def _size(source: IO[bytes]) -> int | None:
    size = os.fstat(source.fileno()).st_size
    return size or None


def _open_results(file: Path, source: IO[bytes], out: Path | None) -> ResultFile | None:
    if out is None:
        return None
    if out.exists() and os.path.samestat(os.fstat(source.fileno()), os.stat(out)):
        raise click.UsageError(f"{file} cannot be both what is read and --out", click.get_current_context())
    return ResultFile(out)


def _skip_finished(results: ResultFile | None, items: Iterator[BatchItem], progress: BatchProgress, file: Path) -> None:
    """Take the items whose results are there.

    Raises:
        Failure: they are the results of other items.
    """
    if results is None:
        return
    for result in results.finished():
        item = next(items, None)
        if item is None or item.digest != result["input"]:
            what = f"line {result['line']} of {file}, or a flag, has changed" if item else f"{file} has fewer lines"
            raise Failure(f"{what} since these results were made; give another --out to begin anew")
        progress.note_kept(item, result)
    if progress.kept:
        terminal.show_line(f"Done already: {count_lines(progress.kept)}.", "dim", to_stderr=True)


class _Run:
    """A batch under way."""

    def __init__(self, worker: BatchWorker, results: ResultFile | None, progress: BatchProgress) -> None:
        self._worker = worker
        self._results = results
        self._progress = progress

    def work(self, items: Iterator[BatchItem], parallel: int) -> None:
        # Ctrl-C in the middle of writing a line could have it written twice, or by half.
        with deferring_ctrl_c() as end_if_told:

            def tick() -> None:
                end_if_told()
                self._progress.show()

            work = OrderedWork(lambda item: (item, self._worker.run(item)), items, parallel, tick)
            try:
                for item, result in work.results():
                    self._write(item, result)
                    end_if_told()
            except BaseException as error:
                self._worker.stop()
                finished = work.stop()
                # There is no use in writing more where writing failed; the library's errors can be OSErrors, too.
                if not isinstance(error, OSError) or isinstance(error, WSClientError):
                    self._finish(finished)
                raise

    def _finish(self, finished: list[tuple[BatchItem, dict[str, Any]]]) -> None:
        for item, result in finished:
            if item.line > self._progress.line:
                self._write(item, result)
        self._say_how_to_go_on()

    def _write(self, item: BatchItem, result: dict[str, Any]) -> None:
        if self._results is None:
            terminal.write(encode_result(result))
        else:
            self._results.write(result)
        self._progress.note(item, result)

    def _say_how_to_go_on(self) -> None:
        self._progress.end()
        done = count_lines(self._progress.kept + self._progress.written)
        if self._results is None:
            text = f"Done: {done}; with --out=FILE the same command would go on after them."
        else:
            text = f"Done and kept: {done}; the same command goes on after them."
        terminal.show_line(text, to_stderr=True)
