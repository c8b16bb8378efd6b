"""Names of what is logged: ``family/<stage>/<quantity>`` and what follows it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Tags"]


class Tags(NamedTuple):
    """Builds the tags of one stage, data loader and source.

    Examples:
        >>> Tags("val", loader=1)("logits", "entropy")
        'logits/val/entropy/dataloader_idx_1'
    """

    stage: str
    loader: int = 0
    source: str | None = None

    def __call__(self, family: str, quantity: str) -> str:
        tag = f"{family}/{self.stage}/{quantity}"
        if self.source is not None:
            tag += f"/{self.source}"
        return f"{tag}/dataloader_idx_{self.loader}" if self.loader else tag
