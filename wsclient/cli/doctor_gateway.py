"""The doctor's questions to the gateway itself: upgrade, challenge, login, models, a generation, latency, clock."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import platform
import ssl
import time
import urllib.error
from importlib import metadata
from typing import Any

from ..client import WSClient
from ..core.auth import check_challenge
from ..errors import ChallengeTimeoutError, ConnectionTimeoutError, ModelNotFoundError, RequestTimeoutError
from ..version import __version__
from .doctor_findings import NotNow, Trouble, found
from .doctor_network import within
from .doctor_probe import Probe
from .doctor_settings import Patient
from .online import http_url, opener
from .streaming import Figures, duration

__all__ = [
    "check_challenge_comes",
    "check_clock",
    "check_generation",
    "check_latency",
    "check_login",
    "check_models",
    "check_upgrade",
    "check_versions",
]

_Found = tuple[str, dict[str, Any]]

_STEP = 5.0
_GENERATION = 8.0
_PINGS = 3
# Dates have whole seconds, and a login does not look at the clock: what certificates and logs suffer from counts.
_MAX_CLOCK_DIFFERENCE = 60.0


def check_upgrade(patient: Patient) -> _Found:
    """Make a WebSocket of it."""
    seconds = patient.seconds(_STEP)
    patient.probe = Probe(patient.options(connect_timeout=seconds))
    begun = time.monotonic()
    patient.probe.wait(seconds, ConnectionTimeoutError(f"no answer to the upgrade within {seconds:.0f} s"))
    return found(f"HTTP 101 after {duration(time.monotonic() - begun)}")


def check_challenge_comes(patient: Patient) -> _Found:
    """Wait for the challenge, with which every gateway begins."""
    assert patient.probe is not None
    seconds = patient.seconds(_STEP)
    late = ChallengeTimeoutError(f"the server sends no challenge within {seconds:.0f} s")
    challenge = patient.probe.wait(seconds, late)
    check_challenge(challenge)
    return found(f"{len(challenge)} characters", length=len(challenge))


def check_login(patient: Patient) -> _Found:
    """Log in as the library does."""
    seconds = patient.seconds(_STEP)
    options = patient.options(
        client_id=patient.told["client_id"],
        private_key=patient.key,
        signature_algorithm=patient.told.get("signature_algorithm", "RSA-SHA256"),
        connect_timeout=seconds,
        auth_timeout=seconds,
        request_timeout=seconds,
        auto_reconnect=False,
    )
    client = WSClient.from_options(options)
    patient.client = client
    begun = time.monotonic()
    client.connect(seconds)
    return found(f"as {patient.told['client_id']}, after {duration(time.monotonic() - begun)}")


def _client(patient: Patient) -> WSClient:
    assert patient.client is not None
    return patient.client


def check_models(patient: Patient) -> _Found:
    """List the models."""
    models = [model.name for model in _client(patient).list_models()]
    if not models:
        raise Trouble("the gateway offers no models", "Install one where Ollama runs: ollama pull llama3.2", names=[])
    shown = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    return found(shown, names=models)


def check_generation(patient: Patient) -> _Found:
    """Have a model write a few tokens."""
    seconds = patient.seconds(_GENERATION)
    begun = time.monotonic()
    try:
        generation = _client(patient).stream(
            "Say hello.", patient.model, max_tokens=4, timeout=seconds, first_token_timeout=seconds
        )
        first = None
        for _ in generation:
            first = first or time.monotonic()
        result = generation.result()
    except RequestTimeoutError as error:
        advice = "A model that loads takes longer at first: run it again, or with --timeout=120"
        raise Trouble(f"no text within {seconds:.0f} s", advice) from error
    except ModelNotFoundError as error:
        advice = "Give one of the models above as --model, or to the gateway: wsclient serve --default-model=NAME"
        raise Trouble(error.message, advice) from error
    ended = time.monotonic()
    waited = None if first is None else first - begun
    figures = Figures.of(result, waited, ended - (first or ended))
    return found(str(figures), model=result.model, tokens=figures.tokens, first_token=waited)


def check_latency(patient: Patient) -> _Found:
    """Measure a message's way there and back."""
    middle = sorted(_client(patient).ping() for _ in range(_PINGS))[_PINGS // 2]
    text = f"{middle * 1000:.1f} ms there and back (the median of {_PINGS})"
    return found(text, latency=round(middle, 6))


def check_clock(patient: Patient) -> _Found:
    """Compare this machine's clock with the server's."""
    if patient.base is not None and patient.base.proxy is not None:
        raise NotNow("it is not asked through WSCLIENT_PROXY")
    seconds = patient.seconds(3.0)
    begun = time.time()
    try:
        headers = within(seconds, lambda: _headers(http_url(patient.url, "/healthz"), seconds))
    except (OSError, http.client.HTTPException) as error:
        raise NotNow(f"the server does not answer plain HTTP: {getattr(error, 'reason', None) or error}") from error
    ended = time.time()
    patient.software = headers.get("Server") or ""
    said = email.utils.parsedate_tz(headers.get("Date") or "")
    if said is None:
        raise NotNow("the server does not say what time it is")
    # A date has whole seconds: it was half a second later on average.
    ahead = email.utils.mktime_tz(said) + 0.5 - (begun + ended) / 2
    if abs(ahead) > _MAX_CLOCK_DIFFERENCE:
        text = f"the server's clock is {_long(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this machine's"
        advice = "Set the one that is wrong, such as with: timedatectl set-ntp true"
        raise Trouble(text, advice, difference=round(ahead, 1))
    return found(f"within {max(1, round(abs(ahead)))} s of the server's", difference=round(ahead, 1))


def _headers(url: str, seconds: float) -> Any:
    try:
        with opener(url).open(url, timeout=seconds) as response:
            return response.headers
    except urllib.error.HTTPError as error:
        # Whatever the answer is, it is dated.
        with contextlib.closing(error):
            return error.headers


def _long(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def check_versions(patient: Patient) -> _Found:
    """Collect the versions, for whoever reads a report."""
    versions = {"wsclient": __version__, "python": platform.python_version()}
    for name in ("websocket-client", "pycryptodome", "attrs", "orjson", "aiohttp"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    versions["openssl"] = ssl.OPENSSL_VERSION.split()[1]
    if patient.software:
        versions["server"] = patient.software
    return found(", ".join(f"{name} {version}" for name, version in versions.items()), **versions)
