"""A PagerDuty that does nothing but answer, as fast as Python can: started as a process of its own.

Usage: `python pagerduty.py SECONDS`; prints its port, and answers each POST after so many seconds, until killed.
"""

import socket
import sys
import threading
import time

_BODY = b'{"status":"success","message":"Event processed","dedup_key":"benchmark"}'
_ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


def answer(connection: socket.socket, seconds: float) -> None:
    """Answer every request of a connection until it is closed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    with connection:
        while data := connection.recv(65536):
            received += data
            head, end, body = received.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            if not end or len(body) < length:
                continue
            received = body[length:]
            if seconds:
                time.sleep(seconds)
            connection.sendall(_ANSWER)


def main(seconds: float) -> None:
    """Listen on a port that the system picks."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=answer, args=(connection, seconds), daemon=True).start()


if __name__ == "__main__":
    main(float(sys.argv[1]))
