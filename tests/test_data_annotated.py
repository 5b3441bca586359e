"""Sets with boxes and masks in the formats that people have, against other readers and by hand."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from annotated_sets import SIZE, coco_document, picture, said, targets_of, voc_folder, voc_xml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torchvision.datasets import CocoDetection, VOCDetection, VOCSegmentation

from deepen.data.annotated.export import to_coco
from deepen.data.annotated.masks import CAMVID_CLASSES, VOC_CLASSES
from deepen.data.annotated.outlines import check_outline, draw, runs_of
from deepen.data.loader import Batches
from deepen.data.preprocess import Preprocessing
from deepen.data.sources import Split, open_source
from deepen.errors import InputError

pytestmark = pytest.mark.filterwarnings(  # of pycocotools
    "ignore:__array__ implementation:DeprecationWarning"
)

# Pascal VOC --------------------------------------------------------------------------------------


def test_bccd_is_what_its_files_say_and_torchvision_reads(real_data, tmp_path):
    """The blood cells: counted in the text of their XML, and box by box in torchvision's reader."""
    root = real_data / "bccd" / "BCCD"
    with pytest.raises(InputError, match=r"BloodImage_00343\.jpg#box 4: degenerate: .*1 more"):
        open_source(str(root))
    bad = ["JPEGImages/BloodImage_00338.jpg#box 13", "JPEGImages/BloodImage_00343.jpg#box 4"]
    source = open_source(str(root), exclude=bad)
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    texts = [path.read_text() for path in (root / "Annotations").iterdir()]
    counted = Counter(name for text in texts for name in re.findall(r"<name>(\w+)</name>", text))
    assert counted == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    assert said(source, "Pascal VOC").startswith(
        "Pascal VOC: 4,886 boxes in 364 pictures (Platelets 361, RBC 4,153, WBC 372)"
    )
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2007").symlink_to(root)
    for name, split in source.splits.items():
        theirs = VOCDetection(str(tmp_path), "2007", name)
        assert len(theirs) == len(split)
        for i in range(len(theirs)):
            key = f"JPEGImages/{Path(theirs.images[i]).name}"
            tree = ElementTree.parse(theirs.annotations[i])
            things = theirs.parse_voc_xml(tree.getroot())["annotation"]["object"]
            corners = [
                [float(each["bndbox"][c]) for c in ("xmin", "ymin", "xmax", "ymax")]
                for number, each in enumerate(things, 1)
                if f"{key}#box {number}" not in bad
            ]
            names = [e["name"] for n, e in enumerate(things, 1) if f"{key}#box {n}" not in bad]
            ours = split.targets[split.keys.index(key)]
            # Pixels from 1, both of the box: the edge before the first, the edge behind the last.
            np.testing.assert_array_equal(ours["boxes"], np.array(corners) - [1, 1, 0, 0])
            assert [source.classes[place] for place in ours["labels"]] == names


def test_corners_are_pixels_from_one(tmp_path):
    """By hand: the whole picture of 40x30 px, its first pixel, and one that a 0 cuts."""
    boxes = [("all", 1, 1, 40, 30), ("all", 1, 1, 2, 2), ("all", 0, 3, 4, 31)]
    root = voc_folder(tmp_path / "voc", {"a": boxes})
    source = open_source(str(root), validation=0)
    [target] = targets_of(source).values()
    np.testing.assert_array_equal(target["boxes"], [[0, 0, 40, 30], [0, 0, 2, 2], [0, 2, 4, 30]])
    assert target["boxes"].dtype == np.float32
    assert said(source, "cut to") == (
        "cut to the picture: 1 boxes that stuck out by a pixel or less"
    )


