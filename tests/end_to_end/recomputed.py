"""The quantities of the monitors again, in plain float64 torch and without any of the package, and the run's record."""

from pathlib import Path

import torch

from logitwatch.sinks.jsonl import read_jsonl


def records(folder):
    """Every line of the one ``logitwatch.jsonl`` below a folder."""
    (path,) = Path(folder).rglob("logitwatch.jsonl")
    return list(read_jsonl(path))


def scalars(folder):
    """``tag -> [(step, value)]`` of a run."""
    history = {}
    for record in records(folder):
        if record["kind"] == "scalar":
            history.setdefault(record["tag"], []).append((record["step"], record["value"]))
    return history


def last(folder):
    """``tag -> value`` as last reported."""
    return {tag: values[-1][1] for tag, values in scalars(folder).items()}


def texts(folder, tag):
    return [record["markdown"] for record in records(folder) if record["kind"] == "text" and record["tag"] == tag]


def joined(recorded, *, class_dim=-1):
    """Recorded calls as float64 rows ``[rows, classes]`` and targets ``[rows]`` or ``[rows, classes]``."""
    logits = [z.double().movedim(class_dim, -1) for z, _ in recorded]
    rows = torch.cat([z.reshape(-1, z.shape[-1]) for z in logits])
    if recorded[0][1] is None:
        return rows, None
    soft = recorded[0][1].is_floating_point()
    targets = [
        y.double().movedim(class_dim, -1).reshape(-1, rows.shape[-1]) if soft else y.reshape(-1) for _, y in recorded
    ]
    return rows, torch.cat(targets)


def expected_logits(z, y=None, *, ignore_index=-100):
    """What `LogitMonitor` should say of rows ``[n, classes]``, all of them finite."""
    valid = torch.ones(len(z), dtype=torch.bool) if y is None or y.ndim == 2 else y != ignore_index
    counted = z[valid]
    log_p = counted.log_softmax(-1)
    top = counted.topk(2, -1).values
    values = {
        "rows": len(z),
        "ignored": int((~valid).sum()),
        "nonfinite": 0,
        "bad_target": 0,
        "max": z.max(),
        "min": z.min(),
        "mean": counted.mean(),
        "std": counted.std(unbiased=False),
        "norm": counted.norm(dim=-1).mean(),
        "log_partition": counted.logsumexp(-1).mean(),
        "entropy": -(log_p.exp() * log_p).sum(-1).mean(),
        "confidence": log_p.exp().amax(-1).mean(),
        "margin": (top[:, 0] - top[:, 1]).mean(),
        "saturation": (top[:, 0] == top[:, 1]).double().mean(),
    }
    if y is not None:
        values |= _with_targets(log_p, y[valid])
        values["overconfidence"] = values["nll"] - values["entropy"]
    return {name: float(value) for name, value in values.items()}


def expected_calibration(z, y, *, num_bins=15):
    """What `CalibrationMonitor` should say of rows ``[n, classes]``; the bins by a loop over their edges."""
    p = z.softmax(-1)
    log_p = z.log_softmax(-1)
    confidence, prediction = p.max(-1)
    label = y if y.ndim == 1 else y.argmax(-1)
    correct = (prediction == label).double()
    q = torch.nn.functional.one_hot(label, z.shape[-1]).double() if y.ndim == 1 else y
    ece = 0.0
    for i in range(num_bins):
        low, high = i / num_bins, (i + 1) / num_bins
        inside = (confidence >= low) & ((confidence < high) | (i == num_bins - 1))
        ece += float((confidence[inside].sum() - correct[inside].sum()).abs()) / len(z)
    values = {"ece": ece, "brier_score": (p - q).square().sum(-1).mean(), "confidence": confidence.mean()}
    values |= _with_targets(log_p, y)
    values["gap"] = confidence.mean() - correct.mean()
    return {name: float(value) for name, value in values.items()}


def expected_stability(z, y):
    """What `StabilityGuard` should say of float32 rows ``[n, classes]`` with class indices."""
    top = z.topk(2).values
    spacing = 2.0 ** (top[:, 0].abs().log2().floor() - 23)
    absmax = z.abs().max()
    values = {
        "absmax": absmax,
        "range_used": absmax / torch.finfo(torch.float32).max,
        "near_ties": (top[:, 0] - top[:, 1] <= spacing).double().mean(),
        "top_class": z.argmax(1).bincount().max() / len(z),
    }
    return {name: float(value) for name, value in values.items()}


def as_pairs(z):
    """Yes-or-no logits of any shape as a choice between 0 and z, ``[elements, 2]``."""
    z = z.double().reshape(-1)
    return torch.stack((torch.zeros_like(z), z), -1)


def _with_targets(log_p, y):
    if y.ndim == 2:
        return {
            "nll": -(torch.where(y == 0, 0.0, y * log_p)).sum(-1).mean(),
            "accuracy": (log_p.argmax(-1) == y.argmax(-1)).double().mean(),
        }
    return {
        "nll": -log_p.gather(-1, y.unsqueeze(-1)).mean(),
        "accuracy": (log_p.argmax(-1) == y).double().mean(),
    }
