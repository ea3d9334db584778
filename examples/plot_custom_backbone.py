"""
A network of your own as the backbone
=====================================

The extractor knows timm's networks by name. Any other ``torch.nn.Module`` does as well:
a network you trained yourself, one for X-rays, one that reads spectrograms. It needs a
transform, which turns a picture into the tensor that the network expects. Here a small
convolutional network is trained on seven digits, its last layer is cut off, and what is
left becomes the backbone.

Needs Pillow (in ``pip install "rezsl-sk[extract]"``).
"""

# %%
# Pictures as files
# -----------------
#
# One folder for each class. The two, the four and the eight are unseen: no part of
# what follows, the training of the network included, looks at them before the end.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from rezsl_features import Backbone, extract_features

from rezsl_sk import ReZSLRegressor, ZeroShotClassifier
from rezsl_sk.datasets import load_digits_zero_shot
from rezsl_sk.metrics import mean_per_class_accuracy

digits = load_digits_zero_shot()
folder = tempfile.TemporaryDirectory()
pictures = Path(folder.name, "pictures")
for i, (pixels, name) in enumerate(zip(digits.X, digits.y, strict=True)):
    path = pictures / name / f"{i:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.reshape(8, 8) * 255).astype(np.uint8)).save(path)

# %%
# A network, trained on the seen digits
# -------------------------------------


def transform(picture):
    """A PIL image of any size to a tensor (1, 8, 8) with values from 0 to 1."""
    grey = np.array(picture.convert("L").resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(grey)[None]


torch.manual_seed(0)
body = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.Conv2d(32, 64, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.MaxPool2d(2),
    torch.nn.Flatten(),
)
network = torch.nn.Sequential(body, torch.nn.Linear(64 * 4 * 4, 10))
train = digits.trainval
x = torch.from_numpy(digits.X[train]).reshape(-1, 1, 8, 8)
label = torch.from_numpy(digits.labels[train])
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
for _ in range(15):
    for rows in torch.randperm(len(x)).split(64):
        loss = torch.nn.functional.cross_entropy(network(x[rows]), label[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"last loss on the seen digits: {loss.item():.3f}")

# %%
# From pictures to a feature cache
# --------------------------------
#
# ``Backbone`` joins network and transform under a name. Hashes of its architecture and
# weights go into the cache: were the network trained on, a rerun would be refused, and
# features of two networks cannot get mixed. ``workers=0`` reads the pictures in this
# process; with more, put the call below ``if __name__ == "__main__":``.

cache = extract_features(
    pictures,
    Backbone(body, transform, name="small-digit-net"),
    Path(folder.name, "digits.h5"),
    class_attributes=(digits.class_names, digits.attributes),
    attribute_names=digits.attribute_names,
    workers=0,
)
with cache:
    X, y, paths = cache.X[:], cache.y, cache.paths
    print({k: cache.metadata[k] for k in ("backbone", "engine", "dtype")})
print(f"{X.shape[0]} pictures, {X.shape[1]} features, the first from {paths[0]}")

# %%
# The unseen digits, from pixels and from the network's features
# --------------------------------------------------------------
#
# The rows of the cache are in the order of the files; their names say which they are.
# Features of a network that was trained to tell seven digits apart know what these
# seven differ in, which need not be what sets a new digit apart. So measure.

number = np.array([int(Path(path).stem) for path in paths])
fitted = np.isin(number, digits.trainval)
unseen = np.isin(number, digits.test_unseen)
for what, features in [("pixels", digits.X[number]), ("network", X)]:
    model = ZeroShotClassifier(
        ReZSLRegressor(random_state=0),
        class_attributes=(digits.class_names, digits.attributes),
        candidates="unseen",
    ).fit(features[fitted], y[fitted])
    named = model.predict(features[unseen])
    accuracy = mean_per_class_accuracy(y[unseen], named)
    print(f"{what}: {accuracy:.3f} of the unseen digits named right (guessing: 0.333)")
folder.cleanup()

# %%
# Answers from the network's features
# -----------------------------------

classes = digits.class_names[digits.unseen_classes]
counts = np.array(
    [[np.sum(named[y[unseen] == t] == a) for a in classes] for t in classes]
)
figure, ax = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
ax.imshow(counts, cmap="Blues")
for row, column in np.ndindex(counts.shape):
    dark = counts[row, column] > counts.max() / 2
    ax.text(
        column,
        row,
        counts[row, column],
        ha="center",
        va="center",
        color="white" if dark else "black",
    )
ax.set(xticks=range(3), yticks=range(3), xticklabels=classes, yticklabels=classes)
ax.set(xlabel="named", ylabel="is")
plt.show()
