"""An over-fitted network before and after each calibrator, on rows that neither the network nor the calibrator saw."""

import sys

import torch
import torch.nn.functional as F
from _fashion import fashion
from sklearn.datasets import load_digits
from torch import Tensor, nn

from logitwatch import calibrators as c
from logitwatch.states import CalibrationSketch

CANDIDATES: dict[str, c.Calibrator] = {
    "as it is": c.Identity(),
    "temperature": c.TemperatureScaling(),
    "vector": c.VectorScaling(),
    "matrix": c.MatrixScaling(),
    "matrix, off_diagonal=0.1": c.MatrixScaling(off_diagonal=0.1),
    "Platt": c.PlattScaling(),
    "beta": c.BetaCalibration(),
    "isotonic": c.IsotonicCalibration(),
    "histogram": c.HistogramBinning(),
}
MEASURES = ("accuracy", "ece", "null_ece", "nll")


def digits_in_three() -> list[tuple[Tensor, Tensor]]:
    """The upper three rows of 300 digits to train on, of 500 to calibrate on and of 997 to test on."""
    images, labels = map(torch.tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(labels))
    return [(images[i, :24].float() / 16, labels[i]) for i in order.split([300, 500, 997])]


def fashion_in_three() -> list[tuple[Tensor, Tensor]]:
    """2000 pieces of clothing to train on, 500 to calibrate on, the 10,000 of the test set to test on."""
    images, labels = fashion("train")
    order = torch.randperm(len(labels))[:2500]
    return [*((images[i], labels[i]) for i in order.split([2000, 500])), fashion("t10k")]


def overfitted(images: Tensor, labels: Tensor) -> nn.Module:
    """Trained long after its last mistake, when the loss falls by confidence alone."""
    net = nn.Sequential(nn.Linear(images.shape[1], 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.requires_grad_(False)


def main(data: str = "digits", splits: int = 5) -> dict[str, dict[str, float]]:
    table = {name: dict.fromkeys(MEASURES, 0.0) for name in CANDIDATES}
    for seed in range(splits):
        torch.manual_seed(seed)
        train, (images, labels), test = digits_in_three() if data == "digits" else fashion_in_three()
        net = overfitted(*train)
        for name, calibrator in CANDIDATES.items():
            calibrator.fit(net(images), labels)
            seen = CalibrationSketch.of(calibrator(net(test[0])), test[1])
            for measure in MEASURES:
                table[name][measure] += getattr(seen, measure)().item() / splits
    print(f"{data + ', mean of ' + str(splits):<26}", *(f"{measure:>9}" for measure in MEASURES))
    for name, row in table.items():
        print(f"{name:<26}", *(f"{value:9.4f}" for value in row.values()))
    return table


if __name__ == "__main__":
    main(*sys.argv[1:2])  # digits or fashion
