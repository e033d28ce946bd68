"""AWS for one machine: moto's server for SSM, SQS and DynamoDB, with FIFO queues that keep SQS's rules.

moto answers every call but those about messages. Its DynamoDB checks a condition and writes in two steps, between which
another thread may write; here its calls run one at a time. Its own FIFO queues forget a deduplication id with the
message and ignore its scope, take any id, receive count and late receipt handle, hand out the second message of a group
before the first once both have come back, and need a second per call while a thousand messages wait. Here those calls
are answered instead, one at a time, as far as the functions and the event source make them. What is not modelled is
refused.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import itertools
import json
import re
import sys
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

from local.server import Server, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient

    Json = dict[str, Any]
    Moto = Callable[[str, Json], "Answer"]  # the call's name and its request → moto's answer

REGION: Final = "us-east-1"

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-exactly-once-processing.html
DEDUPLICATION_SECONDS: Final = 300.0
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
IDENTIFIER: Final = re.compile(r"[a-zA-Z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
CONTENT: Final = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
BATCH_BYTES: Final = 1_048_576
BATCH_ENTRIES: Final = 10
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
VISIBILITY_SECONDS: Final = 43_200
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
RECEIVE_COUNTS: Final = range(1, 1001)

# What is modelled. Of a queue, moto keeps the other attributes, which change nothing about messages here.
QUEUE_CALLS: Final = {"CreateQueue", "DeleteQueue", "GetQueueAttributes", "ListQueues", "ListDeadLetterSourceQueues"}
NOT_MODELLED: Final = {"ContentBasedDeduplication", "DelaySeconds", "ReceiveMessageWaitTimeSeconds"}
MESSAGE: Final = {"Id", "MessageBody", "MessageGroupId", "MessageDeduplicationId", "MessageAttributes", "QueueUrl"}
RECEIVE: Final = {
    "QueueUrl",
    "MaxNumberOfMessages",
    "VisibilityTimeout",
    "MessageSystemAttributeNames",
    "MessageAttributeNames",
}
STRING: Final = {"DataType", "StringValue"}

# Of DynamoDB: what the functions, the local stack, `make doctor` and tests call, and how an item is updated.
TABLE_CALLS: Final = {
    *("CreateTable", "DeleteTable", "DescribeTable", "DescribeTimeToLive", "ListTables", "UpdateTimeToLive"),
    *("DeleteItem", "GetItem", "UpdateItem"),
}
UPDATE: Final = {
    *("TableName", "Key", "UpdateExpression", "ConditionExpression"),
    *("ExpressionAttributeNames", "ExpressionAttributeValues"),
    *("ReturnValues", "ReturnValuesOnConditionCheckFailure"),
}
DYNAMODB: Final = "DynamoDB_20120810"

# The codes of SQS that a query client sees; the part after the last dot is the name of the error in botocore.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
INVALID_PARAMETER: Final = "InvalidParameterValue"
MISSING_PARAMETER: Final = "MissingParameter"
SQS_PREFIX: Final = "AWS.SimpleQueueService."

# SQS's sequence numbers have 20 digits and only ever increase.
_SEQUENCE: Final = itertools.count(18_850_000_000_000_000_000, 256)
_SENDER_ID: Final = "AIDALOCALLOCALLOCALLO"


class SqsError(Exception):
    """What SQS refuses: its code and its words, always with HTTP status 400."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Aws(Service):
    """SSM, SQS and DynamoDB on 127.0.0.1.

    A context manager, or start() and stop(), again on the same port and with its messages. `clock` (seconds) is the
    time of the FIFO queues: deduplication and visibility. With a `speed` above 1 a message that was put off comes again
    so many times sooner, and claims to have waited so many times longer; the time that a consumer has for what it
    received stays as it is. moto's backends are one per process, so that names of queues, tables and parameters have to
    differ between servers in one process.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, speed: float = 1.0) -> None:
        # Put in front of every call; chaos/faults.py lets calls fail with it.
        self.middleware: Callable[[WSGIApplication], WSGIApplication] | None = None
        # Set while it does not run: a call that waits in front ends then.
        self.stopping = threading.Event()
        self._sqs = _Sqs(clock, speed)
        self._application = _Application(self._sqs)
        self._port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The endpoint; known from the first start on."""
        return f"http://127.0.0.1:{self._port}"

    @overload
    def client(self, service: Literal["sqs"], config: Config | None = None) -> SQSClient: ...
    @overload
    def client(self, service: Literal["ssm"], config: Config | None = None) -> SSMClient: ...
    @overload
    def client(self, service: Literal["dynamodb"], config: Config | None = None) -> DynamoDBClient: ...
    def client(
        self, service: Literal["sqs", "ssm", "dynamodb"], config: Config | None = None
    ) -> SQSClient | SSMClient | DynamoDBClient:
        """Make a boto3 client with nobody's credentials; without `config` it tries once, so that failures show."""
        return boto3.client(service, config=config or Config(retries={"total_max_attempts": 1}), **self.access)

    @property
    def access(self) -> dict[str, Any]:
        """The arguments with which a boto3 client finds it; moto takes any credentials."""
        return {
            "endpoint_url": self.url,
            "region_name": REGION,
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }

    def peek(self, queue_url: str) -> list[QueuedMessage]:
        """Look at the messages of a FIFO queue, in the order in which SQS took them, without receiving them."""
        return self._sqs.peek(queue_url.rpartition("/")[2])

    def start(self) -> None:
        """Listen; OSError when the port was taken meanwhile, RuntimeError when it listens already."""
        if self._server:
            raise RuntimeError(f"It already listens at {self.url}")
        self.stopping.clear()
        self._server = Server(self._answer, self._port, containers=True)
        self._port = self._server.port
        self._server.start()

    def stop(self) -> None:
        """Take no more calls, and end the ones that wait without an answer; harmless when stopped already."""
        server, self._server = self._server, None
        self.stopping.set()
        if server:
            server.stop()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        application = self.middleware(self._application) if self.middleware else self._application
        return application(environ, start_response)


