"""Other heads beside the default ones, on development splits.

``python benchmarks/study_heads.py ROOT DATASET... [--unseen FILE]`` takes the splits of
``study_decoding.py`` (classes of the *training* classes; the test classes are not read)
and prints T1, the mean over splits, beside the difference to the default estimator with
a 95 % bootstrap interval, and the seconds of a fit.

three networks
    Their scores are averaged, in place of one network's.
learned prototypes
    An MLP g from attributes to the space of the features, class-normalised, trained by
    cross-entropy over cos(f, g(s)): alone (the baseline of that name), or trained
    together with the network, whose hidden layer h is then compared with g(s). Scores
    of the sides are z-scored per sample; "thirds" is the mean of all three.
closed-form ReMSE
    A linear head without cross-entropy is, for fixed weights, a weighted ridge
    regression per attribute; weights and coefficients take turns until the weights
    stay. One Gram matrix per class; left out where those of all classes take more than
    1 GiB (emoji).

``--few`` instead draws 5 to 30 of the training classes of each split, and prints T1 by
the share of the feature side.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import nn
from torch.nn import functional as F

from rezsl_sk._heads import initial_arrays
from rezsl_sk._scaling import class_sums
from rezsl_sk._training import Sampler, auto_batch_size, one_cycle
from rezsl_sk.baselines import ClassNormalizedEmbedding
from rezsl_sk.decoding import prototype_scores
from rezsl_sk.losses import ReMSELoss
from rezsl_sk.metrics import mean_per_class_accuracy

sys.path.insert(0, str(Path(__file__).parent))
from study_decoding import benchmark, fitted  # noqa: E402

REFERENCE = "default"
SHARE = 0.67
MOST_GRAM = 1 << 28  # numbers in the Gram matrices of all classes
FEW = (5, 7, 10, 15, 20, 30)
SHARES = (0.0, 0.2, 0.33, 0.5, 0.67, 0.8, 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder in xlsa17 layout")
    parser.add_argument("datasets", nargs="+", help="folders in ROOT, or caches (.h5)")
    parser.add_argument("--unseen", help="CSV of class, split for a cache without")
    parser.add_argument("--class-splits", type=int, default=10)
    parser.add_argument("--max-per-class", type=int)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--few", action="store_true", help="few seen classes, instead")
    args = parser.parse_args()
    for name in args.datasets:
        data = benchmark.load(args.root, name, args.unseen)
        rows = Parallel(args.jobs)(
            delayed(few_classes if args.few else one_split)(
                data, number, args.max_per_class
            )
            for number in range(args.class_splits)
        )
        print(f"\n### {data.name}: T1 on {args.class_splits} development splits\n")
        show_few(rows) if args.few else show(rows)


def show(rows):
    print("| | T1 | less the default | seconds |\n| --- | --- | --- | --- |")
    reference = np.array([[row[REFERENCE][0]] for row in rows])
    for variant in rows[0]:
        T1, seconds = np.array([row[variant] for row in rows]).T
        mean, low, high = benchmark.paired_difference(T1[:, None], reference)
        interval = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        print(f"| {variant} | {T1.mean():.3f} | {interval} | {seconds.mean():.1f} |")


def show_few(rows):
    print("| seen classes |", " | ".join(map(str, SHARES)), "|")
    print("| --- |" + " --- |" * len(SHARES))
    for k in FEW:
        found = np.array([row[k] for row in rows if k in row])
        if not len(found):
            continue
        reference = found[:, [SHARES.index(SHARE)]]
        cells = []
        for nth in range(len(SHARES)):
            mean, low, high = benchmark.paired_difference(found[:, [nth]], reference)
            cells.append(
                f"{found[:, nth].mean():.3f} ({mean:+.3f} [{low:+.3f}, {high:+.3f}])"
            )
        print(f"| {k} |", " | ".join(cells), "|", flush=True)


def prepared(data, number, max_per_class):
    """Training rows, class numbers, prototypes; unseen rows, truth, prototypes."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*cannot be told apart")  # true of the data
    split = benchmark.development_split(data, number, max_per_class)
    seen, group = np.unique(data.labels[split.train], return_inverse=True)
    unseen, truth = np.unique(data.labels[split.test_unseen], return_inverse=True)
    return (
        data.X[split.train],
        group,
        data.attributes[seen],
        data.X[split.test_unseen],
        truth,
        data.attributes[unseen],
    )


