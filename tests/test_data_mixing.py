"""Mixup and CutMix: the formula, SciPy's Beta, timm's boxes, any split of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy import stats
from timm.data.mixup import rand_bbox

from deepen.data.loader import Batches
from deepen.data.mixing import Mixing, mix
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split

K = 5


def mixed(mixing: Mixing, kept: torch.Tensor, asked: torch.Tensor | None = None, size=(8, 6)):
    """Picture i is full of the number i and of class i modulo K."""
    images = kept.float().view(-1, 1, 1, 1).expand(-1, 2, *size)
    images = images.contiguous(memory_format=torch.channels_last)
    asked = kept if asked is None else asked
    return mix(mixing, images, kept % K, kept, asked, num_classes=K, seed=3, epoch=1)


def test_mixup_is_the_formula_of_the_paper():
    kept = torch.arange(10, 410)
    out = mixed(Mixing(mixup=0.4), kept)
    own, other = kept.float(), (kept ^ 1).float()
    share = (out.images[:, 0, 0, 0] - other) / (own - other)
    assert out.images.is_contiguous(memory_format=torch.channels_last)
    assert (out.images == out.images[:, :1, :1, :1]).all()
    torch.testing.assert_close(share[::2], share[1::2], atol=1e-3, rtol=0)
    one_hot = torch.eye(K)
    expected = share[:, None] * one_hot[kept % K] + (1 - share)[:, None] * one_hot[(kept ^ 1) % K]
    torch.testing.assert_close(out.shares, expected, atol=1e-3, rtol=0)
    assert torch.equal(out.labels, out.shares.argmax(1))


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    out = mixed(Mixing(mixup=alpha), torch.arange(0, 8000))
    place = torch.arange(8000) % K
    share = out.shares[torch.arange(8000), place][::2].double().numpy()
    # In float32 as well: with alpha 0.1 every twelfth is 1 there.
    theirs = stats.beta(alpha, alpha).rvs(40_000, random_state=0).astype(np.float32)
    result: Any = stats.ks_2samp(share, theirs)
    assert result.pvalue > 1e-3


def test_boxes_are_cut_as_yun_et_al_do():
    """One box a picture, out of its partner; the share is the exact area outside it."""
    size = (20, 30)
    kept = torch.arange(0, 4000)
    out = mixed(Mixing(cutmix=1.0), kept, size=size)
    pasted = out.images[:, 0] == (kept ^ 1)[:, None, None]
    assert (pasted | (out.images[:, 0] == kept[:, None, None])).all()
    height = pasted.any(2).sum(1)
    width = pasted.any(1).sum(1)
    area = pasted.flatten(1).sum(1)
    assert torch.equal(area, height * width)  # one whole box
    share = out.shares[torch.arange(4000), kept % K].double()
    torch.testing.assert_close(share, 1 - area.double() / 600, atol=1e-6, rtol=0)
    assert torch.equal(pasted[::2], pasted[1::2])  # one draw a pair
    rng = np.random.RandomState(0)
    theirs = []
    for ratio in rng.beta(1.0, 1.0, 4000):
        np.random.seed(rng.randint(2**31))  # timm draws from the global one
        top, bottom, left, right = rand_bbox((1, 1, *size), ratio)
        whole = (bottom - top) * (right - left) > 0  # a box without width shows no height
        theirs.append((whole * (bottom - top), whole * (right - left)))
    for mine, other in zip((height, width), np.array(theirs).T, strict=True):
        result: Any = stats.ks_2samp(mine[::2].numpy(), other)
        assert result.pvalue > 1e-3


def test_probability_and_switch():
    kept = torch.arange(0, 8000)
    out = mixed(Mixing(mixup=1.0, cutmix=1.0, probability=0.6, switch=0.25), kept)
    first = out.images[::2, 0].flatten(1)
    whole = (first == kept[::2, None]).all(1)
    constant = (first == first[:, :1]).all(1)
    # A box may also be of no size: half a pixel or less. That is rare.
    assert abs(int(whole.sum()) - 0.4 * 4000) < 150
    assert abs(int((~constant).sum()) - 0.6 * 0.25 * 4000) < 120
    assert torch.equal(
        mixed(Mixing(mixup=1.0, probability=0), kept).images[:, 0, 0, 0], kept.float()
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"mixup": -0.1},
        {"cutmix": -0.1},
        {"mixup": float("nan")},
        {"cutmix": float("inf")},
        {"probability": 1.5},
        {"switch": -0.5},
        {"mixups": 1.0},
    ],
)
def test_impossible_mixing(fields):
    with pytest.raises(ValidationError):
        Mixing(**fields)
    assert not Mixing().active
    assert Mixing(cutmix=0.1).active


@given(st.integers(1, 12), st.integers(0, 6), st.sets(st.integers(0, 11)))
def test_no_split_of_a_batch_and_no_missing_picture_changes_the_others(count, pairs, missing):
    mixing = Mixing(mixup=0.4, cutmix=1.0)
    asked = torch.tensor([7, 3, 11, 0, 9, 4, 2, 25, 31, 14, 8, 1])[:count]
    whole = mixed(mixing, asked)
    cut = min(2 * pairs, count)
    parts = [mixed(mixing, part) for part in (asked[:cut], asked[cut:]) if len(part)]
    assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
    assert torch.equal(torch.cat([p.shares for p in parts]), whole.shares)
    stay = [k for k in range(count) if k not in missing]
    if not stay:
        return
    some = mixed(mixing, asked[stay], asked)
    for row, k in enumerate(stay):
        if (k ^ 1) in stay:
            assert torch.equal(some.images[row], whole.images[k])
        else:  # the odd end, or a partner that could not be decoded
            assert (some.images[row] == asked[k]).all()
            assert torch.equal(some.shares[row], torch.eye(K)[asked[k] % K])


def test_files_and_memory_any_workers_and_any_start_give_the_same(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    names = tuple("abcdefg")
    files = tuple(tmp_path / f"{name}.png" for name in names)
    for picture, path in zip(pixels, files, strict=True):
        Image.fromarray(picture).save(path)
    labels = np.arange(7) % 3
    preprocessing = Preprocessing(
        channels=3, size_px=(8, 8), resize="none", mean=(0.5,) * 3, std=(0.25,) * 3
    )
    common: Any = {
        "batch_size": 3,
        "mixing": Mixing(mixup=0.4, cutmix=1.0),
        "num_classes": 3,
        "shuffle": True,
    }
    memory = Batches(Split("train", labels, names, pixels), preprocessing, **common)
    expected = [*memory.epoch(2)]
    for workers in (0, 2):
        split = Split("train", labels, names, None, files)
        batches = Batches(split, preprocessing, **common, workers=workers)
        for start in (0, 1):
            for got, want in zip(batches.epoch(2, start), expected[start:], strict=True):
                assert torch.equal(got.images, want.images)
                assert torch.equal(got.targets, want.targets)
                assert torch.equal(got.indices, want.indices)
    files[4].write_bytes(b"")
    bad = Batches(Split("train", labels, names, None, files), preprocessing, **common)
    seen = [*bad.epoch(2)]
    assert sum(len(batch.bad) for batch in seen) == 1
    assert sum(len(batch.labels) for batch in seen) == 6
    plain = Batches(Split("train", labels, names, pixels), preprocessing, batch_size=3)
    for batch in plain.epoch(0):
        assert batch.shares is None
        assert batch.targets is batch.labels
