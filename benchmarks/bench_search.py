"""A search side by side against GridSearchCV, same candidates, folds and scores.

``python benchmarks/bench_search.py [--jobs 2] [--repeats 1]``

SNU size: 48 configurations x 5 folds of the default estimator and of linear heads.
CUB size: as many, as a share of what its bare matrix products allow in as many
processes. One thread for each process, as scikit-learn's searches do.
"""

import argparse
import statistics

import numpy as np
import torch
from bench_fit import SIZES, bare_products, made_up, regressor, seconds
from joblib import Parallel, delayed
from sklearn.model_selection import GridSearchCV

from rezsl_sk import ReZSLRegressor, ReZSLSearchCV
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

GRID = {
    "learning_rate_init": [1e-3, 3e-3, 1e-2],
    "class_power": [0.0, 1.0],
    "attribute_power": [0.0, 1.0],
    "scale": [5.0, 10.0],
    "weight_decay": [1e-4, 1e-2],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["SNU", "CUB"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.only != "CUB":
        against_grid_search(args)
    if args.only != "SNU":
        against_products(args)


def against_grid_search(args):
    *shape, epochs = SIZES["SNU"]
    X, S = made_up(*shape)
    print(f"SNU size, 48 configurations x 5 folds, {epochs} epochs, {args.jobs} jobs")
    print(
        "| estimator | GridSearchCV, s | ReZSLSearchCV, s | ratio | scores differ by |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, hidden, weight in [
        ("default", (512,), 0.67),
        ("default, attribute side alone", (512,), 0.0),
        ("linear, attribute side alone", (), 0.0),
    ]:
        model = regressor(hidden, epochs, feature_weight=weight)
        options = {"refit": False, "n_jobs": args.jobs}
        rows = []
        for _ in range(args.repeats):
            ours = ReZSLSearchCV(model, GRID, cv=5, **options)
            theirs = GridSearchCV(
                model, GRID, cv=ClassKFold(5), scoring=zero_shot_scorer, **options
            )
            rows.append((seconds(theirs.fit, X, S), seconds(ours.fit, X, S)))
        both = [search.cv_results_["mean_test_score"] for search in (ours, theirs)]
        theirs, ours = (statistics.median(times) for times in zip(*rows, strict=True))
        ratio = statistics.median(row[0] / row[1] for row in rows)
        print(
            f"| {name} | {theirs:.1f} | {ours:.1f} | {ratio:.2f} | "
            f"{np.abs(both[0] - both[1]).max():.1e} |",
            flush=True,
        )


def against_products(args):
    n, d, a, K, _ = SIZES["CUB"]
    epochs = ReZSLRegressor().max_iter
    X, S = made_up(n, d, a, K)
    model = regressor((512,), epochs, feature_weight=0.67)
    # A fold trains on four fifths of the rows and of the classes.
    sizes = (n * 4 // 5, d, a, K * 4 // 5, epochs, 512)
    rows = []
    for _ in range(args.repeats):
        search = ReZSLSearchCV(model, GRID, cv=5, refit=False, n_jobs=args.jobs)
        before = products_of_a_fit(sizes, args.jobs)
        took = seconds(search.fit, X, S)
        # They take minutes: the machine is not the same at both ends.
        bare = (before + products_of_a_fit(sizes, args.jobs)) / 2
        rows.append((240 * bare / args.jobs, took))
    products, took = (statistics.median(times) for times in zip(*rows, strict=True))
    share = statistics.median(products / took for products, took in rows)
    print(
        f"\nCUB size, 48 configurations x 5 folds, {epochs} epochs, {args.jobs} jobs: "
        f"{took:.0f} s, bare products {products:.0f} s, {share:.2f} of what these allow"
    )


def products_of_a_fit(sizes, jobs):
    """Seconds that the products of a fit take where each core has such a fit."""
    times = Parallel(jobs)(delayed(_timed_products)(sizes) for _ in range(2 * jobs))
    return statistics.median(times)


def _timed_products(sizes):
    torch.set_num_threads(1)
    return seconds(bare_products(*sizes))


if __name__ == "__main__":
    main()