def test_lists_are_splits(tmp_path):
    pictures = {name: [("cat", 1, 1, 9, 9), ("dog", 3, 3, 20, 20)] for name in "abcdef"}
    lists = {"trainval": ["a", "b", "c", "c"], "val": ["c"], "test": ["d  -1", "e  1", "gone"]}
    root = voc_folder(tmp_path / "voc", pictures, lists)
    (root / "Annotations" / "e.xml").unlink()
    source = open_source(str(root))
    keys = {name: [Path(key).stem for key in split.keys] for name, split in source.splits.items()}
    assert keys == {"train": ["a", "b"], "val": ["c"], "test": ["d", "e"]}
    assert source.own == ("train", "val", "test")
    assert said(source, "without a box") == (
        "without a box: 1 pictures, taken to show nothing: JPEGImages/e.png"
    )
    assert said(source, "left out") == "left out: 1 picture in no split: JPEGImages/f.png"
    assert said(source, "annotations without") == (
        "annotations without a picture, left out: 1: gone"
    )
    (root / "ImageSets/Main/test.txt").write_text("a\nd\n")
    with pytest.raises(InputError, match=r"test\.txt: 1 pictures are in train\.txt too: a"):
        open_source(str(root))


def test_without_lists_pictures_are_held_out(tmp_path):
    pictures = {str(i): [("cat", 1, 1, 9, 9 + i % 7)] for i in range(40)}
    source = open_source(str(voc_folder(tmp_path / "voc", pictures)))
    assert source.own == ()
    assert sum(map(len, source.splits.values())) == 40
    assert {*source.splits} == {"train", "val", "test"}
    for split in source.splits.values():
        for key, target in zip(split.keys, split.targets, strict=True):
            assert target["boxes"][0, 3] == 9 + int(Path(key).stem) % 7


def test_localization_labels_pictures(tmp_path):
    """As ILSVRC lays it out: folders of splits, a class a picture, pictures without boxes."""
    root = tmp_path / "ilsvrc"
    for split, name, label in (
        ("train", "n1/a", "n1"),
        ("train", "n2/b", "n2"),
        ("val", "c", "n2"),
    ):
        picture(root / f"Data/CLS-LOC/{split}/{name}.jpg")
        path = root / f"Annotations/CLS-LOC/{split}/{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc_xml([(label, 1, 1, 10, 10), (label, 5, 5, 30, 30)]))
    picture(root / "Data/CLS-LOC/train/n1/bare.jpg")
    source = open_source(str(root))
    assert source.classes == ("n1", "n2")
    assert source.splits["train"].labels.tolist() == [0, 1]
    assert source.splits["val"].labels.tolist() == [1]
    [target] = source.splits["val"].targets
    assert {*target} == {"boxes"}
    np.testing.assert_array_equal(target["boxes"], [[0, 0, 10, 10], [4, 4, 30, 30]])
    assert said(source, "left out").endswith("without a box: Data/CLS-LOC/train/n1/bare.jpg")
    path = root / "Annotations/CLS-LOC/val/c.xml"
    path.write_text(voc_xml([("n1", 1, 1, 9, 9), ("n2", 1, 1, 9, 9)]))
    with pytest.raises(InputError, match=r"val/c\.jpg: several: .*n1, n2"):
        open_source(str(root))
    plain = voc_folder(tmp_path / "voc", {"a": [("cat", 1, 1, 9, 9)], "b": [("dog", 1, 1, 9, 9)]})
    source = open_source(f"{plain}?as=localization", validation=0)
    assert source.splits["train"].labels.tolist() == [0, 1]


# COCO --------------------------------------------------------------------------------------------


