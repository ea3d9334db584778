"""The loop against the public reference's run, its batches and its stopping."""

import contextlib
import threading

import numpy as np
import pytest
import torch

from rezsl_sk import AttentionRegressor, ReZSLRegressor, ReZSLSearchCV
from rezsl_sk._heads import NEGATIVE_SLOPE, Heads, forward_arrays, initial_arrays
from rezsl_sk._training import (
    AutogradTrainee,
    FusedObjective,
    Objective,
    Optimizer,
    Sampler,
    Stopping,
    Trainee,
    held_out_score,
    one_cycle,
    products,
    run_epoch,
    state_to_numpy,
    state_to_torch,
)
from rezsl_sk.baselines import ALE
from rezsl_sk.datasets import make_zero_shot
from rezsl_sk.losses import ReMSELoss


@pytest.mark.parametrize("written_out", [True, False])
def test_sixty_steps_equal_the_public_reference(shared, written_out):
    with np.load(shared / "golden" / "remse_reference.npz") as golden:
        run = {key[2:]: golden[key] for key in golden.files if key.startswith("t_")}
        table = torch.from_numpy(golden["w_attributes"])
    heads = Heads([([run["W0"].T], [run["b0"]])])
    if written_out:
        objective = fused(table, [(1, 0.1)], scale=20.0, normalize=False, l2=True)
    else:
        loss = ReMSELoss(1, 0.1, normalize_weights=False, n_groups=len(table))
        objective = Objective(loss, table, scale=20.0, l2=True)
    optimizer = Optimizer(
        "sgd", [(heads.parameters_of(slice(0, 1)), 0.05, 1e-5)], momentum=0.9
    )
    X, y = torch.from_numpy(run["X"]), torch.from_numpy(run["y"])
    terms = []
    for rows in torch.from_numpy(run["batches"]):
        (epoch,) = run_epoch(Trainee(heads, objective), optimizer, X, y, [rows])
        terms.append((epoch.classification, epoch.regression))
    coefs, intercepts = heads.arrays()[0]
    np.testing.assert_allclose(terms, run["losses"], rtol=1e-3)
    np.testing.assert_allclose(coefs[0].T, run["W"], rtol=1e-3)
    np.testing.assert_allclose(intercepts[0], run["b"], rtol=1e-3)


def fused(table, powers, *, scale=10.0, normalize=True, l2=False, shares=(1.0, 1.0)):
    m = len(powers)
    return FusedObjective(
        table,
        powers=powers,
        normalize_weights=normalize,
        regression_weights=[shares[0]] * m,
        classification_weights=[shares[1]] * m,
        scales=[scale] * m,
        l2=l2,
    )


class SlowHead(torch.nn.Module):
    """One head and its masks, for autograd."""

    def __init__(self, coefs, intercepts, masks=()):
        super().__init__()
        self.weights = torch.nn.ParameterList(map(torch.from_numpy, coefs))
        self.biases = torch.nn.ParameterList(map(torch.from_numpy, intercepts))
        self.masks = masks

    def forward(self, X):
        for layer, (weight, bias) in enumerate(
            zip(self.weights, self.biases, strict=True)
        ):
            X = X @ weight + bias
            if layer < len(self.weights) - 1:
                X = torch.where(X > 0, X, NEGATIVE_SLOPE * X)
                if self.masks:
                    X = X * self.masks[layer]
        return X


