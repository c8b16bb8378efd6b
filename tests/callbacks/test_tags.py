import pytest

from logitwatch.callbacks.tags import Tags
from logitwatch.sinks.glossary import describe


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (Tags("train"), "logits/train/entropy"),
        (Tags("val", 0), "logits/val/entropy"),
        (Tags("val", 2), "logits/val/entropy/dataloader_idx_2"),
        (Tags("val", 0, "net.3"), "logits/val/entropy/net.3"),
        (Tags("val", 1, "aux"), "logits/val/entropy/aux/dataloader_idx_1"),
    ],
)
def test_a_tag_says_the_stage_the_quantity_the_source_and_the_loader(tags, expected):
    assert tags("logits", "entropy") == expected


@pytest.mark.parametrize(
    "tags", [Tags("val"), Tags("val", 1), Tags("test", 0, "aux"), Tags("train", 1, "net.3")], ids=str
)
def test_the_glossary_knows_every_form_of_a_tag(tags):
    assert describe(tags("logits", "entropy")).unit == "nats"
    assert describe(tags("calibration", "ece")).meaning
