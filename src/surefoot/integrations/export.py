"""A recorded run as one long table, in CSV or Parquet: every number that is in the record.

A row is one number: `training`, `step`, `rows` (how many steps the bucket holds), `quantity`,
`statistic`, `layer`, `parameter`, `low`, `high` and `last` (equal where nothing was thinned). NaN
is what was not measured. The rows are streamed, so memory does not grow with the run.

In CSV a text that a spreadsheet would take for a formula has an apostrophe before it, which is how
spreadsheets mark text; in Parquet names are as they are.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from surefoot.integrations.output import library
from surefoot.layers import LayerTable
from surefoot.record import blob
from surefoot.record.database import open_reader
from surefoot.record.reader import declaration
from surefoot.record.rows import integers
from surefoot.record.schema import Steps
from surefoot.signals import QUANTITIES, Axis

TEXTS = ("quantity", "statistic", "layer", "parameter")
COLUMNS = ("training", "step", "rows", *TEXTS, "low", "high", "last")
_PIECE = 1 << 18  # numbers that are held at a time, about
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


@dataclass(frozen=True, slots=True)
class Labels:
    """What the C columns of a quantity are: the texts of each, in the order of TEXTS."""

    texts: list[tuple[str, str, str, str]]

    @staticmethod
    def of(name: str, columns: int, layers: LayerTable) -> Labels:
        """Those of a family of the record; one that is unknown has its numbers for statistics."""
        quantity = QUANTITIES.get(name)
        statistics = quantity.statistics if quantity is not None else ()
        if not statistics or columns % len(statistics):
            return Labels([(name, str(k), "", "") for k in range(columns)])
        per_parameter = quantity is not None and quantity.axis is Axis.PARAMETER
        several = quantity is not None and quantity.axis in (Axis.GROUP, Axis.BLOCK)
        texts = []
        for k in range(columns):
            place, which = divmod(k, len(statistics))
            statistic, layer, parameter = statistics[which], "", ""
            if per_parameter and place < len(layers.parameters):
                owner = layers.parameters[place]
                layer, parameter = layers.title(owner.layer), owner.name
            elif several:
                statistic = f"{statistic}.{place}"
            texts.append((name, statistic, layer, parameter))
        return Labels(texts)


@dataclass(frozen=True, slots=True)
class Piece:
    """Buckets of one quantity: `steps` and `rows` [B], `stack` [3, B, C] of low, high and last."""

    training: int
    steps: np.ndarray
    rows: np.ndarray
    labels: Labels
    stack: np.ndarray


class Sink(Protocol):
    """Where pieces go."""

    def put(self, piece: Piece) -> None: ...


def export(run: str | os.PathLike[str], path: str | os.PathLike[str], force: bool = False) -> int:
    """Write the table of a run folder to a `.csv` or `.parquet` file; returns its rows.

    The file is there whole or not at all. Raises RecordError for a folder that cannot be read,
    FileExistsError for a file that is there already (unless `force`), OSError for one that cannot
    be written, ValueError for another ending, ModuleNotFoundError for Parquet without pyarrow.
    """
    target = Path(path)
    kind = KINDS.get(target.suffix.lower())
    if kind is None:
        raise ValueError(f"expected a file that ends in {' or '.join(KINDS)}, got {target.name!r}")
    _vacant(target, force)
    count = 0
    with _draft(target, force) as draft, kind(draft) as sink:
        for piece in pieces(Path(run)):
            sink.put(piece)
            count += piece.stack[0].size
    return count


def pieces(run: Path) -> Iterator[Piece]:
    """All buckets of all trainings, as one moment saw them, a bounded number at a time."""
    # It is opened in here: an error of who takes the pieces is not one of the folder.
    with open_reader(run) as connection:
        connection.execute("BEGIN")  # a live run goes on; what it adds is not seen
        found = connection.execute("SELECT id FROM training ORDER BY id").fetchall()
        for training in integers(tuple(number for (number,) in found)).tolist() if found else ():
            layers, table = declaration(connection, training)
            if table is not None:
                yield from _pieces_of(connection, table, layers)


def _pieces_of(connection: Any, table: Steps, layers: LayerTable) -> Iterator[Piece]:
    labels = {name: Labels.of(name, n, layers) for name, n in table.families.items()}
    limit, after = max(_PIECE // max(table.columns, 1), 1), -1
    while rows := connection.execute(table.select(), (after, limit)).fetchall():
        identities, steps, counts, *blobs = zip(*rows, strict=True)
        ids = integers(identities)
        if ids[0] <= after or (ids[1:] <= ids[:-1]).any():
            raise ValueError("the rows are out of order")
        after = int(ids[-1])
        at_steps, of_rows = integers(steps), integers(counts)
        for (name, columns), of_family in zip(table.families.items(), blobs, strict=True):
            at = [k for k, data in enumerate(of_family) if data is not None]
            if at:
                stack = blob.unpack([of_family[k] for k in at], columns)
                yield Piece(table.training, at_steps[at], of_rows[at], labels[name], stack)


# -- the kinds of file ----------------------------------------------------------------------------


class _Csv:
    def __init__(self, file: Any) -> None:
        self._writer = csv.writer(file)
        self._writer.writerow(COLUMNS)

    def put(self, piece: Piece) -> None:
        texts = [tuple(map(safe, labels)) for labels in piece.labels.texts]
        low, high, last = (part.astype(np.float64).tolist() for part in piece.stack)
        for k, (step, rows) in enumerate(
            zip(piece.steps.tolist(), piece.rows.tolist(), strict=True)
        ):
            self._writer.writerows(
                (piece.training, step, rows, *labels, a, b, c)
                for labels, a, b, c in zip(texts, low[k], high[k], last[k], strict=True)
            )


@contextmanager
def _csv(draft: Path) -> Iterator[Sink]:
    with open(draft, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield _Csv(file)


class _Parquet:
    def __init__(self, pyarrow: Any, writer: Any, schema: Any) -> None:
        self._pyarrow, self._writer, self._schema = pyarrow, writer, schema
        self._made: dict[tuple[int, str], list[Any]] = {}  # the texts of each quantity
        self._held: list[Any] = []  # small tables, for each that is written becomes a group of rows
        self._rows = 0

    def put(self, piece: Piece) -> None:
        array = self._pyarrow.array
        buckets, columns = piece.stack.shape[1:]
        which = array(np.tile(np.arange(columns), buckets))
        arrays = [
            array(np.full(buckets * columns, piece.training, np.int32)),
            array(np.repeat(piece.steps, columns)),
            array(np.repeat(piece.rows, columns)),
            *(texts.take(which) for texts in self._texts(piece)),
            *(array(np.ascontiguousarray(part).reshape(-1)) for part in piece.stack),
        ]
        self._held.append(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows += buckets * columns
        if self._rows >= _PIECE:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            self._writer.write_table(self._pyarrow.concat_tables(self._held), self._rows)
        self._held, self._rows = [], 0

    def _texts(self, piece: Piece) -> list[Any]:
        key = piece.training, piece.labels.texts[0][0]
        if key not in self._made:
            array, string = self._pyarrow.array, self._pyarrow.string()
            columns = zip(*piece.labels.texts, strict=True)
            self._made[key] = [array(list(map(_storable, texts)), string) for texts in columns]
        return self._made[key]


@contextmanager
def _parquet(draft: Path) -> Iterator[Sink]:
    arrow = library("pyarrow", "export")
    parquet = library("pyarrow.parquet", "export")
    whole, text, real = arrow.int64(), arrow.string(), arrow.float32()
    kinds = [arrow.int32(), whole, whole, *[text] * len(TEXTS), real, real, real]
    schema = arrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with parquet.ParquetWriter(draft, schema) as writer:
        sink = _Parquet(arrow, writer, schema)
        yield sink
        sink.flush()


KINDS: dict[str, Callable[[Path], Any]] = {".csv": _csv, ".parquet": _parquet}


def safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula.

    >>> safe("=1+2"), safe("fc.weight")
    ("'=1+2", 'fc.weight')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _vacant(target: Path, force: bool) -> None:
    if target.is_dir():
        raise IsADirectoryError(f"expected a file to write, got the folder {target}")
    if target.exists() and not force:
        raise FileExistsError(f"{target} is there already, and is left as it is")


@contextmanager
def _draft(target: Path, force: bool) -> Iterator[Path]:
    """A file beside the target, which takes its place once it is complete."""
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(f"expected a folder, got the file {target.parent}") from None
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield draft
        _vacant(target, force)  # it may have come into being meanwhile
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
