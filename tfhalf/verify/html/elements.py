"""Elements of an HTML page, of which text can never become markup.

The page is a tree of `xml.etree` elements, written by its serializer: every text and attribute is escaped there, so
that no template can forget to. The names, labels, paths and reasons in a manifest are whatever somebody wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, tostring

Child = Element | str

_MANY = 60  # rows or values of a list that are shown
_DEEP = 6
_LONG = 2000  # characters of a text
# Control characters, halves of surrogate pairs, and what turns the direction of writing.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element; an attribute's trailing ``_`` is left out, and another becomes ``-``."""
    built = Element(tag, {name.rstrip("_").replace("_", "-"): clean(str(value)) for name, value in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                built.text = (built.text or "") + clean(child)
            else:
                last.tail = (last.tail or "") + clean(child)
        else:
            built.append(child)
            last = child
    return built


def clean(text: str) -> str:
    """``text`` with a mark for each character that would not be seen, shortened where it is very long."""
    seen = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text[: _LONG + 1])
    return seen if len(seen) <= _LONG else seen[:_LONG] + " ..."


def page(title: str, style: str, children: Iterable[Element]) -> str:
    """A whole document. ``style`` is the one text that is not escaped: it must not come from a manifest."""
    sheet = Element("style")
    sheet.text = style
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        sheet,
    )
    root = element("html", head, element("body", element("main", *children)), lang="en")
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def section(title: str, *children: Child) -> Element:
    """A part of the page under its heading."""
    return element("section", element("h2", title), *children)


def folded(title: str, *children: Child) -> Element:
    """What is seen once it is opened."""
    return element("details", element("summary", title), *children)


def bullets(texts: Iterable[Child]) -> Element:
    """A list."""
    return element("ul", *(element("li", text) for text in texts))


def table(names: Sequence[Child], rows: Iterable[Sequence[Child]], numbers: Iterable[int] = ()) -> Element:
    """A table that scrolls by itself where it is wide; the columns ``numbers`` are aligned at the right."""
    right = set(numbers)
    head = element("tr", *(_cell("th", name, i in right) for i, name in enumerate(names)))
    body = [element("tr", *(_cell("td", cell, i in right) for i, cell in enumerate(row))) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def _cell(tag: str, child: Child, number: bool) -> Element:
    return element(tag, child, class_="number") if number else element(tag, child)


def facts(pairs: Mapping[str, Any]) -> Element:
    """Names and values, `value` of each; None is left out."""
    rows = [
        element("div", element("dt", words(name)), element("dd", value(content)))
        for name, content in pairs.items()
        if content is not None
    ]
    return element("dl", *rows)


def words(name: str) -> str:
    """A key as it is read: ``test_accuracy`` as "test accuracy"."""
    return str(name).replace("_", " ")


def value(content: Any, deep: int = 0) -> Child:
    """Whatever JSON can hold, as far as it can be looked at: dictionaries as `facts`, lists of them as tables."""
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, int):
        return f"{content:,}"
    if isinstance(content, float):
        return f"{content:,.0f}" if content.is_integer() and abs(content) < 1e15 else f"{content:.6g}"
    if content is None:
        return "-"
    if deep >= _DEEP:
        return "..."
    if isinstance(content, Mapping):
        return _mapping(content, deep + 1) if content else "none"
    if isinstance(content, list | tuple):
        return _list(list(content), deep + 1) if content else "none"
    return str(content)


def _mapping(content: Mapping[Any, Any], deep: int) -> Element:
    rows = [
        element("div", element("dt", str(name)), element("dd", value(one, deep)))
        for name, one in list(content.items())[:_MANY]
    ]
    return element("dl", *rows, *_rest(len(content)))


def _list(content: list[Any], deep: int) -> Child:
    shown = content[:_MANY]
    if all(isinstance(one, Mapping) for one in shown):
        names = list(dict.fromkeys(name for one in shown for name in one))[:12]
        rows = [[line(one[name], deep) if name in one else "" for name in names] for one in shown]
        return element("div", table(list(map(str, names)), rows), *_rest(len(content)))
    if any(isinstance(one, Mapping | list | tuple) for one in shown):
        return element("div", bullets([value(one, deep) for one in shown]), *_rest(len(content)))
    return line(content, deep)


def line(content: Any, deep: int = 0) -> str:
    """`value` in one line, for a cell of a table."""
    if deep >= _DEEP:
        return "..."
    if isinstance(content, Mapping):
        parts = [f"{name} {line(one, deep + 1)}" for name, one in list(content.items())[:_MANY]]
    elif isinstance(content, list | tuple):
        parts = [line(one, deep + 1) for one in content[:_MANY]]
    else:
        return str(value(content))
    return ", ".join(parts) + (f" and {len(content) - _MANY:,} more" if len(content) > _MANY else "")


def _rest(count: int) -> list[Element]:
    return [element("p", f"and {count - _MANY:,} more, in manifest.json", class_="note")] if count > _MANY else []
