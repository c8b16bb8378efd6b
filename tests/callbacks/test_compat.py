"""What `logitwatch.callbacks._compat` relies on, for each installed namespace."""

import pytest
from helpers.models import NAMESPACES, loader, model, namespace, trainer

from logitwatch.callbacks._compat import LightningCallback, log_scalars
from logitwatch.sinks.readings import Scalars, Text

each = pytest.mark.parametrize("lightning", [namespace(name) for name in NAMESPACES], ids=NAMESPACES)


@each
def test_the_base_is_a_callback_and_keeps_no_state(lightning):
    assert issubclass(LightningCallback, lightning.Callback)
    assert vars(LightningCallback()) == {}
    assert LightningCallback().state_dict() == {}


@each
@pytest.mark.parametrize("tag", ["calibration/val/ece", "calibration/val/ece/dataloader_idx_1", "logits/val/max/net.3"])
def test_a_scalar_of_an_epoch_is_a_metric_under_its_own_name_and_goes_to_no_logger(lightning, tag, tmp_path):
    class Says(lightning.Callback):
        def on_validation_epoch_end(self, trainer, module):
            log_scalars(
                module, [Text(tag="a/text", step=3, markdown=""), Scalars(values={tag: 0.25}, step=3)], batch_size=0
            )

    t = trainer(lightning, [Says()], folder=tmp_path)
    t.fit(model(lightning), loader(32), [loader(16), loader(16)])
    assert t.callback_metrics[tag].item() == 0.25
    assert tag not in t.logged_metrics
