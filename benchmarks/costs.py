"""The monthly costs: `python -m benchmarks.costs` prints the tables of docs/operating.md.

They follow from AWS's list prices, the resources that an event uses, and the number of events. Tests compare the
numbers of metrics and the sizes of log lines with the functions, and the document with these tables.
"""

from typing import Final

# -- prices: US dollars, us-east-1, November 2026, without free tiers ------------------------------------------------

MILLION: Final = 1_000_000
GIGABYTE: Final = 1_000_000_000
# https://aws.amazon.com/api-gateway/pricing/: HTTP APIs, the first 300 million requests a month, and the others.
GATEWAY_REQUEST: Final = 1.00 / MILLION
GATEWAY_REQUEST_ABOVE: Final = 0.90 / MILLION
GATEWAY_FIRST_TIER: Final = 300 * MILLION
# https://aws.amazon.com/lambda/pricing/: arm64, the first tier.
LAMBDA_REQUEST: Final = 0.20 / MILLION
LAMBDA_GB_SECOND: Final = 0.0000133334
# https://aws.amazon.com/cloudwatch/pricing/: the first tiers, and a metric that has a value in every hour of the month.
LOGS_GIGABYTE: Final = 0.50
METRIC: Final = 0.30
ALARM: Final = 0.10
DASHBOARD: Final = 3.00
# https://aws.amazon.com/sqs/pricing/: FIFO queues; a request carries up to 64 KB.
SQS_REQUEST: Final = 0.50 / MILLION
# https://aws.amazon.com/dynamodb/pricing/on-demand/: a write of up to 1 KB.
DYNAMODB_WRITE: Final = 0.625 / MILLION
# https://aws.amazon.com/kms/pricing/
KMS_REQUEST: Final = 0.03 / 10_000

# -- assumptions -----------------------------------------------------------------------------------------------------

SECONDS_OF_MONTH: Final = 30 * 24 * 3600
# Each event is alone in its request and in its batch, and is posted at once.
EVENTS: Final = 1 * MILLION
MEMORY_GB: Final = 0.5
# Seconds of an invocation, mostly PagerDuty's answer time; and of one for a request that is answered 401.
SECONDS_OF_EVENT: Final = 0.25
SECONDS_OF_REFUSAL: Final = 0.01
# Bytes of log: an event's line in each function, a refused request's line, API Gateway's access log, and Lambda's lines
# platform.start and platform.report: https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-logformat.html
EVENT_LINE: Final = 850
REFUSAL_LINE: Final = 410
ACCESS_LINE: Final = 350
PLATFORM_LINES: Final = 480
# Metrics with a value in normal operation: of the stack, of each PagerDuty service with its four kinds of events, and
# those that the queue adds to both.
STACK_METRICS: Final = 6
SERVICE_METRICS: Final = 19
STACK_METRICS_OF_QUEUE: Final = 3
SERVICE_METRICS_OF_QUEUE: Final = 12
# Alarms of the template, the optional NoDeliveryAlarm included.
ALARMS: Final = 15
# For an event through the queue: send, receive, delete.
SQS_REQUESTS_OF_EVENT: Final = 3
# Lambda's pollers, each with long polls of 20 seconds. Five is AWS's number for a standard queue with a maximum
# concurrency; for FIFO queues there is none. https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
POLLERS: Final = 5
POLLS_OF_MONTH: Final = POLLERS * SECONDS_OF_MONTH // 20
# Running instances of the API function, each reading two parameters every five minutes.
INSTANCES: Final = 3
DECRYPTIONS_OF_MONTH: Final = INSTANCES * 2 * SECONDS_OF_MONTH // 300
# The default of ThrottlingRateLimit, requests a second.
FLOOD_RATE: Final = 200

Row = tuple[str, str, float]


def gateway(requests: float) -> float:
    """Return the price of so many requests a month to an HTTP API."""
    first = min(requests, GATEWAY_FIRST_TIER)
    return first * GATEWAY_REQUEST + (requests - first) * GATEWAY_REQUEST_ABOVE


def invocations(number: float, seconds: float) -> float:
    """Return the price of so many invocations of so many seconds each."""
    return number * (LAMBDA_REQUEST + seconds * MEMORY_GB * LAMBDA_GB_SECOND)


def logs(number: float, size: int) -> float:
    """Return the price of writing so many times so many bytes of log."""
    return number * size / GIGABYTE * LOGS_GIGABYTE


def monthly() -> list[Row]:
    """Return the costs of a month with a million events and one PagerDuty service."""
    size = EVENT_LINE + PLATFORM_LINES + ACCESS_LINE
    metrics = STACK_METRICS + SERVICE_METRICS
    rows = [
        ("API Gateway", "1,000,000 requests", gateway(EVENTS)),
        ("Lambda", "1,000,000 invocations of 250 ms at 512 MB, arm64", invocations(EVENTS, SECONDS_OF_EVENT)),
        ("CloudWatch Logs", f"{size:,} bytes an event, in three logs", logs(EVENTS, size)),
        ("CloudWatch metrics", f"{metrics}, each with a value in every hour", metrics * METRIC),
        ("CloudWatch alarms", f"{ALARMS}", ALARMS * ALARM),
        ("CloudWatch dashboard", "1", DASHBOARD),
        # A write whose condition fails costs as much, and is rare.
        ("DynamoDB", f"{EVENTS:,} writes", EVENTS * DYNAMODB_WRITE),
        ("SQS", f"{POLLS_OF_MONTH:,} requests of Lambda's to the empty queue", POLLS_OF_MONTH * SQS_REQUEST),
        ("SSM and KMS", f"{INSTANCES} instances all month", DECRYPTIONS_OF_MONTH * KMS_REQUEST),
    ]
    return [*rows, ("**together**", "", sum(cost for _, _, cost in rows))]


def changes() -> list[Row]:
    """Return the costs that are added or replaced in other cases."""
    idle = ALARMS * ALARM + DASHBOARD + POLLS_OF_MONTH * SQS_REQUEST
    queue = (
        EVENTS * SQS_REQUESTS_OF_EVENT * SQS_REQUEST
        + invocations(EVENTS, SECONDS_OF_EVENT)
        + logs(EVENTS, EVENT_LINE + PLATFORM_LINES)
        + (STACK_METRICS_OF_QUEUE + SERVICE_METRICS_OF_QUEUE) * METRIC
    )
    queued = SERVICE_METRICS + SERVICE_METRICS_OF_QUEUE
    flood = FLOOD_RATE * SECONDS_OF_MONTH
    line = REFUSAL_LINE + PLATFORM_LINES + ACCESS_LINE
    strangers = gateway(flood) + invocations(flood, SECONDS_OF_REFUSAL) + logs(flood, line)
    return [
        ("no event at all", "instead: alarms, dashboard, polling", idle),
        ("all events through the queue", "more: requests to SQS, the worker, its log and metrics", queue),
        ("each further PagerDuty service", f"more: {SERVICE_METRICS} metrics", SERVICE_METRICS * METRIC),
        ("the same with all its events through the queue", f"more: {queued} metrics", queued * METRIC),
        (
            "strangers who call all month, as often as the throttle allows",
            f"more: {flood:,} requests that are answered 401",
            strangers,
        ),
    ]


def table(header: str, rows: list[Row]) -> str:
    """Return rows as a table in Markdown."""
    lines = [f"| {header} | | a month |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {what} | ${cost:,.2f} |" for name, what, cost in rows)])


if __name__ == "__main__":
    print(table("part", monthly()), table("case", changes()), sep="\n\n")
