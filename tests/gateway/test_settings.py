"""Settings: the defaults, the original's environment, and what each error says."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from wsclient.gateway.settings import GatewaySettings


def test_the_defaults_keep_the_gateway_on_this_machine_and_follow_the_original() -> None:
    settings = GatewaySettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 3000)
    assert settings.clients_path == Path("data/authorized_clients.json")
    assert (settings.backend, settings.default_model) == ("ollama", "llama2")
    assert settings.ollama_url == ("http://127.0.0.1:11434",)
    assert (settings.auth_timeout, settings.max_auth_attempts) == (10.0, 5)
    assert (settings.max_messages_before_login, settings.max_message_size_before_login) == (4, 8192)
    assert settings.max_sockets_before_login_per_address == 256


def test_quotas_are_off_and_nobody_is_trusted_until_it_is_said() -> None:
    settings = GatewaySettings()
    assert (settings.max_open_generations, settings.requests_per_minute, settings.max_prompt_size) == (None, None, None)
    assert (settings.allow_origin, settings.trusted_proxy, settings.tls_cert) == ((), (), None)


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        GatewaySettings().port = 1  # type: ignore[misc]


def test_the_builtin_backend_has_its_own_default_model() -> None:
    assert GatewaySettings(backend="builtin").default_model == "builtin"
    assert GatewaySettings(backend="builtin", default_model="other").default_model == "other"


def test_the_backend_decides_what_is_not_said() -> None:
    openai = GatewaySettings(backend="openai", openai_url="http://gpu:8000")
    assert (openai.default_model, openai.max_running) == ("default", 64)
    assert openai.model_server_urls == ("http://gpu:8000/v1",)
    assert (GatewaySettings().max_running, GatewaySettings(max_running=9).max_running) == (4, 9)
    assert GatewaySettings().model_server_urls == ("http://127.0.0.1:11434",)
    assert GatewaySettings(backend="builtin").max_running > 10_000
    assert GatewaySettings(backend="builtin").model_server_urls == ()


def test_openais_variable_says_something_to_its_backend_only() -> None:
    environ = {"OPENAI_BASE_URL": "http://gpu:8000/v1", "OLLAMA_API_URL": "nonsense://"}
    assert GatewaySettings.from_env(environ, backend="openai").openai_url == ("http://gpu:8000/v1",)
    assert GatewaySettings.from_env({"OPENAI_BASE_URL": "nonsense"}) == GatewaySettings()


def test_a_clients_file_of_its_own_wins_over_the_data_directory() -> None:
    assert GatewaySettings(clients_file="/etc/c.json", data_dir="/var/x").clients_path == Path("/etc/c.json")


def test_every_variable_of_the_original_is_read() -> None:
    settings = GatewaySettings.from_env(
        {
            "HOST": "0.0.0.0",
            "PORT": "8123",
            "DATA_DIR": "/srv/data",
            "OLLAMA_API_URL": "http://ollama.example:11434/api",
            "OLLAMA_DEFAULT_MODEL": "mistral",
            "AUTH_TIMEOUT_MS": "30000",
            "MAX_AUTH_ATTEMPTS": "3",
            "DEFAULT_SIGNATURE_ALGORITHM": "RSA-SHA384",
            "LOG_LEVEL": "WARN",
        }
    )
    assert (settings.host, settings.port) == ("0.0.0.0", 8123)
    assert settings.clients_path == Path("/srv/data/authorized_clients.json")
    assert (settings.ollama_url, settings.default_model) == (("http://ollama.example:11434",), "mistral")
    assert (settings.auth_timeout, settings.max_auth_attempts) == (30.0, 3)
    assert settings.default_signature_algorithm == "RSA-SHA384"
    assert settings.log_level_number == logging.WARNING


def test_flags_win_over_the_environment_and_none_is_no_flag() -> None:
    environ = {"PORT": "8123", "HOST": "::1"}
    settings = GatewaySettings.from_env(environ, port=9, host=None)
    assert (settings.port, settings.host) == (9, "::1")


def test_a_flag_hides_a_bad_variable() -> None:
    assert GatewaySettings.from_env({"PORT": "many"}, port=9).port == 9


def test_an_empty_variable_counts_as_not_set() -> None:
    assert GatewaySettings.from_env({"PORT": "", "HOST": "  "}) == GatewaySettings()


def test_ollamas_variables_say_nothing_to_another_backend() -> None:
    environ = {"OLLAMA_DEFAULT_MODEL": "mistral", "OLLAMA_API_URL": "nonsense://"}
    assert GatewaySettings.from_env(environ, backend="builtin").default_model == "builtin"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://h:1/api", "http://h:1"),
        ("http://h:1/api/", "http://h:1"),
        ("http://h:1/", "http://h:1"),
        ("https://h/ollama/api", "https://h:443/ollama"),
        ("h:1", "http://h:1"),
    ],
)
def test_the_path_api_at_the_end_of_ollamas_url_makes_no_difference(given: str, url: str) -> None:
    assert GatewaySettings(ollama_url=given).ollama_url == (url,)


@pytest.mark.parametrize("given", ["a:1,http://b:2/api", ["a:1", "b:2"], ("a:1,b:2",)])
def test_several_model_servers_are_a_list_or_have_commas_between_them(given: object) -> None:
    assert GatewaySettings(ollama_url=given).ollama_url == ("http://a:1", "http://b:2")


def test_the_originals_variable_may_name_several_model_servers() -> None:
    settings = GatewaySettings.from_env({"OLLAMA_API_URL": "http://a:1/api, http://b:2/api"})
    assert settings.model_server_urls == ("http://a:1", "http://b:2")
    several = GatewaySettings.from_env({"OPENAI_BASE_URL": "http://a:1,http://b:2/v1"}, backend="openai")
    assert several.model_server_urls == ("http://a:1/v1", "http://b:2/v1")


def test_the_metrics_ports_address_is_refused_without_the_port_even_if_it_is_the_usual_one() -> None:
    with pytest.raises(ValueError, match="metrics_host is of no use without metrics_port"):
        GatewaySettings.from_env({}, metrics_host="127.0.0.1")
    assert GatewaySettings.from_env({}, metrics_host="127.0.0.1", metrics_port=0).metrics_port == 0


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("host", "", "host must be a text that is not empty (got '')"),
        ("port", 65536, "port must be a whole number from 0 to 65535 (got 65536)"),
        ("port", "3000", "port must be a whole number from 0 to 65535 (got '3000')"),
        ("port", True, "port must be a whole number from 0 to 65535 (got True)"),
        ("backend", "gpt", "backend must be one of 'ollama', 'openai', 'builtin' (got 'gpt')"),
        ("backend", [], "backend must be one of 'ollama', 'openai', 'builtin' (got [])"),
        ("openai_url", "gpu:8000", "openai_url must be a URL like 'http://127.0.0.1:8080/v1' (got 'gpu:8000')"),
        ("openai_url", 5, "openai_url must be a URL like 'http://127.0.0.1:8080/v1' (got '5')"),
        ("openai_api", "responses", "openai_api must be one of 'chat', 'completions' (got 'responses')"),
        ("openai_options", "all", "openai_options must be one of 'auto', 'standard', 'extended' (got 'all')"),
        ("openai_key_file", "", "openai_key_file must be text or a Path, and not empty (got '')"),
        ("max_running", 0, "max_running must be a whole number from 1 to 100000 (got 0)"),
        ("max_waiting", -1, "max_waiting must be a whole number from 0 to 100000 (got -1)"),
        ("max_wait", -1, "max_wait must be 0 to 86400 seconds (got -1)"),
        ("ollama_url", "ftp://x", "ollama_url must begin with http:// or https:// (got 'ftp://')"),
        ("ollama_url", "a:1,,b:1", "ollama_url must be URLs with commas between them (got 'a:1,,b:1')"),
        ("ollama_url", "a:1,b:1,http://a:1/api", "ollama_url must name each model server once"),
        ("openai_url", [], "openai_url must be URLs with commas between them (got [])"),
        ("openai_url", ["http://a", "http://a/v1"], "openai_url must name each model server once"),
        ("metrics_host", "0.0.0.0", "metrics_host is of no use without metrics_port"),
        ("ollama_url", 5, "ollama_url must be a URL like 'http://127.0.0.1:11434' (got 5)"),
        ("auth_timeout", 30000, "auth_timeout must be 0.01 to 3600 seconds (got 30000)"),
        ("auth_timeout", float("nan"), "auth_timeout must be 0.01 to 3600 seconds (got nan)"),
        ("drain", -1, "drain must be 0 to 3600 seconds (got -1)"),
        ("max_auth_attempts", 0, "max_auth_attempts must be a whole number from 1 to 1000 (got 0)"),
        ("max_message_size", 1, "max_message_size must be a number of bytes from 8192 to 1073741824 (got 1)"),
        ("log_level", "loud", "log_level must be one of error, warn, warning, info, http, verbose, debug, silly"),
        ("max_open_generations", -1, "max_open_generations must be a whole number from 0 to 1000000 (got -1)"),
        ("requests_per_minute", 1.5, "requests_per_minute must be a whole number from 0 to 100000 (got 1.5)"),
        ("max_prompt_size", 0, "max_prompt_size must be a number of bytes from 1 to 1073741824 (got 0)"),
        ("allow_origin", ("example.org",), "allow_origin must be origins like 'https://example.org', or '*' (got 'exa"),
        ("allow_origin", "https://x.org", "allow_origin must be a list of texts (got 'https://x.org')"),
        ("trusted_proxy", ("10.0.0.1/8",), "trusted_proxy must be addresses or networks like '10.0.0.0/8' (got '10.0"),
        ("trusted_proxy", ("*",), "trusted_proxy must be addresses or networks like '10.0.0.0/8' (got '*')"),
        ("trusted_proxy", (5,), "trusted_proxy must be addresses or networks like '10.0.0.0/8' (got 5)"),
        ("tls_cert", 5, "tls_cert must be text or a Path, and not empty (got 5)"),
        ("tls_key", "key.pem", "tls_key is of no use without tls_cert"),
        ("clients_file", 5, "clients_file must be text or a Path, and not empty (got 5)"),
        ("data_dir", "", "data_dir must be text or a Path, and not empty (got '')"),
        ("default_signature_algorithm", "SHA1", "default_signature_algorithm: signature_algorithm 'SHA1' is refused"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_its_value_and_what_is_allowed(
    setting: str, value: Any, text: str
) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        GatewaySettings(**{setting: value})


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_the_metrics_port_cannot_be_the_port_of_the_same_address(host: str) -> None:
    with pytest.raises(ValueError, match=r"^metrics_port must be another one than port \(got 4000 for both\)$"):
        GatewaySettings(host=host, port=4000, metrics_port=4000)
    GatewaySettings(host=host, port=0, metrics_port=0)
    GatewaySettings(host="127.0.0.2", port=4000, metrics_port=4000)


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("PORT", "many", "the environment variable PORT: must be a whole number (got 'many')"),
        ("PORT", "70000", "the environment variable PORT: port must be a whole number from 0 to 65535 (got 70000)"),
        ("AUTH_TIMEOUT_MS", "0", "the environment variable AUTH_TIMEOUT_MS: auth_timeout must be 0.01 to 3600 seconds"),
        ("LOG_LEVEL", "loud", "the environment variable LOG_LEVEL: log_level must be one of"),
        ("DEFAULT_SIGNATURE_ALGORITHM", "md5", "the environment variable DEFAULT_SIGNATURE_ALGORITHM: "),
    ],
)
def test_a_wrong_variable_is_named_too(variable: str, value: str, text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        GatewaySettings.from_env({variable: value})


def test_an_unknown_setting_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="prot"):
        GatewaySettings.from_env({}, prot=1)


def test_settings_and_their_errors_need_no_aiohttp() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None; import wsclient.gateway.settings as s, wsclient.gateway.errors;"
        "print(s.GatewaySettings.from_env({'PORT': '5'}).port)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "5\n"
