"""A source file to be edited: its tree, where things stand in it, and changes of single characters.

What is not changed stays as it is to the byte: comments, formatting, line ends, a missing last one.
Columns of `ast` count bytes of UTF-8, and so does everything here.
"""

from __future__ import annotations

import ast
import codecs
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from surefoot.trial.source import Place, digest

Function = ast.FunctionDef | ast.AsyncFunctionDef
_COMMENT = re.compile(rb"#[^\r\n]*")


class Unplaced(Exception):
    """The source does not say plainly where the change belongs, or is not what has run."""


class Text:
    """One file. Raises Unplaced where it cannot be read, is no UTF-8, or is not Python.

    expected: its digest, if known; another one is a file that has changed since.
    """

    def __init__(self, path: str, expected: str = "") -> None:
        self.path = path
        try:
            data = Path(path).read_bytes()
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            self.bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
            self.data = data[len(self.bom) :]
            self.tree = ast.parse(self.data.decode("utf-8"))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise Unplaced(f"{path} cannot be read as Python: {error}") from error
        if encoding not in ("utf-8", "utf-8-sig"):
            raise Unplaced(f"{path} is in {encoding}, not in UTF-8")
        if expected and digest(path) != expected:
            raise Unplaced(f"{path} has changed since the run")
        self.lines = self.data.splitlines(keepends=True)
        self._starts = [0]
        for line in self.lines:
            self._starts.append(self._starts[-1] + len(line))
        self.parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }
        self.changes: dict[tuple[int, int], bytes] = {}
        self._insertions: dict[int, list[bytes]] = {}

    # -- where things stand ---------------------------------------------------------------------

    def start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """The offset of a node's first byte."""
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        """The offset behind a node's last byte."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def source(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        """A node as it is written; in brackets if it goes over several lines."""
        text = self.data[self.start(node) : self.end(node)].decode("utf-8")
        return f"({text})" if "\n" in text else text

    def call(self, place: Place, name: str = "") -> ast.Call:
        """The call at a place; Unplaced if there is none, or if it may be one of several.

        name: of what is called, which must do where Python does not tell the columns.
        """
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        if place.end_line:
            end = (place.end_line, place.end_column)
            calls = [c for c in calls if (c.end_lineno, c.end_col_offset) == end]
        else:
            calls = [c for c in calls if c.lineno == place.line and called(c) == name]
        if len(calls) != 1:
            raise Unplaced(f"{len(calls)} calls at {self.path}:{place.line}")
        return calls[0]

    def statement(self, node: ast.AST) -> ast.stmt:
        """The innermost statement that a node is in."""
        while not isinstance(node, ast.stmt):
            if node not in self.parents:
                raise Unplaced("not in a statement")
            node = self.parents[node]
        return node

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node is in, innermost first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> Function | ast.Module:
        """The function that a node is in, or the module."""
        for parent in self.above(node):
            if isinstance(parent, Function):
                return parent
        return self.tree

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """The statements that stand beside one, itself among them."""
        for _, value in ast.iter_fields(self.parents[statement]):
            if isinstance(value, list) and statement in value:
                return value
        raise Unplaced("not in a block")

    def names(self) -> set[str]:
        """Every name that the file uses for anything."""
        found = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        found |= {node.arg for node in ast.walk(self.tree) if isinstance(node, ast.arg)}
        for node in ast.walk(self.tree):
            if isinstance(node, (Function, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.alias):
                found.add((node.asname or node.name).partition(".")[0])
        return found

    def fresh(self, name: str) -> str:
        """A name like this one that the file does not use yet."""
        used = self.names()
        while name in used:
            name += "_"
        return name

    # -- what is changed ------------------------------------------------------------------------

    def replace(self, start: int, end: int, text: str) -> None:
        """Put text in place of what stands there; the same change twice is one."""
        new = text.encode("utf-8")
        known = self.changes.get((start, end))
        if start == end and known is not None and known != new:  # one insertion behind another
            self.changes[start, end] = known + new
            return
        for (a, b), old in self.changes.items():
            if a < end and start < b and ((a, b), old) != ((start, end), new):
                raise Unplaced("two changes at one place")
        if self.changes.setdefault((start, end), new) != new:
            raise Unplaced("two changes at one place")

    def before(self, statement: ast.stmt, code: str) -> None:
        """Put lines in front of a statement, with its indentation."""
        self._lines(self._indentation(statement), self._first(statement) - 1, code)

    def after(self, statement: ast.stmt, code: str) -> None:
        """Put lines behind a statement, with its indentation."""
        assert statement.end_lineno is not None and statement.end_col_offset is not None
        rest = self.lines[statement.end_lineno - 1][statement.end_col_offset :]
        if _COMMENT.sub(b"", rest).strip():
            raise Unplaced("another statement follows on the line")
        self._lines(self._indentation(statement), statement.end_lineno, code)

    def _first(self, statement: ast.stmt) -> int:
        decorators = getattr(statement, "decorator_list", [])
        return min([statement.lineno, *(d.lineno for d in decorators)])

    def _indentation(self, statement: ast.stmt) -> bytes:
        indent = self.lines[statement.lineno - 1][: statement.col_offset]
        if indent.strip():
            raise Unplaced("the statement does not begin its line")
        return indent

    def _lines(self, indent: bytes, line: int, code: str) -> None:
        """Note lines to be inserted behind the line of that number. Four spaces are one level."""
        level = self._level(indent)
        new = []
        for row in code.splitlines():
            inner = row.lstrip(" ")
            depth = (len(row) - len(inner)) // 4
            new.append(indent + level * depth + inner.encode("utf-8"))
        known = self._insertions.setdefault(line, [])
        known += [row for row in new if len(new) > 1 or row not in known]

    def _level(self, indent: bytes) -> bytes:
        """What the file indents by: a tab where it uses tabs."""
        tabs = indent[:1] == b"\t" or (
            not indent and any(row.startswith(b"\t") for row in self.lines)
        )
        return b"\t" if tabs else b"    "

    def result(self) -> bytes:
        """The changed file. Raises Unplaced where it would not be Python."""
        pieces = dict(self.changes)
        for line, rows in self._insertions.items():
            at = self._starts[line]
            ending = b"\r\n" if any(row.endswith(b"\r\n") for row in self.lines[:1]) else b"\n"
            block = b"".join(row + ending for row in rows)
            if line and not self.lines[line - 1].endswith((b"\n", b"\r")):
                block = ending + block[: -len(ending)]  # no newline at the end: nor after
            pieces[at, at] = block + pieces.get((at, at), b"")
        data = self.data
        for (start, end), new in sorted(pieces.items(), reverse=True):
            data = data[:start] + new + data[end:]
        try:
            compile(data.decode("utf-8"), self.path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            raise Unplaced(f"{self.path} would not be Python: {error}") from error
        return self.bom + data

    @property
    def edits(self) -> int:
        """How many places are changed."""
        return len(self.changes) + len(self._insertions)


def called(node: ast.AST) -> str:
    """The last name of what is called: "Linear" of `torch.nn.Linear(2, 1)`; "" otherwise."""
    return last_name(node.func) if isinstance(node, ast.Call) else ""


def last_name(node: ast.AST) -> str:
    """ "Linear" of `torch.nn.Linear` and of `Linear`; "" of anything but names."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_path(node: ast.AST) -> bool:
    """Whether an expression is a name, or attributes of one: `self.net`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def keyword(call: ast.Call, name: str) -> ast.keyword | None:
    """An argument by its keyword."""
    return next((k for k in call.keywords if k.arg == name), None)
