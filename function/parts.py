"""What lives as long as the process: made from the environment while Lambda initialises it. Reads no secret yet."""

import functools
import os
from collections import defaultdict
from dataclasses import dataclass, field

import boto3

import aws
from credentials import Credentials
from pacing import Pace
from pagerduty import Client
from settings import Settings
from sqs import Queue


@dataclass(frozen=True, slots=True)
class Parts:
    """The settings, the secrets, the connection to PagerDuty, both queues, and the pace of each routing key."""

    settings: Settings
    credentials: Credentials
    pagerduty: Client
    queue: Queue
    dead_letters: Queue
    paces: dict[str, Pace] = field(default_factory=lambda: defaultdict(Pace))


@functools.cache
def parts() -> Parts:
    """Make all parts, once. Raises SettingsError when the environment makes no sense."""
    settings = Settings.from_environment(os.environ)
    sqs = aws.bounded(boto3.client("sqs", config=aws.CLIENT_CONFIG))
    return Parts(
        settings,
        Credentials(settings.parameter_prefix, aws.bounded(boto3.client("ssm", config=aws.CLIENT_CONFIG))),
        Client(settings.pagerduty_url),
        Queue(sqs, settings.queue_url),
        Queue(sqs, settings.dead_letter_queue_url),
    )
