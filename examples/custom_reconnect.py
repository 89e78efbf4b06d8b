"""The seed's "Custom Reconnection Logic": auto_reconnect is off, and the program decides when to dial again.

Run the README's "A gateway of your own" first; it writes keys/my-client_config.json and starts the gateway. Then stop
the gateway, or start it again, while this runs. It ends after three attempts, or when the time given (in seconds) is
over: `python examples/custom_reconnect.py 10`.
"""

import queue
import sys
import time

from wsclient import ConnectionStatus, WSClient, WSClientError

MAX_ATTEMPTS = 3
PAUSE = 2.0


def main(seconds: float) -> None:
    client = WSClient.from_config("keys/my-client_config.json", auto_reconnect=False)
    statuses: queue.SimpleQueue[ConnectionStatus] = queue.SimpleQueue()
    client.on_connection_change(statuses.put)
    attempts = 0
    end = time.monotonic() + seconds
    with client:
        while (remaining := end - time.monotonic()) > 0:
            try:
                status = statuses.get(timeout=remaining)
            except queue.Empty:
                break
            print(f"Connection status: {status}")
            if status is ConnectionStatus.AUTHENTICATED:
                attempts = 0
            elif status is ConnectionStatus.DISCONNECTED:
                if attempts == MAX_ATTEMPTS:
                    print("Giving up.")
                    break
                attempts += 1
                print(f"Manual reconnect attempt {attempts}...")
                time.sleep(PAUSE)
                try:
                    client.connect()
                except WSClientError as error:
                    print(error)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
