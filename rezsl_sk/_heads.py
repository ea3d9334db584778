"""Networks from features to attributes: linear, or an MLP.

Heads are tensors during training and two lists of NumPy arrays (`coefs`,
`intercepts`) otherwise, so that a fitted model needs no torch to be unpickled
and no accelerator to predict.
"""

import itertools
import math

import numpy as np
import torch
from torch import nn

NEGATIVE_SLOPE = 0.1  # of the LeakyReLU, as in the public ReZSL code


class Heads(nn.Module):
    """Heads of one shape, trained side by side on the same batches.

    Linear layers with LeakyReLU and dropout between them. Forward and backward
    pass are written out: at the batch sizes used here autograd and the memory
    that it asks for anew at each step cost as much as the matrix products of a
    linear head. The first layers of all heads are one product.

    Layers are kept as (heads, units, n), samples last: with samples first the
    products of a layer of few units, such as 7 attributes, take up to twice as long.

    Parameters
    ----------
    arrays : list of (coefs, intercepts), one for each of m heads
        The l-th of coefs has shape (n_in_l, n_out_l), oriented as in
        scikit-learn's MLPRegressor, the l-th of intercepts (n_out_l,).

    dropout : float, or list of m floats
        Probability with which a hidden unit is dropped in training. Heads with
        equal ones should be neighbours: these share a mask.

    seed : int
        Seed of the dropout masks.

    product_dtype : torch dtype or None
        In which to multiply in forward and backward pass, with hidden layers in it
        too; weights, their gradients and outputs keep the type of the arrays. None:
        that type.
    """

    def __init__(
        self, arrays, *, dropout=0.0, seed=0, device="cpu", product_dtype=None
    ):
        super().__init__()
        device = torch.device(device)
        self.n_heads = len(arrays)
        of_head = [dropout] * len(arrays) if np.isscalar(dropout) else list(dropout)
        self.dropout = of_head
        # nn.Dropout draws from the global generator, which is everybody's.
        self.generator = torch.Generator(device).manual_seed(seed)
        layers = range(len(arrays[0][0]))
        # Stored as (heads, n_out, n_in), the layout in which products are fastest,
        weights = [np.stack([coefs[i].T for coefs, _ in arrays]) for i in layers]
        biases = [np.stack([intercepts[i] for _, intercepts in arrays]) for i in layers]
        parts = [*weights, *biases]
        # one after the other in one vector: one call of the optimiser's kernel.
        vector = np.concatenate([part.ravel() for part in parts])
        # Gradients are filled in by hand.
        self.vector = nn.Parameter(torch.tensor(vector, device=device), False)
        self.vector.grad = torch.zeros_like(self.vector)
        views = _views(self.vector, [part.shape for part in parts])
        self.weights, self.biases = views[: len(layers)], views[len(layers) :]
        self.dtype = self.vector.dtype
        self.product_dtype = product_dtype or self.dtype
        self._memory, self._views = {}, {}

    def parameters_of(self, heads):
        """Parameters of a slice of the heads, as views that carry their gradients."""
        if heads == slice(None) or heads == slice(0, self.n_heads):
            return [self.vector]
        views = []
        for parameter in (*self.weights, *self.biases):
            view = parameter[heads]
            view.grad = parameter.grad[heads]
            views.append(view)
        return views

    def forward(self, X):
        """Outputs (n, heads, a) for X (n, d); in training they serve one backward."""
        n, m, dtype = len(X), self.n_heads, self.product_dtype
        X = self._cast("X", X, dtype)
        self._inputs, self._masks, self._factors = [X], [], []
        last = len(self.weights) - 1
        for layer in range(len(self.weights)):
            weight = self._cast(("w", layer), self.weights[layer], dtype)
            bias = self._cast(("b", layer), self.biases[layer], dtype).unsqueeze(2)
            self._factors.append(weight)
            out = self._buffer(("out", layer), m, weight.shape[1], n)
            if layer == 0:
                rows = weight.flatten(0, 1)
                torch.addmm(bias.flatten(0, 1), rows, X.T, out=out.view(-1, n))
            else:
                torch.baddbmm(bias, weight, X, out=out)
            X = out
            if layer < last:
                nn.functional.leaky_relu_(X, NEGATIVE_SLOPE)
                if self.training and any(self.dropout):
                    self._masks.append(self._draw_masks(layer, X))
                    self._drop(layer, X)
                self._inputs.append(X)
        return self._buffer("output", n, m, X.shape[1], dtype=self.dtype).copy_(
            X.permute(2, 0, 1)
        )

    def backward(self, gradient):
        """From the gradient (n, heads, a) of the outputs to those of the parameters.

        Overwrites them.
        """
        n, m, a = gradient.shape
        gradient = self._buffer("gradient", m, a, n).copy_(gradient.permute(1, 2, 0))
        for layer in reversed(range(len(self.weights))):
            X, weight = self._inputs[layer], self._factors[layer]
            torch.sum(gradient, 2, dtype=self.dtype, out=self.biases[layer].grad)
            product = grad = self.weights[layer].grad
            if self.product_dtype != self.dtype:
                product = self._buffer(("grad", layer), *grad.shape)
            if layer == 0:
                torch.mm(gradient.view(-1, n), X, out=product.view(-1, X.shape[1]))
            else:
                torch.bmm(gradient, X.transpose(1, 2), out=product)
            if product is not grad:
                grad.copy_(product)
            if layer == 0:
                return
            back = self._buffer(("back", layer), *X.shape)
            torch.bmm(weight.transpose(1, 2), gradient, out=back)
            # LeakyReLU keeps signs, so its result tells the slope.
            torch.ops.aten.leaky_relu_backward(
                back, X, NEGATIVE_SLOPE, True, grad_input=back
            )
            if self._masks:
                self._drop(layer - 1, back)
            gradient = back

    def arrays(self):
        """Copies of the weights: for each head (coefs, intercepts), NumPy arrays."""
        weights = [w.detach().cpu().numpy() for w in self.weights]
        biases = [b.detach().cpu().numpy() for b in self.biases]
        return [
            ([w[head].T.copy() for w in weights], [b[head].copy() for b in biases])
            for head in range(self.n_heads)
        ]

    def _buffer(self, name, *shape, dtype=None):
        """Memory that is used again at each step; batches may be shorter."""
        dtype = dtype or self.product_dtype
        if not self.training:
            return self.vector.new_empty(shape, dtype=dtype)
        view = self._views.get((name, shape))
        if view is None:
            size = math.prod(shape)
            memory = self._memory.get(name)
            if memory is None or len(memory) < size:
                memory = self.vector.new_empty(size, dtype=dtype)
                self._memory[name] = memory
                # Those of the smaller memory would keep it.
                self._views = {of: v for of, v in self._views.items() if of[0] != name}
            view = self._views[name, shape] = memory[:size].view(shape)
        return view

    def _cast(self, name, tensor, dtype):
        if tensor.dtype == dtype:
            return tensor
        return self._buffer(name, *tensor.shape, dtype=dtype).copy_(tensor)

    def _draw_masks(self, layer, X):
        """A mask (units, n) for each run of heads with one dropout, or None."""
        size = X.shape[1:]
        draw = None
        masks = []
        for heads, dropout in runs(self.dropout):
            if not dropout:
                masks.append((heads, None))
                continue
            if draw is None:
                draw = uniform_draw(size, X, self.generator)
            out = self._buffer(("mask", layer, heads.start), *size)
            masks.append((heads, dropout_mask(draw, dropout, out)))
        return masks

    def _drop(self, layer, X):
        for heads, mask in self._masks[layer]:
            if mask is not None:
                X[heads].mul_(mask)


