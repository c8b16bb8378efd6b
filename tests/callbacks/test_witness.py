import gc
import logging
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.loss_doctor import LossDoctor
from logitwatch.callbacks.witness import Witness
from logitwatch.capture.criteria import Call, read_function
from logitwatch.capture.look import Level, Look
from logitwatch.capture.tap import SILENT_LOOKS, Tap

Z, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])


@pytest.fixture
def tap():
    module = nn.ModuleDict({"criterion": nn.CrossEntropyLoss()})
    tap = Tap.of(module)
    tap.attach(None)
    yield tap
    tap.detach()
    del module


def look(*calls, stage="train", result=None, step=7):
    seen = Look(stage)
    seen.step, seen.result = step, result
    for call in calls:
        seen.add(Level.FUNCTION, call)
    return seen


def call(logits=Z, *, scale=1.0):
    return read_function(F.cross_entropy, (logits, Y), {}, F.cross_entropy(scale * logits, Y))


def said(witness, tap, seen):
    pairs = [(call, tap.observation(seen, call)) for call in seen.calls()]
    witness.testify(seen, pairs, {call.source for call, _ in pairs[:1]})
    return witness.texts(seen.stage)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_first_capture_is_proven_in_words_and_no_later_one(tap, caplog):
    witness = Witness(tap)
    (text,) = said(witness, tap, look(call(), result=F.cross_entropy(Z, Y)))
    assert (text.tag, text.step) == ("logitwatch/capture/train", 7)
    loss = f"{F.cross_entropy(Z, Y).item():.6g}"
    for part in (
        "`cross_entropy` in train",
        "(4, 3) float32",
        "4 rows",
        f"recomputed from them {loss}",
        "100.0% of the loss",
    ):
        assert part in text.markdown
    assert said(witness, tap, look(call())) == []
    assert len(said(witness, tap, look(call(), stage="val"))) == 1
    assert warnings(caplog) == []


@pytest.mark.parametrize("result", [None, {"loss": None}, {}, torch.zeros(2), torch.tensor(0.0), "loss"], ids=str)
def test_without_a_loss_to_compare_with_no_share_is_claimed(tap, result):
    (text,) = said(Witness(tap), tap, look(call(), result=result))
    assert "of the loss of the step" not in text.markdown


def test_the_share_is_of_the_loss_of_a_dictionary_too(tap):
    (text,) = said(Witness(tap), tap, look(call(), result={"loss": 2 * F.cross_entropy(Z, Y)}))
    assert "50.0% of the loss" in text.markdown


def test_a_capture_without_a_criterion_is_said_without_a_proof(tap):
    (text,) = said(Witness(tap), tap, look(Call("observe", Z, Y)))
    assert text.markdown == "Watching `observe` in train: logits (4, 3) float32, 4 rows."


def test_a_proof_that_fails_is_a_warning_once(tap, caplog):
    witness = Witness(tap)
    (text,) = said(witness, tap, look(call(scale=0.1)))
    said(witness, tap, look(call(scale=0.1)))
    (warning,) = warnings(caplog)
    assert "They disagree" in warning
    assert "recomputed" in text.markdown


def test_nothing_captured_is_a_warning_after_a_few_looks_and_only_one(tap, caplog):
    witness = Witness(tap)
    for index in range(10):
        assert said(witness, tap, look(result={"loss": 1.0})) == []
        assert len(warnings(caplog)) == (index + 1 >= SILENT_LOOKS)
    (warning,) = warnings(caplog)
    for part in (
        "training_step",
        "(criterion)",
        "F.nll_loss",
        "a dict with ['loss']",
        "logitwatch.observe(logits, targets)",
    ):
        assert part in warning


@pytest.mark.parametrize(
    ("stage", "step"), [("train", "training_step"), ("val", "validation_step"), ("test", "test_step")]
)
def test_the_warning_names_the_step_of_the_stage(tap, caplog, stage, step):
    witness = Witness(tap)
    for _ in range(SILENT_LOOKS):
        said(witness, tap, look(stage=stage))
    assert f"one line in {step}:" in warnings(caplog)[0]
    assert "NoneType" in warnings(caplog)[0]


def test_prediction_need_not_have_logits(tap, caplog):
    witness = Witness(tap)
    for _ in range(SILENT_LOOKS):
        said(witness, tap, look(stage="predict"))
    assert warnings(caplog) == []


def test_steps_without_logits_between_steps_with_them_are_no_alarm(tap, caplog):
    witness = Witness(tap)
    for _ in range(4 * SILENT_LOOKS):
        said(witness, tap, look(call()))
        said(witness, tap, look())
    assert warnings(caplog) == []


def test_a_source_that_falls_silent_is_named_once_with_the_remedy(tap, caplog):
    witness = Witness(tap)
    said(witness, tap, look(call()))
    for _ in range(4 * SILENT_LOOKS):
        said(witness, tap, look())
    (warning,) = warnings(caplog)
    assert "the function spoke before" in warning
    assert "logitwatch.observe(logits, targets)" in warning


def test_what_is_to_be_told_waits_for_the_report_without_the_logits(tap, caplog):
    witness, z = Witness(tap), Z.clone()
    kept = weakref.ref(z)
    seen = look(call(z, scale=0.1), result=F.cross_entropy(z, Y).requires_grad_())
    witness.testify(seen, [(c, tap.observation(seen, c)) for c in seen.calls()], {"cross_entropy"})
    del z, seen
    gc.collect()
    assert kept() is None
    assert warnings(caplog) == []
    assert witness.texts("val") == []
    assert len(witness.texts("train")) == len(warnings(caplog)) == 1
    assert witness.texts("train") == []


def test_the_loss_told_is_that_of_the_step_whatever_becomes_of_its_memory(tap):
    witness, loss = Witness(tap), F.cross_entropy(Z, Y)
    seen = look(call(), result=loss)
    witness.testify(seen, [(c, tap.observation(seen, c)) for c in seen.calls()], {"cross_entropy"})
    loss.zero_()
    (text,) = witness.texts("train")
    assert "100.0% of the loss" in text.markdown


def test_what_the_doctor_says_comes_with_what_the_witness_says(tap):
    witness = Witness(tap, LossDoctor(Faults("raise")))
    for step in range(3):
        seen = look(call(Z.softmax(1)), step=step)
        witness.testify(seen, [(one, tap.observation(seen, one)) for one in seen.calls()], {"cross_entropy"})
    text, alert = witness.readings("train")
    assert text.tag == "logitwatch/capture/train"
    assert alert.rule == "loss_double_softmax"
    assert witness.readings("train") == []


def test_without_a_doctor_there_is_nothing_but_the_texts(tap):
    witness = Witness(tap)
    seen = look(call())
    witness.testify(seen, [(one, tap.observation(seen, one)) for one in seen.calls()], {"cross_entropy"})
    assert len(witness.readings("train")) == 1
