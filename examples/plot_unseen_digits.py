"""
The whole way, on handwritten digits
====================================

Seven of scikit-learn's ten digits are seen in training. The other three (two,
four and eight) are known from a table alone, which says for each digit which
strokes it is drawn with. The whole way, on pixels as features::

    features -> feature cache -> class-disjoint grid search -> fit
             -> unseen digits named, alone and among all ten

Nothing is chosen on unseen digits: settings and seen penalty come from folds
that hold out seen digits. Run ``python examples/plot_unseen_digits.py``; results
go to the folder ``demo_output`` (or to ``--out FOLDER``).
"""

# %%
# Features, once, into a cache that everything else reads
# -------------------------------------------------------
#
# Here the features are the pixels themselves; with real pictures :ref:`the extractor
# <sphx_glr_auto_examples_plot_unseen_pictures.py>` writes this file.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import load_digits_zero_shot
from rezsl_sk.feature_cache import FeatureCache
from rezsl_sk.metrics import gzsl_report, mean_per_class_accuracy, seen_unseen_curve
from rezsl_sk.model_selection import ClassShuffleSplit, zero_shot_scorer

BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by colour-blind eyes too
parser = argparse.ArgumentParser(description="name digits never seen")
parser.add_argument("--out", type=Path, default=Path("demo_output"))
out = parser.parse_known_args()[0].out  # a notebook has arguments of its own
out.mkdir(parents=True, exist_ok=True)

digits = load_digits_zero_shot()
path = out / "digits.h5"
FeatureCache.from_arrays(
    path,
    digits.X,
    digits.y,
    class_attributes=(digits.class_names, digits.attributes),
    attribute_names=digits.attribute_names,
    metadata={"backbone": "none: the 64 pixels of scikit-learn's digits"},
    overwrite=True,
)
cache = FeatureCache(path)
X, y = np.asarray(cache.X), cache.y
train, test_seen, test_unseen = (
    digits.trainval,
    digits.test_seen,
    digits.test_unseen,
)
unseen = digits.class_names[digits.unseen_classes]
print(
    f"{len(X)} digits of {X.shape[1]} pixels; each class is described by "
    f"{len(cache.attribute_names)} strokes ({cache.attribute_names[0]}, "
    f"{cache.attribute_names[7]}, ...).\n"
    f"Seen in training: {', '.join(digits.class_names[digits.seen_classes])}.\n"
    f"Never seen, only described: {', '.join(unseen)}.\n"
)

# %%
# Settings, on folds that hold out seen digits
# --------------------------------------------
#
# Losses and weights of the classification term are compared on splits that hold out
# three of the seven seen digits.

classifier = ZeroShotClassifier(
    ReZSLRegressor(random_state=0),
    class_attributes=(cache.classes, cache.class_attributes),
)
step = "zeroshotclassifier__regressor__"
search = GridSearchCV(
    make_pipeline(StandardScaler(), classifier),
    {
        f"{step}loss": ["mse", "remse"],
        f"{step}classification_weight": [0.1, 1.0],
    },
    cv=ClassShuffleSplit(6, test_size=3),
    scoring=zero_shot_scorer,
).fit(X[train], y[train])
chosen = {name[len(step) :]: v for name, v in search.best_params_.items()}
print(
    f"Chosen on {search.n_splits_} splits that hold out 3 of the 7 seen digits: "
    f"{chosen}\n(held-out digits named right: {search.best_score_:.3f}).\n"
)

# %%
# Among the unseen digits only
# ----------------------------
#
# Fitted again on all seen digits with the settings chosen. The regressor names a
# sample by the nearest of the prototypes it is given.

model = clone(search.best_estimator_)
model.set_params(zeroshotclassifier__seen_penalty="auto").fit(X[train], y[train])
scaled, final = model[:-1], model[-1]
regressor, prototypes = final.regressor_, digits.attributes[digits.unseen_classes]
named = regressor.predict(
    scaled.transform(X[test_unseen]), prototypes=prototypes, classes=unseen
)
truth = y[test_unseen]
T1 = mean_per_class_accuracy(truth, named)
print(
    f"{len(truth)} digits of the unseen classes, named among these "
    f"{len(unseen)}: {T1:.3f} right (mean over classes; guessing gives "
    f"{1 / len(unseen):.3f})."
)
for name in unseen:
    answers, counts = np.unique(named[truth == name], return_counts=True)
    parts = [f"{c} x {a}" for a, c in zip(answers, counts, strict=True)]
    print(f"    {name:>6} was named: {', '.join(parts)}")

# %%
# Among all ten digits: generalised zero-shot learning
# ----------------------------------------------------
#
# Seen digits compete too; the seen penalty, chosen on seen digits, balances them.

rows = np.concatenate([test_seen, test_unseen])
seen = np.isin(final.candidates_, final.classes_)
penalty = final.seen_penalty_
scores = model.decision_function(X[rows])
scores = scores + np.where(seen, np.float32(penalty), 0)  # without the penalty
column = np.array([final.candidates_.tolist().index(name) for name in y[rows]])
print(
    f"\nNamed among all ten ({len(test_seen)} held-out samples of seen digits and "
    f"{len(test_unseen)} of unseen ones):\n\n"
    "seen penalty                   unseen U   seen S     H     AUSUC"
)
for label, value in [("none", 0.0), ("chosen on seen digits", penalty)]:
    report = gzsl_report(column, scores, seen, penalty=value)
    print(
        f"{label:<22} {value:7.3f} {report.U:9.3f} {report.S:8.3f} "
        f"{report.H:7.3f} {report.AUSUC:8.3f}"
    )

# %%
# Looked at
# ---------


def draw(path, X, truth, named, unseen, curve, penalty, T1):
    """Left: digits under the names they were given. Right: seen-unseen curve."""
    per_row = 12
    figure = plt.figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2, 1])
    left.suptitle(
        f"digits never seen in training, with the name given ({T1:.0%} right)"
    )
    axes = left.subplots(len(unseen), per_row)
    rng = np.random.default_rng(0)
    for line, name in zip(axes, unseen, strict=True):
        shown = rng.choice(np.flatnonzero(truth == name), per_row, replace=False)
        for ax, i in zip(line, shown, strict=True):
            ax.imshow(X[i].reshape(8, 8), cmap="gray_r")
            ax.set_xticks([])
            ax.set_yticks([])
            right_answer = named[i] == name
            ax.set_title(
                named[i] if right_answer else f"{named[i]} ✗",
                fontsize=9,
                color=BLUE if right_answer else ORANGE,
            )
        line[0].set_ylabel(name, fontsize=11)

    ax = right.subplots()
    ax.plot(curve.unseen, curve.seen, color=BLUE, label=f"AUSUC {curve.ausuc:.2f}")
    S, U = curve.at(0.0)
    ax.plot(U, S, "s", color="black", label="no penalty")
    S, U = curve.at(penalty)
    ax.plot(U, S, "o", color=ORANGE, label=f"penalty {penalty:.2f}, from seen digits")
    ax.set(
        xlabel="accuracy on unseen digits",
        ylabel="accuracy on seen digits",
        title="named among all ten",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
        aspect="equal",
    )
    ax.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=120)


figure = out / "unseen_digits.png"
curve = seen_unseen_curve(column, scores, seen)
draw(figure, X[test_unseen], truth, named, unseen, curve, penalty, T1)
print(f"\nFeature cache: {path}\nFigure: {figure}")
plt.show()
