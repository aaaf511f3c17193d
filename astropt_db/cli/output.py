"""Results for people (tables) and for programs (CSV, JSON), on stdout."""

from __future__ import annotations

import csv
import json
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

INT8_OID = 20
_INT8_ARRAY_OID = 1016
_TABLE_ROWS = 500
_NARROW = 9
_MIN_ROOM = 20


@dataclass(frozen=True)
class ResultColumn:
    """Name of a result column and its PostgreSQL type (0 if unknown)."""

    name: str
    type_oid: int = 0


def write_rows(
    columns: Sequence[ResultColumn], rows: Iterable[Sequence[object]], output_format: str
) -> int:
    """Print rows; returns how many.

    A table shows the first 500 rows and says so, with short lists and numbers; CSV and JSON
    print all, row by row as they come. CSV holds arrays and objects as JSON text.
    """
    if output_format == "csv":
        return _write_csv(columns, rows)
    if output_format == "json":
        return _write_json(columns, rows)
    return _write_table(columns, rows)


def _write_csv(columns: Sequence[ResultColumn], rows: Iterable[Sequence[object]]) -> int:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    count = 0
    for row in rows:
        writer.writerow(map(_csv_value, row))
        count += 1
    return count


def _csv_value(value: object) -> object:
    if isinstance(value, bool | list | dict):
        return _json_text(value)
    return "" if value is None else _text(value)


def _write_json(columns: Sequence[ResultColumn], rows: Iterable[Sequence[object]]) -> int:
    count = 0
    for row in rows:
        record = json_record(columns, row)
        click.echo(
            ("[\n" if count == 0 else ",\n") + json.dumps(record, ensure_ascii=False), nl=False
        )
        count += 1
    click.echo("[]" if count == 0 else "\n]")
    return count


def json_record(columns: Sequence[ResultColumn], row: Sequence[object]) -> dict[str, object]:
    """A row as a JSON object; 64-bit integers are strings."""
    keys = _distinct([column.name for column in columns])
    values = (_json_value(v, c.type_oid) for c, v in zip(columns, row, strict=True))
    return dict(zip(keys, values, strict=True))


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number on those that stood before: an object has each key once."""
    times: Counter[str] = Counter()
    distinct = []
    for name in names:
        times[name] += 1
        distinct.append(name if times[name] == 1 else f"{name}_{times[name]}")
    return distinct


def _json_value(value: object, oid: int) -> object:
    """JSON without numbers that a reader would round."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value) if oid == INT8_OID or abs(value) > 2**53 else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        inner = INT8_OID if oid == _INT8_ARRAY_OID else 0
        return [_json_value(one, inner) for one in value]
    if isinstance(value, dict):
        return {key: _json_value(one, 0) for key, one in value.items()}
    if isinstance(value, datetime | date):
        return value.isoformat()
    return _text(value)


def _text(value: object) -> str:
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def _json_text(value: object) -> str:
    return json.dumps(_json_value(value, 0), ensure_ascii=False)


def _write_table(columns: Sequence[ResultColumn], rows: Iterable[Sequence[object]]) -> int:
    stream = iter(rows)
    shown = [[_cell(value) for value in row] for row in islice(stream, _TABLE_ROWS)]
    more = next(stream, None) is not None
    console = Console(highlight=False, soft_wrap=False)
    cells = [[c.name, *(row[i] for row in shown)] for i, c in enumerate(columns)]
    if sum(max(map(cell_len, column)) + 2 for column in cells) <= console.width:
        console.print(_grid(columns, shown))
    elif len(columns) == 1:
        # Lines as they are: a terminal wraps them, a pager scrolls.
        click.echo("\n".join(cells[0]))
    else:
        _write_records(columns, shown, console)
    if more:
        click.echo(
            f"… more rows; the first {_TABLE_ROWS} are shown, --format csv gives all", err=True
        )
    return len(shown)


def _grid(columns: Sequence[ResultColumn], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(row[i] == "" or _is_number(row[i]) for row in rows)
        table.add_column(
            Text(column.name), justify="right" if numeric and rows else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _write_records(
    columns: Sequence[ResultColumn], rows: Sequence[Sequence[str]], console: Console
) -> None:
    """One value per line, wrapped, where a row does not fit the width of the terminal."""
    width = max(len(column.name) for column in columns)
    indent = "\n" + " " * (width + 3)
    room = max(_MIN_ROOM, console.width - width - 3)
    for number, row in enumerate(rows, 1):
        console.print(Text(f"row {number}", style="bold"))
        for column, value in zip(columns, row, strict=True):
            if len(value) > room:
                value = indent.join(textwrap.wrap(value, room, break_on_hyphens=False))
            click.echo(f"  {column.name:<{width}} {value}".rstrip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{_NARROW}g}"
    if isinstance(value, list):
        inside = ", ".join(_cell(one) for one in value[:4])
        return f"[{inside}, … {len(value)}]" if len(value) > 4 else f"[{inside}]"
    if isinstance(value, bool | dict):
        return _json_text(value)
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    return _text(value).replace("\n", " ")
