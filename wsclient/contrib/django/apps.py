"""The app that goes into INSTALLED_APPS: it brings the system checks and the command, and does no I/O."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["WSClientConfig"]


class WSClientConfig(AppConfig):
    """The app `wsclient.contrib.django`."""

    name = "wsclient.contrib.django"
    label = "wsclient"
    verbose_name = "WebSocket System client"

    def ready(self) -> None:
        """Register the checks."""
        from .checks import register_checks

        register_checks()
