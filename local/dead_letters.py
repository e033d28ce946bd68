"""The dead letters of a stack: read, redriven or discarded; `python -m local dead-letters` does so in a terminal."""

import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import click

from local import doctor
from local.options import SERVICE
from local.terminal import counted, printable, progress

Json = dict[str, Any]
Ids = Collection[str] | None

# SQS's maximum for a call, and for a message group: SQS locks a group while one of its messages is hidden.
MAX_MESSAGES: Final = 10
# Seconds that messages stay hidden if this process is killed, and those of a long poll, which asks all servers.
_RECEIVE: Final = {"MaxNumberOfMessages": MAX_MESSAGES, "VisibilityTimeout": 300, "WaitTimeSeconds": 1}
_ALL: Final = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]}
_OUTPUTS: Final = ("QueueUrl", "DeadLetterQueueUrl", "FlowTableName")
_DONE: Final = {"leave": "read", "redrive": "redriven", "discard": "discarded"}


def main(name: str, action: str) -> None:
    """List the dead letters of the stack of that name and redrive, discard or leave them; ask on a terminal.

    Raises click.ClickException.
    """
    stack, finding = doctor.find(name, _OUTPUTS)
    if stack is None:
        raise click.ClickException(f"{finding.what}\n{finding.advice}")
    letters = DeadLetters(stack.client("sqs"), stack.client("dynamodb"), *(stack.outputs[each] for each in _OUTPUTS))
    try:
        with progress("Reading the dead letters"):
            listed = letters.read()
        if not listed:
            print("No dead letters.")
            return
        sizes = Counter(each["group"] for each in listed)
        full = {group for group, size in sizes.items() if size == MAX_MESSAGES}
        _print(listed, "SQS shows ten of an incident; there may be more. " if full else "")
        if action == "leave" and sys.stdin.isatty() and sys.stdout.isatty():
            question = "Redrive, discard, or leave them?"
            action = click.prompt(question, action, type=click.Choice([*_DONE]), show_choices=False, prompt_suffix=" ")
        if action != "leave":
            with progress(f"{counted(len(listed), 'dead letter')} to be {_DONE[action]}"):
                ids = full.union(each["id"] for each in listed)
                number = letters.redrive(ids) if action == "redrive" else letters.discard(ids)
            print(f"{counted(number, 'dead letter')} {_DONE[action]}.")
    except doctor.AWS_ERRORS as error:
        finding = doctor.failed(f"not all dead letters were {_DONE[action]}", error)
        raise click.ClickException(f"{finding.what}\n{finding.advice}") from None


def _print(letters: Collection[Json], more: str) -> None:
    for each in letters:
        since = f"{datetime.fromtimestamp(each['since']).astimezone():%Y-%m-%d %H:%M:%S}"
        words = [since, *(each[name] for name in ("service", "event_type", "dedup_key", "title"))]
        print(printable("  ".join(filter(None, words))))
        print(printable(f"    {each['code']}: {each['reason']}" if each["code"] else f"    {each['reason']}"))
    triggers = counted(sum(each["event_type"] == "trigger" for each in letters), "trigger")
    print(f"\n{counted(len(letters), 'dead letter')} ({triggers}). {more}", end="")
    print("A redriven trigger opens its incident again, if that was resolved since.")


