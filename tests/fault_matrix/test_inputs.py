"""Cases 1 to 6, 8, 10, 13 to 16, 23, 24, 27 and 28 of the fault matrix: whatever is handed over, each row is counted.

Law 2 holds in all of them: rows seen = rows counted + nonfinite + ignored + bad_target. Where the names or the
behaviour differ from the matrix: docs/decisions/0008.
"""

import math

import pytest
import torch
from end_to_end.recomputed import as_pairs, expected_logits, last, texts
from helpers.models import loader, model, trainer
from helpers.spoiled import COUNTS, L, accounted, batch, labels, read_outs, recounted, run, sketch, summary
from torch import nn

import logitwatch
from logitwatch.capture.observation import Observation
from logitwatch.states.protocol import pack

NAN, INF = math.nan, math.inf
# Two sums of the same few numbers in float64, added in another order.
ROUNDING = {"rel": 1e-12, "abs": 1e-12}


def put(index, value, *, z=None):
    z = batch() if z is None else z
    z[index] = value
    return z


def putting(index, value):
    return lambda z, y: (put(index, value, z=z), y)


def with_targets(*values):
    return lambda z, y: (z, torch.cat((torch.tensor(values), y[len(values) :])))


IN_A_RUN = {
    "case 01, NaN": putting((0, 0), NAN),
    "case 02, inf": putting((0, 0), INF),
    "case 03, -inf": putting((slice(None), 0), -INF),
    "case 04, rows of -inf": putting(2, -INF),
    "case 05, two inf": putting((0, slice(0, 2)), INF),
    "case 06, no rows": lambda z, y: (z[:0], y[:0]),
    "case 08, one class": lambda z, y: (z[:, :1], torch.zeros_like(y)),
    "case 10, integers": lambda z, y: ((4 * z).long(), y),
    "case 13, eight bits": lambda z, y: (z.to(torch.float8_e4m3fn), y),
    "case 16, strided": lambda z, y: (torch.stack((z, z), -1)[..., 0], y),
    "case 23, a sequence": lambda z, y: (z.view(4, -1, 10), y.view(4, -1)),
    "case 24, 3e38": putting(0, torch.tensor([3e38, -3e38] * 5)),
    "case 24, subnormal": lambda z, y: (z * 1e-40, y),
    "case 26, all ignored": lambda z, y: (z, torch.full_like(y, -100)),
    "case 26, out of range": with_targets(10, -1, 10**9, -100),
    "case 26, eight bits": lambda z, y: (z, y.to(torch.uint8)),
    "case 27, more classes": lambda z, y: (torch.cat((z, z), -1) if y[0] % 2 else z, y),
    "case 28, in [0, 1]": lambda z, y: (z.softmax(-1), y),
}


@pytest.mark.parametrize("way", ["observe", "outputs"])
@pytest.mark.parametrize("spoil", IN_A_RUN.values(), ids=IN_A_RUN.keys())
def test_in_a_run_every_row_is_accounted_for_and_the_weights_are_those_of_a_run_without(spoil, way, tmp_path):
    found = run(spoil, tmp_path, way=way)
    assert found.faults == found.record["logitwatch/faults"] == 0
    for stage, calls in found.given.items():
        expected = recounted(calls)
        if expected["rows"]:
            assert {name: found.record[f"logits/{stage}/{name}"] for name in COUNTS} == expected
        else:
            assert f"logits/{stage}/rows" not in found.record
    assert not any(math.isnan(value) for value in found.record.values())


def test_case_01_a_row_with_nan_is_counted_as_nonfinite_and_is_in_no_number():
    state = summary(put((0, 0), NAN))
    assert accounted(state) == {"rows": 16, "nonfinite": 1, "ignored": 0, "bad_target": 0}
    clean = read_outs(summary(batch()[1:], labels()[1:])) | {"rows": 16, "nonfinite": 1}
    assert read_outs(state) == pytest.approx(clean, **ROUNDING)


@pytest.mark.parametrize("others", [(0.0, 0.0), (-INF, 0.0), (NAN, 0.0)])
def test_case_02_a_row_with_plus_infinity_is_counted_as_nonfinite_and_is_in_no_number(others):
    state = summary(put((0, slice(0, 3)), torch.tensor([INF, *others])))
    assert accounted(state)["nonfinite"] == 1
    clean = read_outs(summary(batch()[1:], labels()[1:])) | {"rows": 16, "nonfinite": 1}
    assert read_outs(state) == pytest.approx(clean, **ROUNDING)


