"""The terminal as results are printed to it: what names hold is shown, and never obeyed."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from clip_adapt.cli.streams import write_signs
from clip_adapt.system.text.showing import show_line, show_text

WIDTH = 110  # of a file or a pipe, which have none


class ShownConsole(Console):
    """A console to which a text is a text: brackets are no markup, ESC is not obeyed."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)
        if not self.is_terminal:
            self.width = WIDTH

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text, a cell of a table or a title of one as rich draws it."""
        return super().render_str(write_signs(show_text(text), self.encoding), **options)


def embolden(text: str) -> Text:
    """Return a text in bold, shown as ``ShownConsole`` shows a plain one."""
    return Text(show_line(text), "bold")
