import pickle
from datetime import timedelta
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies import STATE_KINDS, StateKind, assert_same_state
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torchmetrics import MetricCollection

from logitwatch.metrics.adapter import StateMetric
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.extrema import Extrema
from logitwatch.states.logit_histogram import LogitHistogram
from logitwatch.states.moments import Moments
from logitwatch.states.protocol import Packed, pack, unpack

CLASSES = 6


def batch(rows: int = 40, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, CLASSES, generator=generator), torch.randint(CLASSES, (rows,), generator=generator)


def calibration_metric(**kwargs: Any) -> StateMetric:
    return StateMetric(CalibrationSketch, partial(CalibrationSketch.ece, num_bins=10), **kwargs)


def summing_metric() -> StateMetric:
    return StateMetric(Moments, attrgetter("total"))


@pytest.mark.parametrize("kind", STATE_KINDS.values(), ids=STATE_KINDS.keys())
def test_any_state_is_a_metric(kind: StateKind) -> None:
    generator = torch.Generator().manual_seed(0)
    metric = StateMetric(type(kind.empty()), read_out=lambda state: state, of=kind.of, empty=kind.empty)
    state = kind.empty()
    for _ in range(3):
        z, y = torch.randn(5, 3, generator=generator), torch.tensor([0, 1, 2, -100, 0])
        metric.update(z, y)
        state = state.merge(kind.of(z, y))
    # Sums are added in the same order.
    assert_same_state(metric.state, state, tolerance=0)


def test_forward_returns_the_value_of_the_batch_and_keeps_the_whole() -> None:
    metric, whole = calibration_metric(), CalibrationSketch.empty()
    for seed in range(3):
        part = CalibrationSketch.of(*batch(seed=seed))
        whole = whole.merge(part)
        assert metric(*batch(seed=seed)).item() == part.ece(10).item()
    assert metric.compute().item() == pytest.approx(whole.ece(10).item(), abs=1e-12)
    assert metric.state.count.item() == 120


def test_reset_forgets() -> None:
    metric = calibration_metric()
    metric.update(*batch())
    metric.reset()
    assert metric.state.count.item() == 0
    metric.update(*batch(seed=1))
    assert metric.compute().item() == CalibrationSketch.of(*batch(seed=1)).ece(10).item()


def test_a_clone_goes_its_own_way() -> None:
    metric = calibration_metric()
    metric.update(*batch())
    clone = metric.clone()
    clone.update(*batch(seed=1))
    assert (metric.state.count.item(), clone.state.count.item()) == (40, 80)


def test_it_is_pickled_with_what_it_saw() -> None:
    metric = calibration_metric()
    metric.update(*batch())
    loaded = pickle.loads(pickle.dumps(metric))
    assert loaded.compute().item() == metric.compute().item()
    loaded.update(*batch(seed=1))
    assert loaded.state.count.item() == 80


def test_its_state_dict_holds_plain_tensors_where_asked_for() -> None:
    metric, other = calibration_metric(), calibration_metric()
    assert metric.state_dict() == {}
    for m in (metric, other):
        m.persistent(True)
    metric.update(*batch())
    other.load_state_dict(metric.state_dict())
    assert_same_state(other.state, metric.state, tolerance=0)


