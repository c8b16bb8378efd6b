"""How much memory tensors take while a piece of code runs."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """The most bytes that outputs of operators took at one time, but for what was ``given``.

    What an operator allocates and frees inside itself is not seen, nor what is smaller than a kilobyte.
    """

    def __init__(self, *given):
        super().__init__()
        self.bytes = 0
        self._given = {t.untyped_storage()._cdata for t in given}
        self._live = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self._live = {key: (ref, size) for key, (ref, size) in self._live.items() if not ref.expired()}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
                continue
            if tensor.untyped_storage()._cdata not in self._given:
                storage = tensor.untyped_storage()
                if storage.nbytes() >= 1024:
                    self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.bytes = max(self.bytes, sum(size for _, size in self._live.values()))
        return result