@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 5)])
def test_gradients_of_heads_side_by_side_are_those_of_autograd(hidden, normalize, l2):
    generator = torch.Generator().manual_seed(0)
    n, d, a, K, m = 40, 8, 4, 5, 3
    arrays = [initial_arrays((d, *hidden, a), np.float64, generator) for _ in range(m)]
    X = torch.randn(n, d, dtype=torch.float64, generator=generator)
    table = torch.randn(K, a, dtype=torch.float64, generator=generator)
    group = torch.randint(0, K, (n,), generator=generator)
    settings = {
        "powers": [(1.0, 1.0), (0.0, 0.0), (0.5, 2.0)],
        "regression_weights": [1.0, 2.0, 0.0],
        "classification_weights": [1.0, 0.0, 0.5],
        "scales": [10.0, 20.0, 5.0],
    }
    heads = Heads(arrays, dropout=[0.5, 0.0, 0.25], seed=1).train()
    objective = FusedObjective(table, normalize_weights=normalize, l2=l2, **settings)
    trainee = Trainee(heads, objective)
    regression, classification = trainee.gradients(X, group)
    for head in range(m):
        masks = [
            1.0 if mask is None else mask.T
            for layer in heads._masks
            for at, mask in layer
            if at.start <= head < at.stop
        ]
        slow = SlowHead(*arrays[head], masks)
        loss = ReMSELoss(*settings["powers"][head], normalize_weights=normalize)
        expected = Objective(
            loss,
            table,
            regression_weight=settings["regression_weights"][head],
            classification_weight=settings["classification_weights"][head],
            scale=settings["scales"][head],
            l2=l2,
        )
        terms = expected(slow(X), group)
        terms[0].backward()
        total = objective.totals(regression, classification)[head]
        torch.testing.assert_close(total, terms[0].detach())
        ours = heads.parameters_of(head)
        for own, theirs in zip(ours, (*slow.weights, *slow.biases), strict=True):
            gradient = theirs.grad if own.ndim == 1 else theirs.grad.T
            torch.testing.assert_close(own.grad, gradient)


def test_heads_side_by_side_train_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    arrays = initial_arrays((6, 16, 3), np.float64, generator)
    table = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    group = torch.randint(0, 4, (50,), generator=generator)
    X = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    powers, rates = [(1.0, 1.0), (0.0, 0.0)], [1e-2, 3e-2]

    def train(numbers):
        heads = Heads([arrays] * len(numbers), dropout=0.5, seed=3)
        objective = fused(table, [powers[number] for number in numbers])
        groups = [
            (heads.parameters_of(slice(nth, nth + 1)), rates[number], 1e-3)
            for nth, number in enumerate(numbers)
        ]
        optimizer = Optimizer("adamw", groups, schedule=one_cycle(12))
        for _ in range(3):
            batches = torch.arange(50).split(16)
            run_epoch(Trainee(heads, objective), optimizer, X, group, batches)
        return heads.arrays()

    together = train([0, 1])
    for number in range(2):
        (alone,) = train([number])
        for side in range(2):
            for one, other in zip(together[number][side], alone[side], strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["adamw", "sgd"])
def test_optimiser_takes_the_steps_of_torchs(solver):
    start = torch.linspace(-1, 1, 6)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    if solver == "sgd":
        reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.8, weight_decay=0.01)
    else:
        reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        reference, max_lr=0.1, total_steps=20, cycle_momentum=False
    )
    optimizer = Optimizer(
        solver, [([ours], 0.1, 0.01)], momentum=0.8, schedule=one_cycle(20)
    )
    for step in range(20):
        ours.grad = theirs.grad = torch.cos(torch.arange(6.0) + step)
        optimizer.step()
        reference.step()
        if step < 19:
            schedule.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_a_short_run_has_a_constant_rate():
    assert one_cycle(3) is None


