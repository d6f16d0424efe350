"""The main job, whole: `up`, the template's notebook, dummy data, another drug, the backend, the panel."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from lab_harness import Lab, launch, open_lab, running_up, screenshot
from playwright.sync_api import Locator, expect, sync_playwright

from opensafely_lab.desk.shipped import demo_records, template
from opensafely_lab.disclosure.policy import OPENSAFELY
from opensafely_lab.disclosure.redaction import redact, shown

pytestmark = [pytest.mark.browser, pytest.mark.sandbox, pytest.mark.slow]

ACCEPT = ".jp-Dialog-button.jp-mod-accept"
ASKED = {"index_date": "2012-06-30", "age_bands": [45, 65], "drug": "naproxen"}
TOOLBAR = ".jp-NotebookPanel-toolbar"
A_RUN = 180_000  # milliseconds: the first one on a machine builds the job's root


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, str]]:
    folder = tmp_path_factory.mktemp("up")
    folder.chmod(0o755)
    with running_up(folder) as running:
        yield running


def test_the_main_job_from_the_template_to_the_redacted_table(up: tuple[Lab, str]) -> None:
    lab, url = up
    with (
        sync_playwright() as playwright,
        launch(playwright) as browser,
        open_lab(browser, lab, url=url) as watched,
    ):
        page = watched.page
        expect(page.locator(".jp-Notebook")).to_contain_text("Gastrointestinal bleeding", timeout=30_000)
        expect(page.get_by_test_id("osl-status")).to_contain_text("level 4", timeout=60_000)

        page.locator(TOOLBAR).get_by_text("Dummy run").click()
        page.locator(ACCEPT).click()
        run = page.get_by_test_id("osl-run").first
        expect(run).to_have_attribute("data-stage", "done", timeout=A_RUN)
        run.get_by_test_id("osl-open-result").click()
        expect(page.get_by_test_id("osl-banner")).to_contain_text("DUMMY DATA")
        screenshot(page, "demo-dummy")
        page.locator(".lm-TabBar-tab", has_text="gi_bleeding.ipynb").click()

        page.locator(TOOLBAR).get_by_text("Submit").click()
        page.get_by_test_id("osl-parameter-index_date").fill(str(ASKED["index_date"]))
        page.get_by_test_id("osl-parameter-age_bands").fill("45, 65")
        page.get_by_test_id("osl-parameter-drug").select_option(label=str(ASKED["drug"]))
        screenshot(page, "demo-submit")
        page.locator(ACCEPT).click()
        run = page.get_by_test_id("osl-run").first
        expect(run).to_contain_text("naproxen", timeout=30_000)  # nothing stood in the way: no repair was needed
        expect(run.get_by_role("progressbar")).to_be_visible()
        screenshot(page, "demo-progress")
        expect(run).to_have_attribute("data-stage", "done", timeout=A_RUN)
        expect(run).to_contain_text("demo-backend")
        run.get_by_test_id("osl-open-result").click(timeout=30_000)

        result = page.locator('[data-testid="osl-result"]:visible')
        expect(result.get_by_test_id("osl-banner")).to_contain_text("Level 4 - not released")
        expect(result.get_by_test_id("osl-figure").locator("img")).to_have_js_property("complete", True)
        expect(result.get_by_test_id("osl-held").first).to_be_visible()
        tables = result.get_by_test_id("osl-table")
        result.get_by_test_id("osl-table").first.scroll_into_view_if_needed()
        screenshot(page, "demo-result")
        wanted = by_hand()
        assert numbers(tables.nth(0)) == wanted["people prescribed"]
        assert numbers(tables.nth(1)) == wanted["people who bled"]
        assert "[REDACTED]" in wanted["people who bled"].values()  # something was there to be hidden
        # By default nothing is asked of anybody but this Lab: `open_lab` looks when it ends.
        assert watched.complaints == []

    assert_nothing_of_level_4_is_in_the_study(lab.root, wanted)


def numbers(table: Locator) -> dict[tuple[str, str], str]:
    """The cells of a shown table by age band and sex, without the totals."""
    found = {}
    for row in table.locator("tbody tr").all():
        age, sex, count = row.locator("th, td").all_inner_texts()
        if "All" not in (age, sex):
            found[age, sex] = count
    return found


def by_hand() -> dict[str, dict[tuple[str, str], str]]:
    """What may be shown, from the hand-written query over the records."""
    connection = duckdb.connect()
    for file in demo_records().glob("*.parquet"):
        connection.execute(f"CREATE VIEW {file.stem} AS SELECT * FROM read_parquet('{file}')")
    query = (template() / "check" / "handwritten.sql").read_text()
    bands = ["under 45", "45-64", "65 and over"]
    every = {(band, sex): 0 for band in bands for sex in ("female", "male")}
    counts = {"people prescribed": dict(every), "people who bled": dict(every)}
    for table, band, sex, people in connection.execute(query, ASKED).fetchall():
        counts[table][band, sex] = people
    return {
        table: {cell: shown(redact(count, OPENSAFELY)) for cell, count in cells.items()}
        for table, cells in counts.items()
    }


def assert_nothing_of_level_4_is_in_the_study(study: Path, wanted: dict[str, dict[tuple[str, str], str]]) -> None:
    """No result is a file of the study: not in the working copy, not in a commit of it."""
    assert not list(study.rglob("*.result.ipynb"))
    notebook = json.loads((study / "analysis" / "gi_bleeding.ipynb").read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    for folder, _, names in os.walk(study):
        for name in names:
            if re.search(r"\.(ipynb|json|csv|html)$", name):
                assert "Level 4 - not released" not in Path(folder, name).read_text(errors="replace")
    assert wanted
