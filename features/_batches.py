"""Batches of pictures, read ahead by worker processes, with the files they are of."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from rezsl_sk.feature_cache import SOURCE_DTYPE

from ._errors import ExtractionError
from .images import ImageError, read_image

__all__ = ["differs", "read_batches"]


def read_batches(
    files: Sequence[str],
    transform,
    sample: torch.Tensor,
    batches: Sequence[tuple[int, int]],
    workers: int,
    *,
    on_cpu: bool = True,
) -> Iterator[tuple[tuple[int, int], torch.Tensor, list[str], np.ndarray]]:
    """Read pictures batch by batch.

    Parameters
    ----------
    files : sequence of str of length n
        The pictures.
    transform : callable
        Turns a picture into a tensor.
    sample : Tensor
        What the transform makes of any picture; all must have its shape and type.
    batches : sequence of (int, int)
        Ranges of `files`.
    workers : int
        Reading processes; 0 reads in this one.
    on_cpu : bool, default=True
        Whether the network runs on this machine's cores, too.

    Yields
    ------
    batch : (int, int)
        The range.
    tensor : Tensor of shape (m, ...)
        Zeros where a picture could not be read.
    reasons : list of str of length m
        Why not; empty where all is well.
    sources : ndarray of `SOURCE_DTYPE` of shape (m,)
        The identity of each file before it was read.

    Raises
    ------
    ExtractionError
        If a reading process dies, or the transform gives tensors of other shapes.
    """
    loader = torch.utils.data.DataLoader(
        _Slots(files, transform, sample),
        batch_size=None,
        sampler=batches,
        collate_fn=_as_is,
        generator=torch.Generator(),  # leave the user's random state alone
        num_workers=min(workers, len(batches)),
        worker_init_fn=_be_a_modest_worker if on_cpu else _be_a_worker,
        pin_memory=not on_cpu and torch.cuda.is_available(),
    )
    with warnings.catch_warnings():
        # Python 3.12 and later warn of fork beside threads. The children only
        # read images, and spawning would need pickled transforms.
        warnings.filterwarnings(
            "ignore", "This process .* is multi-threaded", DeprecationWarning
        )
        source = iter(loader)
    for batch in batches:
        try:
            tensor, reasons, sources = next(source)
        except RuntimeError as error:
            if "allocate memory" in str(error):
                raise ExtractionError(
                    f"There is not enough memory for {batch[1] - batch[0]} images at "
                    f"a time; restart with a smaller batch size."
                ) from error
            if "DataLoader worker" not in str(error):
                raise
            raise ExtractionError(
                f"A process that reads images died ({str(error).splitlines()[0]}). "
                f"Perhaps memory or shared memory ran out: use fewer workers. "
                f"Finished shards are kept; the same command goes on."
            ) from error
        if tensor is None:
            raise ExtractionError(reasons)
        yield batch, tensor, reasons, sources


def differs(path: str, source: np.void) -> bool | None:
    """Tell whether a file has another content than when it was read.

    Size and time decide where they are the same; where they are not, for instance
    after a copy, the hash decides.

    Parameters
    ----------
    path : str
        The file.
    source : scalar of `SOURCE_DTYPE`
        What it was.

    Returns
    -------
    bool or None
        None if the file is not there or cannot be read.
    """
    try:
        found = os.stat(path)
        size, time = int(source["size"]), int(source["mtime_ns"])
        if (found.st_size, found.st_mtime_ns) == (size, time):
            return False
        if found.st_size != size or not stat.S_ISREG(found.st_mode):
            return True
        return _sha256(path) != source["sha256"].tobytes()
    except OSError:
        return None


def _source(path):
    """Size, time and hash of a file; zeros where it cannot be read."""
    source = np.zeros((), SOURCE_DTYPE)
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):  # a pipe would wait for ever
            digest = np.frombuffer(_sha256(path), np.uint8)
            source["size"], source["mtime_ns"] = found.st_size, found.st_mtime_ns
            source["sha256"] = digest
    except OSError:
        pass
    return source


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _as_is(batch):
    return batch


class _Slots(torch.utils.data.Dataset):
    """Batches by their range: a tensor, why a slot stayed empty, and of which file."""

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
        sources = np.zeros(stop - start, SOURCE_DTYPE)
        for i in range(stop - start):
            path = os.fsdecode(bytes(self.files[start + i]))
            # Before the picture is read: what changes meanwhile shows next time.
            sources[i] = _source(path)
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
                return (
                    None,
                    (
                        f"The transform made {tuple(tensor.shape)} {tensor.dtype} of "
                        f"{path} and {tuple(self.shape)} {self.dtype} of a blank "
                        f"image; a batch needs one shape, so let it resize and crop."
                    ),
                    None,
                )
            batch[i] = tensor
        return batch, reasons, sources


def _be_a_worker(_):
    # Terminals and schedulers signal all processes of a group. The main process
    # handles that; it ends the workers, and they notice when it has gone.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
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
