"""AWS on one machine: moto's server for SSM, SQS and DynamoDB, with SQS's rules for messages from fifo.py.

moto answers every call except those about messages: its FIFO queues forget a deduplication id with the message, accept
any id, receive count and late receipt handle, break a group's order after a failure, and need a second per call while
a thousand messages wait. Its DynamoDB checks a condition and writes in two steps, so calls run one at a time here.
What is not modelled is refused.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

from local.fifo import INVALID_PARAMETER, SQS_PREFIX, FifoQueue, QueuedMessage, SqsError, invalid
from local.server import Server, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient

    Json = dict[str, Any]
    Moto = Callable[[str, Json], "Answer"]  # an action and its request → moto's answer

REGION: Final = "us-east-1"

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
IDENTIFIER: Final = re.compile(r"[a-zA-Z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
CONTENT: Final = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
BATCH_BYTES: Final = 1_048_576
BATCH_ENTRIES: Final = 10
MISSING_PARAMETER: Final = "MissingParameter"

# What is modelled. moto keeps the other attributes of a queue; they do not affect messages here.
QUEUE_CALLS: Final = {"CreateQueue", "DeleteQueue", "GetQueueAttributes", "ListQueues", "ListDeadLetterSourceQueues"}
NOT_MODELLED: Final = {"ContentBasedDeduplication", "DelaySeconds", "ReceiveMessageWaitTimeSeconds"}
MESSAGE: Final = {"Id", "MessageBody", "MessageGroupId", "MessageDeduplicationId", "MessageAttributes", "QueueUrl"}
RECEIVE: Final = {
    *("QueueUrl", "MaxNumberOfMessages", "VisibilityTimeout"),
    *("MessageSystemAttributeNames", "MessageAttributeNames"),
}
STRING: Final = {"DataType", "StringValue"}
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


class Aws(Service):
    """SSM, SQS and DynamoDB on 127.0.0.1; a restart keeps the port and the messages.

    `clock` (seconds) is the time of the FIFO queues. With a `speed` above 1, delayed messages become visible that many
    times sooner, and report a queue time that many times longer; the visibility timeout of a receive stays as it is.
    moto has one set of backends per process: servers in one process must use different names.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, speed: float = 1.0) -> None:
        # Wraps every call; chaos/faults.py makes calls fail with it.
        self.middleware: Callable[[WSGIApplication], WSGIApplication] | None = None
        # Set while it is stopped, so that middleware can stop waiting.
        self.stopping = threading.Event()
        self._sqs = _Sqs(clock, speed)
        self._application = _Application(self._sqs)
        self._port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The endpoint; known after the first start."""
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
        """Return a boto3 client; without `config` it tries once, so that failures show."""
        return boto3.client(service, config=config or Config(retries={"total_max_attempts": 1}), **self.access)

    @property
    def access(self) -> dict[str, Any]:
        """A boto3 client's arguments; moto accepts any credentials."""
        return {
            "endpoint_url": self.url,
            "region_name": REGION,
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }

    def peek(self, queue_url: str) -> list[QueuedMessage]:
        """Return the messages of a FIFO queue, in the order in which SQS accepted them, without receiving them."""
        return self._sqs.peek(_name(queue_url))

    def start(self) -> None:
        """Listen. Raises OSError if the port is taken, RuntimeError if it listens already."""
        if self._server:
            raise RuntimeError(f"It already listens at {self.url}")
        self.stopping.clear()
        self._server = Server(self._answer, self._port, containers=True)
        self._port = self._server.port
        self._server.start()

    def stop(self) -> None:
        """Stop accepting calls, and end waiting ones without an answer."""
        server, self._server = self._server, None
        self.stopping.set()
        if server:
            server.stop()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        application = self.middleware(self._application) if self.middleware else self._application
        return application(environ, start_response)


