"""Parse the pages of the board, so that tests see what a user sees."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = ("input", "link", "meta", "br", "hr", "img")


class Element:
    """An element of a page."""

    def __init__(self, tag, attributes, parent=None):
        self.tag = tag
        self.attributes = dict(attributes)
        self.parent = parent
        self.children = []

    def __getitem__(self, name):
        return self.attributes[name]

    def get(self, name, default=None):
        return self.attributes.get(name, default)

    @property
    def text(self):
        """Its text, with each run of white space as one space."""
        return " ".join("".join(self._texts()).split())

    def _texts(self):
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child._texts()
                if child.tag in ("p", "li", "div", "td", "th", "dt", "dd", "h1", "h2", "h3"):
                    yield " "

    def all(self, tag="", **attributes):
        """Return the elements inside it with this tag and these attributes, in order."""
        found = []
        for child in self.children:
            if isinstance(child, str):
                continue
            names = {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items()}
            if (not tag or child.tag == tag) and all(
                child.get(name) == value
                or (name == "class" and value in (child.get("class") or "").split())
                for name, value in names.items()
            ):
                found.append(child)
            found += child.all(tag, **attributes)
        return found

    def one(self, tag="", **attributes):
        """Return the only element with this tag and these attributes."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, (tag, attributes, [element.text for element in found])
        return found[0]

    def texts(self, tag="", **attributes):
        return [element.text for element in self.all(tag, **attributes)]

    def has(self, tag="", **attributes):
        return bool(self.all(tag, **attributes))

    @property
    def commands(self):
        """The commands to copy, in order."""
        return [command.one("code").text for command in self.all(class_="command")]

    @property
    def links(self):
        """The addresses of the links by their text."""
        return {
            link.text: link["href"]
            for link in self.all(
                "a",
            )
            if link.get("href")
        }


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = self.current = Element("", {})

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes, self.current)
        self.current.children.append(element)
        if tag not in VOID:
            self.current = element

    def handle_endtag(self, tag):
        assert self.current.tag == tag, f"</{tag}> closes <{self.current.tag}>"
        self.current = self.current.parent

    def handle_data(self, data):
        self.current.children.append(data)


def parse(text):
    """Return the root of a document. Every element must be closed."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.current is parser.root, f"<{parser.current.tag}> is not closed"
    return parser.root
