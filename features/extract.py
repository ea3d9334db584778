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
import copy
import datetime
import errno
import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import torch

from rezsl_sk._storage.hdf5 import WriterLock, new_hdf5, sync_folder
from rezsl_sk.feature_cache import FeatureCache, check_classes, write_cache

from .backbones import Backbone, load_backbone
from .images import ImageError, ImageList, find_images, read_image

if TYPE_CHECKING:
    import pandas
    from numpy.typing import ArrayLike
    from PIL import Image

__all__ = ["ExtractionError", "extract_features", "verify_features"]

ENGINES = ("torch", "channels-last", "onnx")
AMPS = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Settings that an unfinished run has made once and a rerun takes over.
_KEPT = ("batch_size", "shard_size", "threads", "device")
_SHARD_IMAGES = 1024
_SHARD_BYTES = 2**26


class ExtractionError(RuntimeError):
    """An extraction cannot start or go on; what is finished is kept.

    Examples
    --------
    >>> from rezsl_features.extract import ExtractionError, extract_features
    >>> try:
    ...     extract_features("images", "resnet50", "x.h5", engine="steam")
    ... except ExtractionError as error:
    ...     print(error)
    engine='steam' is unknown; give one of torch, channels-last, onnx.
    """


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
        CPU threads of the forward pass.
    on_error : {"skip", "stop"}, default="skip"
        Whether an image that cannot be read is listed in ``cache.failed``, or ends
        the extraction.
    restart : bool, default=False
        Whether to throw away what an earlier run left, and replace a finished cache.
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
        with, an image fails under ``on_error="stop"``, all images fail, or the
        transform gives tensors of different shapes.
    ImageError
        If there are no images, or their folder cannot be read.
    BackboneError
        If the network or its weights cannot be had.
    CacheError
        If another process is writing `out`, or the disk is too full.
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
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("shard_size", shard_size, 1),
        ("workers", workers, 0),
        ("threads", threads, 1),
    ):
        if value != "auto" and (not isinstance(value, int) or value < least):
            raise ExtractionError(
                f"{name}={value!r} is no number of images or processes; give an "
                f"integer from {least}, or 'auto'."
            )
    images = find_images(images, labels)
    if class_attributes is None:
        class_attributes = images.class_attributes
    # Whatever is wrong with labels and table shows now, not after hours.
    check_classes(len(images), images.labels, class_attributes, attribute_names)
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
    job = _Job(images, backbone, Path(out), wanted)
    job.table = (class_attributes, attribute_names)
    with _ranks() as (rank, size, share, wait):
        job.rank, job.size = rank, size
        with WriterLock(job.out) if rank == 0 else contextlib.nullcontext():
            if rank == 0:
                identity = job.start(restart)
            else:
                identity = None
            identity = share(identity)
            if identity is None:
                return FeatureCache(job.out)
            job.go_on(identity)
            job.compute(workers, on_error, progress)
            wait()
            if rank == 0:
                job.assemble()
        # Nobody opens the cache before rank 0 has put it there.
        wait()
    return FeatureCache(job.out)


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