def test_batches_may_bring_their_rows_and_classes():
    """As they do from a file: the same steps as by row numbers."""
    generator = torch.Generator().manual_seed(0)
    arrays = initial_arrays((6, 16, 3), np.float32, generator)
    table = torch.randn(4, 3, generator=generator)
    group = torch.randint(0, 4, (50,), generator=generator)
    X = torch.randn(50, 6, generator=generator)
    rows = torch.randperm(50, generator=generator).split(16)

    def train(batches):
        heads = Heads([arrays], dropout=0.5, seed=3)
        trainee = Trainee(heads, fused(table, [(1.0, 1.0)]))
        optimizer = Optimizer("adamw", [(heads.parameters_of(slice(None)), 1e-2, 1e-3)])
        (epoch,) = run_epoch(trainee, optimizer, X, group, batches)
        return epoch, heads.arrays()[0][0]

    by_number, weights = train(rows)
    brought, same = train([(X[batch], group[batch]) for batch in rows])
    assert brought.loss == by_number.loss
    for one, other in zip(same, weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batches_of_any_length_use_the_same_memory_without_harm():
    generator = torch.Generator().manual_seed(0)
    arrays = initial_arrays((6, 16, 3), np.float64, generator)
    table = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    used = Heads([arrays]).train()
    for n in (7, 40, 7, 12, 40):
        X = torch.randn(n, 6, dtype=torch.float64, generator=generator)
        group = torch.randint(0, 4, (n,), generator=generator)
        results = []
        for heads in (used, Heads([arrays]).train()):
            terms = Trainee(heads, fused(table, [(1.0, 1.0)])).gradients(X, group)
            results.append([*terms, heads.vector.grad.clone()])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_any_module_is_trained_by_autograd():
    module = torch.nn.Linear(2, 1, dtype=torch.float64)
    X, group = torch.randn(30, 2, dtype=torch.float64), torch.zeros(30).long()
    target = X @ torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    X = torch.cat([X, target], 1)

    def loss(output, group):
        return output.square().mean()

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, X):
            return self.module(X[:, :2]) - X[:, 2:]

    trainee = AutogradTrainee(Residual(), loss)
    optimizer = Optimizer("adamw", [(list(module.parameters()), 0.1, 0.0)])
    batches = [torch.arange(30)] * 300
    (epoch,) = run_epoch(trainee, optimizer, X, group, batches)
    assert epoch.classification == 0 and epoch.weights is None
    np.testing.assert_allclose(module.weight.detach(), [[2, -1]], atol=1e-2)


def test_shuffled_batches_hold_each_row_once_and_are_seeded():
    def epochs(seed):
        generator = torch.Generator().manual_seed(seed)
        sampler = Sampler(
            torch.zeros(23, dtype=torch.long),
            kind="shuffle",
            batch_size=5,
            ways=1,
            shots=1,
            generator=generator,
        )
        return [torch.cat(sampler.epoch("cpu")) for _ in range(2)]

    first, second = epochs(0)
    assert sorted(first.tolist()) == list(range(23))
    assert not torch.equal(first, second)
    assert torch.equal(first, epochs(0)[0])


def test_episodes_draw_classes_that_have_rows():
    """A table may have classes, first, between and last, of which a part has no row."""
    generator = torch.Generator().manual_seed(0)
    group = torch.tensor([5, 2, 5, 2, 2])
    sampler = Sampler(
        group, kind="episodes", batch_size=None, ways=2, shots=3, generator=generator
    )
    for _ in range(5):
        for rows in sampler.epoch("cpu"):
            assert group[rows].bincount().tolist() == [0, 0, 3, 0, 0, 3]


def test_partial_fit_draws_episodes_of_the_classes_of_its_part():
    """For classes of the table that have no sample here those of others were drawn."""
    rng = np.random.default_rng(0)
    table = np.sort(rng.normal(size=(8, 4)), axis=0)  # rows in the order of classes
    X, S = rng.normal(size=(30, 5)), table[rng.permutation(30) % 3 + 2]
    models = []
    # As given, and without weights: classes without samples have no say.
    for prototypes in (table[2:5], table):
        reg = ReZSLRegressor(
            (),
            loss="mse",
            classification_weight=0,
            attribute_scaling=None,
            sampler="episodes",
            ways=8,
            random_state=0,
        )
        models.append(reg.partial_fit(X, S, prototypes=prototypes))
    np.testing.assert_array_equal(models[0].coefs_[0], models[1].coefs_[0])


def test_an_absent_class_changes_nothing_for_the_others():
    epochs_of = []
    for group in ([0, 1, 0, 2, 1], [1, 3, 1, 6, 3]):
        sampler = Sampler(
            torch.tensor(group),
            kind="episodes",
            batch_size=None,
            ways=2,
            shots=2,
            generator=torch.Generator().manual_seed(0),
        )
        epochs_of.append(torch.stack(sampler.epoch("cpu")))
    assert torch.equal(*epochs_of)


