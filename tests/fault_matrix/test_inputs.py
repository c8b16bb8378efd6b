"""Cases 1 to 28 of the fault matrix: whatever a step hands over, every row is accounted for and the run is the same."""

import gc
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last
from helpers.models import loader, model, namespace, trainer
from torch.utils._python_dispatch import TorchDispatchMode

import logitwatch
from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.capture.observation import Observation
from logitwatch.states.protocol import pack

L = namespace("pytorch_lightning")
NAN, INF = math.nan, math.inf
ROWS = 16


def logits(rows=ROWS, classes=10):
    return 4 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))


def summary(z, y=None, **options):
    """What a look at these logits is worth, every row of it."""
    seen = Observation.of(z, torch.arange(len(z)) % 10 if y is None else y, **options)
    return LogitMonitor().summary(seen, seen, None, histograms=True)


def accounted(state):
    parts = (state.counted, state.nonfinite, state.ignored, state.bad_target)
    assert int(state.seen) == sum(map(int, parts))
    return {name: int(getattr(state, name)) for name in ("seen", "nonfinite", "ignored", "bad_target")}


def spoiled_run(spoil, folder=None, **monitor_options):
    """A training in which the logits handed over are spoiled; asserts that it is the run it would have been."""

    def step(module, batch, stage):
        z = module.net(batch[0])
        if module.watched:
            logitwatch.observe(*spoil(z.detach().clone(), batch[1]))
        return F.cross_entropy(z, batch[1])

    monitors = logitwatch.watch(every_n_steps=1, **monitor_options)
    runs = []
    for watched in (True, False):
        subject = model(L, step, watched=watched)
        t = trainer(L, monitors if watched else [], folder=folder if watched else None, log_every_n_steps=1000)
        t.fit(subject, loader(64))
        assert t.state.finished
        runs.append(list(subject.parameters()))
    assert all(map(torch.equal, *runs))
    return monitors[0].faults


def put(index, value):
    z = logits()
    z[index] = value
    return z


def test_case_01_a_row_with_nan_is_counted_as_nonfinite_and_is_in_no_number():
    state = summary(put((0, 0), NAN))
    assert accounted(state) == {"seen": 16, "nonfinite": 1, "ignored": 0, "bad_target": 0}
    clean = summary(logits()[1:], torch.arange(1, 16) % 10)
    assert state.means() == pytest.approx(clean.means(), rel=1e-12)


def test_case_02_a_row_with_plus_infinity_is_counted_as_nonfinite():
    state = summary(put((3, 1), INF))
    assert accounted(state)["nonfinite"] == 1
    assert state.extrema.maximum < INF


def test_case_03_minus_infinity_is_an_absent_class_and_the_row_counts():
    state = summary(put((slice(None), 0), -INF), torch.ones(ROWS, dtype=torch.long))
    assert accounted(state)["nonfinite"] == 0
    assert state.means()["entropy"] == pytest.approx(
        summary(logits()[:, 1:], torch.zeros(16).long()).means()["entropy"]
    )


def test_case_04_a_row_without_any_class_is_counted_as_nonfinite_and_spoils_nothing():
    state = summary(put(5, -INF))
    assert accounted(state)["nonfinite"] == 1
    assert all(math.isfinite(value) for value in state.means().values())


def test_case_05_two_plus_infinities_are_as_one():
    assert accounted(summary(put((2, slice(0, 2)), INF)))["nonfinite"] == 1


def test_case_06_no_rows_change_nothing():
    state = summary(logits(0))
    assert accounted(state)["seen"] == 0
    assert spoiled_run(lambda z, y: (z[:0], y[:0])) == 0


def test_case_07_no_classes_are_a_fault_and_no_exception(tmp_path):
    assert spoiled_run(lambda z, y: (z[:, :0], y), tmp_path) == 3
    assert last(tmp_path)["logitwatch/faults"] == 3


def test_case_08_one_class_has_no_entropy_and_no_margin():
    state = summary(logits(classes=1), torch.zeros(ROWS, dtype=torch.long))
    assert state.means()["entropy"] == 0
    assert math.isnan(state.means()["margin"])


