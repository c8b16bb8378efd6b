"""The guard in conftest.py: no test reaches the network, and what stays on the machine works."""

import socket
from collections.abc import Callable

import pytest

Attempt = Callable[[], object]

# 192.0.2.0/24 and 2001:db8::/32 are for documentation: should the guard fail, nobody is there.
ATTEMPTS: dict[str, Attempt] = {
    "create_connection": lambda: socket.create_connection(("192.0.2.1", 80), timeout=0.1),
    "a name": lambda: socket.create_connection(("example.invalid", 80), timeout=0.1),
    "getaddrinfo": lambda: socket.getaddrinfo("example.invalid", 80),
    "gethostbyname": lambda: socket.gethostbyname("example.invalid"),
    "connect_ex": lambda: socket.socket().connect_ex(("192.0.2.1", 80)),
    "a datagram": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
    "a datagram with flags": lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", 0, ("192.0.2.1", 9)),
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_leaving_the_machine_fails_and_cannot_be_swallowed(attempt: Attempt) -> None:
    def swallows() -> None:
        try:
            attempt()
        except Exception:
            return

    with pytest.raises(pytest.fail.Exception, match="reached for the network"):
        swallows()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_works(host: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection((host, server.getsockname()[1]), timeout=5) as client,
    ):
        client.sendall(b"x")
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b"x"


def test_a_local_pair_works() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"
