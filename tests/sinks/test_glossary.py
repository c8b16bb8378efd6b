import pytest
import torch
import torch.nn.functional as F

from logitwatch.callbacks.attention_monitor import AttentionMonitor
from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.gradient_monitor import GradientMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.stability_guard import StabilityGuard
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.attention import AttentionEar
from logitwatch.capture.heads import LinearCall
from logitwatch.capture.look import Look
from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import QUANTITIES, describe
from logitwatch.sinks.readings import Alert, Scalars

# Wrong one time in four.
SEEN = Observation.of(
    torch.eye(4).repeat(50, 1).unsqueeze(0), torch.tensor([0, 1, 2, 0]).repeat(50).unsqueeze(0), stage="val"
)
# Made by a layer that hands on what it is given.
SEEN.head = LinearCall(torch.eye(4), None, SEEN.logits, SEEN.logits, SEEN.logits)
# The same as the queries and keys of a head.
LOOK = Look("val")
LOOK.attention = AttentionEar({}, 32, torch.Generator)
LOOK.attention.hear(F.scaled_dot_product_attention, [SEEN.logits[None, None]] * 3, {})


def tags_of(monitor) -> set[str]:
    terms = {"z_loss": torch.tensor(1.0), "soft_cap_saturation": torch.tensor(0.5)}
    state = monitor.beside(LOOK) or monitor.summary(SEEN, SEEN, terms, histograms=True)
    monitor.readings(state, Tags("train"), 0)
    readings = monitor.readings(state, Tags("val"), 0)
    return {
        tag for r in readings if not isinstance(r, Alert) for tag in (r.values if isinstance(r, Scalars) else [r.tag])
    }


MONITORS = [AttentionMonitor, CalibrationMonitor, GradientMonitor, LogitMonitor, StabilityGuard]


@pytest.mark.parametrize("monitor", MONITORS, ids=lambda monitor: monitor.__name__)
def test_everything_a_monitor_logs_has_a_unit_and_a_meaning(monitor):
    assert {tag for tag in tags_of(monitor()) if not describe(tag).meaning} == set()


def test_everything_explained_is_logged_by_somebody():
    logged = {f"{t.split('/')[0]}/{t.split('/')[2]}" for m in MONITORS for t in tags_of(m())}
    # A monitor that is in no run knows no loss; tests/callbacks/test_gradient_monitor.py tells of its terms.
    # Of the others tests of `DropoutProbe` and `Recalibrator` and the session's tests tell.
    itself = {name for name in QUANTITIES if name.startswith(("dropout/", "logitwatch/", "recalibration/"))}
    itself |= {"stability/skipped_steps"}  # of training, where steps may be skipped
    assert set(QUANTITIES) - itself - logged == {"losses/term", "gradients/term_norm", "gradients/term_cosine"}


def test_a_number_of_a_loss_is_told_from_its_terms():
    assert describe("losses/val/soft_cap_saturation/dataloader_idx_1").unit == "fraction"
    assert describe("losses/val/z_loss") == QUANTITIES["losses/term"]


def test_the_loader_in_a_tag_does_not_hide_its_meaning():
    assert describe("calibration/val/ece/dataloader_idx_1") == QUANTITIES["calibration/ece"]
