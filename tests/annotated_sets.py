"""Small sets with boxes and masks, written as people have them; for the tests of their reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from deepen.data.annotated.outlines import runs_of
from deepen.data.sources import PictureSet

SIZE = (40, 30)  # width, height


def picture(path: Path, size: tuple[int, int] = SIZE, **how) -> Path:
    """A picture of noise that only its name decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def voc_xml(
    boxes: list[tuple[str, object, object, object, object]],
    size: tuple[int, int] = SIZE,
) -> str:
    things = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin>"
        f"<ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>\n"
        for name, a, b, c, d in boxes
    )
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>\n{said}\n{things}</annotation>\n"


def voc_folder(root: Path, boxes: dict[str, list], lists: dict[str, list[str]] | None = None):
    """A folder of VOC's with a picture a name."""
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, of_picture in boxes.items():
        picture(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(of_picture))
    for split, names in (lists or {}).items():
        folder = root / "ImageSets" / "Main"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def targets_of(source: PictureSet) -> dict[str, dict]:
    found = {}
    for split in source.splits.values():
        assert split.targets is not None
        found |= zip(split.keys, split.targets, strict=True)
    return found


def said(source: PictureSet, start: str) -> str:
    [line] = [note for note in source.notes if note.startswith(start)]
    return line


def coco_document(names: list[str], rng: np.random.Generator, size=SIZE) -> dict:
    """Random polygons, runs in both writings and crowds; ids with gaps, categories out of order."""
    width, height = size
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "cow"}]
    images = [
        {"id": 10 * i + 5, "file_name": name, "width": width, "height": height}
        for i, name in enumerate(names)
    ]
    annotations = []
    for image in images:
        for kind in rng.permutation(["polygon", "polygons", "runs", "compressed"]).tolist():
            corners = rng.uniform(0, size, (8, 2))
            if kind in ("polygon", "polygons"):
                outline = [corners[:5].ravel().tolist(), corners[4:].ravel().tolist()]
                outline = outline[: 1 + (kind == "polygons")]
            else:
                mask = np.zeros((height, width), np.uint8)
                mask[3 : int(rng.integers(5, height)), 2 : int(rng.integers(4, width))] = 1
                outline = coco_mask.encode(np.asfortranarray(mask))
                outline["counts"] = outline["counts"].decode()
                if kind == "runs":
                    outline = runs_of(mask)
            low, high = corners.min(0), corners.max(0)
            annotations.append(
                {
                    "id": 1000 - len(annotations),
                    "image_id": image["id"],
                    "category_id": categories[int(rng.integers(3))]["id"],
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "segmentation": outline,
                    "iscrowd": int(kind == "runs"),
                    "area": 1.0,
                }
            )
    rng.shuffle(annotations)
    return {"images": images, "annotations": annotations, "categories": categories}