def _load_ssm() -> None:
    """Load moto's SSM without its EC2, which takes a second and serves it to send commands to instances only."""
    if "moto.ec2" in sys.modules:
        return
    without = ModuleType("moto.ec2")
    vars(without)["ec2_backends"] = {}
    sys.modules["moto.ec2"] = without
    try:
        importlib.import_module("moto.ssm.models")
    finally:
        # Whoever else asks for it gets the real one.
        del sys.modules["moto.ec2"]


class QueuedMessage(NamedTuple):
    """A message of a FIFO queue, as nobody who calls SQS can see it."""

    group: str
    body: str
    attributes: Json  # message attributes, as in the request
    receive_count: int
    hidden_until: float  # seconds of the queue's clock; in the past when it is not hidden
    is_hidden: bool
    is_put_off: bool  # hidden because its consumer asked for it, not because somebody is working on it


class Answer(NamedTuple):
    """What is answered to one call."""

    status: int
    body: bytes
    headers: list[tuple[str, str]]

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Answer with it, as a WSGI application does."""
        start_response(f"{self.status} {HTTPStatus(self.status).phrase}", self.headers)
        return [self.body]


def ask(application: WSGIApplication, environ: WSGIEnvironment, body: bytes) -> Answer:
    """Hand a call to an application, with this body."""
    environ = {**environ, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    parts, status, headers = run_wsgi_app(application, environ)
    return Answer(int(status.split()[0]), b"".join(parts), list(headers))


class _Application:
    """The WSGI application: answers a call with SQS's rules, or hands it to moto."""

    def __init__(self, sqs: _Sqs) -> None:
        self._sqs = sqs
        self._table_call = threading.Lock()
        _load_ssm()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        answer = self._answer_by_rules(environ, target, json.loads(body)) if target else ask(self._moto, environ, body)
        return answer.send(start_response)

    def _answer_by_rules(self, environ: Json, target: str, request: Json) -> Answer:
        service, _, action = target.partition(".")

        def moto(action: str, request: Json) -> Answer:
            changed = {**environ, "HTTP_X_AMZ_TARGET": f"{service}.{action}"}
            return ask(self._moto, changed, json.dumps(request).encode())

        if service == DYNAMODB:
            return self._call_dynamodb(action, request, moto)
        if service != "AmazonSQS":
            return moto(action, request)
        try:
            return self._sqs.call(action, request, moto)
        except SqsError as error:
            return refusal(HTTPStatus.BAD_REQUEST, error.code, str(error))

    def _call_dynamodb(self, action: str, request: Json, moto: Moto) -> Answer:
        """Answer one call at a time; what is not modelled is refused by its name."""
        others = sorted(request.keys() - UPDATE) if action == "UpdateItem" else []
        if action not in TABLE_CALLS or others:
            text = f"The local DynamoDB does not model {', '.join(others) or action}; see local/aws_server.py"
            return refusal(HTTPStatus.BAD_REQUEST, "UnknownOperationException", text)
        with self._table_call:
            return moto(action, request)


