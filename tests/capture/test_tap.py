import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from logitwatch.capture.explicit import observe
from logitwatch.capture.look import Level, Look
from logitwatch.capture.tap import SILENT_LOOKS, Tap
from logitwatch.losses import CrossEntropyLoss

X, Y = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5, 3)
        self.criterion = nn.CrossEntropyLoss()
        self.way = lambda z: self.criterion(z, Y)

    def training_step(self, x):
        return self.way(self.net(x))

    def validation_step(self, x, batch_idx=0, dataloader_idx=0):
        return self.way(self.net(x))


class Ears:
    """A listener that wants every step, or none."""

    def __init__(self, wants=True):
        self.looks, self.asked, self._wants, self.faults = [], [], wants, 0

    def wants(self, stage, args, kwargs):
        self.asked.append(stage)
        return Look(stage) if self._wants else None

    def receive(self, look):
        self.looks.append(look)

    def failed(self):
        self.faults += 1


def traces(module):
    return sum(len(m._forward_hooks) for m in module.modules()), [n for n in vars(module) if n.endswith("_step")]


def test_a_module_has_one_tap():
    module = Model()
    assert Tap.of(module) is Tap.of(module)
    assert Tap.of(module) is not Tap.of(Model())


def test_a_tap_does_not_keep_its_module_alive():
    module = Model()
    Tap.of(module).attach(ears := Ears())
    Tap.of(module).detach()
    alive = weakref.ref(module)
    del module, ears
    gc.collect()
    assert alive() is None


def test_attaching_twice_hooks_once():
    module, ears = Model(), Ears()
    Tap.of(module).attach(ears)
    once = traces(module)
    Tap.of(module).attach(ears)
    assert traces(module) == once == (1, ["training_step", "validation_step"])
    module.training_step(X)
    assert len(ears.looks) == 1
    assert [call.source for call in ears.looks[0].calls()] == ["criterion"]


def test_detaching_leaves_no_trace_and_may_be_repeated():
    module, ears = Model(), Ears()
    tap = Tap.of(module)
    tap.attach(ears, requested={"net"})
    for _ in range(2):
        tap.detach()
    assert traces(module) == (0, [])
    assert (tap.attached, tap.listener, tap.criteria) == (False, None, [])
    module.training_step(X)
    assert ears.asked == []


def test_it_may_be_attached_again():
    module, ears = Model(), Ears()
    tap = Tap.of(module)
    tap.attach(Ears())
    tap.detach()
    tap.attach(ears)
    module.training_step(X)
    assert len(ears.looks) == 1


def test_a_step_that_is_not_wanted_is_run_and_not_received():
    module, ears = Model(), Ears(wants=False)
    Tap.of(module).attach(ears)
    assert torch.equal(module.training_step(X), F.cross_entropy(module.net(X), Y))
    assert (ears.asked, ears.looks) == (["train"], [])


def test_the_stage_is_that_of_the_step():
    module, ears = Model(), Ears()
    Tap.of(module).attach(ears)
    module.training_step(X)
    module.validation_step(X, 0, dataloader_idx=1)
    assert ears.asked == ["train", "val"]
    assert [look.stage for look in ears.looks] == ["train", "val"]


@pytest.mark.parametrize(
    ("way", "level", "source"),
    [
        (lambda m, z: (observe(z, Y), m.criterion(z, Y))[1], Level.EXPLICIT, "observe"),
        (lambda m, z: m.criterion(z, Y) + F.cross_entropy(z, Y), Level.CRITERION, "criterion"),
        (lambda m, z: F.cross_entropy(z, Y), Level.FUNCTION, "cross_entropy"),
        (lambda m, z: {"loss": z.sum(), "logits": z, "targets": Y}, Level.OUTPUTS, "outputs"),
        (lambda m, z: z.sum(), Level.MODULE, "net"),
    ],
    ids=["explicit", "criterion", "function", "outputs", "module"],
)
def test_the_best_source_that_spoke_is_the_primary_one(way, level, source):
    module, ears = Model(), Ears()
    module.way = lambda z: way(module, z)
    tap = Tap.of(module)
    tap.attach(ears, requested={"net"})
    module.training_step(X)
    (look,) = ears.looks
    assert look.level is level
    seen = [(call, tap.observation(look, call)) for call in look.calls(tap.requested)]
    assert seen[0][1].source == source
    assert [observation.source for _, observation in seen][-1] == "net"
    assert torch.equal(seen[0][1].logits, module.net(X))


