"""What a fit takes, against its bare matrix products and against other ways to do it.

``python benchmarks/bench_fit.py [--threads 2] [--repeats 5] [--only TABLE ...]``

Made-up features of the sizes of real data sets, float32, the default objective
(ReMSE and cross-entropy), batch 256. What is compared alternates within one run, and
medians of the ratios of neighbours are printed, so that a busy machine slows both
alike. The feature side, a closed form that knows neither loss nor loop, is a column
of its own. Tables: products, precision, losses, others, loops, growth.
"""

import argparse
import multiprocessing
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from rezsl_sk import ReZSLRegressor
from rezsl_sk.losses import ReMSELoss
from rezsl_sk.model_selection import ClassKFold, zero_shot_scorer

# rows of training, features, attributes, seen classes; epochs to time
SIZES = {
    "CUB": (7057, 2048, 312, 150, 10),
    "AWA2": (23527, 2048, 85, 40, 10),
    "SUN": (10320, 2048, 102, 645, 10),
    "SNU": (6750, 128, 7, 135, 20),
}
BATCH = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, medians of {args.repeats}\n")
    for name in args.only:
        TABLES[name](args.repeats)
        print(flush=True)


def made_up(n, d, a, K):
    """Features (n, d) that follow the attributes, and attributes (n, a)."""
    rng = np.random.default_rng(0)
    table = rng.random((K, a), dtype=np.float32)
    of_row = rng.integers(0, K, n)
    to_features = rng.standard_normal((a, d), dtype=np.float32) / np.float32(a**0.5)
    X = (table @ to_features)[of_row]
    # More features do not make it easier.
    X += np.float32((d / 128) ** 0.5) * rng.standard_normal((n, d), dtype=np.float32)
    return X, table[of_row]


def regressor(hidden, epochs, **params):
    return ReZSLRegressor(
        hidden,
        max_iter=epochs,
        device="cpu",
        **{"batch_size": BATCH, "feature_weight": 0, "random_state": 0, **params},
    )


def seconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def bare_products(n, d, a, K, epochs, hidden, batch=BATCH):
    """A function that does the matrix products of a fit and nothing else."""
    x, y = torch.randn(batch, d), torch.randn(batch, a)
    logits, directions = torch.randn(batch, K), torch.randn(K, a)
    steps = -(-n // batch) * epochs
    if hidden:
        W, G = torch.randn(hidden, d), torch.empty(hidden, d)
        V, H = torch.randn(a, hidden), torch.randn(batch, hidden)
        GV, back = torch.empty(a, hidden), torch.empty(batch, hidden)
    else:
        W, G = torch.randn(a, d), torch.empty(a, d)

    def run():
        for _ in range(steps):
            if hidden:
                torch.mm(x, W.T, out=H)
                torch.mm(H, V.T, out=y)
            else:
                torch.mm(x, W.T, out=y)
            torch.mm(y, directions.T, out=logits)
            torch.mm(logits, directions, out=y)
            if hidden:
                torch.mm(y.T, H, out=GV)
                torch.mm(y, V, out=back)
                torch.mm(back.T, x, out=G)
            else:
                torch.mm(y.T, x, out=G)

    return run


def products_table(repeats):
    print("Fit against its bare matrix products (forward, backward, scores of classes)")
    print(
        "| size | head | products, s | fit, s | fit / products | the loop alone |",
        end="",
    )
    print(" feature side, s |\n| --- | --- | --- | --- | --- | --- | --- |")
    for size, (*shape, epochs) in SIZES.items():
        X, S = made_up(*shape)
        for hidden in ((), (512,)):
            bare = bare_products(*shape, epochs, *(hidden or (0,)))
            rows = []
            for _ in range(repeats):
                products = seconds(bare)
                fit = seconds(regressor(hidden, epochs).fit, X, S)
                # What is left of a fit with one epoch is not the loop.
                one = seconds(regressor(hidden, 1).fit, X, S)
                loop = (fit - one) * epochs / (epochs - 1)
                rows.append((products, fit, fit / products, loop / products))
            side = regressor(hidden, 1, feature_weight=0.67)
            side = seconds(side.fit, X, S) - one
            products, fit, ratio, loop = np.median(rows, axis=0)
            print(
                f"| {size} | {'512 units' if hidden else 'linear'} | {products:.2f} | "
                f"{fit:.2f} | {ratio:.2f} | {loop:.2f} | {side:.1f} |",
                flush=True,
            )


def precision_table(repeats):
    print("Products in bfloat16 against full precision: times of whole fits, and how")
    print("many samples of held-out classes are named right (mean, spread over seeds)")
    print("| size | head | full / bfloat16 | right, full | right, bfloat16 |")
    print("| --- | --- | --- | --- | --- |")
    for size, (*shape, epochs) in SIZES.items():
        X, S = made_up(*shape)
        train, test = next(ClassKFold(5).split(X, S))
        for hidden in ((), (512,)):
            ratios, right = [], {"full": [], "bfloat16": []}
            for seed in range(max(2, repeats)):
                times = {}
                for precision, scores in right.items():
                    model = regressor(
                        hidden, epochs, matmul_precision=precision, random_state=seed
                    )
                    times[precision] = seconds(model.fit, X[train], S[train])
                    scores.append(zero_shot_scorer(model, X[test], S[test]))
                ratios.append(times["full"] / times["bfloat16"])
            cells = [
                f"{np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"
                for scores in right.values()
            ]
            name = "512 units" if hidden else "linear"
            ratio = statistics.median(ratios)
            print(
                f"| {size} | {name} | {ratio:.2f} | {' | '.join(cells)} |", flush=True
            )


def losses_table(repeats):
    print("ReMSE against MSE, whole fits")
    print("| size | head | batch 256 | batch 1024 | batch 4096 |")
    print("| --- | --- | --- | --- | --- |")
    for size, (*shape, epochs) in SIZES.items():
        X, S = made_up(*shape)
        for hidden in ((), (512,)):
            cells = []
            for batch in (256, 1024, 4096):
                ratios = []
                for repeat in range(2 * repeats):
                    pair = {}
                    # Whoever goes first finds other caches: take turns.
                    for loss in (("mse", "remse"), ("remse", "mse"))[repeat % 2]:
                        model = regressor(hidden, epochs, loss=loss, batch_size=batch)
                        pair[loss] = seconds(model.fit, X, S)
                    ratios.append(pair["remse"] / pair["mse"])
                cells.append(f"{statistics.median(ratios):.2f}")
            name = "512 units" if hidden else "linear"
            print(f"| {size} | {name} | {' | '.join(cells)} |", flush=True)


def others_table(repeats):
    """The same network by scikit-learn (squared error only) and by skorch."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    *shape, epochs = SIZES["CUB"]
    X, S = made_up(*shape)

    def by_sklearn():
        model = MLPRegressor(
            hidden_layer_sizes=(512,),
            batch_size=BATCH,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
            learning_rate_init=1e-3,
            random_state=0,
        )
        with warnings.catch_warnings():
            # So many epochs, and no more, were asked for.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, S)

    model = skorch_model(X, S, epochs)
    _, of_row = np.unique(S, axis=0, return_inverse=True)
    others = {
        "MLPRegressor (no cross-entropy, no dropout)": by_sklearn,
        "skorch, the same training": lambda: model().fit(X, of_row.ravel()),
    }
    print(f"CUB size, 512 units, {epochs} epochs, batch 256")
    print("| other | other, s | ours, s | other / ours | other / ours in bfloat16 |")
    print("| --- | --- | --- | --- | --- |")
    for name, other in others.items():
        rows = []
        for _ in range(repeats):
            ours = seconds(regressor((512,), epochs).fit, X, S)
            theirs = seconds(other)
            half = regressor((512,), epochs, matmul_precision="bfloat16")
            rows.append((theirs, ours, theirs / ours, theirs / seconds(half.fit, X, S)))
        theirs, ours, *ratios = np.median(rows, axis=0)
        ratios = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {name} | {theirs:.2f} | {ours:.2f} | {ratios} |", flush=True)


def skorch_model(X, S, epochs):
    """ReMSE beside cross-entropy as a user of skorch would write it."""
    from skorch import NeuralNetRegressor
    from skorch.callbacks import LRScheduler
    from torch import nn
    from torch.nn import functional as F

    table = np.unique(S, axis=0)
    table = torch.from_numpy((table - table.mean(0)) / table.std(0))
    scale = np.sqrt(X.shape[1])

    class Network(nn.Sequential):
        def __init__(self):
            super().__init__(
                nn.Linear(X.shape[1], 512),
                nn.LeakyReLU(0.1),
                nn.Dropout(0.5),
                nn.Linear(512, S.shape[1]),
            )

        def forward(self, X):
            return super().forward(F.normalize(X) * scale)

    class Criterion(nn.Module):
        def __init__(self):
            super().__init__()
            self.remse = ReMSELoss(n_groups=len(table))
            self.register_buffer("table", table)

        def forward(self, output, group):
            cosine = F.normalize(output) @ F.normalize(self.table).T
            remse = self.remse(output, self.table[group], group)
            return remse + F.cross_entropy(10 * cosine, group)

    class Net(NeuralNetRegressor):
        def check_data(self, X, y):
            """Classes are whole numbers in one dimension, unlike targets."""

    steps = -(-len(X) // BATCH) * epochs

    def new():
        return Net(
            Network,
            criterion=Criterion,
            optimizer=torch.optim.AdamW,
            lr=3e-3,
            batch_size=BATCH,
            max_epochs=epochs,
            iterator_train__shuffle=True,
            train_split=None,
            verbose=0,
            callbacks=[
                LRScheduler(
                    torch.optim.lr_scheduler.OneCycleLR,
                    max_lr=3e-3,
                    total_steps=steps + 1,
                    step_every="batch",
                )
            ],
        )

    return new


def loops_table(repeats):
    """The weights of a batch, against loops per class, attribute and sample."""
    n, (_, _, a, K, _) = BATCH, SIZES["CUB"]
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(n, a, generator=generator)
    group = torch.randint(0, K, (n,), generator=generator)
    target = torch.randn(K, a, generator=generator)[group]
    loss = ReMSELoss(normalize_weights=False)

    def by_loops():
        squared = (pred - target).square()
        classes = sorted(set(group.tolist()))
        error = torch.zeros(len(classes), a)
        for number, of_class in enumerate(classes):
            for row in range(n):
                if group[row] == of_class:
                    error[number] += squared[row]
            error[number] /= (group == of_class).sum()
        weight = torch.zeros(len(classes), a)
        lowest = [error[:, j].min() for j in range(a)]
        for number in range(len(classes)):
            least = error[number].min()
            for j in range(a):
                e = error[number, j]
                weight[number, j] = (1 + (e / lowest[j]).log()) * (
                    1 + (e / least).log()
                )
        total = 0.0
        for row in range(n):
            total += (weight[classes.index(group[row])] * squared[row]).sum()
        return total / (n * a)

    torch.testing.assert_close(loss(pred, target, group), by_loops(), rtol=1e-4, atol=0)
    ratios = []
    for _ in range(repeats):
        ours = seconds(lambda: [loss(pred, target, group) for _ in range(100)]) / 100
        ratios.append(seconds(by_loops) / ours)
    print(
        f"ReMSE of a batch of {n} x {a}: loops per class, attribute and sample take "
        f"{statistics.median(ratios):.0f} times as long"
    )


def growth_table(repeats):
    """How time and memory of a fit grow: slopes of log over log."""
    base = {"n": 8000, "d": 512, "a": 64, "classes": 64}
    print("How a fit of 5 epochs with 512 units grows (log-log slope; 1 is linear)")
    print("| with | from | to | slope of time | slope of memory |")
    print("| --- | --- | --- | --- | --- |")
    for name, first in base.items():
        values = [first, 2 * first, 4 * first, 8 * first]
        points = []
        for value in values:
            shape = tuple({**base, name: value}.values())
            runs = [_in_a_process(shape) for _ in range(max(1, repeats // 2))]
            points.append(np.median(runs, axis=0))
        times, memory = np.log(points).T
        slopes = [np.polyfit(np.log(values), y, 1)[0] for y in (times, memory)]
        print(
            f"| {name} | {values[0]} | {values[-1]} | {slopes[0]:.2f} | "
            f"{slopes[1]:.2f} |",
            flush=True,
        )


def _in_a_process(shape):
    """Seconds, and kB of memory beyond the data, of a fit in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed_fit, (shape, torch.get_num_threads()))


def _timed_fit(shape, threads):
    torch.set_num_threads(threads)
    # What the first fit of a process loads is no growth.
    regressor((8,), 1).fit(*made_up(300, 16, 8, 10))
    X, S = made_up(*shape)
    # Making the data took more memory than the fit may: forget that peak.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    took = seconds(regressor((512,), 5).fit, X, S)
    return took, max(1, _memory("VmHWM") - before)


def _memory(name):
    """kB of resident memory, now (VmRSS) or at most (VmHWM), as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


TABLES = {
    "products": products_table,
    "precision": precision_table,
    "losses": losses_table,
    "others": others_table,
    "loops": loops_table,
    "growth": growth_table,
}

if __name__ == "__main__":
    main()
