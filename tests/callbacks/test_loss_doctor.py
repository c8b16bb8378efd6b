import gc
import weakref

import torch
import torch.nn.functional as F

from logitwatch.callbacks import loss_doctor
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.loss_doctor import MOST_CASES, LossDoctor
from logitwatch.capture.criteria import read_function
from logitwatch.capture.look import Look
from logitwatch.capture.observation import Observation
from logitwatch.functional.sharded_rows import SplitRows

GENERATOR = torch.Generator().manual_seed(0)
Z, Y = torch.randn(16, 5, generator=GENERATOR), torch.randint(5, (16,), generator=GENERATOR)


def doctor(**options):
    return LossDoctor(Faults("raise"), **options)


def seen(logits, targets=Y, source="cross_entropy"):
    call = read_function(F.cross_entropy, (logits, targets), {}, F.cross_entropy(logits, targets))
    return call._replace(source=source), Observation.of(logits, targets, class_dim=1)


def look(stage="train", step=0):
    made = Look(stage)
    made.step = step
    return made


def examined(subject, *calls, times=3, stage="train"):
    for step in range(times):
        subject.examine(look(stage, step), calls)
    return [alert.rule for alert in subject.alerts(stage)]


def test_what_is_certain_is_said_once_and_of_one_stage_alone():
    subject = doctor()
    ill = seen(Z.softmax(1))
    assert examined(subject, ill, times=2) == []
    assert examined(subject, ill, times=1) == ["loss_double_softmax"]
    assert subject.alerts("val") == []
    assert examined(subject, ill) == []
    assert examined(subject, ill, stage="val") == []


def test_a_stage_of_its_own_is_judged_by_its_own_looks():
    subject = doctor()
    assert examined(subject, seen(Z)) == []
    assert examined(subject, seen(Z.softmax(1)), stage="val") == ["loss_double_softmax"]
    assert examined(subject, seen(Z.log_softmax(1)), stage="predict") == []


def test_two_calls_of_one_source_are_two_cases():
    assert examined(doctor(), seen(Z), seen(Z.softmax(1))) == ["loss_double_softmax"]
    assert examined(doctor(), seen(Z), seen(Z)) == []


def test_of_two_ill_sources_the_first_is_named():
    subject = doctor()
    for step in range(3):
        subject.examine(look(step=step), [seen(Z.softmax(1), source="one"), seen(Z.softmax(1), source="two")])
    (alert,) = subject.alerts("train")
    assert "`one`" in alert.text
    assert alert.step == 2


def test_what_was_said_before_a_resume_is_not_said_again():
    told = {}
    subject = doctor(told=told)
    told["loss_double_softmax"] = 1  # comes with the checkpoint, after the doctor was made
    assert examined(subject, seen(Z.softmax(1))) == []


def test_looks_get_rarer(monkeypatch):
    at = []
    monkeypatch.setattr(loss_doctor, "symptoms", lambda call, observation, *, shadow: at.append(observation.step))
    subject = doctor()
    for step in range(300):
        call, observation = seen(Z)
        observation.step = step
        subject.examine(look(step=step), [(call, observation)])
    assert at == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_the_shadow_is_made_at_the_first_look_of_a_case(monkeypatch):
    asked = []
    real = loss_doctor.symptoms

    def asking(call, observation, *, shadow):
        asked.append(shadow)
        return real(call, observation, shadow=shadow)

    monkeypatch.setattr(loss_doctor, "symptoms", asking)
    assert examined(doctor(), seen(Z.bfloat16())) == ["loss_half_precision"]
    assert asked == [True, False, False]


def test_numbers_are_read_once_for_each_report_with_something_new(monkeypatch):
    reads = []
    real = loss_doctor._evidence
    monkeypatch.setattr(loss_doctor, "_evidence", lambda *args: reads.append(1) or real(*args))
    subject = doctor()
    examined(subject, seen(Z))
    subject.alerts("train")
    subject.examine(look(step=3), [seen(Z)])  # the fourth look is not looked into
    subject.alerts("train")
    assert len(reads) == 1


def test_steps_with_very_many_criteria_are_looked_into_no_further():
    subject = doctor()
    examined(subject, *(seen(Z, source=f"loss {i}") for i in range(3 * MOST_CASES)))
    assert len(subject._cases) == MOST_CASES


def test_rows_split_over_ranks_are_left_alone():
    call, _ = seen(Z.softmax(1))
    split = SplitRows(*[None] * 6)
    assert examined(doctor(), (call, split)) == []


def test_accumulation_is_asked_for_when_it_is_judged():
    batches = 1
    subject = doctor(accumulation=lambda: batches)
    for step in range(129):
        targets = torch.where(torch.arange(16) < 2 + step.bit_length(), Y, -100)
        subject.examine(look(step=step), [seen(Z, targets)])
    assert subject.alerts("train") == []
    batches = 2
    subject.examine(look(step=999), [])
    subject._fresh["train"] = 999
    assert [alert.rule for alert in subject.alerts("train")] == ["loss_unequal_batches"]


def test_a_fault_is_isolated_counted_and_after_three_the_doctor_rests(monkeypatch, caplog):
    def fails(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(loss_doctor, "symptoms", fails)
    faults = Faults()
    subject = LossDoctor(faults)
    assert examined(subject, seen(Z), times=40) == []
    assert faults.count == 3
    assert faults.armed("capture")


def test_nothing_is_kept_of_the_logits():
    subject = doctor()
    logits = Z.softmax(1)
    reference = weakref.ref(logits)
    subject.examine(look(), [seen(logits)])
    del logits
    gc.collect()
    assert reference() is None
    size = sum(t.numel() for case in subject._cases.values() for t in (*case.sums.values(), *case.highs.values()))
    examined(subject, seen(Z), times=1000)
    assert size == sum(
        t.numel() for case in subject._cases.values() for t in (*case.sums.values(), *case.highs.values())
    )


def test_no_random_number_is_drawn():
    generator = torch.Generator().manual_seed(3)
    call, observation = seen(Z.repeat(50, 1), Y.repeat(50))
    observation._generator = generator
    before = generator.get_state(), torch.get_rng_state()
    examined(doctor(), (call, observation))
    assert torch.equal(generator.get_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
