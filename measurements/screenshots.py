"""The pictures of the page: `python measurements/screenshots.py` (needs Chromium and playwright)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import clew

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    from playwright.sync_api import sync_playwright
    from support.browser import chromium, served

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        methods = ["beyond_intuition_token", "attn_lrp", "attention_rollout", "random"]
        clew.evaluate(
            "segmentation", clew.load("mini:digits"), "mini:digits", methods=methods, out=folder / "runs" / "digits"
        )
        scene = folder / "scene.png"
        clew.captioned_scenes().images[5].save(scene)
        with served(folder, "--runs", str(folder / "runs")) as (address, _), sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            _take(browser, address, scene)
            browser.close()


def _take(browser, address: str, scene: Path) -> None:
    from support.browser import Page

    page = Page(browser.new_page(viewport={"width": 1280, "height": 800}), address)
    page.page.get_by_role("button", name="A digit among clutter").click()
    page.said("done")
    page.page.locator("#maps .clew-grid i").nth(27).hover()
    _save(page, "explain", full=True)
    page.page.get_by_role("tab", name="Compare").click()
    page.upload(str(scene), "compare")
    page.page.locator("#target-A textarea, #target-A input").fill("eight")
    page.page.locator("#target-B textarea, #target-B input").fill("three")
    page.choose("method-A", "attn_lrp")
    page.page.locator("#compare").click()
    page.said("done", "compare-status")
    _save(page, "compare", full=True)
    page.page.get_by_role("tab", name="Results of clew bench").click()
    page.page.locator("[data-testid='cell-0-1']").click()
    page.page.locator("#example .clew-card").first.wait_for()
    _save(page, "results", full=True)
    phone = Page(browser.new_page(viewport={"width": 390, "height": 844}), address)
    phone.page.get_by_role("button", name="Words of a review").click()
    phone.said("done")
    _save(phone, "phone", full=True)


def _save(page, name: str, full: bool) -> None:
    page.page.wait_for_timeout(800)
    page.page.screenshot(path=ROOT / "docs" / f"ui-{name}.png", full_page=full)


if __name__ == "__main__":
    main()
