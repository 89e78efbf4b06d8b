"""The Django site that tests in this process ask: its settings, and a view of each kind."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.urls import path

from wsclient.contrib.django import get_client, stream_response

FAKE = {"CLIENT": "wsclient.testing.FakeClient"}

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=["wsclient.contrib.django"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="a key for tests",
        WSCLIENT={"default": FAKE},
    )
    django.setup()


def plain(request: Any) -> Any:
    """Begin in the view, which Django runs in a thread."""
    return stream_response(get_client().stream(request.GET["prompt"]))


def later(request: Any) -> Any:
    """Begin when the answer is sent."""
    return stream_response(lambda: get_client().stream(request.GET["prompt"]))


async def coroutine(request: Any) -> Any:
    """Begin in a view that runs in an event loop."""
    return stream_response(lambda: get_client().stream(request.GET["prompt"]))


urlpatterns = [path("plain", plain), path("later", later), path("coroutine", coroutine)]
VIEWS = ("/plain", "/later", "/coroutine")
