"""The settings and the clients of a process, made once, from the environment. No secret is read here."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass

import boto3

import aws
from credentials import Credentials
from flow import Flow, Table
from pagerduty import Client
from settings import Settings, SettingsError
from sqs import Queue


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The settings, the credentials, the connection to PagerDuty, flow control, and both queues."""

    settings: Settings
    credentials: Credentials
    pagerduty: Client
    flow: Flow
    queue: Queue
    dead_letters: Queue


def load(environment: Mapping[str, str] = os.environ) -> Dependencies | SettingsError:
    """Return the dependencies of this process, or what is wrong with its environment, for every request to report."""
    try:
        settings = Settings.from_environment(environment)
    except SettingsError as error:
        return error
    # Made when first used: most instances of the API function never enqueue.
    make_sqs = functools.cache(lambda: boto3.client("sqs", config=aws.CLIENT_CONFIG))
    table = Table(boto3.client("dynamodb", config=aws.DYNAMODB_CONFIG), settings.flow_table)
    return Dependencies(
        settings,
        Credentials(settings.parameter_prefix, boto3.client("ssm", config=aws.CLIENT_CONFIG)),
        Client(settings.pagerduty_url),
        Flow(table, settings.calls_per_minute),
        Queue(make_sqs, settings.queue_url),
        Queue(make_sqs, settings.dead_letter_queue_url),
    )