def test_once_a_criterion_spoke_functions_are_listened_to_no_more():
    module, ears = Model(), Ears()
    tap = Tap.of(module)
    tap.attach(ears)
    module.training_step(X)
    tap.silent_source(ears.looks[-1])
    module.way = lambda z: F.cross_entropy(z, Y)
    module.training_step(X)
    assert ears.looks[-1].level is None
    module.validation_step(X)
    assert ears.looks[-1].level is Level.FUNCTION


def test_after_one_look_without_a_call_anything_is_listened_to_as_long_as_it_speaks():
    module, ears = Model(), Ears()
    tap = Tap.of(module)
    tap.attach(ears)
    levels = []
    for step in range(8):
        module.way = (lambda z: F.cross_entropy(z, Y)) if 2 <= step < 6 else (lambda z: module.criterion(z, Y))
        module.training_step(X)
        levels.append(ears.looks[-1].level)
        assert tap.silent_source(ears.looks[-1]) is None
    assert levels == [Level.CRITERION] * 2 + [None] + [Level.FUNCTION] * 3 + [Level.CRITERION] * 2
    assert not tap._needs_mode("train")


def test_a_source_that_falls_silent_is_named_once():
    module, ears = Model(), Ears()
    tap = Tap.of(module)
    tap.attach(ears)
    silent = []
    for step in range(2 * SILENT_LOOKS):
        module.way = (lambda z: module.criterion(z, Y)) if step == 0 else torch.sum
        module.training_step(X)
        silent.append(tap.silent_source(ears.looks[-1]))
    assert silent == [None] * SILENT_LOOKS + [Level.CRITERION] + [None] * (SILENT_LOOKS - 1)


@pytest.mark.parametrize("unused", [True, False], ids=["beside a criterion", "alone"])
def test_a_loss_of_ours_that_is_no_submodule_is_seen_at_every_look(unused):
    module, ears = Model(), Ears()
    if not unused:
        del module.criterion
    module.way = lambda z: CrossEntropyLoss()(z, Y)
    tap = Tap.of(module)
    tap.attach(ears)
    for _ in range(6):
        module.training_step(X)
        assert tap.silent_source(ears.looks[-1]) is None
    assert [look.level for look in ears.looks] == [None] * unused + [Level.LOSS] * (6 - unused)


def test_nothing_ever_heard_is_not_a_silence():
    tap = Tap.of(Model())
    assert [tap.silent_source(Look("train")) for _ in range(SILENT_LOOKS + 1)] == [None] * (SILENT_LOOKS + 1)


def test_a_step_that_raises_leaves_nothing_open():
    module, ears = Model(), Ears()
    Tap.of(module).attach(ears)

    def fails(z):
        raise RuntimeError("the user's")

    module.way = fails
    with pytest.raises(RuntimeError, match="the user's"):
        module.training_step(X)
    assert ears.looks == []
    assert torch.overrides._get_current_function_mode_stack() == []
    observe(torch.zeros(1, 2))
    assert Tap.of(module)._look is None


def test_a_loss_that_lends_is_asked_only_while_it_is_looked_at():
    class Lends(nn.Module):
        lent, ignore_index, asked = None, -100, ()

        def forward(self, logits, targets):
            self.asked = (*self.asked, self.lent is not None)
            if self.lent is not None:
                self.lent["terms"] = {"call": torch.tensor(float(len(self.asked)))}
                self.lent["rows"] = {"entropy": torch.full((4,), 7.0)}
            return F.cross_entropy(logits, targets)

    module, ears = Model(), Ears()
    module.criterion = Lends()
    module.way = lambda z: module.criterion(z, Y) + module.criterion(z, Y)
    tap = Tap.of(module)
    tap.attach(ears)
    module.training_step(X)
    seen = [(call, tap.observation(ears.looks[0], call)) for call in ears.looks[0].calls()]
    # What is lent belongs to its own call, and no later call writes over it.
    assert [call.lent["terms"]["call"].item() for call, _ in seen] == [1.0, 2.0]
    assert [observation.entropy.tolist() for _, observation in seen] == [[7.0] * 4] * 2
    assert module.criterion.lent is None
    ears._wants = False
    module.training_step(X)
    assert module.criterion.asked == (True, True, False, False)


