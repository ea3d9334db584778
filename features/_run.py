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
import errno
import logging
import mmap
import os

import numpy as np
import torch

from rezsl_sk.feature_cache import (
    FORMAT,
    CacheError,
    FeatureCache,
    check_classes,
    verify_cache,
    write_cache,
)

from ._batches import differs, read_batches
from ._errors import ExtractionError, quoted
from ._network import Runner, device_kind, processor
from ._shards import FinishedRows, Shard, ShardFolder, tidy_reason

__all__ = ["Job", "n_cores"]

log = logging.getLogger("rezsl_features")

# Settings that an unfinished run has made once and a rerun takes over.
_KEPT = ("batch_size", "shard_size", "threads", "device")
_SHARD_IMAGES = 1024
_SHARD_BYTES = 2**26
_CPU_BATCH_BYTES = 2**28


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


class Job:
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
        finished = damaged = None
        if restart and self.replaces:
            _refuse_foreign(self.out)
        elif self.replaces:
            try:
                finished = self._finished()
            except CacheError as error:
                damaged = error
        record, is_restart = self.folder.read_record()
        is_folder = record is not None
        if restart:
            record = None
        same = finished is not None and not self._differences(finished)
        # What a restart with other settings has left is of no use for this cache.
        ours = record is not None and not self._differences(record)
        if damaged is not None and not (ours and is_restart):
            raise damaged
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
                self.finished.cache.close()
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
            before = old.get(key)
            if before == new:
                continue
            if key == "image_list_sha256":
                differences.append("other images, labels or order of them")
                continue
            if isinstance(before, dict):  # versions
                other = [k for k in before | new if before.get(k) != new.get(k)]
                before = {k: before.get(k) for k in other}
                new = {k: new.get(k) for k in other}
            differences.append(f"{key} {quoted(before)}, now {quoted(new)}")
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
                        f"{self.out} stores another table of attributes than is "
                        f"given: {_difference(stored, (*given[:2], names))}. "
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
                "Images that are not there any more: %d, the first being %s. Their "
                "features, computed before, are kept.",
                len(gone),
                files[gone[0]],
            )
        if changed or mended:
            log.info(
                "Images that have changed: %d; that failed before and can be read "
                "now: %d. These are computed again.",
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
            remedy = (
                "Give the folder that they are in; for a table, where its relative "
                "paths start (root, --root)."
                if failed[first] == os.strerror(errno.ENOENT)
                else "Mend that, or give other images, and start again."
            )
            raise ExtractionError(
                f"None of the {len(images)} images gave features; the first, "
                f"{images.files[first]}, failed because: {failed[first]}. {remedy}"
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
            | {
                "weights": self.backbone.weights,
                "image_size": self.backbone.image_size,
                "processor": processor(identity),
            },
            overwrite=self.replaces,
        )
        if self.finished is not None:
            self.finished.cache.close()
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


def _difference(stored, given):
    """Where two tables that are not equal differ first, in words."""
    if _size_of(stored) != _size_of(given):
        return f"{_size_of(stored)}, now {_size_of(given)}"
    if stored[2] is None and given[2] is not None:
        return "its attributes have no names"
    for what, old, new in (
        ("class", stored[0], given[0]),
        ("attribute", stored[2] or (), given[2] or ()),
    ):
        for i, (a, b) in enumerate(zip(old, new, strict=True), 1):
            if a != b:
                return f"{what} {i} is {str(a)!r}, now {str(b)!r}"
    same = (stored[1] == given[1]) | (np.isnan(stored[1]) & np.isnan(given[1]))
    row, column = np.argwhere(~same)[0]
    return (
        f"attribute {column + 1} of {str(stored[0][row])!r} is "
        f"{stored[1][row, column]:.15g}, now {given[1][row, column]:.15g}"
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
