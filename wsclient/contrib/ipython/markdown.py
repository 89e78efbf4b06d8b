"""What a model wrote, as HTML that can do nothing. Pure: text in, text out.

Frontends disagree about HTML inside Markdown (Jupyter filters it, others run it), and escaping it beforehand would have
to agree with each one's parser about what is code, where an escape would be seen. So nobody else gets to parse it:
what leaves here is HTML, made by a CommonMark parser that knows no HTML and escapes whatever it meets.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Sequence
from typing import Any

try:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
except ModuleNotFoundError as error:
    # Who has IPython need not have installed the extra.
    hint = "wsclient.contrib.ipython needs the extra `ipython`; in a checkout of ws-system-client run: pip install"
    raise ModuleNotFoundError(f"{error.msg}: {hint} '.[ipython]'", name=error.name) from None

__all__ = ["clean", "escape", "one_line", "to_html"]

# C0 without tab and newline, DEL, C1.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_HALVES = re.compile(r"[\ud800-\udfff]")
# Relative links would lead to the notebook server itself, with its reader's rights.
_SCHEMES = ("https://", "http://", "mailto:")
# Parsing takes about 0.03 s for so many characters (3 s at worst); what is longer is shown as it was written.
_LONGEST = 100_000
# The parser leaves out what is nested deeper than this, which is 20 by itself: ten lists, of which each counts twice.
_DEEPEST = 100
# Half transparent for light and dark pages; long lines scroll instead of being broken anywhere.
_BLOCK = "overflow-x:auto;margin:.5em 0 1em;padding:.5em .75em;background:rgba(128,128,128,.12)"
_CODE = "background:none;white-space:pre;padding:0"
_OPEN_CODE = f'<pre style="{_BLOCK}"><code style="{_CODE}"'


def clean(text: str) -> str:
    """Return a text without control characters (newlines and tabs stay), and whole: halves of characters are joined."""
    if _HALVES.search(text):
        # A server may send the two halves of one in two tokens; a lone one cannot be sent to a frontend at all.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Return a text as a single line that is what it seems to be: no controls, no invisible or turning characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "" for c in text)


def escape(text: str) -> str:
    """Return a single line of text as HTML."""
    return html.escape(one_line(text))


def to_html(text: str) -> str:
    """Return Markdown as HTML: no HTML of its own, no images, no links but to the web and to mail addresses.

    Line ends stay line ends, for poems. Math is left as it is written: `$5 or $6` is none.
    """
    if len(text) > _LONGEST:
        return f'<pre style="white-space:pre-wrap">{html.escape(clean(text))}</pre>'
    # Once more, because `&#13;` is a control character only now. What the text itself had of `<pre>` is escaped.
    return clean(_parser().render(clean(text))).replace("<pre><code", _OPEN_CODE)


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return url.lower().startswith(_SCHEMES)


@functools.cache
def _parser() -> MarkdownIt:
    parser = _Parser("commonmark", {"html": False, "breaks": True, "maxNesting": _DEEPEST})
    # An image is fetched without anybody's click, and its address can tell what was asked.
    parser.enable(["table", "strikethrough"]).disable("image")
    parser.add_render_rule("link_open", _open_link)
    for rule in ("th_open", "td_open"):
        parser.add_render_rule(rule, _open_cell)
    return parser


def _open_link(renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer")
    return str(renderer.renderToken(tokens, index, options, environment))


def _open_cell(renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: Any) -> str:
    if tokens[index].attrGet("style") is None:
        # Jupyter aligns to the right what has no alignment, as for numbers.
        tokens[index].attrSet("style", "text-align:left")
    return str(renderer.renderToken(tokens, index, options, environment))
