"""AWS for one machine: moto's server for SSM and SQS, with FIFO queues that keep SQS's rules; fails when told to.

moto answers every call but those about the messages of FIFO queues. Its own FIFO queues forget a deduplication id with
the message and ignore its scope, take any id, receive count and late receipt handle, hand out the second message of a
group before the first once both have come back, and need a second per call while a thousand messages wait. Here those
calls are answered instead, one at a time. Left out are delays, retention, throughput quotas, message system attributes
and the redrive API. Standard queues are moto's, unchecked: the stack has none.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import socket
import struct
import threading
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, overload

import boto3
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.test import run_wsgi_app

from local.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient

    Json = dict[str, Any]
    Moto = Callable[[str, Json], "_Answer"]  # the call's name and its request → moto's answer

REGION: Final = "us-east-1"

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-exactly-once-processing.html
DEDUPLICATION_SECONDS: Final = 300.0
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
IDENTIFIER: Final = re.compile(r"[a-zA-Z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
CONTENT: Final = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
BATCH_BYTES: Final = 1_048_576
BATCH_ENTRIES: Final = 10
ENTRY_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,80}")
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
MESSAGE_ATTRIBUTES: Final = 10
ATTRIBUTE_NAME: Final = re.compile(r"(?!(?i:aws|amazon)\.)(?!\.)(?!.*\.\.)[a-zA-Z0-9_.-]{1,256}(?<!\.)")
ATTRIBUTE_TYPE: Final = re.compile(r"(?=.{1,256}\Z)(?:String|Number|Binary)(?:\..+)?")
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
RECEIVED_MESSAGES: Final = range(1, 11)
WAIT_SECONDS: Final = range(21)
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
VISIBILITY_SECONDS: Final = range(43_201)
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
RECEIVE_COUNTS: Final = range(1, 1001)
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
FIFO_SUFFIX: Final = ".fifo"

# The codes of SQS that a query client sees; the part after the last dot is the name of the error in botocore.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
INVALID_PARAMETER: Final = "InvalidParameterValue"
MISSING_PARAMETER: Final = "MissingParameter"
SQS_PREFIX: Final = "AWS.SimpleQueueService."

# SQS's sequence numbers have 20 digits and only ever increase.
_SEQUENCE: Final = itertools.count(18_850_000_000_000_000_000, 256)
_SENDER_ID: Final = "AIDALOCALLOCALLOCALLO"
_LOOK_AGAIN_SECONDS: Final = 0.05


class SqsError(Exception):
    """What SQS refuses: its code and its words, always with HTTP status 400."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Failure:
    """How one call goes wrong; the named constructors are the usual ways, `dataclasses.replace` combines them."""

    takes_effect: bool = True  # False: nothing but the answer happens
    hold: float = 0.0  # seconds between the effect and the answer
    status: int = 0  # answered with `code` and `message` instead of what the rules say; 0: no
    code: str = ""
    message: str = ""
    failed_entries: tuple[str, ...] = ()  # ids of a batch's entries that fail with `code`; the others take effect
    lost: bool = False  # close the connection instead of answering

    @classmethod
    def answer(cls, status: int, code: str, message: str = "Told to fail") -> Self:
        """Answer this status and AWS error code; nothing happens."""
        return cls(takes_effect=False, status=status, code=code, message=message)

    @classmethod
    def entries(cls, *ids: str, code: str = "InternalError", message: str = "Told to fail") -> Self:
        """Put these entries of a batch on its list of failed ones, as SQS's fault; the others take effect."""
        return cls(failed_entries=ids, code=code, message=message)

    @classmethod
    def lose_answer(cls) -> Self:
        """Let the call take effect and close the connection."""
        return cls(lost=True)

    @classmethod
    def delay(cls, seconds: float) -> Self:
        """Let the call take effect and answer it late."""
        return cls(hold=seconds)

    @classmethod
    def hang(cls, seconds: float | None = None, *, takes_effect: bool = False) -> Self:
        """Never answer: hold the connection for these seconds (None: until the server stops), then close it."""
        return cls(takes_effect=takes_effect, hold=threading.TIMEOUT_MAX if seconds is None else seconds, lost=True)


