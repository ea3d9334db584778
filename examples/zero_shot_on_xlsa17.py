"""Zero-shot learning on a data set of the xlsa17 collection, without cheating
===========================================================================

``python examples/zero_shot_on_xlsa17.py ROOT NAME`` expects
``ROOT/NAME/res101.mat`` and ``ROOT/NAME/att_splits.mat`` and prints, for plain
MSE and for ReMSE, over several seeds:

T1
    accuracy on the unseen classes, named among the unseen classes;
U, S, H, AUSUC
    generalised: unseen and seen accuracy among all classes, their harmonic mean
    at a seen penalty chosen on training classes, and the area under the curve;
oracle H
    the best H that any penalty gives on the test classes: not a result, but how
    much the choice of the penalty costs;
variation
    coefficient of variation of the per-attribute error on held-out seen and on
    unseen samples (0: all attributes are predicted equally well).

The classification term, which both losses have beside them by default, pulls on
the errors as well; the last two rows leave it out (all else as chosen), so that
the variations of the two losses alone can be compared.

What is compared are losses, so classes are named by predicted attributes alone
(``feature_weight=0``): the other side of the library's score knows nothing of the
loss, and would only blur the difference.

All accuracies are means over classes. Settings are chosen by class-disjoint
cross-validation on the training classes, with the same budget for both losses;
the test classes are looked at once, at the end.
"""

import argparse
import time

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import load_xlsa17
from rezsl_sk.metrics import (
    gzsl_report,
    imbalance_report,
    mean_per_class_accuracy,
)
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

GRID = {
    "regressor__dropout": [0.3, 0.5],
    "regressor__learning_rate_init": [1e-3, 3e-3],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder of the data sets")
    parser.add_argument("name", help="data set: a folder in ROOT")
    parser.add_argument("--seeds", type=int, default=5, help="fits per loss (5)")
    parser.add_argument("--folds", type=int, default=5, help="folds of classes (5)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument(
        "--defaults", action="store_true", help="skip the search, use the defaults"
    )
    args = parser.parse_args()

    data = load_xlsa17(args.root, args.name)
    X = np.asarray(data.X, dtype=np.float32)
    print(
        f"{args.name}: {X.shape[0]} samples, {X.shape[1]} features, "
        f"{data.attributes.shape[1]} attributes; {len(data.seen_classes)} seen and "
        f"{len(data.unseen_classes)} unseen classes (chance on these: "
        f"{1 / len(data.unseen_classes):.3f}).",
        flush=True,
    )
    rows, alone = [], []
    for loss in ("mse", "remse"):
        model = ZeroShotClassifier(
            ReZSLRegressor(loss=loss, feature_weight=0, random_state=0),
            class_attributes=(data.class_names, data.attributes),
        )
        if not args.defaults:
            start = time.perf_counter()
            search = GridSearchCV(
                model,
                GRID,
                cv=ClassKFold(args.folds),
                scoring=zero_shot_scorer,
                refit=False,
                n_jobs=args.jobs,
            ).fit(X[data.trainval], data.y[data.trainval])
            model.set_params(**search.best_params_)
            chosen = {
                name.removeprefix("regressor__"): value
                for name, value in search.best_params_.items()
            }
            print(
                f"{loss}: {chosen} chosen on training classes (accuracy on held-out "
                f"ones {search.best_score_:.3f}, "
                f"{time.perf_counter() - start:.0f} s).",
                flush=True,
            )
        rows.append((loss, *figures(model, X, data, args)))
        model.set_params(regressor__classification_weight=0.0)
        alone.append((f"{loss} alone", *figures(model, X, data, args)))
    print_table(rows + alone, args.seeds)


def figures(model, X, data, args):
    """Seen penalty, chosen on training classes, and a dict of figures per seed."""
    model = clone(model).set_params(seen_penalty="auto")
    model.fit(X[data.trainval], data.y[data.trainval])
    penalty = model.seen_penalty_
    model.set_params(seen_penalty=penalty)
    return penalty, Parallel(args.jobs)(
        delayed(one_seed)(model, X, data, seed) for seed in range(args.seeds)
    )


def one_seed(model, X, data, seed):
    """Fit with one seed and look at the test classes: a dict of figures."""
    model = clone(model).set_params(regressor__random_state=seed)
    start = time.perf_counter()
    model.fit(X[data.trainval], data.y[data.trainval])
    seconds = time.perf_counter() - start
    regressor, penalty = model.regressor_, model.seen_penalty_

    unseen = data.class_names[data.unseen_classes]
    named = regressor.predict(
        X[data.test_unseen],
        prototypes=data.attributes[data.unseen_classes],
        classes=unseen,
    )
    rows = np.concatenate([data.test_seen, data.test_unseen])
    seen = np.isin(model.classes_, model.seen_classes_)
    scores = model.class_scores(X[rows])  # without the penalty
    column = {name: k for k, name in enumerate(model.classes_)}
    report = gzsl_report(
        np.array([column[name] for name in data.y[rows]]), scores, seen, penalty=penalty
    )
    variation = {}
    scale = np.where(regressor.attribute_scale_ > 0, regressor.attribute_scale_, 1)
    varying = np.setdiff1d(np.arange(len(scale)), regressor.constant_attributes_)
    for side in ("seen", "unseen"):
        which = data[f"test_{side}"]
        truth = data.attributes[data.labels[which]] / scale
        predicted = regressor.predict(X[which]) / scale
        variation[side] = imbalance_report(
            truth[:, varying], predicted[:, varying], data.y[which]
        ).attribute_variation
    return {
        "T1": mean_per_class_accuracy(data.y[data.test_unseen], named),
        "U": report.U,
        "S": report.S,
        "H": report.H,
        "AUSUC": report.AUSUC,
        "oracle H": report.oracle_H,
        "variation seen": variation["seen"],
        "variation unseen": variation["unseen"],
        "fit s": seconds,
    }


def print_table(rows, n_seeds):
    """A Markdown table: mean ± standard deviation over the seeds."""
    names = list(rows[0][2][0])
    print(f"\nMean ± standard deviation over {n_seeds} seeds:\n")
    print("| loss | penalty | " + " | ".join(names) + " |")
    print("|" + " --- |" * (len(names) + 2))
    for loss, penalty, figures in rows:
        cells = []
        for name in names:
            values = [one[name] for one in figures]
            digits = 1 if name == "fit s" else 3
            cells.append(f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}")
        print(f"| {loss} | {penalty:.3f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
