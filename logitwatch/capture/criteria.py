"""Which criteria are understood, and how their arguments become an observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FUNCTIONS", "Call", "Lender", "read_function", "read_module", "watched_criteria"]


class Call(NamedTuple):
    """What a criterion was given and what it returned; nothing is copied.

    `kind` says what is known to have been computed: the name of one of `FUNCTIONS`, ``logit_loss`` for a `Lender`, or
    nothing, as for a subclass of a criterion with a ``forward`` of its own.
    """

    source: str
    logits: Tensor
    targets: Tensor | None
    class_dim: int = -1
    ignore_index: int | None = -100
    binary: bool = False
    mask: Tensor | None = None
    # How to recompute the loss from rows of logits, where it is one of torch's.
    recompute: Callable[[Tensor, Tensor], Tensor] | None = None
    weight: Tensor | None = None
    reduction: str = "none"
    result: Tensor | None = None
    lent: Mapping[str, Any] | None = None
    kind: str = ""
    label_smoothing: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the rows are; logits that were never built have only a shape."""
        return self.targets.device if self.logits.is_meta and self.targets is not None else self.logits.device


@runtime_checkable
class Lender(Protocol):
    """A loss that lends its statistics: it fills ``lent``, if it is a dictionary, during forward.

    ``lent["terms"]`` maps the name of each term to its value, ``lent["numbers"]`` names to what else is to be logged,
    ``lent["rows"]`` names of per-row quantities to ``[rows]`` tensors. The losses of `logitwatch.losses` are lenders.
    One that has an attribute ``binary`` that is true takes each logit for a yes-or-no decision, with a target of its
    own. One that makes the logits itself, whose ``takes_logits`` is False, lends them as ``lent["logits"]``, without
    values, classes last, and with them the `RowStatistics` of all rows, ``lent["row_statistics"]``, and a function of
    row indices that makes the logits of those rows, ``lent["logits_of"]``. Where its classes are split over ranks there
    is no such function, and ``lent["counted"]`` says whether this rank speaks for the rows, which the others have too.
    """

    lent: dict[str, Any] | None
    ignore_index: int


# Names of the parameters of torch's functions, in order, as far as they are read here.
_CATEGORICAL = ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing")
_BINARY = ("input", "target", "weight", "size_average", "reduce", "reduction", "pos_weight")

FUNCTIONS: dict[Any, str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll_loss",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
}
_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
}


def watched_criteria(module: nn.Module) -> dict[str, nn.Module]:
    """The criteria among the submodules, by qualified name; of criteria inside one another the outermost.

    Examples:
        >>> list(watched_criteria(nn.ModuleDict({"net": nn.Linear(2, 2), "loss": nn.CrossEntropyLoss()})))
        ['loss']
    """
    found: dict[str, nn.Module] = {}
    for name, child in module.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and _is_criterion(child):
            found[name] = child
    return found


def read_module(
    name: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Call | None:
    """The call of a criterion module; None where its arguments are not those of a criterion."""
    if isinstance(module, Lender):
        if not getattr(module, "takes_logits", True):
            return _read_unbuilt(name, module, _named(("input", "target"), args, kwargs).get("target"), result)
        given = _named(("logits", "targets"), args, kwargs)
        logits, targets = given.get("logits"), given.get("targets")
        if not isinstance(logits, Tensor):
            return None
        known_of: dict[str, Any] = {
            "weight": _tensor(getattr(module, "weight", None)),
            "reduction": getattr(module, "reduction", "none"),
            "result": result,
            "lent": module.lent or {},
            "kind": "logit_loss",
        }
        if getattr(module, "binary", False):
            known = None if targets is None else targets != module.ignore_index
            return Call(name, logits, targets, -1, None, True, known, **known_of)
        return Call(name, logits, targets, _class_dim(logits), module.ignore_index, **known_of)
    given = _named(("input", "target"), args, kwargs)
    for option in ("weight", "ignore_index", "reduction", "label_smoothing", "pos_weight"):
        if option in module.__dict__ or option in module._buffers:
            given[option] = getattr(module, option)
    base, kind = next(item for item in _MODULES.items() if isinstance(module, item[0]))
    call = _read(name, kind, given, result)
    # A subclass may do anything with what it is given.
    return call if call is None or type(module).forward is base.forward else call._replace(kind="")


def read_function(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Call | None:
    """The call of one of `FUNCTIONS`; None where its arguments are not those of a criterion."""
    kind = FUNCTIONS[function]
    names = _BINARY if kind.startswith("binary") else _CATEGORICAL
    return _read(kind, kind, _named(names, args, kwargs), result)


def _is_criterion(module: nn.Module) -> bool:
    kinds: tuple[Any, ...] = (Lender, *_MODULES)
    return isinstance(module, kinds)


def _read_unbuilt(name: str, module: Lender, targets: Any, result: Any) -> Call | None:
    """The call of a loss whose logits are nowhere; None where it lent nothing, as under `torch.compile`."""
    logits = (module.lent or {}).get("logits")
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        return None
    return Call(name, logits, targets, -1, module.ignore_index, result=result, lent=module.lent)


def _read(name: str, kind: str, given: Mapping[str, Any], result: Any) -> Call | None:
    logits, targets = given.get("input"), given.get("target")
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor):
        return None
    weight, reduction = given.get("weight"), given.get("reduction", "mean")
    result = result.detach() if isinstance(result, Tensor) else None
    if kind.startswith("binary"):
        # Weights of elements and of positives broadcast over the batch: not recomputed from rows.
        plain = weight is None and given.get("pos_weight") is None
        recompute = _binary_loss if plain else None
        weight = _tensor(weight if given.get("pos_weight") is None else given["pos_weight"])
        return Call(name, logits, targets, -1, None, True, None, recompute, weight, reduction, result, kind=kind)
    smoothing = given.get("label_smoothing", 0.0)
    ignore_index = given.get("ignore_index", -100)

    # Rows come lifted; what else may be in half precision, weights and soft targets, is lifted to them.
    def recompute_rows(rows: Tensor, rows_targets: Tensor) -> Tensor:
        w = None if weight is None else weight.to(rows.dtype)
        y = rows_targets.to(rows.dtype) if rows_targets.is_floating_point() else rows_targets
        return F.cross_entropy(rows, y, w, ignore_index=ignore_index, reduction="none", label_smoothing=smoothing)

    def recompute_log(rows: Tensor, rows_targets: Tensor) -> Tensor:
        w = None if weight is None else weight.to(rows.dtype)
        return F.nll_loss(rows, rows_targets, w, ignore_index=ignore_index, reduction="none")

    again = recompute_log if kind == "nll_loss" else recompute_rows
    call = Call(name, logits, targets, _class_dim(logits), ignore_index, False, None, again, weight, reduction, result)
    return call._replace(kind=kind, label_smoothing=smoothing)


def _binary_loss(rows: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(rows, targets.to(rows.dtype), reduction="none")


def _tensor(x: Any) -> Tensor | None:
    return x if isinstance(x, Tensor) else None


def _class_dim(logits: Tensor) -> int:
    """Where torch's criteria have their classes: ``[C]``, ``[N, C]``, ``[N, C, d1, ...]``."""
    return 0 if logits.ndim == 1 else 1


def _named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}
