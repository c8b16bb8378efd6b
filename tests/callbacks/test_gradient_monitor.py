import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import joined, last
from helpers.models import NAMESPACES, loader, model, namespace, trainer

from logitwatch.callbacks.gradient_monitor import GradientMonitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import QUANTITIES
from logitwatch.sinks.readings import Histogram, Scalars
from logitwatch.testing import assert_harmless, check_monitor
from logitwatch.testing.specimen import train

CPU = torch.device("cpu")


def batch(rows=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def scalars(monitor, observation, *, rows=None, stage="val"):
    sample = observation if rows is None else observation.sample(rows)
    state = monitor.summary(observation, sample, None, histograms=False)
    values = [r.values for r in monitor.readings(state, Tags(stage), 7) if isinstance(r, Scalars)]
    return {tag.removeprefix(f"gradients/{stage}/"): value for part in values for tag, value in part.items()}


def norms(z, y):
    """Norm of the gradient of each row by autograd, float64 ``[rows]``."""
    leaf = z.double().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(leaf, y, reduction="sum"), leaf)
    return gradient.norm(dim=-1)


def agrees(said, z, y, *, bound=0.01):
    """What is said of the rows is what autograd says of them."""
    expected = norms(z, y)
    # Each norm above the bound is known to 0.1 %, see `RowStatistics.gradient_norm`.
    assert said["norm"] == pytest.approx(expected.mean().item(), rel=1e-3)
    assert said["vanishing"] == pytest.approx((expected < bound).double().mean().item(), abs=1e-12)
    # A tenth of the rows may end amid a row; 1/16 is what the cells of a histogram are good to.
    share = (0.1 * len(expected) - torch.arange(len(expected))).clamp(0, 1)
    hardest = (share * expected.sort(descending=True).values).sum() / expected.sum()
    assert said["hardest_tenth"] == pytest.approx(hardest.item(), rel=1 / 16)


def test_it_is_a_good_monitor():
    check_monitor(GradientMonitor)


def test_it_logs_what_its_docstring_lists():
    monitor, seen = GradientMonitor(), Observation.of(*batch())
    readings = monitor.readings(monitor.summary(seen, seen, None, histograms=False), Tags("val"), 7)
    tags = [tag for r in readings for tag in (r.values if isinstance(r, Scalars) else [r.tag])]
    assert set(tags) == {f"gradients/val/{n.split('/')[1]}" for n in QUANTITIES if n.startswith("gradients/")}
    for tag in tags:
        assert f"``{tag.split('/')[-1]}``" in inspect.getdoc(GradientMonitor), tag


@pytest.mark.parametrize("bound", [0.01, 0.5])
def test_numbers_are_those_of_autograd(bound):
    z, y = batch()
    agrees(scalars(GradientMonitor(bound=bound), Observation.of(z, y)), z, y, bound=bound)


def test_rows_that_do_not_count_are_left_out():
    z, y = batch()
    good = torch.ones(200, dtype=torch.bool)
    good[[3, 4, 5, 6]] = False
    y[3], z[4, 0], z[5, 1], y[6] = -100, math.nan, math.inf, 5
    agrees(scalars(GradientMonitor(), Observation.of(z, y)), z[good], y[good])


def test_the_gradient_on_a_yes_or_no_logit_is_of_that_logit_alone():
    z, y = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 1.0, 0.0])
    leaf = z.double().requires_grad_()
    F.binary_cross_entropy_with_logits(leaf, y.double(), reduction="sum").backward()
    said = scalars(GradientMonitor(), Observation.of(z, y, binary=True))
    assert said["norm"] == pytest.approx(leaf.grad.abs().mean().item(), rel=1e-5)


def test_soft_targets_have_their_gradient():
    z, _ = batch()
    y = batch(seed=1)[0].softmax(-1)
    said = scalars(GradientMonitor(), Observation.of(z, y))
    assert said["norm"] == pytest.approx(norms(z, y.double()).mean().item(), rel=1e-5)


def test_without_targets_there_is_no_gradient_and_the_rows_are_seen():
    monitor, seen = GradientMonitor(), Observation.of(batch()[0])
    assert scalars(monitor, seen) == {}
    assert monitor.rows_in(monitor.summary(seen, seen, None, histograms=False)) == 200


def test_it_counts_the_sample_and_no_more():
    monitor, seen = GradientMonitor(), Observation.of(*batch())
    state = monitor.summary(seen, seen.sample(30), None, histograms=False)
    assert monitor.rows_in(state) == 30
    (histogram,) = [r for r in monitor.readings(state, Tags("train"), 1) if isinstance(r, Histogram)]
    assert sum(histogram.counts) == 30


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(ValueError, match="bound must be > 0, got"):
        GradientMonitor(bound=bound)


@pytest.mark.parametrize("lightning", [namespace(name) for name in NAMESPACES], ids=NAMESPACES)
def test_a_run_is_told_by_autograd_again(lightning, tmp_path):
    subject = model(lightning)
    monitor = GradientMonitor(every_n_steps=1, rows=10**9, on_fault="raise")
    t = trainer(lightning, [monitor], folder=tmp_path, log_every_n_steps=1000)
    t.fit(subject, loader(64), loader(48, start=300))
    reported = last(tmp_path)
    for stage in ("train", "val"):
        said = {tag.split("/")[-1]: v for tag, v in reported.items() if tag.startswith(f"gradients/{stage}/")}
        agrees(said, *joined(subject.recorded[stage]))
    assert t.callback_metrics["gradients/val/norm"].item() == pytest.approx(reported["gradients/val/norm"], rel=1e-6)


def test_a_watched_run_is_the_same_run():
    assert_harmless(lambda: train([GradientMonitor(every_n_steps=1, on_fault="raise")]), lambda: train([]))
