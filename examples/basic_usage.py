"""The seed's "Basic Usage": statuses and errors by callback, models, and a generation whose events are callbacks too.

Run the README's "A gateway of your own" first; it writes keys/my-client_config.json and starts the gateway.
"""

import threading

from wsclient import ErrorEvent, GenerationEndEvent, TokenEvent, WSClient, WSClientError


def list_models(client: WSClient) -> None:
    try:
        names = ", ".join(model.name for model in client.list_models())
        # One text, not several arguments: the callbacks' thread prints too, and would come between them.
        print(f"Available models: {names}")
    except WSClientError as error:
        print("Failed to list models:", error)


def generate_text(client: WSClient) -> None:
    finished = threading.Event()
    try:
        generation_id = client.generate("Write a short story about a robot learning to paint", max_tokens=80)
    except WSClientError as error:
        print("Generation failed:", error)
        return

    # Subscribed right after generate(), in the same thread: the first tokens may be here already, none is missed.
    def on_token(event: TokenEvent) -> None:
        if event.id == generation_id:
            print(event.token, end="", flush=True)

    def on_end(event: GenerationEndEvent) -> None:
        if event.id == generation_id:
            print(f"\nGeneration complete: {event.total_tokens} tokens in {event.elapsed_time} s")
            finished.set()

    def on_error(event: ErrorEvent) -> None:
        if event.id == generation_id:
            finished.set()

    unsubscribers = [client.on_token(on_token), client.on_generation_end(on_end), client.on_error(on_error)]
    finished.wait()
    for unsubscribe in unsubscribers:
        unsubscribe()


def main() -> None:
    client = WSClient.from_config("keys/my-client_config.json")
    client.on_connection_change(lambda status: print(f"Connection status: {status}"))
    client.on_error(lambda error: print(f"Error: {error.message} ({error.code})"))
    with client:
        list_models(client)
        generate_text(client)


if __name__ == "__main__":
    main()
