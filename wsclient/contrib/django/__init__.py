"""wsclient in a Django project: clients from the settings, streamed answers, system checks and a command.

    INSTALLED_APPS = [..., "wsclient.contrib.django"]
    WSCLIENT = {"default": {"CONFIG": BASE_DIR / "keys/my-client_config.json"}}

    def chat(request):
        prompt = json.loads(request.body)["prompt"]
        return stream_response(lambda: get_client().stream(prompt))

The same view serves WSGI and ASGI. Nothing connects before the first request that needs it.
"""

from ..server_sent_events import error_facts
from .clients import ClientHandler, clients, get_client
from .responses import EventStreamResponse, stream_response

__all__ = ["ClientHandler", "EventStreamResponse", "clients", "error_facts", "get_client", "stream_response"]
