"""One reading of every kind, and a report of the size a training run makes."""

import math

from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Histogram, Reading, Scalars, Table, Text


def picture():
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(1, 1))
    canvas.add_subplot().plot([0, 1])
    return canvas


def histogram(tag="logits/val/histogram", *, step=7, buckets=4, **changes):
    fields = {
        "counts": [0, *range(1, buckets - 1), 0],
        "edges": [float(edge) for edge in range(buckets + 1)],
        "minimum": 1.25,
        "maximum": buckets - 1.25,
        "total": 5.5,
        "squares": 11.5,
        "nonfinite": 2,
        "unit": "logit",
        "meaning": "distribution of the logits",
    }
    return Histogram(tag=tag, step=step, **(fields | changes))


def reliability(tag="calibration/val/reliability", *, step=7, **changes):
    fields = {
        "x": [0.25, 0.5, 0.75, 1.0],
        "y": [0.2, math.nan, 0.7, 0.9],
        "weights": [10.0, 0.0, 30.0, 100.0],
        "reference": [0.25, 0.5, 0.75, 1.0],
        "x_label": "confidence",
        "y_label": "accuracy",
        "unit": "fraction",
        "meaning": "accuracy against confidence",
    }
    return Curve(tag=tag, step=step, **(fields | changes))


def every_kind(*, step=7, root="logits/val") -> list[Reading]:
    return [
        Scalars(values={f"{root}/entropy": 0.5, f"{root}/max": 12.0}, step=step),
        histogram(f"{root}/histogram", step=step),
        reliability(f"{root}/reliability", step=step),
        Heatmap(
            tag=f"{root}/heat",
            step=step,
            values=[[0.0, 1.0], [0.5, 0.25]],
            row_labels=["cat", "owl"],
            column_labels=["cat", "owl"],
            meaning="rows are targets",
        ),
        Table(tag=f"{root}/table", step=step, columns=["class", "ece"], rows=[["cat|dog", 0.5], ["owl", 0.25]]),
        Text(tag=f"{root}/text", step=step, markdown="**bold** word"),
        Alert(
            rule="saturation", step=step, level="critical", title="Logits tie", text="Add `ZLoss`.", values={"x": 1.0}
        ),
        Figure(tag=f"{root}/figure", step=step, factory=picture),
    ]


def training_report(*, step=50, scalars=25, histograms=4, buckets=30) -> list[Reading]:
    values = {f"logits/train/quantity_{index}": index / 7 + step for index in range(scalars)}
    shape = {"counts": list(range(1, buckets + 1)), "edges": [edge / 3 - 5 for edge in range(buckets + 1)]}
    return [
        Scalars(values=values, step=step),
        *(histogram(f"logits/train/histogram_{index}", step=step, **shape) for index in range(histograms)),
    ]
