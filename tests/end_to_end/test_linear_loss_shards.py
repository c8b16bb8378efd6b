"""A head whose classes are split over two real ranks: the loss, its gradients and its statistics are those of one."""

import itertools
import traceback

import pytest
import torch
import torch.distributed as dist
from end_to_end.recomputed import last
from helpers.models import loader, model, namespace, trainer
from helpers.ranks import Collectives, on_ranks

import logitwatch
from logitwatch.losses import LinearCrossEntropyLoss, linear_cross_entropy, sharded_pass

RANKS, ROWS, FEATURES = 2, 11, 4
ABSENT = float("-inf")
# Sums of a few numbers of size 1 in float64, in another order.
EXACT = {"rtol": 1e-10, "atol": 1e-10, "equal_nan": True}
# A line of each rank and one for each row.
EXCHANGE = ("all_gather", ((1 + ROWS, 14), "torch.float64"))

pytestmark = pytest.mark.ranks


def batch(classes, dtype=torch.float64):
    """Hidden states, head and bias, and targets of which two are ignored; the last class may be absent."""
    generator = torch.Generator().manual_seed(classes)
    shapes = (ROWS, FEATURES), (classes, FEATURES), (classes,)
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    targets = torch.randint(classes - 1, (ROWS,), generator=generator)
    targets[torch.tensor([1, 6])] = -100
    return tensors, targets


def cases():
    """Options and bias, all that can be told apart by them."""
    extras = {}, {"soft_cap": 1.5}
    for reduction, extra, bias in itertools.product(("mean", "sum", "none"), extras, ("none", "some", "absent")):
        for smoothing, z_loss, weighted in ((0.0, 0.0, False), (0.2, 0.0, True), (0.0, 0.3, True), (0.2, 0.3, False)):
            options = {"reduction": reduction, "label_smoothing": smoothing, "z_loss": z_loss, **extra}
            yield options, bias, weighted


def spread(tensor, mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    return distribute_tensor(tensor, mesh, [Shard(0)])


def value_and_gradients(tensors, targets, options, mesh=None):
    """Whole tensors in, whole gradients out; with a mesh the head is split on the way."""
    hidden, *head = (tensor.clone() for tensor in tensors)
    head = [tensor if mesh is None else spread(tensor, mesh) for tensor in head]
    leaves = [tensor.requires_grad_() for tensor in (hidden, *head)]
    bias = head[1] if len(head) > 1 else None
    value = linear_cross_entropy(hidden, head[0], targets, linear_bias=bias, **options)
    factor = torch.linspace(-1, 1, ROWS, dtype=value.dtype) if options.get("reduction") == "none" else 0.7
    (value * factor).sum().backward()
    gradients = [leaf.grad for leaf in leaves]
    if mesh is not None:
        assert all(gradient.placements == leaf.placements for gradient, leaf in zip(gradients[1:], head, strict=True))
        gradients[1:] = [gradient.full_tensor() for gradient in gradients[1:]]
    return value.detach(), *gradients


def compare(mesh, classes, dtype, tolerance, **chosen):
    for options, bias, weighted in cases():
        tensors, targets = batch(classes, dtype)
        if bias == "absent":
            tensors[2][-1] = ABSENT
        tensors = tensors[: 2 if bias == "none" else 3]
        weight = torch.rand(classes, generator=torch.Generator().manual_seed(1)).to(dtype) + 0.5
        options = options | chosen | ({"weight": weight} if weighted else {})
        ours, expected = (
            value_and_gradients(tensors, targets, options, mesh),
            value_and_gradients(tensors, targets, options),
        )
        for name, one, other in zip(("value", "hidden", "weight", "bias"), ours, expected, strict=False):
            assert one.dtype == other.dtype
            torch.testing.assert_close(
                one, other, **tolerance, msg=lambda text, about=(name, options, bias): f"{about}: {text}"
            )


def losses_are_those_of_the_whole_head(rank, mesh):
    compare(mesh, 7, torch.float64, EXACT)
    compare(mesh, 8, torch.float32, {"rtol": 1e-5, "atol": 1e-6})
    # 8 bits, in products of 4 and of 11
    compare(mesh, 7, torch.bfloat16, {"rtol": 3e-2, "atol": 3e-2})
    # torch.chunk gives two ranks the halves of two classes, and of one class all to the first
    compare(mesh, 2, torch.float64, EXACT)


def losses_are_those_of_the_whole_head_in_chunks(rank, mesh):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharded_pass, "chunk_rows", lambda *_: 4)
        losses_are_those_of_the_whole_head(rank, mesh)


