"""One HTML page that needs no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from yolo_slim.files import write_whole
from yolo_slim.reporting.classes import class_changes_cells
from yolo_slim.reporting.tables import (
    LAYERS_HEADER,
    STATES_HEADER,
    LayerRow,
    StateRow,
    classes_by_state,
    layers_cells,
    runtimes_cells,
    states_cells,
)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
figure { margin: 1.5em 0; }
img { max-width: 100%; }
figcaption { color: #666; }
.wide { overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  body { background: #1b1b1b; color: #ddd; }
  th, td { border-color: #444; }
  figcaption { color: #aaa; }
  img { background: #fff; }
}
@media print { body { max-width: none; margin: 0; } .wide { overflow: visible; } table { font-size: 11px; } }
details { margin: 1.5em 0; }
summary { cursor: pointer; }
"""


def write_report(
    path: str | Path,
    title: str,
    rows: Sequence[StateRow],
    layers: Sequence[LayerRow],
    images: Mapping[str, Path],
    notes: Sequence[str],
) -> None:
    """Writes one HTML page that needs no other file: tables, pictures and notes, without scripts and links.

    The page appears complete or not at all; an earlier one at ``path`` is replaced.

    Args:
        path: The page to write, in a folder that exists.
        title: Heading of the page.
        rows: What was measured of each state.
        layers: Channels per layer before and after the prune.
        images: Caption -> PNG file.
        notes: Paragraphs of plain text.

    Raises:
        ValueError: An image that is no PNG.
    """
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    if rows:
        parts += ["<h2>States</h2>", _table(STATES_HEADER, states_cells(rows))]
    if by_runtime := runtimes_cells(rows):
        parts += ["<h2>Latency by runtime</h2>", _table(by_runtime[0], by_runtime[1:])]
    if by_class := class_changes_cells(classes_by_state(rows)):
        table = _table(by_class[0], by_class[1:])
        parts.append(f"<details><summary>mAP50-95 of each class</summary>\n{table}\n</details>")
    parts += [_figure(caption, Path(image)) for caption, image in images.items()]
    if layers:
        parts += ["<h2>Channels per layer</h2>", _table(LAYERS_HEADER, layers_cells(layers))]
    body = "\n".join(parts)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
    write_whole(path, page)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [line("th", header), *(line("td", row) for row in rows)]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _figure(caption: str, image: Path) -> str:
    content = image.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{image} is no PNG file: give the report PNG pictures only")
    source = f"data:image/png;base64,{b64encode(content).decode()}"
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
