"""What users see of the managing commands: transcripts at a terminal and in a pipe. Takes 20 s."""

from __future__ import annotations

from .golden import Transcript


def test_transcript_of_list_clients(transcript: Transcript) -> None:
    transcript.run("list-clients")
    transcript.run("generate-keys", "--type=ec", "--name=alice")
    transcript.run("register-client", "--name=alice", "--key-path=keys/alice_key.pub")
    transcript.run("list-clients")
    transcript.run("list-clients", "--detailed")
    transcript.check("list-clients")
