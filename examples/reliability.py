"""A network that is too sure of itself, drawn: its reliability diagram, and what dividing by one temperature does.

Writes reliability.png and recalibration.png. The temperature is chosen on one half of the validation digits and
judged on the other, of which it knows nothing.
"""

from pathlib import Path

import torch
from _digits import loaders
from torch import Tensor, nn

from logitwatch.figures import recalibration_figure, reliability_figure
from logitwatch.states import CalibrationSketch


def best_temperature(logits: Tensor, targets: Tensor) -> float:
    """Of 200 temperatures from a tenth to ten, the one of least NLL."""
    grid = torch.logspace(-1, 1, 200).tolist()
    return min(grid, key=lambda temperature: CalibrationSketch.of(logits / temperature, targets).nll().item())


def learnt_by_heart(images: Tensor, targets: Tensor) -> nn.Module:
    """A network trained far past the point where it has no more errors, and still growing surer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), targets).backward()
        optimizer.step()
    return net


def main(out: str = "runs/reliability") -> tuple[float, float]:
    (images, targets), (unseen, labels) = (map(torch.cat, zip(*loader, strict=True)) for loader in loaders())
    net = learnt_by_heart(images[:100], targets[:100])
    with torch.no_grad():
        logits = net(unseen)
    half = len(logits) // 2
    temperature = best_temperature(logits[:half], labels[:half])
    before = CalibrationSketch.of(logits[half:], labels[half:])
    after = CalibrationSketch.of(logits[half:] / temperature, labels[half:])

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    reliability_figure(before).savefig(folder / "reliability.png")
    recalibration_figure(before, after).savefig(folder / "recalibration.png")
    print(f"temperature {temperature:.2f}: ECE {before.ece():.3f} -> {after.ece():.3f}; drawn in {folder}")
    return before.nll().item(), after.nll().item()


if __name__ == "__main__":
    main()
