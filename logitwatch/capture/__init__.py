"""Sources of logits: the tap on a module, and the observations it yields."""

from logitwatch.capture.explicit import observe
from logitwatch.capture.observation import Observation
from logitwatch.capture.tap import Tap

__all__ = ["Observation", "Tap", "observe"]