def test_case_09_a_number_is_no_logits_and_the_fault_says_so(caplog):
    assert spoiled_run(lambda z, y: (z[0, 0], y[0])) == 3
    assert "logits () and targets () do not belong together" in caplog.text


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_case_10_whole_numbers_are_lifted(dtype):
    z = logits().abs().to(dtype)
    assert summary(z).means() == summary(z.float()).means()


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_case_11_truth_values_and_complex_numbers_are_a_typed_fault(dtype, caplog):
    assert spoiled_run(lambda z, y: (z.to(dtype), y)) == 3
    assert f"logits must be a dense tensor of real numbers, got {dtype}" in caplog.text


@pytest.mark.parametrize("kind", ["sparse", "csr", "quantised"])
def test_case_12_sparse_and_quantised_logits_are_a_typed_fault(kind, recwarn):
    z = logits()
    match kind:
        case "sparse":
            z = z.to_sparse()
        case "csr":
            z = z.to_sparse_csr()
        case "quantised":
            z = torch.quantize_per_tensor(z, 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match="must be a dense tensor of real numbers"):
        Observation.of(z, torch.arange(ROWS) % 10)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_case_13_eight_bit_floats_are_lifted(dtype):
    z = logits().to(dtype)
    lifted = summary(z.float())
    assert summary(z).means() == lifted.means()
    assert summary(z).extrema == lifted.extrema or summary(z).extrema.maximum == lifted.extrema.maximum


def test_case_14_a_wide_row_in_bfloat16_has_the_log_partition_of_float64():
    z = (3 * torch.randn(2, 128_256, generator=torch.Generator().manual_seed(0))).bfloat16()
    found = Observation.of(z).log_partition
    torch.testing.assert_close(found.double(), z.double().logsumexp(-1), rtol=0, atol=1e-5)


def test_case_15_uniform_half_precision_logits_have_the_entropy_of_their_number():
    z = torch.zeros(1, 262_144, dtype=torch.float16)
    assert Observation.of(z).entropy.item() == pytest.approx(math.log(262_144), abs=1e-4)


@pytest.mark.parametrize(
    "strided",
    [lambda z: z.t().contiguous().t(), lambda z: torch.stack((z, z), -1)[..., 0], lambda z: z[:1].expand(16, 10)],
    ids=["transposed", "strided", "expanded"],
)
def test_case_16_however_it_lies_in_memory_every_bit_is_the_same(strided):
    z = strided(logits())
    assert not z.is_contiguous()
    one, other = summary(z), summary(z.contiguous())
    assert one.means() == other.means()
    assert torch.equal(pack(one).sums, pack(other).sums)


def test_case_17_no_graph_is_kept():
    z = logits().requires_grad_().exp()  # whose output its graph keeps
    alive = weakref.ref(z)
    seen = Observation.of(z, torch.arange(ROWS) % 10)
    state = LogitMonitor().summary(seen, seen, None, histograms=True)
    assert not any(part.requires_grad for part in pack(state))
    del z
    gc.collect()
    assert alive() is None
    assert int(seen.num_rows) == ROWS


def test_case_18_the_logits_are_not_written_to():
    z = put((0, 0), -INF)
    before, version = z.clone(), z._version
    summary(z)
    assert z._version == version
    assert torch.equal(z, before)


def test_case_19_inference_mode_before_and_after_a_fit(tmp_path):
    monitors = logitwatch.watch(every_n_steps=1)
    subject, t = model(L), trainer(L, monitors, folder=tmp_path)
    for run in (t.validate, t.fit, t.test, t.validate):
        run(subject, loader(32))
        assert monitors[0].faults == 0
    t.predict(subject, loader(32))
    assert monitors[0].faults == 0
    with torch.inference_mode():
        inside = summary(logits())
    assert int(summary(logits()).merge(inside).seen) == 2 * ROWS


def test_case_20_a_tensor_without_values_harms_nothing():
    assert spoiled_run(lambda z, y: (z.to("meta"), y.to("meta"))) > 0


