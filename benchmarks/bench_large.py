"""Larger than memory: fit, predict and decode from files, and what it takes.

``python benchmarks/bench_large.py FOLDER`` writes a feature cache of 12 GiB
(``--gib``) into FOLDER, float32, sorted by class, made block by block, and one of
rows of unseen classes; fits on the first from the disk, predicts the second into an
HDF5 file, and deletes both. Each step is a process of its own, so that its peak
resident set is its own. Before each read of the cache the kernel is told to forget
the file (``posix_fadvise``), so that all of it comes from the disk. Then decoding
among 21,841 classes, and the seen-unseen curve of a million samples. Prints a table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# The parent imports nothing large: a child's peak counts the parent's at its start.
SEEN, UNSEEN, ATTRIBUTES = 1000, 100, 100
IMAGENET_21K = 21841
BLOCK = 8192
IN_MEMORY = 2**30  # as in rezsl_sk._blocks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the files go; deleted after")
    parser.add_argument("--gib", type=float, default=12.0, help="of the cache to fit")
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=512, help="0: a linear head")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.gib * 2**30 <= 1.05 * IN_MEMORY or args.epochs < 2:
        parser.error(
            "a cache of up to 1 GiB is not streamed, and the time of an epoch is that "
            "between the ends of two: give --gib 1.1 and --epochs 2, or more"
        )
    if args.step:
        print(json.dumps(STEPS[args.step](args)))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    found = {}
    try:
        for step in STEPS:
            print(f"{step} ...", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found[step] = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(found[step]), file=sys.stderr, flush=True)
    finally:
        for name in ("train.h5", "test.h5", "answers.h5", "model.joblib"):
            (args.folder / name).unlink(missing_ok=True)
    report(args, found)


def report(args, found):
    disk, reader, fit = found["disk"], found["reader"], found["fit"]
    predict, decode, curve = found["predict"], found["decode"], found["curve"]
    n, d = fit["rows"], args.features
    disk_rows = disk["rows_per_s"]
    head = f"hidden layer of {args.hidden}" if args.hidden else "linear head"
    lines = [
        (f"file, {n:,} x {d} float32, sorted by class", f"{fit['gib']:.1f} GiB"),
        ("disk, plain sequential read", f"{disk['mb_per_s']:.0f} MB/s"),
        (
            "reading one shuffled epoch, no training",
            f"{reader['rows_per_s']:,.0f} rows/s, "
            f"{reader['rows_per_s'] / disk_rows:.0%} of the disk's rate",
        ),
        (
            f"training, {head}, {args.threads} thread{'s' * (args.threads > 1)}",
            f"{fit['rows_per_s']:,.0f} rows/s, "
            f"{fit['rows_per_s'] / disk_rows:.0%} of the disk's rate",
        ),
        (
            f"fit of {args.epochs} epochs, all of it",
            f"{fit['seconds']:.0f} s, peak {fit['peak_mib']:.0f} MiB",
        ),
        (
            f"predict {predict['rows']:,} rows among {UNSEEN} classes into HDF5",
            f"{predict['rows_per_s']:,.0f} rows/s, peak {predict['peak_mib']:.0f} MiB",
        ),
        (
            f"accuracy on {UNSEEN} unseen classes (chance {1 / UNSEEN:.2f})",
            f"{predict['accuracy']:.3f}",
        ),
        (
            f"{BLOCK:,} rows, 5 best among {IMAGENET_21K:,} classes into HDF5",
            f"{predict['rows_per_s_21k']:,.0f} rows/s",
        ),
    ]
    for what in ("nearest", "top 5"):
        rate = decode[what]
        lines.append(
            (
                f"{what} of {IMAGENET_21K:,} prototypes, 312 attributes",
                f"{rate:,.0f} rows/s, {rate / decode['product']:.0%} of the bare "
                f"product; 10 million rows: {1e7 / rate / 60:.0f} min (extrapolated)",
            )
        )
    lines += [
        (
            "seen-unseen curve, 1,000,000 x 200",
            f"{curve['million']:.2f} s",
        ),
        (
            f"curve against a sweep of {curve['steps']} penalties, 10,000 x 200",
            f"{curve['curve'] * 1e3:.1f} ms, {curve['sweep']:.2f} s: "
            f"{curve['sweep'] / curve['curve']:.0f} x",
        ),
    ]
    print("| what | measured |\n| --- | --- |")
    for line in lines:
        print("| {} | {} |".format(*line))


def world(args):
    """Attributes of all classes (C, a), and the features' map (a, d)."""
    import numpy as np

    rng = np.random.default_rng(0)
    table = rng.random((SEEN + UNSEEN, ATTRIBUTES), dtype=np.float32)
    return table, rng.standard_normal((ATTRIBUTES, args.features), dtype=np.float32)


