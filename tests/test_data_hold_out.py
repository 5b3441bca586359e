"""What is held out of training pictures: the hash, the classes' due, groups, and older runs."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepen.data.hold_out import Held, hold_out, hold_out_again
from deepen.data.sources import PictureSet, Split, open_source
from deepen.errors import InputError


def laid(keys: list[str], own: tuple = ()) -> PictureSet:
    """A folder of these files, whose class folder comes first, all to train on."""
    classes = tuple(sorted({key.split("/")[0] for key in keys}))
    labels = np.array([classes.index(key.split("/")[0]) for key in keys])
    files = tuple(map(Path, keys))
    split = Split("train", labels, tuple(keys), files=files, sizes=np.ones(len(keys), int))
    return PictureSet("photos", Path("photos"), classes, 3, {"train": split}, (), own)


def by_hash(name: str) -> str:
    """Where a picture goes by its hash alone, reckoned with integers."""
    tenth = 2**64 // 10
    first = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)
    return "test" if first <= tenth else "val" if first <= 2 * tenth else "train"


def split_of(source: PictureSet) -> dict[str, str]:
    return {str(key): name for name, split in source.splits.items() for key in split.keys}


def per_class(source: PictureSet) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {name: Counter() for name in source.classes}
    for key, split in split_of(source).items():
        found[key.split("/")[0]][split] += 1
    return found


def test_large_classes_are_split_by_the_hash_alone():
    keys = [f"{name}/{i}.jpg" for name in ("cat", "dog", "emu") for i in range(400)]
    assert split_of(hold_out(laid(keys), Held())) == {key: by_hash(key) for key in keys}


def test_of_many_classes_of_fifty_few_pictures_are_moved_and_few_move_when_others_come():
    keys = [f"c{c}/{i}.jpg" for c in range(200) for i in range(50)]
    before = split_of(hold_out(laid(keys), Held()))
    moved = [key for key in keys if before[key] != by_hash(key)]
    assert 0 < len(moved) < 10  # 2 * 200 * 0.9^50 = 2 are expected
    more = [f"c{c}/{i}.jpg" for c in range(200) for i in range(50, 70)]
    after = split_of(hold_out(laid(keys + more), Held()))
    changed = {key for key in keys if before[key] != after[key]}
    assert changed <= set(moved)


folders = st.lists(st.integers(1, 12), min_size=2, max_size=8)


@settings(max_examples=150, deadline=None)
@given(sizes=folders, salt=st.integers(0, 10**6), own=st.booleans(), none=st.booleans())
def test_each_class_gets_its_due(sizes, salt, own, none):
    keys = [f"c{c}/{salt}-{i}.jpg" for c, size in enumerate(sizes) for i in range(size)]
    held_splits = ([] if own else ["test"]) + ([] if none else ["val"])
    source = laid(keys, ("train",) if own else ())
    held = Held(validation=0 if none else None)
    if max(sizes) == 1 and "val" in held_splits:
        with pytest.raises(InputError, match=f"each of its {len(sizes)} classes has one picture"):
            hold_out(source, held)
        return
    found = hold_out(source, held)
    assert sorted(split_of(found)) == sorted(keys)
    for name, split in found.splits.items():
        assert split.name == name
        assert [keys.index(key) for key in split.keys] == sorted(map(keys.index, split.keys))
    spare = sum(size - 1 for size in sizes)
    for name in held_splits[::-1][:spare]:
        assert name in found.splits
    for counts in per_class(found).values():
        assert counts["train"] >= 1
        if sum(counts.values()) > len(held_splits):
            assert set(counts) == {"train", *held_splits}
    assert set(found.splits) <= {"train", *held_splits}


@settings(max_examples=100, deadline=None)
@given(sizes=folders, salt=st.integers(0, 10**6), share=st.floats(0, 1.2))
def test_so_many_are_held_out_and_each_class_is_trained_on(sizes, salt, share):
    keys = [f"c{c}/{salt}-{i}.jpg" for c, size in enumerate(sizes) for i in range(size)]
    source = laid(keys, ("train", "test"))
    spare = sum(size - 1 for size in sizes)
    count = 1 + int(share * spare)
    if count > spare:
        with pytest.raises(InputError, match=f"validation: {count} held out"):
            hold_out(source, Held(count))
        return
    found = hold_out(source, Held(count))
    assert len(found.splits["val"]) == count
    counts = per_class(found).values()
    assert all(each["train"] >= 1 for each in counts)
    if count >= sum(size > 1 for size in sizes):
        assert all(each["val"] >= 1 for each, size in zip(counts, sizes, strict=True) if size > 1)


def test_a_number_that_is_held_out_of_large_classes_is_that_of_the_least_hashes():
    keys = [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(300)]
    found = split_of(hold_out(laid(keys, ("train", "test")), Held(100)))
    least = sorted(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())[:100]
    assert {key for key, split in found.items() if split == "val"} == set(least)


def test_two_pictures_a_class_can_be_trained_on():
    keys = [f"c{c:03d}/{i}.png" for c in range(100) for i in range(2)]
    found = hold_out(laid(keys), Held())
    assert all(counts["train"] >= 1 for counts in per_class(found).values())
    missing = sum(not counts["val"] for counts in per_class(found).values())
    assert f"; of {missing} of 100 classes none" in found.notes[1]
    with pytest.raises(InputError, match="photos: validation: 101 held out would leave a class"):
        hold_out(laid(keys, ("train", "test")), Held(101))


def test_one_picture_a_class_is_refused_with_the_flag_and_trained_on_without_validation():
    keys = [f"c{c}/{i}.png" for c in range(30) for i in range(1)]
    with pytest.raises(InputError) as caught:
        hold_out(laid(keys), Held())
    assert str(caught.value) == (
        "photos: no picture can be held out for validation: each of its 30 classes has one "
        "picture; add some, or train on all with --validation 0"
    )
    found = hold_out(laid(keys), Held(0))
    assert len(found.splits["train"]) == 30
    assert found.notes == (
        "test: 0 of 30 pictures, by a fixed hash of each path",
        "test: none; no picture is held out",
    )


# Groups ---------------------------------------------------------------------------------------


def patients(classes: str = "ab", number: int = 12, pictures: int = 5) -> list[str]:
    return [
        f"{name}/patient{patient:02d}/{i}.png"
        for name in classes
        for patient in range(number)
        for i in range(pictures)
    ]


@pytest.mark.parametrize("together", ["subfolder", r"pattern:patient\d+", r"pattern:/(pat\w+)/"])
def test_what_belongs_together_stays_together(together):
    found = split_of(hold_out(laid(patients()), Held(together=together)))
    splits: dict[str, set[str]] = {}
    for key, split in found.items():
        splits.setdefault(key.split("/")[1], set()).add(split)
    assert len(splits) == 12
    assert all(len(names) == 1 for names in splits.values())
    assert Counter(found.values())["train"] >= 60
    # Where no class asks for more, the group's name decides, and that of both classes at once.
    kept = [group for group, names in splits.items() if names == {by_hash(group)}]
    assert len(kept) >= 10


def test_a_note_says_that_subfolders_were_torn_apart():
    source = hold_out(laid(patients()), Held())
    found = split_of(source)
    torn = sum(
        len({split for key, split in found.items() if f"/patient{p:02d}/" in key}) > 1
        for p in range(12)
    )
    assert torn > 5
    assert f"subfolders: pictures of {torn} of 12 lie in several splits" in "\n".join(source.notes)
    kept = hold_out(laid(patients()), Held(together="subfolder"))
    assert not any("subfolders:" in note for note in kept.notes)
    assert " groups, by a fixed hash of each (subfolder stays together)" in kept.notes[0]
    assert not any("subfolders:" in n for n in hold_out(laid(["a/1", "b/1", "a/2"]), Held()).notes)


@settings(max_examples=100, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=60),
    salt=st.integers(0, 10**6),
    count=st.none() | st.integers(1, 20),
)
def test_groups_are_never_torn_and_each_class_is_trained_on(places, salt, count):
    """Of any classes, even those of several at once; pictures of no group are held out alone."""
    keys = [
        f"c{label}/{f'g{salt}-{group}/' if group else ''}{i}.png"
        for i, (label, group) in enumerate(places)
    ]
    try:
        found = hold_out(laid(keys), Held(count, "subfolder"))
    except InputError:
        return
    group_of = {k: k.split("/")[1] if k.count("/") == 2 else k for k in keys}
    splits = split_of(found)
    assert sorted(splits) == sorted(keys)
    for group in set(group_of.values()):
        assert len({splits[key] for key in keys if group_of[key] == group}) == 1
    assert all(counts["train"] for counts in per_class(found).values())
    assert len(found.splits["val"]) >= (count or 1)


def test_a_column_keeps_pictures_together():
    keys = [f"{'ab'[i % 2]}/{i}.png" for i in range(60)]
    source = laid(keys)
    train = source.splits["train"]
    animals = [f"animal {i // 6}" if i < 54 else None for i in range(60)]
    source.splits["train"] = Split(
        "train", train.labels, keys, files=train.files, columns={"animal": animals}
    )
    found = hold_out(source, Held(together="column:animal"))
    for split in found.splits.values():
        for animal in set(split.columns["animal"]) - {None}:
            assert list(split.columns["animal"]).count(animal) == 6
    with pytest.raises(InputError, match="photos: together: column:animl: unknown column"):
        hold_out(source, Held(together="column:animl"))


@pytest.mark.parametrize(
    ("together", "words"),
    [
        ("subfolders", "together: subfolders is none of subfolder, pattern:REGEX or column:NAME"),
        ("pattern:(", r"together: \( is no regular expression"),
        ("pattern:zebra", "zebra is found in no picture's name, a/0.png say"),
        ("subfolder", "no class folder has subfolders"),
        ("column:patient", "column:patient: there is no table of columns"),
    ],
)
def test_what_cannot_be_kept_together_is_refused(together, words):
    keys = [f"{name}/{i}.png" for name in "ab" for i in range(9)]
    with pytest.raises(InputError, match=words):
        hold_out(laid(keys), Held(together=together))


# Earlier runs ---------------------------------------------------------------------------------


def test_the_splits_of_a_run_begun_before_classes_had_their_due_are_found_again():
    keys = [f"c{c}/{i}.jpg" for c in range(3) for i in range(9)]
    old = hold_out(laid(keys), Held(), by_class=False)
    assert split_of(old) == {key: by_hash(key) for key in keys}
    new = hold_out(laid(keys), Held())
    assert split_of(new) != split_of(old)
    assert split_of(hold_out_again(laid(keys), Held(), old.fingerprint)) == split_of(old)
    assert split_of(hold_out_again(laid(keys), Held(), new.fingerprint)) == split_of(new)
    assert split_of(hold_out_again(laid(keys), Held(), "0" * 64)) == split_of(new)


def test_an_older_run_that_held_nothing_out_goes_on(tmp_path):
    for key in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / key).parent.mkdir()
        (tmp_path / key).write_bytes(b"")
    with pytest.raises(InputError, match="no picture can be held out"):
        open_source(tmp_path)
    whole = open_source(tmp_path, validation=0)
    assert open_source(tmp_path, begun=whole.fingerprint).fingerprint == whole.fingerprint
