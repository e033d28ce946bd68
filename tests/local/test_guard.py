"""Which requests the local servers accept, so that no other web page reads or drives them."""

import pytest

from local.server import is_for_us


@pytest.mark.parametrize(
    ("host", "origin", "containers", "is_accepted"),
    [
        ("127.0.0.1:3000", None, False, True),
        ("[::1]:3000", "http://[::1]:3000", False, True),
        ("host.docker.internal:3000", None, True, True),
        ("host.docker.internal:3000", None, False, False),
        ("page.example", None, True, False),
        ("127.0.0.1.page.example:3000", None, True, False),
        (None, None, True, False),
        ("127.0.0.1:3000", "http://127.0.0.1:8080", True, False),
        ("127.0.0.1:3000", "null", True, False),
    ],
)
def test_a_request_is_accepted_by_its_host_and_origin(
    host: str | None, origin: str | None, *, containers: bool, is_accepted: bool
) -> None:
    assert is_for_us(host, origin, containers=containers) == is_accepted
