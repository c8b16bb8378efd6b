import pytest
import torch
import torch.nn.functional as F

from logitwatch.capture.criteria import Call, read_function
from logitwatch.capture.observation import Observation
from logitwatch.capture.symptoms import symptoms

GENERATOR = torch.Generator().manual_seed(0)
Z, Y = torch.randn(32, 5, generator=GENERATOR), torch.randint(5, (32,), generator=GENERATOR)


def seen(function, z, y, *, shadow=False, **options):
    call = read_function(function, (z, y), options, function(z, y, **options))
    observation = Observation.of(
        z, y, class_dim=call.class_dim, ignore_index=call.ignore_index, binary=call.binary, mask=call.mask
    )
    return symptoms(call, observation, shadow=shadow)


def numbers(found):
    return {name: value.item() for name, value in found.sums.items()}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda z: z.softmax(1), "probability_rows"),
        (lambda z: z.softmax(1).bfloat16(), "probability_rows"),
        (lambda z: z.log_softmax(1), "log_probability_rows"),
        (lambda z: z.log_softmax(1).bfloat16(), "log_probability_rows"),
        (lambda z: z, "unnormalised_rows"),
    ],
)
def test_each_row_is_probabilities_or_their_logs_or_neither(change, name):
    kinds = ("probability_rows", "log_probability_rows", "unnormalised_rows")
    found = numbers(seen(F.cross_entropy, change(Z + 3), Y))
    assert found["rows"] == 32
    assert found[name] == 32
    # Probabilities, too, have a log-partition that is not 0.
    others = {n for n in kinds if found[n]} - {name}
    assert others == ({"unnormalised_rows"} if name == "probability_rows" else set())


def test_classes_may_be_on_any_axis():
    z, y = torch.randn(2, 5, 3, 4, generator=GENERATOR).softmax(1), torch.zeros(2, 3, 4, dtype=torch.long)
    found = numbers(seen(F.cross_entropy, z, y))
    assert found["probability_rows"] == found["rows"] == found["targets"] == 24


def test_rows_that_are_not_finite_are_not_judged():
    z = Z.softmax(1)
    z[3, 1], z[4] = torch.nan, -torch.inf
    found = numbers(seen(F.cross_entropy, z, Y))
    assert found["probability_rows"] == found["rows"] == 30


def test_counts_are_of_every_row_and_kinds_of_a_few():
    z, y = Z.repeat(10, 1), Y.repeat(10)
    y[:7] = -100
    found = seen(F.cross_entropy, z, y)
    assert numbers(found)["targets"] == 320
    assert numbers(found)["counted"] == 313
    assert numbers(found)["ignored_pairs"] == 6
    assert numbers(found)["rows"] == 64


def test_absent_classes_of_ignored_rows_are_no_matter():
    z, y = Z.clone(), Y.clone()
    z[:4, 0], y[:4] = -torch.inf, -100
    assert numbers(seen(F.cross_entropy, z, y))["absent_rows"] == 0
    y[0] = 1
    assert numbers(seen(F.cross_entropy, z, y))["absent_rows"] == 1


def test_rows_are_constant_only_where_targets_differ():
    constant = Z[:1].expand(32, 5)
    assert numbers(seen(F.cross_entropy, constant, Y))["constant_looks"] == 1
    assert numbers(seen(F.cross_entropy, constant, torch.zeros_like(Y)))["constant_looks"] == 0
    assert numbers(seen(F.cross_entropy, constant[:7], Y[:7]))["constant_looks"] == 0
    assert numbers(seen(F.cross_entropy, Z, Y))["constant_looks"] == 0


def test_several_classes_with_one_each_are_counted_and_soft_targets_are_not():
    several = F.one_hot(Y, 5).maximum(F.one_hot((Y + 1) % 5, 5)).float()
    assert numbers(seen(F.cross_entropy, Z, several))["several_targets"] == 32
    for soft in (F.one_hot(Y, 5).float(), several / 2, 3 * several, 0 * several):
        assert numbers(seen(F.cross_entropy, Z, soft))["several_targets"] == 0


def test_yes_or_no_logits_are_placed_about_the_unit_interval():
    z = torch.tensor([[0.01, 0.5], [0.99, 1.0], [0.0, -0.1], [1.1, torch.nan]])
    found = numbers(seen(F.binary_cross_entropy_with_logits, z, torch.ones(4, 2)))
    expected = {"values": 8, "outside": 4, "near_zero": 1, "near_one": 2, "yes": 8}
    assert {name: found[name] for name in expected} == expected


