"""Run the Lambda functions, each instance in a process under AWS's Runtime Interface Emulator.

The emulator comes with SAM CLI (`samcli/local/rapid`) and runs the real runtime client, awslambdaric, with the real
time limit. It is a Linux program; elsewhere `local.standin` replaces it.
https://docs.aws.amazon.com/lambda/latest/dg/images-test.html
"""

import contextlib
import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import samcli
import urllib3
from urllib3.exceptions import HTTPError

from local.command import descendants

_EMULATORS: Final = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_INVOCATIONS: Final = "/2015-03-31/functions/function/invocations"
_MAX_INSTANCES: Final = 10
# Seconds to start listening, and seconds beyond the function's time limit, which does not include the cold start.
_START_LIMIT: Final = 15.0
_GRACE: Final = 15.0
# Linux kills the emulator when the thread that started it ends, even if this process is killed.
_KILL_WITH_PARENT: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Function:
    """A function of the template; `timeout` is in seconds."""

    name: str
    code: Path
    handler: str
    timeout: int
    environment: Mapping[str, str] = field(default_factory=dict)


class Runtime:
    """Invokes one function as Lambda does, in an idle instance or else in a new one.

    At most ten run at once; further invocations wait. `on_log` is called for each line that the instances write,
    including the emulator's reports.
    """

    def __init__(self, function: Function, on_log: Callable[[str], None] = lambda _: None) -> None:
        # Called after each invocation with the instance, the event, and the answer or Lambda's report of a failure.
        self.on_invoked: Callable[[Instance, str, str], None] | None = None
        self._function = function
        self._on_log = on_log
        self._slots = threading.BoundedSemaphore(_MAX_INSTANCES)
        self._lock = threading.Lock()
        # Instances are killed when the thread that started them ends, so one thread starts all of them.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
        self._idle: list[Instance] = []
        self._all: set[Instance] = set()
        self._is_closed = False

    def invoke(self, event: str) -> str:
        """Run the handler with the event (JSON); return its answer (JSON), or Lambda's report of its failure."""
        with self._slots:
            instance = self._take()
            try:
                answer = instance.invoke(event)
            except InstanceDied as error:
                self._drop(instance)
                answer = json.dumps({"errorType": "Runtime.ExitError", "errorMessage": str(error)})
            except BaseException:
                self._drop(instance)
                raise
            else:
                with self._lock:
                    self._idle.append(instance)
            if self.on_invoked:
                self.on_invoked(instance, event, answer)
            return answer

    def busy_instances(self) -> list["Instance"]:
        """Return the instances that are handling an event, so that a test can kill one."""
        with self._lock:
            return [instance for instance in self._all if instance not in self._idle]

    def end_idle(self) -> None:
        """Stop the idle instances, as Lambda does after a while; their memory is lost."""
        with self._lock:
            instances, self._idle = self._idle, []
        for instance in instances:
            self._drop(instance)

    def close(self) -> None:
        """Stop every instance, even one that is handling an event."""
        with self._lock:
            self._is_closed = True
            instances = list(self._all)
        for instance in instances:
            self._drop(instance)
        self._starter.shutdown()

    def _take(self) -> "Instance":
        """Return an idle instance, or a new one. Raises RuntimeError if it does not start or this is closed."""
        with self._lock:
            while self._idle:
                # The one used last, so that few instances stay warm, as on Lambda.
                instance = self._idle.pop()
                if instance.is_alive():
                    return instance
                self._all.discard(instance)
        instance = self._starter.submit(Instance, self._function, self._on_log).result()
        with self._lock:
            self._all.add(instance)
            is_closed = self._is_closed
        if is_closed:
            self._drop(instance)
            raise RuntimeError("the local stack is shutting down")
        return instance

    def _drop(self, instance: "Instance") -> None:
        with self._lock:
            self._all.discard(instance)
        instance.kill()


