"""Photographs the dashboard of a run: ``python docs/screenshots.py RUN FOLDER``. Wants a chromium on PATH."""

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
def tensorboard(run: Path) -> Iterator[str]:
    """The address of a TensorBoard of one run, on a free port of this machine."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", run.name, "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen([*command, "--load_fast=false"], cwd=run.parent, stderr=subprocess.PIPE, text=True)
    with server:
        try:
            said = []
            for line in server.stderr or ():
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                    yield found[0]
                    return
            raise RuntimeError(f"TensorBoard did not start: {''.join(said)}")
        finally:
            server.terminate()


def show(page: Page, address: str, tab: str, text: str) -> None:
    """Open a tab of the dashboard and wait for a text in it."""
    page.goto("about:blank")  # a new fragment alone would not load the page again
    page.goto(f"{address}?darkMode=false#{tab}")
    page.wait_for_selector(f"text={text}")


def settle(page: Page) -> None:
    """Wait until the charts have their data and have drawn it."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(3000)


def custom_scalars(page: Page, address: str) -> None:
    show(page, address, "custom_scalars", "Calibration: val")
    page.locator("tf-smoothing-input input").last.fill("0")
    page.keyboard.press("Enter")
    page.locator("paper-checkbox:has-text('outliers')").click()
    for category in ("Logits: train", "Logits: val", "Calibration: train"):
        page.locator(f"button.heading:has-text('{category}')").click()
    settle(page)


def reliability(page: Page, address: str) -> None:
    show(page, address, "pr_curves", "calibration/val/reliability")
    page.locator("tf-tag-filterer input").fill("val")
    settle(page)


def distributions(page: Page, address: str) -> None:
    show(page, address, "distributions", "logits/train/histogram")
    page.locator("tf-tag-filterer input").fill("val/(margin_)?histogram")
    settle(page)


# What to show, how tall the window is, and how much of its 1500 pixels of width is kept.
PHOTOGRAPHS = ((custom_scalars, 960, 1500), (reliability, 700, 930), (distributions, 680, 1500))


def main(run: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tensorboard(run) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for arrange, height, width in PHOTOGRAPHS:
            page = browser.new_page(viewport={"width": 1500, "height": height})
            arrange(page, address)
            clip = {"x": 0, "y": 0, "width": width, "height": height}
            page.screenshot(path=folder / f"{arrange.__name__}.png", clip=clip)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
