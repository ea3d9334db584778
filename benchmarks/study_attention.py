"""What attention over regions does for T1, on development splits.

``python benchmarks/study_attention.py REGIONS.h5 --unseen classes.csv`` compares, on
class splits of the *training* classes (those of ``examples/benchmark.py``; the test
classes are not read), attention over the cached regions with models on their mean, and
prints T1, the mean over splits, beside the difference to a reference with a 95 %
bootstrap interval, paired by split.

To be done in minutes on one core, the regions are projected on the leading principal
components of the training regions, and all models but "default, all features" are
given the projected ones.
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from rezsl_sk import AttentionRegressor, ReZSLRegressor
from rezsl_sk.metrics import mean_per_class_accuracy

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import benchmark  # noqa: E402
from zero_shot_on_emoji_regions import name_embeddings  # noqa: E402

from rezsl_sk.feature_cache import FeatureCache  # noqa: E402

ALONE = "attributes alone: "
BOTH = "both sides: "
REFERENCE = {ALONE: ALONE + "linear on the mean", BOTH: BOTH + "MLP on the mean"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", help="feature cache with regions, .h5")
    parser.add_argument("--unseen", required=True, help="CSV of class, split")
    parser.add_argument("--class-splits", type=int, default=10)
    parser.add_argument("--components", type=int, default=256, help="0: all features")
    parser.add_argument("--max-per-class", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*cannot be told apart")  # true of the data
    with FeatureCache(args.cache) as cache:
        E = name_embeddings(cache.attribute_names)
    data = benchmark.load("", args.cache, args.unseen)
    rows = []
    for number in range(args.class_splits):
        rows.append(one_split(data, E, number, args))
        text = ", ".join(f"{name} {T1:.3f}" for name, T1 in rows[-1].items())
        print(f"split {number}: {text}", flush=True)
    of_each = f"{args.components or 'all'} features of each region"
    print(f"\n{args.class_splits} development splits, {of_each}\n")
    print("| | T1 | less the reference |\n| --- | --- | --- |")
    for variant in rows[0]:
        T1 = np.array([[row[variant]] for row in rows])
        reference = REFERENCE[ALONE if variant.startswith(ALONE) else BOTH]
        other = np.array([[row[reference]] for row in rows])
        mean, low, high = benchmark.paired_difference(T1, other)
        interval = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        print(f"| {variant} | {T1.mean():.3f} | {interval} |")


def one_split(data, E, number, args):
    """T1 of every variant on one development split: {variant: T1}."""
    split = benchmark.development_split(data, number, args.max_per_class)
    train, test = split.train, split.test_unseen
    S = data.attributes[data.labels[train]]
    unseen, truth = np.unique(data.labels[test], return_inverse=True)
    prototypes = data.attributes[unseen]
    full = data.X.mean(axis=1)
    X = data.X
    if args.components:
        V = principal_axes(X[train], args.components)
        X = np.stack([x @ V for x in X])
    mean = X.mean(axis=1)
    found = {}

    def note(variant, model, x, weights):
        model.set_params(random_state=0, device="cpu").fit(x[train], S)
        for kind, weight in weights.items():
            model.feature_weight_ = weight
            named = model.predict(x[test], prototypes)
            found[kind + variant] = mean_per_class_accuracy(truth, named)

    alone, both = {ALONE: 0.0}, {ALONE: 0.0, BOTH: 0.67}
    note("linear on the mean", ReZSLRegressor((), feature_weight=0), mean, alone)
    note("MLP on the mean", ReZSLRegressor(), mean, both)
    # One region leaves nothing to choose: what the rest of the model does by itself.
    note("one-hot, one region", AttentionRegressor(feature_weight=0), mean, alone)
    note("names as text, one region", AttentionRegressor(E), mean, both)
    note("attention, one-hot", AttentionRegressor(), X, both)
    note("attention, names as text", AttentionRegressor(E), X, both)
    if args.components:
        note("default, all features", ReZSLRegressor(), full, {BOTH: 0.67})
    return dict(sorted(found.items()))


def principal_axes(X, n):
    """The n leading axes (d, n) of regions (rows, r, d); a row in 3 is enough."""
    regions = X[::3].reshape(-1, X.shape[2])
    regions = regions - regions.mean(axis=0)
    _, axes = np.linalg.eigh(regions.T @ regions)
    return axes[:, ::-1][:, :n]


if __name__ == "__main__":
    main()