class Aws:
    """SSM and SQS on 127.0.0.1; a context manager, or start() and stop(), again on the same port and with its messages.

    `clock` (seconds) is the time of the FIFO queues: deduplication and visibility. With a `speed` above 1 a message
    that was put off comes again so many times sooner, and claims to have waited so many times longer; the time that a
    consumer has for what it received stays as it is. moto's backends are one per process, so that names of queues and
    parameters have to differ between servers in one process.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, speed: float = 1.0) -> None:
        # Asked for every call with its target ("AmazonSQS.SendMessage") and request, one call at a time; not to block.
        self.fail: Callable[[str, Json], Failure | None] | None = None
        self._application = _Application(self, _Sqs(clock, speed))
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The endpoint; known from the first start on."""
        return f"http://127.0.0.1:{self._port}"

    @overload
    def client(self, service: Literal["sqs"], config: Config | None = None) -> SQSClient: ...
    @overload
    def client(self, service: Literal["ssm"], config: Config | None = None) -> SSMClient: ...
    def client(self, service: Literal["sqs", "ssm"], config: Config | None = None) -> SQSClient | SSMClient:
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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; OSError when the port was taken meanwhile, RuntimeError when it listens already."""
        if self._server:
            raise RuntimeError(f"It already listens at {self.url}")
        self._application.stopping.clear()
        # Bound here and handed over: werkzeug would end the process if it found the port taken.
        with socket.create_server(("127.0.0.1", self._port), backlog=128) as listening:
            self._port = listening.getsockname()[1]
            self._server = make_server(
                "127.0.0.1",
                self._port,
                guarded(self._application),
                threaded=True,
                request_handler=_QuietHandler,
                fd=listening.fileno(),
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_LOOK_AGAIN_SECONDS,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more calls, and end the ones that wait without an answer; harmless when stopped already."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        self._application.stopping.set()
        server.shutdown()
        self._thread.join()


class _Answer(NamedTuple):
    """What is answered to one call."""

    status: int
    body: bytes
    headers: list[tuple[str, str]]


class _Application:
    """The WSGI application: lets a call fail, answers it with SQS's rules, or hands it to moto."""

    def __init__(self, aws: Aws, sqs: _Sqs) -> None:
        self.stopping = threading.Event()
        self._aws = aws
        self._sqs = sqs
        self._asking = threading.RLock()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: Json, start_response: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        request = json.loads(body) if target else {}
        failure = self._failure(target, request)

        answer = self._answer(environ, target, request, failure) if target else self._ask_moto(environ, body)
        if self.stopping.wait(min(failure.hold, threading.TIMEOUT_MAX)) or failure.lost:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError  # which werkzeug passes over, as if the client had gone away
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", answer.headers)
        return [answer.body]

    def _failure(self, target: str, request: Json) -> Failure:
        with self._asking:
            return (self._aws.fail and self._aws.fail(target, request)) or Failure()

    def _answer(self, environ: Json, target: str, request: Json, failure: Failure) -> _Answer:
        if not failure.takes_effect:
            return _refusal(failure.status or HTTPStatus.SERVICE_UNAVAILABLE, failure.code, failure.message)
        spared, failed = _without_failed_entries(request, failure)
        if failed and not spared["Entries"]:
            return _json_answer({"Failed": failed})
        answer = self._answer_by_rules(environ, target, spared)
        if failure.status:
            return _refusal(failure.status, failure.code, failure.message)
        if failed and answer.status == HTTPStatus.OK:
            content = json.loads(answer.body)
            return _json_answer({**content, "Failed": [*content.get("Failed", []), *failed]})
        return answer

    def _answer_by_rules(self, environ: Json, target: str, request: Json) -> _Answer:
        service, _, action = target.partition(".")

        def moto(action: str, request: Json) -> _Answer:
            changed = {**environ, "HTTP_X_AMZ_TARGET": f"{service}.{action}"}
            return self._ask_moto(changed, json.dumps(request).encode())

        if service != "AmazonSQS":
            return moto(action, request)
        try:
            return self._sqs.call(action, request, moto, self.stopping)
        except SqsError as error:
            return _refusal(HTTPStatus.BAD_REQUEST, error.code, str(error))
        except _MotoRefused as refused:
            return refused.answer

    def _ask_moto(self, environ: Json, body: bytes) -> _Answer:
        environ = {**environ, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
        parts, status, headers = run_wsgi_app(self._moto, environ)
        return _Answer(int(status.split()[0]), b"".join(parts), list(headers))


class _MotoRefused(Exception):
    """moto did not say what a queue's attributes are: there is no such queue."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class _Sqs:
    """The calls of SQS, one at a time: those about messages of FIFO queues are answered here, the others by moto."""

    def __init__(self, clock: Callable[[], float], speed: float) -> None:
        self._clock = clock
        self._speed = speed
        self._turn = threading.Condition()
        self._queues: dict[str, _FifoQueue] = {}

    def call(self, action: str, request: Json, moto: Moto, stopping: threading.Event) -> _Answer:
        """Answer one call. Raises SqsError, _MotoRefused."""
        with self._turn:
            if action == "CreateQueue":
                _check_queue_name(request["QueueName"], request.get("Attributes", {}))
            if action in ("CreateQueue", "SetQueueAttributes"):
                _check_queue_attributes(request.get("Attributes", {}))
            name = str(request.get("QueueUrl", "")).rpartition("/")[2]
            if not name.endswith(FIFO_SUFFIX):
                return moto(action, request)
            queue = self._queue(name, moto)
            if action == "ReceiveMessage":
                return _json_answer(self._receive(queue, request, stopping))
            if action in _MESSAGE_CALLS:
                return _json_answer(_MESSAGE_CALLS[action](queue, request))
            return self._ask_moto_about(queue, action, request, moto)

    def _receive(self, queue: _FifoQueue, request: Json, stopping: threading.Event) -> Json:
        """Receive; without a message, wait as long as the request or else the queue says, letting others take turns."""
        seconds = request.get("WaitTimeSeconds", int(queue.attributes["ReceiveMessageWaitTimeSeconds"]))
        _check_range("WaitTimeSeconds", seconds, WAIT_SECONDS)
        give_up = time.monotonic() + seconds
        while True:
            messages = queue.receive(request)
            if messages or time.monotonic() >= give_up or stopping.is_set():
                return {"Messages": messages} if messages else {}
            self._turn.wait(_LOOK_AGAIN_SECONDS)

    def _ask_moto_about(self, queue: _FifoQueue, action: str, request: Json, moto: Moto) -> _Answer:
        answer = moto(action, request)
        if answer.status != HTTPStatus.OK:
            return answer
        if action == "SetQueueAttributes":
            self._configure(queue, moto)
        elif action == "DeleteQueue":
            del self._queues[queue.name]
        elif action == "GetQueueAttributes":
            known = json.loads(answer.body or b"{}").get("Attributes", {})
            counts = {name: count for name, count in queue.counts().items() if name in known}
            return _json_answer({"Attributes": known | counts} if known else {})
        return answer

    def _queue(self, name: str, moto: Moto) -> _FifoQueue:
        """Find a queue; one that was not used before starts empty, with the attributes that moto knows."""
        queue = self._queues.get(name)
        if queue is None:
            queue = _FifoQueue(name, self._clock, self._speed)
            self._configure(queue, moto)
        return queue

    def _configure(self, queue: _FifoQueue, moto: Moto) -> None:
        answer = moto("GetQueueAttributes", {"QueueUrl": queue.name, "AttributeNames": ["All"]})
        if answer.status != HTTPStatus.OK:
            raise _MotoRefused(answer)
        self._queues[queue.name] = queue
        queue.attributes = json.loads(answer.body)["Attributes"]
        policy = json.loads(queue.attributes.get("RedrivePolicy", "null"))
        if policy:
            queue.max_receives = int(policy["maxReceiveCount"])
            queue.dead_letters = self._queue(policy["deadLetterTargetArn"].rpartition(":")[2], moto)
        else:
            queue.max_receives, queue.dead_letters = None, None


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
    receives: int = 0
    hidden_until: float = float("-inf")
    source: str = ""  # ARN of the queue that gave it up

    def system_attributes(self, speed: float) -> dict[str, str]:
        """List what SQS tells about a message."""
        now = _timestamp()
        attributes = {
            "SenderId": _SENDER_ID,
            "SentTimestamp": str(now - round(speed * (now - self.sent))),
            "ApproximateReceiveCount": str(self.receives),
            "ApproximateFirstReceiveTimestamp": str(self.first_received),
            "SequenceNumber": str(self.sequence),
            "MessageGroupId": self.group,
            "MessageDeduplicationId": self.deduplication_id,
        }
        return attributes | ({"DeadLetterQueueSourceArn": self.source} if self.source else {})


class _Accepted(NamedTuple):
    """What is remembered of a deduplication id, also when its message is gone."""

    at: float
    message_id: str
    sequence: int


class _FifoQueue:
    """The messages of one FIFO queue. Its caller sees to it that one call runs at a time.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/FIFO-queues-understanding-logic.html
    """

    def __init__(self, name: str, clock: Callable[[], float], speed: float) -> None:
        self.name = name
        self._speed = speed
        self.attributes: dict[str, str] = {}
        self.max_receives: int | None = None
        self.dead_letters: _FifoQueue | None = None
        self._clock = clock
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

    def receive(self, request: Json) -> list[Json]:
        """Hand out messages of groups that have none in flight: the oldest group first, as many of it as possible."""
        count = request.get("MaxNumberOfMessages", 1)
        seconds = request.get("VisibilityTimeout", int(self.attributes["VisibilityTimeout"]))
        _check_range("MaxNumberOfMessages", count, RECEIVED_MESSAGES)
        _check_range("VisibilityTimeout", seconds, VISIBILITY_SECONDS)
        received = list(itertools.islice(self._available(), count))
        for message in received:
            message.receives += 1
            message.first_received = message.first_received or _timestamp()
            message.received = self._clock()
            message.hidden_until = message.received + seconds
        return [self._shown(message, request) for message in received]

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
        _check_range("VisibilityTimeout", seconds, VISIBILITY_SECONDS)
        message = self._find(handle)
        if message is None:
            raise _invalid("ReceiptHandle", handle, "Message does not exist.")
        if not self._is_in_flight(message, handle):
            raise SqsError(f"{SQS_PREFIX}MessageNotInflight", "The specified message isn't in flight.")
        hidden_until = self._clock() + seconds / self._speed
        if hidden_until > message.received + VISIBILITY_SECONDS[-1]:
            limit = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]"
            raise _invalid("VisibilityTimeout", seconds, limit)
        message.hidden_until = hidden_until
        return {}

    def purge(self, _: Json) -> Json:
        """Delete every message; what was accepted is still remembered."""
        self._groups.clear()
        self._messages.clear()
        return {}

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
        _check_body(entry["MessageBody"])
        _check_message_attributes(entry.get("MessageAttributes", {}))
        if "MessageGroupId" not in entry:
            raise SqsError(MISSING_PARAMETER, "The request must contain the parameter MessageGroupId.")
        if "MessageDeduplicationId" not in entry and self.attributes["ContentBasedDeduplication"] != "true":
            raise SqsError(INVALID_PARAMETER, "MessageDeduplicationId is missing: deduplication is not by content.")
        for name in ("MessageGroupId", "MessageDeduplicationId"):
            _check_identifier(name, entry.get(name))
        if entry.get("DelaySeconds"):
            raise _invalid("DelaySeconds", entry["DelaySeconds"], "Not valid for this queue type.")
        maximum = int(self.attributes["MaximumMessageSize"])
        if _size(entry) > maximum:
            text = f"One or more parameters are invalid. Reason: Message must be shorter than {maximum} bytes."
            raise SqsError(INVALID_PARAMETER, text)

    def _accept(self, entry: Json) -> Json:
        """Take a message in, unless its deduplication id is remembered: then answer as for the first one."""
        body, group, attributes = entry["MessageBody"], entry["MessageGroupId"], entry.get("MessageAttributes", {})
        deduplication_id = entry.get("MessageDeduplicationId") or hashlib.sha256(body.encode()).hexdigest()
        key = (group if self.attributes["DeduplicationScope"] == "messageGroup" else None, deduplication_id)
        now = self._clock()
        while self._accepted and now - next(iter(self._accepted.values())).at >= DEDUPLICATION_SECONDS:
            self._accepted.popitem(last=False)
        if key not in self._accepted:
            message = _Message(body, attributes, group, deduplication_id)
            self._accepted[key] = _Accepted(now, message.id, message.sequence)
            self._add(message)
        first = self._accepted[key]
        answer = {
            "MessageId": first.message_id,
            "SequenceNumber": str(first.sequence),
            "MD5OfMessageBody": _md5(body.encode()),
        }
        return answer | ({"MD5OfMessageAttributes": _md5_of_attributes(attributes)} if attributes else {})

    def _available(self) -> Iterable[_Message]:
        """Go through what may be handed out; what was received too often goes to the dead-letter queue instead."""
        now = self._clock()
        for group in sorted(self._groups.values(), key=lambda messages: messages[0].sequence):
            if any(message.hidden_until > now for message in group):
                continue
            for message in list(group):
                if self.dead_letters and self.max_receives and message.receives >= self.max_receives:
                    self._remove(message)
                    self.dead_letters.bury(message, self.attributes["QueueArn"])
                else:
                    yield message

    def bury(self, message: _Message, source: str) -> None:
        """Take a message that another queue gave up."""
        message.source = source
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

    def _shown(self, message: _Message, request: Json) -> Json:
        names = {*request.get("AttributeNames", []), *request.get("MessageSystemAttributeNames", [])}
        system = {name: text for name, text in message.system_attributes(self._speed).items() if names & {name, "All"}}
        attributes = _chosen(message.attributes, request.get("MessageAttributeNames", []))
        shown: Json = {
            "MessageId": message.id,
            "ReceiptHandle": self._handle(message),
            "MD5OfBody": _md5(message.body.encode()),
            "Body": message.body,
        }
        if system:
            shown["Attributes"] = system
        if attributes:
            shown |= {"MessageAttributes": attributes, "MD5OfMessageAttributes": _md5_of_attributes(attributes)}
        return shown

    def _handle(self, message: _Message) -> str:
        return base64.b64encode(f"{self.name} {message.id} {message.receives}".encode()).decode()

    def _find(self, handle: str) -> _Message | None:
        """Find the message that a receipt handle was given for; None when it is gone. Raises SqsError."""
        try:
            name, message_id, _ = base64.b64decode(handle, validate=True).decode().split(" ")
        except ValueError:
            name, message_id = "", ""
        if name != self.name:
            raise SqsError("ReceiptHandleIsInvalid", f'"{handle}" is not a receipt handle of this queue.')
        return self._messages.get(message_id)

    def _is_in_flight(self, message: _Message, handle: str) -> bool:
        """Tell whether the message is hidden, and the handle its latest one."""
        return message.hidden_until > self._clock() and handle == self._handle(message)


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
                failed = _failed_entry(entry["Id"], error.code, str(error), sender_fault=True)
                answer.setdefault("Failed", []).append(failed)
        return answer

    return call_batch


_MESSAGE_CALLS: Final[dict[str, Callable[[_FifoQueue, Json], Json]]] = {
    "SendMessage": _FifoQueue.send,
    "SendMessageBatch": _FifoQueue.send_batch,
    "DeleteMessage": _FifoQueue.delete,
    "DeleteMessageBatch": _one_by_one(_FifoQueue.delete),
    "ChangeMessageVisibility": _FifoQueue.change_visibility,
    "ChangeMessageVisibilityBatch": _one_by_one(_FifoQueue.change_visibility),
    "PurgeQueue": _FifoQueue.purge,
}


# -- what SQS refuses --------------------------------------------------------------------------------------------------


def _invalid(name: str, value: object, reason: str) -> SqsError:
    """Build the commonest refusal."""
    return SqsError(INVALID_PARAMETER, f"Value {value} for parameter {name} is invalid. Reason: {reason}")


def _check_queue_name(name: str, attributes: Json) -> None:
    fifo = str(attributes.get("FifoQueue", "")).lower() == "true"
    if fifo != name.endswith(FIFO_SUFFIX):
        raise SqsError(INVALID_PARAMETER, f"The name of a FIFO queue, and of no other one, ends with {FIFO_SUFFIX}")


def _check_queue_attributes(attributes: Json) -> None:
    seconds = str(attributes.get("VisibilityTimeout", 0))
    if not (seconds.isdecimal() and int(seconds) in VISIBILITY_SECONDS):
        raise SqsError("InvalidAttributeValue", "Invalid value for the parameter VisibilityTimeout.")
    policy = attributes.get("RedrivePolicy")
    count = str(json.loads(policy).get("maxReceiveCount", "")) if policy else "1"
    if not (count.isdecimal() and int(count) in RECEIVE_COUNTS):
        raise _invalid("RedrivePolicy", policy, f"Invalid value for maxReceiveCount: {count}, must be 1 to 1000.")


def _check_range(name: str, value: int, allowed: range) -> None:
    if value not in allowed:
        raise _invalid(name, value, f"Must be between {allowed[0]} and {allowed[-1]}, if provided.")


def _check_identifier(name: str, value: str | None) -> None:
    if value is not None and not IDENTIFIER.fullmatch(value):
        raise _invalid(name, value, "Only alphanumeric and punctuation characters, 1 to 128 in length.")


def _check_body(body: str) -> None:
    if not body:
        raise SqsError(MISSING_PARAMETER, "The request must contain the parameter MessageBody.")
    if not CONTENT.fullmatch(body):
        raise SqsError("InvalidMessageContents", "Invalid characters found.")


def _check_message_attributes(attributes: Json) -> None:
    if len(attributes) > MESSAGE_ATTRIBUTES:
        text = f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [{MESSAGE_ATTRIBUTES}]."
        raise SqsError(INVALID_PARAMETER, text)
    for name, value in attributes.items():
        kind = value["DataType"]
        content = value.get("BinaryValue" if kind.startswith("Binary") else "StringValue")
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise SqsError(INVALID_PARAMETER, f"The message attribute name '{name}' is invalid.")
        if not ATTRIBUTE_TYPE.fullmatch(kind):
            raise SqsError(INVALID_PARAMETER, f"The message attribute '{name}' has an invalid type: {kind}.")
        if not content or not CONTENT.fullmatch(content):
            raise SqsError(INVALID_PARAMETER, f"The message attribute '{name}' must contain a valid value.")


def _check_batch(entries: Sequence[Json]) -> None:
    ids = [entry["Id"] for entry in entries]
    repeated = next((each for each in ids if ids.count(each) > 1), None)
    if not ids:
        raise SqsError(f"{SQS_PREFIX}EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(ids) > BATCH_ENTRIES:
        text = f"Maximum number of entries per request are {BATCH_ENTRIES}. You have sent {len(ids)}."
        raise SqsError(f"{SQS_PREFIX}TooManyEntriesInBatchRequest", text)
    if not all(ENTRY_ID.fullmatch(each) for each in ids):
        text = "Only alphanumeric characters, hyphens and underscores, at most 80."
        raise SqsError(f"{SQS_PREFIX}InvalidBatchEntryId", text)
    if repeated is not None:
        raise SqsError(f"{SQS_PREFIX}BatchEntryIdsNotDistinct", f"Id {repeated} repeated.")


# -- messages ----------------------------------------------------------------------------------------------------------


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _md5_of_attributes(attributes: Json) -> str:
    """Digest message attributes as SQS does.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
    """
    content = b""
    for name, value in sorted(attributes.items()):
        content += _with_length(name.encode()) + _with_length(value["DataType"].encode())
        content += b"\x02" if "BinaryValue" in value else b"\x01"
        content += _with_length(_value(value))
    return _md5(content)


def _with_length(content: bytes) -> bytes:
    return struct.pack("!I", len(content)) + content


def _value(attribute: Json) -> bytes:
    """Return an attribute's value as bytes; on the wire a binary one is base64."""
    if "BinaryValue" in attribute:
        return base64.b64decode(attribute["BinaryValue"])
    return _utf8(attribute.get("StringValue", ""))


def _utf8(text: str) -> bytes:
    """Encode, also what is refused later: JSON can name half a character."""
    return text.encode("utf-8", "surrogatepass")


def _size(entry: Json) -> int:
    """Count the bytes of a message: its body and its attributes' names, types and values."""
    attributes = entry.get("MessageAttributes", {}).items()
    return len(_utf8(entry["MessageBody"])) + sum(
        len(_utf8(name)) + len(_utf8(value["DataType"])) + len(_value(value)) for name, value in attributes
    )


def _chosen(attributes: Json, names: Sequence[str]) -> Json:
    """Pick message attributes by name, by a prefix and `.*`, or all."""
    prefixes = tuple(name.removesuffix("*").removesuffix(".") for name in names if name.endswith(".*"))
    if "All" in names:
        return attributes
    return {
        name: value for name, value in attributes.items() if name in names or (prefixes and name.startswith(prefixes))
    }


# -- the wire ----------------------------------------------------------------------------------------------------------


def _json_answer(content: Json) -> _Answer:
    return _Answer(HTTPStatus.OK, json.dumps(content).encode(), [("Content-Type", "application/x-amz-json-1.0")])


def _refusal(status: int, code: str, message: str) -> _Answer:
    """Build an AWS error; SQS's older codes travel in a header of their own.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-json-faqs.html
    """
    fault = "Sender" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Receiver"
    headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-query-error", f"{code};{fault}")]
    body = {"__type": code.rpartition(".")[2], "message": message}
    return _Answer(status, json.dumps(body).encode(), headers)


def _without_failed_entries(request: Json, failure: Failure) -> tuple[Json, list[Json]]:
    """Split a batch into what goes through and the answers to the entries that are told to fail."""
    ids = [entry["Id"] for entry in request.get("Entries", []) if entry["Id"] in failure.failed_entries]
    if not ids:
        return request, []
    spared = {**request, "Entries": [entry for entry in request["Entries"] if entry["Id"] not in ids]}
    return spared, [_failed_entry(each, failure.code, failure.message, sender_fault=False) for each in ids]


def _failed_entry(entry_id: str, code: str, message: str, *, sender_fault: bool) -> Json:
    return {"Id": entry_id, "SenderFault": sender_fault, "Code": code, "Message": message}


class _QuietHandler(WSGIRequestHandler):
    disable_nagle_algorithm = True

    def log(self, *_: Any) -> None:
        """Say nothing: a call that fails is its caller's to tell."""