# What is not a cast at all, and every way torch and torchmetrics have to cast.
CASTS = {
    "to_cpu": lambda m: m.to("cpu"),
    "to_half": lambda m: m.to(torch.float16),
    "to_bfloat16": lambda m: m.to(torch.bfloat16),
    "to_device_and_half": lambda m: m.to("cpu", torch.float16),
    "half": lambda m: m.half(),
    "float": lambda m: m.float(),
    "bfloat16": lambda m: m.bfloat16(),
    "type": lambda m: m.type(torch.float16),
    "set_dtype": lambda m: m.apply(lambda c: c.set_dtype(torch.float16) if isinstance(c, StateMetric) else c),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
def test_a_cast_of_the_model_leaves_the_state_in_float64(cast: Any) -> None:
    model = nn.Module()
    model.metric = summing_metric()
    model.metric.update(torch.tensor([2.0**30, 1.0]))  # too large for half, too long for float32
    cast(model)
    assert model.metric.packed_sums.dtype == torch.float64
    assert model.metric.compute().item() == 2.0**30 + 1
    model.metric.reset()
    assert model.metric.packed_sums.dtype == torch.float64
    model.metric.update(torch.tensor([1.0]))
    assert model.metric.compute().item() == 1.0


def test_it_moves_to_another_device() -> None:
    metric = summing_metric().to("meta")
    assert metric.packed_sums.device.type == "meta"
    assert metric.device.type == "meta"


def test_it_works_in_a_collection_beside_others() -> None:
    metrics = MetricCollection(
        {
            "ece": calibration_metric(),
            "accuracy": StateMetric(CalibrationSketch, CalibrationSketch.accuracy),
            "largest": StateMetric(Extrema, attrgetter("maximum"), of=lambda preds, target: Extrema.of(preds)),
        }
    )
    for seed in range(2):
        metrics.update(*batch(seed=seed))
    logits, targets = (torch.cat(parts) for parts in zip(batch(seed=0), batch(seed=1), strict=True))
    values = metrics.compute()
    whole = CalibrationSketch.of(logits, targets)
    assert values["ece"].item() == pytest.approx(whole.ece(10).item(), abs=1e-12)
    assert values["accuracy"].item() == whole.accuracy().item()
    assert values["largest"].item() == logits.max().item()


def test_no_graph_is_kept() -> None:
    metric = calibration_metric()
    logits, targets = batch()
    metric(logits.requires_grad_(), targets)
    assert not metric.packed_sums.requires_grad


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_lightning_logs_it_over_the_epoch(namespace: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip(namespace)

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, CLASSES)
            self.metric = calibration_metric()
            self.seen = CalibrationSketch.empty()

        def training_step(self, rows: list[Tensor], index: int) -> Tensor:
            x, y = rows
            logits = self.layer(x)
            self.metric(logits, y)
            self.seen = self.seen.merge(CalibrationSketch.of(logits, y))
            self.log("ece", self.metric, on_step=False, on_epoch=True)
            return nn.functional.cross_entropy(logits, y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.TensorDataset(x, torch.arange(32) % CLASSES)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    model = Model()
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=8))
    assert model.seen.count.item() == 32
    # Lightning keeps what it logs in float32.
    assert trainer.callback_metrics["ece"].item() == pytest.approx(model.seen.ece(10).item(), rel=1e-6)


def run_rank(rank: int, folder: str) -> None:
    """One of two processes: its share of the batches, then what the metrics say when synchronised, to a file."""
    init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    metrics = {
        "calibration": calibration_metric(),
        "extrema": StateMetric(Extrema, attrgetter("maximum"), of=lambda preds, target: Extrema.of(preds)),
        "histogram": StateMetric(
            LogitHistogram, attrgetter("total"), of=lambda preds, target: LogitHistogram.of(preds)
        ),
    }
    found = {}
    for name, metric in metrics.items():
        for seed in (0, 1, 2)[rank::2]:  # not equally many
            metric.update(*batch(seed=seed))
        value = metric.compute()
        metric.sync()
        found[name] = {"value": value, "sums": metric.packed_sums, "maxima": metric.packed_maxima}
        metric.unsync()
        found[name]["own"] = pack(metric.state)._asdict()
    torch.save(found, f"{folder}/{rank}.pt")
    destroy_process_group()


@pytest.mark.ranks
def test_two_ranks_see_what_one_process_sees(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    logits, targets = (torch.cat(parts) for parts in zip(*(batch(seed=s) for s in (0, 1, 2)), strict=True))
    whole = {
        "calibration": CalibrationSketch.of(logits, targets),
        "extrema": Extrema.of(logits),
        "histogram": LogitHistogram.of(logits),
    }
    for name, state in whole.items():
        for rank in ranks:
            metric = StateMetric(type(state), read_out=lambda s: s)
            metric.packed_sums, metric.packed_maxima = rank[name]["sums"], rank[name]["maxima"]
            assert_same_state(metric.state, state, scale=1000.0)  # sum of the sizes of 720 logits
    assert ranks[0]["calibration"]["value"] == ranks[1]["calibration"]["value"]
    assert ranks[0]["calibration"]["value"].item() == pytest.approx(whole["calibration"].ece(10).item(), abs=1e-12)
    # Each rank has its own rows back after the report.
    own = [unpack(CalibrationSketch.empty(), Packed(**rank["calibration"]["own"])) for rank in ranks]
    assert [state.count.item() for state in own] == [80, 40]