class DeadLetters:
    """A dead-letter queue; `ids` are those of messages and groups (None: all). Each method raises botocore's errors."""

    def __init__(self, sqs: Any, dynamodb: Any, queue_url: str, dead_letter_queue_url: str, flow_table: str) -> None:
        self._sqs, self._dynamodb = sqs, dynamodb
        self._queue_url, self._url, self._flow_table = queue_url, dead_letter_queue_url, flow_table

    def read(self) -> list[Json]:
        """Return the dead letters, the oldest first, at most ten of each message group; all are visible afterwards."""
        return sorted(map(_describe, self._delete_if(lambda _: False)[0]), key=lambda letter: float(letter["since"]))

    def discard(self, ids: Ids = None) -> int:
        """Delete dead letters; return how many."""
        return self._delete_if(lambda _: True, ids)[1]

    def redrive(self, ids: Ids = None) -> int:
        """Move dead letters to the queue, each group in its order, ahead of new events; return how many."""
        extend_lease = functools.cache(self._extend_lease)
        sent = set()

        def send(message: Json) -> bool:
            # The worker may have put it here again meanwhile, under the id that it had in the queue.
            if message["MessageDeduplicationId"] in sent:
                return False
            if SERVICE.fullmatch(service := _describe(message)["service"]):
                extend_lease(service)
            copy = {"QueueUrl": self._queue_url, "MessageBody": message["Body"]}
            place = {"MessageGroupId": message["MessageGroupId"], "MessageDeduplicationId": message["MessageId"]}
            sent.add(self._sqs.send_message(**copy, **place)["MessageId"])
            return True

        return self._delete_if(send, ids)[1]

    def _delete_if(self, is_done: Callable[[Json], bool], ids: Ids = None) -> tuple[Collection[Json], int]:
        """Delete each wanted message for which `is_done` returns true; return the others, and the number deleted."""
        hidden: dict[str, Json] = {}
        deleted = 0
        try:
            while messages := self._receive(hidden):
                for message in messages:
                    is_wanted = ids is None or message["MessageId"] in ids or message["MessageGroupId"] in ids
                    if is_wanted and is_done(message):
                        self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
                        del hidden[message["MessageId"]]
                        deleted += 1
        finally:
            self._show(hidden)
        return hidden.values(), deleted

    def _receive(self, hidden: dict[str, Json]) -> list[Json]:
        """Receive messages, with their attributes, add them to the hidden ones, and return those that are new."""
        answer = self._sqs.receive_message(QueueUrl=self._url, **_RECEIVE, **_ALL)
        messages = [message | message["Attributes"] for message in answer.get("Messages", [])]
        # SQS fills an answer up with a part of a group, and locks the rest: that group is left for the next call.
        last = [each for each in messages if each["MessageGroupId"] == messages[-1]["MessageGroupId"]]
        if len(last) < len(messages) == MAX_MESSAGES:
            self._show({message["MessageId"]: message for message in last})
            messages = [message for message in messages if message not in last]
        new = [message for message in messages if message["MessageId"] not in hidden]
        hidden |= {message["MessageId"]: message for message in messages}
        return new

    def _show(self, hidden: dict[str, Json]) -> None:
        show = {"VisibilityTimeout": 0}
        entries = [{"Id": key, "ReceiptHandle": each["ReceiptHandle"], **show} for key, each in hidden.items()]
        for start in range(0, len(entries), MAX_MESSAGES):
            self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries[start : start + MAX_MESSAGES])

    def _extend_lease(self, service: str) -> None:
        where = {"TableName": self._flow_table, "Key": {"service": {"S": service}}}
        until = {":until": {"N": str(round(time.time()) + 3600)}}  # as in function/flow.py
        is_shorter = "attribute_not_exists(lease) OR lease < :until"
        change = {"UpdateExpression": "SET lease = :until", "ConditionExpression": is_shorter}
        with suppress(self._dynamodb.exceptions.ConditionalCheckFailedException):
            self._dynamodb.update_item(**where, **change, ExpressionAttributeValues=until)


def _describe(message: Json) -> Json:
    """Return a dead letter's ids, time of arrival (seconds since 1970), event or beginning of its text, and reason."""
    texts = {name: value.get("StringValue", "") for name, value in message.get("MessageAttributes", {}).items()}
    ids = {"id": message["MessageId"], "group": message["MessageGroupId"]}
    event = {"service": "", "event_type": "", "dedup_key": "", "title": message["Body"][:100]}
    if found := read_body(message["Body"]):
        values = found["service"], found["action"] or found["kind"], found["dedup_key"] or "", found["title"]
        event = dict(zip(event, map(str, values), strict=True))
    why = {"code": "", "reason": "received 1,000 times", **texts}  # SQS itself moves a message here after that.
    return {**why, **ids, "since": int(message["SentTimestamp"]) / 1000, **event}


def read_body(body: str) -> Json:
    """Return the event's fields in a message's body; nothing if it cannot be read."""
    try:
        message: Json = json.loads(body)
        payload = message.get("event", {}).get("payload", {})
        event = {name: message[name] for name in ("service", "kind", "action", "dedup_key", "message_id")}
        return event | {"title": payload.get("summary", ""), "severity": payload.get("severity")}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return {}
