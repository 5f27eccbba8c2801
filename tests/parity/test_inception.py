"""FID's Inception-v3 against torch-fidelity, pytorch-fid and clean-fid, with random weights.

pip install torch torchvision torch-fidelity pytorch-fid clean-fid pillow
pytest -m slow tests/parity/test_inception.py -s
"""

import io

import inception_oracle
import jax
import numpy as np
import pytest

from gan_jax.metrics import inception
from gan_jax.metrics.torch_file import read_state

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch")
fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
interpolate = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
pytorch_fid = pytest.importorskip("pytorch_fid.inception")
clean_resize = pytest.importorskip("cleanfid.resize")
torchvision = pytest.importorskip("torchvision")

SIZES = [(1, 1), (28, 28), (32, 32), (48, 64), (299, 299), (300, 298), (512, 400), (1024, 1024)]


def torch_state(divisor=1):
    return {k: torch.from_numpy(v) for k, v in inception_oracle.state(divisor).items()}


def saved(value, zipped):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@pytest.fixture(scope="module")
def content():
    return saved(torch_state(), zipped=False)


@pytest.fixture(autouse=True)
def two_images_per_call(monkeypatch):
    monkeypatch.setattr(inception, "_BATCH", 2)


def fidelity_network(tmp_path, features):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(torch_state(), zipped=True))
    return fidelity.FeatureExtractorInceptionV3("any", features, str(path))