class _Sqs:
    """The calls of SQS, one at a time: those about messages are answered here, those about queues by moto."""

    def __init__(self, clock: Callable[[], float], speed: float) -> None:
        self._clock = clock
        self._speed = speed
        self._turn = threading.Lock()
        self._queues: dict[str, _FifoQueue] = {}

    def call(self, action: str, request: Json, moto: Moto) -> Answer:
        """Answer one call. Raises SqsError."""
        with self._turn:
            if action in _MESSAGE_CALLS:
                queue = self._queue(request["QueueUrl"].rpartition("/")[2], moto)
                # moto says it of a queue that is not there.
                return json_answer(_MESSAGE_CALLS[action](queue, request)) if queue else moto(action, request)
            if action not in QUEUE_CALLS:
                raise _not_modelled(action)
            if action == "CreateQueue":
                _check_queue_attributes(request.get("Attributes", {}))
            answer = moto(action, request)
            if action == "DeleteQueue":
                self._queues.pop(request["QueueUrl"].rpartition("/")[2], None)
            if action == "GetQueueAttributes" and answer.status == HTTPStatus.OK:
                return self._with_counts(request["QueueUrl"].rpartition("/")[2], answer, moto)
            return answer

    def peek(self, name: str) -> list[QueuedMessage]:
        """Look at the messages of a queue; one that was not used before has none."""
        with self._turn:
            return self._queues[name].peek() if name in self._queues else []

    def _with_counts(self, name: str, answer: Answer, moto: Moto) -> Answer:
        """Put our counts of the messages in the place of moto's."""
        queue = self._queue(name, moto)
        known = json.loads(answer.body or b"{}").get("Attributes", {})
        counts = queue.counts() if queue else {}
        known |= {name: count for name, count in counts.items() if name in known}
        return json_answer({"Attributes": known} if known else {})

    def _queue(self, name: str, moto: Moto) -> _FifoQueue | None:
        """Find a queue; one that was not used before starts empty, with the attributes that moto knows."""
        if name not in self._queues:
            answer = moto("GetQueueAttributes", {"QueueUrl": name, "AttributeNames": ["All"]})
            if answer.status != HTTPStatus.OK:
                return None
            attributes = json.loads(answer.body)["Attributes"]
            policy = json.loads(attributes.get("RedrivePolicy", "{}"))
            dead_letters = self._queue(policy["deadLetterTargetArn"].rpartition(":")[2], moto) if policy else None
            self._queues[name] = _FifoQueue(attributes, policy, dead_letters, self._clock, self._speed)
        return self._queues[name]


def _timestamp() -> int:
    return int(time.time() * 1000)


@dataclass
class _Message:
    """A message in a FIFO queue, from its acceptance to its deletion."""

    body: str
    attributes: Json  # message attributes, as in the request
    group: str
    deduplication_id: str
    sequence: int = field(default_factory=lambda: next(_SEQUENCE))
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sent: int = field(default_factory=_timestamp)
    first_received: int = 0
    received: float = float("-inf")
    receive_count: int = 0
    hidden_until: float = float("-inf")
    is_put_off: bool = False

    def system_attributes(self, speed: float) -> dict[str, str]:
        """List what SQS tells about a message."""
        now = _timestamp()
        return {
            "SenderId": _SENDER_ID,
            "SentTimestamp": str(now - round(speed * (now - self.sent))),
            "ApproximateReceiveCount": str(self.receive_count),
            "ApproximateFirstReceiveTimestamp": str(self.first_received),
            "SequenceNumber": str(self.sequence),
            "MessageGroupId": self.group,
            "MessageDeduplicationId": self.deduplication_id,
        }


class _Accepted(NamedTuple):
    """What is remembered of a deduplication id, also when its message is gone."""

    at: float
    message_id: str
    sequence: int


