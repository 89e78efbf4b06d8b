"""What is seen of the library's objects, whatever stands in them. Takes a moment."""

from __future__ import annotations

import pytest

from wsclient import GenerationResult, ModelInfo
from wsclient.contrib.ipython.views import client_view, generation_view, models_view, progress_view, result_view
from wsclient.testing import FakeClient, Thinking

HOSTILE = '<script>"\x1b[2J&\u202e'
SAFE = "&lt;script&gt;&quot;[2J&amp;"


def result(**facts: object) -> GenerationResult:
    return GenerationResult(**{"id": "gen_1", "model": "tiny:1b", "text": "Hi *there*", "total_tokens": 2} | facts)  # type: ignore[arg-type]


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_result_shows_its_markdown_and_its_figures() -> None:
    view = result_view(result(elapsed_time=1.25), first_token=0.3)

    assert "<p>Hi <em>there</em></p>" in view.html
    assert "tiny:1b · 2 tokens · 1.2 s · first token after 300 ms</div>" in view.html
    assert view.text == "Hi *there*\n[tiny:1b · 2 tokens · 1.2 s · first token after 300 ms]"
    assert view.bundle == {"text/html": view.html, "text/plain": view.text}


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        ({"is_cancelled": True}, "tiny:1b · 2 tokens · stopped before its end"),
        ({"done_reason": "length"}, "tiny:1b · 2 tokens · cut off at max_tokens"),
        ({"total_tokens": 1, "model": None}, "default model · 1 token"),
        ({"total_tokens": 12_345, "done_reason": "stop"}, "tiny:1b · 12,345 tokens"),
    ],
)
def test_a_result_says_how_it_ended(facts: dict[str, object], note: str) -> None:
    assert result_view(result(**facts)).text.endswith(f"\n[{note}]")


def test_thinking_is_folded_away_and_no_markdown() -> None:
    view = result_view(result(thinking="*Hm* <b>"))

    assert ">*Hm* &lt;b&gt;</div></details>" in view.html
    assert "Hm" not in view.text


def test_a_result_without_text_is_its_figures() -> None:
    assert result_view(result(text="", total_tokens=0)).text == "[tiny:1b · 0 tokens]"


def test_math_is_left_to_nobody() -> None:
    assert 'class="tex2jax_ignore mathjax_ignore"' in result_view(result(text="$5 or $6")).html


# --- everything that comes from elsewhere is escaped ------------------------------------------------------------------


def test_a_models_names_are_escaped_in_a_table() -> None:
    view = models_view([ModelInfo(name=HOSTILE, family=HOSTILE, parameter_size=HOSTILE, quantization_level=HOSTILE)])

    assert view.html.count(f">{SAFE}</td>") == 4
    assert "<script>" not in view.html
    assert "\x1b" not in view.text + view.html
    assert "\u202e" not in view.text + view.html


def test_the_name_of_a_results_model_is_escaped() -> None:
    view = result_view(result(model=HOSTILE))

    assert f"{SAFE} · 2 tokens" in view.html
    assert "\x1b" not in view.text


def test_a_client_is_escaped_and_shows_no_key() -> None:
    client = FakeClient(client_id=HOSTILE)

    assert f"client {SAFE}" in client_view(client).html
    assert "\x1b" not in client_view(client).text
    assert "KEY" not in client_view(client).html


# --- models and clients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_019_393_189, "2.0 GB"), (42_520_413_916, "43 GB"), (None, "")],
)
def test_a_models_size_is_read_as_ollama_shows_it(size: int | None, shown: str) -> None:
    assert (
        f'<td style="text-align:left;white-space:nowrap">{shown}</td>'
        in models_view([ModelInfo(name="tiny:1b", size=size)]).html
    )


def test_models_are_aligned_at_a_terminal() -> None:
    models = [ModelInfo(name="tiny:1b", size=1000, family="llama"), ModelInfo(name="somewhat-larger:70b")]

    assert models_view(models).text.splitlines() == [
        "Name                 Size    Family  Parameters  Quantisation",
        "tiny:1b              1.0 kB  llama",
        "somewhat-larger:70b",
    ]


def test_a_client_says_whether_it_is_connected() -> None:
    client = FakeClient()
    assert "○ <b>disconnected</b>" in client_view(client).html

    client.connect()

    assert "●</span> <b>connected</b>" in client_view(client).html
    assert client_view(client).text.startswith("WSClient connected · ")


# --- generations ------------------------------------------------------------------------------------------------------


def test_a_generation_shows_what_came_and_whether_it_runs() -> None:
    generation = FakeClient({"Hello": "Hi there"}).stream("Hello", "tiny:1b")
    list(generation)

    assert generation_view(generation).text == "Hi there\n[tiny:1b · done]"
    assert generation_view(generation, "broke off: server_busy").text == "Hi there\n[tiny:1b · broke off: server_busy]"


def test_progress_counts_the_seconds_until_the_first_token() -> None:
    generation = FakeClient({"Hello": [Thinking("hm"), "Hi"]}).stream("Hello", "tiny:1b")
    assert progress_view(generation, 2.4).text == "[waiting for the first token of tiny:1b … 2 s]"

    list(generation)

    assert progress_view(generation, 2.4).text == "Hi\n[tiny:1b is writing … 2 s]"
    assert "<summary>Thinking</summary>" in progress_view(generation, 2.4).html
