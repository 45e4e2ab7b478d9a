"""`dynamick COMMAND ...`: finds the command's file, and turns errors into one line and an exit status."""

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from dynamick.errors import InputError, Note
from dynamick.files import UNFIT, told

# Help texts live here, so that `dynamick --help` imports no command.
COMMANDS = {
    "demo": "train dense, L1 and Dynamic-5 networks and compare them on one page",
    "train": "train by a recipe; goes on where an interrupted run stopped",
    "evaluate": "accuracy, sparsity and routing of trained weights",
    "dissect": "Network Dissection: which concept each unit detects",
    "explain": "explain images by the units that made the decision, on one offline page",
    "compare": "every sparse head on the same features: two tables, two plots; goes on where it stopped",
    "retrofit": "give a pretrained network a Dynamic-K head, trained on a folder of images",
    "reproduce": "a table or figure of the paper, beside the paper's numbers; trains what it needs",
    "doctor": "what runs here, and why",
}


BEGIN = """\
Networks whose decisions a person can follow. Three commands to begin with:

  dynamick demo
      trains three networks on generated scenes and opens the way to a page that compares them; a few minutes
  dynamick retrofit --model resnet50 --weights DEFAULT --data PHOTOS --out OUT --page PAGE.html
      makes a trained network readable, from a folder of photographs with one folder for each class
  dynamick explain --weights OUT/weights.safetensors --images PHOTOS --out PAGE.html
      explains its answers on your images, on one page that opens anywhere

All commands: dynamick --help. The options of one: dynamick COMMAND --help."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command. Exit status 0: done, 1: a failure while working, 2: bad input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    trace = "--traceback" in argv
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show, warnings.showwarning)
            _run([each for each in argv if each != "--traceback"])
        sys.stdout.flush()
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on", 1, trace)
    except BrokenPipeError:
        # Whoever read has gone, and what was left to do was not done.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except InputError as error:
        _fail(str(error), 2, trace)
    except OSError as error:
        named = error.filename is not None and error.strerror is not None
        _fail(told(error) if named else f"{type(error).__name__}: {error}", 2 if error.errno in UNFIT else 1, trace)
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}", 1, trace)


def _run(argv: list[str]) -> None:
    parser = _Parser(prog="dynamick", description="Interpretable convolutional networks by Dynamic-K routing.")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    module: Any = None
    name = next((each for each in argv if not each.startswith("-")), None)
    for command, text in COMMANDS.items():
        # A command may replace --help by its own.
        form: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "conflict_handler": "resolve"}
        subparser = commands.add_parser(command, help=text, description=text, **form)
        if command == name:
            module = importlib.import_module(f"dynamick.cli.{command}")
            module.add_arguments(subparser)
    args, settings = parser.parse_known_args(argv)
    args.settings = settings
    if args.settings and not getattr(module, "TAKES_SETTINGS", False):
        parser.error(f"unknown: {' '.join(args.settings)}")
    if args.version:
        from dynamick import __version__

        print(f"dynamick {__version__}")
    elif args.command is None:
        print(BEGIN)
    else:
        module.run(args)


def _show(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Say a note of ours in one line; other libraries' warnings are shown as ever."""
    if issubclass(category, Note):
        print(f"dynamick: note: {message}", file=sys.stderr, flush=True)
    else:
        others(message, category, *where, **more)


def _fail(message: str, status: int, trace: bool) -> None:
    if trace:
        traceback.print_exc()
    lines = message.strip().splitlines() or [""]
    if any(each.startswith("Traceback (most recent call last)") for each in lines):
        # An error that a loader's process raised comes with that process's traceback; its last line says what it was.
        lines = lines[-1:]
    line = " ".join(each.strip() for each in lines).removeprefix("dynamick.errors.InputError: ")
    print(f"dynamick: {line}", file=sys.stderr, flush=True)
    sys.exit(status)
