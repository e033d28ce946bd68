"""`make dead-letters`: what it lists, redrives and discards, in order and without losing a message."""

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import local.__main__
from chaos.faults import Failure, fail
from local import doctor
from local.dead_letters import DeadLetters
from outcome import Outcome
from tests.support import Endpoint, soon, track

DEPLOYED = track(event="Version deployed", messageId="m-2", integrations={"pagerduty": {"type": "changeEvent"}})
BATCH = [track(), DEPLOYED, track(messageId="m-3", properties={"action": "resolve"})]
SERVICE = {"service": {"S": "default"}}
Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def letters(endpoint: Endpoint) -> DeadLetters:
    """Return the endpoint's dead letters, after its worker has put the events of BATCH there."""
    endpoint.post(BATCH)
    for record in map(SQSRecord, endpoint.received()):
        endpoint.deps.dead_letters.dead_letter(record, Outcome("pagerduty_rejected", "odd"), soon())
        endpoint.deps.queue.delete(record, soon())
    sqs, dynamodb, settings = endpoint.aws.client("sqs"), endpoint.aws.client("dynamodb"), endpoint.deps.settings
    dynamodb.delete_item(TableName=settings.flow_table, Key=SERVICE)
    return DeadLetters(sqs, dynamodb, settings.queue_url, settings.dead_letter_queue_url, settings.flow_table)


@pytest.fixture
def run(endpoint: Endpoint, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> Run:
    """Run the command, as if `make serve` had started the endpoint; return the exit code and the output's lines."""
    urls = {"QueueUrl": endpoint.deps.settings.queue_url, "FlowTableName": endpoint.deps.settings.flow_table}
    outputs = urls | {"DeadLetterQueueUrl": endpoint.deps.settings.dead_letter_queue_url}
    (tmp_path / "stack.json").write_text(json.dumps({"outputs": outputs, "aws": endpoint.aws.access}))
    monkeypatch.setattr(doctor, "LOCAL_STACK_FILE", tmp_path / "stack.json")

    def run(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["python -m local", "dead-letters", "--stack", "local", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            local.__main__.cli()
        return int(ended.value.code or 0), "".join(capsys.readouterr()).splitlines()

    return run


def put(endpoint: Endpoint, group: str, deduplication_id: str, *, is_dead: bool = True) -> str:
    """Put a message that is no event into a queue; return its id."""
    url = getattr(endpoint.deps.settings, "dead_letter_queue_url" if is_dead else "queue_url")
    message = {"MessageBody": "{}", "MessageGroupId": group, "MessageDeduplicationId": deduplication_id}
    return str(endpoint.aws.client("sqs").send_message(QueueUrl=url, **message)["MessageId"])


def types(endpoint: Endpoint) -> list[list[str]]:
    """Return the types of the visible events in the dead-letter queue and in the queue."""
    queues = map(endpoint.aws.peek, (endpoint.deps.settings.dead_letter_queue_url, endpoint.deps.settings.queue_url))
    visible = [[json.loads(message.body) for message in queue if not message.is_hidden] for queue in queues]
    return [[body["action"] or body["kind"] for body in bodies if body] for bodies in visible]


def test_dead_letters_are_listed_with_their_reasons_and_stay(endpoint: Endpoint, run: Run) -> None:
    put(endpoint, "g", "d")
    code, output = run()

    assert [line[21:] for line in output[:8:2]] == [
        *("default  trigger  disk-full  Disk is full", "default  resolve  disk-full"),
        *("default  change  Version deployed", "{}"),
    ]
    assert output[1:8:2] == [*["    pagerduty_rejected: odd"] * 3, "    received 1,000 times"]
    assert output[9].startswith("4 dead letters (1 trigger). A redriven trigger opens its incident again, ")
    assert (code, types(endpoint)) == (0, [["trigger", "resolve", "change"], []])


def test_redriven_events_are_in_the_queue_in_their_order_and_extend_the_lease(endpoint: Endpoint, run: Run) -> None:
    assert run("--action", "redrive")[1][-1] == "3 dead letters redriven."
    assert run() == (0, ["No dead letters."])
    assert types(endpoint) == [[], ["trigger", "resolve", "change"]]
    item = endpoint.aws.client("dynamodb").get_item(TableName=endpoint.deps.settings.flow_table, Key=SERVICE)["Item"]
    assert 3590 < float(item["lease"]["N"]) - time.time() < 3602


@pytest.mark.parametrize(("answer", "left"), [("discard", []), ("", ["trigger", "resolve", "change"])])
def test_a_terminal_is_asked(
    endpoint: Endpoint, run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, left: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{answer}\n"))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)

    assert "Redrive, discard, or leave them? [leave] " in "\n".join(run()[1])
    assert types(endpoint) == [left, []]


def test_single_messages_and_groups_are_redriven_or_discarded(endpoint: Endpoint, letters: DeadLetters) -> None:
    trigger, resolve, _ = letters.read()

    assert (letters.redrive([resolve["id"]]), types(endpoint)) == (1, [["trigger", "change"], ["resolve"]])
    assert (letters.discard([trigger["group"]]), types(endpoint)) == (1, [["change"], ["resolve"]])


def test_ten_of_each_group_are_read_and_all_are_discarded(endpoint: Endpoint, run: Run, letters: DeadLetters) -> None:
    for number in range(24):
        put(endpoint, "seven" if number < 7 else "five" if number < 12 else "twelve", str(number))

    assert len(letters.read()) == 3 + 7 + 5 + 10
    *_, summary, done = run("--action", "discard")[1]
    assert summary.startswith("25 dead letters (1 trigger). SQS shows ten of an incident; there may be more. ")
    assert done == "27 dead letters discarded."


def test_an_event_that_pagerduty_refuses_again_is_redriven_once(endpoint: Endpoint, letters: DeadLetters) -> None:
    again = put(endpoint, "g", put(endpoint, "g", put(endpoint, "g", "2"), is_dead=False))

    assert (letters.redrive(), [letter["id"] for letter in letters.read()]) == (4, [again])


def test_a_refused_call_is_reported_and_loses_nothing(endpoint: Endpoint, run: Run) -> None:
    denied = Failure.answer(400, "AccessDenied")
    fail(endpoint.aws, lambda _, request: denied if '"change"' in request.get("MessageBody", "") else None)
    code, output = run("--action", "redrive")

    assert (code, output[-3]) == (1, "Error: not all dead letters were redriven: SendMessage failed (AccessDenied)")
    assert types(endpoint) == [["change"], ["trigger", "resolve"]]