def test_case_22_nested_logits_are_a_fault_and_no_exception(recwarn):
    nested = torch.nested.nested_tensor([torch.zeros(3, 10), torch.zeros(5, 10)], layout=torch.jagged)
    with pytest.raises((TypeError, ValueError), match="logits"):
        Observation.of(nested)


def test_case_23_sequences_images_and_yes_or_no_logits():
    z, y = logits(12), torch.arange(12) % 10
    rows = summary(z, y)
    sequence = summary(z.view(3, 4, 10), y.view(3, 4))
    image = summary(z.view(3, 2, 2, 10).permute(0, 3, 1, 2), y.view(3, 2, 2), class_dim=1)
    assert sequence.means() == pytest.approx(rows.means(), rel=1e-12)
    assert image.means() == pytest.approx(rows.means(), rel=1e-12)
    binary = Observation.of(z[:, 0], (y > 4).float(), binary=True)
    assert binary.num_rows == 12
    assert binary.confidence.tolist() == pytest.approx(z[:, 0].abs().sigmoid().tolist(), rel=1e-6)


def test_case_24_numbers_at_both_ends_of_the_range():
    state = summary(torch.tensor([[3e38, -3e38], [1e-45, 0.0]]), torch.tensor([0, 1]))
    assert accounted(state)["nonfinite"] == 0
    assert state.extrema.maximum.item() == pytest.approx(3e38)
    means = state.means()
    assert all(math.isfinite(means[name]) for name in ("entropy", "confidence", "nll", "log_partition", "accuracy"))


def test_case_25_nothing_the_size_of_wide_logits_is_allocated():
    largest = [0]

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            fresh = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(r)]
            owned = [r for r in fresh if r.untyped_storage().data_ptr() != z.untyped_storage().data_ptr()]
            largest[0] = max([largest[0], *(r.numel() * r.element_size() for r in owned)])
            return result

    z = torch.zeros(64, 262_144, dtype=torch.bfloat16)
    seen = Observation.of(z, torch.zeros(64, dtype=torch.long))
    with Largest():
        _ = seen.statistics, seen.extremes
    # 32 MiB of logits; a chunk of float32 is one row, 1 MiB, and a few of its kind are alive at once.
    assert 0 < largest[0] <= 2 * 2**20


def test_case_26_targets_of_every_kind():
    z = logits()
    assert accounted(summary(z, torch.full((ROWS,), -100)))["ignored"] == ROWS
    y = torch.arange(ROWS) % 10
    y[:3] = torch.tensor([10, -1, 10**9])
    state = summary(z, y)
    assert accounted(state)["bad_target"] == 3
    clean = summary(z[3:], y[3:])
    assert state.means() == pytest.approx(clean.means(), rel=1e-12)
    hard = summary(z, torch.zeros(ROWS, dtype=torch.long))
    soft = summary(z, F.one_hot(torch.zeros(ROWS, dtype=torch.long), 10).float())
    assert soft.means()["nll"] == pytest.approx(hard.means()["nll"], rel=1e-6)
    with pytest.raises(ValueError, match=r"logits \(16, 10\) and targets \(15,\) do not belong together"):
        Observation.of(z, torch.zeros(15, dtype=torch.long))


def test_case_27_another_number_of_classes_goes_into_the_same_state():
    few, many = summary(logits(classes=10)), summary(logits(classes=50))
    both = few.merge(many)
    assert int(both.seen) == 2 * ROWS
    assert both.extrema.maximum == torch.maximum(few.extrema.maximum, many.extrema.maximum)
    assert spoiled_run(lambda z, y: (torch.cat((z, z), -1) if y[0] % 2 else z, y)) == 0


def test_case_28_logits_between_zero_and_one_are_logits():
    z = logits().sigmoid()
    z[:, 0] = 1.0
    seen = Observation.of(z, torch.zeros(ROWS, dtype=torch.long))
    sketch = CalibrationMonitor().summary(seen, seen, None, histograms=True)
    assert sketch.mean_confidence().item() == pytest.approx(z.double().softmax(-1).amax(-1).mean().item(), rel=1e-6)