def test_episodes_have_so_many_ways_and_shots():
    group = torch.tensor([0] * 50 + [1] + [2] * 3 + [3] * 6)
    generator = torch.Generator().manual_seed(0)
    sampler = Sampler(
        group, kind="episodes", batch_size=99, ways=3, shots=4, generator=generator
    )
    batches = sampler.epoch("cpu")
    assert len(batches) == sampler.n_batches == 5
    for batch in batches:
        _, count = group[batch].unique(return_counts=True)
        assert count.tolist() == [4, 4, 4]


def test_stopping_keeps_the_best_weights():
    heads = Heads([([np.zeros((1, 1), np.float32)], [np.zeros(1, np.float32)])])
    stopping = Stopping(n_iter_no_change=2, tol=0.1)
    stops = []
    for number, score in enumerate([0.1, 0.5, 0.55, 0.4]):
        heads.biases[0].fill_(number)
        stops.append(stopping.update(score, heads))
    assert stops == [False, False, False, True]
    heads.load_state_dict(stopping.weights)
    assert heads.biases[0].item() == 2


def test_numpy_and_torch_give_the_same_output():
    generator = torch.Generator().manual_seed(0)
    arrays = initial_arrays((6, 5, 4, 3), np.float64, generator)
    X = np.random.default_rng(0).normal(size=(7, 6))
    expected = Heads([arrays]).eval()(torch.from_numpy(X))[:, 0].numpy()
    np.testing.assert_allclose(forward_arrays(X, *arrays), expected, rtol=1e-12)


def test_dropout_keeps_the_mean_and_leaves_the_global_generator_alone():
    width = 20000
    coefs = [np.ones((1, width), np.float32), np.full((width, 1), 1 / width, "f4")]
    intercepts = [np.zeros(width, np.float32), np.zeros(1, np.float32)]
    heads = Heads([(coefs, intercepts)], dropout=0.25, seed=3).train()
    state = torch.random.get_rng_state()
    output = heads(torch.ones(1, 1)).item()
    assert torch.equal(state, torch.random.get_rng_state())
    assert output != 1
    assert output == pytest.approx(1, abs=0.02)


def test_optimiser_state_survives_the_way_through_numpy():
    state = {"a": [torch.arange(3.0), 2], "b": {0: torch.ones(2, 2)}}
    back = state_to_torch(state_to_numpy(state))
    assert torch.equal(back["a"][0], state["a"][0])
    assert torch.equal(back["b"][0], state["b"][0])
    assert back["a"][1] == 2


@pytest.mark.parametrize("m", [1, 3])
def test_products_in_bfloat16_are_those_of_full_precision_but_for_rounding(m):
    rng = torch.Generator().manual_seed(0)
    arrays = [initial_arrays([40, 24, 16, 6], np.float32, rng) for _ in range(m)]
    for _, intercepts in arrays:
        # Half the units on either side of the kink, and all so far from it that
        # rounding changes no slope.
        for intercept, far in zip(intercepts, (9, 60), strict=False):
            intercept += np.where(np.arange(len(intercept)) % 2, far, -far)
    X = torch.randn(50, 40, generator=rng)
    gradient = torch.randn(50, m, 6, generator=rng)
    results = []
    for dtype in (None, torch.bfloat16):
        heads = Heads(arrays, dropout=0.5, seed=0, product_dtype=dtype)
        output = heads(X).clone()
        heads.backward(gradient)
        parameters = (*heads.weights, *heads.biases)
        results.append([output, *(parameter.grad for parameter in parameters)])
    for full, half in zip(*results, strict=True):
        assert half.dtype == torch.float32
        # 8 bits of each factor, over three layers and back
        assert (full - half).norm() < 0.02 * full.norm()
        assert not torch.equal(full, half)


@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_on_for_the_products_alone(fails):
    def setting():
        matmul = torch.backends.cuda.matmul
        return getattr(matmul, "fp32_precision", None) or matmul.allow_tf32

    class Spy(Heads):
        def backward(self, gradient):
            seen.append(setting())
            if fails:
                raise RuntimeError("out of memory")

    seen, before = [], setting()
    table = torch.eye(3)
    heads = Spy([initial_arrays([4, 3], np.float32, torch.Generator().manual_seed(0))])
    trainee = Trainee(heads, fused(table, [(1, 1)]), tf32=True)
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        trainee.gradients(torch.ones(6, 4), torch.arange(6) % 3)
    assert seen[0] in ("tf32", True) and seen[0] != before
    assert setting() == before


