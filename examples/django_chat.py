"""A chat page in Django, at http://127.0.0.1:8000: text appears while the model writes, and leaving or "Stop" stops it.

Run the README's "A gateway of your own" first: it writes keys/my-client_config.json and starts the gateway. Or set
WSCLIENT_SERVER_URL, WSCLIENT_CLIENT_ID and WSCLIENT_PRIVATE_KEY_PATH. Then

    python examples/django_chat.py runserver

or `check`, or `wsclient_check`. For more than a few readers serve it with threads, greenlets or an event loop:

    gunicorn --worker-class gthread --threads 32 --pythonpath examples django_chat:application
    uvicorn --app-dir examples django_chat:asgi_application
"""

import json
import os
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import execute_from_command_line
from django.core.management.utils import get_random_secret_key
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST

from wsclient import Generation, WSClientError
from wsclient.contrib.django import error_facts, get_client, stream_response

environment = {key.removeprefix("WSCLIENT_"): text for key, text in os.environ.items() if key.startswith("WSCLIENT_")}
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    INSTALLED_APPS=["wsclient.contrib.django"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=get_random_secret_key(),
    WSCLIENT={"default": environment or {"CONFIG": "keys/my-client_config.json"}},
)
django.setup()


@ensure_csrf_cookie
def chat_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Path(__file__).with_name("chat.html").read_bytes())


def models(request: HttpRequest) -> HttpResponse:
    try:
        # A page should say at once that the gateway is away, instead of waiting for it.
        get_client().connect(timeout=5)
        return JsonResponse({"models": [model.name for model in get_client().list_models()]})
    except WSClientError as error:
        return JsonResponse({"error": error_facts(error)}, status=503)


@require_POST
def chat(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    asked = json.loads(request.body)
    if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), str):
        return HttpResponseBadRequest()

    def begin() -> Generation:
        get_client().connect(timeout=5)
        return get_client().stream(asked["prompt"], asked.get("model") or None)

    # What goes wrong at the beginning, too, is an event of the stream.
    return stream_response(begin)


urlpatterns = [path("", chat_page), path("models", models), path("chat", chat)]
application, asgi_application = WSGIHandler(), ASGIHandler()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
