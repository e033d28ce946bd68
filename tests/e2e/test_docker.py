"""What containers on this machine need: a name that leads here, and a server that listens there."""

import tomllib
from pathlib import Path

import pytest
import urllib3

from local import docker
from local.docker import for_containers, reachable_from_containers
from local.sandbox import Sandbox
from tests.support import ROUTING_KEY

ROOT = Path(__file__).parents[2]
EVENT = {"routing_key": ROUTING_KEY, "event_action": "resolve", "dedup_key": "disk-full"}


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch) -> str:
    """Have another address of loopback stand in for the one of Docker's bridge, and return it."""
    monkeypatch.setattr(docker, "_BRIDGE", b"lo")
    monkeypatch.setattr(docker, "_bridge_address", lambda: "127.0.0.2")
    return "127.0.0.2"


def post(url: str) -> int:
    port = urllib3.util.parse_url(url).port
    headers = {"Host": f"host.docker.internal:{port}"}
    with urllib3.PoolManager() as http:
        return http.request("POST", f"{url}/v2/enqueue", json=EVENT, headers=headers, retries=False).status


def test_a_container_calls_a_server_by_dockers_name_for_this_machine() -> None:
    assert for_containers("http://127.0.0.1:5000/123/queue.fifo") == "http://host.docker.internal:5000/123/queue.fifo"


def test_what_comes_through_the_bridge_is_passed_on(sandbox: Sandbox, bridge: str) -> None:
    url = sandbox.plain_url.replace("127.0.0.1", bridge)
    with reachable_from_containers(sandbox.plain_url):
        assert [post(url) for _ in range(2)] == [202, 202]
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        post(url)


def test_without_a_bridge_nothing_is_passed_on(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "_BRIDGE", b"no-such-bridge")
    with reachable_from_containers(sandbox.plain_url), pytest.raises(urllib3.exceptions.NewConnectionError):
        post(sandbox.plain_url.replace("127.0.0.1", "127.0.0.2"))


@pytest.mark.parametrize("command", ["local_invoke", "local_start_api"])
def test_sam_is_told_the_name_the_variables_and_the_region_of_the_local_stack(command: str) -> None:
    settings = tomllib.loads((ROOT / "samconfig.toml").read_text())["default"][command]["parameters"]

    assert settings == {
        "add_host": ["host.docker.internal:host-gateway"],
        "env_vars": ".local/env.json",
        "region": "us-east-1",
    }
