"""Fixtures: an AWS whose queues have a clock of their own."""

from collections.abc import Iterator
from typing import Any

import pytest

from local.aws_server import Aws
from tests.support import Clock


@pytest.fixture(scope="package")
def queue_clock() -> Clock:
    return Clock()


@pytest.fixture(scope="package")
def clocked_aws(queue_clock: Clock) -> Iterator[Aws]:
    with Aws(clock=queue_clock) as running:
        yield running


@pytest.fixture(scope="package")
def clocked_sqs(clocked_aws: Aws) -> Any:
    return clocked_aws.client("sqs")
