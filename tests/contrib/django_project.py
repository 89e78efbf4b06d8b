"""A small Django project, copied to a folder of its own by the tests: `manage.py`, settings, views and applications."""

import os
import sys

from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

if not settings.configured:
    settings.configure(
        SECRET_KEY="a key for tests",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["wsclient.contrib.django"],
        # It would hold events back.
        MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
        WSCLIENT={"default": {"CONFIG": os.environ["CONFIG"]}},
    )

import django

from wsclient.contrib.django import get_client, stream_response


def plain(request):
    """Answer in a view that Django runs in a thread."""
    return stream_response(lambda: get_client().stream(request.GET["prompt"]))


async def coroutine(request):
    """Answer in a view that Django runs in an event loop."""
    return stream_response(lambda: get_client().stream(request.GET["prompt"]))


def connects(request):
    """Say how often this process has connected, and which one it is."""
    return HttpResponse(f"{os.getpid()} {get_client().stats().connects}")


urlpatterns = [path("plain", plain), path("coroutine", coroutine), path("connects", connects)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
else:
    django.setup()
    wsgi = WSGIHandler()
    asgi = ASGIHandler()
