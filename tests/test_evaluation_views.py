"""Crops, scales and dense evaluation, against torchvision's and against crops cut by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from PIL import Image, ImageOps
from skimage import data as pictures
from torch import nn

from deepen.data.decode import PictureError
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split
from deepen.errors import InputError
from deepen.evaluation.views import Looks, Views, look, ten_crops, with_geometry
from deepen.models import create_model
from deepen.training.request import Assessing

ASTRONAUT = Image.fromarray(pictures.astronaut()).crop((20, 0, 470, 512))  # upright: 450x512
PHOTO = Preprocessing(
    channels=3,
    size_px=(224, 224),
    resize="shorter",
    resize_px=256,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
CIFAR = Preprocessing(
    channels=3, size_px=(32, 32), resize="none", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)


def on_disk(tmp_path, count: int = 3, bad: int | None = None) -> Split:
    files = []
    for i in range(count):
        path = tmp_path / f"{i}.png"
        ASTRONAUT.rotate(90 * (i % 2), expand=True).resize((150 + 10 * i, 170)).save(path)
        if i == bad:
            path.write_bytes(b"no picture")
        files.append(path)
    labels = np.arange(count) % 2
    return Split("test", labels, tuple(path.name for path in files), files=tuple(files))


def in_memory(count: int = 7) -> Split:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    keys = tuple(map(str, range(count)))
    return Split("test", np.arange(count) % 3, keys, images=images)


def tensors(images) -> torch.Tensor:
    mean, std = PHOTO.mean, PHOTO.std
    made = tv.Compose([tv.ToTensor(), tv.Normalize(mean, std)])
    return torch.stack([made(image) for image in images])


def small_net(px: int = 224) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(px // 8), nn.Flatten(), nn.Linear(3 * 64, 4)).eval()


@pytest.mark.parametrize("upright", [True, False])
def test_ten_crops_are_torchvisions(upright):
    image = ASTRONAUT if upright else ASTRONAUT.rotate(90, expand=True)
    whole = tv.Resize(256)(image)
    expected = tv.TenCrop(224)(whole)
    assert [each.tobytes() for each in ten_crops(whole, (224, 224))] == [
        each.tobytes() for each in expected
    ]
    fitted = Views.of(PHOTO, Looks("10", (256,))).fit(image)
    assert (fitted == np.concatenate([np.asarray(each) for each in expected])).all()


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
def test_ten_crops_are_averaged_as_torchvisions_by_hand(tmp_path, averaging):
    split, net = on_disk(tmp_path), small_net()
    found = look(net, split, PHOTO, Looks("10", (256, 300), averaging), batch_size=64)
    for index, path in enumerate(split.files):
        crops = [c for s in (256, 300) for c in tv.TenCrop(224)(tv.Resize(s)(Image.open(path)))]
        with torch.no_grad():
            logits = net(tensors(crops)).double()
        mean = logits.mean(0) if averaging == "logits" else logits.softmax(1).mean(0).log()
        assert found.logits[index].numpy() == pytest.approx(mean.numpy(), abs=1e-5)
    assert found.indices.tolist() == [0, 1, 2]
    assert not any(part.training for part in net.modules())


def test_144_crops_are_googlenets():
    """Szegedy et al. 2014, section 7: 4 x 3 x 6 x 2, of squares at the left, centre and right."""
    fitted = Views.of(PHOTO, Looks("144")).fit(ASTRONAUT).reshape(144, 224, 224, 3)
    expected = []
    for scale in (256, 288, 320, 352):
        whole = tv.Resize(scale)(ASTRONAUT)
        free = whole.height - scale
        for top in (0, round(free / 2), free):
            square = whole.crop((0, top, scale, top + scale))
            for crop in (*tv.FiveCrop(224)(square), square.resize((224, 224), Image.BILINEAR)):
                expected += [crop, ImageOps.mirror(crop)]
    assert (fitted == np.stack([np.asarray(each) for each in expected])).all()


def test_ten_crops_of_40_px_are_torchvisions_of_a_padded_picture():
    split, net = in_memory(), small_net(32)
    found = look(net, split, CIFAR, Looks("10", border=4), batch_size=16)
    for index, array in enumerate(split.images):
        crops = tv.TenCrop(32)(ImageOps.expand(Image.fromarray(array), 4))
        x = (torch.stack([tv.ToTensor()(crop) for crop in crops]) - 0.5) / 0.25
        with torch.no_grad():
            mean = net(x).double().softmax(1).mean(0).log()
        assert found.logits[index].numpy() == pytest.approx(mean.numpy(), abs=1e-5)
    assert (found.labels.numpy() == split.labels).all()


def test_pieces_of_memory_make_no_difference(monkeypatch):
    split, net = in_memory(), small_net(32)
    whole = look(net, split, CIFAR, Looks("10", border=4), batch_size=16)
    monkeypatch.setattr("deepen.evaluation.views._HELD_BYTES", 2 * 10 * 32 * 32 * 3)
    pieces = look(net, split, CIFAR, Looks("10", border=4), batch_size=16)
    assert torch.equal(pieces.indices, whole.indices)
    torch.testing.assert_close(pieces.logits, whole.logits, rtol=0, atol=1e-6)


def test_one_look_is_the_usual_one(tmp_path):
    split, net = on_disk(tmp_path), small_net()
    usual = look(net, split, PHOTO, Looks(), batch_size=2)
    same = look(net, split, PHOTO, Looks("1", (256,)), batch_size=2)
    torch.testing.assert_close(same.logits.softmax(1), usual.logits.softmax(1))


class Slid(nn.Module):
    """16x16 windows without borders: what it gives for a picture is the mean over its windows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.score = nn.Conv2d(3, 4, 16, stride=8)

    def forward(self, x):
        return self.score(x).mean((2, 3))


