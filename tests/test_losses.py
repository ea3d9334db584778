"""ReMSE against the public reference, a slow loop, and its own promises."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rezsl_sk import losses
from rezsl_sk.losses import (
    BMCLoss,
    MAELoss,
    MSELoss,
    ReMSELoss,
    RMSELoss,
    remse_loss,
)

POWERS = [("0", "0"), ("1", "0"), ("0", "1"), ("1", "0.1"), ("0.1", "0.75"), ("2", "1")]


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "remse_reference.npz") as file:
        return {key: file[key] for key in file.files}


def _as_tensors(golden, *names):
    return [torch.from_numpy(golden[name]) for name in names]


@pytest.mark.parametrize("p, q", POWERS)
@pytest.mark.parametrize("norm", [0, 1])
def test_weights_and_loss_equal_the_public_reference(golden, norm, p, q):
    pred, table, label = _as_tensors(golden, "w_pred", "w_attributes", "w_labels")
    target = table[label]
    if norm:
        pred, target = F.normalize(pred), F.normalize(target)
    loss = ReMSELoss(float(p), float(q), normalize_weights=False)

    value = loss(pred, target, label)

    weight = torch.full_like(table, math.nan)
    weight[loss.group_] = loss.weight_
    key = f"norm{norm}_p{p}_q{q}"
    np.testing.assert_allclose(weight[label], golden[f"w_{key}"], rtol=1e-5)
    np.testing.assert_allclose(value, golden[f"loss_{key}"], rtol=1e-5)
    expected = golden[f"error_{key}"][loss.group_]
    np.testing.assert_allclose(loss.error_, expected, rtol=1e-5)


@pytest.mark.parametrize("n_groups", [None, 12])
def test_running_statistics_equal_the_public_reference(golden, n_groups):
    table = torch.from_numpy(golden["w_attributes"])
    loss = ReMSELoss(
        1, 0.5, statistics="running", normalize_weights=False, n_groups=n_groups
    )
    for step in range(5):
        pred, label = _as_tensors(golden, f"run{step}_pred", f"run{step}_labels")
        loss(F.normalize(pred), F.normalize(table[label]), label)
        weight = torch.full_like(table, math.nan)
        weight[loss.group_] = loss.weight_
        np.testing.assert_allclose(
            weight[label], golden[f"run{step}_weights"], rtol=1e-4
        )
    seen = loss.running_group[~loss.running_error.isnan().any(1)]
    np.testing.assert_allclose(
        loss.running_error[torch.searchsorted(loss.running_group, seen)],
        golden["run4_error"][seen],
        rtol=1e-5,
    )


def _slow_weights(error, everyone, p, q):
    """W by loops, with quotients: as the formula stands on the page."""
    weight = np.ones_like(error)
    for k in range(error.shape[0]):
        for j in range(error.shape[1]):
            if error[k, j] == 0:
                continue
            column = [row[j] for row in everyone if row[j] > 0]
            line = [value for value in error[k] if value > 0]
            weight[k, j] = (1 + math.log(error[k, j] / min(column))) ** p
            weight[k, j] *= (1 + math.log(error[k, j] / min(line))) ** q
    return weight


def _slow_remse(pred, target, group, p, q, normalize):
    squared = (pred - target) ** 2
    classes = sorted(set(group.tolist()))
    error = np.array([squared[group == k].mean(axis=0) for k in classes])
    weight = _slow_weights(error, error, p, q)
    rows = np.array([weight[classes.index(k)] for k in group.tolist()])
    if normalize:
        rows = rows / rows.mean()
    return rows, rows * squared


batches = st.tuples(
    st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1), st.booleans()
)
powers = st.sampled_from([0, 0.5, 1, 2])


def _batch(n, a, seed, zeros):
    rng = np.random.default_rng(seed)
    pred, target = rng.normal(size=(2, n, a))
    if zeros:  # errors of exactly 0, and classes without any
        target = np.where(rng.random((n, a)) < 0.4, pred, target)
    group = rng.choice([-(2**40), -3, 0, 7, 2**50], size=n)
    return pred, target, group


@settings(max_examples=150, deadline=None)
@given(batches, powers, powers, st.booleans())
def test_equals_a_slow_loop_in_double_precision(batch, p, q, normalize):
    pred, target, group = _batch(*batch)
    weight, weighted = _slow_remse(pred, target, group, p, q, normalize)
    tensors = [torch.from_numpy(array) for array in (pred, target, group)]
    for reduction, expected in [
        ("none", weighted),
        ("mean", weighted.mean()),
        ("sum", weighted.sum()),
    ]:
        value = remse_loss(
            *tensors,
            class_power=p,
            attribute_power=q,
            normalize_weights=normalize and bool(p or q),
            reduction=reduction,
        )
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(batches, powers, powers, st.sampled_from(["mean", "sum"]))
def test_gradient_is_that_of_detached_weights(batch, p, q, reduction):
    pred, target, group = (torch.from_numpy(array) for array in _batch(*batch))
    pred.requires_grad_(), target.requires_grad_()
    loss = ReMSELoss(p, q, reduction=reduction)
    loss(pred, target, group).backward()

    weight = loss.weight_[torch.searchsorted(loss.group_, group)]
    other_pred = pred.detach().clone().requires_grad_()
    other_target = target.detach().clone().requires_grad_()
    weighted = weight * (other_pred - other_target).square()
    getattr(weighted, reduction)().backward()
    torch.testing.assert_close(pred.grad, other_pred.grad)
    torch.testing.assert_close(target.grad, other_target.grad)


@settings(max_examples=50, deadline=None)
@given(batches)
def test_slots_by_sort_give_the_same_statistics(batch):
    pred, _, group = (torch.from_numpy(array) for array in _batch(*batch))
    squared = pred.square()
    slot, of_slot, last = losses._slots_by_sort(group)
    count = losses._count(squared, slot, len(group))
    result = losses._add_up(squared, slot, of_slot, count)
    expected = losses.batch_means(squared, group, None)
    used = int(last) + 1
    assert torch.equal(of_slot[slot], group)
    assert torch.equal(of_slot[:used], expected.group)
    torch.testing.assert_close(result.error[:used], expected.error)
    assert (of_slot[used:] == group.max()).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_powers_0_give_plain_mse_to_the_bit(reduction, statistics):
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 50, 7, generator=generator)
    group = torch.arange(50) % 6
    value = ReMSELoss(0, 0, statistics=statistics, reduction=reduction)(
        pred, target, group
    )
    assert torch.equal(value, F.mse_loss(pred, target, reduction=reduction))


def test_a_perfect_prediction_has_loss_0_and_weight_1():
    target = torch.rand(6, 3)
    loss = ReMSELoss()
    assert loss(target, target, torch.arange(6) % 2) == 0
    assert torch.equal(loss.weight_, torch.ones(2, 3))


def test_errors_at_the_edge_of_single_precision_give_finite_weights():
    pred = torch.tensor([[1e-19, 1e18], [1e-3, 1.0]])
    loss = ReMSELoss()
    assert torch.isfinite(loss(pred, torch.zeros(2, 2), torch.tensor([0, 1])))
    assert torch.isfinite(loss.weight_).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    pred = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    value = remse_loss(pred, torch.zeros_like(pred), torch.arange(8) % 2)
    expected = remse_loss(pred.float(), torch.zeros(8, 3), torch.arange(8) % 2)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


def test_works_under_autocast():
    layer = torch.nn.Linear(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ReMSELoss()(layer(torch.ones(5, 4)), torch.zeros(5, 3), torch.arange(5))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(layer.weight.grad).all()


def test_running_errors_travel_in_the_state_dict():
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 30, 4, generator=generator)
    group = torch.randint(-5, 5, (30,), generator=generator)
    loss = ReMSELoss(statistics="running")
    loss(pred[:20], target[:20], group[:20])
    other = ReMSELoss(statistics="running")
    other.load_state_dict(loss.state_dict())
    values = [one(pred[20:], target[20:], group[20:]) for one in (loss, other)]
    assert torch.equal(*values)
    assert torch.equal(loss.running_error, other.running_error)


def test_an_overflowing_step_does_not_stay_in_the_running_errors():
    loss = ReMSELoss(statistics="running")
    group = torch.tensor([3, 5])
    loss(torch.ones(2, 2), torch.zeros(2, 2), group)
    before = copy.deepcopy(loss.running_error)
    loss(torch.full((2, 2), math.inf), torch.zeros(2, 2), group)
    assert torch.equal(loss.running_error, before)


def test_running_minima_reach_back_to_absent_classes():
    loss = ReMSELoss(1, 0, statistics="running", normalize_weights=False)
    loss(torch.tensor([[1.0]]), torch.zeros(1, 1), torch.tensor([4]))
    loss(torch.tensor([[math.e]]), torch.zeros(1, 1), torch.tensor([9]))
    np.testing.assert_allclose(loss.weight_, [[3.0]], rtol=1e-6)  # 1 + ln(e^2 / 1)


def test_normalised_weights_have_mean_1_over_the_batch():
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(40, 6, generator=generator)
    group = torch.randint(0, 4, (40,), generator=generator)
    loss = ReMSELoss(2, 1)
    loss(pred, torch.zeros_like(pred), group)
    weight = loss.weight_[torch.searchsorted(loss.group_, group)]
    np.testing.assert_allclose(weight.mean(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"class_power": -1}, "class_power must be a finite number of at least 0"),
        ({"attribute_power": math.nan}, "attribute_power must be a finite number"),
        ({"class_power": "1"}, "class_power must be a finite number"),
        ({"statistics": "epoch"}, "statistics must be 'batch' or 'running', got 'ep"),
        ({"reduction": "max"}, "reduction must be one of"),
    ],
)
def test_bad_parameters_are_refused_in_a_sentence(parameters, message):
    with pytest.raises(ValueError, match=message):
        ReMSELoss(**parameters)


@pytest.mark.parametrize(
    "pred, target, group, message",
    [
        ((3, 2), (3, 3), [0, 1, 2], r"shape \(n, a\).*\(3, 2\) and \(3, 3\)"),
        ((3,), (3,), [0, 1, 2], r"shape \(n, a\)"),
        ((0, 2), (0, 2), [], r"n and a at least 1"),
        ((2, 0), (2, 0), [0, 1], r"n and a at least 1"),
        ((3, 2), (3, 2), [0, 1], r"group must have shape \(3,\).*got \(2,\)"),
        ((3, 2), (3, 2), [0.0, 1.0, 2.0], "integer dtype, got torch.float32"),
        ((3, 2), (3, 2), [True, True, False], "integer dtype, got torch.bool"),
    ],
)
@pytest.mark.parametrize("loss", [ReMSELoss, MSELoss, MAELoss, RMSELoss, BMCLoss])
def test_bad_batches_are_refused_in_a_sentence(loss, pred, target, group, message):
    with pytest.raises(ValueError, match=message):
        loss()(torch.zeros(pred), torch.zeros(target), torch.tensor(group))


@pytest.mark.parametrize(
    "pred, target, group, error, message",
    [
        (np.zeros((2, 2)), torch.zeros(2, 2), torch.arange(2), TypeError, "pred.*nda"),
        (torch.zeros(2, 2), [[0, 0]] * 2, torch.arange(2), TypeError, "target.*list"),
        (torch.zeros(2, 2), torch.zeros(2, 2), [0, 1], TypeError, "group.*as_tensor"),
        (torch.zeros(2, 2), torch.zeros(2, 2), np.arange(2), TypeError, "group.*nda"),
        (torch.zeros(2, 2), 1.0, torch.arange(2), TypeError, "target must be a torch"),
        (torch.ones(2, 2).long(), torch.ones(2, 2), torch.arange(2), ValueError, "int"),
        (torch.ones(2, 2) * 1j, torch.ones(2, 2), torch.arange(2), ValueError, "compl"),
        (torch.ones(2, 2), torch.ones(2, 2) * 1j, torch.arange(2), ValueError, "real"),
        (
            torch.zeros(2, 2),
            torch.zeros(2, 2),
            torch.zeros(2, dtype=torch.long, device="meta"),
            ValueError,
            "pred is on cpu and group on meta",
        ),
    ],
)
@pytest.mark.parametrize("loss", [ReMSELoss, MSELoss, MAELoss, RMSELoss, BMCLoss])
def test_other_types_are_refused_in_a_sentence(
    loss, pred, target, group, error, message
):
    with pytest.raises(error, match=message):
        loss()(pred, target, group)


@pytest.mark.parametrize("powers", [(0, 0), (1, 1)])
@pytest.mark.parametrize("group, wrong", [([0, -1], -1), ([3, 0], 3)])
def test_a_group_beyond_n_groups_is_named(powers, group, wrong):
    loss = ReMSELoss(*powers, n_groups=3)
    with pytest.raises(ValueError, match=f"allows groups 0 to 2, got {wrong};"):
        loss(torch.zeros(2, 2), torch.ones(2, 2), torch.tensor(group))


@pytest.mark.parametrize("n_groups", [0, -3, 2.0, True, "3"])
def test_a_number_of_groups_that_is_none_is_refused(n_groups):
    with pytest.raises(ValueError, match="n_groups must be a whole number"):
        ReMSELoss(n_groups=n_groups)


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf, "1", None])
def test_a_noise_that_is_none_is_refused(sigma):
    with pytest.raises(ValueError, match="init_noise_sigma must be a finite number"):
        BMCLoss(sigma)


# ---- derivatives of higher order -------------------------------------------------

ALL_LOSSES = [
    ReMSELoss(1, 0.5),
    ReMSELoss(1, 0.5, normalize_weights=False, reduction="sum"),
    ReMSELoss(2, 1, statistics="running"),
    ReMSELoss(0, 0),
    MSELoss(),
    MAELoss(),
    RMSELoss(),
    BMCLoss(0.7),
]


# Forward mode compiles with what torch itself calls deprecated (seen in torch 2.13).
FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def _frozen(loss, pred, target, group):
    """The loss with its weights at these points as constants, by plain operations."""
    loss = copy.deepcopy(loss)
    with torch.no_grad():
        loss(pred, target, group)
    if isinstance(loss, ReMSELoss):
        weight = loss.weight_[torch.searchsorted(loss.group_, group)].clone()
        last = torch.sum if loss.reduction == "sum" else torch.mean
        return lambda p, t: last(weight * (p - t) ** 2)
    if isinstance(loss, MSELoss):
        return lambda p, t: ((p - t) ** 2).mean()
    if isinstance(loss, MAELoss):
        return lambda p, t: (p - t).abs().mean()
    if isinstance(loss, RMSELoss):
        return lambda p, t: ((p - t) ** 2).mean() ** 0.5
    variance = loss.noise_sigma.item() ** 2

    def balanced(p, t):
        distance = (p[:, None] - t[None]).square().sum(2)
        logits = -distance / (2 * variance)
        return -2 * variance * logits.log_softmax(1).diagonal().mean()

    return balanced


@pytest.fixture
def small_batch():
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(
        2, 6, 3, generator=generator, dtype=torch.float64
    ).unbind()
    return pred, target, torch.tensor([4, 0, 4, -2, 0, 4])


@FORWARD_MODE
@pytest.mark.parametrize("loss", ALL_LOSSES, ids=repr)
def test_derivatives_of_any_order_hold_the_weights_constant(loss, small_batch):
    pred, target, group = small_batch
    frozen = _frozen(loss, pred, target, group)

    def mine(p, t):
        return copy.deepcopy(loss)(p, t, group)

    for derivative in (
        torch.func.grad,
        torch.func.jacrev,
        torch.func.jacfwd,
        torch.func.hessian,
        lambda f: torch.func.jacrev(torch.func.jacrev(f)),
    ):
        for f, expected, at in [
            (lambda p: mine(p, target), lambda p: frozen(p, target), pred),
            (lambda t: mine(pred, t), lambda t: frozen(pred, t), target),
        ]:
            torch.testing.assert_close(derivative(f)(at), derivative(expected)(at))


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=repr)
def test_a_gradient_penalty_has_its_gradient(loss, small_batch):
    pred, target, group = small_batch

    def penalty(f):
        p = pred.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(p, target), p, create_graph=True)
        value = slope.square().sum()
        if value.requires_grad:
            value.backward()
        return value.detach(), p.grad

    values = penalty(lambda p, t: copy.deepcopy(loss)(p, t, group))
    expected = penalty(_frozen(loss, pred, target, group))
    torch.testing.assert_close(values[0], expected[0])
    zero = torch.zeros_like(pred)
    torch.testing.assert_close(
        *(zero if v[1] is None else v[1] for v in (values, expected))
    )


def test_the_hessian_is_that_of_weighted_squares(small_batch):
    pred, target, group = small_batch
    loss = ReMSELoss()
    hessian = torch.autograd.functional.hessian(
        lambda p: loss(p, target, group), pred
    ).reshape(18, 18)
    weight = loss.weight_[torch.searchsorted(loss.group_, group)]
    torch.testing.assert_close(hessian, torch.diag(weight.flatten() * 2 / 18))


@pytest.mark.parametrize(
    "loss",
    [one for one in ALL_LOSSES if getattr(one, "statistics", "") != "running"],
    ids=repr,
)
def test_vmap_over_models_and_over_batches_equals_a_loop(loss, small_batch):
    pred, target, group = small_batch
    preds = torch.stack([pred, target, pred + 1, 2 * pred])  # one has no error
    groups = torch.stack([group, group.flip(0), group.roll(1), 0 * group])
    for in_dims, batches in [
        ((0, None, None), [(p, target, group) for p in preds]),
        ((0, None, 0), [(p, target, g) for p, g in zip(preds, groups, strict=True)]),
        ((None, 0, 0), [(pred, p, g) for p, g in zip(preds, groups, strict=True)]),
    ]:
        arguments = [
            torch.stack(column) if dim == 0 else column[0]
            for column, dim in zip(zip(*batches, strict=True), in_dims, strict=True)
        ]
        found = torch.vmap(loss, in_dims)(*arguments)
        expected = torch.stack([loss(*batch) for batch in batches])
        torch.testing.assert_close(found, expected)


def test_running_statistics_under_vmap_are_refused(small_batch):
    pred, target, group = small_batch
    loss = ReMSELoss(statistics="running")
    with pytest.raises(ValueError, match="vmap does not have"):
        torch.vmap(loss, (0, None, None))(pred[None], target, group)


def test_what_a_transform_saw_can_be_read_after_it(small_batch):
    pred, target, group = small_batch
    plain, transformed = ReMSELoss(), ReMSELoss()
    plain(pred, target, group)
    torch.func.grad(transformed)(pred, target, group)
    assert torch.equal(transformed.weight_, plain.weight_)
    torch.vmap(transformed, (0, None, None))(pred[None], target, group)
    with pytest.raises(RuntimeError, match="has not seen a batch"):
        _ = transformed.weight_


def test_in_eval_mode_running_errors_are_compared_with_and_stay():
    loss = ReMSELoss(1, 0, statistics="running", normalize_weights=False)
    loss(torch.tensor([[1.0]]), torch.zeros(1, 1), torch.tensor([4]))
    before = copy.deepcopy(loss.state_dict())
    loss.eval()
    for group in (4, 9, -3):
        loss(torch.tensor([[math.e]]), torch.zeros(1, 1), torch.tensor([group]))
        # Class 4 is compared with its own latest error alone.
        expected = 1.0 if group == 4 else 3.0
        np.testing.assert_allclose(loss.weight_, [[expected]], rtol=1e-6)
    for name, buffer in loss.state_dict().items():
        assert torch.equal(buffer, before[name])
    loss.train()(torch.tensor([[2.0]]), torch.zeros(1, 1), torch.tensor([4]))
    assert loss.running_error.item() == 4


def test_another_number_of_attributes_is_refused_by_running_statistics():
    loss = ReMSELoss(statistics="running")
    loss(torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="3 attributes, got a batch with 2"):
        loss(torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]))


def test_diagnosis_before_the_first_batch_says_so():
    with pytest.raises(RuntimeError, match="has not seen a batch"):
        _ = ReMSELoss().error_


def test_plain_losses_equal_their_formulas():
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(2, 9, 4))
    batch = torch.from_numpy(pred), torch.from_numpy(target), torch.arange(9)
    difference = pred - target
    for loss, expected in [
        (MSELoss(), (difference**2).mean()),
        (MAELoss(), np.abs(difference).mean()),
        (RMSELoss(), np.sqrt((difference**2).mean())),
    ]:
        np.testing.assert_allclose(loss(*batch), expected, rtol=1e-12)


def test_rmse_has_a_finite_gradient_at_0():
    pred = torch.zeros(2, 2, requires_grad=True)
    RMSELoss()(pred, torch.zeros(2, 2), torch.arange(2)).backward()
    assert torch.equal(pred.grad, torch.zeros(2, 2))


def test_balanced_mse_does_not_hang_on_the_default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert BMCLoss().noise_sigma.dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def test_balanced_mse_keeps_its_digits_far_from_the_origin():
    pred, target = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    near = BMCLoss()(pred, target, torch.arange(8))
    far = BMCLoss()(pred + 4096, target + 4096, torch.arange(8))
    torch.testing.assert_close(far, near, rtol=1e-3, atol=0)


def test_balanced_mse_equals_a_slow_loop_and_learns_its_noise():
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(2, 6, 3))
    sigma = 0.7
    total = 0.0
    for i in range(6):
        likelihood = [
            math.exp(-((pred[i] - target[j]) ** 2).sum() / (2 * sigma**2))
            for j in range(6)
        ]
        total -= math.log(likelihood[i] / sum(likelihood))
    expected = total / 6 * 2 * sigma**2

    loss = BMCLoss(sigma)
    value = loss(torch.from_numpy(pred), torch.from_numpy(target), torch.arange(6))
    value.backward()
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-6)
    assert loss.noise_sigma.grad != 0
