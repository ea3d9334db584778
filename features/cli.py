"""The command ``rezsl-features``: the extractor for those who do not write Python.

Exit codes: 0 all is well; 1 it could not be done, with a sentence on stderr; 2 the
command was not understood; 3 done, but more images failed than ``--max-failed``
allows; 130 stopped by Ctrl-C, 143 and 129 by SIGTERM and SIGHUP (the terminal was
closed), to be continued by the same command.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from ._errors import BackboneError, ExtractionError
from ._settings import AMPS, ENGINES, POOLS
from .terminal import say

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str or None, default=None
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit code, as the module says.

    Examples
    --------
    >>> import tempfile
    >>> from rezsl_sk.feature_cache import FeatureCache
    >>> from rezsl_features.cli import main
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/toy.h5"
    ...     FeatureCache.from_arrays(path, [[1.0, 2.0]], ["cat"]).close()
    ...     code = main(["verify", path])  # doctest: +ELLIPSIS
    /...toy.h5: all hashes hold, all values are finite.
    >>> code
    0
    """
    args = _parser().parse_args(argv)
    try:
        with _stopped_by_signals(), _told():
            # Takes seconds, within which a user may change his mind.
            from ._commands import COMMANDS

            return COMMANDS[args.command](args) or 0
    except KeyboardInterrupt as error:
        with contextlib.suppress(ValueError):  # not in the main thread
            # Whoever is impatient gets no traceback either.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        say(file=sys.stderr)  # below the progress bar
        kept = " Finished shards are kept; the same command goes on."
        say("Stopped." + (kept if args.command == "extract" else ""), file=sys.stderr)
        return 128 + (error.number if isinstance(error, _Signal) else signal.SIGINT)
    except (ExtractionError, BackboneError, ValueError, OSError) as error:
        # These say in a sentence what is wrong; a traceback would bury it.
        say(f"rezsl-features: {_sentence(error)}", file=sys.stderr)
        return 1


