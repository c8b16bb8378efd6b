"""Reports of the stability guard, made by hand."""

from logitwatch.callbacks.stability_window import Window
from logitwatch.states.look_series import LookValues

FLOAT32 = {"largest": 3.4028234663852886e38, "spacing": 2.0**-23}
FLOAT16 = {"largest": 65504.0, "spacing": 2.0**-10}
BFLOAT16 = {"largest": float(2**128 - 2**120), "spacing": 2.0**-7}


def look(**values):
    return LookValues(
        **{"absmax": 5.0, "log_partition": 4.0, "entropy": 1.0, "nll": 1.0, "overconfidence": 0.0, **values}
    )


def window(*, looks=None, mean=None, **values):
    """A healthy report of 1000 rows of ten classes, but for what is said."""
    mean = look(**(mean or {}))
    return Window(
        **{
            "stage": "train",
            "loader": 0,
            "step": 100,
            "rows": 1000,
            "counted": 1000,
            "nonfinite": 0,
            "first_nonfinite": None,
            "near_tied": 0,
            "absmax": 5.0,
            **FLOAT32,
            "num_classes": 10,
            "mean": mean,
            "looks": [mean] if looks is None else looks,
            "predicted": [100] * 10,
            "labelled": [100] * 10,
            **values,
        }
    )