class _FifoQueue:
    """The messages of one FIFO queue. Its caller sees to it that one call runs at a time.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
    """

    def __init__(
        self,
        attributes: Mapping[str, str],
        policy: Json,
        dead_letters: _FifoQueue | None,
        clock: Callable[[], float],
        speed: float,
    ) -> None:
        self._attributes = attributes
        self._max_receives = int(policy.get("maxReceiveCount", 0))
        self._dead_letters = dead_letters
        self._clock = clock
        self._speed = speed
        self._groups: dict[str, list[_Message]] = {}
        self._messages: dict[str, _Message] = {}
        self._accepted: OrderedDict[tuple[str | None, str], _Accepted] = OrderedDict()

    def send(self, request: Json) -> Json:
        """Accept one message."""
        self._check(request)
        return self._accept(request)

    def send_batch(self, request: Json) -> Json:
        """Accept up to ten messages, in their order.

        SQS documents a result per entry, but not which mistakes are listed there and which refuse the whole batch.
        Here one bad entry refuses the batch: the stricter reading.
        """
        entries = request["Entries"]
        _check_batch(entries)
        total = sum(_size(entry) for entry in entries)
        if total > BATCH_BYTES:
            text = f"Batch requests cannot be longer than {BATCH_BYTES} bytes. You have sent {total} bytes."
            raise SqsError(f"{SQS_PREFIX}BatchRequestTooLong", text)
        for entry in entries:
            self._check(entry)
        return {"Successful": [{"Id": entry["Id"], **self._accept(entry)} for entry in entries]}

    def receive(self, request: Json) -> Json:
        """Hand out messages of groups that have none in flight: the oldest group first, as many of it as possible."""
        _refuse_all_but(RECEIVE, request)
        with_system, with_own = (
            _wants_all(request, name) for name in ("MessageSystemAttributeNames", "MessageAttributeNames")
        )
        seconds = request.get("VisibilityTimeout", int(self._attributes["VisibilityTimeout"]))
        received = list(itertools.islice(self._available(), request.get("MaxNumberOfMessages", 1)))
        for message in received:
            message.receive_count += 1
            message.first_received = message.first_received or _timestamp()
            message.received = self._clock()
            message.hidden_until = message.received + seconds
            message.is_put_off = False
        shown = [self._shown(message, with_system=with_system, with_own=with_own) for message in received]
        return {"Messages": shown} if shown else {}

    def delete(self, request: Json) -> Json:
        """Delete a message that is in flight; one that is gone already stays gone."""
        handle = request["ReceiptHandle"]
        message = self._find(handle)
        if message and not self._is_in_flight(message, handle):
            raise _invalid("ReceiptHandle", handle, "The receipt handle has expired.")
        if message:
            self._remove(message)
        return {}

    def change_visibility(self, request: Json) -> Json:
        """Hide a message that is in flight for another while, or show it again at once."""
        handle, seconds = request["ReceiptHandle"], request["VisibilityTimeout"]
        message = self._find(handle)
        if message is None:
            raise _invalid("ReceiptHandle", handle, "Message does not exist.")
        if not self._is_in_flight(message, handle):
            raise SqsError(f"{SQS_PREFIX}MessageNotInflight", "The specified message isn't in flight.")
        hidden_until = self._clock() + seconds / self._speed
        if hidden_until > message.received + VISIBILITY_SECONDS:
            limit = f"Total VisibilityTimeout for the message is beyond the limit [{VISIBILITY_SECONDS} seconds]"
            raise _invalid("VisibilityTimeout", seconds, limit)
        message.hidden_until = hidden_until
        message.is_put_off = True
        return {}

    def peek(self) -> list[QueuedMessage]:
        """Look at every message."""
        now = self._clock()
        return [
            QueuedMessage(
                each.group,
                each.body,
                each.attributes,
                each.receive_count,
                each.hidden_until,
                each.hidden_until > now,
                each.hidden_until > now and each.is_put_off,
            )
            for each in self._messages.values()
        ]

    def counts(self) -> dict[str, str]:
        """Count the messages that wait and the ones in flight."""
        now = self._clock()
        hidden = sum(message.hidden_until > now for message in self._messages.values())
        return {
            "ApproximateNumberOfMessages": str(len(self._messages) - hidden),
            "ApproximateNumberOfMessagesNotVisible": str(hidden),
            "ApproximateNumberOfMessagesDelayed": "0",
        }

    def _check(self, entry: Json) -> None:
        """Refuse what SQS does not take. Raises SqsError."""
        _refuse_all_but(MESSAGE, entry)
        _check_body(entry["MessageBody"])
        for name, value in entry.get("MessageAttributes", {}).items():
            _refuse_all_but(STRING, value)
            if value["DataType"] != "String":
                raise _not_modelled(f"message attributes of type {value['DataType']}")
            if not value["StringValue"] or not CONTENT.fullmatch(value["StringValue"]):
                raise SqsError(INVALID_PARAMETER, f"The message attribute '{name}' must contain a valid value.")
        for name in ("MessageGroupId", "MessageDeduplicationId"):
            if name not in entry:
                raise SqsError(MISSING_PARAMETER, f"The request must contain the parameter {name}.")
            if not IDENTIFIER.fullmatch(entry[name]):
                raise _invalid(name, entry[name], "Only alphanumeric and punctuation characters, 1 to 128 in length.")
        maximum = int(self._attributes["MaximumMessageSize"])
        if _size(entry) > maximum:
            text = f"One or more parameters are invalid. Reason: Message must be shorter than {maximum} bytes."
            raise SqsError(INVALID_PARAMETER, text)

    def _accept(self, entry: Json) -> Json:
        """Take a message in, unless its deduplication id is remembered: then answer as for the first one."""
        body, group, deduplication_id = (
            entry[name] for name in ("MessageBody", "MessageGroupId", "MessageDeduplicationId")
        )
        key = (group if self._attributes["DeduplicationScope"] == "messageGroup" else None, deduplication_id)
        now = self._clock()
        while self._accepted and now - next(iter(self._accepted.values())).at >= DEDUPLICATION_SECONDS:
            self._accepted.popitem(last=False)
        if key not in self._accepted:
            message = _Message(body, entry.get("MessageAttributes", {}), group, deduplication_id)
            self._accepted[key] = _Accepted(now, message.id, message.sequence)
            self._add(message)
        first = self._accepted[key]
        return {
            "MessageId": first.message_id,
            "SequenceNumber": str(first.sequence),
            "MD5OfMessageBody": _md5(body.encode()),
        }

    def _available(self) -> Iterable[_Message]:
        """Go through what may be handed out; what was received too often goes to the dead-letter queue instead."""
        now = self._clock()
        for group in sorted(self._groups.values(), key=lambda messages: messages[0].sequence):
            if any(message.hidden_until > now for message in group):
                continue
            for message in list(group):
                if self._dead_letters and message.receive_count >= self._max_receives:
                    self._remove(message)
                    self._dead_letters.bury(message)
                else:
                    yield message

    def bury(self, message: _Message) -> None:
        """Take a message that another queue gave up."""
        message.sequence = next(_SEQUENCE)
        message.hidden_until = float("-inf")
        self._add(message)

    def _add(self, message: _Message) -> None:
        self._messages[message.id] = message
        self._groups.setdefault(message.group, []).append(message)

    def _remove(self, message: _Message) -> None:
        del self._messages[message.id]
        self._groups[message.group].remove(message)
        if not self._groups[message.group]:
            del self._groups[message.group]

    def _shown(self, message: _Message, *, with_system: bool, with_own: bool) -> Json:
        shown: Json = {
            "MessageId": message.id,
            "ReceiptHandle": _handle(message),
            "MD5OfBody": _md5(message.body.encode()),
            "Body": message.body,
        }
        if with_system:
            shown["Attributes"] = message.system_attributes(self._speed)
        if with_own and message.attributes:
            shown["MessageAttributes"] = message.attributes
        return shown

    def _find(self, handle: str) -> _Message | None:
        """Find the message that a receipt handle was given for; None when it is gone."""
        return self._messages.get(handle.partition(" ")[0])

    def _is_in_flight(self, message: _Message, handle: str) -> bool:
        """Tell whether the message is hidden, and the handle its latest one."""
        return message.hidden_until > self._clock() and handle == _handle(message)