def test_coco_is_what_pycocotools_and_torchvision_read(tmp_path):
    rng = np.random.default_rng()
    documents = {}
    for split in ("train", "val"):
        names = [f"{split}{i}.png" for i in range(3)]
        for name in names:
            picture(tmp_path / "coco" / f"{split}2017" / name)
        documents[split] = coco_document(names, rng)
        path = tmp_path / "coco" / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(documents[split]))
    source = open_source(str(tmp_path / "coco"))
    assert source.own == ("train", "val")
    assert source.classes == ("cat", "dog", "cow")  # by their ids
    for split in ("train", "val"):
        path = tmp_path / "coco" / "annotations" / f"instances_{split}2017.json"
        theirs = CocoDetection(str(tmp_path / "coco" / f"{split}2017"), str(path))
        api = theirs.coco
        ours = dict(zip(source.splits[split].keys, source.splits[split].targets, strict=True))
        assert len(ours) == len(theirs) == 3
        for place, number in enumerate(theirs.ids):
            target = ours[f"{split}2017/{api.loadImgs(number)[0]['file_name']}"]
            _, entries = theirs[place]
            in_order = [a for a in documents[split]["annotations"] if a["image_id"] == number]
            boxes = np.array([a["bbox"] for a in in_order])
            boxes[:, 2:] += boxes[:, :2]
            np.testing.assert_allclose(target["boxes"], boxes, rtol=1e-6)
            names = [api.cats[a["category_id"]]["name"] for a in in_order]
            assert [source.classes[label] for label in target["labels"]] == names
            assert target["crowd"].tolist() == [a["iscrowd"] == 1 for a in in_order]
            masks = np.stack([api.annToMask(a) for a in in_order])
            assert target["masks"].dtype == np.uint8
            np.testing.assert_array_equal(target["masks"], masks)
            assert len(entries) == len(in_order)


def test_outlines_are_drawn_to_the_bit():
    """Fresh polygons (with double points, on whole and half pixels, past the edges) and runs."""
    rng = np.random.default_rng()
    for _ in range(300):
        width, height = (int(n) for n in rng.integers(1, 60, 2))
        polygons = []
        for _ in range(int(rng.integers(1, 4))):
            points = rng.uniform(-1, [width + 1, height + 1], (int(rng.integers(3, 12)), 2))
            if rng.random() < 0.5:
                points = np.rint(points * 2) / 2
            if rng.random() < 0.3:
                points[1] = points[0]
            polygons.append(points.ravel().tolist())
        theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        check_outline(polygons, (width, height))
        np.testing.assert_array_equal(draw(polygons, (width, height)), theirs, str(polygons))
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        coded = coco_mask.encode(np.asfortranarray(mask))
        text = {"size": coded["size"], "counts": coded["counts"].decode()}
        assert coco_mask.frPyObjects(runs_of(mask), height, width)["counts"] == coded["counts"]
        for outline in (text, runs_of(mask)):
            check_outline(outline, (width, height))
            np.testing.assert_array_equal(draw(outline, (width, height)), mask)


def test_one_json_and_its_pictures(tmp_path):
    names = [f"{i}.png" for i in range(20)]
    for name in names:
        picture(tmp_path / "photos" / name)
    document = coco_document(names, np.random.default_rng(3))
    for annotation in document["annotations"][::2]:
        del annotation["segmentation"]
    (tmp_path / "truth.json").write_text(json.dumps(document))
    source = open_source(f"{tmp_path}/truth.json?images=photos")
    assert source.root == tmp_path / "photos"
    assert source.own == ()
    assert {*source.splits} == {"train", "val", "test"}
    assert all(
        {*t} == {"boxes", "labels", "difficult", "crowd"} for t in targets_of(source).values()
    )
    assert "masks: not every box has an outline, so none is used" in source.notes
    again = open_source(f"{tmp_path}/photos?boxes={tmp_path}/truth.json")
    assert again.fingerprint == source.fingerprint
    document["annotations"][0]["bbox"][0] += 0.25
    (tmp_path / "truth.json").write_text(json.dumps(document))
    assert open_source(f"{tmp_path}/truth.json?images=photos").fingerprint != source.fingerprint


