"""The settings and the clients of a process, made once, from the environment. No secret is read here."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import boto3

import aws
from credentials import Credentials
from flow import Flow, Table
from pagerduty import Client
from settings import Settings, SettingsError
from sqs import Queue


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The settings, the secrets, the connection to PagerDuty, flow control, and both queues."""

    settings: Settings
    credentials: Credentials
    pagerduty: Client
    flow: Flow
    queue: Queue
    dead_letters: Queue

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Make everything from environment variables. Raises SettingsError if they are invalid."""
        settings = Settings.from_environment(environment)
        # Made when first used: most instances of the API function never enqueue.
        make_sqs = functools.cache(lambda: boto3.client("sqs", config=aws.CLIENT_CONFIG))
        return cls(
            settings,
            Credentials(settings.parameter_prefix, boto3.client("ssm", config=aws.CLIENT_CONFIG)),
            Client(settings.pagerduty_url),
            Flow(
                Table(boto3.client("dynamodb", config=aws.DYNAMODB_CONFIG), settings.flow_table),
                settings.calls_per_minute,
            ),
            Queue(make_sqs, settings.queue_url),
            Queue(make_sqs, settings.dead_letter_queue_url),
        )


def load() -> Dependencies | SettingsError:
    """Return the dependencies of this process, or what is wrong with its environment.

    Invalid settings are reported on every request instead of crashing INIT.
    """
    try:
        return Dependencies.from_environment(os.environ)
    except SettingsError as error:
        return error
