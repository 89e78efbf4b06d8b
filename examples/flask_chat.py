"""A chat page in Flask, at http://127.0.0.1:5000: text appears while the model writes, and leaving or "Stop" stops it.

Run the README's "A gateway of your own" first: it writes keys/my-client_config.json and starts the gateway. Or set
WSCLIENT_SERVER_URL, WSCLIENT_CLIENT_ID and WSCLIENT_PRIVATE_KEY_PATH.

For more than a few readers serve it with threads or greenlets, for each answer needs one while it is written:

    gunicorn --worker-class gthread --threads 32 --pythonpath examples "flask_chat:create_app()"
"""

import os
from pathlib import Path

from flask import Blueprint, Flask, Response, abort, request, send_file

from wsclient import WSClientError
from wsclient.contrib.flask import FlaskWSClient, error_facts, stream_response

wsclient = FlaskWSClient()
pages = Blueprint("pages", __name__)


@pages.get("/")
def chat_page() -> Response:
    return send_file(Path(__file__).with_name("chat.html").resolve())


@pages.get("/models")
def models() -> dict[str, list[str]]:
    # A page should say at once that the gateway is away, instead of waiting for it.
    wsclient.connect(timeout=5)
    return {"models": [model.name for model in wsclient.list_models()]}


@pages.post("/chat")
def chat() -> Response:
    asked = request.get_json()
    if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), str):
        abort(400)
    wsclient.connect(timeout=5)
    return stream_response(wsclient.stream(asked["prompt"], asked.get("model") or None))


@pages.errorhandler(WSClientError)
def failed(error: WSClientError) -> tuple[dict[str, object], int]:
    """Answer with what went wrong before the stream began; what goes wrong in it is one of its events."""
    return {"error": error_facts(error)}, 503


def create_app() -> Flask:
    app = Flask(__name__)
    environment = {name: value for name, value in os.environ.items() if name.startswith("WSCLIENT_")}
    app.config.from_mapping(environment or {"WSCLIENT_CONFIG": "keys/my-client_config.json"})
    wsclient.init_app(app)
    app.register_blueprint(pages)
    return app


if __name__ == "__main__":
    create_app().run(port=int(os.environ.get("PORT", "5000")))
