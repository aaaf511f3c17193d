"""The command line: help, imports, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from astropt_db import __version__, astropt
from astropt_db.cli import main as command_line
from astropt_db.cli.main import VERBS, cli, main
from astropt_db.errors import AstroptDbError, FileError, MissingExtraError

CHECKOUT = Path(__file__).resolve().parents[2]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def commands(group: click.Group, context: click.Context) -> list[click.Command]:
    """All commands below a group."""
    found: list[click.Command] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += [
            command,
            *(commands(command, context) if isinstance(command, click.Group) else []),
        ]
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_is_the_one_in_the_list(verb: str) -> None:
    command = cli.get_command(click.Context(cli, **cli.context_settings), verb)
    assert command is not None
    assert command.name == verb
    assert command.get_short_help_str(limit=200).rstrip(".") == VERBS[verb][1].rstrip(".")


def test_every_command_and_option_has_help() -> None:
    for command in commands(cli, click.Context(cli)):
        assert command.help, command.name
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert [option.name for option in options if not option.help] == [], command.name


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(["--help"], capsys)
    assert (code, err) == (0, "")
    listed = [
        line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()
    ]
    assert [verb for verb in listed if verb in VERBS] == sorted(VERBS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from astropt_db.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert "Commands:" in done.stdout
    loaded = set(done.stderr.split())
    assert "click" in loaded
    heavy = {"torch", "astropy", "pandas", "pyarrow", "sqlalchemy", "alembic", "sklearn", "numpy"}
    assert loaded & heavy == set()


def test_every_public_name_of_the_model_is_found() -> None:
    assert set(astropt._HOMES) == set(astropt.__all__)
    for name in astropt.__all__:
        assert getattr(astropt, name) is not None


def test_verbs_load_torch_when_they_work() -> None:
    """Their help, their checks of arguments, and the verbs that need none must not wait for it."""
    modules = sorted({place.partition(":")[0] for place, _ in VERBS.values()})
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, *modules], cwd=CHECKOUT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert set(modules) <= loaded
    assert loaded & {"torch", "sklearn", "scipy", "matplotlib", "umap", "galsim"} == set()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], capsys) == (0, f"astropt-db, version {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingets"], "No such command 'ingets'"),
        (["query"], "Missing argument 'SQL'"),
        (["query", "SELECT 1", "--format", "xml"], "'xml' is not one of"),
        (["query", "SELECT 1", "--timeout", "-1"], "-1.0 is not in the range"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_ends_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(arguments, capsys)
    assert (code, out) == (2, "")
    assert message in err


class Raises(click.Command):
    """A command that fails in the way the test names."""

    def __init__(self, error: BaseException) -> None:
        super().__init__("fail", callback=self._fail)
        self.error = error

    def _fail(self) -> None:
        raise self.error


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(command_line.cli, "get_command", lambda context, name: Raises(error))


def test_a_users_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, FileError("a.fits", "is empty.", "Download it again."))
    code, out, err = run(["fail"], capsys)
    assert (code, out, err) == (1, "", "error: a.fits: is empty. Download it again.\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, AstroptDbError("wrong"))
    with pytest.raises(AstroptDbError, match="wrong"):
        main(["--debug", "fail"])


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


def test_ctrl_c_ends_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    code, out, err = run(["fail"], capsys)
    assert (code, out) == (130, "")
    assert "interrupted; nothing is half-written" in err


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("pyvo", "archive", "ingest archive")
    assert str(error) == (
        "ingest archive needs the package 'pyvo', which is not installed. "
        "Install it with: pip install 'astropt-db[archive]'"
    )
    with (CHECKOUT / "pyproject.toml").open("rb") as handle:
        extras = tomllib.load(handle)["project"]["optional-dependencies"]
    assert any(requirement.startswith("pyvo") for requirement in extras["archive"])
