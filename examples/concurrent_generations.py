"""The seed's "Multiple Concurrent Generations": one client, several threads, each with a generation of its own.

Run the README's "A gateway of your own" first; it writes keys/my-client_config.json and starts the gateway.
"""

from concurrent.futures import ThreadPoolExecutor

from wsclient import GenerationResult, WSClient

PROMPTS = {
    "Write a poem about the ocean": "\033[34m",
    "Write a short story about robots": "\033[32m",
}


def generate(client: WSClient, prompt: str, colour: str) -> GenerationResult:
    # A deadline in all, instead of the seed's own timer; the generation is stopped on the server when it passes.
    generation = client.stream(prompt, max_tokens=60, timeout=60)
    for token in generation:
        print(f"{colour}{token}\033[0m", end="", flush=True)
    return generation.result()


def main() -> None:
    with WSClient.from_config("keys/my-client_config.json") as client, ThreadPoolExecutor() as pool:
        jobs = [pool.submit(generate, client, prompt, colour) for prompt, colour in PROMPTS.items()]
        results = [job.result() for job in jobs]
    print("\n\nAll generations complete!")
    total = sum(result.total_tokens for result in results)
    print(f"Generated {len(results)} texts with a total of {total} tokens")


if __name__ == "__main__":
    main()