def _cuda_precision():
    matmul = torch.backends.cuda.matmul
    return getattr(matmul, "fp32_precision", None) or matmul.allow_tf32


def test_tf32_in_two_threads_is_off_again_after_both():
    before, inside = _cuda_precision(), threading.Barrier(2, timeout=0.2)

    def train():
        for _ in range(3):
            with products(torch.device("cpu"), tf32=True):
                with contextlib.suppress(threading.BrokenBarrierError):
                    inside.wait()  # both are within at once, where that is allowed

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _cuda_precision() == before


def test_full_precision_on_cuda_waits_for_tf32_in_another_thread():
    seen, within = [], threading.Event()

    def train():
        with products(torch.device("cuda")):
            seen.append(_cuda_precision())

    before = _cuda_precision()
    thread = threading.Thread(target=train)
    with products(torch.device("cpu"), tf32=True):
        thread.start()
        within.wait(0.05)
        assert not seen
    thread.join()
    assert seen == [before]


# ---- what the caller has set in torch --------------------------------------------


@contextlib.contextmanager
def _default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
    "default dtype": _default_dtype,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def _fits():
    def regressor(fit="fit", **parameters):
        def fitted(data):
            rows = data.trainval
            reg = ReZSLRegressor(
                (4,), max_iter=2, random_state=0, feature_weight=0.5, **parameters
            )
            getattr(reg, fit)(data.X[rows], data.attributes[data.labels[rows]])
            return reg.coefs_

        return fitted

    def attention(data):
        rows = data.trainval
        reg = AttentionRegressor(max_iter=2, random_state=0)
        reg.fit(data.X[rows][:, None], data.attributes[data.labels[rows]])
        return reg.coefs_

    def search(data):
        rows = data.trainval
        reg = ReZSLRegressor((4,), max_iter=2, random_state=0)
        search = ReZSLSearchCV(reg, {"loss": ["mse", "remse"]}, cv=2, refit=False)
        search.fit(data.X[rows], data.attributes[data.labels[rows]])
        return search.cv_results_["mean_test_score"]

    def ale(data):
        rows = data.trainval
        clf = ALE((data.class_names, data.attributes), max_iter=2, random_state=0)
        return clf.fit(data.X[rows], data.y[rows]).coef_

    return {
        "default": regressor(),
        "mae": regressor(loss="mae"),
        "bmc": regressor(loss="bmc"),
        "running": regressor(statistics="running"),
        "episodes": regressor(sampler="episodes", early_stopping=True),
        "partial": regressor("partial_fit", loss="bmc"),
        "attention": attention,
        "search": search,
        "ale": ale,
    }


@pytest.fixture(scope="module")
def small():
    return make_zero_shot(8, 2, samples_per_class=6, n_features=5, random_state=0)


@pytest.mark.parametrize("fit", _fits().values(), ids=_fits())
def test_a_fit_is_the_same_whatever_the_caller_has_set(fit, small):
    expected = fit(small)
    for name, setting in SETTINGS.items():
        with setting():
            found = fit(small)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert one.dtype == other.dtype


def test_held_out_error_of_directions_knows_no_lengths():
    """With attribute_scaling="l2" lengths of outputs and targets mean nothing."""
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(6, 3)))
    targets, group = torch.from_numpy(rng.normal(size=(6, 2))), torch.arange(6)
    W, b = rng.normal(size=(3, 2)), np.zeros(2)
    score = [
        held_out_score(Heads([([W * s], [b])]), X, group, targets, rank=False, l2=True)
        for s in (1.0, 50.0)
    ]
    unit = [
        a / np.linalg.norm(a, axis=1, keepdims=True)
        for a in (X.numpy() @ W, targets.numpy())
    ]
    expected = -np.mean(np.square(np.asarray(unit[0]) - np.asarray(unit[1])))
    assert score == pytest.approx([expected, expected])
