"""Event files of TensorBoard read back with tensorboard's own reader, everything kept."""

import warnings
from pathlib import Path

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.util import tensor_util


def accumulated(folder):
    everything = dict.fromkeys(event_accumulator.DEFAULT_SIZE_GUIDANCE, 0)
    accumulator = event_accumulator.EventAccumulator(str(folder), size_guidance=everything)
    accumulator.Reload()
    return accumulator


def events(folder):
    """Every event in the folder's files as it was written."""
    return [
        event
        for path in sorted(Path(folder).rglob("events.out.tfevents.*"))
        for event in LegacyEventFileLoader(str(path)).Load()
    ]


def array(tensor_event):
    return tensor_util.make_ndarray(tensor_event.tensor_proto)


def text(accumulator, tag):
    return [array(event)[0].decode() for event in accumulator.Tensors(tag)]


def served_curve(tensor_event):
    """What the PR Curves page is sent for one event."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the html5lib inside tensorboard, as it is imported
        from tensorboard.plugins.pr_curve.pr_curves_plugin import PrCurvesPlugin
    return PrCurvesPlugin._make_pr_entry(None, tensor_event.step, tensor_event.wall_time, array(tensor_event))
