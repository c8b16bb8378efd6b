"""Two hundred trainings in which the suite fails at random: each is the same run, and each fault is counted."""

import pytest
import torch
from helpers.models import loader, model, namespace, net, trainer

import logitwatch
from logitwatch.testing import ChaosCallback

pytestmark = [
    pytest.mark.slow,
    # A fault in place of closing the record leaves its file to the garbage collector; nothing was left to be written.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
L = namespace("pytorch_lightning")
SEEDS, GROUPS = 200, 20


def run(monitors, folder):
    """A short training with dropout, two validations and a checkpoint; whatever a monitor could disturb."""
    torch.manual_seed(0)
    subject = model(L, network=net(dropout=0.5))
    t = trainer(
        L,
        monitors,
        folder=folder,
        max_epochs=2,
        log_every_n_steps=2,
        enable_checkpointing=True,
        default_root_dir=folder,
    )
    t.fit(subject, loader(96), loader(32, start=200))
    assert t.state.finished
    momenta = [state["momentum_buffer"] for state in t.optimizers[0].state_dict()["state"].values()]
    return [*map(torch.clone, subject.parameters()), *momenta, torch.get_rng_state()]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    before = torch.get_rng_state()
    yield run([], tmp_path_factory.mktemp("clean"))
    torch.set_rng_state(before)


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_run_whose_monitors_fail_at_random_is_the_same_run(group, clean, tmp_path):
    for seed in range(group, SEEDS, GROUPS):
        monitors = [*logitwatch.watch(every_n_steps=1 + seed % 3, rows=8), logitwatch.Recalibrator()]
        folder = tmp_path / str(seed)
        with ChaosCallback(seed=seed, p=(0.05, 0.2, 0.6)[seed % 3]) as chaos:
            ended = run(monitors, folder)
        assert all(torch.equal(one, other) for one, other in zip(clean, ended, strict=True)), seed
        assert monitors[0].faults == chaos.total, (seed, chaos.injected)
        assert len(list(folder.rglob("*.ckpt"))) == 1, seed