def criterion(mesh=None, **options):
    """The loss with a head from `batch`; with a mesh its classes are split."""
    tensors, targets = batch(7)
    loss = LinearCrossEntropyLoss(FEATURES, 7, bias=True, dtype=torch.float64, **options)
    tensors[2].copy_(torch.tensor([0.0, 1, 1, 0, -1, 1, ABSENT]))
    targets[2:4] = torch.tensor([1, 2])
    for name, tensor in (("weight", tensors[1]), ("bias", tensors[2])):
        setattr(loss.linear, name, torch.nn.Parameter(tensor if mesh is None else spread(tensor, mesh)))
    return loss, tensors[0], targets


def statistics_are_those_of_whole_rows(rank, mesh):
    for options in ({}, {"soft_cap": 0.5, "z_loss": 0.1}):
        (loss, hidden, targets), (whole, *_) = criterion(mesh, **options), criterion(**options)
        hidden[2:4] = 0  # with the bias below: of the classes 1, 2 and 5, on both ranks, the first is predicted
        for one in (loss, whole):
            one.lent = {}
            value = one(hidden, targets)
        lent, expected, loss.lent = loss.lent, whole.lent, None
        assert expected["row_statistics"].prediction[2:4].tolist() == [1, 1]
        assert expected["row_statistics"].correct[2:4].tolist() == [True, False]
        assert set(lent) == (set(expected) - {"logits_of"}) | {"counted"}
        assert lent["counted"] == (rank == 0)
        assert lent["logits"].shape == expected["logits"].shape
        for kind in ("terms", "rows", "numbers"):
            torch.testing.assert_close(lent.get(kind), expected.get(kind), **EXACT)
        for name, values in expected["row_statistics"]._asdict().items():
            torch.testing.assert_close(getattr(lent["row_statistics"], name), values, **EXACT, msg=name)
        torch.testing.assert_close(lent["row_statistics"].norm, expected["row_statistics"].norm, **EXACT)
        with Collectives() as called:
            assert torch.equal(loss(hidden, targets), sum(lent["terms"].values()))  # to lend changes no bit
        assert [(name, shape) for name, shape, _ in called.ours()] == [EXCHANGE]
        torch.testing.assert_close(value, sum(lent["terms"].values()), **EXACT)


def ranks_of_which_one_is_asked_do_not_wait_for_one_another(rank, mesh):
    """As where the monitors of the other have been switched off."""
    loss, hidden, targets = criterion(mesh)
    loss.lent = {} if rank == 0 else None
    hidden.requires_grad_()
    with Collectives() as called:
        loss(hidden, targets).backward()
    assert [call[:2] for call in called.ours()] == [EXCHANGE, ("all_reduce", ((ROWS, FEATURES), "torch.float64"))]
    if rank == 0:
        assert not loss.lent["row_statistics"].finite.any()


def rows_of_their_own_are_refused(rank, mesh):
    """As those of a weight that is sharded to save memory."""
    loss, hidden, targets = criterion(mesh)
    targets[0] = rank
    with pytest.raises(ValueError, match=r"must be given the same rows, got different targets; .* fully_shard"):
        loss(hidden, targets)


