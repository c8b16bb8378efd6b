import torch

from logitwatch.calibrators.identity import Identity


def test_it_changes_nothing() -> None:
    z = torch.tensor([[1.0, -torch.inf], [torch.nan, 2.0]])
    identity = Identity().fit(torch.eye(2), torch.tensor([0, 1]))
    torch.testing.assert_close(identity(z), z, rtol=0, atol=0, equal_nan=True)
    assert identity(z.half()).dtype == torch.float32
