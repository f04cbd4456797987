"""The command ``medunet``: collects the commands, and turns errors into one line and exit code 2.

Nothing heavy is imported here or at the top of a command's file, so that ``medunet --help`` answers at once.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Annotated

import typer

import medunet
from medunet.cli.baseline import baseline
from medunet.cli.check import check
from medunet.cli.compare import compare
from medunet.cli.convert import convert
from medunet.cli.doctor import doctor
from medunet.cli.evaluate import evaluate
from medunet.cli.export import export
from medunet.cli.infer import infer
from medunet.cli.networks import networks
from medunet.cli.phantom import phantom
from medunet.cli.plan import plan
from medunet.cli.postprocess import postprocess
from medunet.cli.pretrain import pretrain
from medunet.cli.quantize import quantize
from medunet.cli.runs import app as runs_app
from medunet.cli.select import select
from medunet.cli.series import series
from medunet.cli.tasks import app as tasks_app
from medunet.cli.train import train
from medunet.cli.view import view
from medunet.errors import MedunetError

EXIT_CODE = 2

app = typer.Typer(
    name="medunet",
    help="3D segmentation of CT and MR volumes: train, infer, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    # Locals in a traceback can hold patient data.
    pretty_exceptions_enable=False,
)
app.command()(check)
app.command()(plan)
app.command()(train)
app.command()(pretrain)
app.command()(infer)
app.command()(postprocess)
app.command()(baseline)
app.command()(evaluate)
app.command()(compare)
app.command()(view)
app.command()(select)
app.command()(series)
app.command()(convert)
app.command()(export)
app.command()(quantize)
app.command()(phantom)
app.command()(networks)
app.command()(doctor)
app.add_typer(tasks_app, name="tasks")
app.add_typer(runs_app, name="runs")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"medunet {medunet.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error, and log more.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; any `MedunetError` becomes one line on stderr and exit code 2."""
    arguments, is_debug = _take_debug(sys.argv[1:])
    # OpenMP's threads spin while they wait, which takes the processor away from the threads that draw patches. It reads
    # this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no umlauts must not end a command
            stream.reconfigure(errors="backslashreplace")
    _set_up_logging(is_debug=is_debug)
    try:
        app(arguments)
    except (MedunetError, OSError) as error:
        if is_debug:
            raise
        sys.exit(_print_error(error))


def _print_error(error: Exception) -> int:
    # A path may hold a line break; an error is one line all the same.
    print("error: " + " ".join(str(error).split("\n")), file=sys.stderr)
    return EXIT_CODE


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """``--debug`` may stand anywhere on the line."""
    return [argument for argument in arguments if argument != "--debug"], "--debug" in arguments


def _set_up_logging(*, is_debug: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter())
    logger = logging.getLogger("medunet")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if is_debug else logging.WARNING)
    logger.propagate = False


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