def test_dense_is_the_mean_of_crops_by_hand(tmp_path):
    plain = PHOTO.model_copy(update={"size_px": (16, 16), "resize_px": 32})
    split, net = on_disk(tmp_path), Slid().eval()
    found = look(net, split, plain, Looks("dense", (32,), "logits"), batch_size=1)
    for index, path in enumerate(split.files):
        whole = tv.Resize(32)(Image.open(path))
        crops = [
            one.crop((x, y, x + 16, y + 16))
            for one in (whole, ImageOps.mirror(whole))
            for y in range(0, one.height - 15, 8)
            for x in range(0, one.width - 15, 8)
        ]
        with torch.no_grad():
            mean = net(tensors(crops)).mean(0)
        assert found.logits[index].numpy() == pytest.approx(mean.numpy(), abs=1e-5)


def test_a_dense_vgg_of_a_picture_of_its_size_is_a_crop_and_its_mirror():
    torch.manual_seed(0)
    net = create_model("vgg11", num_classes=5).eval()
    image = ASTRONAUT.resize((224, 224))
    split = Split("test", np.zeros(1, np.int64), ("0",), images=np.asarray(image)[None])
    plain = PHOTO.model_copy(update={"resize": "none", "resize_px": None})
    found = look(net, split, plain, Looks("dense", (), "logits"), batch_size=1)
    with torch.no_grad():
        expected = net(tensors([image, ImageOps.mirror(image)])).mean(0)
    assert found.logits[0].numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("crops", ["10", "dense"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_is_named(tmp_path, crops, workers):
    split = on_disk(tmp_path, bad=1)
    net = small_net() if crops == "10" else Slid().eval()
    found = look(net, split, PHOTO, Looks(crops), batch_size=20, workers=workers)
    assert [type(each) for each in found.bad] == [PictureError]
    assert "1.png" in str(found.bad[0])
    assert found.indices.tolist() == [0, 2]
    assert found.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("looks", "count", "words"),
    [
        (Looks(), 1, "one crop: shorter side to 256 px, centre crop 224x224"),
        (Looks("10"), 10, "ten crops of 224x224: shorter side at 256 px, probabilities averaged"),
        (Looks("1", (256, 480), "logits"), 2, "centre crop 224x224: shorter side at 256, 480 px"),
        (Looks("144"), 144, "144 crops of 224x224: shorter side at 256, 288, 320, 352 px"),
        (Looks("dense", (256, 384)), 4, "dense, with mirror images: shorter side at 256, 384 px"),
    ],
)
def test_protocols_say_what_they_are(looks, count, words):
    assert looks.count(PHOTO) == count
    assert looks.describe(PHOTO).startswith(words)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="--scales 200"):
        look(small_net(), on_disk(tmp_path), PHOTO, Looks("10", (200,)), batch_size=1)
    with pytest.raises(InputError, match="--border"):
        look(small_net(32), in_memory(), CIFAR, Looks("10"), batch_size=1)
    with pytest.raises(InputError, match="--shorter-side 100"):
        with_geometry(PHOTO, 100, None)
    changed = with_geometry(PHOTO, 300, "bicubic")
    assert (changed.resize_px, changed.interpolation) == (300, "bicubic")


@pytest.mark.parametrize("fraction", [0.875, 0.95, 0.9, 1.0])
@pytest.mark.parametrize("size", [(450, 512), (301, 277)])
def test_a_crop_fraction_is_timms(fraction, size):
    """Its evaluation transform without the tensors: torchvision's resize and centre crop."""
    create = pytest.importorskip("timm.data").create_transform
    theirs = create((3, 224, 224), interpolation="bicubic", crop_pct=fraction, crop_mode="center")
    image = ASTRONAUT.resize(size)
    for step in theirs.transforms[:2]:  # resize, centre crop
        image = step(image)
    ours = with_geometry(PHOTO, None, "bicubic", fraction)
    assert np.array_equal(ours.fit(ASTRONAUT.resize(size)), np.asarray(image))
    assert f"shorter side to {int(224 / fraction)} px, centre crop 224x224" in ours.describe()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"shorter_side": 256}, "--crop-fraction 0.9: goes not with --shorter-side"),
        ({"scales": (256,)}, "goes not with --scales"),
        ({"crops": "10"}, "goes not with --crops 10"),
        ({"crop_fraction": 0.0}, "--crop-fraction 0: more than 0 and at most 1"),
        ({"crop_fraction": 1.5}, "--crop-fraction 1.5: more than 0"),
        ({"crop_fraction": float("nan")}, "--crop-fraction nan: more than 0"),
    ],
)
def test_a_crop_fraction_goes_with_what_it_means_something_for(words, told):
    with pytest.raises(InputError, match=told):
        Assessing("w", **{"crop_fraction": 0.9, **words})
    Assessing("w", crop_fraction=0.9, crops="10", border=4)
