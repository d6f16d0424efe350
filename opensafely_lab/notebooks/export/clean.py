"""The author's Markdown and code as markup that is only text: no script, no address, no style, no class of ours.

Two walls, either of which would do: everything passes nh3 with a short list of tags, and the page's own
policy lets it load nothing. Addresses of links are written out beside their text, so that they can be read,
on paper too, and nobody is led away by a click. Pictures are shown only if the document carries them.
"""

from __future__ import annotations

import html
import re

import nh3
from markupsafe import Markup
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "div"),
    *("ul", "ol", "li", "dl", "dt", "dd"),
    *("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"),
    *("b", "strong", "i", "em", "s", "del", "ins", "u", "small", "sub", "sup", "mark", "q", "cite", "abbr", "dfn"),
    *("code", "kbd", "samp", "var", "span", "img"),
}
ATTRIBUTES = {
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
    "ol": {"start"},
}
# What goes with its content, not only without its tag.
DROPPED = {"script", "style", "template", "iframe", "object", "embed", "noscript", "svg", "math", "title", "textarea"}
# Pygments' classes that the page has a colour for; a class of any other name is taken off.
_KEYWORDS = {"k", "kc", "kd", "kn", "kr", "ow"}
_STRINGS = {"s", "s1", "s2", "sa", "sb", "sc", "sd", "se", "sh", "si", "sx", "sr", "ss"}
_COMMENTS = {"c", "c1", "cm", "ch", "cs"}
_NUMBERS = {"m", "mi", "mf", "mh", "mo", "mb", "il"}
COLOURS = _KEYWORDS | _STRINGS | _COMMENTS | _NUMBERS | {"nb", "nf", "nc", "nd"}
OWN_CLASS = "osl-address"

PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}\Z")
SHOWN_ADDRESS = re.compile(r"(?:https?://|mailto:)\S+\Z", re.IGNORECASE)
_SCHEME = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
NOT_SHOWN = "[picture not shown]"
_IMG = re.compile(r'<img((?: [a-z]+="[^"]*")*)>')  # as nh3 writes it
_highlight = Highlight2HTML(pygments_lexer="ipython3")  # type: ignore[no-untyped-call]
_PLAIN = re.compile(r'<span(?: class="")?>([^<]*)</span>')
_BOX = re.compile(r'<input class="task-list-item-checkbox" type="checkbox" disabled( checked)?/>')


def markdown(source: str) -> Markup:
    """A Markdown cell. Math stays as it was typed."""
    made = MarkdownWithMath(renderer=_Renderer(escape=False, exclude_anchor_links=True)).render(source)
    return clean(_BOX.sub(lambda box: "☑ " if box[1] else "☐ ", made))


def code(source: str) -> Markup:
    """Python, coloured."""
    return clean(str(_highlight(source)))


def clean(markup: str) -> Markup:
    """Markup of which only text, its shape and the pictures that it carries are left."""
    cleaned = nh3.clean(
        markup,
        tags=TAGS,
        clean_content_tags=DROPPED,
        attributes=ATTRIBUTES,
        allowed_classes={"span": COLOURS | {OWN_CLASS}},
        url_schemes={"data"},
        attribute_filter=_attribute,
        link_rel=None,
    )
    return Markup(_PLAIN.sub(r"\1", _IMG.sub(_shown_picture, cleaned)))  # noqa: S704 - this is where markup becomes safe


def _attribute(tag: str, name: str, value: str) -> str | None:
    if tag == "img" and name == "src":
        return value if PICTURE.match(value) else None
    if name in ("width", "height", "colspan", "rowspan", "start"):
        return value if value.isascii() and value.isdecimal() and len(value) <= 4 else None
    return value


def _shown_picture(found: re.Match[str]) -> str:
    return found[0] if ' src="' in found[1] else NOT_SHOWN


class _Renderer(IPythonRenderer):
    """Reads no file, follows no attachment, leaves no link."""

    def image(self, text: str, url: str, title: str | None = None) -> str:
        alt = html.escape(re.sub(r"<[^>]*>", "", text))
        return f'<img src="{html.escape(url)}" alt="{alt}">' if PICTURE.match(url) else f"{NOT_SHOWN} {alt}".strip()

    def link(self, text: str, url: str, title: str | None = None) -> str:
        shown = html.escape(url)
        if not SHOWN_ADDRESS.match(url) or text in (shown, html.escape(_SCHEME.sub("", url))):
            return text
        return f'{text} <span class="{OWN_CLASS}">{shown}</span>'

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre>{html.escape(code)}</pre>"
