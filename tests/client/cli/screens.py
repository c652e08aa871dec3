"""What a renderable looks like as text."""

import io

from rich.console import Console


def text_of(renderable, columns):
    console = Console(file=io.StringIO(), width=columns, highlight=False, color_system=None, force_terminal=False)
    console.print(renderable)
    return console.file.getvalue()


def lines_of(renderable, columns):
    lines = text_of(renderable, columns).splitlines()
    assert all(len(line) <= columns for line in lines)
    return [line.rstrip() for line in lines]
