"""What any `Reporter` must keep to, monitor of logitwatch or of others; of another callback nothing is asked here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from logitwatch.callbacks.reporter import Reporter
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Alert, Reading, Scalars
from logitwatch.states.protocol import State
from logitwatch.testing._telling import told
from logitwatch.testing.specimen import CLASSES, Factory

__all__ = [
    "REPORTER_CHECKS",
    "a_state_is_as_large_whatever_it_has_seen",
    "a_summary_reads_no_value",
    "an_empty_state_can_be_read",
    "an_empty_state_is_the_identity_of_merge",
    "every_tag_has_a_unit_or_a_meaning",
    "merged_parts_are_the_whole",
    "readings_carry_the_step_and_the_tags_they_are_given",
    "tags_are_distinct",
]

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")
SPLITS = ((60,), (1, 59), (20, 0, 15, 25), (59, 1))


def an_empty_state_is_the_identity_of_merge(factory: Factory) -> None:
    """On either side."""
    for monitor in _reporters(factory):
        seen, nothing = _state(monitor), monitor.empty(CPU)
        for merged in (seen.merge(nothing), nothing.merge(seen)):
            _assert_equal(merged, seen, tolerance=0.0)


def merged_parts_are_the_whole(factory: Factory) -> None:
    """However the rows are split, and in whatever order: counts bit for bit, sums to 1e-12."""
    for monitor in _reporters(factory):
        whole = _state(monitor)
        for split in SPLITS:
            with told(f"split in {split}"):
                parts = _states(monitor, split)
                for order in (parts, parts[::-1]):
                    merged = reduce(lambda a, b: a.merge(b), order)
                    _assert_equal(merged, whole, tolerance=1e-12)  # of float64 sums in another order


def a_state_is_as_large_whatever_it_has_seen(factory: Factory) -> None:
    """So memory, checkpoints and reductions are of one size."""
    for monitor in _reporters(factory):
        seen, nothing = _state(monitor), _shapes(monitor.empty(CPU))
        for what, state in (("some rows", seen), ("them twice", seen.merge(seen))):
            assert _shapes(state) == nothing, f"empty it is {nothing}, with {what} {_shapes(state)}"


def a_summary_reads_no_value(factory: Factory) -> None:
    """On an accelerator it would wait for the device amid a step; here it is given tensors without values."""
    for monitor in _reporters(factory):
        meta = torch.device("meta")
        logits, targets = torch.empty(6, CLASSES, device=meta), torch.empty(6, dtype=torch.long, device=meta)
        for histograms in (True, False):
            seen = Observation.of(logits, targets)
            state = monitor.summary(seen, seen, None, histograms=histograms)
            if state is not None:
                monitor.empty(meta).merge(state)


def readings_carry_the_step_and_the_tags_they_are_given(factory: Factory) -> None:
    """``family/<stage>/<quantity>``, then the source and the data loader where there are any."""
    for monitor in _reporters(factory):
        for tags in (Tags("train"), Tags("val", loader=1), Tags("test", source="head"), Tags("val", 2, "head")):
            readings = monitor.readings(_state(monitor), tags, 7)
            steps = {reading.step for reading in readings}
            assert steps <= {7}, f"of step 7 readings are said to be of {sorted(steps - {7})}"
            end = tags("family", "quantity").partition("/quantity")[2]
            wrong = [tag for tag in _tags(readings) if f"/{tags.stage}/" not in tag or not _ends(tag, end)]
            assert not wrong, f"expected family/{tags.stage}/<quantity>{end}, got {', '.join(wrong)}"


def tags_are_distinct(factory: Factory) -> None:
    """Within one report."""
    for monitor in _reporters(factory):
        tags = _tags(monitor.readings(_state(monitor), Tags("val"), 7))
        twice = sorted({tag for tag in tags if tags.count(tag) > 1})
        assert not twice, f"said twice: {', '.join(twice)}"


def every_tag_has_a_unit_or_a_meaning(factory: Factory) -> None:
    """On the reading, or in `logitwatch.sinks.glossary.QUANTITIES`."""
    for monitor in _reporters(factory):
        unknown = [
            tag
            for reading in monitor.readings(_state(monitor), Tags("val"), 7)
            for tag in _tags([reading])
            if not (any(describe(tag)) or getattr(reading, "unit", None) or getattr(reading, "meaning", None))
        ]
        assert not unknown, f"nowhere described: {', '.join(unknown)}"


def an_empty_state_can_be_read(factory: Factory) -> None:
    """It has no rows, and whatever is said of it is said without an exception."""
    for monitor in _reporters(factory):
        state, tags = monitor.empty(CPU), Tags("val")
        assert monitor.rows_in(state) == 0, f"of no rows it counts {monitor.rows_in(state)}"
        monitor.readings(state, tags, 0)


def _reporters(factory: Factory) -> Iterator[Any]:
    """What the factory makes, if it is a `Reporter`."""
    monitor = factory()
    if isinstance(monitor, Reporter):
        yield monitor


def _rows() -> tuple[Tensor, Tensor]:
    """60 rows, among them ties, ignored ones, some with no number, and some whose target is no class."""
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(60, CLASSES, generator=generator)
    y = torch.randint(CLASSES, (60,), generator=generator)
    z[3, :2], z[7, 1], z[20] = 9.0, -INF, -INF
    z[30, 0], z[31, 4], z[32] = NAN, INF, NAN
    y[10:13], y[40], y[41] = -100, CLASSES, -1
    return z, y


def _states(monitor: Reporter, split: Sequence[int]) -> list[State]:
    z, y = _rows()
    states = []
    for logits, targets in zip(torch.split(z, list(split)), torch.split(y, list(split)), strict=True):
        seen = Observation.of(logits, targets)
        state = monitor.summary(seen, seen, None, histograms=True)
        states.append(monitor.empty(CPU) if state is None else state)
    return states


def _state(monitor: Reporter) -> State:
    return _states(monitor, SPLITS[0])[0]


def _leaves(state: Any, path: str = "") -> Iterator[tuple[str, str, Tensor]]:
    """Path, way of merging, and tensor of every field."""
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            yield path + field.name, field.metadata.get("reduce", "?"), value
        else:
            yield from _leaves(value, f"{path}{field.name}.")


def _shapes(state: Any) -> dict[str, str]:
    return {
        path: f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for path, _, tensor in _leaves(state)
    }


def _assert_equal(one: State, other: State, *, tolerance: float) -> None:
    """Sums of real numbers within a relative tolerance, all else exactly; NaN equals NaN."""
    for (path, way, a), (_, _, b) in zip(_leaves(one), _leaves(other), strict=True):
        near = tolerance if way == "sum" and a.is_floating_point() else 0.0
        same = torch.isclose(a, b, rtol=near, atol=0.0, equal_nan=True)
        gap = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
        assert bool(same.all()), f"{path}: {int((~same).sum())} of {a.numel()} differ, by up to {gap:.3g}"


def _tags(readings: Sequence[Reading]) -> list[str]:
    """Every tag in a report; an alert has a rule instead."""
    found: list[str] = []
    for reading in readings:
        if isinstance(reading, Scalars):
            found += reading.values
        elif not isinstance(reading, Alert):
            found.append(reading.tag)
    return found


def _ends(tag: str, end: str) -> bool:
    return tag.endswith(end) if end else "/dataloader_idx_" not in tag


REPORTER_CHECKS = (
    an_empty_state_is_the_identity_of_merge,
    merged_parts_are_the_whole,
    a_state_is_as_large_whatever_it_has_seen,
    a_summary_reads_no_value,
    readings_carry_the_step_and_the_tags_they_are_given,
    tags_are_distinct,
    every_tag_has_a_unit_or_a_meaning,
    an_empty_state_can_be_read,
)
