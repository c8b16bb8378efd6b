"""Photographs the TensorBoard dashboard of a run: ``python docs/screenshots.py RUN FOLDER``. Wants a chromium on PATH."""

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@contextlib.contextmanager
def tensorboard(run: str) -> Iterator[str]:
    """The address of a TensorBoard of one run, on a free port of this machine."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", run, "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*command, "--load_fast=false"], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            found = (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in server.stderr)
            yield next(match[0] for match in found if match)
        finally:
            server.terminate()


def show(page: Page, address: str, tab: str) -> None:
    page.goto("about:blank")  # a new fragment alone would not load the page again
    page.goto(f"{address}?darkMode=false#{tab}")


def settle(page: Page) -> None:
    """Wait until the charts have their data and have drawn it."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3000)


def custom_scalars(page: Page, address: str) -> None:
    show(page, address, "custom_scalars")
    page.wait_for_selector("text=Calibration: val")
    page.locator("tf-smoothing-input input").last.fill("0")
    page.keyboard.press("Enter")
    page.locator("paper-checkbox:has-text('outliers')").click()
    for category in ("Logits: train", "Logits: val", "Calibration: train"):
        page.locator(f"button.heading:has-text('{category}')").click()
    settle(page)


def reliability(page: Page, address: str) -> None:
    show(page, address, "pr_curves")
    page.wait_for_selector("text=calibration/val/reliability")
    page.locator("tf-tag-filterer input").fill("val")
    settle(page)


def distributions(page: Page, address: str) -> None:
    show(page, address, "distributions")
    page.wait_for_selector("text=logits/train/histogram")
    page.locator("tf-tag-filterer input").fill("val/(entropy_)?histogram")
    settle(page)


def main(run: str, folder: Path) -> None:
    with tensorboard(run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for photograph, width, height in ((custom_scalars, 1500, 960), (reliability, 900, 650), (distributions, 1500, 680)):
            page = browser.new_page(viewport={"width": width, "height": height})
            photograph(page, address)
            page.screenshot(path=folder / f"{photograph.__name__}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
