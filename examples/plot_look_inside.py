"""
Look inside: where a model errs, and what to do about it
========================================================

An accuracy says how good a model is, not why. The displays of
:mod:`rezsl_sk.plotting` show what was predicted badly, for which classes, and what that
does to the answers. All of them take a fitted estimator (``from_estimator``) or arrays
(``from_predictions``), as scikit-learn's do, and keep the numbers they show.
"""

# %%
# A model with an imbalance
# -------------------------
#
# Made-up data in which a few attributes are common and many are rare.
# ``early_stopping=True`` holds out a fifth of the *classes* and keeps the epoch with
# the best accuracy on them. This page is about predicted attributes, so
# ``feature_weight=0`` lets them alone name a class.

import matplotlib.pyplot as plt
import numpy as np

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.metrics import mean_per_class_accuracy
from rezsl_sk.plotting import (
    AttributeErrorDisplay,
    ErrorMatrixDisplay,
    LossCurveDisplay,
    PrototypeMapDisplay,
    WeightDisplay,
)

data = make_zero_shot(attribute_imbalance=0.7, noise=0.7, random_state=0)
train, unseen = data.trainval, data.test_unseen
test = np.concatenate([data.test_seen, unseen])


def fit(loss):
    """A classifier that names a sample among the unseen classes."""
    model = ZeroShotClassifier(
        ReZSLRegressor(
            loss=loss, feature_weight=0, early_stopping=True, random_state=0
        ),
        class_attributes=(data.class_names, data.attributes),
        candidates="unseen",
    )
    return model.fit(data.X[train], data.y[train])


models = {loss: fit(loss) for loss in ("mse", "remse")}
for loss, model in models.items():
    named = model.predict(data.X[unseen])
    accuracy = mean_per_class_accuracy(data.y[unseen], named)
    print(f"{loss}: unseen named right: {accuracy:.3f} (guessing: 0.1)")

# %%
# Did training go well?
# ---------------------
#
# The terms of the objective, and on the right axis the accuracy on the held-out
# classes; the circle marks the epoch that was kept. If the accuracy still climbs at the
# end, ``max_iter`` is too small.

LossCurveDisplay.from_estimator(models["remse"])
plt.show()

# %%
# Which class, which attribute?
# -----------------------------
#
# Each row is a class, each column an attribute, the hardest first; unseen classes stand
# above. An error of 1 is that of always predicting the mean of the training classes. A
# bright row is a class that looks unlike its description: check its row of the table. A
# bright column is an attribute that does not show in the features: leave it out or
# describe something else.

display = ErrorMatrixDisplay.from_estimator(
    models["remse"],
    data.X[test],
    data.y[test],
    attribute_names=data.attribute_names,
)
hardest = display.class_order_[0]
print(
    f"hardest class: {display.classes[hardest]}, mean squared error "
    f"{display.error[hardest].mean():.2f}"
)
plt.show()

# %%
# How uneven, and is ReMSE more even?
# -----------------------------------
#
# The same attributes under both losses, in the order of the first. Beside the
# classification term, which pulls on the errors as well, the difference is small;
# :ref:`alone <sphx_glr_auto_examples_plot_remse_in_torch.py>` it is larger.

first = AttributeErrorDisplay.from_estimator(
    models["mse"],
    data.X[unseen],
    data.y[unseen],
    attribute_names=data.attribute_names,
    name="MSE",
)
AttributeErrorDisplay.from_estimator(
    models["remse"],
    data.X[unseen],
    data.y[unseen],
    name="ReMSE",
    ax=first.ax_,
    order=first.order_,
)
plt.show()

# %%
# The paper's observation is that errors go with the *value* of an attribute: a class
# that has it, where few have it, is predicted worse than the many that have not.

AttributeErrorDisplay.from_estimator(
    models["mse"], data.X[test], data.y[test], kind="value", name="MSE"
)
plt.show()

# %%
# What ReMSE weights up at the end of training: entries that lag behind others.

WeightDisplay.from_estimator(models["remse"], attribute_names=data.attribute_names)
plt.show()

# %%
# Where the predictions lie
# -------------------------
#
# Predicted attributes of unseen samples around the prototypes of their classes. A line
# leads from each prototype to the mean of its samples; where it leads to another
# prototype, samples get that one's name.

PrototypeMapDisplay.from_estimator(models["remse"], data.X[unseen], data.y[unseen])
plt.show()