def write(args):
    """Both caches: class after class, made and written block by block."""
    import numpy as np

    from rezsl_sk.feature_cache import WriterLock, write_cache

    table, to_features = world(args)
    names = np.array([f"class {c:04d}" for c in range(len(table))])
    begun = time.perf_counter()
    row_bytes = 4 * args.features
    for name, first, n_classes, gib in [
        ("train.h5", 0, SEEN, args.gib),
        ("test.h5", SEEN, UNSEEN, 1.25),
    ]:
        n = int(gib * 2**30 / row_bytes)
        labels = first + np.arange(n) * n_classes // n
        rng = np.random.default_rng(first + 1)

        def features(labels=labels, rng=rng):
            for start in range(0, len(labels), BLOCK):
                X = table[labels[start : start + BLOCK]] @ to_features
                yield X + 60 * rng.standard_normal(X.shape, dtype=np.float32)

        path = args.folder / name
        with WriterLock(path):
            write_cache(
                path,
                features(),
                paths=np.arange(n).astype(str),
                y=names[labels],
                class_attributes=(names, table),
                overwrite=True,
            )
    return {"seconds": time.perf_counter() - begun}


def forget(path):
    """Have the kernel drop the file's pages."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def disk(args):
    """How fast the disk gives the file to somebody who only reads it."""
    path = args.folder / "train.h5"
    forget(path)
    buffer, begun = bytearray(2**24), time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    rate = path.stat().st_size / (time.perf_counter() - begun)
    return {"mb_per_s": rate / 1e6, "rows_per_s": rate / (4 * args.features)}


def reader(args):
    """One epoch of batches that nobody trains on."""
    import torch

    from rezsl_sk._blocks import open_rows
    from rezsl_sk._sampling import StreamSampler
    from rezsl_sk.feature_cache import FeatureCache

    torch.set_num_threads(args.threads)
    cache = FeatureCache(args.folder / "train.h5")
    X = open_rows(cache)
    X.checked = True
    sampler = StreamSampler(
        X,
        torch.from_numpy(cache.labels),
        kind="shuffle",
        batch_size=256,
        ways=1,
        shots=1,
        generator=torch.Generator().manual_seed(0),
    )
    forget(cache.path)
    begun = time.perf_counter()
    n = sum(len(x) for x, _ in sampler.epoch("cpu"))
    return {"rows_per_s": n / (time.perf_counter() - begun), "peak_mib": peak()}


def fit(args):
    """Fit on the cache; the time of an epoch is that between its and the last line."""
    import joblib
    import torch

    from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
    from rezsl_sk.feature_cache import FeatureCache

    torch.set_num_threads(args.threads)
    cache = FeatureCache(args.folder / "train.h5")
    forget(cache.path)
    lines, begun = Stamps(), time.perf_counter()
    sizes = (args.hidden,) if args.hidden else ()
    clf = ZeroShotClassifier(
        ReZSLRegressor(
            sizes, max_iter=args.epochs, random_state=0, device="cpu", verbose=True
        ),
        class_attributes=(list(range(len(cache.classes))), cache.class_attributes),
        candidates="unseen",
    )
    shown, sys.stdout = sys.stdout, lines
    try:
        clf.fit(cache, cache.labels)
    finally:
        sys.stdout = shown
    seconds = time.perf_counter() - begun
    joblib.dump(clf, args.folder / "model.joblib")
    return {
        "rows": len(cache),
        "gib": cache.X.nbytes / 2**30,
        "seconds": seconds,
        "first_line": lines.times[0] - begun,
        "rows_per_s": len(cache) / min(lines.steps()),
        "peak_mib": peak(),
    }


class Stamps:
    """A file that remembers when its lines were written."""

    def __init__(self):
        self.times = []

    def write(self, text):
        if text.startswith("epoch"):
            self.times.append(time.perf_counter())
        return len(text)

    def flush(self):
        pass

    def steps(self):
        return [
            after - before
            for before, after in zip(self.times, self.times[1:], strict=False)
        ]


def predict(args):
    """Unseen classes' rows into an HDF5 file, and some of them among 21,841."""
    import h5py
    import joblib
    import numpy as np
    import torch

    from rezsl_sk.feature_cache import FeatureCache
    from rezsl_sk.metrics import mean_per_class_accuracy
    from rezsl_sk.streaming import predict_to_hdf5

    torch.set_num_threads(args.threads)
    clf = joblib.load(args.folder / "model.joblib")
    cache = FeatureCache(args.folder / "test.h5")
    forget(cache.path)
    answers = args.folder / "answers.h5"
    begun = time.perf_counter()
    predict_to_hdf5(clf, cache, answers, top_k=5, overwrite=True)
    seconds = time.perf_counter() - begun
    with h5py.File(answers) as file:
        named = file["class_name"][...][file["index"][:, 0]]
    found = {
        "rows": len(cache),
        "rows_per_s": len(cache) / seconds,
        "accuracy": mean_per_class_accuracy(cache.labels, named),
        "peak_mib": peak(),
    }
    some = cache.X[:BLOCK]
    many = np.random.default_rng(0).random((IMAGENET_21K, ATTRIBUTES))
    begun = time.perf_counter()
    predict_to_hdf5(
        clf.regressor_, some, answers, prototypes=many, top_k=5, overwrite=True
    )
    found["rows_per_s_21k"] = len(some) / (time.perf_counter() - begun)
    return found