def few_classes(data, number, max_per_class):
    """T1 by share of the feature side, for some numbers of classes: {k: [T1]}."""
    X, group, S, X_test, truth, P = prepared(data, number, max_per_class)
    order, found = np.random.default_rng(1000 + number).permutation(len(S)), {}
    for k in FEW:
        if k > len(S):
            continue
        kept = np.sort(order[:k])
        rows = np.isin(group, kept)
        reg = fitted(X[rows], S[kept], np.searchsorted(kept, group[rows]))
        found[k] = [
            mean_per_class_accuracy(truth, sided(reg, X_test, P, w).argmax(1))
            for w in SHARES
        ]
    return found


def one_split(data, number, max_per_class):
    """T1 and seconds of every variant on one development split."""
    X, group, S, X_test, truth, P = prepared(data, number, max_per_class)
    found = {}

    def note(variant, scores, seconds):
        found[variant] = (
            mean_per_class_accuracy(truth, scores.argmax(axis=1)),
            seconds,
        )

    start = time.perf_counter()
    reg = fitted(X, S, group)
    seconds = time.perf_counter() - start
    note(REFERENCE, reg._scores(X_test, P), seconds)
    by_features = standard(sided(reg, X_test, P, 1.0))
    by_attributes = [standard(sided(reg, X_test, P, 0.0))]
    for seed in (1, 2):
        other = fitted(X, S, group, random_state=seed, feature_weight=0.0)
        by_attributes.append(standard(other._scores(X_test, P)))
    network = standard(np.mean(by_attributes, axis=0))
    note("three networks", mixed(network, by_features), 0.0)

    names = np.arange(len(S) + len(P))
    start = time.perf_counter()
    embedding = ClassNormalizedEmbedding(
        (names, np.concatenate([S, P])),
        hidden_layer_sizes=(512, 512),
        feature_scaling="l2",
        random_state=0,
        device="cpu",
    ).fit(X, group)
    seconds = time.perf_counter() - start
    learned = standard(embedding.scorer(P)(X_test))
    note("learned prototypes alone", learned, seconds)
    thirds = by_attributes[0] + by_features + learned
    note("learned prototypes, thirds", thirds, seconds)

    x, x_test = reg._features.transform(X), reg._features.transform(X_test)
    Z, Z_test = reg._space.transform(S), reg._space.transform(P)
    start = time.perf_counter()
    joint = train_jointly(x, group, Z)
    seconds = time.perf_counter() - start
    attributes, learned = (standard(part) for part in joint.scores(x_test, Z_test))
    note("trained together: attributes", mixed(attributes, by_features), seconds)
    note("trained together: prototypes", mixed(attributes, learned), seconds)
    note("trained together: thirds", attributes + by_features + learned, seconds)

    for variant, parameters in {
        "linear head": {},
        "linear head, no cross-entropy": {"classification_weight": 0.0},
    }.items():
        start = time.perf_counter()
        linear = fitted(
            X, S, group, hidden_layer_sizes=(), feature_weight=0.0, **parameters
        )
        seconds = time.perf_counter() - start
        scores = standard(linear._scores(X_test, P))
        note(f"{variant}: attributes alone", scores, seconds)
        note(f"{variant}: both sides", mixed(scores, by_features), seconds)
    note("default: attributes alone", by_attributes[0], 0.0)
    if len(S) * x.shape[1] ** 2 > MOST_GRAM:
        return found
    for rounds in (1, 10):
        start = time.perf_counter()
        coef, intercept = closed_form(x, group, Z, rounds=rounds)
        seconds = time.perf_counter() - start
        scores = standard(prototype_scores(x_test @ coef + intercept, Z_test))
        name = "closed-form ReMSE" if rounds > 1 else "closed-form MSE"
        note(f"{name}: attributes alone", scores, seconds)
        note(f"{name}: both sides", mixed(scores, by_features), seconds)
    return found


def sided(reg, X, P, share):
    reg.feature_weight_ = share
    return reg._scores(X, P)


def standard(scores):
    return (scores - scores.mean(axis=1, keepdims=True)) / scores.std(
        axis=1, keepdims=True
    )


def mixed(by_attributes, by_features):
    return (1 - SHARE) * by_attributes + SHARE * by_features


# ---- joint training -----------------------------------------------------------------


