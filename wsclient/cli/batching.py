"""The command `batch`: many prompts from a file, several at a time, their results in the file's order."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import click

from ..client import WSClient
from ..errors import WSClientError
from ..options import ClientOptions
from . import terminal
from .batch_items import BatchItem, PolledInput, read_items
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

# An item, and its result of before.
_Pair: TypeAlias = tuple[BatchItem, dict[str, Any] | None]
# An item, its result, and whether that is the one of before.
_Done: TypeAlias = tuple[BatchItem, dict[str, Any], bool]
# No item has the line 0.
_END = BatchItem(line=0, end=0, digest="")


@click.command(
    "batch",
    cls=Command,
    sections=GENERATION_SECTION | CONNECTION_SECTION,
    examples="""
        wsclient batch prompts.jsonl --out=results.jsonl --parallel=8
        wsclient batch prompts.jsonl --model=llama3.2 | jq -r .text
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
@click.option("--retry-failed", is_flag=True, help="With --out, try the lines again that have failed before.")
@click.option("--model", metavar="NAME", help="Of lines that name none; the server's default when left out.")
@generation_flags
@connection_flags
def batch(
    file: Path,
    out: Path | None,
    parallel: int,
    retries: int,
    retry_failed: bool,
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
    if retry_failed and out is None:
        raise click.UsageError("--retry-failed goes with --out", click.get_current_context())
    with ending_in_order(), ExitStack() as stack:
        source = stack.enter_context(_opened(file))
        results = _open_results(file, source, out)
        if results is not None:
            stack.enter_context(results)
        items = read_items(source, model, options)
        progress = BatchProgress(_size(source), is_screen_free=out is not None)
        pairs = _pair(items, results, file)
        if results is not None and retry_failed:
            results.redo()
        elif results is not None:
            pairs = _skip_finished(pairs, progress)
        with WSClient.from_options(connection) as client, progress:
            run = _Run(BatchWorker(client, retries), results, progress)
            run.work(pairs, parallel)
    terminal.show_line(progress.summary, "dim", to_stderr=True)
    click.get_current_context().exit(FAILED if progress.failed else 0)


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes] | PolledInput]:
    if str(file) == "-":
        yield PolledInput(sys.stdin.fileno())
        return
    with open(file, "rb") as source:
        yield source


def _size(source: IO[bytes] | PolledInput) -> int | None:
    return os.fstat(source.fileno()).st_size or None


def _open_results(file: Path, source: IO[bytes] | PolledInput, out: Path | None) -> ResultFile | None:
    if out is None:
        return None
    if out.exists() and os.path.samestat(os.fstat(source.fileno()), os.stat(out)):
        raise click.UsageError(f"{file} cannot be both what is read and --out", click.get_current_context())
    return ResultFile(out)


def _pair(items: Iterator[BatchItem | None], results: ResultFile | None, file: Path) -> Iterator[_Pair | None]:
    """Yield each item with its result of before, if it has one; `None` when there is no item just now.

    Raises:
        Failure: the results are those of other items.
    """
    for result in results.finished() if results is not None else ():
        while (item := next(items, _END)) is None:
            yield None
        if item is _END or item.digest != result["input"]:
            what = f"{file} has fewer lines" if item is _END else f"line {item.line} of {file}, or a flag, has changed"
            raise Failure(f"{what} since these results were made; give another --out to begin anew")
        yield item, result
    for item in items:
        yield None if item is None else (item, None)


def _skip_finished(pairs: Iterator[_Pair | None], progress: BatchProgress) -> Iterator[_Pair | None]:
    """Take the items that have a result, and return the others."""
    for pair in pairs:
        if pair is not None and pair[1] is None:
            pairs = itertools.chain([pair], pairs)
            break
        if pair is not None and pair[1] is not None:
            progress.note_kept(pair[0], pair[1])
    if progress.kept:
        terminal.show_line(f"Done already: {count_lines(progress.kept)}.", "dim", to_stderr=True)
    return pairs


class _Run:
    """A batch under way."""

    def __init__(self, worker: BatchWorker, results: ResultFile | None, progress: BatchProgress) -> None:
        self._worker = worker
        self._results = results
        self._progress = progress

    def work(self, pairs: Iterator[_Pair | None], parallel: int) -> None:
        # Ctrl-C in the middle of writing a line could have it written twice, or by half.
        with deferring_ctrl_c() as end_if_told:

            def tick() -> None:
                end_if_told()
                self._progress.show()

            work = OrderedWork(self._do, pairs, parallel, tick)
            try:
                for done in work.results():
                    self._write(done)
                    end_if_told()
            except BaseException as error:
                self._worker.stop()
                finished = work.stop()
                # There is no use in writing more where writing failed; the library's errors can be OSErrors, too.
                if not isinstance(error, OSError) or isinstance(error, WSClientError):
                    self._finish(finished)
                raise

    def _do(self, pair: _Pair) -> _Done:
        item, before = pair
        is_kept = before is not None and "error" not in before
        return item, before if before is not None and is_kept else self._worker.run(item), is_kept

    def _finish(self, finished: list[_Done]) -> None:
        for done in finished:
            if done[0].line > self._progress.line:
                self._write(done)
        self._say_how_to_go_on()

    def _write(self, done: _Done) -> None:
        item, result, is_kept = done
        if self._results is None:
            terminal.write(encode_result(result))
        else:
            self._results.write(result)
        (self._progress.note_kept if is_kept else self._progress.note)(item, result)

    def _say_how_to_go_on(self) -> None:
        self._progress.end()
        done = count_lines(self._progress.kept + self._progress.written)
        if self._results is None:
            text = f"Done: {done}; with --out=FILE the same command would go on after them."
        else:
            text = f"Done and kept: {done}; the same command goes on after them."
        terminal.show_line(text, to_stderr=True)