def test_what_is_written_is_read_again(tmp_path):
    """A split as COCO has it: pycocotools draws and measures it, and it opens as the same."""
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        picture(tmp_path / "photos" / name)
    (tmp_path / "one.json").write_text(json.dumps(coco_document(names, np.random.default_rng())))
    source = open_source(f"{tmp_path}/one.json?images=photos", validation=0)
    train = source.splits["train"]
    document = to_coco(train, source.classes)
    (tmp_path / "two.json").write_text(json.dumps(document))
    api = COCO(str(tmp_path / "two.json"))
    assert [image["file_name"] for image in api.dataset["images"]] == list(train.keys)
    for place, target in enumerate(train.targets):
        entries = api.loadAnns(api.getAnnIds(place + 1))
        masks = np.stack([api.annToMask(entry) for entry in entries])
        np.testing.assert_array_equal(masks, target["masks"])
        np.testing.assert_array_equal([e["area"] for e in entries], masks.sum((1, 2)))
    again = open_source(f"{tmp_path}/two.json?images=photos", validation=0)
    assert again.classes == source.classes
    found = targets_of(again)
    assert found.keys() == {*train.keys}
    for key, target in zip(train.keys, train.targets, strict=True):
        for name in ("boxes", "labels", "crowd", "masks"):
            np.testing.assert_array_equal(found[key][name], target[name])
    boxed = Split("test", np.array([0]), ("a",), images=np.zeros((1, 6, 8, 1), np.uint8))
    with pytest.raises(InputError, match="test: has no boxes"):
        to_coco(boxed, ["x"])


# Tables ------------------------------------------------------------------------------------------

ROWS = [
    ("a.png", "cat", 1, 2, 9, 8),
    ("a.png", "dog", 3, 4, 39.5, 29),
    ("b.png", "cat", 0, 0, 40, 30),
]
TABLES = {
    "corners": "filename,class,xmin,ymin,xmax,ymax\n"
    + "".join(f"{f},{c},{x},{y},{r},{b}\n" for f, c, x, y, r, b in ROWS),
    "with the size of the picture": "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    + "".join(f"{f},40,30,{c},{x},{y},{r},{b}\n" for f, c, x, y, r, b in ROWS),
    "left, top, width, height": "image_id,x,y,w,h,label\n"
    + "".join(f"{f[0]},{x},{y},{r - x},{b - y},{c}\n" for f, c, x, y, r, b in ROWS),
    "the same, in words": "image;label;x;y;width;height\n"
    + "".join(f"{f};{c};{x};{y};{r - x};{b - y}\n" for f, c, x, y, r, b in ROWS),
    "capitals in another order": "path\tXMin\tXMax\tYMin\tYMax\tClassName\n"
    + "".join(f"photos/{f}\t{x}\t{r}\t{y}\t{b}\t{c}\n" for f, c, x, y, r, b in ROWS),
    "json lines": "".join(
        json.dumps(
            {"file_name": f, "bbox_x1": x, "bbox_y1": y, "bbox_x2": r, "bbox_y2": b, "label": c}
        )
        + "\n"
        for f, c, x, y, r, b in ROWS
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_it_is_meant(tmp_path, name):
    root = tmp_path / "photos"
    for file in ("a.png", "b.png", "c.png"):
        picture(root / file)
    path = root / ("boxes.jsonl" if name == "json lines" else "boxes.csv")
    path.write_text(TABLES[name])
    source = open_source(str(root), validation=0)
    assert source.classes == ("cat", "dog")
    found = {**targets_of(source)}
    np.testing.assert_array_equal(found["a.png"]["boxes"], [[1, 2, 9, 8], [3, 4, 39.5, 29]])
    np.testing.assert_array_equal(found["b.png"]["boxes"], [[0, 0, 40, 30]])
    assert found["a.png"]["labels"].tolist() == [0, 1]
    assert said(source, "left out") == "left out: 1 picture without a row in the table: c.png"
    assert open_source(f"{root}?boxes={path.name}", validation=0).fingerprint == source.fingerprint


def test_splits_of_tables_and_empty_rows(tmp_path):
    root = tmp_path / "photos"
    for file in ("a.png", "b.png", "c.png"):
        picture(root / file)
    rows = ["a.png,1,1,9,9,cat,train", "b.png,,,,,,valid", "c.png,2,2,9,9,cat,test"]
    (root / "all.csv").write_text("\n".join(["image,x1,y1,x2,y2,class,split", *rows]))
    source = open_source(str(root))
    assert {name: split.keys for name, split in source.splits.items()} == {
        "train": ("a.png",),
        "val": ("b.png",),
        "test": ("c.png",),
    }
    assert targets_of(source)["b.png"]["boxes"].shape == (0, 4)
    assert "b.png" in said(source, "without a box")
    (root / "all.csv").unlink()
    for split, i in (("train", 0), ("test", 2)):
        head = "filename,width,height,class,xmin,ymin,xmax,ymax"
        (root / f"{split}_labels.csv").write_text(f"{head}\n{'abc'[i]}.png,40,30,cat,1,1,9,9\n")
    source = open_source(str(root), validation=0)
    assert {name: split.keys for name, split in source.splits.items()} == {
        "train": ("a.png",),
        "test": ("c.png",),
    }
    (root / "more.csv").write_text("image,x1,y1,x2,y2,class\na.png,1,1,2,2,cat\n")
    with pytest.raises(InputError, match="several tables of boxes"):
        open_source(str(root))


def test_class_folders_with_a_table_of_boxes_stay_class_folders(tmp_path):
    for label in "ab":
        picture(tmp_path / "photos" / label / f"{label}.png")
    (tmp_path / "photos" / "boxes.csv").write_text("image,x1,y1,x2,y2,class\na/a.png,1,1,2,2,a\n")
    source = open_source(str(tmp_path / "photos"), validation=0)
    assert source.splits["train"].targets is None
    source = open_source(f"{tmp_path / 'photos'}?boxes=boxes.csv", validation=0)
    assert targets_of(source).keys() == {"a/a.png"}


# Masks -------------------------------------------------------------------------------------------


def palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("P", values.shape[::-1])
    image.putdata(values.ravel().tolist())
    image.putpalette([(i * 37) % 256 for i in range(768)])
    image.save(path)


def test_masks_of_voc_are_what_torchvision_reads(tmp_path):
    rng = np.random.default_rng()
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = {"train": ["a", "b"], "val": ["c"]}
    for name in "abcd":
        picture(root / "JPEGImages" / f"{name}.jpg")
        values = rng.choice([0, 1, 15, 20, 255], SIZE[::-1]).astype(np.uint8)
        if name != "d":
            palette(root / "SegmentationClass" / f"{name}.png", values)
    for split, names in lists.items():
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names))
    source = open_source(str(root))
    assert source.classes == VOC_CLASSES
    for name in ("train", "val"):
        theirs = VOCSegmentation(str(tmp_path), "2012", name)
        for i, target in enumerate(source.splits[name].targets):
            assert {*target} == {"mask"}
            assert target["mask"].dtype == np.uint8
            np.testing.assert_array_equal(target["mask"], np.array(theirs[i][1]))
    assert said(source, "left out").endswith("without a mask: JPEGImages/d.jpg")
    void = np.mean(
        [np.array(Image.open(root / f"SegmentationClass/{n}.png")) == 255 for n in "abc"]
    )
    assert said(source, "masks of 21 classes").endswith(f"; {void:.1%} void")
    (root / "Annotations").mkdir()  # VOC proper: boxes go before masks, unless they are asked for
    assert open_source(f"{root}?masks=SegmentationClass").fingerprint == source.fingerprint