def _one_by_one(call: Callable[[_FifoQueue, Json], Json]) -> Callable[[_FifoQueue, Json], Json]:
    """Make a batch call of a call: its entries succeed or fail one by one."""

    def call_batch(queue: _FifoQueue, request: Json) -> Json:
        _check_batch(request["Entries"])
        answer: dict[str, list[Json]] = {}
        for entry in request["Entries"]:
            try:
                call(queue, entry)
                answer.setdefault("Successful", []).append({"Id": entry["Id"]})
            except SqsError as error:
                failed = failed_entry(entry["Id"], error.code, str(error), sender_fault=True)
                answer.setdefault("Failed", []).append(failed)
        return answer

    return call_batch


_MESSAGE_CALLS: Final[dict[str, Callable[[_FifoQueue, Json], Json]]] = {
    "SendMessage": _FifoQueue.send,
    "SendMessageBatch": _FifoQueue.send_batch,
    "ReceiveMessage": _FifoQueue.receive,
    "DeleteMessage": _FifoQueue.delete,
    "DeleteMessageBatch": _one_by_one(_FifoQueue.delete),
    "ChangeMessageVisibility": _FifoQueue.change_visibility,
    "ChangeMessageVisibilityBatch": _one_by_one(_FifoQueue.change_visibility),
}


