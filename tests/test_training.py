"""The loop against the public reference's run, its batches and its stopping."""

import numpy as np
import pytest
import torch

from rezsl_sk._heads import Head, forward_arrays, initial_arrays
from rezsl_sk._training import (
    Objective,
    Sampler,
    Stopping,
    make_optimizer,
    make_schedule,
    run_epoch,
    state_to_numpy,
    state_to_torch,
)
from rezsl_sk.losses import ReMSELoss


def test_sixty_steps_equal_the_public_reference(shared):
    with np.load(shared / "golden" / "remse_reference.npz") as golden:
        run = {key[2:]: golden[key] for key in golden.files if key.startswith("t_")}
        table = torch.from_numpy(golden["w_attributes"])
    head = Head([run["W0"].T], [run["b0"]])
    loss = ReMSELoss(1, 0.1, normalize_weights=False, n_groups=len(table))
    objective = Objective(loss, table, scale=20.0, l2=True)
    optimizer = make_optimizer(
        "sgd", head, objective, learning_rate=0.05, momentum=0.9, weight_decay=1e-5
    )
    X, y = torch.from_numpy(run["X"]), torch.from_numpy(run["y"])
    terms = []
    for rows in torch.from_numpy(run["batches"]):
        epoch = run_epoch(head, objective, optimizer, None, X, y, [rows])
        terms.append((epoch.classification, epoch.regression))
    coefs, intercepts = head.arrays()
    np.testing.assert_allclose(terms, run["losses"], rtol=1e-3)
    np.testing.assert_allclose(coefs[0].T, run["W"], rtol=1e-3)
    np.testing.assert_allclose(intercepts[0], run["b"], rtol=1e-3)


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
    head = Head([np.zeros((1, 1), np.float32)], [np.zeros(1, np.float32)])
    stopping = Stopping(n_iter_no_change=2, tol=0.1)
    stops = []
    for number, score in enumerate([0.1, 0.5, 0.55, 0.4]):
        with torch.no_grad():
            head.biases[0].fill_(number)
        stops.append(stopping.update(score, head))
    assert stops == [False, False, False, True]
    assert stopping.weights["biases.0"].item() == 2


def test_one_cycle_rises_to_the_rate_given_and_falls_to_almost_nothing():
    head = Head([np.zeros((1, 1), np.float32)], [np.zeros(1, np.float32)])
    optimizer = make_optimizer(
        "adamw",
        head,
        torch.nn.Module(),
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
    )
    schedule = make_schedule(optimizer, "one_cycle", 50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < 50 else None
    assert max(rates) == pytest.approx(0.1, rel=1e-2)
    assert rates[0] < 0.01 and rates[-1] < 0.001


def test_numpy_and_torch_give_the_same_output():
    generator = torch.Generator().manual_seed(0)
    arrays = initial_arrays((6, 5, 4, 3), np.float64, generator)
    X = np.random.default_rng(0).normal(size=(7, 6))
    head = Head(*arrays).eval()
    with torch.no_grad():
        expected = head(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(forward_arrays(X, *arrays), expected, rtol=1e-12)


def test_dropout_keeps_the_mean_and_leaves_the_global_generator_alone():
    width = 20000
    head = Head(
        [np.ones((1, width), np.float32), np.eye(width, 1, dtype=np.float32)],
        [np.zeros(width, np.float32), np.zeros(1, np.float32)],
        dropout=0.25,
        seed=3,
    )
    with torch.no_grad():
        head.weights[1].fill_(1 / width)
    state = torch.random.get_rng_state()
    output = head(torch.ones(1, 1)).item()
    assert torch.equal(state, torch.random.get_rng_state())
    assert output != 1
    assert output == pytest.approx(1, abs=0.02)


def test_optimiser_state_survives_the_way_through_numpy():
    state = {"a": [torch.arange(3.0), 2], "b": {0: torch.ones(2, 2)}}
    back = state_to_torch(state_to_numpy(state))
    assert torch.equal(back["a"][0], state["a"][0])
    assert torch.equal(back["b"][0], state["b"][0])
    assert back["a"][1] == 2
