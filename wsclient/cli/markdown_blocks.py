"""Markdown that is still being written: which of it can no longer change. Pure.

By CommonMark's rules a block at the top level is closed for good once the next one has begun, and whether a line begins
one can be told when the line is whole. So everything before the last block that a whole line began is settled.
"""

from __future__ import annotations

from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["parse", "split_settled"]

# References could still be defined later on. HTML, definitions and the addresses of images would be taken out of what
# is shown: a model that writes "List<String>" means just that.
_PARSER = MarkdownIt().enable(["strikethrough", "table"]).disable(["reference", "html_block", "html_inline", "image"])


def parse(text: str) -> list[Token]:
    """Return the tokens of a text, none of which is taken out; a line that ends in a paragraph ends when shown, too."""
    tokens = _PARSER.parse(text)
    for token in tokens:
        for child in token.children or ():
            # A model that breaks a line means it: verses, addresses.
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


def split_settled(text: str) -> tuple[list[str], str]:
    """Split what was written so far.

    Args:
        text: from the beginning of a block at the top level.

    Returns:
        The blocks that are settled, and the rest, which may go on; together they are the text.
    """
    starts = list(_block_starts(text[: text.rfind("\n") + 1]))
    # As the parser counts lines: other characters that end one elsewhere are part of it here.
    lines = text.split("\n")
    blocks = []
    for start, end in zip([0, *starts[1:]], starts[1:], strict=False):
        blocks.append("\n".join(lines[start:end]) + "\n")
    return blocks, "\n".join(lines[starts[-1] if len(starts) > 1 else 0 :])


def _block_starts(text: str) -> Iterator[int]:
    for token in _PARSER.parse(text):
        if token.level == 0 and token.nesting >= 0 and token.map is not None:
            yield token.map[0]