def test_a_copy_of_an_attached_module_reports_nothing():
    module, ears = Model(), Ears()
    Tap.of(module).attach(ears)
    clone = copy.deepcopy(module)
    clone.training_step(X)
    assert ears.asked == []


def test_private_generators_are_kept_and_the_runs_numbers_left_alone():
    tap = Tap.of(Model())
    before = torch.get_rng_state()
    cpu = torch.device("cpu")
    assert tap.generator(cpu) is tap.generator(cpu)
    torch.rand(3, generator=tap.generator(cpu))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_is_overheard_in_steps_that_are_looked_at_alone_and_let_go_with_the_hooks():
    module, ears = Model(), Ears()
    tap = Tap.of(module)
    tap.attach(ears)
    before = traces(module)
    tap.overhear("net")
    tap.overhear("net")
    assert traces(module)[0] == before[0] + 1
    module.net(X)
    module.training_step(X)
    (look,) = ears.looks
    (head,) = look.heads
    assert torch.equal(head.features, X)
    (call,) = look.calls()
    assert tap.observation(look, call).head is head
    ears._wants = False
    module.training_step(X)
    assert len(look.heads) == 1
    tap.detach()
    assert traces(module) == (0, [])
    tap.attach(ears)  # of another run, where nobody asks
    assert traces(module)[0] == before[0]
    tap.detach()


def test_what_is_no_linear_layer_is_not_overheard():
    tap = Tap.of(module := Model())
    tap.attach(Ears())
    with pytest.raises(ValueError, match="one of net; got 'criterion'"):
        tap.overhear("criterion")
    tap.detach()
    assert traces(module) == (0, [])


class Attending(Model):
    def training_step(self, x, batch_idx=0):
        F.scaled_dot_product_attention(x, x, x)
        return self.way(self.net(x))

    def validation_step(self, x, batch_idx=0, dataloader_idx=0):
        return self.training_step(x)


def test_attention_is_listened_to_where_that_is_asked_for_and_let_go_with_the_hooks():
    module, ears = Attending(), Ears()
    tap = Tap.of(module)
    tap.attach(ears)
    module.training_step(X)
    assert ears.looks[-1].attention is None
    for rows in (2, 3, 1):
        tap.listen_to_attention(rows)
    for batch in (0, 3):
        module.training_step(X, batch)
        assert ears.looks[-1].attention.layers["attention"].rows.item() == 3  # the criterion has a hook and is heard
        assert ears.looks[-1].level is Level.CRITERION
    tap.detach()
    tap.attach(ears)
    module.training_step(X)
    assert ears.looks[-1].attention is None
    assert ears.faults == 0


def test_in_an_evaluation_fewer_and_fewer_batches_are_listened_to():
    module, ears = Attending(), Ears()
    tap = Tap.of(module)
    tap.attach(ears)
    tap.listen_to_attention(8)
    for batch in range(20):
        module.validation_step(X, batch)
    heard = [number for number, look in enumerate(ears.looks) if look.attention is not None]
    assert heard == [0, 1, 2, 4, 8, 16]
    module.validation_step(X, "first")  # whatever a user calls it with
    assert ears.looks[-1].attention is None
    assert ears.looks[-1].level is Level.CRITERION
    assert ears.faults == 0
    tap.detach()


def test_a_look_at_attention_leaves_no_mode_behind_where_the_step_raises():
    module, ears = Attending(), Ears()

    def fail(z):
        raise RuntimeError("user")

    module.way = fail
    Tap.of(module).attach(ears)
    Tap.of(module).listen_to_attention(8)
    with pytest.raises(RuntimeError, match="user"):
        module.training_step(X)
    assert torch.overrides._get_current_function_mode_stack() == []
    Tap.of(module).detach()
