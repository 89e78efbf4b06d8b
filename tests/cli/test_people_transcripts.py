"""What users see of `models`, `generate`, `chat`, `batch` and `bench`: transcripts. Takes 14 s."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..support.fake_ollama import FakeModel, FakeOllama
from .golden import Transcript

CONFIG = "--config=keys/tester_config.json"


@pytest.fixture(autouse=True)
def _what_varies(transcript: Transcript, config: Path) -> None:
    """Figures differ in length, too."""
    transcript.varying |= {
        # With what aligns it in a table.
        "rates!": r"(?<=one answer  )[\d.,]+ +[\d.,]+",
        "time!": r"\b[\d.]+ m?s\b *",
        "rate!": r"(?<= )[\d.,]+(?= tokens/s)",
        "figure!": r'(?<="elapsed_time": )[\d.e-]+',
    }


def test_transcript_of_models(transcript: Transcript, ollama: FakeOllama) -> None:
    ollama.models = [
        FakeModel(name="llama3.2:latest", size=2_019_393_189, parameter_size="3.2B"),
        FakeModel(
            name="hf.co/someone/a-model-with-a-long-name-GGUF:Q4_K_M", size=815_319_791, parameter_size="999.89M"
        ),
    ]
    transcript.run("models", CONFIG)
    transcript.run("models", CONFIG, "--json")
    transcript.check("models")


def test_transcript_of_generate(transcript: Transcript, ollama: FakeOllama) -> None:
    ollama.script(pieces=["Rain falls on the roof,", "\nwide characters 漢字 too, ", "and a line that goes on " * 8])
    transcript.run("generate", "A haiku", CONFIG)
    transcript.run("generate", "A haiku", CONFIG, "--out=haiku.txt")
    ollama.script(mode="drop", after=2)
    transcript.run("generate", "A haiku", CONFIG, "--out=haiku.txt")
    transcript.check("generate")


def test_transcript_of_chat(transcript: Transcript, ollama: FakeOllama) -> None:
    ollama.script(pieces=["# Title\n\nSome **bold** words, `code` ", "and 漢字\n\n1. one\n2. two\n\n```\ncode\n```\n"])
    ollama.script(prompt="Break", mode="drop", after=2)
    transcript.run(
        "chat",
        CONFIG,
        "--no-history",
        answers=[
            ("leaves.\n>", "Hello\n"),
            ("s\n>", "/models\n"),
            ("  tiny:1b\n>", "/model tiny:1b\n"),
            ("model: tiny:1b\n>", "Break off\n"),
            ("part of the chat)\n>", "/help\n"),
            ("longer text.\n>", "/save chat.md\n"),
            ("saved to chat.md\n>", "/quit\n"),
        ],
        stdin="Hello\nBreak off\n",
    )
    transcript.check("chat")


def test_transcript_of_batch(transcript: Transcript, folder: Path) -> None:
    items = [{"prompt": "one", "id": 1}, {"prompt": "two", "model": "nope"}, {"prompt": "three", "temperature": -1}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    transcript.run("batch", "prompts.jsonl", CONFIG)
    transcript.run("batch", "prompts.jsonl", CONFIG, "--out=results.jsonl")
    transcript.run("batch", "prompts.jsonl", CONFIG, "--out=results.jsonl")
    transcript.check("batch")


def test_transcript_of_bench(transcript: Transcript, ollama: FakeOllama) -> None:
    # No figure is wider than its column's head then.
    ollama.script(delay=0.005)
    transcript.run("bench", CONFIG, "--requests=4")
    transcript.check("bench")
