"""A whole session at the most talkative level: nothing that is somebody's secret is in the log."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import pytest
from Crypto.PublicKey.RSA import RsaKey

from wsclient import ModelNotFoundError, WSClient, WSClientError
from wsclient.core.auth import sign_challenge
from wsclient.core.frames import TEXT
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import public_pem

from ..support.fake_ollama import Answer, FakeOllama
from ..support.gateway_peers import Peer, RawPeer
from ..support.waiting import wait_until

PROMPT = "the-prompt-of-somebody"
SYSTEM = "the-system-prompt"
TOKEN = "the-token-of-a-model"


def test_neither_prompts_nor_tokens_nor_anything_of_a_login_are_logged_at_any_level(
    tmp_path: Path, rsa_key: RsaKey, rsa_key_pem: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = ClientRegistry(tmp_path / "authorized_clients.json")
    client_id = registry.register("somebody", public_pem(rsa_key)).id
    with caplog.at_level(logging.DEBUG), FakeOllama(default=Answer(token=TOKEN)) as ollama:
        settings = GatewaySettings(port=0, data_dir=tmp_path, ollama_url=ollama.url, close_timeout=0.2)
        with GatewayThread(settings) as gateway:
            secrets = session(gateway, ollama, client_id, rsa_key, rsa_key_pem)
            with Peer(gateway.url).log_in(client_id, rsa_key):
                registry.revoke(client_id)
                wait_until(lambda: "was revoked" in caplog.text)
    assert "logged in" in caplog.text
    assert "refused" in caplog.text
    logged = caplog.text + repr([(record.msg, record.args) for record in caplog.records])
    assert [secret for secret in (PROMPT, SYSTEM, TOKEN, *secrets) if secret in logged] == []


def session(gateway: GatewayThread, ollama: FakeOllama, client_id: str, key: RsaKey, pem: str) -> list[str]:
    """Do all that there is to do, well and badly; return the secrets that came up."""
    with WSClient(gateway.url, client_id=client_id, private_key=pem) as client:
        assert client.complete(PROMPT, "llama2", system=SYSTEM).text.startswith(TOKEN)
        client.list_models()
        for mode in ("drop", "error_line", "garbage", "nodone", "500"):
            answer = {"status": 500} if mode == "500" else {"mode": mode, "after": 1, "garbage": PROMPT}
            ollama.script(error=PROMPT, **answer)
            with suppress(WSClientError):
                client.complete(PROMPT, "llama2")
        with pytest.raises(ModelNotFoundError):
            client.complete(PROMPT, PROMPT)
    with Peer(gateway.url) as wrong, Peer(gateway.url) as right, RawPeer(gateway.url) as broken:
        wrong.try_login(client_id, "A" * 344)
        right.log_in(client_id, key)
        right.send_text('{"type":"generate","prompt":"' + PROMPT)
        right.send_text("[" * 600 + PROMPT)
        right.send(type=PROMPT, id="x")
        right.send(type="generate", id=[PROMPT], prompt=[PROMPT])
        for _ in range(4):
            assert right.receive()["type"] == "error"
        broken.send_frame(TEXT, PROMPT.encode() + b"\xff")
        assert broken.read_to_end() == 1007
        signature = sign_challenge(key, right.challenge, "SHA256")
        body = "".join(pem.splitlines()[1:-1])
        return [wrong.challenge, right.challenge, signature, "A" * 344, pem.splitlines()[3], body]
