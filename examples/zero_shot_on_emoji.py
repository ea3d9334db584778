"""The whole chain on 525 emoji
============================

Needs a folder with ``images/<class>/<style>.jpg`` and ``classes.csv`` (columns
``class``, ``split`` with the values seen and unseen, and one per attribute), and
``pip install rezsl-sk[extract,demo,plot]``::

    python examples/zero_shot_on_emoji.py path/to/emoji --out emoji_out

The features are those of an EfficientNet-Lite0 that was trained on photographs. What
may be chosen is chosen on folds of the seen classes; the unseen ones are looked at
once, at the end.
"""

import argparse
import csv
import importlib.util
import warnings
from pathlib import Path

import numpy as np
from rezsl_features import extract_features
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.metrics import gzsl_report, mean_per_class_accuracy
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer
from rezsl_sk.plotting import AnswerGridDisplay

GRID = {
    "regressor__hidden_layer_sizes": [(512,), (2048,)],
    "regressor__attribute_scaling": ["standard", "center"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("emoji", type=Path, help="folder of images/ and classes.csv")
    parser.add_argument("--out", type=Path, default=Path("emoji_out"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    # Some classes share all their keywords, so nobody can tell them apart; the
    # classifier says so at each fit. They stay in: a user's table has such too.
    warnings.filterwarnings("ignore", ".*cannot be told apart")

    # -- pictures to features, once: a second run finds them finished --------------
    with open(args.emoji / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    keywords = [key for key in rows[0] if key not in ("class", "split")]
    table = (
        [row["class"] for row in rows],
        np.array([[float(row[key]) for key in keywords] for row in rows]),
    )
    unseen = [row["class"] for row in rows if row["split"] == "unseen"]
    onnx = all(importlib.util.find_spec(p) for p in ("onnx", "onnxruntime"))
    cache = extract_features(
        args.emoji / "images",
        "tf_efficientnet_lite0",
        args.out / "emoji_lite0.h5",
        weights="package:efficientnet-lite0",
        class_attributes=table,
        attribute_names=keywords,
        engine="onnx" if onnx else "channels-last",
        progress=importlib.util.find_spec("tqdm") is not None,
    )
    print(cache)
    with cache:
        X, y, paths = cache.X[:], cache.y, cache.paths

    # -- seen classes: a fifth of their pictures is kept to measure S ----------------
    test_unseen = np.flatnonzero(np.isin(y, unseen))
    seen_rows = np.flatnonzero(~np.isin(y, unseen))
    split = StratifiedShuffleSplit(1, test_size=0.2, random_state=0)
    train, test_seen = (
        seen_rows[i] for i in next(split.split(seen_rows, y[seen_rows]))
    )

    # -- tuned on class-disjoint folds of the seen classes ---------------------------
    model = ZeroShotClassifier(ReZSLRegressor(random_state=0), class_attributes=table)
    search = GridSearchCV(
        model, GRID, cv=ClassKFold(3), scoring=zero_shot_scorer, refit=False
    ).fit(X[train], y[train])
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        words = ", ".join(
            f"{k.removeprefix('regressor__')} {v}" for k, v in params.items()
        )
        print(f"{score:.3f} on folds of the seen classes: {words}")
    model.set_params(**search.best_params_, seen_penalty="auto")

    # -- the unseen classes, for the first time ---------------------------------------
    figures = []
    for seed in range(args.seeds):
        model.set_params(regressor__random_state=seed)
        model.fit(X[train], y[train])
        report = generalised(model, X, y, test_unseen, test_seen)
        # Chosen on the seen classes; five fits, which need not be repeated.
        model.set_params(seen_penalty=model.seen_penalty_)
        # Where no seen class is a candidate, no seen picture need be kept back.
        named = clone(model).set_params(candidates="unseen")
        answers = named.fit(X[seen_rows], y[seen_rows]).predict(X[test_unseen])
        T1 = mean_per_class_accuracy(y[test_unseen], answers)
        figures.append((T1, report.U, report.S, report.H, report.AUSUC))
        print(f"seed {seed}: " + line(figures[-1]))
        if seed == 0:
            figure = args.out / "emoji_answers.png"
            AnswerGridDisplay.from_predictions(
                y[test_unseen],
                answers,
                paths=paths[test_unseen],
                root=args.emoji / "images",
            ).figure_.savefig(figure, dpi=130)
    print("mean:   " + line(np.mean(figures, axis=0)))
    print(f"chance: T1 {1 / len(unseen):.4f} ({len(unseen)} unseen classes)")
    print(f"Right and wrong answers of seed 0: {figure}")


def line(figures):
    names = ("T1", "U", "S", "H", "AUSUC")
    return "  ".join(f"{n} {f:.3f}" for n, f in zip(names, figures, strict=True))


def generalised(model, X, y, test_unseen, test_seen):
    """U, S, H and AUSUC: all classes are candidates, the penalty is the model's."""
    classes = model.classes_
    seen = np.isin(classes, model.seen_classes_)
    rows = np.concatenate([test_unseen, test_seen])
    scores = model.class_scores(X[rows])
    column = {name: i for i, name in enumerate(classes)}
    truth = [column[name] for name in y[rows]]
    return gzsl_report(truth, scores, seen, penalty=model.seen_penalty_)


if __name__ == "__main__":
    main()
