"""Entry point: finds the verb and imports only what it needs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module

from yolo_slim.commands.complaints import say_unforeseen, shorten
from yolo_slim.commands.config_files import check_config_files, files_first
from yolo_slim.commands.next_step import called
from yolo_slim.commands.quiet import quieten
from yolo_slim.commands.short_help import PAGES, about, asks_for_help, full, page
from yolo_slim.commands.words import spelled_out
from yolo_slim.version import __version__
from yolo_slim.wording import brief, printable
from yolo_slim.workflow import heeded

#: Of an error's line, in characters.
_LONGEST = 1200

USAGE = """\
usage: {program} VERB [-c CONFIG.yaml ...] [--key value ...]

Make a YOLO detector smaller and faster: train, sparse-train, prune, finetune.

verbs:
{verbs}

{program} VERB --help lists the keys of a verb. Commented files to start from are in configs/, and -c finds them by name
from anywhere: -c slim.yaml
With --trust, .pt files are opened that contain more than a detector; such a file can run code.
"""


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        summary: What it does, for the list of verbs.
        module: Module beside this one, whose ``main`` takes the verb and its keys and values.
    """

    summary: str
    module: str

    def load(self) -> Callable[[list[str]], None]:
        """Imports what the verb needs, and nothing of the others."""
        return import_module(f"{__package__}.{self.module}").main  # type: ignore[no-any-return]


VERBS = {
    "fit": Verb("train a detector: baseline, sparse phase or finetune, as the configuration says", "fit"),
    "validate": Verb("mAP of a checkpoint on the validation images", "fit"),
    "test": Verb("mAP of a checkpoint on the test images", "fit"),
    "predict": Verb("draw and write the boxes that a checkpoint finds in images", "fit"),
    "sensitivity": Verb("measure which layers bear to lose channels, for prune to choose by", "sensitivity"),
    "prune": Verb("remove the channels that matter least and save the slim model", "prune"),
    "export": Verb("write ONNX, TorchScript, OpenVINO, ... files and measure their size, latency and mAP", "export"),
    "compare": Verb("size, latency and mAP of several checkpoints side by side", "compare"),
    "slim": Verb("all phases in one resumable command: train, sparse-train, prune, finetune", "slim"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs one verb of the command line.

    Bad input ends with one line on standard error and exit status 1, or 2 for keys and values that no verb takes; with
    ``YOLO_SLIM_DEBUG`` set in the environment it ends with a traceback. Where a signal has ended a run, the status is
    128 plus its number.

    Args:
        args: Arguments without the program's name; by default those of the process.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        verbs = "\n".join(f"  {name:12}{verb.summary}" for name, verb in VERBS.items())
        print(USAGE.format(program=called(), verbs=verbs), end="")
        return
    if verb == "--version":
        print(__version__)
        return
    if verb not in VERBS:
        _fail(f"unknown verb {verb!r}; expected one of {', '.join(VERBS)} (see {called()} --help)", status=2)
    asked = asks_for_help(arguments)
    if asked == "" and verb in PAGES:
        print(page(verb, called()))
        return
    # Not a key of a verb: a configuration file from elsewhere must not be able to say it.
    trust = "--trust" in arguments
    arguments = [argument for argument in arguments if argument != "--trust"]
    os.environ.setdefault("YOLO_VERBOSE", "false")
    quieten(verb)
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)  # dataclass fields explain themselves
    try:
        with heeded("SIGHUP", "SIGTERM"):
            if asked is not None:
                print(_help(verb, asked))
                return
            arguments = spelled_out(arguments)
            check_config_files(arguments)
            command = VERBS[verb].load()
            with _trusting(trust):
                command(files_first(arguments))
    except BaseException as error:
        if os.environ.get("YOLO_SLIM_DEBUG") or isinstance(error, SystemExit):
            raise
        if isinstance(error, jsonargparse.ArgumentError):
            _fail(f"{shorten(str(error))} (see {called()} {verb} --help)", status=2)
        if isinstance(error, KeyboardInterrupt):
            _fail(str(error) or "interrupted", status=128 + getattr(error, "number", signal.SIGINT))
        message = shorten(str(error)) if isinstance(error, _user_errors()) else say_unforeseen(error)
        if isinstance(error, BrokenPipeError):
            _detach_output()
            message = "what reads the output has ended (broken pipe)"
        go_on = getattr(error, "go_on", "")
        _fail(f"{message}; {go_on}" if go_on else message)


def _help(verb: str, asked: str) -> str:
    """All keys of a verb, or those like one.

    Raises:
        ValueError: If there is none like it.
    """
    more = ""
    if verb in ("fit", "validate", "test", "predict"):
        more = import_module(f"{__package__}.hyp_help").hyp_help()
    text = full(VERBS[verb].load(), verb, more)
    found = text if asked in ("", "all") else about(asked, text)
    if found is None:
        raise ValueError(f"{verb} has no key like {brief(asked)}; --help all lists them")
    return found


def _trusting(trust: bool) -> AbstractContextManager[None]:
    if not trust:
        return nullcontext()
    from yolo_slim.detection import trusted

    return trusted()


def _user_errors() -> tuple[type[BaseException], ...]:
    errors: tuple[type[BaseException], ...] = (ValueError, OSError)
    if "lightning" in sys.modules:
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        errors += (MisconfigurationException,)
    return errors


def _detach_output() -> None:
    """Lets the interpreter end without a second complaint that nobody reads its output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int = 1) -> None:
    line = printable(" ".join(message[:20_000].split()))
    print(f"error: {line if len(line) <= _LONGEST else line[:_LONGEST] + ' ...'}", file=sys.stderr)
    raise SystemExit(status)
