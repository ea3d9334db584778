"""From images to a feature cache, through anything that may happen on the way.

The list of images is cut into shards, fixed ranges that hold whole batches. A shard
is written under a temporary name, flushed to the disk and renamed, and only then is
it there. A rerun computes the shards that are missing. When all are there they are
joined into the cache in the same manner, and removed after its name is in place. So
whatever dies, at whatever moment, costs at most the shard in hand.

A batch has the same images in it in every run: a bad image's slot holds zeros, which
keeps the features of its neighbours equal to the bit.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import mmap
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from rezsl_sk._storage.hdf5 import WriterLock
from rezsl_sk.feature_cache import (
    FORMAT,
    CacheError,
    FeatureCache,
    check_classes,
    verify_cache,
    write_cache,
)

from ._batches import differs, read_batches
from ._errors import ExtractionError
from ._network import AMPS, ENGINES, Runner, device_kind, processor
from ._shards import FinishedRows, Shard, ShardFolder, tidy_reason
from .backbones import Backbone, load_backbone
from .images import ImageError, ImageList, find_images, read_image

if TYPE_CHECKING:
    import pandas
    from numpy.typing import ArrayLike
    from PIL import Image

__all__ = ["ExtractionError", "extract_features", "verify_features"]

log = logging.getLogger("rezsl_features")

# Settings that an unfinished run has made once and a rerun takes over.
_KEPT = ("batch_size", "shard_size", "threads", "device")
_SHARD_IMAGES = 1024
_SHARD_BYTES = 2**26
_CPU_BATCH_BYTES = 2**28


def extract_features(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ImageList,
    model: str | torch.nn.Module | Backbone,
    out: str | os.PathLike[str],
    *,
    transform: Callable[[Image.Image], torch.Tensor] | None = None,
    labels: Sequence[str] | np.ndarray | None = None,
    weights: str | os.PathLike[str] | None = None,
    pool: Literal["auto", "avg", "cls", "none"] = "auto",
    image_size: int | None = None,
    class_attributes: pandas.DataFrame | tuple[ArrayLike, ArrayLike] | None = None,
    attribute_names: ArrayLike | None = None,
    allow_missing: bool = False,
    stored_attributes: Literal["keep", "replace", "remove"] = "keep",
    batch_size: int | Literal["auto"] = "auto",
    shard_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    device: str = "auto",
    engine: Literal["torch", "channels-last", "onnx"] = "torch",
    amp: Literal["off", "bf16", "fp16"] = "off",
    dtype: Literal["float32", "float16"] = "float32",
    threads: int | Literal["auto"] = "auto",
    on_error: Literal["skip", "stop"] = "skip",
    restart: bool = False,
    progress: bool = False,
) -> FeatureCache:
    """Compute the features of images once, and keep them in a `FeatureCache`.

    Interrupted in any way, the same call goes on where it stopped, and ends in the
    same features to the bit: batch size, engine, precision, threads, device and
    library versions are recorded, and a rerun with others is refused.

    A rerun computes again what has changed since: images whose content differs (by
    size and time of modification and, where these differ, by the SHA-256), and
    images that failed and can be read now. All other rows stay. An image that is not
    there any more keeps its row. What is done is logged under ``rezsl_features``.

    Parameters
    ----------
    images : str, path-like, sequence of path-like, or ImageList
        A folder of class folders, a folder of files, a CSV or Parquet table, or
        files; see `rezsl_features.images.find_images`.
    model : str, torch.nn.Module or Backbone
        The name of a model of timm, or any network that gives (n, d), (n, r, d) or
        (n, d, h, w). A module is put into evaluation mode and moved to `device`.
    out : str or path-like
        The cache to write. While unfinished, the work lies beside it in the folder
        ``NAME.shards``.
    transform : callable or None, default=None
        Turns a PIL image in mode RGB into a float tensor of one fixed shape. Needed
        with a module; with a name it replaces timm's own.
    labels : sequence of str of length n, or None, default=None
        Classes, where `images` is a sequence of files.
    weights, pool, image_size
        For a model by name; see `rezsl_features.backbones.load_backbone`.
    class_attributes : DataFrame, (classes, matrix) or None, default=None
        The table of attributes, stored beside the features.
    attribute_names : sequence of str of length a, or None, default=None
        Names of the table's columns.
    allow_missing : bool, default=False
        Whether NaN in `class_attributes` is a missing value, and stored.
    stored_attributes : {"keep", "replace", "remove"}, default="keep"
        What becomes of a table that an earlier run has stored. "keep": it stays, and
        another one is refused. A new table costs no new features.
    batch_size : int or "auto", default="auto"
        Images per forward pass. "auto" is 32 on a CPU; on a GPU 256, halved until
        it fits.
    shard_size : int or "auto", default="auto"
        Images per shard, rounded up to whole batches; what a kill can cost.
        "auto" is 1024, or fewer where their features exceed 64 MiB.
    workers : int or "auto", default="auto"
        Processes that read images; 0 reads in this one.
    device : str or "auto", default="auto"
        "cpu", "cuda", "cuda:1", "mps"; "auto" takes a GPU where there is one. Under
        torchrun, "cuda" is the GPU of the local rank.
    engine : {"torch", "channels-last", "onnx"}, default="torch"
        How the network is run: as it is, with channels last in memory, or by ONNX
        Runtime (CPU; extra ``onnx``). Features agree within rounding.
    amp : {"off", "bf16", "fp16"}, default="off"
        Mixed precision of the forward pass.
    dtype : {"float32", "float16"}, default="float32"
        Type of the stored features.
    threads : int or "auto", default="auto"
        CPU threads of the forward pass; at most four for each core, or 64.
    on_error : {"skip", "stop"}, default="skip"
        Whether an image that cannot be read is listed in ``cache.failed``, or ends
        the extraction.
    restart : bool, default=False
        Whether to throw away what an earlier run left, and replace a finished cache.
        Its table of attributes stays; a file that is no feature cache is refused.
    progress : bool, default=False
        Whether to show a progress bar (needs tqdm).

    Returns
    -------
    FeatureCache
        The finished cache, open.

    Raises
    ------
    ExtractionError
        If a setting is unknown, a rerun differs from the run that it would go on
        with, `out` is no name of a file or that of a file that is no cache, another
        table of attributes is stored, an image fails under ``on_error="stop"``, all
        images fail, or the transform gives tensors of different shapes.
    ImageError
        If there are no images, or their folder cannot be read.
    BackboneError
        If the network or its weights cannot be had.
    CacheError
        If another process is writing `out`, the disk is too full, or a finished
        cache, of which rows would be taken over, is damaged.
    ValueError
        If labels and table of attributes do not fit together.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import torch
    >>> from PIL import Image
    >>> from rezsl_features.extract import extract_features
    >>> def transform(image):
    ...     return torch.tensor(np.asarray(image.resize((2, 2))) / 255.0).float()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("black", "white"):
    ...         path = pathlib.Path(folder, "images", name, "1.png")
    ...         path.parent.mkdir(parents=True)
    ...         Image.new("RGB", (8, 8), name).save(path)
    ...     with extract_features(
    ...         f"{folder}/images", torch.nn.Flatten(), f"{folder}/toy.h5",
    ...         transform=transform, workers=0,
    ...     ) as cache:
    ...         print(cache.y, cache.X[:, 0], cache.X.shape)
    ['black' 'white'] [0. 1.] (2, 12)
    """
    _check_choice("engine", engine, ENGINES)
    _check_choice("amp", amp, tuple(AMPS))
    _check_choice("dtype", dtype, ("float32", "float16"))
    _check_choice("on_error", on_error, ("skip", "stop"))
    _check_choice("stored_attributes", stored_attributes, ("keep", "replace", "remove"))
    most = max(64, 4 * n_cores())
    for name, value, least, limit in (
        ("batch_size", batch_size, 1, 2**20),
        ("shard_size", shard_size, 1, 2**31),
        ("workers", workers, 0, most),
        ("threads", threads, 1, most),
    ):
        if value != "auto" and not (isinstance(value, int) and least <= value <= limit):
            raise ExtractionError(
                f"{name}={value!r} cannot be; give an integer from {least} to {limit}, "
                f"or 'auto'."
            )
    out = checked_out(out)
    # Who lists the images himself has read what there is to say of them.
    is_listed = isinstance(images, ImageList)
    images = find_images(images, labels)
    if class_attributes is None:
        class_attributes = images.class_attributes
    elif stored_attributes == "remove":
        raise ExtractionError(
            "A table of attributes was given, and stored_attributes='remove'; leave "
            "one of them out, or say 'replace'."
        )
    # Whatever is wrong with labels and table shows now, not after hours.
    checked = check_classes(
        len(images),
        images.labels,
        class_attributes,
        attribute_names,
        allow_missing=allow_missing,
    )
    table = None if class_attributes is None else checked[1:]
    backbone = _as_backbone(model, transform, weights, pool, image_size)
    wanted = backbone.identity() | {
        "engine": engine,
        "amp": amp,
        "dtype": dtype,
        "batch_size": batch_size,
        "shard_size": shard_size,
        "threads": threads,
        "device": device,
        "n_images": len(images),
        "image_list_sha256": images.sha256(),
        "versions": _versions(backbone, engine),
    }
    job = _Job(images, backbone, out, wanted)
    with _ranks() as (rank, size, share, wait):
        job.rank, job.size = rank, size
        if rank == 0 and not is_listed:
            for remark in images.remarks():
                log.warning("%s", remark)
        with WriterLock(out) if rank == 0 else contextlib.nullcontext():
            plan = None
            if rank == 0:
                plan = job.start(restart, table, stored_attributes, workers, on_error)
            plan = share(plan)
            if plan is None:
                return FeatureCache(out)
            if rank:
                job.join(plan)
            job.compute(plan["todo"], workers, on_error, progress)
            wait()
            if rank == 0:
                job.assemble()
        # Nobody opens the cache before rank 0 has put it there.
        wait()
    return FeatureCache(out)


def n_cores() -> int:
    """Count the cores that this process may use.

    Returns
    -------
    int
        At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_out(out: str | os.PathLike[str]) -> Path:
    """Check the name of a file to write.

    Parameters
    ----------
    out : str or path-like
        The name.

    Returns
    -------
    Path
        The file; for a link, the file that it leads to.

    Raises
    ------
    ExtractionError
        If it is empty, or the name of a folder, a pipe or the like.
    """
    path = Path(out)
    if os.path.lexists(path):
        path = Path(os.path.realpath(path))
    # Of "x.h5/" Path keeps "x.h5".
    if not path.name or path.is_dir() or os.fspath(out).endswith(os.sep):
        raise ExtractionError(
            f"{os.fspath(out)!r} is no name of a file; give the cache that is to be "
            f"written, for example cub.h5."
        )
    if os.path.lexists(path) and not path.is_file():
        raise ExtractionError(
            f"{path} is no regular file; give another name to the cache."
        )
    return path


