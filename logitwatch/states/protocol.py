"""What a state is, and how any state travels: one packed SUM and one packed MAX."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype

__all__ = ["Packed", "State", "maximised", "merge_fields", "nested", "pack", "summed", "to_device", "unpack"]

S = TypeVar("S", bound="State")


@runtime_checkable
class State(Protocol):
    """A frozen dataclass of tensors whose size does not depend on how much was seen: a commutative monoid.

    ``empty()`` is the identity of ``merge``; merging is associative and commutative, so batches, ranks and resumed runs
    may be folded in any order and equal seeing everything at once: counts bit for bit, sums to rounding. Every field is
    a tensor declared `summed` or `maximised`, or again a state. Counts are int64, sums float64.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @classmethod
    def empty(cls: type[S]) -> S:
        """The state of having seen nothing."""
        ...

    def merge(self: S, other: S) -> S:
        """The state of having seen what both saw."""
        ...


class Packed(NamedTuple):
    """A state as two flat tensors in the accumulator type; counts are exact in it up to ``2 ** 53``."""

    sums: Tensor
    maxima: Tensor


def summed() -> Any:
    """A dataclass field that merges by addition."""
    return dataclasses.field(metadata={"reduce": "sum"})


def nested() -> Any:
    """A dataclass field that is itself a state and merges as one."""
    return dataclasses.field()


def maximised() -> Any:
    """A dataclass field that merges by the larger value."""
    return dataclasses.field(metadata={"reduce": "max"})


def merge_fields(a: S, b: S) -> S:
    """Field-wise merge of two states of one type: what every ``merge`` calls."""
    merged = {}
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        match field.metadata.get("reduce"):
            case "sum":
                merged[field.name] = x + y
            case "max":
                merged[field.name] = torch.maximum(x, y)
            case _:
                merged[field.name] = x.merge(y)
    return type(a)(**merged)


def pack(state: State) -> Packed:
    """Flatten a state, nested states included, into one tensor to be summed and one to be maximised.

    Examples:
        >>> from logitwatch.states.extrema import Extrema
        >>> pack(Extrema.of(torch.tensor([1.0, 3.0]))).maxima.tolist()
        [3.0, -1.0]
    """
    leaves = list(_leaves(state))
    dtype = accumulator_dtype(leaves[0][1].device)

    def flat(kind: str) -> Tensor:
        parts = [tensor.reshape(-1).to(dtype) for reduce, tensor in leaves if reduce == kind]
        return torch.cat(parts) if parts else torch.empty(0, dtype=dtype, device=leaves[0][1].device)

    return Packed(flat("sum"), flat("max"))


def unpack(like: S, packed: Packed) -> S:
    """The state that `pack` flattened, with the shapes and types of ``like``.

    Examples:
        >>> from logitwatch.states.extrema import Extrema
        >>> state = Extrema.of(torch.tensor([1.0, 3.0]))
        >>> unpack(Extrema.empty(), pack(state)).maximum.item()
        3.0
    """
    rest, state = _unpack(like, packed)
    if rest.sums.numel() or rest.maxima.numel():
        raise ValueError(f"packed state does not fit {type(like).__name__}: {rest.sums.numel()} sums left over")
    return state


def to_device(state: S, device: torch.device | str) -> S:
    """The same state with every tensor on ``device``."""
    moved = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return type(state)(**{k: v.to(device) if isinstance(v, Tensor) else to_device(v, device) for k, v in moved.items()})


def _leaves(state: State) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            found.append((field.metadata["reduce"], value))
        else:
            found.extend(_leaves(value))
    return found


def _unpack(like: S, packed: Packed) -> tuple[Packed, S]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(like):
        old = getattr(like, field.name)
        if not isinstance(old, Tensor):
            packed, values[field.name] = _unpack(old, packed)
        elif field.metadata["reduce"] == "sum":
            values[field.name] = _shaped(packed.sums, old)
            packed = packed._replace(sums=packed.sums[old.numel() :])
        else:
            values[field.name] = _shaped(packed.maxima, old)
            packed = packed._replace(maxima=packed.maxima[old.numel() :])
    return packed, type(like)(**values)


def _shaped(flat: Tensor, old: Tensor) -> Tensor:
    """The first elements of ``flat`` in the shape and type of ``old``; on the device of ``flat``."""
    if flat.numel() < old.numel():
        raise ValueError(f"packed state is too short: expected {old.numel()} more numbers, got {flat.numel()}")
    return flat[: old.numel()].reshape(old.shape).to(old.dtype)
