"""What must be left of a callback on the module it watched, and of the logits it saw: nothing."""

from __future__ import annotations

import gc
import signal
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from logitwatch.testing._lightning import namespaces_of
from logitwatch.testing.specimen import Factory, loader, module, step, train, trainer

__all__ = [
    "MODULE_CHECKS",
    "it_lets_go_of_the_module_after_a_fit",
    "it_lets_go_of_the_module_after_an_error_of_the_user",
    "it_lets_go_of_the_module_after_an_interrupt",
    "no_logits_or_graph_outlive_their_step",
    "the_logits_are_not_changed",
]


def it_lets_go_of_the_module_after_a_fit(factory: Factory) -> None:
    """No hook, no attribute and no mode is left."""
    _lets_go(factory, None)


def it_lets_go_of_the_module_after_an_error_of_the_user(factory: Factory) -> None:
    """Lightning calls no teardown then, and the user's error must come out as it was raised."""
    _lets_go(factory, ValueError)


def it_lets_go_of_the_module_after_an_interrupt(factory: Factory) -> None:
    """As after an error."""
    _lets_go(factory, KeyboardInterrupt)


def no_logits_or_graph_outlive_their_step(factory: Factory) -> None:
    """No more of them are alive at any moment than in a run without it."""
    monitor = factory()
    lightning = namespaces_of(monitor)[0]
    alone, watched = _Alive(), _Alive()
    train([], lightning=lightning, step=alone)
    watched.allowed = allowed = [*alone.counts, alone.count()]
    train([monitor], lightning=lightning, step=watched)
    for what in ("logits", "graph"):
        counts = [*watched.counts, watched.count()]
        kept = [count[what] - limit[what] for count, limit in zip(counts, allowed, strict=True)]
        assert max(kept) <= 0, f"the {what} of {max(kept)} steps too many are alive"


def the_logits_are_not_changed(factory: Factory) -> None:
    """Not even by an operation in place that leaves every value as it is."""
    seen: list[tuple[Tensor, int, Tensor]] = []
    lightning = namespaces_of(factory())[0]

    def check() -> None:
        for logits, version, values in seen:
            changed = not torch.equal(logits, values)
            assert not changed, "values of the logits were changed"
            assert logits._version == version, "an operation in place was applied to the logits"
        seen.clear()

    def looking(module: Any, batch: list[Tensor], stage: str) -> Any:
        check()
        result = step(module, batch, stage)
        logits = result["logits"]
        seen.append((logits, logits._version, logits.detach().clone()))
        return result

    train([factory()], lightning=lightning, step=looking)
    check()


class _Token:
    """Lives as long as the graph of the logits it is tied to."""


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: _Token) -> Tensor:
        ctx.token = token
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class _Alive:
    """A step that counts at its beginning whose logits and graphs are still alive."""

    def __init__(self) -> None:
        self.counts: list[Counter[str]] = []
        self.allowed: list[Counter[str]] | None = None
        self.over = False
        self._alive: list[tuple[str, Callable[[], bool]]] = []

    def __call__(self, module: Any, batch: list[Tensor], stage: str) -> Any:
        self.counts.append(self.count())
        x, y = batch
        token = _Token()
        logits = _Tied.apply(module(x), token)  # type: ignore[no-untyped-call]
        # A view or a detached copy keeps the values, so it is their memory that is followed.
        memory: Any = StorageWeakRef(logits.untyped_storage())  # type: ignore[no-untyped-call, unused-ignore]
        graph = weakref.ref(token)
        self._alive += [("logits", lambda: not memory.expired()), ("graph", lambda: graph() is not None)]
        loss = module.criterion(logits, y)
        module.log(f"{stage}_loss", loss)
        return {"loss": loss, "logits": logits, "targets": y}

    def count(self) -> Counter[str]:
        """Of how many steps the logits are alive, and the graphs."""
        count = self._count_now()
        if self.allowed is None or self.over:
            return count
        limit = self.allowed[len(self.counts)]
        # What seems to be kept may be a cycle that waits to be collected. That takes long, and the young ones go first.
        for generation in (0, 2):
            if count <= limit:
                return count
            gc.collect(generation)
            count = self._count_now()
        self.over = not count <= limit
        return count

    def _count_now(self) -> Counter[str]:
        return Counter(what for what, alive in self._alive if alive())


def _lets_go(factory: Factory, error: type[BaseException] | None) -> None:
    monitor = factory()
    lightning = namespaces_of(monitor)[0]
    without = _traces_after(lightning, [], error)  # first, lest it find what the other has left everywhere
    left = _traces_after(lightning, [monitor], error) - without
    assert not left, f"left behind: {', '.join(sorted(left))}"


def _traces_after(lightning: Any, callbacks: list[Any], error: type[BaseException] | None) -> Counter[str]:
    """What is on a module after a run that ends of itself, or with an exception of its fourth step."""
    raised = error("the user's") if error is not None else None

    def ending(module: Any, batch: list[Tensor], stage: str) -> Any:
        if raised is not None and module.global_step == 3:
            raise raised
        return step(module, batch, stage)

    used, subject = trainer(callbacks, lightning=lightning), module(lightning, ending)
    handler = signal.getsignal(signal.SIGINT)
    try:
        used.fit(subject, loader(), loader())
    except BaseException as out:
        # Lightning turns an interrupt into an exit, and switches further ones off.
        if out is not raised and not (isinstance(raised, KeyboardInterrupt) and isinstance(out, SystemExit)):
            raise
    finally:
        if isinstance(raised, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
    return _traces(subject, used.optimizers)


def _traces(subject: Any, optimizers: list[Any]) -> Counter[str]:
    """Attributes of every part, hooks of every part, parameter and optimizer, and modes: each with how many."""
    found: Counter[str] = Counter()
    parts = {f"module {name}".strip(): part for name, part in subject.named_modules()}
    parts |= {f"parameter {name}": parameter for name, parameter in subject.named_parameters()}
    parts |= {f"optimizer {index}": optimizer for index, optimizer in enumerate(optimizers)}
    for name, part in parts.items():
        found.update(f"{attribute} of {name}" for attribute in vars(part))
        for attribute in (*vars(part), "_backward_hooks", "_post_accumulate_grad_hooks"):
            hooks = getattr(part, attribute, None)
            if "hooks" in attribute and isinstance(hooks, dict):
                found[f"{attribute} of {name}"] += len(hooks)
    everywhere = torch.nn.modules.module
    for attribute in vars(everywhere):
        if attribute.startswith("_global_") and attribute.endswith("_hooks"):
            found[f"{attribute} of torch"] += len(getattr(everywhere, attribute))
    found["function modes"] += len(torch.overrides._get_current_function_mode_stack())  # type: ignore[no-untyped-call, unused-ignore]
    found["dispatch modes"] += len(_get_current_dispatch_mode_stack())
    return found


MODULE_CHECKS = (
    it_lets_go_of_the_module_after_a_fit,
    it_lets_go_of_the_module_after_an_error_of_the_user,
    it_lets_go_of_the_module_after_an_interrupt,
    no_logits_or_graph_outlive_their_step,
    the_logits_are_not_changed,
)
