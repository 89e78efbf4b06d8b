"""Test code of your own that uses wsclient: with no network, with a real gateway, and with one that fails.

    pytest examples/test_chatbot.py

The fixtures come with wsclient (extra `gateway` for the real one); `wsclient.testing.pytest_plugin` describes them.
"""

import pytest

from wsclient import WSClient, WSClientError

# --- your code --------------------------------------------------------------------------------------------------------


class Chatbot:
    """Answers questions, keeps them short, and has an excuse when the line or the model fails."""

    def __init__(self, client: WSClient, limit: int = 20) -> None:
        self.client = client
        self.limit = limit

    def ask(self, question: str) -> str:
        text = ""
        try:
            for token in self.client.stream(question, system="Be brief"):
                text += token
                if len(text) >= self.limit:
                    return text + "..."
        except WSClientError as error:
            return f"{text} [sorry: {error.code}]".strip()
        return text


# --- its tests --------------------------------------------------------------------------------------------------------

ANSWERS = {
    "Hello": "Hi there",
    "Tell me all": lambda request: (f"and {number} " for number in range(1_000_000)),
}


@pytest.mark.wsclient_answers(ANSWERS)
def test_it_asks_for_a_brief_answer(fake_ws_client):
    assert Chatbot(fake_ws_client).ask("Hello") == "Hi there"
    assert fake_ws_client.requests[0].options == {"system": "Be brief"}


@pytest.mark.wsclient_answers(ANSWERS)
def test_it_stops_what_gets_too_long(fake_ws_client):
    assert Chatbot(fake_ws_client).ask("Tell me all") == "and 0 and 1 and 2 and 3 ..."
    assert fake_ws_client.requests[0].outcome == "stopped"


@pytest.mark.wsclient_answers(ANSWERS)
def test_the_server_hears_of_the_stop(ws_client, wsclient_gateway):
    Chatbot(ws_client).ask("Tell me all")

    wsclient_gateway.wait_idle()

    assert wsclient_gateway.requests[0].outcome == "stopped"


def test_it_has_an_excuse_when_the_model_is_busy_and_works_again_later(ws_client, wsclient_gateway):
    bot = Chatbot(ws_client, limit=1)

    wsclient_gateway.busy()
    assert bot.ask("Hello") == "[sorry: server_busy]"

    wsclient_gateway.heal()
    assert bot.ask("Hello").endswith("...")