def test_camvid_as_segnet_gives_it(tmp_path):
    rng = np.random.default_rng()
    wanted = {}
    for split, name in (
        ("train", "0001TP_006690"),
        ("val", "0016E5_07959"),
        ("test", "Seq05VD_f00000"),
    ):
        picture(tmp_path / split / f"{name}.png")
        values = rng.integers(0, 12, SIZE[::-1]).astype(np.uint8)
        (tmp_path / f"{split}annot").mkdir()
        Image.fromarray(values).save(tmp_path / f"{split}annot" / f"{name}.png")
        wanted[split] = np.where(values == 11, 255, values)
    source = open_source(str(tmp_path))
    assert source.classes == CAMVID_CLASSES
    assert len(CAMVID_CLASSES) == 11
    for name, mask in wanted.items():
        np.testing.assert_array_equal(source.splits[name].targets[0]["mask"], mask)
    (tmp_path / "train" / "0001TP_006690.png").rename(tmp_path / "train" / "mine.png")
    (tmp_path / "trainannot" / "0001TP_006690.png").rename(tmp_path / "trainannot" / "mine_L.png")
    source = open_source(str(tmp_path))
    assert source.classes == tuple(map(str, range(12)))  # another's: nothing is known of 11


def test_masks_in_colours(tmp_path):
    colours = np.array([(128, 64, 128), (0, 0, 192), (0, 0, 0)], np.uint8)
    places = np.random.default_rng().integers(0, 3, SIZE[::-1])
    for i in range(3):
        picture(tmp_path / "images" / f"{i}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(colours[places]).save(tmp_path / "labels" / f"{i}_L.png")
    head = "name,r,g,b\nRoad,128,64,128\nSide walk,0,0,192\nVoid,0,0,0\n"
    for text in (head, "128 64 128\tRoad\n0 0 192\tSide walk\n0 0 0\tVoid\n"):
        (tmp_path / "table.txt").write_text(text)
        source = open_source(f"{tmp_path}?masks=labels&classes=table.txt", validation=0)
        assert source.classes == ("Road", "Side walk")
        wanted = np.where(places == 2, 255, places)
        for target in source.splits["train"].targets:
            np.testing.assert_array_equal(target["mask"], wanted)
    (tmp_path / "table.txt").write_text(head.replace("192", "191"))
    with pytest.raises(InputError, match=r"images/0\.jpg: label: .*0,0,192 in [\d,]+ pixels"):
        open_source(f"{tmp_path}?masks=labels&classes=table.txt")
    with pytest.raises(InputError, match=r"in colours; say"):
        open_source(f"{tmp_path}?masks=labels")


def test_names_of_values_and_void(tmp_path):
    values = np.zeros(SIZE[::-1], np.uint8)
    values[3:], values[9:], values[20:] = 1, 2, 3
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "masks" / "a.png")
    for text, classes, void in (
        ("road\ncar\nsky\nunlabelled\n", ("road", "car", "sky"), 3),
        (
            "__ignore__\n_background_\ncar\nsky\ntree\n",
            ("_background_", "car", "sky", "tree"),
            None,
        ),
    ):
        (tmp_path / "classes.txt").write_text(text)
        source = open_source(f"{tmp_path}?masks=masks", validation=0)
        assert source.classes == classes
        wanted = values if void is None else np.where(values == void, 255, values)
        np.testing.assert_array_equal(source.splits["train"].targets[0]["mask"], wanted)
    source = open_source(f"{tmp_path}?masks=masks&void=2", validation=0)
    mask = source.splits["train"].targets[0]["mask"]
    np.testing.assert_array_equal(mask, np.where(values == 2, 255, values))
    (tmp_path / "classes.txt").write_text("road\ncar\n")
    with pytest.raises(InputError, match=r"a\.png: label: .*value 2 in .* above the 2 classes"):
        open_source(f"{tmp_path}?masks=masks")


# On to training ----------------------------------------------------------------------------------


def test_batches_carry_boxes_and_masks_along(tmp_path):
    """Squashed to twice the size: boxes and masks are where the pixels went."""
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        picture(tmp_path / "photos" / name)
    (tmp_path / "one.json").write_text(json.dumps(coco_document(names, np.random.default_rng())))
    source = open_source(f"{tmp_path}/one.json?images=photos", validation=0)
    train = source.splits["train"]
    how = Preprocessing(
        size_px=(60, 80), channels=3, resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    for workers in (0, 1):
        [batch] = Batches(train, how, batch_size=4, workers=workers).epoch(0)
        for place, index in enumerate(batch.indices.tolist()):
            target, given = train.targets[index], batch.targets[place]
            boxes, kept = batch.geometry.boxes(place, given["boxes"])
            assert kept.all()
            torch.testing.assert_close(boxes, torch.from_numpy(target["boxes"]) * 2)
            masks = batch.geometry.mask(place, given["masks"])
            doubled = target["masks"].repeat(2, 1).repeat(2, 2)
            np.testing.assert_array_equal(masks.numpy(), doubled)