def runs(values):
    """Slices of equal neighbours, and their value."""
    start = 0
    for value, equal in itertools.groupby(values):
        stop = start + len(list(equal))
        yield slice(start, stop), value
        start = stop


def _views(vector, shapes):
    """Consecutive parts of a vector, of these shapes; so are their gradients."""
    views, start = [], 0
    for shape in shapes:
        part = slice(start, start + math.prod(shape))
        view = vector.data[part].view(shape)
        view.grad = vector.grad[part].view(shape)
        views.append(view)
        start = part.stop
    return views


def uniform_draw(size, like, generator):
    """A random number for each hidden unit of each sample, and its range.

    On a CPU torch draws Bernoulli numbers one by one, which took longer than the
    matrix product beside it. Four at a time from 64 random bits, at a resolution
    of 1 / 65536, take a tenth of that.

    Returns
    -------
    draw : tensor of shape (units, n), which is `size`
        Of the dtype and on the device of `like`; uniform.

    low, high : float
        Its range.
    """
    if like.device.type != "cpu":
        draw = torch.rand(
            size, device=like.device, generator=generator, dtype=torch.float32
        )
        return draw.to(like.dtype), 0.0, 1.0
    count = math.prod(size)
    words = torch.empty((count + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    draw = words.view(torch.int16)[:count].view(size)
    # Numbers of the mask's type: comparing others takes torch ten times as long.
    return draw.to(like.dtype), -32768.0, 32768.0


def dropout_mask(drawn, dropout, out):
    """Fill `out` (units, n) with 0, or 1 / (1 - dropout) where a unit is kept."""
    draw, low, high = drawn
    limit = low + (1 - dropout) * (high - low)
    return torch.lt(draw, limit, out=out).mul_(1 / (1 - dropout))


def initial_arrays(layer_sizes, dtype, generator):
    """Random starting weights of a head, uniform in ±1/sqrt(n_in).

    Drawn on the CPU in double precision, so that every device and precision
    starts from the same point.

    Parameters
    ----------
    layer_sizes : sequence of int
        Numbers of features, hidden units (any number of layers), attributes.

    dtype : NumPy dtype

    generator : torch.Generator on the CPU

    Returns
    -------
    coefs : list of arrays, the l-th of shape (n_in_l, n_out_l)

    intercepts : list of arrays, the l-th of shape (n_out_l,)
    """
    coefs, intercepts = [], []
    for n_in, n_out in zip(layer_sizes[:-1], layer_sizes[1:], strict=True):
        bound = 1 / math.sqrt(n_in)
        draw = torch.rand(n_in + 1, n_out, generator=generator, dtype=torch.float64)
        draw = draw.mul_(2).sub_(1).mul_(bound).numpy().astype(dtype)
        coefs.append(draw[:-1])
        intercepts.append(draw[-1])
    return coefs, intercepts


def forward_arrays(X, coefs, intercepts):
    """Output of a head without dropout, by NumPy alone.

    Parameters
    ----------
    X : array of shape (n, d)

    coefs, intercepts : of one head, as in :class:`Heads`

    Returns
    -------
    output : array of shape (n, a)
    """
    for layer, (coef, intercept) in enumerate(zip(coefs, intercepts, strict=True)):
        X = X @ coef
        X += intercept
        if layer < len(coefs) - 1:
            np.maximum(X, NEGATIVE_SLOPE * X, out=X)
    return X