# -- what SQS refuses --------------------------------------------------------------------------------------------------


def _invalid(name: str, value: object, reason: str) -> SqsError:
    """Build the commonest refusal."""
    return SqsError(INVALID_PARAMETER, f"Value {value} for parameter {name} is invalid. Reason: {reason}")


def _not_modelled(what: str) -> SqsError:
    """Build the refusal of something that SQS has and the product does not use."""
    return SqsError(
        f"{SQS_PREFIX}UnsupportedOperation", f"The local SQS does not model {what}; see local/aws_server.py"
    )


def _refuse_all_but(known: Container[str], request: Json) -> None:
    others = sorted(name for name, value in request.items() if value and name not in known)
    if others:
        raise _not_modelled(", ".join(others))


def _wants_all(request: Json, name: str) -> bool:
    """Tell whether all attributes are asked for, or none. Raises SqsError when only some are."""
    names = request.get(name, [])
    if names not in ([], ["All"]):
        raise _not_modelled(f"{name} but All")
    return bool(names)


def _check_queue_attributes(attributes: Json) -> None:
    if attributes.get("FifoQueue") != "true":
        raise _not_modelled("standard queues")
    others = sorted(name for name in NOT_MODELLED if attributes.get(name, "0") not in ("0", "false"))
    if others:
        raise _not_modelled(", ".join(others))
    policy = attributes.get("RedrivePolicy")
    if policy and int(json.loads(policy)["maxReceiveCount"]) not in RECEIVE_COUNTS:
        raise _invalid("RedrivePolicy", policy, "Invalid value for maxReceiveCount, must be 1 to 1000.")


def _check_body(body: str) -> None:
    if not body:
        raise SqsError(MISSING_PARAMETER, "The request must contain the parameter MessageBody.")
    if not CONTENT.fullmatch(body):
        raise SqsError("InvalidMessageContents", "Invalid characters found.")


def _check_batch(entries: Sequence[Json]) -> None:
    if not entries:
        raise SqsError(f"{SQS_PREFIX}EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > BATCH_ENTRIES:
        text = f"Maximum number of entries per request are {BATCH_ENTRIES}. You have sent {len(entries)}."
        raise SqsError(f"{SQS_PREFIX}TooManyEntriesInBatchRequest", text)
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise SqsError(f"{SQS_PREFIX}BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id.")


# -- messages ----------------------------------------------------------------------------------------------------------


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _handle(message: _Message) -> str:
    """Make the receipt handle of the latest time that a message was received."""
    return f"{message.id} {message.receive_count}"


def _size(entry: Json) -> int:
    """Count the bytes of a message: its body and its attributes' names, types and values."""
    texts = [entry["MessageBody"]]
    for name, value in entry.get("MessageAttributes", {}).items():
        texts += [name, value["DataType"], value["StringValue"]]
    # Half a character, which JSON can name, is refused later.
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


# -- the wire ----------------------------------------------------------------------------------------------------------


def json_answer(content: Json) -> Answer:
    """Build AWS's answer to a call that succeeded, at least in part."""
    return Answer(HTTPStatus.OK, json.dumps(content).encode(), [("Content-Type", "application/x-amz-json-1.0")])


def refusal(status: int, code: str, message: str) -> Answer:
    """Build an AWS error; SQS's older codes travel in a header of their own.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-json-faqs.html
    """
    fault = "Sender" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Receiver"
    headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-query-error", f"{code};{fault}")]
    body = {"__type": code.rpartition(".")[2], "message": message}
    return Answer(status, json.dumps(body).encode(), headers)


def failed_entry(entry_id: str, code: str, message: str, *, sender_fault: bool) -> Json:
    """Build what a batch call says of an entry that failed."""
    return {"Id": entry_id, "SenderFault": sender_fault, "Code": code, "Message": message}
