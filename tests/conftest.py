"""What every test shares: how hard hypothesis tries, no network, and where the browser is."""

import ipaddress
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

# The same examples on every run, so a failure is a change of the code and not of the dice. Time on a shared machine
# says nothing about the code: no deadline, and slow generation is no failure.
settings.register_profile(
    "quick", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
# New examples on every run: scripts/test --hypothesis-profile=deep
settings.register_profile("deep", settings.get_profile("quick"), max_examples=2000, derandomize=False)
# A mutant is dead at the first example that fails; to shrink it would take minutes: scripts/mutants
settings.register_profile("mutants", settings.get_profile("quick"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """No test leaves this machine: whoever connects, sends or resolves beyond loopback fails."""
    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, method, _guard_address(getattr(socket.socket, method)))
        for function in ("getaddrinfo", "gethostbyname"):
            patch.setattr(socket, function, _guard_host(getattr(socket, function)))
        yield


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium. Without one the test is skipped, but in CI it fails: there a skip would hide the loss."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        reason = "no chromium on PATH; on Debian: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return path


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host is None or host in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(host: object) -> None:
    # The exception behind pytest.fail is no Exception, so no `except Exception` of a library or of ours can hide it.
    pytest.fail(f"a test reached for the network: {host!r} is not loopback")


def _guard_address(method: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, *args: Any) -> Any:
        # The address is the last argument of all three; a path or bytes there is a local socket.
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(args[-1][0]):
            _refuse(args[-1][0])
        return method(self, *args)

    return guarded


def _guard_host(function: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(host: object, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            _refuse(host)
        return function(host, *args, **kwargs)

    return guarded
