"""Several processes on gloo under a hard timer, and a record of every collective each of them called."""

import os
import socket
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

COLLECTIVES = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "broadcast", "broadcast_object_list"),
    *(
        "reduce",
        "reduce_scatter",
        "reduce_scatter_tensor",
        "gather",
        "scatter",
        "all_to_all",
        "barrier",
        "send",
        "recv",
    ),
    *("monitored_barrier", "gather_object", "scatter_object_list", "all_to_all_single"),
)


def on_ranks(main, count, folder, *args, timeout=240):
    """Run ``main(rank, folder, *args)`` in so many new processes; whoever hangs is killed and the test fails.

    What ``main`` returns is given back, one a rank.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = mp.spawn(_rank_main, (main, count, port, str(folder), args), nprocs=count, join=False)
    until = time.monotonic() + timeout
    try:
        while not context.join(timeout=1):
            if time.monotonic() > until:
                raise TimeoutError(f"the ranks were not done after {timeout} s: some wait for others")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()
    return [torch.load(f"{folder}/rank_{rank}.pt", weights_only=False) for rank in range(count)]


def _rank_main(rank, main, count, port, folder, args):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank)}
    torch.set_num_threads(1)
    result = main(rank, folder, *args)
    torch.save(result, f"{folder}/rank_{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


class Collectives:
    """Notes the collectives called while the context lasts: who called, which, of what shape, with which operator."""

    def __init__(self):
        self.calls = []

    def ours(self):
        """Those of logitwatch, without the caller."""
        return [call[1:] for call in self.calls if call[0].startswith("logitwatch")]

    def __enter__(self):
        self._before = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}
        for name, function in self._before.items():
            setattr(dist, name, self._noting(name, function))
        return self

    def __exit__(self, *error):
        for name, function in self._before.items():
            setattr(dist, name, function)

    def _noting(self, name, function):
        def noting(*args, **kwargs):
            caller = sys._getframe(1).f_globals["__name__"]
            tensor = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
            operator = next((str(a) for a in (*args, *kwargs.values()) if isinstance(a, dist.ReduceOp.RedOpType)), "")
            shape = None if tensor is None else (tuple(tensor.shape), str(tensor.dtype))
            self.calls.append((caller, name, shape, operator))
            return function(*args, **kwargs)

        return noting