def _load_ssm() -> None:
    """Load moto's SSM without its EC2, which takes a second and only serves to send commands to instances."""
    if "moto.ec2" in sys.modules:
        return
    without = ModuleType("moto.ec2")
    vars(without)["ec2_backends"] = {}
    sys.modules["moto.ec2"] = without
    try:
        importlib.import_module("moto.ssm.models")
    finally:
        del sys.modules["moto.ec2"]  # Other importers get the real one.


class Answer(NamedTuple):
    """The answer to one call."""

    status: int
    body: bytes
    headers: list[tuple[str, str]]

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        start_response(f"{self.status} {HTTPStatus(self.status).phrase}", self.headers)
        return [self.body]


def ask(application: WSGIApplication, environ: WSGIEnvironment, body: bytes) -> Answer:
    """Call an application with this body."""
    environ = {**environ, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    chunks, status, headers = run_wsgi_app(application, environ)
    return Answer(int(status.split()[0]), b"".join(chunks), list(headers))


class _Application:
    """The WSGI application: answers calls about messages, and passes the others to moto."""

    def __init__(self, sqs: _Sqs) -> None:
        self._sqs = sqs
        self._table_call = threading.Lock()
        _load_ssm()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        service, _, action = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")

        def moto(action: str, request: Json) -> Answer:
            changed = {**environ, "HTTP_X_AMZ_TARGET": f"{service}.{action}"}
            return ask(self._moto, changed, json.dumps(request).encode())

        if service == DYNAMODB:
            answer = self._call_dynamodb(action, json.loads(body), moto)
        elif service == "AmazonSQS":
            answer = self._sqs.call(action, json.loads(body), moto)
        else:
            answer = ask(self._moto, environ, body)
        return answer.send(start_response)

    def _call_dynamodb(self, action: str, request: Json, moto: Moto) -> Answer:
        others = sorted(request.keys() - UPDATE) if action == "UpdateItem" else []
        if action not in TABLE_CALLS or others:
            text = f"The local DynamoDB does not model {', '.join(others) or action}; see local/aws_server.py"
            return refusal(HTTPStatus.BAD_REQUEST, "UnknownOperationException", text)
        with self._table_call:
            return moto(action, request)


@dataclass(frozen=True)
class _Queue:
    """A FIFO queue, the attributes that moto keeps for it, and how many times faster delays pass."""

    fifo: FifoQueue
    attributes: Mapping[str, str]
    clock: Callable[[], float]
    speed: float

    def send(self, request: Json) -> Json:
        """Accept one message."""
        self._check(request)
        return self._accept(request)

    def send_batch(self, request: Json) -> Json:
        """Accept up to ten messages, in their order.

        SQS does not document which mistakes refuse the whole batch. Here every one does: the stricter reading.
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
        """Return messages, and hide them."""
        _refuse_all_but(RECEIVE, request)
        with_system = _wants_all(request, "MessageSystemAttributeNames")
        with_own = _wants_all(request, "MessageAttributeNames")
        seconds = request.get("VisibilityTimeout", int(self.attributes["VisibilityTimeout"]))
        messages = []
        for message in self.fifo.receive(request.get("MaxNumberOfMessages", 1), seconds):
            described: Json = {"MessageId": message.id, "ReceiptHandle": message.handle}
            described |= {"Body": message.body, "MD5OfBody": _md5(message.body)}
            if with_system:
                described["Attributes"] = self._system_attributes(message)
            if with_own and message.attributes:
                described["MessageAttributes"] = message.attributes
            messages.append(described)
        return {"Messages": messages} if messages else {}

    def delete(self, request: Json) -> Json:
        """Delete a message."""
        self.fifo.delete(request["ReceiptHandle"])
        return {}

    def change_visibility(self, request: Json) -> Json:
        """Delay a message, or show it again at once."""
        self.fifo.change_visibility(request["ReceiptHandle"], request["VisibilityTimeout"] / self.speed)
        return {}

    def counts(self) -> dict[str, str]:
        """Return the attributes that count messages."""
        visible, hidden = self.fifo.counts()
        return {
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(hidden),
            "ApproximateNumberOfMessagesDelayed": "0",
        }

    def _system_attributes(self, message: QueuedMessage) -> dict[str, str]:
        now, clock = time.time(), self.clock()
        return {
            "SenderId": "AIDALOCALLOCALLOCALLO",
            "SentTimestamp": str(int(1000 * (now - self.speed * (clock - message.sent_at)))),
            "ApproximateReceiveCount": str(message.receive_count),
            "ApproximateFirstReceiveTimestamp": str(int(1000 * (now - clock + message.first_received_at))),
            "SequenceNumber": str(message.sequence),
            "MessageGroupId": message.group,
            "MessageDeduplicationId": message.deduplication_id,
        }

    def _check(self, entry: Json) -> None:
        """Raise SqsError if SQS does not accept the message."""
        _refuse_all_but(MESSAGE, entry)
        if not entry["MessageBody"]:
            raise SqsError(MISSING_PARAMETER, "The request must contain the parameter MessageBody.")
        if not CONTENT.fullmatch(entry["MessageBody"]):
            raise SqsError("InvalidMessageContents", "Invalid characters found.")
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
                raise invalid(name, entry[name], "Only alphanumeric and punctuation characters, 1 to 128 in length.")
        maximum = int(self.attributes["MaximumMessageSize"])
        if _size(entry) > maximum:
            text = f"One or more parameters are invalid. Reason: Message must be shorter than {maximum} bytes."
            raise SqsError(INVALID_PARAMETER, text)

    def _accept(self, entry: Json) -> Json:
        body, attributes = entry["MessageBody"], entry.get("MessageAttributes", {})
        message = self.fifo.send(body, attributes, entry["MessageGroupId"], entry["MessageDeduplicationId"])
        return {
            "MessageId": message.id,
            "SequenceNumber": str(message.sequence),
            "MD5OfMessageBody": _md5(body),
        }


def _one_by_one(call: Callable[[_Queue, Json], Json]) -> Callable[[_Queue, Json], Json]:
    """Return the batch call of a call: its entries succeed or fail one by one."""

    def call_batch(queue: _Queue, request: Json) -> Json:
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


_MESSAGE_CALLS: Final[dict[str, Callable[[_Queue, Json], Json]]] = {
    "SendMessage": _Queue.send,
    "SendMessageBatch": _Queue.send_batch,
    "ReceiveMessage": _Queue.receive,
    "DeleteMessage": _Queue.delete,
    "DeleteMessageBatch": _one_by_one(_Queue.delete),
    "ChangeMessageVisibility": _Queue.change_visibility,
    "ChangeMessageVisibilityBatch": _one_by_one(_Queue.change_visibility),
}


class _Sqs:
    """The calls of SQS, one at a time: those about messages are answered here, those about queues by moto."""

    def __init__(self, clock: Callable[[], float], speed: float) -> None:
        self._clock = clock
        self._speed = speed
        self._turn = threading.Lock()
        self._queues: dict[str, _Queue] = {}

    def call(self, action: str, request: Json, moto: Moto) -> Answer:
        """Answer one call."""
        try:
            with self._turn:
                return self._call(action, request, moto)
        except SqsError as error:
            return refusal(HTTPStatus.BAD_REQUEST, error.code, str(error))

    def peek(self, name: str) -> list[QueuedMessage]:
        """Return the messages of a queue; an unused one has none."""
        with self._turn:
            return self._queues[name].fifo.peek() if name in self._queues else []

    def _call(self, action: str, request: Json, moto: Moto) -> Answer:
        name = _name(request.get("QueueUrl", ""))
        if action in _MESSAGE_CALLS:
            queue = self._queue(name, moto)
            # moto refuses calls to a queue that does not exist.
            return json_answer(_MESSAGE_CALLS[action](queue, request)) if queue else moto(action, request)
        if action not in QUEUE_CALLS:
            raise _not_modelled(action)
        if action == "CreateQueue":
            _check_queue_attributes(request.get("Attributes", {}))
        answer = moto(action, request)
        if action == "DeleteQueue":
            self._queues.pop(name, None)
        queue = self._queue(name, moto) if action == "GetQueueAttributes" else None
        if queue:
            known = json.loads(answer.body or b"{}").get("Attributes", {})
            known |= {count: number for count, number in queue.counts().items() if count in known}
            return json_answer({"Attributes": known} if known else {})
        return answer

    def _queue(self, name: str, moto: Moto) -> _Queue | None:
        """Return a queue, made on its first use from the attributes that moto keeps; None if there is none."""
        if name not in self._queues:
            answer = moto("GetQueueAttributes", {"QueueUrl": name, "AttributeNames": ["All"]})
            if answer.status != HTTPStatus.OK:
                return None
            attributes = json.loads(answer.body)["Attributes"]
            policy = json.loads(attributes.get("RedrivePolicy", "{}"))
            target = self._queue(policy["deadLetterTargetArn"].rpartition(":")[2], moto) if policy else None
            fifo = FifoQueue(
                self._clock,
                per_group=attributes["DeduplicationScope"] == "messageGroup",
                dead_letters=target.fifo if target else None,
                max_receives=int(policy.get("maxReceiveCount", 0)),
            )
            self._queues[name] = _Queue(fifo, attributes, self._clock, self._speed)
        return self._queues[name]


def _name(queue_url: str) -> str:
    return queue_url.rpartition("/")[2]


def _not_modelled(what: str) -> SqsError:
    """Return the refusal of what SQS has and the product does not use."""
    text = f"The local SQS does not model {what}; see local/aws_server.py"
    return SqsError(f"{SQS_PREFIX}UnsupportedOperation", text)


def _refuse_all_but(known: Container[str], request: Json) -> None:
    others = sorted(name for name, value in request.items() if value and name not in known)
    if others:
        raise _not_modelled(", ".join(others))


def _wants_all(request: Json, name: str) -> bool:
    """Return whether all attributes are requested, or none. Raises SqsError if only some are."""
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


def _check_batch(entries: Sequence[Json]) -> None:
    if not entries:
        raise SqsError(f"{SQS_PREFIX}EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(entries) > BATCH_ENTRIES:
        text = f"Maximum number of entries per request are {BATCH_ENTRIES}. You have sent {len(entries)}."
        raise SqsError(f"{SQS_PREFIX}TooManyEntriesInBatchRequest", text)
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise SqsError(f"{SQS_PREFIX}BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id.")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _size(entry: Json) -> int:
    """Count the bytes of a message: its body and its attributes' names, types and values."""
    texts = [entry["MessageBody"]]
    for name, value in entry.get("MessageAttributes", {}).items():
        texts += [name, value["DataType"], value["StringValue"]]
    # A lone surrogate is refused after this.
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def json_answer(content: Json) -> Answer:
    """Return AWS's answer to a call that succeeded, at least in part."""
    return Answer(HTTPStatus.OK, json.dumps(content).encode(), [("Content-Type", "application/x-amz-json-1.0")])


def refusal(status: int, code: str, message: str) -> Answer:
    """Return an AWS error; SQS's query codes have a header of their own.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-json-faqs.html
    """
    fault = "Sender" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Receiver"
    headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-query-error", f"{code};{fault}")]
    body = {"__type": code.rpartition(".")[2], "message": message}
    return Answer(status, json.dumps(body).encode(), headers)


def failed_entry(entry_id: str, code: str, message: str, *, sender_fault: bool) -> Json:
    """Return a batch call's report on an entry that failed."""
    return {"Id": entry_id, "SenderFault": sender_fault, "Code": code, "Message": message}