@contextlib.contextmanager
def _ranks():
    """This process's place among those that torchrun started; alone without it.

    Yields rank, number of ranks, a function that gives all ranks rank 0's value, and
    one that waits for all. A rank that fails ends: torchrun then ends the others.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
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
        self.folder = out.with_name(out.name + ".shards")
        self._run = None

    # -- what is to be done, and whether it is what was begun ----------------------

    def start(self, restart):
        """Find or make the identity of this run; None if all is done already."""
        record = self.folder / "identity.json"
        self.replaces = self.out.exists()
        if not restart:
            if self.replaces:
                differences = self._differences(_identity_of_cache(self.out))
                if not differences:
                    self._refresh_table()
                    shutil.rmtree(self.folder, ignore_errors=True)
                    return None
                # Unless a restart, interrupted in its turn, is about to replace it.
                if not record.exists():
                    self._refuse("holds", differences)
            if record.exists():
                identity = json.loads(record.read_text())
                differences = self._differences(identity)
                if differences:
                    self._refuse("was begun with", differences)
                return identity
        # Shards without a record are of nobody knows what.
        if self.folder.exists():
            shutil.rmtree(self.folder)
        identity = dict(self.wanted)
        identity["device"] = _device_kind(identity["device"])
        if identity["threads"] == "auto":
            identity["threads"] = torch.get_num_threads()
        self._probe(identity)
        self.folder.mkdir()
        _write_json(record, identity)
        return identity

    def _differences(self, old):
        """What is asked for otherwise than in `old`, naming both."""
        differences = []
        for key, new in self.wanted.items():
            if key == "device" and new != "auto":
                new = _device_kind(new)
            if key in _KEPT and new == "auto":
                continue
            if key == "shard_size" and new != "auto":
                new = _whole_batches(new, old["batch_size"])
            if old.get(key) != new:
                differences.append(f"{key} {old.get(key)!r}, now {new!r}")
        return differences

    def _refuse(self, verb, differences):
        raise ExtractionError(
            f"{self.out} {verb} other features than are asked for: "
            f"{'; '.join(differences)}. Give another name, the old settings, or "
            f"restart (--restart)."
        )

    def _refresh_table(self):
        """Put a new table of attributes into a finished cache, with its features."""
        with FeatureCache(self.out) as cache:
            names = cache.attribute_names
            old = (cache.labels, cache.classes, cache.class_attributes, names)
            y = cache.y
            new = check_classes(len(cache), y, *self.table)
            if all(
                np.array_equal(a, b) if a is not None and b is not None else a is b
                for a, b in zip(old, new, strict=True)
            ):
                return
            step = max(1, 2**24 // cache.X[:1].nbytes)
            write_cache(
                self.out,
                (cache.X[i : i + step] for i in range(0, len(cache), step)),
                paths=cache.paths,
                y=y,
                class_attributes=self.table[0],
                attribute_names=self.table[1],
                failed=cache.failed,
                splits=cache.splits,
                metadata=cache.metadata,
                overwrite=True,
            )

    def _probe(self, identity):
        """Settle batch and shard size, and learn the shape of features."""
        run = self._runner(identity)
        sample = self._sample()
        if identity["batch_size"] != "auto":
            shape = run(sample[None]).shape[1:]
        elif identity["device"] == "cpu":
            identity["batch_size"] = 32
            shape = run(sample[None]).shape[1:]
        else:
            identity["batch_size"] = 256
            while True:
                size = identity["batch_size"]
                try:
                    shape = run(sample.expand(size, *sample.shape)).shape[1:]
                    break
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    identity["batch_size"] = size // 2
        if identity["shard_size"] == "auto":
            row_bytes = max(
                1, int(np.prod(shape)) * np.dtype(identity["dtype"]).itemsize
            )
            identity["shard_size"] = min(_SHARD_IMAGES, _SHARD_BYTES // row_bytes)
        identity["shard_size"] = _whole_batches(
            identity["shard_size"], identity["batch_size"]
        )
        identity["feature_shape"] = [int(side) for side in shape]

    def _runner(self, identity):
        if self._run is None:  # making one for ONNX takes seconds
            self._run = _Runner(self.backbone, identity)
        return self._run

    def _sample(self):
        """What the transform makes of an image; all others must be like it."""
        from PIL import Image

        return torch.as_tensor(self.backbone.transform(Image.new("RGB", (256, 256))))

    def go_on(self, identity):
        """Take over the settings that rank 0 has settled."""
        if self.rank:
            differences = self._differences(identity)
            if differences:
                self._refuse("gets from rank 0", differences)
        self.identity = identity
        n, size = len(self.images), identity["shard_size"]
        self.shards = [(i, min(i + size, n)) for i in range(0, n, size)]

    def _shard_path(self, shard):
        return self.folder / f"{shard[0]:012d}.h5"

    # -- the work -------------------------------------------------------------------

    def compute(self, workers, on_error, progress):
        """Compute this rank's missing shards."""
        mine = self.shards[self.rank :: self.size]
        todo = [shard for shard in mine if not self._is_done(shard, on_error)]
        identity = self.identity
        size = identity["batch_size"]
        batches = [
            (start, min(start + size, stop))
            for first, stop in todo
            for start in range(first, stop, size)
        ]
        total = sum(stop - start for start, stop in mine)
        left = sum(stop - start for start, stop in todo)
        if not batches:
            return
        with (
            _cpu_threads(identity["threads"]),
            _bar(total, total - left, progress and self.rank == 0) as tick,
            contextlib.closing(self._read(batches, workers)) as read,
        ):
            run = self._runner(identity)
            shard = _Shard(self, todo)
            # Fetching a result from a GPU waits for it, so there it is fetched when
            # the next batch is under way. A CPU has it at once.
            waiting, behind = [], int(identity["device"] != "cpu")
            for (start, stop), batch, reasons in read:
                if on_error == "stop" and any(reasons):
                    bad = next(i for i, reason in enumerate(reasons) if reason)
                    raise ExtractionError(
                        f"{self.images.files[start + bad]}: {reasons[bad]}. Mend or "
                        f"remove it, or skip such images (--on-error skip); finished "
                        f"shards are kept."
                    )
                try:
                    waiting.append((run(batch), reasons))
                except torch.OutOfMemoryError as error:
                    raise ExtractionError(
                        f"A batch of {size} images does not fit on the GPU; restart "
                        f"with a smaller batch size, or free its memory and go on."
                    ) from error
                if len(waiting) > behind:
                    shard.add(*waiting.pop(0))
                tick(stop - start)
            for last in waiting:
                shard.add(*last)

    def _is_done(self, shard, on_error):
        path = self._shard_path(shard)
        if not path.exists():
            return False
        try:
            with h5py.File(path, "r", locking=False) as file:
                failed = any(file["reason"].asstr()[...])
                whole = len(file["features"]) == shard[1] - shard[0]
        except (OSError, KeyError):
            whole = failed = False
        # Who wants to stop at a bad image wants to hear of it again.
        if whole and not (failed and on_error == "stop"):
            return True
        path.unlink()
        return False

    def _read(self, batches, workers):
        """Yield batches as (range, tensor, reasons), read ahead by worker processes."""
        cpu = self.identity["device"] == "cpu"
        if workers == "auto":
            cores = (
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            )
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            workers = max(1, min(cores // local, 4 if cpu else 16))
        slots = _Slots(self.images.files, self.backbone.transform, self._sample())
        loader = torch.utils.data.DataLoader(
            slots,
            batch_size=None,
            sampler=batches,
            generator=torch.Generator(),  # leave the user's random state alone
            num_workers=min(workers, len(batches)),
            worker_init_fn=_be_a_modest_worker if cpu else _be_a_worker,
            pin_memory=self.identity["device"].startswith("cuda"),
        )
        with warnings.catch_warnings():
            # Python 3.12 and later warn of fork beside threads. The children only
            # read images, and spawning would need pickled transforms.
            warnings.filterwarnings(
                "ignore", "This process .* is multi-threaded", DeprecationWarning
            )
            source = iter(loader)
        for batch_range in batches:
            try:
                batch, reasons = next(source)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise ExtractionError(
                    f"A process that reads images died ({str(error).splitlines()[0]}). "
                    f"Perhaps memory or shared memory ran out: use fewer workers. "
                    f"Finished shards are kept; the same command goes on."
                ) from error
            if batch is None:
                raise ExtractionError(reasons)
            yield batch_range, batch, reasons

    # -- the end --------------------------------------------------------------------

    def assemble(self):
        """Join the shards to the cache, put it in place, remove them."""
        failed = {}
        for shard in self.shards:
            with self._open_shard(shard) as file:
                reasons = file["reason"].asstr(errors="surrogateescape")[...]
            failed.update((shard[0] + i, r) for i, r in enumerate(reasons) if r)
        images = self.images
        good = np.setdiff1d(np.arange(len(images)), list(failed))
        if len(good) == 0:
            # Whatever was wrong will be mended, and then everything is to be done.
            shutil.rmtree(self.folder)
            first = min(failed)
            raise ExtractionError(
                f"None of the {len(images)} images gave features; the first, "
                f"{images.files[first]}, failed because: {failed[first]}."
            )
        row = np.full(len(images), -1)
        row[good] = np.arange(len(good))
        splits = {
            name: row[positions][row[positions] >= 0]
            for name, positions in images.splits.items()
        }
        identity = {k: v for k, v in self.identity.items() if k != "feature_shape"}
        write_cache(
            self.out,
            self._good_rows(),
            paths=[images.names[i] for i in good],
            y=None if images.labels is None else [images.labels[i] for i in good],
            class_attributes=self.table[0],
            attribute_names=self.table[1],
            failed=[(images.names[i], reason) for i, reason in sorted(failed.items())],
            splits=splits,
            metadata=identity
            | {"weights": self.backbone.weights, "processor": _processor(identity)},
            overwrite=self.replaces,
        )
        shutil.rmtree(self.folder)
        sync_folder(self.out.parent)

    @contextlib.contextmanager
    def _open_shard(self, shard):
        path = self._shard_path(shard)
        try:
            with h5py.File(path, "r", locking=False) as file:
                yield file
        except (OSError, KeyError) as error:
            path.unlink(missing_ok=True)
            raise ExtractionError(
                f"The shard {path} cannot be read and was removed; the same command "
                f"computes it again."
            ) from error

    def _good_rows(self):
        for shard in self.shards:
            with self._open_shard(shard) as file:
                features = file["features"][...]
                if _sha256(features) != file.attrs["sha256"]:
                    raise OSError(errno.EIO, "The hash of the features does not hold")
                yield features[file["reason"].asstr(errors="replace")[...] == ""]


class _Shard:
    """Collects rows in the order of the list, and writes each shard that is full."""

    def __init__(self, job, todo):
        self.job = job
        self.todo = iter(todo)
        self._next()

    def _next(self):
        self.range = next(self.todo, None)
        if self.range is not None:
            identity = self.job.identity
            n = self.range[1] - self.range[0]
            self.features = np.zeros((n, *identity["feature_shape"]), identity["dtype"])
            self.reasons = []

    def add(self, features, reasons):
        features = features.float().cpu().numpy()
        if list(features.shape[1:]) != self.job.identity["feature_shape"]:
            raise ExtractionError(
                f"The network gave features of shape {features.shape[1:]} after "
                f"{tuple(self.job.identity['feature_shape'])} before; one cache holds "
                f"features of one shape."
            )
        with np.errstate(over="ignore"):  # the next lines look
            stored = features.astype(self.features.dtype)
        flat = stored.reshape(len(stored), -1)
        for i in np.flatnonzero(~np.isfinite(flat).all(axis=1)):
            if not reasons[i]:
                reasons[i] = (
                    "its features are beyond the range of float16 (use float32)"
                    if np.isfinite(features[i]).all()
                    else "the network gave NaN or infinity"
                )
        first = len(self.reasons)
        for i, reason in enumerate(reasons):
            if not reason:
                self.features[first + i] = stored[i]
        self.reasons += reasons
        if len(self.reasons) == len(self.features):
            self._write()
            self._next()

    def _write(self):
        path = self.job._shard_path(self.range)
        with new_hdf5(path, self.features.nbytes) as (file, check):
            file["features"] = self.features
            check()
            file.create_dataset(
                "reason",
                data=[
                    r.encode("utf-8", "replace").replace(b"\0", b" ")
                    for r in self.reasons
                ],
                dtype=h5py.string_dtype(),
            )
            file.attrs["sha256"] = _sha256(self.features)


class _Slots(torch.utils.data.Dataset):
    """Batches by their range: a tensor, and why a slot of it stayed empty."""

    def __init__(self, files, transform, sample):
        # One block of bytes: a list's reference counts would make every worker
        # copy, page by page, a list of a million names.
        self.files = np.array([os.fsencode(file) for file in files])
        self.transform = transform
        self.shape, self.dtype = sample.shape, sample.dtype

    def __getitem__(self, batch_range):
        start, stop = batch_range
        batch = torch.zeros((stop - start, *self.shape), dtype=self.dtype)
        reasons = [""] * (stop - start)
        for i in range(stop - start):
            path = os.fsdecode(bytes(self.files[start + i]))
            try:
                image = read_image(path)
            except ImageError as error:
                reasons[i] = str(error)
                continue
            try:
                tensor = torch.as_tensor(self.transform(image))
            except Exception as error:
                reasons[i] = f"the transform failed: {type(error).__name__}: {error}"
                continue
            if tensor.shape != self.shape or tensor.dtype != self.dtype:
                return None, (
                    f"The transform made {tuple(tensor.shape)} {tensor.dtype} of "
                    f"{path} and {tuple(self.shape)} {self.dtype} of a blank image; "
                    f"a batch needs one shape, so let it resize and crop."
                )
            batch[i] = tensor
        return batch, reasons


def _be_a_worker(_):
    # Ctrl-C is the main process's to handle; it ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_alone


def _unless_alone(kind, error, trace):
    """Of errors in a worker's threads: not those of a main process that has gone.

    It goes in the middle of taking over a batch, too. What goes wrong with images
    takes another way.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _be_a_modest_worker(worker):
    _be_a_worker(worker)
    # On a CPU, workers and network share the cores. A network whose threads wait
    # for one that was put aside loses more than reading ahead gains.
    os.nice(10)


class _Runner:
    """The network on its device: a batch in, features (n, d) or (n, r, d) out."""

    def __init__(self, backbone, identity):
        self.device = torch.device(_local_device(identity["device"]))
        self.amp = AMPS[identity["amp"]]
        self.engine = identity["engine"]
        self.model = backbone.model.eval()
        if self.engine == "onnx":
            self._session = None
            if self.device.type != "cpu" or self.amp is not None:
                raise ExtractionError(
                    f"The engine onnx runs on the CPU in full precision; given were "
                    f"device {self.device} and amp {identity['amp']}. Use the engine "
                    f"torch."
                )
            self.threads = identity["threads"]
        else:
            try:
                self.model.to(self.device)
            except (RuntimeError, AssertionError) as error:
                raise ExtractionError(
                    f"The device {self.device} cannot be used: {error}. Give another."
                ) from error
            if self.engine == "channels-last":
                # A copy: the user's module, and the next run of another engine with
                # it, must not inherit the layout.
                self.model = copy.deepcopy(self.model)
                self.model.to(memory_format=torch.channels_last)

    def __call__(self, batch):
        if self.engine == "onnx":
            return _as_features(self._run_onnx(batch))
        batch = batch.to(self.device, non_blocking=True)
        if self.engine == "channels-last" and batch.ndim == 4:
            batch = batch.to(memory_format=torch.channels_last)
        with (
            torch.inference_mode(),
            # The quickest kernel for a shape may differ from run to run; and
            # without amp, float32 means float32.
            torch.backends.cudnn.flags(
                benchmark=False, deterministic=True, allow_tf32=False
            ),
            torch.autocast(
                self.device.type, dtype=self.amp, enabled=self.amp is not None
            ),
        ):
            return _as_features(self.model(batch))

    def _run_onnx(self, batch):
        if self._session is None:
            self._session = _onnx_session(self.model, batch, self.threads)
        return torch.from_numpy(self._session.run(None, {"x": batch.numpy()})[0])


def _as_features(output):
    if not isinstance(output, torch.Tensor) or output.ndim not in (2, 3, 4):
        shape = getattr(output, "shape", None)
        raise ExtractionError(
            f"The network gave {type(output).__name__}"
            + (f" of shape {tuple(shape)}" if shape is not None else "")
            + "; features are a tensor (n, d), (n, r, d) or (n, d, h, w)."
        )
    if output.ndim == 4:
        output = output.flatten(2).transpose(1, 2)
    return output


def _onnx_session(model, batch, n_threads):
    """Hand the network to ONNX Runtime."""
    import io

    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ExtractionError(
            f"The engine onnx needs onnx and onnxruntime ({error}); `pip install "
            f"rezsl-sk[onnx]`, or use the engine channels-last."
        ) from error
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter needs one more package and gives the same graph here.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            (batch[:1],),
            buffer,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    # Threads that spin for work would take the cores from the readers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        buffer.getvalue(), options, providers=["CPUExecutionProvider"]
    )


def _device_kind(device):
    """What `auto` stands for here, and a device without its number."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise ExtractionError(
            f"device={device!r} is unknown; give 'cpu', 'cuda', 'cuda:1', 'mps' or "
            f"'auto'."
        ) from error


def _local_device(device):
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device


def _processor(identity):
    if identity["device"].startswith("cuda"):
        return torch.cuda.get_device_name(_local_device(identity["device"]))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _whole_batches(shard_size, batch_size):
    return -(-shard_size // batch_size) * batch_size


def _sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8)).hexdigest()


def _write_json(path, value):
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def _identity_of_cache(path):
    with FeatureCache(path) as cache:
        identity = cache.metadata
    if "image_list_sha256" not in identity:
        raise ExtractionError(
            f"{path} exists and was not made by an extraction; give another name, or "
            f"restart (--restart) to replace it."
        )
    return identity


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
    missing = [path for path in paths if path not in at]
    if missing:
        raise ExtractionError(
            f"{missing[0]!r} of {cache.path} is not among the images given; give the "
            f"folder or table that the cache was made of."
        )
    settings = {"device": "cpu", "amp": "off", "engine": "torch"}
    run = _Runner(backbone, settings)
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
