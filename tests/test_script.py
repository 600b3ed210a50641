"""A program under `surefoot run` against the same program under `python`: the oracle is python.

Each case is run by both in a process of its own; standard output, standard error and the exit
status must be equal to the byte. `--quiet` leaves surefoot nothing to say.
"""

from __future__ import annotations

import os
import py_compile
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from script_fixture import SCRIPTS

SOURCE = Path(__file__).parents[1] / "src"
PYTHON = [sys.executable]
SUREFOOT = [sys.executable, "-m", "surefoot", "run", "--quiet", "--no-record"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
ENVIRONMENT |= {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every program; cases do not disturb one another."""
    base = tmp_path_factory.mktemp("scripts")
    for name, source in SCRIPTS.items():
        lines = source.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        (base / f"{name}.py").write_text("\n".join(x[indent:] for x in lines) + "\n", "utf-8")
    (base / "helper.py").write_text("VALUE = 42\nprint('helper as', __name__)\n")
    (base / "broken.py").write_text("def f(:\n    pass\n")
    (base / "bom.py").write_bytes(b"\xef\xbb\xbfprint('\xc3\xa9')\n")
    (base / "cookie.py").write_bytes(b"# -*- coding: latin-1 -*-\nprint(len('\xe9'))\n")
    (base / "sub").mkdir()
    (base / "sub" / "link.py").symlink_to("../paths.py")
    py_compile.compile(str(base / "paths.py"), cfile=str(base / "compiled.pyc"))
    package = base / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("import sys\nWORDS = sys.argv\n")
    (package / "__main__.py").write_text(
        "from .part import WORDS\nprint(WORDS, __package__, __spec__.name, __file__)\n"
        "if 'fail' in WORDS: 1 / 0\n"
    )
    (base / "hollow").mkdir()
    with zipfile.ZipFile(base / "bundle.zip", "w") as bundle:
        bundle.writestr(
            "__main__.py", "import sys, inner\nprint(sys.argv, sys.path[0], __file__, inner.X)\n"
        )
        bundle.writestr("inner.py", "X = 1\n")
    return base


Result = tuple[int, bytes, bytes]


def run(command: list[str], folder: Path, *flags: str, timeout: float = 60) -> Result:
    """Status, stdout and stderr of a command in the folder; `flags` go to the interpreter."""
    command = [command[0], *flags, *command[1:]]
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        input=b"Ada\nrest",
        capture_output=True,
        timeout=timeout,
    )
    return done.returncode, _plain(done.stdout), _plain(done.stderr)


def _plain(output: bytes) -> bytes:
    """Without addresses and reference counts of objects, which are a process's own affair."""
    return re.sub(rb"0x[0-9a-f]{6,}|(?<=refcount : )\d+", b"#", output)


def assert_same(folder: Path, arguments: list[str], *flags: str) -> Result:
    """Both interpreters must agree on all three; returns what python said."""
    expected = run([*PYTHON, *arguments], folder, *flags)
    assert run([*SUREFOOT, *arguments], folder, *flags) == expected
    return expected


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_as_under_python(folder: Path, name: str) -> None:
    assert_same(folder, [f"{name}.py", "--epochs", "3"])


COMMANDS = {
    "relative": ["./paths.py"],
    "through_a_folder": ["sub/../paths.py"],
    "symlink": ["sub/link.py"],
    "bom": ["bom.py"],
    "cookie": ["cookie.py"],
    "compiled": ["compiled.pyc", "a"],
    "options_of_ours": ["paths.py", "--json", "x", "-m", "--quiet", "--help", "--", "-o"],
    "empty_and_odd_words": ["paths.py", "", " ", "a\nb", "\udcff", "--=", "-"],
    "folder": ["package/../hollow", "x"],
    "folder_with_main": ["sub"],
    "zip": ["bundle.zip", "x", "--y"],
    "module": ["-m", "paths", "--json", "x"],
    "package": ["-m", "package", "-m", "x"],
    "package_fails": ["-m", "package", "fail"],
    "module_missing": ["-m", "there_is_none"],
    "submodule_missing": ["-m", "package.none"],
    "no_package": ["-m", "helper.sub"],
    "package_without_main": ["-m", "hollow"],
    "module_syntax_error": ["-m", "broken"],
    "standard_library": ["-m", "json.tool", "--help"],
    "module_interrupted": ["-m", "interrupt"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_as_under_python(folder: Path, name: str) -> None:
    assert_same(folder, COMMANDS[name])


@pytest.mark.parametrize("flags", [["-P"], ["-W", "error"], ["-O"], ["-X", "dev"]])
def test_interpreter_flags(folder: Path, flags: list[str]) -> None:
    assert_same(folder, ["paths.py"], *flags)
    assert_same(folder, ["warns.py"], *flags)


def test_as_an_installed_command(folder: Path, tmp_path: Path) -> None:
    """The console script stands in a folder of its own, which must not stay on `sys.path`."""
    command = tmp_path / "surefoot"
    command.write_text("from surefoot.cli import main\nmain()\n")
    for arguments in (["paths.py", "x"], ["-m", "package", "x"], ["interrupt_signal.py"]):
        expected = run([*PYTHON, *arguments], folder)
        assert run([sys.executable, str(command), *SUREFOOT[3:], *arguments], folder) == expected


def test_in_a_deleted_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = "import os; os.rmdir(os.getcwd()); os.execv(os.sys.argv[1], os.sys.argv[1:])"
    results = []
    for command in (PYTHON, SUREFOOT):
        (tmp_path / "gone").mkdir(exist_ok=True)
        wrapped = [sys.executable, "-c", script, *command, str(folder / "exit_words.py")]
        results.append(run(wrapped, tmp_path / "gone"))
    assert results[0] == results[1]
    assert results[0][:2] == (1, b"out\n")


def test_the_cases_are_what_they_claim(folder: Path) -> None:
    """Guard the oracle: a case that fails for a silly reason would agree with anything."""
    assert assert_same(folder, ["exit_three.py"])[0] == 3
    assert assert_same(folder, ["interrupt_signal.py"])[:2] == (-2, b"atexit\n")
    assert assert_same(folder, ["forks.py"])[1] == b"before\nchild\n5\n"
    assert b"name? Ada rest" in assert_same(folder, ["reads_stdin.py"])[1]
    assert b"(9, '__mp_main__')" in assert_same(folder, ["spawn.py"])[1]


@pytest.mark.parametrize("lines", [1, 100_000])
def test_broken_pipe(folder: Path, lines: int) -> None:
    """The reader of stdout is gone: at once while printing, or at the last flush (status 120)."""
    (folder / f"prints_{lines}.py").write_text(f"for _ in range({lines}): print('x' * 50)\n")
    results = []
    for command in (PYTHON, SUREFOOT):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [*command, f"prints_{lines}.py"],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        os.close(write)
        results.append((done.returncode, done.stderr))
    assert results[0] == results[1]
    assert results[0][0] == (120 if lines == 1 else 1)


def test_a_script_leaves_no_bytecode_of_itself(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text("print(1)\n")
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([*SUREFOOT, "alone.py"], cwd=tmp_path, env=environment, check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["alone.py"]


@pytest.mark.skipif(sys.version_info < (3, 11, 4), reason="older Pythons read up to the null byte")
def test_null_bytes_are_a_syntax_error(tmp_path: Path) -> None:
    """Python says where they are; surefoot says the same words, with the same status."""
    (tmp_path / "null.py").write_bytes(b"x = 1\0\n")
    expected, got = (run([*c, "null.py"], tmp_path) for c in (PYTHON, SUREFOOT))
    assert got[0] == expected[0] == 1
    assert got[2].splitlines()[-1] == expected[2].splitlines()[-1]


def test_a_named_pipe_is_a_script(tmp_path: Path) -> None:
    """Opening it to see whether it is there would break the program that writes to it."""
    os.mkfifo(tmp_path / "pipe.py")
    with subprocess.Popen(["sh", "-c", "echo 'print(__file__)' > pipe.py"], cwd=tmp_path) as writer:
        try:
            done = run([*SUREFOOT, "pipe.py"], tmp_path, timeout=20)
        finally:
            writer.kill()
    assert done == (0, f"{tmp_path / 'pipe.py'}\n".encode(), b"")


def test_a_pipe_is_a_script(folder: Path) -> None:
    """As in `surefoot run <(generate)`: it can be opened and read only once."""
    results = []
    for command in (PYTHON, SUREFOOT):
        read, write = os.pipe()
        os.write(write, b"print('from a pipe', __name__)\n")
        os.close(write)
        done = subprocess.run(
            [*command, f"/dev/fd/{read}"],
            cwd=folder,
            env=ENVIRONMENT,
            capture_output=True,
            pass_fds=[read],
            timeout=60,
        )
        os.close(read)
        results.append((done.returncode, done.stdout, done.stderr))
    assert results[0] == results[1] == (0, b"from a pipe __main__\n", b"")
