"""Stream a text to the terminal: the shortest whole program.

Run the README's "A gateway of your own" first; it writes keys/my-client_config.json and starts the gateway.
"""

from wsclient import WSClient

with WSClient.from_config("keys/my-client_config.json") as client:
    for token in client.stream("Write a haiku about rain", temperature=0.7, max_tokens=60):
        print(token, end="", flush=True)
    print()
