import torch

from logitwatch.losses.linear_function import LinearOptions
from logitwatch.losses.linear_uncompiled import uncompiled_linear_loss


def test_compiled_code_calls_it_without_tracing_it() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    hidden, head, targets = torch.ones(2, 3), torch.zeros(4, 3), torch.tensor([0, 1])

    def step(x: torch.Tensor) -> torch.Tensor:
        return 2 * uncompiled_linear_loss(x + 1, head, targets, None, None, LinearOptions())

    torch.testing.assert_close(torch.compile(step, backend=backend)(hidden), 2 * torch.tensor(4.0).log())
    names = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    assert len(graphs) == 2
    assert not any("mm" in name for name in names)
