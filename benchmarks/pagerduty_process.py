"""A PagerDuty that does nothing but answer over TLS, as fast as Python can: started as a process of its own.

Usage: `python -m benchmarks.pagerduty_process FILE`; adds the CA of its certificate to the file, prints its
port, and serves until killed.
"""

import contextlib
import socket
import ssl
import sys
import threading

import trustme

_BODY = b'{"status":"success","message":"Event processed","dedup_key":"benchmark"}'
_ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BODY),
    _BODY,
)


def answer(connection: socket.socket, tls: ssl.SSLContext) -> None:
    """Answer every request of a connection until it is closed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    with contextlib.suppress(OSError), tls.wrap_socket(connection, server_side=True) as encrypted:
        while data := encrypted.recv(65536):
            received += data
            head, end, body = received.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            if not end or len(body) < length:
                continue
            received = body[length:]
            encrypted.sendall(_ANSWER)


def main(ca_file: str) -> None:
    """Listen on a port that the system picks."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca_file, append=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=answer, args=(connection, tls), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
