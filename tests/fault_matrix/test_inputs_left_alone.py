"""Cases 17 to 19 and 25 of the fault matrix: a look keeps nothing, writes to nothing and takes little memory."""

import weakref

import pytest
import torch
from end_to_end.recomputed import scalars
from helpers.memory import Peak
from helpers.models import loader, model, trainer
from helpers.spoiled import L, batch, labels, sketch, summary
from torch.multiprocessing.reductions import StorageWeakRef

import logitwatch
from logitwatch.capture.observation import Observation
from logitwatch.functional.numerics import chunk_elements
from logitwatch.states.protocol import pack


class Token:
    """Something only a node of the graph holds."""


def test_case_17_after_a_step_neither_its_logits_nor_its_graph_nor_its_loss_are_alive():
    held, alive = [], []

    def step(module, pair, stage):
        alive.append([what for what, gone in held if not gone()])
        z = module.net(pair[0]).exp()  # whose output its graph keeps
        loss = torch.nn.functional.cross_entropy(z, pair[1])
        logitwatch.observe(z, pair[1])
        token, storage = Token(), StorageWeakRef(z.untyped_storage())
        z.grad_fn.metadata["token"] = token
        graph, value = weakref.ref(token), weakref.ref(loss)
        held[:] = [
            ("logits", storage.expired),
            ("graph", lambda: graph() is None),
            ("loss", lambda: value() is None),
        ]
        return loss

    monitors = logitwatch.watch(every_n_steps=1)
    t = trainer(L, monitors, log_every_n_steps=2)
    t.fit(model(L, step), loader(160))
    assert monitors[0].faults == 0
    assert alive == [[]] * 10


def test_case_17_what_is_kept_of_logits_that_require_gradients_requires_none():
    z = batch().requires_grad_() * 1
    soft = batch(seed=1).requires_grad_().softmax(-1)
    seen = Observation.of(z, soft)
    kept = [seen.logits, seen.targets, seen.valid, *seen.statistics, *seen.extremes, seen.sample(3).logits]
    kept += [*pack(summary(z, soft)), *pack(sketch(z, soft))]
    assert not any(t.requires_grad or t.grad_fn is not None for t in kept)


KINDS = {
    "plain": lambda z: z,
    "absent classes": lambda z: z.masked_fill(z > 1, -torch.inf),
    "not finite": lambda z: z.masked_fill(z > 1, torch.nan),
    "half": lambda z: z.bfloat16(),
    "strided": lambda z: torch.stack((z, z), -1)[..., 0],
}


@pytest.mark.parametrize("change", KINDS.values(), ids=KINDS.keys())
def test_case_18_neither_logits_nor_targets_nor_mask_are_written_to(change):
    checked = []

    class Check(L.Callback):
        def on_before_backward(self, trainer, module, loss):
            for t, before, version in module.handed_over:
                assert t._version == version
                torch.testing.assert_close(t, before, rtol=0, atol=0, equal_nan=True)
                checked.append(t)

    def step(module, pair, stage):
        z = module.net(pair[0])
        given = change(z), pair[1], pair[1] != 3
        module.handed_over = [(t, t.detach().clone(), t._version) for t in given]
        logitwatch.observe(given[0], given[1], mask=given[2])
        return z.square().mean()

    monitors = logitwatch.watch(every_n_steps=1, rows=5)
    trainer(L, [*monitors, Check()]).fit(model(L, step), loader(64))
    assert monitors[0].faults == 0
    assert len(checked) == 12


def test_case_19_one_pair_of_monitors_validates_fits_tests_and_predicts(tmp_path):
    monitors = [
        logitwatch.LogitMonitor(every_n_steps=1, rows=10**9, on_fault="raise"),
        logitwatch.CalibrationMonitor(every_n_steps=1, rows=10**9, on_fault="raise"),
    ]
    modes = set()

    def step(module, pair, stage):
        modes.add((stage, torch.is_inference_mode_enabled()))
        z = module.net(pair[0])
        return torch.nn.functional.cross_entropy(z, pair[1])

    subject, t = model(L, step), trainer(L, monitors, folder=tmp_path, max_epochs=2, log_every_n_steps=3)
    t.validate(subject, loader(48), verbose=False)
    t.fit(subject, loader(64), loader(32))
    t.test(subject, loader(80), verbose=False)
    t.predict(subject, loader(16))
    t.validate(subject, loader(48), verbose=False)
    assert {("val", True), ("val", False), ("train", False), ("test", True), ("predict", True)} == modes
    found = scalars(tmp_path)
    rows = {stage: [value for _, value in found[f"logits/{stage}/rows"]] for stage in ("val", "test", "predict")}
    assert rows == {"val": [48, 32, 32, 48], "test": [80], "predict": [16]}
    assert sum(value for _, value in found["logits/train/rows"]) == 128


def test_case_19_states_from_inside_and_outside_of_inference_mode_merge_either_way():
    with torch.inference_mode():
        inside = summary(batch())
        inner = summary(batch(seed=1)).merge(inside)
    outside = summary(batch(seed=1))
    with torch.inference_mode(), torch.no_grad():
        handed_out = batch()
    assert handed_out.is_inference()
    both = outside.merge(summary(handed_out))
    for one in (outside.merge(inside), inside.merge(outside), inner):
        assert torch.equal(pack(one).sums, pack(both).sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_case_25_a_look_at_wide_logits_takes_four_chunks_of_memory_however_many_rows_there_are(dtype, masked):
    classes = 262_144
    # Lifted and contiguous, centred, exponentials, and what an operation makes of them; a chunk is a row at least.
    budget = 4 * 4 * max(classes, chunk_elements(torch.device("cpu")))
    for rows in (4, 16):
        z, y = batch(rows, classes).to(dtype), labels(rows)
        y[0] = -100 if masked else 0
        with Peak(z, y) as peak:
            summary(z, y)
            sketch(z, y)
        # Beside the chunks, two states of 86 and 260 KB and what is known of each row.
        assert budget / 4 < peak.bytes < budget + 2**20
