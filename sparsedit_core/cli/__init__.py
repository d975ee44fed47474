"""The command line: one file per command, each with SUMMARY, EXAMPLE, ``arguments(parser)`` and ``run(args)``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import torch

from .. import __version__
from . import (
    ablate,
    analyze,
    bench,
    calibrate,
    compare,
    convert,
    cost,
    demo,
    encode,
    evaluate,
    finetune,
    inspect,
    learn,
    plan,
    sample,
    train,
)

COMMANDS: tuple[ModuleType, ...] = (
    inspect, convert, cost, sample, compare, encode, train, finetune, evaluate, analyze, ablate,
    plan, calibrate, learn, bench, demo,
)
"""Every command; the file's name is the command's. A new one is imported above and added here."""

BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and end with exit code 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = build_parser().parse_args(words)
    except SystemExit as end:
        return int(end.code or 0)
    args.argv = words
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _say(args.command, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to print has no reader
        return PIPE_CLOSED
    except (ValueError, OSError, ArithmeticError) as error:
        return _say(args.command, f"error: {_flags(_sentence(error), args)}", BAD_INPUT)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _say(
            args.command, f"error: not enough memory ({_sentence(error)}); give a smaller size or batch", BAD_INPUT
        )
    return 0


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser("sparsedit", description="SparseDiT: diffusion transformers that compute fewer tokens.")
    parser.add_argument("--version", action="version", version=f"sparsedit {__version__}, torch {torch.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _say(command: str, message: str, code: int) -> int:
    sys.stderr.write(f"sparsedit {command}: {message}\n")
    return code


def _sentence(error: BaseException) -> str:
    """The error's message on one line; of a system error the reason and the file."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _flags(text: str, args: argparse.Namespace) -> str:
    """The message with keywords of the functions, as ``num_heads=``, named as the command's flags, ``--num-heads``."""

    def flag(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}{' ' * bool(match[2])}" if hasattr(args, match[1]) else match[0]

    return re.sub(r"(?<![\w-])([a-z][a-z_]*)=(?![\"'])(?=([\w.]?))", flag, text)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
