"""The files for several gateways in `examples/deploy/`: nginx takes its own, and all flags and names are right. 1 s."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from wsclient.cli.program import program
from wsclient.gateway.settings import GatewaySettings

from ..support.certificates import make_certificate
from ..support.nginx_server import CONFIGURATION, NginxServer, skip_without_nginx

FOLDER = CONFIGURATION.parent
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
OBJECTS = {
    (each["kind"], each["metadata"]["name"]): each
    for each in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
}


def settings_of(command: list[str]) -> GatewaySettings:
    """Return what a command line of `wsclient` asks for; wrong usage is an exception."""
    name, *flags = command
    params = program.commands[name].make_context(name, flags).params
    return GatewaySettings.from_env({}, **{name: value for name, value in params.items() if name != "debug"})


def test_nginx_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    skip_without_nginx()
    done = NginxServer(tmp_path, 44300, (3001, 3002), make_certificate(tmp_path).file).check()
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr
    assert "[emerg]" not in done.stderr


def test_nginx_waits_longer_in_silence_than_clients_are_silent() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        found = re.search(rf"{name} (\d+)s;", text)
        assert found is not None
        assert int(found[1]) >= 2 * (30 + 10)


def gateways_of_compose() -> list[dict[str, Any]]:
    return [COMPOSE["services"][name] for name in ("gateway-1", "gateway-2")]


def test_the_two_gateways_of_compose_are_the_same_but_for_their_addresses() -> None:
    one, other = ({key: value for key, value in each.items() if key != "networks"} for each in gateways_of_compose())
    assert one == other


def test_the_gateways_of_compose_get_what_the_other_services_have() -> None:
    gateway = gateways_of_compose()[0]
    settings = settings_of(gateway["command"])
    services = COMPOSE["services"]
    store = settings.store or ""
    assert store.removeprefix("redis://").split(":")[0] in services
    assert [url.removeprefix("http://").split(":")[0] in services for url in settings.ollama_url] == [True]
    assert f":{settings.metrics_port}/healthz" in gateway["healthcheck"]["test"][-1]
    assert int(gateway["stop_grace_period"].rstrip("s")) > settings.drain
    assert [COMPOSE["networks"]["inside"]["ipam"]["config"][0]["subnet"]] == list(settings.trusted_proxy)
    for file in (settings.store_password_file, settings.admin_token_file):
        assert file is not None
        assert file.parent == Path("/run/secrets")
        assert file.name in gateway["secrets"]
        assert file.name in COMPOSE["secrets"]


def test_nginx_of_compose_has_the_configuration_and_finds_the_gateways() -> None:
    nginx = COMPOSE["services"]["nginx"]
    assert "./nginx.conf:/etc/nginx/nginx.conf:ro" in nginx["volumes"]
    port = settings_of(gateways_of_compose()[0]["command"]).port
    upstreams = re.findall(r"^\s+server (\S+):(\d+) ", CONFIGURATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert upstreams == [(name, str(port)) for name in nginx["depends_on"]]
    assert "./tls:/etc/nginx/tls:ro" in nginx["volumes"]


@pytest.mark.parametrize(
    "command",
    [
        " ".join(COMPOSE["services"]["redis"]["command"]),
        " ".join(OBJECTS["StatefulSet", "wsclient-redis"]["spec"]["template"]["spec"]["containers"][0]["args"]),
    ],
    ids=["compose", "kubernetes"],
)
def test_redis_keeps_clients_and_drops_none(command: str) -> None:
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert "--requirepass" in command


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = OBJECTS["Deployment", "wsclient-gateway"]["spec"]["template"]["spec"]
    return spec


def test_the_gateway_of_kubernetes_gets_what_the_other_objects_have() -> None:
    (container,) = pod()["containers"]
    settings = settings_of(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"websocket": settings.port, "metrics": settings.metrics_port}
    assert {settings.host, settings.metrics_host} == {"0.0.0.0"}
    assert (settings.store or "").removeprefix("redis://").split(":")[0] == "wsclient-redis"
    assert pod()["terminationGracePeriodSeconds"] > settings.drain + 5
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    for file in (settings.store_password_file, settings.admin_token_file):
        assert file is not None
        assert str(file.parent) == container["volumeMounts"][0]["mountPath"]


def test_the_secrets_of_kubernetes_are_readable_by_the_gateway_and_writable_by_nobody() -> None:
    (volume,) = pod()["volumes"]
    assert volume["secret"] == {"secretName": "wsclient", "defaultMode": 0o444}


def test_services_of_kubernetes_lead_to_the_pods_that_are_meant() -> None:
    for name, kind in (("wsclient-gateway", "Deployment"), ("wsclient-redis", "StatefulSet")):
        template = OBJECTS[kind, name]["spec"]["template"]
        service, labels = OBJECTS["Service", name]["spec"], template["metadata"]["labels"]
        assert service["selector"] == labels == OBJECTS[kind, name]["spec"]["selector"]["matchLabels"]
        names = {port["name"] for each in template["spec"]["containers"] for port in each["ports"]}
        assert {port["targetPort"] for port in service["ports"]} <= names
