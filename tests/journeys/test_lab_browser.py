"""The extension in a real JupyterLab in Chromium, with a fake desk behind the server extension."""

from __future__ import annotations

import csv
import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fake_desk
import pytest
from contrast import ENOUGH, lowest_contrast
from lab_harness import TOKEN, Lab, Watched, launch, listener, open_lab, running_lab, screenshot
from playwright.sync_api import Browser, Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = "study/gi_bleeding.ipynb"
ACCEPT = ".jp-Dialog-button.jp-mod-accept"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


def _root(folder: Path) -> Path:
    root = folder / "root"
    (root / "study").mkdir(parents=True)
    (root / NOTEBOOK).write_text(json.dumps(fake_desk.NOTEBOOK))
    (root / "stray.ipynb").write_text(json.dumps(fake_desk.NOTEBOOK))
    (root / "linked.ipynb").write_text(json.dumps(_notebook_with_a_link()))
    return root


@pytest.fixture(scope="module")
def evil() -> Iterator[tuple[str, list[str]]]:
    with listener() as found:
        yield found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, evil: tuple[str, list[str]]) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    environment = {
        "OSL_FAKE_EARLIER": "1",
        "OSL_FAKE_DIRTY": "1",
        "OSL_FAKE_EVIL": evil[0],
        "OSL_FAKE_SECONDS": "2",  # a stage is long enough to be seen on a busy machine
    }
    with running_lab(folder, _root(folder), environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def foreign_lab(tmp_path_factory: pytest.TempPathFactory, evil: tuple[str, list[str]]) -> Iterator[Lab]:
    """A Lab that was started without our policy, as in a hosted service."""
    folder = tmp_path_factory.mktemp("foreign")
    environment = {"OSL_FAKE_EARLIER": "1", "OSL_FAKE_EVIL": evil[0]}
    with running_lab(folder, _root(folder), policy=False, theme="JupyterLab Dark", environment=environment) as running:
        yield running


def _notebook_with_a_link() -> dict[str, object]:
    link = {
        "version": 1,
        "id": "earlier000000002",
        "action": "<img src=x onerror=window.pwned=1>",
        "kind": "submitted",
        "sentence": "submitted. Its result appears in the panel.",
    }
    bundle = {"application/vnd.opensafely.job+json": link, "text/plain": "submitted"}
    cell = {
        "cell_type": "code",
        "id": "z",
        "metadata": {},
        "execution_count": 1,
        "source": "%opensafely submit",
        "outputs": [{"output_type": "display_data", "data": bundle, "metadata": {}}],
    }
    return {**fake_desk.NOTEBOOK, "cells": [cell]}


def _execute(page: Page, command: str, arguments: dict[str, object] | None = None) -> None:
    page.evaluate(
        "([command, args]) => window.jupyterapp.commands.execute(command, args).then(() => null)",
        [command, arguments or {}],
    )


def _press(page: Page, label: str) -> None:
    """A button of the notebook's toolbar."""
    page.locator(".jp-NotebookPanel-toolbar").get_by_text(label, exact=True).click()


def _result(page: Page, action: str, number: int) -> None:
    """Open the result of one of the runs that were there before."""
    _execute(page, "opensafely:open-panel")
    page.locator(f'[data-run="earlier{number:09d}"] [data-testid=osl-open-result]').click()
    expect(page.get_by_test_id("osl-result")).to_be_visible()


def _no_breakage(watched: Watched) -> None:
    assert [text for text in watched.complaints if "409 (Conflict)" not in text] == []


def test_a_notebook_is_submitted_from_its_toolbar_and_its_result_is_read_in_the_panel(
    browser: Browser, lab: Lab
) -> None:
    with open_lab(browser, lab, path=NOTEBOOK) as watched:
        page = watched.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect(page.locator(".jp-Notebook")).to_be_visible()
        _press(page, "Submit")
        page.get_by_test_id("osl-parameter-index_date").fill("2012-03-04")
        page.get_by_test_id("osl-parameter-drug").select_option(label="naproxen")
        page.get_by_test_id("osl-parameter-age_bands").fill("50, 70")
        screenshot(page, "submit")
        page.locator(ACCEPT).click()

        expect(page.locator(".osl-Form").get_by_test_id("osl-problem")).to_contain_text("not committed")
        expect(page.get_by_test_id("osl-parameter-drug")).to_have_value("2")  # what was typed is still there
        expect(page.locator(ACCEPT)).to_have_text("Commit it now")
        page.locator(ACCEPT).click()

        run = page.get_by_test_id("osl-run").first
        expect(run).to_contain_text("naproxen")
        expect(run).to_contain_text("50, 70")
        expect(run.get_by_role("progressbar")).to_be_visible()
        expect(run).to_contain_text("Executing")
        screenshot(page, "progress")
        expect(run).to_have_attribute("data-stage", "done", timeout=30_000)
        run.get_by_test_id("osl-open-result").click()

        expect(page.get_by_test_id("osl-banner")).to_contain_text("Level 4 - not released")
        expect(page.get_by_test_id("osl-result")).to_have_attribute("data-wall", "page")
        expect(page.get_by_test_id("osl-result")).to_contain_text("naproxen")
        table = page.get_by_test_id("osl-table")
        expect(table.locator("tbody tr").nth(2)).to_contain_text("135")
        expect(table.get_by_label("redacted")).to_have_count(3)
        expect(page.get_by_test_id("osl-held")).to_contain_text("not shown")
        screenshot(page, "result")
        table.get_by_test_id("osl-copy-csv").click()
        copied = list(csv.reader(io.StringIO(page.evaluate("() => navigator.clipboard.readText()"))))
        assert copied[0] == ["age band", "sex", "count"]
        assert copied[1] == ["under 40", "female", "[REDACTED]"]
        assert copied[-1] == ["'=1+1", "'@x", "-5"]  # no formula; a negative number stays a number
        _no_breakage(watched)


@pytest.mark.parametrize("theme", ["lab", "foreign_lab"])
def test_totals_are_bold_and_repeated_labels_quiet_and_all_of_it_can_be_read(
    browser: Browser, theme: str, request: pytest.FixtureRequest
) -> None:
    """The one Lab is light, the other dark."""
    lab = request.getfixturevalue(theme)
    with open_lab(browser, lab) as watched:
        _result(watched.page, "bleeding", 2)
        inside = watched.page if theme == "lab" else watched.page.frame_locator(".osl-Frame")
        table = inside.get_by_test_id("osl-table")
        expect(table.locator(".osl-mod-total")).to_have_count(3)
        weight = "cell => Number(getComputedStyle(cell).fontWeight)"
        assert table.locator(".osl-mod-total td").first.evaluate(weight) >= 600
        assert table.locator("tbody td").first.evaluate(weight) < 600
        quiet = table.locator(".osl-mod-repeated")
        assert quiet.all_text_contents() == ["under 40", "40-59", "60-79", "80 and over", "All", "All"]
        contrast, where = lowest_contrast(table)
        assert contrast >= ENOUGH, where
        table.scroll_into_view_if_needed()
        screenshot(watched.page, f"totals-{theme}")


def test_a_submitted_job_is_cancelled_from_the_panel_and_says_so(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab, path=NOTEBOOK) as watched:
        page = watched.page
        begun = {"path": NOTEBOOK, "kind": "submitted", "parameters": {"drug": "naproxen"}, "fixes": ["commit"]}
        _execute(page, "opensafely:open-panel")
        expect(page.get_by_test_id("osl-run").first).to_be_visible()
        _, started = lab.ask("runs", body=begun)
        run = page.locator(f'[data-run="{started["run"]["id"]}"]')  # type: ignore[index]
        cancel = run.get_by_test_id("osl-cancel")
        expect(run).to_have_attribute("data-stage", "dummy-run")
        expect(cancel).to_have_count(0)  # the backend has nothing of it yet
        cancel.click()
        page.get_by_role("button", name="Let it run").click()
        expect(cancel).to_be_enabled()
        cancel.click()
        expect(page.locator(".jp-Dialog")).to_contain_text("keeps nothing of it")
        screenshot(page, "cancel-dialog")
        page.get_by_role("button", name="Cancel the job").click()
        expect(cancel).to_have_text("Cancelling…")
        expect(cancel).to_be_disabled()
        expect(run).to_have_attribute("data-stage", "cancelled")
        expect(run).to_contain_text("Cancelled")
        expect(run.get_by_test_id("osl-problem")).to_contain_text("The job was cancelled; nothing of it is kept.")
        expect(cancel).to_have_count(0)
        expect(run.get_by_role("progressbar")).to_have_count(0)
        contrast, where = lowest_contrast(run)
        assert contrast >= ENOUGH, where
        screenshot(page, "cancelled")
        _no_breakage(watched)


def test_only_a_job_that_goes_on_can_be_cancelled(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab) as watched:
        page = watched.page
        _execute(page, "opensafely:open-panel")
        expect(page.locator('[data-run="earlier000000001"]').get_by_test_id("osl-cancel")).to_be_visible()
        for ended in range(2, 7):
            assert page.locator(f'[data-run="earlier{ended:09d}"]').get_by_test_id("osl-cancel").count() == 0
        _, begun = lab.ask("runs", body={"path": NOTEBOOK, "kind": "local", "parameters": {}, "fixes": []})
        run = page.locator(f'[data-run="{begun["run"]["id"]}"]')  # type: ignore[index]
        expect(run).to_have_attribute("data-stage", "checking")
        assert run.get_by_test_id("osl-cancel").count() == 0


def test_a_run_on_dummy_data_says_so_wherever_its_numbers_are(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab, path=NOTEBOOK) as watched:
        page = watched.page
        _press(page, "Dummy run")
        page.locator(ACCEPT).click()
        run = page.get_by_test_id("osl-run").first
        expect(run).to_contain_text("Dummy data")
        expect(run).to_have_attribute("data-stage", "done", timeout=30_000)
        run.get_by_test_id("osl-open-result").click()
        expect(page.get_by_test_id("osl-banner")).to_contain_text("DUMMY DATA")
        _no_breakage(watched)


def test_what_was_typed_wrongly_cannot_be_sent(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab, path=NOTEBOOK) as watched:
        page = watched.page
        _press(page, "Dummy run")
        for name, wrong in (("age_bands", "40, x"), ("minimum_age", "200"), ("index_date", "1999-01-01")):
            field = page.get_by_test_id(f"osl-parameter-{name}")
            before = field.input_value()
            field.fill(wrong)
            assert field.evaluate("field => !field.checkValidity()")
            expect(page.locator(ACCEPT)).to_be_disabled()
            field.fill(before)
            expect(page.locator(ACCEPT)).to_be_enabled()
        page.locator(".jp-Dialog").get_by_text("Cancel").click()


def test_a_notebook_that_is_in_no_study_is_explained(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab, path="stray.ipynb") as watched:
        page = watched.page
        _press(page, "Submit")
        expect(page.locator(".jp-Dialog")).to_contain_text("in no study")
        expect(page.locator(".jp-Dialog")).to_contain_text("template")
        page.locator(ACCEPT).click()


@pytest.mark.parametrize("wall", ["page", "frame"])
def test_no_script_of_a_result_runs_and_nothing_of_it_calls_out(
    browser: Browser,
    evil: tuple[str, list[str]],
    wall: str,
    request: pytest.FixtureRequest,
) -> None:
    """Behind either wall: the page's own policy, or the sandboxed frame in a Lab that has none."""
    lab = request.getfixturevalue("lab" if wall == "page" else "foreign_lab")
    with open_lab(browser, lab) as watched:
        page = watched.page
        _result(page, "hostile", 6)
        result = page.get_by_test_id("osl-result")
        expect(result).to_have_attribute("data-wall", wall)
        shown = result if wall == "page" else page.frame_locator(".osl-Frame").locator("body")
        expect(shown).to_contain_text("hostile")
        expect(shown.locator(".osl-Table-grid")).to_be_visible()
        for link in shown.locator("a").all():
            assert (link.get_attribute("href") or "#").startswith(("http://", "https://", "#"))
        page.wait_for_timeout(1500)  # whatever would load or run has had its time
        assert page.evaluate("() => window.pwned") is None
        assert evil[1] == []
        found = shown.evaluate(
            """root => ({
                 tags: [...root.querySelectorAll(
                   'script,iframe,object,embed,form,input,style,link,meta,base,video,audio')]
                   .map(e => e.tagName),
                 handlers: [...root.querySelectorAll('*')].flatMap(e => [...e.attributes])
                   .filter(a => a.name.startsWith('on') || a.name === 'style' || /^javascript:/i.test(a.value))
                   .map(a => a.name),
                 pictures: [...root.querySelectorAll('img')].map(e => e.src)
                   .filter(s => !s.startsWith('data:image/png'))
               })"""
        )
        assert found == {"tags": [], "handlers": [], "pictures": []}
        assert shown.locator(".lm-Widget.jp-Dialog, #main").count() == 0
        # A click on anything in it does no harm either.
        shown.get_by_text("a link", exact=False).first.click(timeout=2000, no_wait_after=True)
        assert page.evaluate("() => window.pwned") is None
        assert evil[1] == []


def test_a_foreign_lab_shows_results_in_a_frame_in_which_scripts_are_off(browser: Browser, foreign_lab: Lab) -> None:
    with open_lab(browser, foreign_lab) as watched:
        page = watched.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        _result(page, "bleeding", 2)
        frame = page.locator(".osl-Frame")
        assert "allow-scripts" not in (frame.get_attribute("sandbox") or "")
        inside = page.frame_locator(".osl-Frame")
        expect(inside.get_by_test_id("osl-banner")).to_contain_text("Level 4 - not released")
        expect(inside.get_by_test_id("osl-table")).to_contain_text("135")
        screenshot(page, "result-frame")
        inside.get_by_test_id("osl-copy-csv").click()
        assert "135" in page.evaluate("() => navigator.clipboard.readText()")
        ran = frame.evaluate(
            """frame => { const script = frame.contentDocument.createElement('script');
                 script.textContent = 'parent.pwned = 1'; frame.contentDocument.body.append(script);
                 return window.pwned ?? null; }"""
        )
        assert ran is None


def test_a_result_can_be_read_and_nothing_else(browser: Browser, lab: Lab) -> None:
    path = "osl:earlier000000002/bleeding.result.ipynb"
    with open_lab(browser, lab) as watched:
        page = watched.page
        _result(page, "bleeding", 2)
        refused = page.evaluate(
            """async path => {
                 const contents = window.jupyterapp.serviceManager.contents;
                 const tries = {
                   save: () => contents.save(path, {type: 'file', format: 'text', content: 'x'}),
                   rename: () => contents.rename(path, 'osl:earlier000000002/other.result.ipynb'),
                   remove: () => contents.delete(path),
                   untitled: () => contents.newUntitled({path: 'osl:', type: 'file'}),
                   copy: () => contents.copy(path, 'osl:'),
                   download: () => contents.getDownloadUrl(path),
                   notebook: () => contents.get(path, {type: 'notebook', format: 'json', content: true})
                 };
                 const refused = [];
                 for (const [name, attempt] of Object.entries(tries)) {
                   try { await attempt(); } catch (error) { refused.push(name); }
                 }
                 return refused; }""",
            path,
        )
        assert refused == ["save", "rename", "remove", "untitled", "copy", "download", "notebook"]
        sessions = urllib.request.Request(f"{lab.url}/api/sessions", headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(sessions) as answer:
            assert [s for s in json.loads(answer.read()) if "result" in s["path"]] == []
        assert page.get_by_test_id("osl-result").locator("[contenteditable=true], textarea, input").count() == 0


def test_a_file_that_looks_like_a_result_is_not_vouched_for(browser: Browser, lab: Lab) -> None:
    (lab.root / "fake.result.ipynb").write_text(fake_desk.hostile("http://127.0.0.1:9"))
    with open_lab(browser, lab) as watched:
        page = watched.page
        _execute(page, "docmanager:open", {"path": "fake.result.ipynb"})
        expect(page.get_by_test_id("osl-banner")).to_contain_text("Nobody vouches")
        expect(page.get_by_test_id("osl-banner")).not_to_contain_text("Released")
        assert page.evaluate("() => window.pwned") is None
        screenshot(page, "hostile")


def test_the_link_that_a_magic_leaves_in_a_notebook_leads_to_the_panel(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab, path="linked.ipynb") as watched:
        page = watched.page
        expect(page.locator(".osl-JobLink")).to_contain_text("<img src=x onerror=window.pwned=1>")
        page.get_by_test_id("osl-job-link").click()
        expect(page.locator('[data-run="earlier000000002"]')).to_have_attribute("data-revealed", "true")
        assert page.evaluate("() => window.pwned") is None


def test_a_problem_in_the_panel_is_repaired_with_its_button(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab) as watched:
        page = watched.page
        _execute(page, "opensafely:open-panel")
        refused = page.locator('[data-run="earlier000000003"]')
        expect(refused).to_contain_text("saved outputs")
        before = page.get_by_test_id("osl-run").count()
        refused.get_by_role("button", name="Strip outputs and commit").click()
        expect(page.get_by_test_id("osl-run")).to_have_count(before + 1)
        failed = page.locator('[data-run="earlier000000004"]')
        failed.get_by_text("What the notebook said").click()
        expect(failed).to_contain_text("NameError")


def test_the_panel_finds_its_way_back_after_the_connection_was_lost(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab) as watched:
        page = watched.page
        _execute(page, "opensafely:open-panel")
        expect(page.get_by_test_id("osl-live")).to_have_text("Live")
        page.context.set_offline(True)
        _, started = lab.ask(
            "runs", body={"path": NOTEBOOK, "kind": "local", "parameters": {"drug": "naproxen"}, "fixes": []}
        )
        page.context.set_offline(False)
        run = started["run"]["id"]  # type: ignore[index]
        expect(page.locator(f'[data-run="{run}"]')).to_be_visible(timeout=20_000)
        expect(page.get_by_test_id("osl-live")).to_have_text("Live", timeout=20_000)


def test_a_new_study_is_made_from_the_launcher(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab) as watched:
        page = watched.page
        expect(page.get_by_test_id("osl-status")).to_have_text("OpenSAFELY: gi-bleeding, level 4")
        _execute(page, "filebrowser:go-to-path", {"path": "/"})
        _execute(page, "launcher:create")
        page.locator('.jp-LauncherCard[title*="dataset definition"]').last.click()
        page.locator(".jp-Dialog input").fill("from-launcher")
        page.locator(ACCEPT).click()
        expect(page.locator(".jp-Notebook:visible")).to_contain_text("Gastrointestinal bleeding")
        assert (lab.root / "from-launcher" / "gi_bleeding.ipynb").is_file()


def test_the_palette_has_every_command(browser: Browser, lab: Lab) -> None:
    with open_lab(browser, lab) as watched:
        labels = watched.page.evaluate(
            """() => ['run', 'submit', 'open-panel', 'new-study']
                 .map(name => window.jupyterapp.commands.label(`opensafely:${name}`))"""
        )
        assert labels == [
            "Run on dummy data",
            "Submit to the backend",
            "Show the OpenSAFELY panel",
            "New study from template…",
        ]
