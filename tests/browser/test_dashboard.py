"""The dashboard as a person opens it: a real run, a real TensorBoard on loopback, a real browser."""

import runpy
from pathlib import Path

import pytest

from logitwatch.callbacks.watch import watch

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dashboard():
    return runpy.run_path(str(ROOT / "docs/screenshots.py"))


@pytest.fixture(scope="module")
def address(dashboard, tmp_path_factory, chromium):
    """Of a TensorBoard that shows one small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        from _digits import Classifier, loaders
    from pytorch_lightning import Trainer
    from pytorch_lightning.loggers import TensorBoardLogger
    from torch import nn

    folder = tmp_path_factory.mktemp("runs")
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=watch(),
        logger=TensorBoardLogger(folder, name="small", version=""),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(nn.CrossEntropyLoss()), *loaders())
    with dashboard["tensorboard"](folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser(dashboard, chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=dashboard["ARGUMENTS"])
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A page; whatever script fails in it fails the test."""
    errors = []
    opened = browser.new_page(viewport={"width": 1500, "height": 1000})
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    opened.close()
    assert not errors


CATEGORIES = ("Range of the logits", "Logits: train", "Logits: val", "Calibration: val", "The suite itself")
CHARTS = ("val: mean between min and max (logit)", "entropy and NLL (nats)", "calibration error beside its null floor")


def test_custom_scalars_opens_with_our_categories_and_charts(dashboard, address, page):
    dashboard["show"](page, address, "custom_scalars", "Calibration: val")
    for text in CATEGORIES + CHARTS:
        page.get_by_text(text).first.wait_for()


def test_the_charts_of_custom_scalars_find_their_tags(dashboard, address, page):
    dashboard["custom_scalars"](page, address)
    page.locator("tf-custom-scalar-margin-chart-card").get_by_text("Matches (1)").first.wait_for()
    page.locator("tf-custom-scalar-multi-line-chart-card").get_by_text("Matches (2)").first.wait_for(state="attached")
    assert page.get_by_text("do not exist").count() == 0


def test_reliability_is_a_chart_of_the_pr_page_with_a_step_slider(dashboard, address, page):
    dashboard["reliability"](page, address)
    page.locator("tf-pr-curve-card").get_by_text("calibration/val/reliability").first.wait_for()
    page.get_by_text("step 38").first.wait_for()
    assert page.locator("paper-slider").count() == 1


def test_distributions_show_the_logits(dashboard, address, page):
    dashboard["distributions"](page, address)
    page.get_by_text("logits/val/histogram").first.wait_for()
    page.get_by_text("logits/val/margin_histogram").first.wait_for()
