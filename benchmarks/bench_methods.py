"""All methods on class splits of several data sets: which one when.

``python benchmarks/bench_methods.py ROOT DATASET... --out results.csv`` draws class
splits of the *training* classes (those of ``examples/benchmark.py``; the official test
rows are not read), fits every method with its defaults, and appends a line for each
data set, split and method. What the file has is not computed again, so a run that was
stopped goes on. ``--table`` prints a table of such a file, and computes nothing.

T1: class-mean accuracy of unseen rows among the split's unseen classes.
U, S, H: of unseen and seen rows among all classes, and their harmonic mean, at the seen
    penalty that the method chose on folds of the split's training classes.
AUSUC: area under the seen-unseen curve.
ECE: expected calibration error of the probabilities of the unseen classes, in 15 bins,
    where the method has any.
seconds: of the fit, the choice of the penalty and all folds included, with one thread.

A stack is fitted twice: with ``candidates="unseen"`` for T1 and ECE, with all
candidates for the rest; the seconds are those of the second fit.
"""

import argparse
import csv
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch
from joblib import Parallel, delayed

import rezsl_sk
from rezsl_sk import ReZSLRegressor, ZeroShotClassifier, ZeroShotStackingClassifier
from rezsl_sk._scorers import FeatureWeights, NaiveBayesAttributes, SharedSpace
from rezsl_sk._stacking import BalancedForest
from rezsl_sk.baselines import (
    DAP,
    DEM,
    ESZSL,
    SAE,
    ClassNormalizedEmbedding,
    RidgePrototype,
)
from rezsl_sk.metrics import gzsl_report, mean_per_class_accuracy

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import benchmark  # noqa: E402


def alone(scorer):
    """A member of a stack by itself: its penalty and its scale are learnt on folds."""
    return lambda: ZeroShotStackingClassifier([("alone", scorer)])