class InstanceDied(Exception):
    """The process ended or was killed during an invocation."""


class Instance:
    """One process that runs the function, one invocation at a time: the emulator crashes at a second one.

    It is started and accepts invocations; the function starts with the first one. Raises RuntimeError if the process
    does not listen in time.
    """

    def __init__(self, function: Function, on_log: Callable[[str], None]) -> None:
        self.event = ""  # the event being handled, if any
        self._function = function
        host = _host()
        port, runtime_port = _free_ports(host)
        self.url = f"http://{host}:{port}"  # where it accepts invocations
        self._http = urllib3.HTTPConnectionPool(host, port, maxsize=1, retries=False)
        self._process = subprocess.Popen(  # noqa: S603 -- this interpreter and SAM's emulator
            [*_command(host, port, runtime_port), function.handler],
            cwd=function.code,
            env=_environment(function),
            stdin=subprocess.PIPE,  # whose end tells the stand-in that this process has ended
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C is for the parent, which stops the instances in order.
            start_new_session=True,
        )
        threading.Thread(target=_read_log, args=(self._process, on_log), daemon=True).start()
        give_up = time.monotonic() + _START_LIMIT
        while self.is_alive() and time.monotonic() < give_up:
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
                return
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"The runtime of {function.name} did not start; see its log")

    def invoke(self, event: str) -> str:
        """Run the handler once. Raises InstanceDied."""
        self.event = event
        try:
            response = self._http.request(
                "POST", _INVOCATIONS, body=event.encode(), timeout=self._function.timeout + _GRACE
            )
        except HTTPError as error:
            raise InstanceDied(f"Error: Runtime exited: {type(error).__name__}") from error
        finally:
            self.event = ""
        return response.data.decode()

    def function_process(self) -> int:
        """Return the id of the process that runs the function, once it has been invoked."""
        return next(descendants(self._process.pid))

    def is_alive(self) -> bool:
        """Return whether the process is running."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill the process and its child, the runtime client, which has its own process group; wait for the end."""
        for pid in [*descendants(self._process.pid), self._process.pid] if self.is_alive() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._http.close()


def _read_log(process: "subprocess.Popen[str]", on_log: Callable[[str], None]) -> None:
    with process.stdout or contextlib.nullcontext(()) as lines:
        for line in lines:
            on_log(line.rstrip("\n"))


def emulator() -> Path | None:
    """Return the path of SAM's Runtime Interface Emulator for this machine, or None where it cannot run."""
    architecture = _EMULATORS.get(platform.machine().lower())
    if sys.platform != "linux" or architecture is None:
        return None
    return Path(samcli.__file__).parent / "local" / "rapid" / f"aws-lambda-rie-{architecture}"


def _host() -> str:
    """Choose a loopback address that no web page can guess: the emulator accepts invocations from every sender."""
    if emulator() is None:
        return "127.0.0.1"  # Other systems have no other address; the stand-in checks the sender.
    return str(IPv4Address("127.0.0.2") + secrets.randbelow(2**24 - 3))


def _command(host: str, port: int, runtime_port: int) -> list[str]:
    program = emulator()
    if program is None:
        return [sys.executable, str(Path(__file__).with_name("standin.py")), str(port)]
    address, api_address = f"{host}:{port}", f"{host}:{runtime_port}"
    options = ["--runtime-interface-emulator-address", address, "--runtime-api-address", api_address]
    return [sys.executable, "-ISc", _KILL_WITH_PARENT, str(program), *options, sys.executable, "-m", "awslambdaric"]


def _environment(function: Function) -> dict[str, str]:
    """Return the environment that Lambda would give, without the user's AWS profile and credentials.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function.timeout),
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_LEVEL": "INFO",
        **function.environment,
    }


def _free_ports(host: str) -> tuple[int, int]:
    """Return two free ports; both are held until the second is known, so that they differ."""
    with socket.create_server((host, 0)) as one, socket.create_server((host, 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