def _check_choice(name, value, allowed):
    if value not in allowed:
        raise ExtractionError(
            f"{name}={value!r} is unknown; give one of {', '.join(allowed)}."
        )


def _as_backbone(model, transform, weights, pool, image_size):
    if isinstance(model, str):
        backbone = load_backbone(
            model, weights=weights, pool=pool, image_size=image_size
        )
        if transform is not None:
            backbone.transform = transform
        return backbone
    if weights is not None or pool != "auto" or image_size is not None:
        raise ExtractionError(
            "weights, pool and image_size belong to a model by name; a module brings "
            "its own. Leave them out."
        )
    if isinstance(model, Backbone):
        return model
    if not isinstance(model, torch.nn.Module):
        raise ExtractionError(
            f"model is a {type(model).__name__}; give the name of a timm model or a "
            f"torch.nn.Module."
        )
    if transform is None:
        raise ExtractionError(
            "A module needs a transform: a callable that turns a PIL image into the "
            "tensor it expects."
        )
    return Backbone(model, transform)


def _versions(backbone, engine):
    packages = ["rezsl-sk", "torch", "Pillow"]
    if backbone.weights is not None:
        packages += ["timm", "torchvision"]
    if engine == "onnx":
        packages += ["onnx", "onnxruntime"]
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def rank_and_size() -> tuple[int, int]:
    """Find this process's place among those that torchrun started.

    Returns
    -------
    rank, size : int
        0 and 1 unless torchrun's variables are all there.

    Raises
    ------
    ExtractionError
        If there are some of them, or they are no numbers.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = [os.environ.get(name) for name in names]
    if values[0] is None or values[1] in (None, "1"):
        return 0, 1
    try:
        rank, size = int(values[0]), int(values[1])
    except ValueError:
        rank = size = -1
    if not 0 <= rank < size or None in values:
        found = ", ".join(
            f"{name}={value!r}" for name, value in zip(names, values, strict=True)
        )
        raise ExtractionError(
            f"This process seems to be one of several, but the variables that tell "
            f"which do not fit together ({found}). Start them by torchrun, or unset "
            f"RANK and WORLD_SIZE for a single process."
        )
    return rank, size


@contextlib.contextmanager
def _ranks():
    """This process's place among those that torchrun started; alone without it.

    Yields rank, number of ranks, a function that gives all ranks rank 0's value, and
    one that waits for all. A rank that fails ends: torchrun then ends the others.
    """
    if rank_and_size()[1] == 1:
        yield 0, 1, lambda value: value, lambda: None
        return
    from torch import distributed

    own = not distributed.is_initialized()
    if own:
        # gloo: what the ranks tell each other is small, and needs no GPU. They meet
        # at the end, when the slowest is done.
        distributed.init_process_group("gloo", timeout=datetime.timedelta(days=30))

    def share(value):
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    try:
        yield (
            distributed.get_rank(),
            distributed.get_world_size(),
            share,
            (lambda: share(None)),
        )
    finally:
        if own:
            distributed.destroy_process_group()


class _Job:
    """One extraction as one process sees it."""

    def __init__(self, images, backbone, out, wanted):
        self.images = images
        self.backbone = backbone
        self.out = out
        self.wanted = wanted
        self.folder = ShardFolder(out)
        self._run = None
        # The finished cache, where rows are taken from it.
        self.finished = None

    # -- what is to be done, and whether it is what was begun ----------------------

    def start(self, restart, table, stored_attributes, workers, on_error):
        """Find out what there is and what is to be done; None if all is done.

        What is to be done is a list of (shard, batches, images): which batches are to
        be computed, and of which images the rows are taken (None: of all).
        """
        self.replaces = os.path.lexists(self.out)
        finished = None
        if self.replaces:
            if restart:
                _refuse_foreign(self.out)
            else:
                finished = self._finished()
        record, is_restart = self.folder.read_record()
        is_folder = record is not None
        if restart:
            record = None
        same = finished is not None and not self._differences(finished)
        # What a restart with other settings has left is of no use for this cache.
        ours = record is not None and not self._differences(record)
        if not ours:
            self.folder.disregard()
            if record is not None and not same:
                self._refuse("was begun with", self._differences(record))
            if finished is not None and not same:
                self._refuse("holds", self._differences(finished))
        in_cache = self._table_in_cache(restart) if same or restart else None
        stored = self.folder.read_table() if ours else in_cache
        self.table = self._settle_table(table, stored, stored_attributes, restart)
        if same and not (ours and is_restart):
            self.finished = FinishedRows(FeatureCache(self.out), self.images.names)
        if not ours and not same:
            identity = self._new_identity()
        else:
            identity = record if ours else finished
        self._take(identity)
        todo = self._plan(workers, on_error)
        if self.finished is not None:
            self.is_new_table = not _equal_tables(self.table, in_cache)
            if not todo and not self._is_to_be_written():
                if ours:
                    self.folder.remove()
                log.info("All is there already, and no image has changed.")
                return None
            if record is not None and not ours:
                self._refuse("was begun with", self._differences(record))
            # Hashes are written anew with all that is taken over.
            verify_cache(self.out)
        if not ours:
            if is_folder:
                self.folder.remove()
            self.folder.create(identity, restart)
        if not ours or not _equal_tables(self.table, stored):
            self.folder.write_table(self.table)
        return {
            "identity": identity,
            "todo": todo,
            "is_update": self.finished is not None,
        }

    def _is_to_be_written(self):
        return (
            self.finished is None
            or self.is_new_table
            or any(self.folder.has(first) for first, _ in self.shards)
        )

    def _finished(self):
        """The identity of the run that made the finished cache."""
        try:
            with FeatureCache(self.out) as cache:
                identity = cache.metadata
                shape = cache.X.shape[1:]
        except CacheError:
            _refuse_foreign(self.out)
            raise
        if "image_list_sha256" not in identity:
            raise ExtractionError(
                f"{self.out} exists and was not made by an extraction; give another "
                f"name, or restart (--restart) to replace it."
            )
        known = {key: identity.get(key) for key in self.wanted}
        return known | {"feature_shape": list(shape)}

    def _differences(self, old):
        """What is asked for otherwise than in `old`, naming both."""
        differences = []
        for key, new in self.wanted.items():
            if key == "device" and new != "auto":
                new = device_kind(new)
            if key in _KEPT and new == "auto":
                continue
            if key == "shard_size" and new != "auto":
                new = _whole_batches(new, old.get("batch_size") or 1)
            if old.get(key) != new:
                differences.append(f"{key} {old.get(key)!r}, now {new!r}")
        return differences

    def _refuse(self, verb, differences):
        raise ExtractionError(
            f"{self.out} {verb} other features than are asked for: "
            f"{'; '.join(differences)}. Give another name, the old settings, or "
            f"restart (--restart)."
        )

    def _table_in_cache(self, restart):
        """The table of attributes of the finished cache, or None."""
        if not self.replaces:
            return None
        try:
            with FeatureCache(self.out) as cache:
                if cache.class_attributes is None:
                    return None
                names = cache.attribute_names
                return (
                    cache.classes.tolist(),
                    cache.class_attributes,
                    None if names is None else names.tolist(),
                )
        except CacheError as error:
            if not restart:
                raise
            log.warning(
                "Whether the file that is replaced stores a table of attributes "
                "cannot be read, so none is kept: %s",
                error,
            )
            return None

    def _settle_table(self, given, stored, choice, restart):
        """Which table the cache will hold: as (classes, matrix, names), or None."""
        if given is None and choice == "replace":
            raise ExtractionError(
                "stored_attributes='replace' needs the new table; give it "
                "(class_attributes, --attributes), or leave the option out."
            )
        if choice == "remove":
            return None
        if given is not None:
            if choice == "keep" and stored is not None:
                names = given[2] if given[2] is not None else stored[2]
                if not _equal_tables((*given[:2], names), stored):
                    raise ExtractionError(
                        f"{self.out} stores another table of attributes "
                        f"({_size_of(stored)}) than is given ({_size_of(given)}). "
                        f"Replace it with stored_attributes='replace' "
                        f"(--stored-attributes replace), or leave the new one out."
                    )
                return stored
            return given
        if stored is not None:
            try:
                check_classes(
                    len(self.images),
                    self.images.labels,
                    stored[:2],
                    stored[2],
                    allow_missing=True,  # asked when it was stored
                )
            except ValueError as error:
                raise ExtractionError(
                    f"{self.out} stores a table of attributes that does not fit the "
                    f"images: {error} Or say stored_attributes='replace' or 'remove' "
                    f"(--stored-attributes)."
                ) from error
            if restart:
                log.info("The stored table of attributes stays: %s.", _size_of(stored))
        return stored

    def _new_identity(self):
        identity = dict(self.wanted)
        identity["device"] = device_kind(identity["device"])
        if identity["threads"] == "auto":
            identity["threads"] = torch.get_num_threads()
        self._probe(identity)
        return identity

    def _probe(self, identity):
        """Settle batch and shard size, and learn the shape of features."""
        run = self._runner(identity)
        sample = self._sample()
        if identity["batch_size"] != "auto":
            shape = _forward(run, sample[None]).shape[1:]
        elif identity["device"] == "cpu":
            most = _CPU_BATCH_BYTES // max(1, sample.nbytes)
            identity["batch_size"] = max(1, min(32, most))
            shape = _forward(run, sample[None]).shape[1:]
        else:
            identity["batch_size"] = 256
            while True:
                size = identity["batch_size"]
                try:
                    batch = sample.expand(size, *sample.shape)
                    shape = _forward(run, batch).shape[1:]
                    break
                except torch.OutOfMemoryError as error:
                    if size == 1:
                        raise ExtractionError(
                            "The GPU has not enough memory for a single image; give "
                            "a smaller image size, or free its memory."
                        ) from error
                    identity["batch_size"] = size // 2
        if identity["shard_size"] == "auto":
            row_bytes = max(
                1, int(np.prod(shape)) * np.dtype(identity["dtype"]).itemsize
            )
            identity["shard_size"] = min(_SHARD_IMAGES, _SHARD_BYTES // row_bytes)
        identity["shard_size"] = _whole_batches(
            max(1, identity["shard_size"]), identity["batch_size"]
        )
        identity["feature_shape"] = [int(side) for side in shape]

    def _runner(self, identity):
        if self._run is None:  # making one for ONNX takes seconds
            self._run = Runner(self.backbone, identity)
        return self._run

    def _sample(self):
        """What the transform makes of an image; all others must be like it."""
        from PIL import Image

        blank = Image.new("RGB", (256, 256))
        try:
            return torch.as_tensor(self.backbone.transform(blank))
        except Exception as error:
            raise ExtractionError(
                f"The transform fails on a blank image of 256 x 256 pixels "
                f"({type(error).__name__}: {error}); give one that takes any picture."
            ) from error

    def _take(self, identity):
        self.identity = identity
        n, size = len(self.images), identity["shard_size"]
        self.shards = [(i, min(i + size, n)) for i in range(0, n, size)]

    def join(self, plan):
        """Take over what rank 0 has settled."""
        differences = self._differences(plan["identity"])
        if differences:
            self._refuse("gets from rank 0", differences)
        self._take(plan["identity"])
        self.folder.join(plan["identity"])
        if plan["is_update"]:
            self.finished = FinishedRows(FeatureCache(self.out), self.images.names)

    def _plan(self, workers, on_error):
        """Which batches are to be computed: what is missing, has changed or failed."""
        new, changed, failed, gone = [], [], [], []
        files = self.images.files
        for shard in self.shards:
            known = self._known(*shard)
            if known is None:
                new.append(shard)
                continue
            for i, reason in enumerate(known.reasons, shard[0]):
                if reason:
                    failed.append(i)
                elif known.sources is not None:
                    state = differs(files[i], known.sources[i - shard[0]])
                    if state is None:
                        gone.append(i)
                    elif state:
                        changed.append(i)
        mended = self._mended(failed, workers, on_error)
        if gone:
            log.warning(
                "%d images are not there any more, the first being %s; their "
                "features, computed before, are kept.",
                len(gone),
                files[gone[0]],
            )
        if changed or mended:
            log.info(
                "%d images have changed and %d that failed before can be read now; "
                "these are computed again.",
                len(changed),
                len(mended),
            )
        n_new = sum(stop - first for first, stop in new)
        if self.finished is None and n_new < len(self.images):
            log.info(
                "An earlier run has finished %d of %d images; going on with the rest.",
                len(self.images) - n_new,
                len(self.images),
            )
        size = self.identity["batch_size"]
        again = set(changed) | set(mended)
        todo = []
        for first, stop in self.shards:
            batches = [(i, min(i + size, stop)) for i in range(first, stop, size)]
            if (first, stop) in new:
                todo.append(((first, stop), batches, None))
                continue
            mine = sorted(again.intersection(range(first, stop)))
            if mine:
                # A whole batch, so that the bits are those of an unbroken run.
                batches = [b for b in batches if any(b[0] <= i < b[1] for i in mine)]
                todo.append(((first, stop), batches, mine))
        return todo

    def _mended(self, failed, workers, on_error):
        """Those of the images that failed before which can be read now."""
        mended = []
        if failed:
            singles = [(i, i + 1) for i in failed]
            for (i, _), _, reasons, _ in self._read(singles, workers):
                if not reasons[0]:
                    mended.append(i)
                elif on_error == "stop":
                    raise self._stopped(i, reasons[0])
        return mended

    def _stopped(self, i, reason):
        return ExtractionError(
            f"{self.images.files[i]}: {reason}. Mend or remove it, or skip such images "
            f"(--on-error skip); finished shards are kept."
        )

    def _known(self, first, stop):
        """Rows that need not be computed: of a finished shard, or of the cache."""
        shard = self.folder.read(first, stop)
        if shard is None and self.finished is not None:
            return self.finished.read(first, stop)
        return shard

    # -- the work -------------------------------------------------------------------

    def compute(self, todo, workers, on_error, progress):
        """Compute this rank's part of what is to be done."""
        mine = todo[self.rank :: self.size]
        batches = [batch for _, some, _ in mine for batch in some]
        if not batches:
            return
        identity = self.identity
        left = sum(stop - start for start, stop in batches)
        n_todo = sum(b - a for _, some, _ in todo for a, b in some)
        done = (len(self.images) - n_todo) // self.size
        with (
            _cpu_threads(identity["threads"]),
            _bar(done + left, done, progress and self.rank == 0) as tick,
            contextlib.closing(self._read(batches, workers)) as read,
        ):
            run = self._runner(identity)
            collector = _Collector(self, mine)
            # Fetching a result from a GPU waits for it, so there it is fetched when
            # the next batch is under way. A CPU has it at once.
            waiting, behind = [], int(identity["device"] != "cpu")
            for (start, stop), batch, reasons, sources in read:
                for i in collector.wanted(start, stop):
                    if on_error == "stop" and reasons[i - start]:
                        raise self._stopped(i, reasons[i - start])
                try:
                    features = _forward(run, batch)
                except torch.OutOfMemoryError as error:
                    raise ExtractionError(
                        f"A batch of {stop - start} images does not fit on the GPU; "
                        f"restart with a smaller batch size, or free its memory and "
                        f"go on."
                    ) from error
                waiting.append((start, features, reasons, sources))
                if len(waiting) > behind:
                    collector.add(*waiting.pop(0))
                tick(stop - start)
            for last in waiting:
                collector.add(*last)

    def _read(self, batches, workers):
        """Yield batches as (range, tensor, reasons, sources)."""
        cpu = self.identity["device"] == "cpu"
        if workers == "auto":
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            workers = max(1, min(n_cores() // local, 4 if cpu else 16))
        return read_batches(
            self.images.files,
            self.backbone.transform,
            self._sample(),
            batches,
            workers,
            on_cpu=cpu,
        )

    # -- the end --------------------------------------------------------------------

    def assemble(self):
        """Join the shards to the cache, put it in place, remove them."""
        if not self._is_to_be_written():
            self.folder.remove()
            return
        failed, sources = {}, []
        for shard in self.shards:
            part = self._whole(*shard)
            failed.update((shard[0] + i, r) for i, r in enumerate(part.reasons) if r)
            sources.append(part.sources)
        images = self.images
        good = np.setdiff1d(np.arange(len(images)), list(failed))
        if len(good) == 0:
            # Whatever was wrong will be mended, and then everything is to be done.
            self.folder.remove()
            first = min(failed)
            raise ExtractionError(
                f"None of the {len(images)} images gave features; the first, "
                f"{images.files[first]}, failed because: {failed[first]}. Mend them, "
                f"or give others, and start again."
            )
        row = np.full(len(images), -1)
        row[good] = np.arange(len(good))
        splits = {
            name: row[positions][row[positions] >= 0]
            for name, positions in images.splits.items()
        }
        known = all(part is not None for part in sources)
        identity = {k: v for k, v in self.identity.items() if k != "feature_shape"}
        table = self.table
        write_cache(
            self.out,
            self._good_rows(),
            paths=[images.names[i] for i in good],
            y=None if images.labels is None else [images.labels[i] for i in good],
            class_attributes=None if table is None else table[:2],
            attribute_names=None if table is None else table[2],
            allow_missing=True,
            failed=[(images.names[i], reason) for i, reason in sorted(failed.items())],
            splits=splits,
            sources=np.concatenate(sources)[good] if known else None,
            metadata=identity
            | {"weights": self.backbone.weights, "processor": processor(identity)},
            overwrite=self.replaces,
        )
        self.folder.remove()

    def _whole(self, first, stop):
        shard = self._known(first, stop)
        if shard is None:
            raise ExtractionError(
                f"The images {first} to {stop} of {self.out} are to be computed once "
                f"more; the same command goes on with them."
            )
        return shard

    def _good_rows(self):
        for shard in self.shards:
            part = self._whole(*shard)
            yield part.features[[not reason for reason in part.reasons]]


def _forward(run, batch):
    """Run the network; what it cannot take is a sentence."""
    try:
        return run(batch)
    except (ExtractionError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ExtractionError(
            f"The network fails on images of shape {tuple(batch.shape[1:])}, "
            f"{len(batch)} at a time ({type(error).__name__}: {reason}). Give an image "
            f"size or a transform that fits it, or a smaller batch size."
        ) from error


class _Collector:
    """Collects rows in the order of the list, and writes each shard that is full."""

    def __init__(self, job, todo):
        self.job = job
        self.todo = iter(todo)
        self.pending = {
            batch[0]: wanted for _, batches, wanted in todo for batch in batches
        }
        self._next()

    def _next(self):
        self.current = next(self.todo, None)
        if self.current is None:
            return
        (first, stop), batches, wanted = self.current
        self.left = len(batches)
        identity = self.job.identity
        shard = Shard.empty(stop - first, identity["feature_shape"], identity["dtype"])
        self.before = None
        if wanted is not None:
            self.before = self.job._whole(first, stop)
            shard.features[:] = self.before.features
            shard.reasons = list(self.before.reasons)
            if self.before.sources is None:
                shard.sources = None
            else:
                shard.sources[:] = self.before.sources
        self.shard = shard

    def wanted(self, start, stop):
        """Of which images of a batch the rows are taken."""
        wanted = self.pending[start]
        if wanted is None:
            return range(start, stop)
        return [i for i in wanted if start <= i < stop]

    def add(self, start, features, reasons, sources):
        features = features.float().cpu().numpy()
        if list(features.shape[1:]) != self.job.identity["feature_shape"]:
            raise ExtractionError(
                f"The network gave features of shape {features.shape[1:]} after "
                f"{tuple(self.job.identity['feature_shape'])} before; one cache holds "
                f"features of one shape. Give a network whose output does not change."
            )
        with np.errstate(over="ignore"):  # the next lines look
            stored = features.astype(self.shard.features.dtype)
        flat = stored.reshape(len(stored), -1)
        for i in np.flatnonzero(~np.isfinite(flat).all(axis=1)):
            if not reasons[i]:
                reasons[i] = (
                    "its features are beyond the range of float16 (use float32)"
                    if np.isfinite(features[i]).all()
                    else "the network gave NaN or infinity"
                )
        shard, first = self.shard, self.current[0][0]
        for image in self.wanted(start, start + len(reasons)):
            i, row = image - start, image - first
            shard.reasons[row] = tidy_reason(reasons[i])
            shard.features[row] = 0 if reasons[i] else stored[i]
            if shard.sources is not None:
                shard.sources[row] = sources[i]
                if reasons[i]:  # it will be tried again anyway
                    shard.sources[row] = np.zeros((), shard.sources.dtype)
        self.left -= 1
        if not self.left:
            # What comes out as it was need not be written again.
            if self.before is None or not shard.equals(self.before):
                self.job.folder.write(first, shard)
            self._next()


def _refuse_foreign(path):
    """Refuse to replace what is no feature cache.

    The HDF5 library may crash on a damaged file, and is not asked.
    """
    with open(path, "rb") as file:
        is_cache = file.read(8) == b"\x89HDF\r\n\x1a\n"
        if is_cache:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                is_cache = content.find(FORMAT.encode()) >= 0
    if not is_cache:
        raise ExtractionError(
            f"{path} exists and is no feature cache; it is not replaced. Give another "
            f"name, or move the file away and start again."
        )


def _equal_tables(a, b):
    if a is None or b is None:
        return a is b
    return (
        list(a[0]) == list(b[0])
        and np.array_equal(a[1], b[1], equal_nan=True)
        and (a[2] is b[2] or list(a[2] or ()) == list(b[2] or ()))
    )


def _size_of(table):
    return f"{len(table[0])} classes, {table[1].shape[1]} attributes"


def _whole_batches(shard_size, batch_size):
    return -(-shard_size // batch_size) * batch_size


@contextlib.contextmanager
def _cpu_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _bar(total, done, wanted):
    if not wanted:
        yield lambda n: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ExtractionError(
            "progress=True needs tqdm; `pip install tqdm`, or leave it out."
        ) from error
    with tqdm(total=total, initial=done, unit=" images", dynamic_ncols=True) as bar:
        yield bar.update


def verify_features(
    cache: FeatureCache,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | ImageList,
    model: str | torch.nn.Module | Backbone,
    *,
    transform: Callable[[Image.Image], torch.Tensor] | None = None,
    n_samples: int = 32,
    **options: Any,
) -> float:
    """Compute a sample of a cache's rows again and compare.

    Parameters
    ----------
    cache : FeatureCache
        The cache in question.
    images : str, path-like, sequence of path-like, or ImageList
        The images that it was made of.
    model : str, torch.nn.Module or Backbone
        The network, as for `extract_features`.
    transform : callable or None, default=None
        As for `extract_features`.
    n_samples : int, default=32
        Number of rows, spread evenly over the cache.
    **options
        ``weights``, ``pool`` and ``image_size``, as for `extract_features`.

    Returns
    -------
    float
        The largest difference between a value and its recomputed twin, as a
        share of the largest value of its row.

    Raises
    ------
    ExtractionError
        If the network, its weights or the transform are not those of the cache, an
        image is missing, or a row differs by more than 1 % of its largest value.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import torch
    >>> from PIL import Image
    >>> from rezsl_features.extract import extract_features, verify_features
    >>> def transform(image):
    ...     return torch.tensor(np.asarray(image.resize((2, 2))) / 255.0).float()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8), "red").save(f"{folder}/red.png")
    ...     files, net = [f"{folder}/red.png"], torch.nn.Flatten()
    ...     with extract_features(
    ...         files, net, f"{folder}/toy.h5", transform=transform, workers=0
    ...     ) as cache:
    ...         verify_features(cache, files, net, transform=transform)
    0.0
    """
    images = find_images(images)
    backbone = _as_backbone(
        model,
        transform,
        options.get("weights"),
        options.get("pool", "auto"),
        options.get("image_size"),
    )
    old = cache.metadata
    for key, new in backbone.identity().items():
        if old.get(key) != new:
            raise ExtractionError(
                f"{cache.path} was made with {key} {old.get(key)!r}, given is {new!r}."
            )
    at = dict(zip(images.names, images.files, strict=True))
    rows = np.unique(np.linspace(0, len(cache) - 1, n_samples).astype(int))
    paths = cache.paths[rows]
    missing = [str(path) for path in paths if path not in at]
    if missing:
        raise ExtractionError(
            f"{missing[0]!r} of {cache.path} is not among the images given; give the "
            f"folder or table that the cache was made of."
        )
    settings = {"device": "cpu", "amp": "off", "engine": "torch"}
    run = Runner(backbone, settings)
    largest = 0.0
    for row, path in zip(rows, paths, strict=True):
        try:
            tensor = torch.as_tensor(backbone.transform(read_image(at[path])))
        except ImageError as error:
            raise ExtractionError(f"{at[path]} cannot be read now: {error}.") from error
        new = run(tensor[None])[0].float().numpy()
        stored = cache.X[int(row)].astype(np.float32)
        scale = max(float(np.abs(new).max()), np.finfo(np.float32).tiny)
        difference = float(np.abs(new - stored).max()) / scale
        # 1 %: bf16 keeps eight bits; another image differs by far more.
        if difference > 0.01:
            raise ExtractionError(
                f"Row {row} of {cache.path} ({path}) differs from the image's "
                f"features by {difference:.1%} of their largest value."
            )
        largest = max(largest, difference)
    return largest
