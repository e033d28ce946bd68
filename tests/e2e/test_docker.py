"""What containers on this machine need: a name that leads here, and a server that listens there."""

import tomllib

import pytest
import urllib3

from local import docker
from local.docker import reachable_from_containers
from local.options import ROOT
from local.sandbox import Sandbox
from tests.support import ROUTING_KEY


def test_a_connection_through_the_bridge_is_forwarded(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another address of loopback serves as that of Docker's bridge.
    monkeypatch.setattr(docker, "_BRIDGE", b"lo")
    monkeypatch.setattr(docker, "_bridge_address", lambda: "127.0.0.2")
    url = sandbox.plain_url.replace("127.0.0.1", "127.0.0.2")
    headers = {"Host": f"host.docker.internal:{urllib3.util.parse_url(url).port}"}
    event = {"routing_key": ROUTING_KEY, "event_action": "resolve", "dedup_key": "disk-full"}
    with reachable_from_containers(sandbox.plain_url):
        response = urllib3.request("POST", f"{url}/v2/enqueue", json=event, headers=headers, retries=False)

    assert response.status == 202


@pytest.mark.parametrize("command", ["local_invoke", "local_start_api"])
def test_sam_uses_the_name_the_variables_and_the_region_of_the_local_stack(command: str) -> None:
    settings = tomllib.loads((ROOT / "samconfig.toml").read_text())["default"][command]["parameters"]

    assert settings == {
        "add_host": ["host.docker.internal:host-gateway"],
        "env_vars": ".local/env.json",
        "region": "us-east-1",
    }
