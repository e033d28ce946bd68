"""What a month costs: `python -m benchmarks.costs` prints the tables of docs/operating.md.

Arithmetic alone: AWS's list prices, what one event causes, and how many events there are. Tests hold the figures
about log lines and metrics to what the functions write, and the document to what this prints.
"""

from typing import Final

# -- prices: US dollars, us-east-1, November 2026, without free tiers ------------------------------------------------

MILLION: Final = 1_000_000
GIGABYTE: Final = 1_000_000_000
# https://aws.amazon.com/api-gateway/pricing/: HTTP APIs, the first 300 million requests a month, and those above.
GATEWAY_REQUEST: Final = 1.00 / MILLION
GATEWAY_REQUEST_ABOVE: Final = 0.90 / MILLION
GATEWAY_FIRST_TIER: Final = 300 * MILLION
# https://aws.amazon.com/lambda/pricing/: arm64, the first tier.
LAMBDA_REQUEST: Final = 0.20 / MILLION
LAMBDA_GB_SECOND: Final = 0.0000133334
# https://aws.amazon.com/cloudwatch/pricing/: the first tiers. A metric costs that much when it has a value in every
# hour of the month, and less otherwise.
LOGS_GIGABYTE: Final = 0.50
METRIC: Final = 0.30
ALARM: Final = 0.10
DASHBOARD: Final = 3.00
# https://aws.amazon.com/sqs/pricing/: FIFO queues; a request carries up to 64 KB.
SQS_REQUEST: Final = 0.50 / MILLION
# https://aws.amazon.com/dynamodb/pricing/on-demand/: a write request unit, which is a write of up to 1 KB.
DYNAMODB_WRITE: Final = 0.625 / MILLION
# https://aws.amazon.com/kms/pricing/
KMS_REQUEST: Final = 0.03 / 10_000

# -- assumptions -----------------------------------------------------------------------------------------------------

SECONDS_OF_MONTH: Final = 30 * 24 * 3600
EVENTS: Final = 1 * MILLION
MEMORY_GB: Final = 0.5
# Most of it is PagerDuty's answer time.
SECONDS_OF_EVENT: Final = 0.25
# A caller who is turned away: the secret is compared, and now and then read again.
SECONDS_OF_REFUSAL: Final = 0.01
# Bytes of the line that an event has in the log of each function, and of the line of a caller who is turned away.
EVENT_LINE: Final = 850
REFUSAL_LINE: Final = 410
# Bytes of the lines that Lambda adds to each invocation, platform.start and platform.report as JSON:
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-logformat.html
PLATFORM_LINES: Final = 480
# Bytes of API Gateway's access log.
ACCESS_LINE: Final = 350
# Metrics that get a value when all is well: of the stack, and of each PagerDuty service over its four kinds of events.
STACK_METRICS: Final = 6
SERVICE_METRICS: Final = 19
# The same that the queue adds.
STACK_METRICS_OF_QUEUE: Final = 3
SERVICE_METRICS_OF_QUEUE: Final = 12
# Alarms of the template, the optional NoDeliveryAlarm included.
ALARMS: Final = 15
# Writes to DynamoDB for an event that is posted, at once or by the worker. One whose condition fails costs as much, and
# is rare: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
WRITES_OF_EVENT: Final = 1
# Requests to SQS for an event that is alone in its request and in its batch: send, receive, delete.
SQS_REQUESTS_OF_EVENT: Final = 3
# Lambda's pollers, each with a long poll of 20 seconds: five for a standard queue with a maximum concurrency. For FIFO
# queues no number is given. https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
POLLERS: Final = 5
SECONDS_OF_POLL: Final = 20
# Running instances of the API's function, each reading two parameters every five minutes.
INSTANCES: Final = 3
DECRYPTIONS_OF_MONTH: Final = 2 * SECONDS_OF_MONTH // 300
# The default of ThrottlingRateLimit, requests a second.
FLOOD_RATE: Final = 200

Row = tuple[str, str, float]