def thin_network():
    """torch-fidelity's network with fewer channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        network = fidelity.FeatureExtractorInceptionV3("any", ["2048", "logits_unbiased"])
    for module in network.modules():
        if isinstance(module, fidelity.BasicConv2d):
            conv = module.conv
            thin = [
                n if n == 3 else n // inception_oracle.THIN
                for n in (conv.in_channels, conv.out_channels)
            ]
            module.conv = torch.nn.Conv2d(
                *thin, conv.kernel_size, conv.stride, conv.padding, bias=False
            )
            module.bn = torch.nn.BatchNorm2d(thin[1], eps=module.bn.eps)
    network.fc = torch.nn.Linear(2048 // inception_oracle.THIN, 1008 // inception_oracle.THIN)
    network.load_state_dict(torch_state(inception_oracle.THIN))
    return network.eval()


def outputs(network, x):
    """The outputs of the layers by name, and the result."""
    found = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _m, _x, y, name=name: found.__setitem__(name, y))
    with torch.no_grad():
        result = network(x)
    return found, [y.numpy() for y in result]


def to_torch(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def test_torch_fidelity_layer_by_layer(tmp_path, content):
    x = inception_oracle.images()
    network = fidelity_network(tmp_path, ["2048", "logits_unbiased"])
    theirs, (features, logits) = outputs(network, to_torch(x))
    weights, _ = inception.parse_weights(read_state(content))
    ours = jax.jit(inception.layers)(weights, inception._prepare(x, "legacy"))
    assert set(ours) == set(theirs) - {"AvgPool", "fc"}
    for name in [name for name in theirs if name in ours]:
        y = ours[name]
        worst = np.abs(np.asarray(y).transpose(0, 3, 1, 2) - theirs[name].numpy()).max()
        print(f"{name:14} {list(y.shape)!s:20} {worst:.1e} of {np.abs(y).max():.3g}")
        assert worst < 1e-4
    extractor = inception.extractor(content, resize="legacy", insist=True)
    worst = np.abs(extractor.features(x) - features).max()
    probabilities = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    off = np.abs(extractor.probabilities(x) - probabilities).max()
    print(f"features {worst:.1e} of {features.max():.3g}; probabilities {off:.1e}")
    assert features.std() > 0.3
    assert worst < 1e-4
    assert off < 1e-5


def test_pytorch_fid(monkeypatch, content):
    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: torch_state())
    network = pytorch_fid.InceptionV3([0, 1, 2, 3]).eval()
    x = inception_oracle.images()
    with torch.no_grad():
        theirs = network(to_torch(x).float().div(255))  # as by torchvision's ToTensor
    weights, _ = inception.parse_weights(read_state(content))
    ours = jax.jit(inception.layers)(weights, inception._prepare(x, "legacy_pytorch"))
    for name, y in zip(("MaxPool_1", "MaxPool_2", "Mixed_6e"), theirs, strict=False):
        worst = np.abs(np.asarray(ours[name]).transpose(0, 3, 1, 2) - y.numpy()).max()
        print(f"{name} {worst:.1e}")
        assert worst < 1e-4
    features = inception.extractor(content, resize="legacy_pytorch", insist=True).features(x)
    worst = np.abs(features - theirs[3].numpy()[:, :, 0, 0]).max()
    print(f"features {worst:.1e}")
    assert worst < 1e-4


def test_clean_fid(tmp_path, content):
    # clean-fid's own network is NVIDIA's TorchScript file of the same graph.
    x = inception_oracle.images()
    network = fidelity_network(tmp_path, ["2048"])
    resized = np.stack([clean_resize.build_resizer("clean")(image) for image in x])
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(fidelity, "vassert", lambda *_: None)  # it asks for uint8
        (theirs,) = network(to_torch(resized))
    ours = inception.extractor(content, resize="clean", insist=True).features(x)
    worst = np.abs(ours - theirs.numpy()).max()
    print(f"features {worst:.1e}")
    assert worst < 1e-4


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resizes(size):
    """Differences are in grey levels, of 255. Noise has the largest."""
    x = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    z = to_torch(x).float()
    legacy = interpolate.interpolate_bilinear_2d_like_tensorflow1x(
        z, (299, 299), align_corners=False
    )
    unit = torch.nn.functional.interpolate(
        z / 255, (299, 299), mode="bilinear", align_corners=False
    )
    theirs = {
        "clean": clean_resize.build_resizer("clean")(x[0]),
        "legacy": legacy[0].permute(1, 2, 0).numpy(),
        "legacy_pytorch": 255 * unit[0].permute(1, 2, 0).numpy(),
    }
    for resize, y in theirs.items():
        ours = np.asarray(inception._prepare(x, resize))[0]
        ours = 255 * (ours + 1) / 2 if resize == "legacy_pytorch" else 128 * ours + 128
        worst = np.abs(ours - y).max()
        print(f"{size} {resize} {worst:.1e}")
        assert worst < 1e-3
    y = clean_resize.build_resizer("legacy_pytorch")(x[0])
    assert np.abs(theirs["legacy_pytorch"] - y).max() < 1e-3


def test_grey_images_are_repeated(content):
    x = inception_oracle.images()[..., :1]
    extractor = inception.extractor(content, insist=True)
    np.testing.assert_array_equal(extractor.features(x), extractor.features(x.repeat(3, axis=3)))


def test_each_deviation_from_torchvision_matters(tmp_path):
    """With torchvision's pools in one block, that block's output differs."""
    x = to_torch(inception_oracle.images()[:1])
    reference, _ = outputs(fidelity_network(tmp_path, ["2048"]), x)
    original = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    original.load_state_dict(torch_state())
    original.eval()
    names = [name for name in reference if name.startswith("Mixed")]
    inputs = ["MaxPool_2", *names]
    with torch.no_grad():
        for name, before in zip(names, inputs, strict=False):
            y = getattr(original, name)(reference[before])
            worst = (y - reference[name]).abs().max().item()
            print(f"{name} {worst:.1e}")
            assert (worst > 0.1) == (name not in ("Mixed_6a", "Mixed_7a"))


def test_the_stored_figures():
    _, (features, logits) = outputs(thin_network(), to_torch(inception_oracle.images()))
    log_probabilities = torch.log_softmax(torch.from_numpy(logits), 1).numpy()
    print(features[:, :4].tolist(), log_probabilities[:, :4].tolist())
    np.testing.assert_allclose(features[:, :4], inception_oracle.FEATURES, atol=2e-5)
    np.testing.assert_allclose(
        log_probabilities[:, :4], inception_oracle.LOG_PROBABILITIES, atol=2e-4
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(zipped):
    shared = torch.arange(24.0)
    tensors = {
        "float32": torch.randn(3, 4),
        "strided": torch.randn(5, 6, 7).permute(2, 0, 1)[1:, ::2],
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "shared": shared.view(2, 12)[1],
        "shared_too": shared.view(12, 2).T,
        "expanded": torch.ones(1, 3).expand(4, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        **{
            str(dtype): torch.arange(5).to(dtype)
            for dtype in (
                *(torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8),
                *(torch.uint8, torch.bool),
            )
        },
    }
    state = read_state(saved(tensors, zipped))
    assert list(state) == list(tensors)
    for name, tensor in tensors.items():
        expected = tensor.detach().numpy()
        assert state[name].dtype == expected.dtype
        np.testing.assert_array_equal(state[name], expected)
    network = fidelity.InceptionA(8, 4)
    state = read_state(saved(network.state_dict(), zipped))
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(state[name], tensor.numpy())
    for refused in (network, {"x": torch.ones(2, dtype=torch.bfloat16)}, {"epoch": 3}, [1]):
        with pytest.raises(ValueError, match="not a state dict"):
            read_state(saved(refused, zipped))
