"""An exported page in Chromium: a hostile one runs nothing and asks for nothing; an honest one can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contrast import ENOUGH, lowest_contrast
from export_examples import hostile, result
from lab_harness import launch, listener, screenshot
from playwright.sync_api import Browser, Page, Request, sync_playwright

from opensafely_lab.notebooks.export import page, read

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


def _open(browser: Browser, file: Path, scheme: str = "light") -> tuple[Page, list[str]]:
    asked: list[str] = []
    opened = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]

    def ask(request: Request) -> None:
        if not request.url.startswith("data:"):
            asked.append(request.url)

    opened.on("request", ask)
    opened.goto(file.as_uri())
    return opened, asked


def test_no_script_of_a_hostile_result_runs_and_nothing_of_it_calls_out(browser: Browser, tmp_path: Path) -> None:
    with listener() as (evil, heard):
        file = tmp_path / "page.html"
        file.write_text(page(read(hostile(evil))))
        opened, asked = _open(browser, file)
        for code in opened.locator("details").all():
            code.evaluate("details => { details.open = true; }")
        opened.get_by_text("a link", exact=False).first.click(timeout=2000, no_wait_after=True)
        opened.get_by_text("another", exact=False).first.click(timeout=2000, no_wait_after=True)
        opened.wait_for_timeout(1500)  # whatever would load or run has had its time
        assert opened.evaluate("() => window.pwned") is None
        assert heard == []
        assert asked == [file.as_uri()]
        assert opened.locator("script,iframe,object,embed,form,input,base,a,svg,video,audio").count() == 0
        assert opened.locator(".osl-banner").count() == 1
        assert "root:x:0" not in opened.content()
        screenshot(opened, "export-hostile")
        opened.close()


def test_the_pages_own_policy_would_hold_even_if_the_cleaning_did_not(browser: Browser, tmp_path: Path) -> None:
    with listener() as (evil, heard):
        evils = f"<script>window.pwned=1</script><img src=x onerror='window.pwned=2'><img src='{evil}/i'>"
        evils += f"<style>body{{background:url({evil}/css)}}</style><iframe src='{evil}/frame'></iframe>"
        file = tmp_path / "page.html"
        file.write_text(page(read(result())).replace("</main>", f"{evils}</main>"))
        opened, _ = _open(browser, file)
        opened.wait_for_timeout(1500)
        assert opened.evaluate("() => window.pwned") is None
        assert heard == []
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("level", ["dummy", "released"])
def test_every_text_can_be_read_in_light_and_dark(browser: Browser, tmp_path: Path, scheme: str, level: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(read(result(level))))  # type: ignore[arg-type]
    opened, asked = _open(browser, file, scheme)
    opened.locator("details").evaluate("details => { details.open = true; }")
    contrast, where = lowest_contrast(opened.locator("body"))
    assert contrast >= ENOUGH, where
    assert asked == [file.as_uri()]
    total, other = (opened.locator(f"tr{which} > td").first for which in (".osl-total", ":not(.osl-total)"))
    weights = [int(cell.evaluate("cell => getComputedStyle(cell).fontWeight")) for cell in (total, other)]
    assert weights[0] >= 600 > weights[1]
    screenshot(opened, f"export-{level}-{scheme}")
    opened.close()


def test_the_level_stays_in_sight_and_a_phone_scrolls_in_one_direction(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(read(result())))
    opened, _ = _open(browser, file)
    opened.set_viewport_size({"width": 360, "height": 500})
    opened.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
    assert opened.locator(".osl-banner").evaluate("e => e.getBoundingClientRect().bottom") > 0
    assert opened.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    opened.close()
