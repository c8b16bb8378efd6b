"""Which scalars belong in one chart: the dashboard, made from the tags that were seen and free of any backend."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from logitwatch.sinks.glossary import describe

__all__ = ["Chart", "scalar_layout"]


class Chart(NamedTuple):
    """A chart with its title. A band is drawn from exactly three tags: value, lower, upper."""

    title: str
    tags: tuple[str, ...]
    band: bool = False


_RANGE = ("mean", "min", "max")
_LOGITS = (
    Chart("confidence beside accuracy (fraction)", ("confidence", "accuracy")),
    Chart("entropy and NLL (nats)", ("entropy", "nll")),
    Chart("overconfidence: NLL less entropy (nats)", ("overconfidence",)),
    Chart("log-partition (nats)", ("log_partition",)),
    Chart("norm and spread (logit)", ("norm", "std")),
    Chart("margin (nats)", ("margin",)),
    Chart("trouble: non-finite and saturated", ("nonfinite", "saturation")),
)
_CALIBRATION = (
    Chart("calibration error beside its null floor (fraction)", ("ece", "null_ece")),
    Chart("the same by other measures (fraction)", ("smooth_ece", "adaptive_ece", "ks_error")),
    Chart("confidence beside accuracy (fraction)", ("confidence", "accuracy")),
    Chart("over-confidence, and beyond that of training (fraction)", ("gap", "train_gap")),
    Chart("NLL, and what is left of it at the best temperature (nats)", ("nll", "refinement")),
    Chart("best temperature", ("temperature",)),
    Chart("error of the most confident (fraction)", ("aurc",)),
)
_GRADIENTS = (
    Chart("norm of the gradient on a row of logits", ("norm",)),
    Chart("rows that hardly teach, and what the hardest tenth holds (fraction)", ("vanishing", "hardest_tenth")),
    Chart("what one class holds of the gradient (fraction)", ("largest_class",)),
    Chart("scale of the logits (logit), and the norm of the features", ("logit_scale", "feature_norm")),
    Chart("norm of the gradient of each term of the loss", ("term_norm/*",)),
    Chart("cosine of each term of the loss with cross-entropy", ("term_cosine/*",)),
    Chart("norm of the head, and its alignment with the features", ("head_norm", "alignment")),
)
_DROPOUT = (
    Chart(
        "entropy of the mean prediction under dropout, and mean entropy (nats)",
        ("predictive_entropy", "expected_entropy"),
    ),
    Chart("mutual information of passes with dropout (nats)", ("mutual_information",)),
    Chart("variance of a logit under dropout (logit²)", ("logit_variance",)),
)
_ATTENTION = (
    Chart("largest attention logit, and a bound on it (logit)", ("max_logit", "max_logit_bound")),
    Chart("spread of attention: all heads, and the least (fraction)", ("entropy", "entropy_min")),
    Chart("trouble: non-finite rows, calls not read, heads left out", ("nonfinite", "unread", "left_out")),
)
_STABILITY = (
    Chart("largest magnitude (logit)", ("absmax",)),
    Chart(
        "range of the type that is used, and predictions decided by rounding (fraction)", ("range_used", "near_ties")
    ),
    Chart("share of the class predicted most (fraction)", ("top_class",)),
    Chart("steps left out", ("skipped_steps",)),
)
_RECALIBRATION = (
    Chart("NLL before and after recalibration (nats)", ("nll_before", "nll_after")),
    Chart("ECE before and after recalibration (fraction)", ("ece_before", "ece_after")),
    Chart("temperature", ("temperature",)),
)
_FAMILIES = (
    ("Logits", "logits", _LOGITS),
    ("Calibration", "calibration", _CALIBRATION),
    ("Stability", "stability", _STABILITY),
    ("Gradients", "gradients", _GRADIENTS),
    ("Dropout", "dropout", _DROPOUT),
    ("Attention", "attention", _ATTENTION),
    ("Recalibration", "recalibration", _RECALIBRATION),
)
_SUITE = (
    Chart("overhead and coverage (fraction)", ("overhead", "coverage")),
    Chart("faults and dropped readings (count)", ("faults", "dropped")),
)
_STAGES = ("train", "val", "test", "predict")


def scalar_layout(tags: Iterable[str]) -> dict[str, list[Chart]]:
    """Categories of charts that have something to show.

    Args:
        tags: Scalar tags seen so far, without a logger's prefix; those of no chart are passed over.

    Returns:
        ``{category: charts}``: ranges, logits, calibration, alerts, the suite itself, and training before validation.
        A chart names the tags it knows of; a band is left out until all three are there.

    Examples:
        >>> scalar_layout(["logits/val/entropy", "logits/val/nll", "loss"])
        {'Logits: val': [Chart(title='entropy and NLL (nats)', tags=('logits/val/entropy', 'logits/val/nll'), band=False)]}
        >>> scalar_layout([])
        {}
    """  # noqa: E501
    seen = {re.sub(r"/dataloader_idx_\d+$", "", tag) for tag in tags}
    # A category of its own: the page puts bands after the lines of their category, and the range is what to see first.
    layout = {"Range of the logits": [band for stage in _stages(seen, "logits") if (band := _band(stage, seen))]}
    for title, family, charts in _FAMILIES:
        for stage in _stages(seen, family):
            layout[f"{title}: {stage}"] = _present(charts, f"{family}/{stage}", seen)
    for stage in _stages(seen, "losses"):
        told = sorted(tag for tag in seen if tag.startswith(f"losses/{stage}/"))
        shares = tuple(tag for tag in told if describe(tag).unit == "fraction")
        terms = Chart("terms of the loss (nats)", tuple(tag for tag in told if tag not in shares))
        capped = Chart("logits that a soft cap has saturated (fraction)", shares)
        layout[f"Loss: {stage}"] = [chart for chart in (terms, capped) if chart.tags]
    rules = tuple(sorted(tag for tag in seen if tag.startswith("alerts/")))
    layout["Alerts"] = [Chart("alerts raised (count)", rules)] if rules else []
    layout["The suite itself"] = _present(_SUITE, "logitwatch", seen)
    return {category: charts for category, charts in layout.items() if charts}


def _stages(seen: set[str], family: str) -> list[str]:
    stages = {tag.split("/")[1] for tag in seen if tag.startswith(f"{family}/") and tag.count("/") > 1}
    return sorted(stages, key=lambda stage: (_STAGES.index(stage) if stage in _STAGES else len(_STAGES), stage))


def _band(stage: str, seen: set[str]) -> Chart | None:
    tags = tuple(f"logits/{stage}/{name}" for name in _RANGE)
    return Chart(f"{stage}: mean between min and max (logit)", tags, band=True) if seen.issuperset(tags) else None


def _present(charts: Iterable[Chart], root: str, seen: set[str]) -> list[Chart]:
    shown = [
        chart._replace(tags=tuple(t for name in chart.tags for t in _tags(f"{root}/{name}", seen))) for chart in charts
    ]
    return [chart for chart in shown if chart.tags]


def _tags(name: str, seen: set[str]) -> list[str]:
    """The tag of this name, if it was seen; all below it where it ends in a star."""
    if name.endswith("*"):
        return sorted(tag for tag in seen if tag.startswith(name[:-1]))
    return [name] if name in seen else []
