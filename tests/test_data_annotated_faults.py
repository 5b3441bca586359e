"""What is wrong with boxes, one fault planted at a time: named, refused or told, and left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from annotated_sets import SIZE, coco_document, picture, said, targets_of, voc_folder, voc_xml
from PIL import Image
from typer.testing import CliRunner

from deepen.cli import app
from deepen.data import doctor, sources
from deepen.data.annotated.records import REFUSED
from deepen.data.doctor import Diagnosis
from deepen.data.lists import read_list
from deepen.data.sources import PictureSet
from deepen.errors import InputError

SOUND = [
    ("cat", 1, 1, 20, 20),
    ("dog", 5, 5, 30, 28),
    ("cat", 22, 3, 39, 29),
    ("dog", 2, 20, 9, 30),
]
MORE = dict.fromkeys("cde", SOUND)
"""Further pictures, of which some can be held out."""
BOXES = {
    "degenerate": ("cat", 7, 3, 7, 20),
    "inverted": ("cat", 20, 3, 7, 20),
    "not_finite": ("cat", 3, "nan", 7, 20),
    "outside": ("cat", 3, 4, 43, 20),
    "label": ("", 3, 4, 13, 20),
    "double": ("cat", 22, 3, 39, 29),
    "seen_once": ("cow", 3, 4, 13, 20),
}
"""A box of each kind, behind four that are sound in a picture of 40x30 px."""


def open_source(word: str, **said) -> PictureSet:
    """With nothing held out."""
    return sources.open_source(word, **{"validation": 0, **said})


def examine(word: str) -> Diagnosis:
    """Pictures of 40x30 px are none too small."""
    return doctor.examine(word, min_px=1)


def faults(diagnosis: Diagnosis) -> dict[str, str]:
    return {problem.path: problem.kind for problem in diagnosis.problems}


def folder(tmp_path: Path, *boxes) -> Path:
    return voc_folder(tmp_path / "voc", {"a": [*SOUND, *boxes], "b": SOUND, **MORE})


@pytest.mark.parametrize("kind", BOXES)
def test_a_box_is_named_and_left_out(tmp_path, kind):
    root = folder(tmp_path, BOXES[kind])
    clean = targets_of(
        open_source(str(voc_folder(tmp_path / "clean", {"a": SOUND, "b": SOUND, **MORE})))
    )
    diagnosis = examine(str(root))
    assert faults(diagnosis) == {"JPEGImages/a.png#box 5": kind}
    assert f"Annotations/a.xml, line {3 + len(SOUND)}" in diagnosis.problems[0].detail
    assert diagnosis.quarantine == ([] if kind == "seen_once" else ["JPEGImages/a.png#box 5"])
    if kind in REFUSED:
        line = f"JPEGImages/a.png#box 5: {kind}: "
        help_ = f"deepen doctor {root} --quarantine bad.txt, then --exclude bad.txt"
        with pytest.raises(InputError, match=f"^{line}.*{re.escape(help_)}$") as error:
            open_source(str(root))
        assert "\n" not in str(error.value)
    else:
        told = [note for note in open_source(str(root)).notes if "JPEGImages/a.png#box 5" in note]
        assert len(told) == 1
    source = open_source(str(root), exclude=["JPEGImages/a.png#box 5"])
    found = targets_of(source)
    for key, target in clean.items():
        np.testing.assert_array_equal(found[key]["boxes"], target["boxes"])
    assert said(source, "excluded") == "excluded: 1 boxes of 1 pictures"


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        (("cat", -5, 3, 4, 9), "outside"),
        (("cat", 50, 3, 60, 9), "outside"),
        (("cat", 41, 3, 41.5, 9), "outside"),  # by less than a pixel, but nothing is left of it
        (("cat", 3, 4, 42, 20), "outside"),
        (("cat", "", 4, 12, 20), "not_finite"),
        (("cat", "inf", 4, 12, 20), "not_finite"),
        (("cat", "three", 4, 12, 20), "not_finite"),
        (("cat", 12, 9, 20, 3), "inverted"),
        (("cat", 12, 9, 20, 9), "degenerate"),
        (("cat", 22, 3, 39, 28.8), "double"),
        (("cat", 0, 1, 41, 31), None),  # cut by a pixel on three sides
        (("cat", 1, 1, 40, 30), None),
        (("dog", 22, 3, 39, 29), None),  # another class in the same place
        (("cat", 22, 3, 39, 26), None),  # IoU 24/27
    ],
)
def test_where_a_fault_begins(tmp_path, box, kind):
    found = faults(examine(str(folder(tmp_path, box))))
    assert found == ({} if kind is None else {"JPEGImages/a.png#box 5": kind})


def test_stated_size_and_exif(tmp_path):
    """A picture of 40x30 px that EXIF turns is 30x40 upright; its boxes are of the upright one."""
    boxes = [("cat", 1, 1, 20, 20), ("dog", 5, 5, 30, 40)] * 1
    root = voc_folder(tmp_path / "voc", {"b": SOUND})
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("jpg", "png", "webp"):
        where = root / "JPEGImages" / f"a.{ending}"
        picture(where, exif=exif)
        for size, kind in (((30, 40), None), ((40, 30), "turned"), ((60, 40), "size")):
            (root / "Annotations" / "a.xml").write_text(voc_xml(boxes, size))
            found = faults(examine(str(root)))
            assert found.get(f"JPEGImages/a.{ending}") == kind, ending
            if kind is None:
                source = open_source(str(root))
                assert f"JPEGImages/a.{ending}" in said(source, "turned upright by EXIF: 1")
                target = targets_of(source)[f"JPEGImages/a.{ending}"]
                np.testing.assert_array_equal(target["boxes"][1], [4, 4, 30, 40])
            else:
                with pytest.raises(InputError, match=rf"a\.{ending}: {kind}: Annotations/a\.xml"):
                    open_source(str(root))
        where.unlink()
    picture(root / "JPEGImages" / "a.png")
    (root / "Annotations" / "a.xml").write_text(voc_xml(SOUND, (41, 30)))
    assert examine(str(root)).quarantine == ["JPEGImages/a.png"]
    assert len(targets_of(open_source(str(root), exclude=["JPEGImages/a.png"]))) == 1


def test_faults_of_coco(tmp_path):
    names = [f"{letter}.png" for letter in "abcdef"]
    for name in names:
        picture(tmp_path / "photos" / name)
    clean = coco_document(names, np.random.default_rng(1))
    of_a = [i for i, a in enumerate(clean["annotations"]) if a["image_id"] == 5]
    path, word = tmp_path / "t.json", f"{tmp_path}/t.json?images=photos"
    outline = {"size": [30, 40], "counts": [3, 4]}
    changes = [
        ("category_id", 0, "label"),
        ("category_id", 91, "label"),
        ("category_id", [3], "label"),
        ("bbox", [1, 2, 3, float("nan")], "not_finite"),
        ("bbox", [1, 2, 3], "not_finite"),
        ("bbox", None, "not_finite"),
        ("bbox", [1, 2, 0, 5], "degenerate"),
        ("bbox", [1, 2, -3, 5], "inverted"),
        ("bbox", [30, 2, 30, 5], "outside"),
        ("segmentation", [[1, 2, 3, 4]], "outline"),
        ("segmentation", [[1, 2, 3, 4, 5, 600]], "outline"),
        ("segmentation", [[1, 2, 3, 4, 5, "x"]], "outline"),
        ("segmentation", outline, "outline"),
        ("segmentation", {**outline, "counts": [600, -1, 601]}, "outline"),
        ("segmentation", {**outline, "counts": "a~b"}, "outline"),
        ("segmentation", {**outline, "size": [40, 30]}, "outline"),
    ]
    for field, value, kind in changes:
        document = json.loads(json.dumps(clean))
        document["annotations"][of_a[2]][field] = value
        path.write_text(json.dumps(document))
        diagnosis = examine(word)
        assert faults(diagnosis).get("a.png#box 3") == kind, (field, value)
        number = document["annotations"][of_a[2]]["id"]
        assert f"t.json, annotation {number}" in diagnosis.problems[0].detail
        with pytest.raises(InputError, match=rf"^a\.png#box 3: {kind}: "):
            open_source(word)
        source = open_source(word, exclude=diagnosis.quarantine)
        assert len(targets_of(source)["a.png"]["masks"]) == len(of_a) - 1
    document = json.loads(json.dumps(clean))
    document["images"].append({"id": 1, "file_name": "gone.png", "width": 3, "height": 3})
    document["annotations"][0]["image_id"] = 77
    path.write_text(json.dumps(document))
    diagnosis = examine(word)
    assert faults(diagnosis) == {"gone.png": "no_picture", "t.json#box 1": "no_picture"}
    assert diagnosis.quarantine == []
    assert "gone.png" in said(open_source(word), "annotations without a picture")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("categories"), "has no list of categories"),
        (lambda d: d["images"].append(3), r"images\[2\]: is no object"),
        (lambda d: d["images"][1].update(id=5), r"images\[1\]: id 5 comes twice"),
        (lambda d: d["images"][1].update(file_name="a.png"), r"images\[1\]: a.png comes twice"),
        (lambda d: d["images"][1].update(file_name=["a"]), r"images\[1\]: has no file_name"),
        (lambda d: d["images"][1].update(id=None), r"images\[1\]: id is None"),
        (lambda d: d["categories"][1].update(id=7), r"categories\[1\]: .* comes twice"),
        (lambda d: d["categories"][1].update(name="dog"), r"categories\[1\]: .* comes twice"),
        (lambda d: [i.update(file_name="x") for i in d["images"]], "none of its pictures"),
    ],
)
def test_a_coco_file_broken_as_a_whole_is_refused(tmp_path, change, words):
    for name in ("a.png", "b.png"):
        picture(tmp_path / "photos" / name)
    document = coco_document(["a.png", "b.png"], np.random.default_rng(1))
    change(document)
    (tmp_path / "t.json").write_text(json.dumps(document))
    for take in (open_source, examine):
        with pytest.raises(InputError, match=rf"t\.json: .*{words}|t\.json: {words}"):
            take(f"{tmp_path}/t.json?images=photos")


BOMB = (
    '<?xml version="1.0"?>\n<!DOCTYPE lolz [<!ENTITY a "lol">\n'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>\n<annotation><filename>&i;</filename></annotation>"
)
XML = {
    "empty": ("", "is empty"),
    "cut": (voc_xml(SOUND)[:-40], r"line \d+: is no XML"),
    "two roots": (voc_xml([]) + voc_xml([]), r"line 4: is no XML \(junk"),
    "a bomb": (BOMB, "line 2: declares entities"),
    "another file": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        "declares entities",
    ),
    "deep": (
        "<annotation>" + "<a>" * 200 + "</a>" * 200 + "</annotation>",
        "elements lie more than 64 deep",
    ),
    "another root": ("<html/>", "its root is html"),
    "no encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', "is no XML"),
    "a zero byte": (voc_xml(SOUND).replace("cat", "c\0t"), "is no XML"),
}


@pytest.mark.parametrize("name", XML)
def test_broken_xml_is_refused_and_can_be_left_out(tmp_path, name):
    root = folder(tmp_path)
    text, words = XML[name]
    (root / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(InputError, match=rf"Annotations/a\.xml[:,] (line \d+: )?{words}"):
        open_source(str(root))
    diagnosis = examine(str(root))
    assert faults(diagnosis) == {"JPEGImages/a.png": "broken"}
    left = targets_of(open_source(str(root), exclude=diagnosis.quarantine))
    assert {Path(key).stem for key in left} == {*"bcde"}


def test_xml_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("deepen.data.annotated.safely.MAX_XML_BYTES", 500)
    with pytest.raises(InputError, match=r"a\.xml: .* bytes of XML, above the cap of 500"):
        open_source(str(folder(tmp_path)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"b\.csv: is empty"),
        ("image,x1,y1,x2,y2,class\n", r"b\.csv: has no rows"),
        ("image,x1,y1,x2\na.png,1,1,2\n", r"b\.csv: has no columns xmin"),
        ("image,x1,y1,x2,y2,class\na.png,1,2,3,4,cat,9\n", r"b\.csv, line 2: 7 cells under 6"),
        (
            "image,x1,y1,x2,y2,class,split\na.png,1,2,3,4,cat,moon\n",
            r"b\.csv, line 2: unknown split",
        ),
        ("image,x1,y1,x2,y2\na.png,1,2,3,4\n", r"b\.csv: no column is called label"),
        ("image,x1,y1,x2,y2,class\nz.png,1,2,3,4,cat\n", r"b\.csv: names no picture"),
        (
            "image,x1,y1,x2,y2,class\na.png,1,2,x,4,cat\n",
            r"a\.png#box 1: not_finite: .*b\.csv, line 2",
        ),
        ("image,x1,y1,x2,y2,class\na.png,1,2,3,,cat\n", r"a\.png#box 1: not_finite: .*has no y2"),
        ("image,x1,y1,x2,y2,class\na.png,,,,,\n", r"b\.csv: says of no picture"),
        (
            "image,x1,y1,x2,y2,class\na.png,0.1,0.2,0.5,1,cat\na.png,0,0.2,0.7,1,cat\n",
            r"b\.csv: all 2 boxes lie within 0 to 1: they are shares",
        ),
        ("image,x1,y1,x2,y2,class\na.png,1,2,3,9,\n", r"a\.png#box 1: label: .*line 2"),
    ],
)
def test_faults_of_tables(tmp_path, text, words):
    picture(tmp_path / "a.png")
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        open_source(f"{tmp_path}?boxes=b.csv", validation=0)


def test_masks_of_another_size_or_damaged(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "train" / f"{name}.jpg")
        (tmp_path / "trainannot").mkdir(exist_ok=True)
        Image.new("L", SIZE, 1).save(tmp_path / "trainannot" / f"{name}.png")
    (tmp_path / "trainannot" / "c.png").write_bytes(
        (tmp_path / "trainannot" / "a.png").read_bytes()
    )
    assert faults(examine(str(tmp_path))).items() >= {"trainannot/c.png": "no_picture"}.items()
    Image.new("L", SIZE[::-1], 1).save(tmp_path / "trainannot" / "a.png")
    data = (tmp_path / "trainannot" / "b.png").read_bytes()
    (tmp_path / "trainannot" / "b.png").write_bytes(data[: len(data) // 2])
    found = faults(examine(str(tmp_path)))
    assert found["train/a.jpg"] == "size"
    assert found["train/b.jpg"] == "broken"
    with pytest.raises(
        InputError, match=r"train/a\.jpg: size: its mask trainannot/a\.png has 30x40"
    ):
        open_source(str(tmp_path))
    Image.new("RGB", SIZE, "red").save(tmp_path / "trainannot" / "a.png", "JPEG")
    with pytest.raises(InputError, match=r"JPEG changes values"):
        open_source(str(tmp_path))


def test_a_list_names_boxes_as_people_write_them(tmp_path):
    root = folder(tmp_path, BOXES["degenerate"])
    (tmp_path / "bad.txt").write_text(
        f"{root}/JPEGImages/a.png#box 5\r\nJPEGImages\\b.png#box 2\tno dog\n"
        "JPEGImages/a.png#box 9\nJPEGImages/z.png#box 1\n"
    )
    source = open_source(str(root), exclude=read_list(tmp_path / "bad.txt"))
    assert said(source, "excluded") == "excluded: 2 boxes of 2 pictures"
    lost = said(source, "listed to be excluded")
    assert "a.png#box 9" in lost
    assert "z.png#box 1" in lost
    found = targets_of(source)
    assert len(found["JPEGImages/a.png"]["boxes"]) == 4
    assert [source.classes[i] for i in found["JPEGImages/b.png"]["labels"]] == ["cat", "cat", "dog"]


def test_doctor_of_bccd_names_its_two_boxes(real_data, tmp_path):
    root, bad = real_data / "bccd" / "BCCD", tmp_path / "bad.txt"
    done = CliRunner().invoke(app, ["doctor", str(root), "--quarantine", str(bad)])
    assert done.exit_code == 1
    lines = done.output.splitlines()
    for file, box in (("338", 13), ("343", 4)):
        [line] = [line for line in lines if f"BloodImage_00{file}.jpg#box {box}:" in line]
        assert "degenerate: RBC" in line
        assert f"Annotations/BloodImage_00{file}.xml, line " in line
    assert "test: Platelets 69, RBC 805, WBC 71" in lines
    assert lines[-1] == "364 pictures, 2 problems"
    assert len(bad.read_text().splitlines()) == 2
    as_json = json.loads(CliRunner().invoke(app, ["doctor", str(root), "--json"]).output)
    assert [p["kind"] for p in as_json["problems"]] == ["degenerate"] * 2
    assert as_json["counts"]["train"] == {"Platelets": 209, "RBC": 2382, "WBC": 214}
    source = open_source(str(root), exclude=read_list(bad))
    assert sum(len(t["boxes"]) for t in targets_of(source).values()) == 4888 - 2


def test_the_page_names_every_kind_of_fault():
    page = (Path(__file__).parent.parent / "docs" / "annotated.md").read_text()
    kinds = {*REFUSED, "double", "seen_once", "no_picture"}
    assert {*re.findall(r"^\| `(\w+)` \|", page, re.M)} == kinds