def hidden_states_may_be_a_replicated_dtensor(rank, mesh):
    from torch.distributed.tensor import Replicate, distribute_tensor

    loss, hidden, targets = criterion(mesh, z_loss=0.1)
    hidden.requires_grad_()
    loss(hidden, targets).backward()
    copies = distribute_tensor(hidden.detach(), mesh, [Replicate()]).requires_grad_()
    loss(copies, targets).backward()
    assert copies.grad.placements == (Replicate(),)
    assert torch.equal(copies.grad.to_local(), hidden.grad)


CHECKS = [
    losses_are_those_of_the_whole_head,
    losses_are_those_of_the_whole_head_in_chunks,
    statistics_are_those_of_whole_rows,
    ranks_of_which_one_is_asked_do_not_wait_for_one_another,
    rows_of_their_own_are_refused,
    hidden_states_may_be_a_replicated_dtensor,
]


def main(rank, folder):
    """Every check, in one start of the ranks; what went wrong in each."""
    dist.init_process_group("gloo")
    mesh, wrong = dist.init_device_mesh("cpu", (RANKS,)), {}
    for check in CHECKS:
        try:
            check(rank, mesh)
        except Exception:
            wrong[check.__name__] = traceback.format_exc()
    return wrong


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    return on_ranks(main, RANKS, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_of_a_split_head(check, wrong):
    assert [rank.get(check, "") for rank in wrong] == [""] * RANKS


def step(module, batch, stage):
    x, y = batch
    return module.criterion(module.net(x), y)


def some_ignored(targets):
    targets = targets.clone()
    targets[::5] = -100
    return targets


def fit(folder, configure_model=None, **options):
    """Train a model with 11 classes, of which the digits are ten; returns its weights, whole."""
    lightning = namespace("lightning.pytorch")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh())
        loss = LinearCrossEntropyLoss(16, 11, bias=True, z_loss=0.01, label_smoothing=0.1, soft_cap=1.0)
    subject = model(lightning, step, network=body, criterion=loss)
    if configure_model is not None:
        subject.__class__ = type("Parallel", (type(subject),), {"configure_model": configure_model})
        options["strategy"] = lightning.strategies.ModelParallelStrategy(1, RANKS, process_group_backend="gloo")
    monitors = logitwatch.watch(every_n_steps=1, rows=4)
    fitting = trainer(lightning, monitors, folder=folder, log_every_n_steps=4, **options)
    fitting.fit(subject, loader(64, targets=some_ignored), loader(48, start=100))
    return [p.detach().full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in subject.parameters()]


def monitored_main(rank, folder):
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    def configure_model(self):
        parallelize_module(self.criterion, self.device_mesh["tensor_parallel"], {"linear": ColwiseParallel()})
        assert str(self.criterion.linear.weight.placements) == "(Shard(dim=0),)"

    return fit(folder, configure_model, devices=RANKS, use_distributed_sampler=False)


@pytest.mark.slow
def test_a_run_with_split_classes_logs_the_numbers_of_one_without(tmp_path):
    weights = on_ranks(monitored_main, RANKS, tmp_path / "split")
    alone = fit(tmp_path / "whole")
    for rank in weights:
        # float32, and after four steps of sums in another order
        torch.testing.assert_close(rank, alone, rtol=1e-4, atol=1e-6)
    said, expected = last(tmp_path / "split"), last(tmp_path / "whole")
    names = [name for name in expected if name.startswith(("logits/", "losses/", "calibration/"))]
    assert {"losses/train/soft_cap_saturation", "logits/val/accuracy", "calibration/val/ece"} < set(names)
    of_logits = {"calibration/val/temperature", "calibration/val/refinement"}  # no rank has any
    for name in sorted(set(names) - of_logits):
        assert said[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    assert said["logits/train/rows"] == 64
    assert said["logitwatch/coverage"] == 1
    assert said["logitwatch/faults"] == 0
