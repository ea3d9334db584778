"""From images to a feature cache: what may be asked for, and by how many processes."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from rezsl_sk.feature_cache import FeatureCache, WriterLock, check_classes

from ._errors import ExtractionError, quoted
from ._network import Runner
from ._run import Job, n_cores
from ._settings import AMPS, ENGINES
from .backbones import Backbone, load_backbone
from .images import ImageError, ImageList, find_images, read_image

if TYPE_CHECKING:
    import pandas
    from numpy.typing import ArrayLike
    from PIL import Image

__all__ = ["ExtractionError", "extract_features", "verify_features"]

log = logging.getLogger("rezsl_features")


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
    _check_choice("amp", amp, AMPS)
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
    job = Job(images, backbone, out, wanted)
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
                f"{cache.path} was made with {key} {quoted(old.get(key))}, given is "
                f"{quoted(new)}. Give the one that it was made with."
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
            raise ExtractionError(
                f"{at[path]} cannot be read now: {error}. Mend it, or compare other "
                f"images."
            ) from error
        new = run(tensor[None])[0].float().numpy()
        stored = cache.X[int(row)].astype(np.float32)
        scale = max(float(np.abs(new).max()), np.finfo(np.float32).tiny)
        difference = float(np.abs(new - stored).max()) / scale
        # 1 %: bf16 keeps eight bits; another image differs by far more.
        if difference > 0.01:
            raise ExtractionError(
                f"Row {row} of {cache.path} ({path}) differs from the image's "
                f"features by {difference:.1%} of their largest value. If the image "
                f"has changed, extract again; if not, the cache is of other images."
            )
        largest = max(largest, difference)
    return largest
