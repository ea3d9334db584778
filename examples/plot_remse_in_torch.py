"""
ReMSE as a loss in your own torch loop
======================================

The loss is a module of its own: it takes predictions, targets and the class of each
sample, and needs nothing else of the library. Here it trains a small network in a
loop written by hand, beside plain MSE, on data whose imbalance is known: some
attributes are had by nearly every second class, others by one in forty.
"""

# %%
# Data
# ----
#
# ``attribute_imbalance=1`` gives the attributes a long tail. Targets are standardised
# over the seen classes, so that an error of 1 means the same for every attribute.

import matplotlib.pyplot as plt
import numpy as np
import torch

from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.decoding import nearest_prototype
from rezsl_sk.losses import MSELoss, ReMSELoss
from rezsl_sk.metrics import imbalance_report, mean_per_class_accuracy


def make(seed):
    """Data, and its table of attributes in the space of training."""
    data = make_zero_shot(attribute_imbalance=1.0, noise=0.5, random_state=seed)
    of_seen = data.attributes[data.seen_classes]
    return data, (data.attributes - of_seen.mean(0)) / of_seen.std(0)


# %%
# The loop
# --------
#
# Nothing in it is special but the third argument of the loss: the class of each row.
# From it the loss works out the mean squared error :math:`E_{kj}` of every class on
# every attribute in the batch, and gives the entries that lag behind more weight. What
# it did last stands in ``loss.group_``, ``loss.error_`` and ``loss.weight_``.


def fit(loss, data, table, epochs=20):
    """Predicted attributes of all samples, and the largest weight of each epoch."""
    X, S = torch.from_numpy(data.X).float(), torch.from_numpy(table).float()
    group, train = torch.from_numpy(data.labels), torch.from_numpy(data.trainval)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, S.shape[1]),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    heaviest = []
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(128):
            value = loss(network(X[rows]), S[group[rows]], group[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        if isinstance(loss, ReMSELoss):
            heaviest.append(loss.weight_.max().item())
    with torch.inference_mode():
        return network(X).numpy(), heaviest


# %%
# Five data sets, measured on samples that were kept back
# -------------------------------------------------------
#
# *Variation* is the standard deviation of the errors over their mean: 0 is perfectly
# even. ReMSE makes the errors of the classes more even, and pays with a larger error on
# average. What that means for naming unseen classes has to be measured on *your* data:
# here the accuracy changes by less than from one data set to the next.

errors = {}
for name, loss in [("MSE", MSELoss()), ("ReMSE", ReMSELoss())]:
    lines, per_class = [], []
    for seed in range(5):
        data, table = make(seed)
        S_hat, heaviest = fit(loss, data, table)
        rows = data.test_seen
        report = imbalance_report(
            table[data.labels[rows]], S_hat[rows], data.labels[rows]
        )
        named = nearest_prototype(
            S_hat[data.test_unseen],
            table[data.unseen_classes],
            classes=data.unseen_classes,
        )
        T1 = mean_per_class_accuracy(data.labels[data.test_unseen], named)
        lines.append((report.mean, report.class_variation, T1))
        per_class.append(report.class_error)
    errors[name] = np.array(per_class)  # (data sets, classes)
    mean, spread = np.mean(lines, axis=0), np.std(lines, axis=0)
    print(
        f"{name:>5}: mean error {mean[0]:.2f}, variation over classes {mean[1]:.2f} "
        f"+- {spread[1]:.2f}, unseen named right {mean[2]:.2f} +- {spread[2]:.2f}"
    )

# %%
# Where the error went
# --------------------
#
# The classes of each data set from the worst to the best under MSE, mean over the data
# sets. Only the very worst classes gain, and little; the even picture comes mostly from
# the easy classes, which lose more. Worth looking at on your own data before you call a
# model fairer. On the right, how far the weights of the last data set spread during
# training.

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
order = np.argsort(-errors["MSE"], axis=1)
for name, colour in [("MSE", "#d55e00"), ("ReMSE", "#0072b2")]:
    curve = np.take_along_axis(errors[name], order, axis=1).mean(axis=0)
    left.plot(curve, color=colour, label=name)
left.set(xlabel="seen classes, worst first", ylabel="mean squared error")
left.set_ylim(bottom=0)
left.legend()
right.plot(np.arange(1, len(heaviest) + 1), heaviest, color="#0072b2")
right.set(xlabel="epoch", ylabel="largest weight in the last batch")
right.set_ylim(bottom=0)
right.xaxis.get_major_locator().set_params(integer=True)
plt.show()
