"""What a model wrote becomes HTML that can do nothing, and looks like what was written. Takes 4 s."""

from __future__ import annotations

import html
import re
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsclient.contrib.ipython.markdown import _BLOCK, _CODE, clean, escape, one_line, to_html

# What Markdown stands for, and nothing else.
TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"href", "title", "target", "rel", "class", "start", "style"}
STYLES = {_BLOCK, _CODE, *(f"text-align:{side}" for side in ("left", "center", "right"))}
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Inspector(HTMLParser):
    """Reads HTML as a browser does, and fails for what must not be in it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        for name, value in attrs:
            assert name in ATTRIBUTES
            assert name != "style" or value in STYLES
            if name == "href":
                assert (value or "").lower().startswith(("http://", "https://", "mailto:"))
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    handle_decl = handle_pi = unknown_decl = handle_comment


def inspected(text: str) -> Inspector:
    """Return what is in the HTML of a text, which is only what may be in it."""
    made = to_html(text)
    assert not CONTROLS.search(made)
    inspector = Inspector()
    inspector.feed(made)
    inspector.close()
    assert not CONTROLS.search(inspector.text)
    return inspector


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "a\n\n<div onclick='x'>\n\nb</div>",
    "<!-- c --><?php x ?><![CDATA[x]]><!DOCTYPE x>",
    "`</code><script>x</script>`",
    "```\n</code></pre><script>x</script>\n```",
    "```html\"onclick='x'\nx\n```",
    "    </code></pre><iframe src=x>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](\x01javascript:alert(1))",
    "[a](java\tscript:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](java&#10;script:alert(1))",
    "[a](data:text/html,<script>x</script>)",
    "[a](vbscript:x) [b](file:///etc/passwd)",
    "[a](/api/shutdown) [b](../tree) [c](//evil.example)",
    "[a][b]\n\n[b]: javascript:x",
    "<javascript:alert(1)>",
    "![x](https://evil.example/pixel.png)",
    "![x][y]\n\n[y]: https://evil.example/pixel.png",
    '[a](https://e.org/"onmouseover="x "t\\"><script>")',
    "| a |\n|-|\n| <script>x</script> |",
    "&lt;script&gt;x&lt;/script&gt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_it_can_act(text: str) -> None:
    inspected(text)


@pytest.mark.parametrize("where", ["{}", "`{}`", "```\n{}\n```", "    {}", "- {}", "> {}", "| a |\n|-|\n| {} |"])
def test_what_looks_like_html_is_seen_as_it_was_written(where: str) -> None:
    assert 'x <b class="c"> & y' in inspected(where.format('x <b class="c"> & y')).text


def test_without_the_extra_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['markdown_it'] = None; import wsclient.contrib.ipython"

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert finished.stderr.endswith("in a checkout of ws-system-client run: pip install '.[ipython]'\n")


def test_the_web_and_mail_are_linked_and_opened_elsewhere() -> None:
    text = "[a](https://e.org/?a=1&b=2) <http://e.org> [c](mailto:a@e.org)"

    assert inspected(text).links == ["https://e.org/?a=1&b=2", "http://e.org", "mailto:a@e.org"]
    assert to_html(text).count('target="_blank" rel="noopener noreferrer"') == 3


def test_an_image_becomes_a_link_to_it() -> None:
    assert inspected("![a cat](https://e.org/cat.png)").links == ["https://e.org/cat.png"]


def test_lines_stay_lines() -> None:
    assert to_html("Rain falls\non the roof").count("<br") == 1


def test_code_that_has_only_begun_is_code_already() -> None:
    assert to_html("```python\nif a < b:").endswith(' class="language-python">if a &lt; b:</code></pre>\n')


def test_tables_and_struck_text_are_known() -> None:
    made = to_html("| a | b |\n|:-:|---|\n| 1 | ~~2~~ |")
    assert '<td style="text-align:left"><s>2</s></td>' in made
    assert '<td style="text-align:center">1</td>' in made


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;title\x07", "a\x9b31m", "a&#27;[2J&#12;&#13;&#x9b;", "a\rb", "\x00"])
def test_no_control_character_comes_through(text: str) -> None:
    inspected(text)


def test_the_halves_of_a_character_are_joined_and_lone_ones_replaced() -> None:
    assert clean("\ud83d" + "\ude00") == "😀"
    assert clean("a\ud83d b") == "a� b"


def test_a_single_line_hides_nothing() -> None:
    assert one_line("a\nb\u202ec\u200b\x1b") == "a bc"
    assert escape('<b>"\n') == "&lt;b&gt;&quot; "


def test_long_texts_are_shown_as_they_were_written() -> None:
    text = "*a* <b>\n" * 20_000
    made = to_html(text)
    assert made.startswith('<pre style="white-space:pre-wrap">')
    assert html.unescape(made.removeprefix('<pre style="white-space:pre-wrap">').removesuffix("</pre>")) == text


@pytest.mark.parametrize(
    "piece", ["[", "![", "[a](", "*a ", "_a_", "**", "`", "<", "> ", "- ", "~~a ", "|a", "&", "[a]: b\n"]
)
def test_no_text_keeps_the_parser_busy_for_long(piece: str) -> None:
    begun = time.monotonic()
    to_html((piece * 10_000)[:10_000])
    # Of a few words it takes a millisecond; 0.2 s at most of these.
    assert time.monotonic() - begun < 5


MARKS = st.sampled_from(
    [*"[]()<>`*_~|-#!&;:\n \"'\\", "javascript:", "https://e.org", "<script>", "```", "&#", "x=", "    "]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(MARKS, st.text(max_size=3)), max_size=40).map("".join))
def test_whatever_is_written_nothing_in_it_can_act(text: str) -> None:
    inspected(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="`"), min_size=1))
def test_code_says_what_was_written(text: str) -> None:
    assert inspected(f"```\n{text}\n```").text.strip("\n") == text
