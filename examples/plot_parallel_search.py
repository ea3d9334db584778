"""
Many fits at once: a search with joblib, and on a dask cluster
==============================================================

A grid search is many fits that know nothing of each other. scikit-learn hands them to
joblib, and joblib to processes of this machine (``n_jobs=2``) or to a dask cluster of
any number of machines. The results are equal to the bit, for every fit has its own
seed.

The part on dask needs ``pip install "rezsl-sk[dask]"``.
"""

# %%
# What is searched
# ----------------
#
# Six settings on three folds of classes: 18 fits. Inside each, torch gets one
# thread. With more, the processes would wait for each other, and small fits such as
# these become many times slower; set ``OMP_NUM_THREADS=1`` for a search of your own.
#
# dask starts its workers anew, and each reads this file again up to the line
# ``if __name__ == "__main__":``. So what is to run once stands below such a line.

import time

import joblib
import numpy as np
import torch
from scipy.stats import loguniform
from sklearn.model_selection import RandomizedSearchCV

from rezsl_sk import ReZSLRegressor
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.metrics import mean_per_class_accuracy
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

torch.set_num_threads(1)
data = make_zero_shot(random_state=0)
X = data.X[data.trainval].astype(np.float32)
S = data.attributes[data.labels[data.trainval]]


def search(n_jobs):
    """Six random settings on three folds of classes."""
    return RandomizedSearchCV(
        ReZSLRegressor(max_iter=8, random_state=0),
        {
            "learning_rate_init": loguniform(1e-3, 1e-2),
            "classification_weight": loguniform(0.1, 10),
            "hidden_layer_sizes": [(), (256,)],
        },
        n_iter=6,
        cv=ClassKFold(3),
        scoring=zero_shot_scorer,
        n_jobs=n_jobs,
        random_state=0,
    )


# %%
# On the cores of this machine
# ----------------------------
#
# The time of two processes holds their start, in which each imports torch: some seconds
# that a search of this size hardly wins back. One that is worth the trouble takes
# minutes.

if __name__ == "__main__":
    scores = {}
    for label, n_jobs in [("one process", 1), ("two processes", 2)]:
        start = time.perf_counter()
        found = search(n_jobs).fit(X, S)
        seconds = time.perf_counter() - start
        scores[label] = found.cv_results_["mean_test_score"]
        print(f"{label}: {seconds:.1f} s, best {found.best_score_:.3f}")
    equal = np.array_equal(scores["one process"], scores["two processes"])
    print("equal scores:", equal)

# %%
# On a dask cluster
# -----------------
#
# ``LocalCluster`` makes two workers on this machine. On a real cluster everything stays
# as it is but the first line: ``Client("tcp://scheduler:8786")`` in place of it. The
# ``scatter`` sends the data to each worker once, not with every fit.

if __name__ == "__main__":
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        Client(cluster),
        joblib.parallel_config("dask", scatter=[X, S]),
    ):
        found = search(n_jobs=-1).fit(X, S)
    equal = np.array_equal(found.cv_results_["mean_test_score"], scores["one process"])
    print(f"dask: best {found.best_score_:.3f}, equal scores: {equal}")

# %%
# The winner, on classes that took no part
# ----------------------------------------

if __name__ == "__main__":
    unseen = data.unseen_classes
    named = found.best_estimator_.predict(
        data.X[data.test_unseen].astype(np.float32),
        prototypes=data.attributes[unseen],
        classes=data.class_names[unseen],
    )
    accuracy = mean_per_class_accuracy(data.y[data.test_unseen], named)
    print(f"unseen classes named right: {accuracy:.3f} (guessing: {1 / len(unseen)})")

# %%
# What was tried
# --------------

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    tried = found.cv_results_
    figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    dots = ax.scatter(
        tried["param_learning_rate_init"].astype(float),
        tried["param_classification_weight"].astype(float),
        c=tried["mean_test_score"],
        s=120,
        cmap="cividis",
    )
    ax.set(xscale="log", yscale="log", xlim=(9e-4, 1.1e-2), ylim=(0.09, 11))
    ax.set_xticks([0.001, 0.003, 0.01], ["0.001", "0.003", "0.01"])
    ax.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    ax.minorticks_off()
    ax.set(xlabel="learning_rate_init", ylabel="classification_weight")
    figure.colorbar(dots, label="accuracy on held-out classes")
    plt.show()
