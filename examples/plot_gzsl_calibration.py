"""
Seen and unseen classes together: the seen penalty
==================================================

In generalised zero-shot learning every class is a candidate. A model scores the
classes it was trained on too high, and so it hardly ever names an unseen one.
*Calibrated stacking* takes a constant, the seen penalty, off the scores of all seen
classes. This page shows what the penalty trades, how the library chooses it on
training classes alone, and what choosing it on the test classes would pretend.
"""

# %%
# Fit, with a penalty chosen on training classes
# ----------------------------------------------
#
# ``seen_penalty="auto"`` holds out seen classes in turn, treats them as unseen, and
# takes the penalty with the best harmonic mean over these folds
# (:class:`~rezsl_sk.model_selection.GZSLKFold`). The unseen classes have no part in it.

import matplotlib.pyplot as plt
import numpy as np

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.metrics import gzsl_report
from rezsl_sk.plotting import SeenUnseenCurveDisplay

data = make_zero_shot(random_state=0)
classifier = ZeroShotClassifier(
    ReZSLRegressor(random_state=0),
    class_attributes=(data.class_names, data.attributes),
    seen_penalty="auto",
)
classifier.fit(data.X[data.trainval], data.y[data.trainval])
penalty = classifier.seen_penalty_
print(f"penalty chosen on training classes: {penalty:.3f}")

# %%
# What the penalty does to single answers
# ---------------------------------------
#
# Two hundred samples of seen classes were kept back from training, and no sample of an
# unseen class was in it.

rows = np.concatenate([data.test_seen, data.test_unseen])
of_unseen = np.isin(data.labels[rows], data.unseen_classes)
for value in (0.0, penalty):
    classifier.seen_penalty_ = value
    answers = classifier.predict(data.X[rows])
    called = np.isin(answers, data.class_names[data.unseen_classes])
    print(
        f"penalty {value:.3f}: {called[of_unseen].mean():.0%} of the unseen samples "
        f"and {called[~of_unseen].mean():.0%} of the seen ones are given an unseen "
        "class's name"
    )

# %%
# The figures to report
# ---------------------
#
# U and S are class-mean accuracies of unseen and seen samples among *all* classes, H
# is their harmonic mean, all at *one* penalty. AUSUC, the area under the curve of all
# penalties, needs none. The best H over all penalties on these very samples is called
# ``oracle_H``: the penalty was chosen on the samples it is measured on, so it is an
# upper bound and never a result.

scores = classifier.class_scores(data.X[rows])  # without the penalty
seen = np.isin(classifier.classes_, classifier.seen_classes_)
number = {name: k for k, name in enumerate(classifier.classes_)}
column = np.array([number[name] for name in data.y[rows]])

print("penalty                    U      S      H")
for label, value in [("none", 0.0), ("from training classes", penalty)]:
    report = gzsl_report(column, scores, seen, penalty=value)
    print(f"{label:<22} {report.U:6.3f} {report.S:6.3f} {report.H:6.3f}")
print(f"oracle H {report.oracle_H:.3f} at penalty {report.oracle_penalty:.3f}")
print(f"AUSUC {report.AUSUC:.3f}")

# %%
# The whole trade-off
# -------------------
#
# Every point of the curve is one penalty, from "everything is a seen class" (left) to
# "everything is an unseen class" (right end). The filled dot is the model's own, the
# open diamond the oracle. A second model comes onto the same axes by handing them on:
# here one that names classes by their predicted attributes alone.

display = SeenUnseenCurveDisplay.from_estimator(
    classifier, data.X[rows], data.y[rows], name="both sides"
)
attributes_only = ZeroShotClassifier(
    ReZSLRegressor(feature_weight=0, random_state=0),
    class_attributes=(data.class_names, data.attributes),
    seen_penalty="auto",
).fit(data.X[data.trainval], data.y[data.trainval])
SeenUnseenCurveDisplay.from_estimator(
    attributes_only,
    data.X[rows],
    data.y[rows],
    name="attributes alone",
    ax=display.ax_,
)
plt.show()