def test_case_03_minus_infinity_is_an_absent_class_and_the_row_is_as_without_it():
    y = 1 + labels(classes=9)
    masked, without = summary(put((slice(None), 0), -INF), y), summary(batch()[:, 1:], y - 1)
    assert accounted(masked)["nonfinite"] == 0
    assert int(masked.logit_histogram.negative_infinite) == 16
    # Sums of ten and of nine float32 numbers, of which one is 0.
    assert read_outs(masked) == pytest.approx(read_outs(without), rel=1e-6, abs=1e-6)


def test_case_03_a_target_that_is_absent_has_an_infinite_nll_and_spoils_nothing_else():
    state = summary(put((0, 0), -INF))
    values = read_outs(state)
    assert values.pop("nll") == values.pop("overconfidence") == INF
    assert all(map(math.isfinite, values.values()))


def test_case_04_a_row_without_any_class_is_counted_as_nonfinite_and_is_in_no_number():
    state = summary(put(0, -INF))
    assert accounted(state)["nonfinite"] == 1
    clean = read_outs(summary(batch()[1:], labels()[1:])) | {"rows": 16, "nonfinite": 1}
    assert read_outs(state) == pytest.approx(clean, **ROUNDING)


def test_case_05_two_plus_infinities_in_a_row_are_counted_once():
    assert accounted(summary(put((2, slice(0, 2)), INF)))["nonfinite"] == 1


def test_case_06_no_rows_change_no_bit_of_the_state():
    before = summary(batch())
    after = before.merge(summary(batch(0)))
    assert torch.equal(pack(after).sums, pack(before).sums)
    assert torch.equal(pack(after).maxima, pack(before).maxima)


def test_case_08_one_class_has_entropy_zero_no_margin_and_no_calibration():
    z, y = batch(classes=1), torch.zeros(16, dtype=torch.long)
    values = read_outs(summary(z, y))
    assert (values["entropy"], values["confidence"], values["nll"], values["accuracy"]) == (0, 1, 0, 1)
    assert "margin" not in values
    assert sketch(z, y) is None


INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_case_10_whole_numbers_are_lifted_to_float32(dtype):
    z = batch().abs().round()
    one, other = summary(z.to(dtype)), summary(z)
    assert torch.equal(pack(one).sums, pack(other).sums)
    assert torch.equal(pack(one).maxima, pack(other).maxima)


def test_case_10_the_record_says_once_that_they_came_as_whole_numbers(tmp_path, caplog):
    run(lambda z, y: ((4 * z).long(), y), tmp_path)
    (text,) = texts(tmp_path, "logitwatch/capture/train")
    assert "logits (16, 10) int64, 16 rows" in text
    assert not [record for record in caplog.records if record.name == "logitwatch" and record.module != "notices"]


EIGHT_BITS = ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")


@pytest.mark.parametrize("kind", EIGHT_BITS)
@pytest.mark.parametrize("binary", [False, True])
def test_case_13_eight_bit_floats_give_the_numbers_of_their_float32(kind, binary):
    z = batch().to(getattr(torch, f"float8_{kind}"))
    y = (batch(seed=1) > 0).float() if binary else labels()
    one, other = summary(z, y, binary=binary), summary(z.float(), y, binary=binary)
    assert torch.equal(pack(one).sums, pack(other).sums)
    assert torch.equal(pack(one).maxima, pack(other).maxima)


def test_case_14_the_log_partition_of_a_wide_row_in_bfloat16_is_that_of_float64():
    z = batch(2, 128_256).bfloat16()
    found = Observation.of(z).log_partition
    # float32 has a spacing of 1.9e-6 at such a value, about 20.
    torch.testing.assert_close(found.double(), z.double().logsumexp(-1), rtol=0, atol=1e-5)


def test_case_15_uniform_logits_in_float16_have_the_entropy_of_their_number():
    z = torch.full((1, 262_144), 7.0, dtype=torch.float16)
    # Of 262144 terms 3.8e-6 each, as the matrix asks.
    assert Observation.of(z).entropy.item() == pytest.approx(math.log(262_144), abs=1e-4)


STRIDES = {
    "transposed": lambda z: z.t().contiguous().t(),
    "every other number": lambda z: torch.stack((z, z), -1)[..., 0],
    "every other row": lambda z: torch.stack((z, -z), 1).reshape(32, -1)[::2],
    "expanded": lambda z: z[:1].expand(z.shape),
    "negated view": lambda z: torch._neg_view(z),
}


@pytest.mark.parametrize("strided", STRIDES.values(), ids=STRIDES.keys())
@pytest.mark.parametrize("classes", [10, 700])
def test_case_16_however_it_lies_in_memory_every_bit_is_the_same(strided, classes):
    z, y = strided(batch(classes=classes)), labels()
    assert not z.is_contiguous() or z.is_neg()
    plain = z.resolve_neg().contiguous()
    for make in (summary, sketch):
        one, other = make(z, y), make(plain, y)
        assert torch.equal(pack(one).sums, pack(other).sums)
        assert torch.equal(pack(one).maxima, pack(other).maxima)