class Joint(nn.Module):
    """A trunk h with an attribute head, and class embeddings g in the space of h."""

    def __init__(self, n_features, Z, hidden=512, dropout=0.5):
        super().__init__()
        generator, dtype = torch.Generator().manual_seed(0), Z.dtype
        a = Z.shape[1]
        coefs, biases = initial_arrays((n_features, hidden, a), dtype, generator)
        to_class, _ = initial_arrays((a, hidden, hidden), dtype, generator)
        self.network = nn.ParameterList(
            torch.tensor(array) for array in (*coefs, *biases)
        )
        self.embedding = nn.ParameterList(
            torch.tensor(array)
            for array in (
                *to_class,
                np.zeros(hidden, dtype=dtype),
                np.zeros(hidden, dtype=dtype),
            )
        )
        self.dropout = dropout
        self.register_buffer("Z", torch.from_numpy(Z))

    def forward(self, x):
        first, last, first_bias, last_bias = self.network
        h = F.leaky_relu(x @ first + first_bias, 0.1)
        h = F.dropout(h, self.dropout, self.training)
        return h, h @ last + last_bias

    def classes(self, Z):
        first, last, first_bias, last_bias = self.embedding
        seen, new = self.Z @ first + first_bias, Z @ first + first_bias
        mean, std = seen.mean(0), seen.std(0, correction=0) + 1e-5
        seen, new = ((seen - mean) / std).relu(), ((new - mean) / std).relu()
        mean, std = seen.mean(0), seen.std(0, correction=0) + 1e-5
        return F.normalize((new - mean) / std @ last + last_bias)

    @torch.no_grad()
    def scores(self, x, Z):
        h, output = self(torch.from_numpy(x))
        learned = F.normalize(h) @ self.classes(torch.from_numpy(Z)).T
        return prototype_scores(output.numpy(), Z), learned.numpy()


def train_jointly(x, group, Z, epochs=20):
    """ReMSE and its cross-entropy as in the default, and CE(25 cos(h, g(s)))."""
    torch.manual_seed(0)
    model = Joint(x.shape[1], Z).train()
    loss = ReMSELoss(n_groups=len(Z))
    x, group, targets = map(torch.from_numpy, (x, group, Z))
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.network), "lr": 3e-3},
            {"params": list(model.embedding), "lr": 1e-3},
        ],
        weight_decay=1e-4,
    )
    sampler = Sampler(
        group,
        kind="shuffle",
        batch_size=auto_batch_size(len(x)),
        ways=1,
        shots=1,
        generator=torch.Generator().manual_seed(0),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, one_cycle(epochs * sampler.n_batches)
    )
    directions = F.normalize(targets)
    for _ in range(epochs):
        for batch in sampler.epoch(x.device):
            k = group[batch]
            h, output = model(x[batch])
            total = loss(output, targets[k], k)
            cosine = F.normalize(output) @ directions.T
            total = total + F.cross_entropy(10 * cosine, k)
            cosine = F.normalize(h) @ model.classes(model.Z).T
            total = total + F.cross_entropy(25 * cosine, k)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


# ---- closed-form ReMSE --------------------------------------------------------------


def closed_form(x, group, Z, rounds=10, penalty=0.3, tol=1e-2):
    """A linear head under ReMSE by re-weighted ridge regressions.

    Parameters
    ----------
    x : array of shape (n, d)

    group : array of shape (n,), the rows' classes

    Z : array of shape (K, a), the classes' attributes in the space of training

    Returns
    -------
    coef, intercept : arrays of shape (d, a) and (a,)
    """
    x = np.column_stack([x, np.ones(len(x), dtype=x.dtype)])
    n, d = x.shape
    K, a = Z.shape
    count = np.bincount(group, minlength=K)
    sums = class_sums(x, group, K)
    grams = np.stack([x[group == k].T @ x[group == k] for k in range(K)])
    ridge = np.full(d, penalty * n, dtype=x.dtype)
    ridge[-1] = 1e-6 * n  # the intercept goes free
    weights, coef = np.ones((K, a), dtype=x.dtype), np.empty((d, a), dtype=x.dtype)
    for nth in range(rounds):
        for j, w in enumerate(weights.T):
            A = np.tensordot(w, grams, 1)
            A[np.diag_indices(d)] += ridge
            coef[:, j] = np.linalg.solve(A, sums.T @ (w * Z[:, j]))
        E = class_sums(np.square(x @ coef - Z[group]), group, K) / count[:, None]
        new = (1 + np.log(E / E.min(axis=0))) * (
            1 + np.log(E / E.min(axis=1, keepdims=True))
        )
        new = (new / np.average(new, axis=0, weights=count).mean()).astype(x.dtype)
        change = np.abs(new - weights).max() / new.max()
        # Undamped, weights of small errors swing from round to round.
        weights = new if nth < 3 else (weights + new) / 2
        if change < tol:
            break
    return coef[:-1], coef[-1]


if __name__ == "__main__":
    main()
