"""A process that has imported everything already and forks itself once for every run, so that a run begins at once."""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path


class ForkServer:
    """Runs ``function(*args)`` of a module, each time in a new process which is forked from one that imported it.

    The one that is forked never runs torch and has no threads, so its copies are whole.

    Args:
        module: Name of the module, below ``tests``.
    """

    def __init__(self, module):
        folders = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
        path = os.pathsep.join(filter(None, [*folders, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.forked", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            bufsize=0,
        )

    def start(self, function, *args):
        """Begin a run; gives the process, which leads a group of its own."""
        self._process.stdin.write(json.dumps([function, *args]).encode() + b"\n")
        return int(self._told(60))

    def ended(self, pid, timeout=30):
        """Wait for the end of a run; its exit code, negative for a signal. Whoever takes too long is killed."""
        code = self._told(timeout)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            self._told(timeout)
            raise AssertionError(f"the process was still there {timeout} seconds after the signal")
        return int(code)

    def close(self):
        """End the server, which has nothing of its own to lose."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _told(self, timeout):
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            return None
        return self._process.stdout.readline()


def wait_for(ready, what, timeout=60):
    """Poll until ``ready`` gives something true, and give that."""
    until = time.monotonic() + timeout
    while not (result := ready()):
        assert time.monotonic() < until, f"no {what} in {timeout} seconds"
        time.sleep(0.0005)
    return result


def _serve(module):
    functions = importlib.import_module(module)
    while line := sys.stdin.buffer.readline():
        function, *args = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(getattr(functions, function), args)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        _tell(pid)
        _tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _run(function, args):
    """Never returns, and flushes nothing that the run did not: a process may end without ``atexit``."""
    code = 70
    try:
        os.setpgid(0, 0)
        # Whoever started the tests in the background of a shell has them ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function(*args)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell(number):
    os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    _serve(sys.argv[1])
