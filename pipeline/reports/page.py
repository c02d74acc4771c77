"""How is a page put together of text, tables and pictures, so that it needs nothing but itself?

No scripts, no fonts, no files beside it: it can be mailed. It follows the reader's choice of light or dark, folds with
`<details>`, and prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal, NewType

__all__ = ["Html", "bullets", "folded", "grid", "join", "note", "page", "picture", "section", "table", "text"]

Html = NewType("Html", str)
"""Text that is markup already; everything else is escaped."""

_LONG_WORD = 14
_CSS = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #59636e; --rule: #d5dbe1; --paper: #ffffff; --card: #f6f8fa;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe4e9; --soft: #9aa5b1; --rule: #3a424b; --paper: #14181c;
  --card: #1c2127; --mark: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 28px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 44px 0 8px; padding-top: 12px; border-top: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 22px 0 6px; }
p { margin: 6px 0 10px; max-width: 100ch; }
.soft, figcaption { color: var(--soft); }
nav { margin: 14px 0 0; line-height: 2; }
nav a { color: var(--mark); text-decoration: none; margin-right: 16px; white-space: nowrap; }
table { border-collapse: collapse; margin: 8px 0 14px; max-width: 100%; font-size: 13.5px; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--rule); vertical-align: top;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
th { font-weight: 600; text-align: right; overflow-wrap: break-word; }
th:first-child, td:first-child, table.words th, table.words td { text-align: left; }
td:first-child { color: var(--ink); min-width: 5em; }
table.words td { font-variant-numeric: normal; }
table:not(.words) td:not(:first-child) { white-space: nowrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 10px 18px;
  align-items: start; justify-items: start; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(520px, 100%), 1fr)); }
figure { margin: 4px 0 8px; min-width: 0; width: 100%; break-inside: avoid; }
figure svg, figure img { display: block; width: 100%; height: auto; fill: currentColor; }
figure svg text { font-family: system-ui, "Segoe UI", Roboto, Arial, "DejaVu Sans", sans-serif !important; }
figure img { background: #ffffff; border-radius: 4px; max-width: 950px; }
figcaption { font-size: 13px; max-width: 84ch; }
details { margin: 8px 0; border: 1px solid var(--rule); border-radius: 6px; padding: 6px 12px; }
details > summary { cursor: pointer; font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; background: var(--card); padding: 10px;
  border-radius: 6px; }
.note { background: var(--card); border-left: 3px solid var(--mark); padding: 6px 12px; margin: 8px 0;
  max-width: 90ch; }
.key { display: inline-block; width: 22px; height: 0; vertical-align: middle; margin-right: 7px; }
.keys { max-width: none; } .keys span:not(.key) { display: inline-block; margin-right: 22px; }
li { max-width: 100ch; overflow-wrap: anywhere; }
@media (max-width: 640px) { body { padding: 16px 12px 40px; } th, td { padding: 4px 5px; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; }
  h2 { break-after: avoid; } .grid { grid-template-columns: repeat(2, 1fr); } details { border: none; padding: 0; } }
"""


def page(title: str, *, intro: Html, sections: Iterable[tuple[str, str, Html]]) -> str:
    """The whole document; sections are (id, heading, content), and one without content is left out."""
    shown = [(name, heading, content) for name, heading, content in sections if content]
    links = " ".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in shown)
    body = "\n".join(section(name, heading, content) for name, heading, content in shown)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_CSS}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{intro}\n<nav>{links}</nav>\n{body}\n"
        f"</body>\n</html>\n"
    )


def section(name: str, heading: str, content: Html) -> Html:
    """A part of the page that can be linked to."""
    return Html(f'<section id="{name}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>')


def text(words: str, *, soft: bool = False) -> Html:
    """A paragraph."""
    return Html(f'<p class="soft">{escape(words)}</p>' if soft else f"<p>{escape(words)}</p>")


def note(words: str) -> Html:
    """A paragraph that should not be missed."""
    return Html(f'<p class="note">{escape(words)}</p>')


def bullets(lines: Iterable[str]) -> Html:
    """A list; empty if there are no lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return Html(f"<ul>{items}</ul>" if items else "")


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False, keys: Sequence[Html] = ()
) -> Html:
    """A table of text; numbers stand to the right unless it is one of words.

    Args:
        head: of each column.
        rows: as long as `head` each.
        words: whether the columns hold words.
        keys: markup before the text of each column after the first: its colour.
    """
    marks = ["", *keys] if keys else [""] * len(head)
    top = "".join(f"<th>{mark}{_breakable(cell)}</th>" for mark, cell in zip(marks, head, strict=True))
    body = "".join("<tr>" + "".join(f"<td>{_breakable(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    kind = ' class="words"' if words else ""
    return Html(f"<table{kind}><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>")


def _breakable(cell: str) -> str:
    """Text that may be broken after a separator, and anywhere in a word too long for a column."""
    marked = (
        re.sub(r"(?<=[/:,_.=])(?=[^\s\d])", "\0", cell)
        if any(len(word) > _LONG_WORD for word in cell.split())
        else cell
    )
    marked = re.sub(rf"([^\s\0]{{{2 * _LONG_WORD}}})(?=[^\s\0])", "\\1\0", marked)
    return escape(marked).replace("\0", "<wbr>")


def picture(image: Html, *, caption: str = "") -> Html:
    """An image and what is to be said of it."""
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{image}{said}</figure>")


def grid(pictures: Iterable[Html], *, kind: Literal["narrow", "wide"] = "narrow") -> Html:
    """Pictures side by side, as many as the screen has room for: three narrow ones, or two wide ones."""
    inside = "\n".join(pictures)
    return Html(f'<div class="grid {kind}">{inside}</div>' if inside else "")


def folded(heading: str, content: Html, *, is_open: bool = False) -> Html:
    """Content behind its heading; nothing if there is none."""
    return (
        Html(f"<details{' open' if is_open else ''}><summary>{escape(heading)}</summary>{content}</details>")
        if content
        else Html("")
    )


def join(*parts: Html) -> Html:
    """One after the other."""
    return Html("\n".join(part for part in parts if part))
