"""A synchronous, threaded client for WebSocket System: public-key login, streamed text from Ollama models."""

from .version import __version__

__all__ = ["__version__"]
