"""A result exported is one page that loads and runs nothing, and only dummy and released results are."""

from __future__ import annotations

import html.parser
import json
import subprocess
import sys

import nbformat
import pytest
from export_examples import MARKDOWN, changed, hostile, result

from opensafely_lab import cli
from opensafely_lab.notebooks.export import Level4NotExported, NotAResult, page, read
from opensafely_lab.notebooks.result import TABLE_MIME

OUTPUT = ("cells", 3, "outputs", 0)
FIGURE = ("cells", 3, "outputs", 1)
SAID = (*OUTPUT, "data", TABLE_MIME)
LOADING = {"src", "srcset", "href", "xlink:href", "action", "formaction", "poster", "background", "data", "ping"}


class Page(html.parser.HTMLParser):
    """Every tag with its attributes, and the text outside the style sheet."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data if self.tags[-1:] and self.tags[-1][0] != "style" else ""


@pytest.fixture(scope="module")
def honest() -> str:
    return page(read(result()))


def test_the_level_stands_at_the_top_and_on_every_table_and_figure(honest):
    assert honest.startswith("<!doctype html>")
    assert "<title>bleeding - DUMMY DATA</title>" in honest
    assert "computed on invented patients" in honest
    assert honest.count('<span class="osl-tag">DUMMY DATA</span>') == 2


def test_a_released_result_says_so_in_our_words_whatever_its_file_says():
    data = changed(result("released"), "metadata", "opensafely", "title", to="Secret")
    released = page(read(data))
    assert "<strong>Released</strong>" in released
    assert "Secret" not in released
    assert "DUMMY" not in released


def test_a_table_is_built_anew_with_its_caption_scopes_and_totals(honest):
    assert '<caption>people who bled <span class="osl-tag">' in honest
    assert '<th scope="col" class="osl-label">age</th>' in honest
    assert '<th scope="row">50 &amp; over &lt;b&gt;</th>' in honest
    assert honest.count('<span class="osl-redacted">[REDACTED]</span>') == 2  # and once in the footer
    rows = honest.split("<tbody>")[2].split("</tbody>")[0].split("<tr class=")[1:]
    assert ["osl-total" in row for row in rows] == [False, False, True, False, True]
    assert [row.count("osl-repeated") for row in rows] == [0, 1, 1, 0, 0]


def test_a_figure_is_in_the_page_with_words_for_those_who_do_not_see_it(honest):
    (picture,) = [attributes for tag, attributes in Page(honest).tags if tag == "img"]
    assert picture["alt"] == "bars. Drawn from the table."
    assert (picture["src"] or "").startswith("data:image/png;base64,iVBOR")


def test_a_placeholder_the_parameters_the_code_and_raw_text_are_there(honest):
    text = Page(honest).text
    for said in ("What this cell writes itself is not shown", "[50, 70]", "true", "<i>any</i>", "raw <b>text</b>"):
        assert said in text
    assert "<summary>Code 3</summary>" in honest
    assert '<span class="c1"># ask</span>' in honest


def test_markdown_is_rendered_and_the_address_of_a_link_is_written_out(honest):
    assert "<h1>How many bled</h1>" in honest
    assert "<strong>age</strong>" in honest
    assert "<td>1</td>" in honest
    assert 'the protocol <span class="osl-address">https://example.org/protocol</span>' in honest
    assert "<a" not in honest


def test_an_address_that_is_its_own_text_is_written_once():
    text = page(read(result(markdown="<https://example.org/a?b=1&c=2> and [mail](mailto:a@example.org)")))
    assert text.count("https://example.org/a?b=1&amp;c=2") == 1
    assert "mailto:a@example.org" in text


def test_a_picture_that_the_document_carries_is_shown_and_no_other():
    carried = "![mine](data:image/png;base64,iVBORw0KGgo=)"
    text = page(read(result(markdown=f"{carried}\n\n![other](https://example.org/x.png)\n\n- [x] done\n- [ ] not")))
    assert '<img src="data:image/png;base64,iVBORw0KGgo=" alt="mine">' in text
    assert "[picture not shown] other" in text
    assert "☑ done" in text


def test_equal_results_give_equal_pages(honest):
    assert page(read(result())) == honest


def test_a_result_that_jupyter_has_saved_anew_gives_the_same_page(honest):
    saved = nbformat.writes(nbformat.reads(result().decode(), as_version=4))  # text as lists of lines
    assert isinstance(json.loads(saved)["cells"][2]["source"], list)
    assert page(read(saved.encode())) == honest


def test_nothing_in_a_hostile_result_becomes_a_script_an_address_or_a_style():
    text = page(read(hostile("http://127.0.0.1:9")))
    found = Page(text)
    ours = {"html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer", "section", "details"}
    ours |= {"summary", "figure", "figcaption", "div", "span", "p", "strong", "dl", "dt", "dd", "pre", "code"}
    ours |= {"table", "caption", "thead", "tbody", "tr", "th", "td", "h1", "img"}
    assert {tag for tag, _ in found.tags} - ours == set()
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "id")]
        loaded = [value for name, value in attributes.items() if name in LOADING]
        assert all((value or "").startswith(("data:image/png;base64,", "data:,")) for value in loaded), (
            tag,
            attributes,
        )
        if tag == "header":
            assert attributes == {"class": "osl-banner"}
    assert text.count('class="osl-banner"') == 1
    assert text.count("<style>") == 1
    assert "root:x:0" not in text
    assert "<!--" not in text


def test_outputs_of_other_kinds_are_told_of_and_left_out():
    data = changed(result(), *OUTPUT, "data", to={"text/html": "<b>12345</b>", "text/plain": "12345"})
    text = page(read(data))
    assert "12345" not in text
    assert "not of a kind that a result has" in text


def test_a_result_of_level_4_is_refused():
    with pytest.raises(Level4NotExported) as refused:
        read(result("level4"))
    assert refused.value.exit_code == 3
    assert "level 4" in refused.value.sentence


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"nbformat": 4, "cells": [], "metadata": {}}',
        changed(result(), "nbformat", to=3),
        changed(result(), "cells", to={}),
        changed(result(), "cells", to=[]),
        changed(result(), "cells", 0, "id", to="other"),
        changed(result(), "cells", 2, "cell_type", to="heading"),
        changed(result(), "cells", 2, "source", to=5),
        changed(result(), "cells", 2, "source", to="\ud800"),
        changed(result(), "cells", 3, "outputs", to="none"),
        changed(result(), "cells", 3, "execution_count", to="<b>"),
        changed(result(), "metadata", "opensafely", to={"action": "a"}),
        changed(result(), "metadata", "opensafely", "level", to=["dummy"]),
        changed(result(), "metadata", "opensafely", "level", to="public"),
        changed(result(), "metadata", "opensafely", "action", to=None),
        changed(result(), "metadata", "opensafely", "parameters", to={"a": {"b": [1]}}),
        changed(result(), *SAID, "version", to=2),
        changed(result(), *SAID, "rows", to=[["only one"]]),
        changed(result(), *SAID, "rows", 0, 2, to=12345),
        changed(result(), *SAID, "label_columns", to=9),
        changed(result(), *SAID, "total_rows", to=[99]),
        changed(result(), *SAID, "total_rows", to=[True]),
        changed(result(), *SAID, "level", to="level4"),  # under a banner of dummy data
        changed(result(), *FIGURE, "data", "image/png", to="PHN2Zz4="),
        changed(result(), *FIGURE, "data", "image/png", to='x" onerror="y'),
    ],
)
def test_what_is_not_a_result_of_ours_is_refused_in_one_sentence(data):
    with pytest.raises(NotAResult) as refused:
        read(data)
    assert refused.value.exit_code == 3
    assert refused.value.sentence.startswith("This is not a result of OpenSAFELY Lab: ")
    assert "12345" not in str(refused.value)
    assert "run --out" in refused.value.next_step


def test_a_notebook_that_was_only_written_is_not_a_result():
    written = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    with pytest.raises(NotAResult):
        read(json.dumps(written).encode())


def test_the_command_writes_the_page_beside_the_result(tmp_path, capsys, honest):
    (tmp_path / "result.ipynb").write_bytes(result())
    assert cli.main(["export", str(tmp_path / "result.ipynb")]) == 0
    assert (tmp_path / "result.html").read_text() == honest
    assert capsys.readouterr().out == f"DUMMY DATA: wrote {tmp_path / 'result.html'}\n"
    other = tmp_path / "page.html"
    assert cli.main(["export", str(tmp_path / "result.ipynb"), "--to", "html", "--out", str(other)]) == 0
    assert other.read_text() == honest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "result.html", "result.ipynb"]


@pytest.mark.parametrize("level", ["level4", None])
def test_the_command_writes_nothing_of_what_it_refuses(tmp_path, capsys, level):
    place = tmp_path / "result.ipynb"
    place.write_bytes(result(level) if level else b"{}")
    assert cli.main(["export", str(place)]) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["result.ipynb"]
    assert ("level 4" if level else "not a result") in capsys.readouterr().err


def test_the_command_overwrites_no_result_and_needs_one(tmp_path, capsys):
    place = tmp_path / "result.ipynb"
    place.write_bytes(result())
    assert cli.main(["export", str(place), "--out", str(place)]) == 2
    assert cli.main(["export", str(place), "--out", str(tmp_path)]) == 2
    assert cli.main(["export", str(tmp_path / "none.ipynb")]) == 2
    assert cli.main(["export", str(place), "--out", str(tmp_path / "no" / "page.html")]) == 5
    assert place.read_bytes() == result()
    assert capsys.readouterr().err.count("\n") == 8  # a sentence and a next step each


def test_nbconvert_is_imported_only_when_a_page_is_made(tmp_path):
    (tmp_path / "level4.ipynb").write_bytes(result("level4"))
    code = (
        "import sys\nfrom opensafely_lab import cli\n"
        f"cli.main(['export', {str(tmp_path / 'level4.ipynb')!r}])\n"
        "heavy = {'nbconvert', 'nbformat', 'jsonschema', 'jinja2', 'nh3', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_making_a_page_builds_no_grammar_of_addresses(tmp_path):
    (tmp_path / "result.ipynb").write_bytes(result())
    code = (
        "import sys\nfrom opensafely_lab import cli\n"
        f"assert cli.main(['export', {str(tmp_path / 'result.ipynb')!r}]) == 0\n"
        "sys.exit('rfc3987_syntax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nbconvert_makes_the_same_page_and_refuses_the_same(honest):
    from opensafely_lab.notebooks.export.exporter import OpensafelyHTMLExporter

    exporter = OpensafelyHTMLExporter()
    text, resources = exporter.from_notebook_node(nbformat.reads(result().decode(), as_version=4))
    assert text == honest
    assert resources["output_extension"] == ".html"
    assert exporter.output_mimetype == "text/html"
    with pytest.raises(Level4NotExported):
        exporter.from_notebook_node(nbformat.reads(result("level4").decode(), as_version=4))


def test_no_option_of_nbconvert_makes_the_export_execute_a_notebook():
    from traitlets.config import Config

    from opensafely_lab.notebooks.export.exporter import OpensafelyHTMLExporter

    config = Config({"ExecutePreprocessor": {"enabled": True, "kernel_name": "python3"}})
    assert OpensafelyHTMLExporter(config=config)._preprocessors == []


def test_markdown_that_looks_like_a_level_stays_the_authors_text():
    text = page(read(result(markdown='<header class="osl-banner"><strong>Released</strong></header>' + MARKDOWN)))
    assert text.count('class="osl-banner"') == 1
    assert text.index("<strong>DUMMY DATA</strong>") < text.index("<strong>Released</strong>")