METHODS = {
    "stack": ZeroShotStackingClassifier,
    "default": ZeroShotClassifier,
    "attributes alone": lambda: ZeroShotClassifier(
        ReZSLRegressor(feature_weight=0.0, random_state=0)
    ),
    "features alone": alone(FeatureWeights()),
    "ESZSL": ESZSL,
    "ridge": RidgePrototype,
    "SAE": SAE,
    "DAP": DAP,
    "naive Bayes": alone(NaiveBayesAttributes()),
    "forest": alone(BalancedForest()),
    "plain cosine": alone(SharedSpace(center=False)),
    "DEM": lambda: DEM(random_state=0),
    "class-normalised": lambda: ClassNormalizedEmbedding(random_state=0),
}
FIGURES = ("T1", "U", "S", "H", "AUSUC", "ECE", "seconds")
KEY = ("data", "split", "method")
COLUMNS = (*KEY, *FIGURES, "data_sha256", "split_sha256", "versions")
VERSIONS = (
    f"rezsl_sk {rezsl_sk.__version__}, scikit-learn {sklearn.__version__}, "
    f"torch {torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", help="folder in xlsa17 layout")
    parser.add_argument("datasets", nargs="*", help="folders in ROOT, or caches (.h5)")
    parser.add_argument("--unseen", help="CSV of class, split for a cache without")
    parser.add_argument("--class-splits", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, default=Path("methods.csv"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print a table of --out")
    args = parser.parse_args()
    if args.table:
        print(table(read(args.out)))
        return
    done = {tuple(line[name] for name in KEY) for line in read(args.out)}
    for name in args.datasets:
        data = benchmark.load(args.root, name, args.unseen)
        jobs = [
            (benchmark.development_split(data, number), method)
            for number in range(args.class_splits)
            for method in args.methods
            if applies(method, data)
        ]
        jobs = [job for job in jobs if (data.name, job[0].name, job[1]) not in done]
        found = Parallel(args.jobs, return_as="generator_unordered")(
            delayed(evaluate)(data, split, method) for split, method in jobs
        )
        for line in found:
            append(args.out, line)
            print(", ".join(str(line[name]) for name in (*KEY, *FIGURES)), flush=True)


def applies(method, data):
    return method != "plain cosine" or data.X.shape[1] == data.attributes.shape[1]


def evaluate(data, split, method):
    """One line of results."""
    # True of the data, and said at each fit.
    warnings.filterwarnings("ignore", ".*cannot be told apart")
    with benchmark.one_thread():
        model = METHODS[method]()
        rows = np.concatenate([split.train, split.test])
        classes = np.unique(data.labels[rows])
        names, labels = data.class_names, data.labels
        model.set_params(
            class_attributes=(names[classes], data.attributes[classes]),
            seen_penalty="auto",
        )
        X, y = data.X[split.train], names[labels[split.train]]
        start = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - start
        scores = model.class_scores(data.X[split.test])
        seen = np.isin(model.classes_, model.seen_classes_)
        column = np.searchsorted(model.classes_, names[labels[split.test]])
        report = gzsl_report(column, scores, seen, penalty=model.seen_penalty_)
        if isinstance(model, ZeroShotStackingClassifier):
            model.set_params(candidates="unseen").fit(X, y)
        unseen = np.setdiff1d(model.class_names_, model.seen_classes_)
        X = data.X[split.test_unseen]
        true = np.searchsorted(unseen, names[labels[split.test_unseen]])
        scores = model.class_scores(X, unseen)
        ece = ""
        if hasattr(model, "predict_proba"):
            model.set_params(candidates="unseen", seen_penalty=0.0)
            if isinstance(model, ZeroShotClassifier):
                model.fit(data.X[split.train], y)
            ece = f"{calibration_error(model.predict_proba(X), true):.4f}"
    return {
        "data": data.name,
        "split": split.name,
        "method": method,
        "T1": f"{mean_per_class_accuracy(true, scores.argmax(axis=1)):.4f}",
        **{name: f"{getattr(report, name):.4f}" for name in ("U", "S", "H", "AUSUC")},
        "ECE": ece,
        "seconds": f"{seconds:.1f}",
        "data_sha256": data.sha256,
        "split_sha256": split.sha256,
        "versions": VERSIONS,
    }


def calibration_error(probabilities, true, n_bins=15):
    """Mean distance of confidence and accuracy over bins of confidence, by rows."""
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == true
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    apart = np.bincount(bins, hit - confidence, minlength=n_bins)
    return np.abs(apart).sum() / count.sum()


def read(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append(path, line):
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(line)


def table(lines):
    """Markdown: means over splits, and paired differences of T1 and H to the stack."""
    out = []
    for data in dict.fromkeys(line["data"] for line in lines):
        mine = [line for line in lines if line["data"] == data]
        splits = sorted({line["split"] for line in mine})
        out += [
            f"\n### {data}\n",
            "| method | splits | T1 | less the stack's | H | less the stack's "
            "| U | S | AUSUC | ECE | seconds |",
            "| --- |" + " --- |" * 10,
        ]
        of = {(line["method"], line["split"]): line for line in mine}
        for method in METHODS:
            both = [s for s in splits if {("stack", s), (method, s)} <= set(of)]
            if not both:
                continue

            def values(name, method=method, both=both, of=of):
                found = [of[method, split][name] for split in both]
                return np.array([float(value) if value else np.nan for value in found])

            cells = [method, str(len(both))]
            for name in ("T1", "H"):
                cells += [f"{values(name).mean():.3f}", "–"]
                if method != "stack" and len(both) > 1:
                    mean, low, high = benchmark.paired_difference(
                        values(name)[:, None], values(name, "stack")[:, None]
                    )
                    cells[-1] = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
            for name, digits in (("U", 3), ("S", 3), ("AUSUC", 3), ("ECE", 3)):
                mean = values(name).mean()
                cells.append("–" if np.isnan(mean) else f"{mean:.{digits}f}")
            cells.append(f"{values('seconds').mean():.0f}")
            out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out).lstrip("\n")


if __name__ == "__main__":
    main()
