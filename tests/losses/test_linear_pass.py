import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitwatch.losses import linear_pass as module
from logitwatch.losses.linear_pass import LinearHead, RowPull, linear_pass


def head(rows: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> LinearHead:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(rows, 3, generator=generator), torch.randn(7, 3, generator=generator)
    bias, targets = torch.randn(7, generator=generator), torch.randint(7, (rows,), generator=generator)
    spread, counted = torch.full((7,), 1 / 7), torch.ones(rows, dtype=torch.bool)
    wide = torch.promote_types(dtype, torch.float32)
    return LinearHead(hidden.to(dtype), weight.to(dtype), bias.to(wide), None, targets, counted, spread.to(wide), None)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 30), st.integers(1, 9))
def test_chunking_changes_no_number(seed: int, rows: int, elements: int, half: int) -> None:
    one = torch.ones(6, dtype=torch.float64)
    arguments = head(6, seed), RowPull(0.8 * one, 0.2 * one, 0.1 * one)
    whole = linear_pass(*arguments, lend=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEWEST_ROWS", rows)
        patch.setattr(module, "MOST_ROWS", rows)
        patch.setattr(module, "HALF_CLASSES", half)
        patch.setattr(module, "chunk_elements", lambda _: elements)
        parts = linear_pass(*arguments, lend=True)
    torch.testing.assert_close(whole, parts)


def test_without_a_pull_there_are_rows_and_no_gradient() -> None:
    rows, gradients, statistics = linear_pass(head(5), lend=False)
    z = head(5)
    expected = (z.hidden @ z.weight.T + z.bias).logsumexp(-1)  # type: ignore[operator]
    torch.testing.assert_close(rows.log_partition, expected)
    assert tuple(gradients) == (None, None, None)
    assert statistics is None


def test_a_gradient_in_half_precision_is_added_up_in_float32() -> None:
    one = torch.ones(64)
    exact, half = head(64), head(64, dtype=torch.bfloat16)
    exact = exact._replace(hidden=half.hidden.double(), weight=half.weight.double(), bias=half.bias.double())  # type: ignore[union-attr]
    _, expected, _ = linear_pass(exact, RowPull(one.double()), lend=False)
    _, got, _ = linear_pass(half, RowPull(one), lend=False)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 5e-3 * theirs.norm()  # 8 bits


@pytest.mark.parametrize(("rows", "classes"), [(1, 10), (1000, 10), (1024, 131_072), (257, 32_768)])
def test_chunks_are_of_one_size_and_have_room(rows: int, classes: int) -> None:
    size = module.chunk_rows(rows, classes, torch.device("cpu"))
    assert size <= module.chunk_rows(rows, classes, torch.device("cpu"), half=True) <= module.MOST_ROWS
    assert size * classes <= max(module.CHUNK_ELEMENTS, module.FEWEST_ROWS * classes)
    assert -(-rows // size) * size - rows < -(-rows // size)  # the last one lacks less than a row for each chunk