class _Signal(KeyboardInterrupt):
    """A signal that stops the command as Ctrl-C does."""

    def __init__(self, number):
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals():
    """Let SIGTERM and SIGHUP end the command in order, its lock removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise _Signal(number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup has SIGHUP ignored, and so it stays.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Teller(logging.Handler):
    def emit(self, record):
        if record.levelno < logging.WARNING:
            say(record.getMessage())
        else:
            say(f"rezsl-features: {record.getMessage()}", file=sys.stderr)


@contextlib.contextmanager
def _told():
    """Print what the extractor logs, and warnings, as sentences."""
    logger, teller = logging.getLogger("rezsl_features"), _Teller()
    level = logger.level

    def show(message, *args, **kwargs):
        say(f"rezsl-features: {message}", file=sys.stderr)

    logger.addHandler(teller)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(teller)
        logger.setLevel(level)


def _sentence(error):
    text = " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.strerror is not None:
        text = error.strerror
        if error.filename is not None:
            text = f"{error.filename}: {text}"
    # What the system says is no sentence, and does not tell what to do.
    return text if text.endswith((".", "!", "?")) else f"{text}. {_remedy(error)}"


def _remedy(error):
    if isinstance(error, FileNotFoundError):
        return "Check the name."
    if isinstance(error, PermissionError):
        return "Change the permissions, or give another name."
    if isinstance(error, FileExistsError):
        return "Then run the command again."
    return "Mend that, and run the command again."


def _auto_or(kind):
    def parse(text):
        return text if text == "auto" else kind(text)

    parse.__name__ = "number"
    return parse


def _share(text):
    share = float(text)
    if not 0 <= share <= 1:
        raise ValueError
    return share


_share.__name__ = "share from 0 to 1"


def _number_or_share(text):
    return int(text) if text.isdigit() else _share(text)


_number_or_share.__name__ = "number, or share from 0 to 1,"


def _parser():
    parser = argparse.ArgumentParser(
        prog="rezsl-features",
        description="Turn folders of images into a feature cache, once.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser(
        "extract",
        help="compute the features of images",
        description="Compute the features of images into a cache. Interrupted in any "
        "way, the same command goes on where it stopped; on a finished cache it "
        "computes those images again that have changed or failed. With several GPUs: "
        "torchrun --nproc-per-node=N -m rezsl_features extract ...",
    )
    sub.add_argument(
        "images",
        help="a folder of class folders (or of train and val with class folders in "
        "them), a folder of files, or a .csv, .tsv or .parquet table with the columns "
        "path and (optional) label",
    )
    _add_root(sub)
    sub.add_argument("--out", required=True, help="the cache to write, e.g. cub.h5")
    _add_backbone(sub, required=True)
    sub.add_argument(
        "--order-from",
        metavar="RES101.mat",
        help="take order, labels and splits from this file of the xlsa17 benchmark, "
        "so that its official splits apply",
    )
    sub.add_argument(
        "--attributes",
        metavar="CLASSES.csv",
        help="table of attributes to store beside the features: the classes in the "
        "first column, one numeric column per attribute; columns of text are left out",
    )
    sub.add_argument(
        "--stored-attributes",
        choices=["keep", "replace", "remove"],
        default="keep",
        help="what becomes of a table that an earlier run has stored: keep it (and "
        "refuse another one), replace it by that of --attributes, or remove it",
    )
    sub.add_argument(
        "--allow-missing",
        action="store_true",
        help="store an empty cell of the table, or NA, as a missing value (NaN)",
    )
    sub.add_argument("--batch-size", type=_auto_or(int), default="auto")
    sub.add_argument(
        "--shard-size",
        type=_auto_or(int),
        default="auto",
        help="images per shard: what a kill can cost",
    )
    sub.add_argument(
        "--workers", type=_auto_or(int), default="auto", help="reading processes"
    )
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    sub.add_argument(
        "--engine",
        choices=ENGINES,
        default="torch",
        help="how the network is run; on a CPU the other two are faster",
    )
    sub.add_argument("--amp", choices=AMPS, default="off")
    sub.add_argument("--dtype", choices=["float16", "float32"], default="float32")
    sub.add_argument("--threads", type=_auto_or(int), default="auto")
    sub.add_argument("--on-error", choices=["skip", "stop"], default="skip")
    sub.add_argument(
        "--max-failed",
        type=_share,
        default=0.05,
        metavar="SHARE",
        help="exit with code 3 if more of the images fail (default: 0.05)",
    )
    again = sub.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="go on where an earlier run stopped (the default)",
    )
    again.add_argument(
        "--restart",
        action="store_true",
        help="throw away what an earlier run left, and replace a finished cache; its "
        "table of attributes stays",
    )

    sub = commands.add_parser("inspect", help="say what is inside a cache")
    sub.add_argument("cache")

    sub = commands.add_parser(
        "verify",
        help="check a cache",
        description="Check that every row is there and finite and every hash holds.",
    )
    sub.add_argument("cache")
    sub.add_argument(
        "--against",
        metavar="IMAGES",
        help="compute a sample again from the images and compare",
    )
    _add_root(sub)
    sub.add_argument("--sample", type=int, default=32, help="rows to compute again")
    _add_backbone(sub, required=False)

    sub = commands.add_parser(
        "import",
        help="turn xlsa17 files into a cache",
        description="Turn a res101.mat, with the att_splits.mat beside it, into a "
        "cache that holds the official splits.",
    )
    sub.add_argument("mat", metavar="RES101.mat")
    sub.add_argument("--out", required=True)

    sub = commands.add_parser(
        "export",
        help="turn a cache into xlsa17 files",
        description="Write res101.mat and att_splits.mat, as public zero-shot code "
        "reads them. The cache needs labels, a table of attributes, and splits: its "
        "own, or --unseen names the test classes. What the cache does not hold is "
        "made, and said: test rows of seen classes, and the two parts of the "
        "training rows without a common class, for tuning.",
    )
    sub.add_argument("cache")
    sub.add_argument("--xlsa17", required=True, metavar="DIR")
    sub.add_argument(
        "--unseen",
        metavar="FILE",
        help="text file with one unseen class per line, for a cache without splits",
    )
    sub.add_argument(
        "--test-seen",
        type=_share,
        default=0.2,
        metavar="SHARE",
        help="with --unseen: share of the images of each seen class that are for test "
        "(default: 0.2)",
    )
    sub.add_argument(
        "--val-classes",
        type=_number_or_share,
        default=0.2,
        metavar="N",
        help="number or share of the seen classes that are for validation, where the "
        "cache has no such part (default: 0.2)",
    )
    sub.add_argument("--seed", type=int, default=0, help="of what is made (default: 0)")

    sub = commands.add_parser(
        "doctor", help="say what this machine can do, and what a folder holds"
    )
    sub.add_argument(
        "images",
        nargs="?",
        help="a folder or table, as for extract: say what would be read of it",
    )
    _add_root(sub)
    return parser


def _add_root(sub):
    sub.add_argument(
        "--root",
        metavar="DIR",
        help="where the relative paths of a table start (default: in its folder)",
    )


def _add_backbone(sub, required):
    sub.add_argument(
        "--backbone",
        required=required,
        metavar="NAME",
        help="a model of timm" + ("" if required else " (the cache's own by default)"),
    )
    sub.add_argument(
        "--weights",
        metavar="FILE",
        help=".safetensors or .pth file; package:efficientnet-lite0; or random, as a "
        "baseline. timm fetches its own by default",
    )
    sub.add_argument(
        "--pool",
        choices=POOLS,
        default="auto" if required else None,
        help="how regions become one vector; none keeps them",
    )
    sub.add_argument("--image-size", type=int, metavar="N")