def decode(args):
    """Rows per second among 21,841 classes, beside the bare product of this size."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    from rezsl_sk.decoding import BLOCK_ENTRIES, nearest_prototype, top_k

    rng = np.random.default_rng(0)
    predictions = rng.standard_normal((BLOCK, 312), dtype=np.float32)
    prototypes = rng.standard_normal((IMAGENET_21K, 312), dtype=np.float32)
    rows = BLOCK_ENTRIES // IMAGENET_21K

    def product():
        for start in range(0, BLOCK, rows):
            predictions[start : start + rows] @ prototypes.T

    ways = {
        "product": product,
        "nearest": lambda: nearest_prototype(predictions, prototypes),
        "top 5": lambda: top_k(predictions, prototypes, 5),
    }
    seconds = {what: [] for what in ways}
    with threadpool_limits(args.threads):
        for _ in range(5):
            for what, way in ways.items():
                begun = time.perf_counter()
                way()
                seconds[what].append(time.perf_counter() - begun)
    return {what: BLOCK / float(np.median(s)) for what, s in seconds.items()}


def curve(args):
    """The exact curve of a million samples; of 10,000 beside a sweep of penalties."""
    import numpy as np

    from rezsl_sk.metrics import seen_unseen_curve

    rng = np.random.default_rng(0)
    n, k = 1_000_000, 200
    scores = rng.random((n, k), dtype=np.float32)
    y = rng.integers(0, k, n)
    scores[np.arange(n), y] += 0.3
    seen = rng.permutation(k) < 150
    million, few, swept = [], [], []
    for _ in range(3):
        begun = time.perf_counter()
        seen_unseen_curve(y, scores, seen)
        million.append(time.perf_counter() - begun)
    # Cosines: margins of -1 to 1, a penalty every 0.01.
    y, scores = y[:10_000], scores[:10_000]
    penalties = np.linspace(-1, 1, 201)
    for _ in range(5):
        begun = time.perf_counter()
        seen_unseen_curve(y, scores, seen)
        few.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        sweep(y, scores, seen, penalties)
        swept.append(time.perf_counter() - begun)
    return {
        "million": float(np.median(million)),
        "curve": float(np.median(few)),
        "sweep": float(np.median(swept)),
        "steps": len(penalties),
    }


def sweep(y, scores, seen, penalties):
    """As public code does it: each penalty in turn, all predictions anew."""
    import numpy as np

    points = []
    for penalty in penalties:
        shifted = scores.copy()
        shifted[:, seen] -= penalty
        hit = shifted.argmax(axis=1) == y
        accuracy = np.array([hit[y == c].mean() for c in range(len(seen))])
        points.append((accuracy[seen].mean(), accuracy[~seen].mean()))
    return points


def peak():
    """Peak resident set of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


STEPS = {
    step.__name__: step for step in (write, disk, reader, fit, predict, decode, curve)
}


if __name__ == "__main__":
    main()
