import pytest
import torch

from logitwatch.functional.numerics import (
    UNDERFLOW,
    accumulator_dtype,
    centred_exp,
    chunk_elements,
    full_precision,
    maybe_absent,
    upcast,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
        (torch.bool, torch.float32),
    ],
)
def test_half_and_integer_types_are_lifted_and_wider_ones_left(given: torch.dtype, expected: torch.dtype) -> None:
    assert upcast(torch.ones(2).to(given)).dtype == expected


def test_float32_is_not_copied() -> None:
    x = torch.ones(2)
    assert upcast(x) is x


def test_complex_logits_are_refused() -> None:
    with pytest.raises(TypeError, match=r"logits must be real, got torch\.complex64"):
        upcast(torch.tensor([1j]))


def test_only_a_device_without_float64_accumulates_in_float32() -> None:
    assert accumulator_dtype(torch.device("cuda")) == torch.float64
    assert accumulator_dtype(torch.device("mps")) == torch.float32


def test_a_chunk_is_half_a_mebibyte_on_a_cpu_and_64_on_an_accelerator() -> None:
    assert 4 * chunk_elements(torch.device("cpu")) == 512 * 2**10
    assert 4 * chunk_elements(torch.device("cuda")) == 64 * 2**20


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_full_precision_is_had_with_autocast_and_on_devices_without_it(device: str) -> None:
    x = torch.ones(2, device=device)
    with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(x.device):
        assert torch.linalg.vecdot(x, x).dtype == torch.float32


@pytest.mark.parametrize("dtype", UNDERFLOW)
def test_the_floor_is_below_what_the_type_can_tell_from_zero(dtype: torch.dtype) -> None:
    floor = torch.tensor(UNDERFLOW[dtype], dtype=dtype)
    assert floor.exp() == 0
    assert (floor + 1).exp() > 0  # and not far below it


@pytest.mark.parametrize("offset", [0.0, 1e30, -1e30])
def test_any_magnitude_stays_finite(offset: float) -> None:
    centred, e, s = centred_exp(torch.full((3, 4), offset))
    assert torch.equal(centred, torch.zeros(3, 4))
    assert torch.equal(e, torch.ones(3, 4))
    assert torch.equal(s, torch.full((3,), 4.0))


def test_classes_lie_on_any_axis() -> None:
    z = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    _, e, s = centred_exp(z, dim=1)
    torch.testing.assert_close(e / s.unsqueeze(1), z.softmax(1))


@pytest.mark.parametrize("bad", [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
def test_a_row_without_a_distribution_is_nan_and_spoils_no_other(bad: list[float]) -> None:
    _, _, s = centred_exp(torch.tensor([bad, [0.0, 0.0]]))
    assert s[0].isnan()
    assert s[1] == 2


def test_a_class_is_looked_for_on_a_cpu_and_taken_for_absent_elsewhere() -> None:
    assert not maybe_absent(torch.tensor([0.0, torch.nan, torch.inf]))
    assert maybe_absent(torch.tensor([0.0, -torch.inf]))
    assert not maybe_absent(torch.empty(0))
    # There is no value to look at here, so looking would raise where an accelerator would be waited for.
    assert maybe_absent(torch.zeros(2, device="meta"))