def test_decisions_that_do_not_count_are_left_out():
    z, known = torch.tensor([0.5, 7.0]), torch.tensor([True, False])
    call = Call("mine", z, torch.tensor([1.0, -7.0]), -1, None, True, known, kind="logit_loss")
    observation = Observation.of(z, call.targets, binary=True, mask=known)
    found = numbers(symptoms(call, observation))
    assert (found["values"], found["outside"], found["yes"], found["bad_targets"]) == (1, 0, 1, 0)


def test_the_range_of_bad_targets_is_theirs_alone():
    z = torch.zeros(6)
    found = seen(F.binary_cross_entropy_with_logits, z, torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0, 2.0]))
    assert found.sums["bad_targets"] == 3
    assert (found.highs["bad_target"], found.highs["least_bad_target"]) == (3, 1)
    assert seen(F.cross_entropy, Z, Y).highs["bad_target"] == -torch.inf


def test_a_shadow_is_made_of_a_loss_in_half_precision_alone():
    found = numbers(seen(F.cross_entropy, Z.bfloat16(), Y, shadow=True))
    assert found["shadowed"] == F.cross_entropy(Z.bfloat16(), Y).item()
    assert found["shadow"] == pytest.approx(F.cross_entropy(Z.bfloat16().float(), Y).item(), rel=1e-6)  # float32
    assert "shadow" not in numbers(seen(F.cross_entropy, Z.bfloat16(), Y))
    assert "shadow" not in numbers(seen(F.cross_entropy, Z, Y, shadow=True))


def test_losses_are_added_up_by_batch_and_by_row():
    y = Y.clone()
    y[8:] = -100
    both = seen(F.cross_entropy, Z, Y).merge(seen(F.cross_entropy, Z, y)).merge(seen(F.cross_entropy, Z, y * 0 - 100))
    found = numbers(both)
    means = [F.cross_entropy(Z, Y).item(), F.cross_entropy(Z, y).item()]
    assert found["loss"] == pytest.approx(sum(means), rel=1e-6)
    assert found["row_loss"] / found["loss_rows"] == pytest.approx((32 * means[0] + 8 * means[1]) / 40, rel=1e-6)
    assert (found["looks"], found["loss_looks"], found["empty_looks"]) == (3, 2, 1)
    assert (both.highs["counted"], both.highs["fewest"]) == (32, 0)


@pytest.mark.parametrize(
    ("weight", "bad"), [([1.0, 2, 3, 4, 5], 0), ([torch.nan, -1, torch.inf, 0, 1], 3)], ids=["good", "bad"]
)
def test_weights_that_are_none_are_counted(weight, bad):
    assert numbers(seen(F.cross_entropy, Z, Y, weight=torch.tensor(weight))).get("bad_weights") == bad
    answers = torch.zeros(32, 5)
    options = {"pos_weight": torch.tensor(weight)}
    assert numbers(seen(F.binary_cross_entropy_with_logits, Z, answers, **options))["bad_weights"] == bad


def test_without_targets_or_rows_or_logits_there_is_nothing_to_say():
    assert symptoms(Call("m", Z, None), Observation.of(Z)) is None
    assert symptoms(Call("m", Z[:0], Y[:0]), Observation.of(Z[:0], Y[:0])) is None
    made_inside = Call("m", Z, Y, kind="logit_loss", lent={"row_statistics": None})
    assert symptoms(made_inside, Observation.of(Z, Y)) is None


def test_no_number_is_read_from_another_device():
    z, y = torch.empty(16, 10, device="meta"), torch.empty(16, dtype=torch.long, device="meta")
    both = seen(F.cross_entropy, z.bfloat16(), y, shadow=True, label_smoothing=0.1)
    assert both.merge(both).sums["looks"].device.type == "meta"
    assert seen(F.binary_cross_entropy_with_logits, z, z).sums["outside"].device.type == "meta"


def test_facts_are_those_of_the_call():
    facts = seen(F.cross_entropy, Z, Y, ignore_index=3, label_smoothing=0.1, reduction="sum").facts
    assert (facts.kind, facts.classes, facts.columns, facts.ignore_index) == ("cross_entropy", 5, 1, 3)
    assert (facts.label_smoothing, facts.reduction, facts.weighted) == (0.1, "sum", False)
    assert seen(F.binary_cross_entropy_with_logits, Z, Z).facts.columns == 5
    assert seen(F.binary_cross_entropy_with_logits, Z[:, 0], Z[:, 0]).facts.columns == 0
