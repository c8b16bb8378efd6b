"""Law 9 on several ranks: a checkpoint holds what all of them saw, and any number of ranks may go on with it."""

import pytest
import torch
from end_to_end.recomputed import scalars
from end_to_end.test_resume import Resumable, report_numbers
from helpers.models import loader, model, namespace, trainer
from helpers.ranks import on_ranks

import logitwatch

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
L = namespace("pytorch_lightning")
RANKS, STEPS = 2, 16
WAYS = {"all rows": {"every_n_steps": 3, "rows": 10**9}, "sampled": {"every_n_steps": 3, "rows": 5}}


def fit(folder, how, *, ranks, resume=None, save=()):
    """Train to the last step; ``save`` maps steps to checkpoints written on the way, from every rank."""

    class Saves(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step in save:
                trainer.save_checkpoint(save[trainer.global_step])

    strategy = L.strategies.DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto"
    t = trainer(
        L,
        [*logitwatch.watch(**how), Saves()],
        folder=folder,
        strategy=strategy,
        devices=ranks,
        use_distributed_sampler=False,
        max_steps=STEPS,
        max_epochs=-1,
        log_every_n_steps=6,
    )
    t.fit(model(L), Resumable(loader(16 * 20, start=320 * t.global_rank)), ckpt_path=resume)
    return t


def both_ranks(rank, folder, alone):
    for name, how in WAYS.items():
        saved = {step: f"{folder}/{name} {step}.ckpt" for step in range(1, STEPS)}
        fit(f"{folder}/{name} whole", how, ranks=RANKS, save=saved)
        for step, checkpoint in saved.items():
            if step % 3 == 0 or step > 10:  # all of them would say no more
                fit(f"{folder}/{name} rest {step}", how, ranks=RANKS, resume=checkpoint)
    fit(f"{folder}/one to two", WAYS["all rows"], ranks=RANKS, resume=alone)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    alone = folder / "alone.ckpt"
    fit(folder / "alone", WAYS["all rows"], ranks=1, save={8: alone})
    on_ranks(both_ranks, RANKS, folder, alone)
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", [3, 6, 9, 11, 12, 13, 14, 15])
def test_a_resumed_run_reports_what_the_whole_run_reports(folder, way, step):
    whole, rest = report_numbers(folder / f"{way} whole"), report_numbers(folder / f"{way} rest {step}")
    assert rest["logits/train/rows"]
    for tag, values in rest.items():
        expected = [(at, value) for at, value in whole[tag] if at >= step]
        assert [at for at, _ in values] == [at for at, _ in expected]
        # The sums of both ranks were added before what followed rather than after it: law 5, 1e-12.
        assert [value for _, value in values] == pytest.approx([value for _, value in expected], rel=1e-12), tag


@pytest.mark.parametrize("step", [3, 8, 14])
def test_one_process_goes_on_with_what_two_ranks_saw(folder, step):
    checkpoint = folder / f"all rows {step}.ckpt"
    window = torch.load(checkpoint, weights_only=True)["callbacks"][logitwatch.LogitMonitor().state_key]["window"]
    assert window["sums"][0] == rows_before(step, ranks=2)
    fit(folder / f"two to one {step}", WAYS["all rows"], ranks=1, resume=checkpoint)
    first, *_ = scalars(folder / f"two to one {step}")["logits/train/rows"]
    assert first[1] == rows_before(step, ranks=2) + 16 * len([at for at in looks(first[0]) if at >= step])


def test_two_ranks_go_on_with_what_one_process_saw(folder):
    first, *_ = scalars(folder / "one to two")["logits/train/rows"]
    # Steps 0, 3 and 6 were reported at 6; the checkpoint of step 8 has none open. Then both ranks at 9 and 12.
    assert first == (12, 2 * 2 * 16)


def looks(last):
    """Steps looked at since the report before the last one."""
    return [at for at in range(0, last + 1, 3) if at > last - 6 or last == 6]


def rows_before(step, *, ranks):
    """Rows of the open window when the step begins: of the looks since the last report."""
    reported = max((at for at in (6, 12) if at < step), default=-1)
    return 16 * ranks * len([at for at in range(0, step, 3) if at > reported])
