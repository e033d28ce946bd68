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
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

from local.fifo import FifoQueue, QueuedMessage, SqsError, invalid
from local.server import Server, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    Json = dict[str, Any]
    Moto = Callable[[str, Json], "Answer"]  # an action and its request → moto's answer

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
IDENTIFIER: Final = re.compile(r"[a-zA-Z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
CONTENT: Final = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html; the template allows
# the same for a message.
MAX_BYTES: Final = 1_048_576
BATCH_ENTRIES: Final = 10

# What is modelled of SQS: the calls about queues, those about messages and their batches, and the parameters.
QUEUE_CALLS: Final = {"CreateQueue", "DeleteQueue", "GetQueueAttributes", "ListQueues", "ListDeadLetterSourceQueues"}
MESSAGE_CALLS: Final = {"SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility"}
QUEUE: Final = {
    *("FifoQueue", "DeduplicationScope", "FifoThroughputLimit", "SqsManagedSseEnabled", "MessageRetentionPeriod"),
    *("MaximumMessageSize", "VisibilityTimeout", "RedrivePolicy"),
}
MESSAGE: Final = {"Id", "MessageBody", "MessageGroupId", "MessageDeduplicationId", "MessageAttributes", "QueueUrl"}


class Aws(Service):
    """SSM, SQS and DynamoDB on 127.0.0.1; calls about messages are answered here, the others by moto, one at a time.

    `clock` (seconds) is the time of the FIFO queues. With a `speed` above 1, delayed messages become visible that many
    times sooner, and report a queue time that many times longer; the visibility timeout of a receive stays as it is.
    moto has one set of backends per process: servers in one process must use different names.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, speed: float = 1.0) -> None:
        # Wraps every call; chaos/faults.py makes calls fail with it.
        self.middleware: Callable[[WSGIApplication], WSGIApplication] | None = None
        # Set when it is stopped, so that middleware can stop waiting.
        self.stopping = threading.Event()
        self.url = ""  # the endpoint, once it is started
        self._clock = clock
        self._speed = speed
        self._turn = threading.Lock()
        self._queues: dict[str, _Queue] = {}
        _load_ssm()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server: Server

    def client(self, service: Any, config: Config | None = None) -> Any:
        """Return a boto3 client; without `config` it tries once, so that failures show."""
        return boto3.client(service, config=config or Config(retries={"total_max_attempts": 1}), **self.access)

    @property
    def access(self) -> dict[str, Any]:
        """A boto3 client's arguments; moto accepts any credentials."""
        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
        return {"endpoint_url": self.url, "region_name": "us-east-1", **keys}

    def peek(self, queue_url: str) -> list[QueuedMessage]:
        """Return the messages of a FIFO queue, in the order in which SQS accepted them, without receiving them."""
        with self._turn:
            queue = self._queues.get(_name(queue_url))
            return queue.fifo.peek() if queue else []

    def purge(self, queue_url: str) -> None:
        """Delete all messages of a FIFO queue, those in flight as well."""
        with self._turn:
            if queue := self._queues.get(_name(queue_url)):
                queue.fifo.purge()

    def start(self) -> None:
        """Listen."""
        self._server = Server(self._answer, containers=True)
        self.url = self._server.url
        self._server.start()

    def stop(self) -> None:
        """Stop accepting calls, and end waiting ones without an answer."""
        self.stopping.set()
        self._server.stop()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return (self.middleware(self._call) if self.middleware else self._call)(environ, start_response)

    def _call(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        service, _, action = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")

        def moto(action: str, request: Json) -> Answer:
            changed = {**environ, "HTTP_X_AMZ_TARGET": f"{service}.{action}"}
            return ask(self._moto, changed, json.dumps(request).encode())

        try:
            with self._turn:
                is_sqs = service == "AmazonSQS"
                answer = self._call_sqs(action, json.loads(body), moto) if is_sqs else ask(self._moto, environ, body)
        except SqsError as error:
            answer = refusal(HTTPStatus.BAD_REQUEST, error.code, str(error))
        return answer.send(start_response)

    def _call_sqs(self, action: str, request: Json, moto: Moto) -> Answer:
        name = _name(request.get("QueueUrl", ""))
        if action.removesuffix("Batch") in MESSAGE_CALLS:
            return json_answer(self._queue(name, moto).call(action, request))
        _refuse_all_but(QUEUE_CALLS, [action])
        if action == "CreateQueue":
            attributes = request.get("Attributes", {})
            _refuse_all_but(QUEUE, attributes)
            if attributes.get("FifoQueue") != "true":
                raise _not_modelled("standard queues")
        answer = moto(action, request)
        if action == "DeleteQueue":
            self._queues.pop(name, None)
        if action != "GetQueueAttributes" or answer.status != HTTPStatus.OK:
            return answer
        visible, hidden = self._queue(name, moto).fifo.counts()
        counts = {"ApproximateNumberOfMessages": visible, "ApproximateNumberOfMessagesNotVisible": hidden}
        known = json.loads(answer.body or b"{}").get("Attributes", {})
        return json_answer({"Attributes": known | {each: str(counts[each]) for each in known.keys() & counts}})

    def _queue(self, name: str, moto: Moto) -> _Queue:
        """Return a queue, made on its first use from the attributes that moto keeps. Raises SqsError without one."""
        if name not in self._queues:
            answer = moto("GetQueueAttributes", {"QueueUrl": name, "AttributeNames": ["All"]})
            if answer.status != HTTPStatus.OK:
                raise SqsError("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
            attributes = json.loads(answer.body)["Attributes"]
            policy = json.loads(attributes.get("RedrivePolicy", "{}"))
            target = None
            with suppress(SqsError):  # Messages stay in the queue if there is no dead-letter queue any more.
                target = self._queue(policy["deadLetterTargetArn"].rpartition(":")[2], moto).fifo if policy else None
            fifo = FifoQueue(self._clock, dead_letters=target, max_receives=int(policy.get("maxReceiveCount", 0)))
            self._queues[name] = _Queue(fifo, int(attributes["VisibilityTimeout"]), self._clock, self._speed)
        return self._queues[name]


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


@dataclass(frozen=True)
class _Queue:
    """A FIFO queue, its visibility timeout (seconds), and how many times faster delays pass."""

    fifo: FifoQueue
    visibility_timeout: int
    clock: Callable[[], float]
    speed: float

    def call(self, action: str, request: Json) -> Json:
        """Answer a call about messages; the entries of a batch succeed or fail one by one, unless they are sent."""
        if action == "ReceiveMessage":
            return self._receive(request)
        is_batch = action.endswith("Batch")
        entries = request["Entries"] if is_batch else [request]
        if not len({entry.get("Id") for entry in entries}) == len(entries) in range(1, BATCH_ENTRIES + 1):
            raise invalid("Entries", len(entries), f"A batch has 1 to {BATCH_ENTRIES} entries with distinct ids.")
        if action.startswith("SendMessage"):
            sent = self._send(entries)
            return {"Successful": sent} if is_batch else sent[0]
        answer: dict[str, list[Json]] = {"Successful": [], "Failed": []}
        for entry in entries:
            try:
                self._change(entry)
                answer["Successful"].append({"Id": entry.get("Id")})
            except SqsError as error:
                if not is_batch:
                    raise
                failed = {"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": str(error)}
                answer["Failed"].append(failed)
        return answer if is_batch else {}

    def _send(self, entries: Sequence[Json]) -> list[Json]:
        """Accept all messages or none. SQS does not document which mistakes refuse a whole batch: this is stricter."""
        total = sum(_check_message(entry) for entry in entries)
        if total > MAX_BYTES:
            raise SqsError("AWS.SimpleQueueService.BatchRequestTooLong", f"{total} bytes are more than {MAX_BYTES}.")
        sent = []
        for entry in entries:
            place = entry["MessageGroupId"], entry["MessageDeduplicationId"]
            message = self.fifo.send(entry["MessageBody"], entry.get("MessageAttributes", {}), *place)
            sent.append({"Id": entry.get("Id"), "MessageId": message.id, "SequenceNumber": str(message.sequence)})
        return sent

    def _receive(self, request: Json) -> Json:
        """Return messages with all of their attributes, and hide them."""
        visibility = request.get("VisibilityTimeout", self.visibility_timeout)
        messages = [
            {
                "MessageId": message.id,
                "ReceiptHandle": message.handle,
                "Body": message.body,
                "MD5OfBody": hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest(),
                "MessageAttributes": message.attributes,
                "Attributes": {
                    "SentTimestamp": str(int(1000 * (time.time() - self.speed * (self.clock() - message.sent_at)))),
                    "ApproximateReceiveCount": str(message.receive_count),
                    "SequenceNumber": str(message.sequence),
                    "MessageGroupId": message.group,
                    "MessageDeduplicationId": message.deduplication_id,
                },
            }
            for message in self.fifo.receive(request.get("MaxNumberOfMessages", 1), visibility)
        ]
        return {"Messages": messages} if messages else {}

    def _change(self, entry: Json) -> None:
        """Delete a message, or change its visibility."""
        if "VisibilityTimeout" in entry:
            self.fifo.change_visibility(entry["ReceiptHandle"], entry["VisibilityTimeout"] / self.speed)
        else:
            self.fifo.delete(entry["ReceiptHandle"])


def _name(queue_url: str) -> str:
    return queue_url.rpartition("/")[2]


def _not_modelled(what: str) -> SqsError:
    """Return SQS's error for a feature that the product does not use."""
    return SqsError("UnsupportedOperation", f"The local SQS does not model {what}; see local/aws_server.py")


def _refuse_all_but(known: Container[str], names: Iterable[str]) -> None:
    others = sorted(name for name in names if name not in known)
    if others:
        raise _not_modelled(", ".join(others))


def _check_message(entry: Json) -> int:
    """Return the size of a message with its attributes in bytes. Raises SqsError if SQS does not accept it."""
    _refuse_all_but(MESSAGE, entry)
    typed = entry.get("MessageAttributes", {})
    _refuse_all_but({"String"}, [value["DataType"] for value in typed.values()])
    attributes = {name: value["StringValue"] for name, value in typed.items()}
    texts = {"MessageBody": entry["MessageBody"], **attributes}
    for name, text in texts.items():
        if not CONTENT.fullmatch(text):
            raise invalid(name, ascii(text)[:60], "It is empty, or has characters that are not allowed.")
    for name in ("MessageGroupId", "MessageDeduplicationId"):
        if not IDENTIFIER.fullmatch(entry.get(name, "")):
            raise invalid(name, entry.get(name), "Only alphanumeric and punctuation characters, 1 to 128 in length.")
    return sum(len(text.encode()) for text in (*texts.values(), *attributes, *["String"] * len(attributes)))


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
