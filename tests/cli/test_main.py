"""The command itself: its help, its one-line errors, and that it starts without the heavy libraries."""

import subprocess
import sys

import pytest

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.main import COMMANDS, build_parser, main


def error_of(capsys, *argv):
    """Exit status and standard error of a failing call; it must be one line without a traceback."""
    status = main([str(word) for word in argv])
    error = capsys.readouterr().err
    assert error.startswith("unimur: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return status, error


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"    {name}" in shown for name in COMMANDS)


def test_no_command_prints_the_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: unimur")


def test_version_names_the_libraries(capsys):
    import torch

    assert main(["--version"]) == 0
    assert f"torch {torch.__version__.split('+')[0]}" in capsys.readouterr().out


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_needs_no_heavy_library(command):
    # In a process of its own: this one has imported everything already.
    code = (
        "import sys\n"
        "from modeling_unimur.cli.main import main\n"
        "try:\n"
        f"    main({[command, '--help'] if command else ['--help']!r})\n"
        "except SystemExit:\n"
        "    print([name for name in ('torch', 'transformers', 'datasets', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_only_the_called_command_is_imported():
    code = (
        "import sys\n"
        "from modeling_unimur.cli.main import build_parser\n"
        "build_parser('chat')\n"
        "print(sorted(name for name in sys.modules if name.startswith('modeling_unimur.cli.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    expected = [f"modeling_unimur.cli.{name}" for name in ("arguments", "chat", "errors", "main")]
    assert done.stdout.strip() == str(expected)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["dmo"], "dmo"),
        (["demo", "--imagez", "x"], "--imagez"),
        (["demo", "--max-images", "0"], "--max-images"),
        (["demo", "--max-images", "many"], "many"),
        (["demo", "--seed", "x"], "--seed"),
        (["demo", "--model"], "--model"),
        (["chat", "--index"], "--index"),
        (["demo", "--images", "no_such_folder"], "no_such_folder"),
        (["demo", "--images", __file__], "test_main.py"),
        (["demo", "--replies", "no_such_file"], "no_such_file"),
        (["demo", "--dialogues", "no_such_file"], "no_such_file"),
        (["demo", "--model", "no_such_model"], "no_such_model"),
        (["chat", "--model", "no_such_model"], "no_such_model"),
        (["demo"], "make demo"),
        (["chat"], "make demo"),
    ],
)
def test_what_a_person_can_get_wrong_is_one_line(argv, named, capsys, empty_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, error = error_of(capsys, *argv)
    assert status == 2
    assert named in error


def test_folder_without_a_model_or_without_pictures(capsys, empty_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "config.json" in error_of(capsys, "demo", "--model", tmp_path / "empty")[1]
    assert "holds no image" in error_of(capsys, "demo", "--images", tmp_path / "empty")[1]


def test_output_that_cannot_be_written_is_named_before_the_model_is_sought(capsys, empty_cache, tmp_path):
    file = tmp_path / "a file"
    file.write_text("x")
    assert str(file) in error_of(capsys, "demo", "--output", file)[1]
    assert file.read_text() == "x"


@pytest.mark.parametrize("argv", [["--debug", "chat"], ["chat", "--debug"]])
def test_debug_shows_the_traceback(argv, empty_cache):
    with pytest.raises(CommandError, match="make demo"):
        main(argv)


def test_ctrl_c_ends_without_a_traceback(capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("unimur_mini.demo.command.run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "\nunimur: interrupted\n"


def test_an_unforeseen_error_is_one_line_that_says_so(capsys, monkeypatch):
    def broken(args):
        raise KeyError("inner")

    monkeypatch.setattr("unimur_mini.demo.command.run", broken)
    status, error = error_of(capsys, "demo")
    assert status == 2
    assert "KeyError" in error
    assert "--debug" in error


def test_defaults():
    args = build_parser("demo").parse_args(["demo"])
    assert (args.model, args.images, args.max_images, str(args.output)) == (None, None, 1600, "demo_output")
