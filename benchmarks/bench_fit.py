"""How long a fit takes, and what ReMSE costs over plain MSE.

``python benchmarks/bench_fit.py [ROOT]``: on AWA1_SHALLOW below ROOT (a folder in
xlsa17 layout), else on made-up data of its size (19436 x 512 features, 85
attributes, 40 classes). Fits of both losses alternate in one run; medians, and the
ratio of each pair, so that a busy machine slows both alike. The default objective,
cross-entropy included, float32; without the feature side, which knows no loss.
"""

import argparse
import time

import numpy as np
import torch

from rezsl_sk import ReZSLRegressor
from rezsl_sk.datasets import load_xlsa17


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", help="folder in xlsa17 layout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    X, S, what = features(args.root)
    print(f"{what}: {X.shape} -> {S.shape[1]}, {args.threads} threads\n")
    print("| head | epochs | MSE, s | ReMSE, s | ReMSE / MSE |")
    print("| --- | --- | --- | --- | --- |")
    for label, sizes, epochs in [("linear", (), 15), ("one layer of 512", (512,), 5)]:
        seconds = {"mse": [], "remse": []}
        for _ in range(args.repeats):
            for loss in seconds:
                model = ReZSLRegressor(
                    sizes,
                    loss=loss,
                    feature_weight=0,  # its closed form would hide the difference
                    max_iter=epochs,
                    batch_size=256,
                    device="cpu",
                    random_state=0,
                )
                start = time.perf_counter()
                model.fit(X, S)
                seconds[loss].append(time.perf_counter() - start)
        mse, remse = np.array(seconds["mse"]), np.array(seconds["remse"])
        print(
            f"| {label} | {epochs} | {np.median(mse):.2f} | {np.median(remse):.2f} | "
            f"{np.median(remse / mse):.2f} |",
            flush=True,
        )


def features(root):
    """Standardised training features (n, d), attributes (n, a), and their name."""
    if root is None:
        rng = np.random.default_rng(0)
        table = rng.random((40, 85)).astype(np.float32)
        S = table[rng.integers(0, 40, 19436)]
        X = S @ rng.normal(size=(85, 512)).astype(np.float32)
        X += rng.normal(scale=5, size=X.shape).astype(np.float32)
        what = "made-up data of AWA1_SHALLOW's size"
    else:
        data = load_xlsa17(root, "AWA1_SHALLOW")
        X = np.asarray(data.X[data.trainval], dtype=np.float32)
        S = data.attributes[data.labels[data.trainval]]
        what = "AWA1_SHALLOW, training rows"
    X = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-6)
    return X, S, what


if __name__ == "__main__":
    main()
