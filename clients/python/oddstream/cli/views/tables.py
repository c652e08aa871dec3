"""The look that all tables share."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from oddstream.v1 import disclaimer_pb2

MARK_STYLE = "bold magenta"


def rows_table(*headings: str | tuple[str, dict[str, object]]) -> Table:
    """A table without frame; a heading may come with arguments of ``add_column``."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", expand=False)
    for heading in headings:
        name, options = (heading, {}) if isinstance(heading, str) else heading
        table.add_column(name, **options)  # type: ignore[arg-type]  # rich's own keywords by name
    return table


RIGHT: dict[str, object] = {"justify": "right", "no_wrap": True}
KEEP: dict[str, object] = {"no_wrap": True, "overflow": "ellipsis"}
FOLD: dict[str, object] = {"overflow": "fold"}


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Name and value, one a line; a value that is None or empty is left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value != "":
            table.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return table


def disclosure(disclaimer: disclaimer_pb2.Disclaimer) -> Text:
    return Text(f"\n{disclaimer.text} [{disclaimer.code}]", style="dim italic")


def heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")