def test_case_23_sequences_and_images_are_their_rows():
    z, y = batch(12), labels(12)
    rows = read_outs(summary(z, y))
    assert read_outs(summary(z.view(3, 4, 10), y.view(3, 4))) == pytest.approx(rows, **ROUNDING)
    image = z.view(3, 2, 2, 10).permute(0, 3, 1, 2)
    assert read_outs(summary(image, y.view(3, 2, 2), class_dim=1)) == pytest.approx(rows, **ROUNDING)


@pytest.mark.parametrize("shape", [(-1,), (4, -1)])
def test_case_23_yes_or_no_logits_are_one_row_an_element(shape, tmp_path):
    def step(module, pair, stage):
        z = module.net(pair[0])[:, 0].view(shape)
        yes = (pair[1] > 4).float().view(shape)
        module.record(stage, z, yes)
        return module.criterion(z, yes)

    subject = model(L, step, criterion=nn.BCEWithLogitsLoss())
    trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path).fit(subject, loader(), loader(32))
    z = torch.cat([as_pairs(z) for z, _ in subject.recorded["val"]])
    y = torch.cat([y.reshape(-1).long() for _, y in subject.recorded["val"]])
    expected = expected_logits(z, y)
    for name in ("rows", "entropy", "confidence", "nll", "accuracy", "bad_target", "nonfinite"):
        # float32 against float64
        assert last(tmp_path)[f"logits/val/{name}"] == pytest.approx(expected[name], rel=1e-5), name


class ModelOutput(dict):
    """As of transformers: a dictionary that is also indexed by number."""


def test_case_23_what_a_step_returns_is_read_where_it_is_a_dictionary_with_logits(tmp_path):
    def step(module, pair, stage):
        z = module.net(pair[0])
        return ModelOutput(loss=z.square().mean(), logits=z, labels=pair[1])

    trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path).fit(model(L, step), loader(), loader(32))
    assert last(tmp_path)["logits/val/rows"] == 32


@pytest.mark.parametrize("kind", [list, tuple])
def test_case_23_logits_returned_in_a_list_or_tuple_are_not_guessed_and_the_remedy_is_told_once(kind, tmp_path, caplog):
    def step(module, pair, stage):
        z = module.net(pair[0])
        loss = z.square().mean()
        return loss if stage == "train" else kind((loss, z, pair[1]))

    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path)
    t.fit(model(L, step), loader(), loader(64))
    assert not any(tag.startswith("logits/val") for tag in last(tmp_path))
    (remedy,) = (r.getMessage() for r in caplog.records if "in validation_step so far" in r.getMessage())
    assert f"({kind.__name__})" in remedy
    assert "logitwatch.observe(logits, targets)" in remedy


def test_case_24_numbers_at_the_end_of_float32_leave_no_number_out_and_none_infinite():
    z, y = put(0, torch.tensor([3e38, -3e38] + [0.0] * 8)), labels()
    values, expected = read_outs(summary(z, y)), expected_logits(z.double(), y)
    # Of numbers that cancel at 3e38 float64 knows the mean to 16 digits of that.
    assert abs(values.pop("mean") - expected.pop("mean")) < 3e38 * 1e-15
    assert values == pytest.approx(expected, rel=1e-5, abs=1e-5)  # float32 against float64


def test_case_24_subnormal_numbers_are_not_zero():
    z = batch() * 1e-40
    values = read_outs(summary(z))
    assert 0 < values["margin"] < 1e-38
    assert 0 < values["std"] < 1e-38
    assert values["max"] == z.max() > 0
    assert values["saturation"] == 0
    assert values["entropy"] == pytest.approx(math.log(10), rel=1e-7)


def test_case_24_where_not_even_float64_holds_the_squares_the_norm_is_infinite_and_no_number_is_wrong():
    values = read_outs(summary(put((0, 0), 1e300, z=batch().double())))
    assert values.pop("norm") == INF
    assert "std" not in values
    assert all(map(math.isfinite, values.values()))


def test_case_27_another_number_of_classes_goes_on_in_the_same_state():
    few, many = summary(batch()), summary(batch(classes=50))
    both = few.merge(many)
    assert accounted(both)["rows"] == 32
    mean = (read_outs(few)["entropy"] + read_outs(many)["entropy"]) / 2
    assert read_outs(both)["entropy"] == pytest.approx(mean, **ROUNDING)


def test_case_28_logits_between_zero_and_one_are_logits():
    z = batch().softmax(-1)
    found = sketch(z, labels()).mean_confidence().item()
    assert found == pytest.approx(z.double().softmax(-1).amax(-1).mean().item(), rel=1e-6)  # float32
    assert abs(found - z.amax(-1).mean().item()) > 0.3