def gateway(requests: float) -> float:
    """Price so many requests a month to an HTTP API."""
    first = min(requests, GATEWAY_FIRST_TIER)
    return first * GATEWAY_REQUEST + (requests - first) * GATEWAY_REQUEST_ABOVE


def invocations(number: float, seconds: float) -> float:
    """Price so many invocations of so many seconds each."""
    return number * (LAMBDA_REQUEST + seconds * MEMORY_GB * LAMBDA_GB_SECOND)


def logs(number: float, size: int) -> float:
    """Price the ingestion of so many times so many bytes of log."""
    return number * size / GIGABYTE * LOGS_GIGABYTE


def polling() -> float:
    """Price the requests with which Lambda asks an empty queue for a month."""
    return POLLERS * SECONDS_OF_MONTH / SECONDS_OF_POLL * SQS_REQUEST


def monthly() -> list[Row]:
    """List what a month costs with a million events, one a request, posted at once, and one PagerDuty service."""
    size = EVENT_LINE + PLATFORM_LINES + ACCESS_LINE
    metrics = STACK_METRICS + SERVICE_METRICS
    polls = POLLERS * SECONDS_OF_MONTH // SECONDS_OF_POLL
    rows = [
        ("API Gateway", "1,000,000 requests", gateway(EVENTS)),
        ("Lambda", "1,000,000 invocations of 250 ms at 512 MB, arm64", invocations(EVENTS, SECONDS_OF_EVENT)),
        ("CloudWatch Logs", f"{size:,} bytes an event, in three logs", logs(EVENTS, size)),
        ("CloudWatch metrics", f"{metrics}, each with a value in every hour", metrics * METRIC),
        ("CloudWatch alarms", f"{ALARMS}", ALARMS * ALARM),
        ("CloudWatch dashboard", "1", DASHBOARD),
        ("DynamoDB", f"{EVENTS * WRITES_OF_EVENT:,} writes", EVENTS * WRITES_OF_EVENT * DYNAMODB_WRITE),
        ("SQS", f"{polls:,} requests of Lambda's to the empty queue", polling()),
        ("SSM and KMS", f"{INSTANCES} instances all month", INSTANCES * DECRYPTIONS_OF_MONTH * KMS_REQUEST),
    ]
    return [*rows, ("**together**", "", sum(cost for _, _, cost in rows))]


def changes() -> list[Row]:
    """List what a month costs more, or instead, when something is otherwise."""
    queue = (
        EVENTS * SQS_REQUESTS_OF_EVENT * SQS_REQUEST
        + invocations(EVENTS, SECONDS_OF_EVENT)
        + logs(EVENTS, EVENT_LINE + PLATFORM_LINES)
        + (STACK_METRICS_OF_QUEUE + SERVICE_METRICS_OF_QUEUE) * METRIC
    )
    queued = SERVICE_METRICS + SERVICE_METRICS_OF_QUEUE
    flood = FLOOD_RATE * SECONDS_OF_MONTH
    flood_cost = (
        gateway(flood)
        + invocations(flood, SECONDS_OF_REFUSAL)
        + logs(flood, REFUSAL_LINE + PLATFORM_LINES + ACCESS_LINE)
    )
    return [
        ("no event at all", "instead: alarms, dashboard, polling", ALARMS * ALARM + DASHBOARD + polling()),
        ("all events through the queue", "more: requests to SQS, the worker, its log and metrics", queue),
        ("each further PagerDuty service", f"more: {SERVICE_METRICS} metrics", SERVICE_METRICS * METRIC),
        ("the same with all its events through the queue", f"more: {queued} metrics", queued * METRIC),
        (
            "strangers who call all month, as often as the throttle allows",
            f"more: {flood:,} requests that are answered 401",
            flood_cost,
        ),
    ]


def table(header: str, rows: list[Row]) -> str:
    """Lay rows out as a table in Markdown."""
    lines = [f"| {header} | | a month |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {what} | ${cost:,.2f} |" for name, what, cost in rows)])


def main() -> None:
    """Print both tables."""
    print(table("part", monthly()))
    print()
    print(table("case", changes()))


if __name__ == "__main__":
    main()
