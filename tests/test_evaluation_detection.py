"""Detectors scored: against PASCAL's rules by hand, pycocotools, and the definitions of TIDE."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as theirs
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deepen.errors import InputError, WorkError
from deepen.evaluation.average_precision import (
    Ranking,
    area,
    curve_of,
    eleven_points,
    rank,
    resampled_areas,
    thinned,
)
from deepen.evaluation.boxes import Detections, pair, shares_within
from deepen.evaluation.coco import CocoScores, run_lengths, score_boxes, score_masks
from deepen.evaluation.detection import DetectionScores, score_detections
from deepen.evaluation.detection_errors import KINDS, find_errors
from deepen.evaluation.intervals import bootstrap_interval, draw_again

SIZE = (120, 90)  # width and height


def said(*rows: tuple[int, float, tuple[float, ...]]) -> Detections:
    """Of (label, score, box) each."""
    return Detections(
        torch.tensor([row[2] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float64),
        torch.tensor([row[0] for row in rows], dtype=torch.int64),
    )


def there(*rows: tuple[int, tuple[float, ...]], **flags: list[bool]) -> dict[str, torch.Tensor]:
    """Of (label, box) each."""
    return {
        "boxes": torch.tensor([row[1] for row in rows], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([row[0] for row in rows], dtype=torch.int64),
        **{name: torch.tensor(values) for name, values in flags.items()},
    }


def make_set(seed: int, *, pictures: int = 25, classes: int = 3, flag: str = "difficult"):
    """Pictures with whole-number boxes, some of them ignored, and detections near and far."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(pictures):
        m, n = rng.integers(0, 6), rng.integers(0, 14)
        corner = rng.integers(0, (80, 60), (m, 2))
        boxes = np.concatenate([corner, corner + rng.integers(4, (41, 31), (m, 2))], 1)
        labels = rng.integers(0, classes, m)
        corner = rng.integers(0, (80, 60), (n, 2))
        guesses = np.concatenate([corner, corner + rng.integers(4, (41, 31), (n, 2))], 1)
        names = rng.integers(0, classes, n)
        if m:
            near, of = rng.random(n) < 0.7, rng.integers(0, m, n)
            moved = boxes[of] + rng.integers(-6, 7, (n, 4))
            moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
            guesses = np.where(near[:, None], moved, guesses)
            names = np.where(near & (rng.random(n) < 0.8), labels[of], names)
        found.append(
            Detections(*map(torch.from_numpy, (guesses.astype(np.float32), rng.random(n), names)))
        )
        truth.append(
            {
                "boxes": torch.from_numpy(boxes).float(),
                "labels": torch.from_numpy(labels),
                flag: torch.from_numpy(rng.random(m) < 0.15),
            }
        )
    return found, truth


# PASCAL VOC


def devkit(found, truth, label: int) -> tuple[float, float]:
    """VOC07 and VOC10 AP of a class as the devkit computes it, in inclusive pixels from 1 on."""
    objects = sum(
        int(c == label and not d)
        for target in truth
        for c, d in zip(target["labels"].tolist(), target["difficult"].tolist(), strict=True)
    )
    ranked = [
        (score, i, (x1 + 1, y1 + 1, x2, y2))
        for i, one in enumerate(found)
        for (x1, y1, x2, y2), score, c in zip(*(v.tolist() for v in one[:3]), strict=True)
        if c == label
    ]
    hits, wrong, points, claimed = 0, 0, [], set()
    for _, i, b in sorted(ranked, reverse=True):
        best, which = 0.0, -1
        for j, (x1, y1, x2, y2) in enumerate(truth[i]["boxes"].tolist()):
            if truth[i]["labels"][j] != label:
                continue
            g = (x1 + 1, y1 + 1, x2, y2)
            w = min(b[2], g[2]) - max(b[0], g[0]) + 1
            h = min(b[3], g[3]) - max(b[1], g[1]) + 1
            if w > 0 and h > 0:
                areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (b, g)]
                overlap = w * h / (sum(areas) - w * h)
                if overlap > best:
                    best, which = overlap, j
        if best > 0.5 and truth[i]["difficult"][which]:
            continue
        if best > 0.5 and (i, which) not in claimed:
            claimed.add((i, which))
            hits += 1
        else:
            wrong += 1
        points.append((hits / objects, hits / (hits + wrong)))
    eleven = sum(max((p for r, p in points if r >= t), default=0.0) for t in np.arange(0, 1.1, 0.1))
    total, last = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        total += (recall - last) * max(p for _, p in points[i:])
        last = recall
    return eleven / 11, total


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_the_devkit(seed):
    found, truth = make_set(seed)
    for label, ranking in enumerate(rank(pair(found, truth, 3), 3)):
        curve = curve_of(ranking)
        ours = eleven_points(curve.recall, curve.precision), area(curve.recall, curve.precision)
        assert 0.05 < ours[1] < 0.9
        assert ours == pytest.approx(devkit(found, truth, label), abs=1e-12)


BOX, FAR = (10, 10, 50, 50), (70, 60, 110, 85)


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        ([(0, 0.9, BOX)], there((0, BOX)), 1.0),
        ([(0, 0.9, (10, 10, 50, 30))], there((0, BOX)), 0.0),  # an exact half
        ([(0, 0.9, (10, 10, 50, 31))], there((0, BOX)), 1.0),
        ([(1, 0.9, BOX)], there((0, BOX)), 0.0),
        ([], there((0, BOX)), 0.0),
        ([(0, 0.9, FAR), (0, 0.8, BOX)], there((0, BOX)), 0.5),
        ([(0, 0.9, BOX), (0, 0.8, BOX), (0, 0.7, FAR)], there((0, BOX), (0, FAR)), 5 / 6),
        # A second detection of a difficult object is as little wrong as the first.
        (
            [(0, 0.9, FAR), (0, 0.8, FAR), (0, 0.7, BOX)],
            there((0, BOX), (0, FAR), difficult=[False, True]),
            1.0,
        ),
        (
            [(0, 0.9, FAR), (0, 0.8, BOX)],
            there((0, BOX), (0, FAR), crowd=[False, True]),
            1.0,
        ),
        ([(0, 0.9, BOX)], there((0, BOX), difficult=[True]), None),
        ([(0, 0.9, BOX)], there(), None),
        # Each detection belongs to the object it overlaps most, found already or not.
        (
            [(0, 0.9, (0, 0, 40, 40)), (0, 0.8, (2, 0, 42, 40))],
            there((0, (0, 0, 40, 40)), (0, (8, 0, 48, 40))),
            0.5,
        ),
    ],
)
def test_rules_of_pascal_by_hand(found, truth, expected):
    curve = curve_of(rank(pair([said(*found)], [truth], 2), 2)[0])
    if expected is None:
        assert curve is None
    else:
        assert area(curve.recall, curve.precision) == pytest.approx(expected)


def test_eleven_points_by_hand():
    """Right, wrong, right, right of four: precision 1 to a recall of 1/4, 3/4 to 3/4, then 0."""
    curve = curve_of(Ranking(np.arange(4.0), np.array([1, 0, 1, 1], bool), np.zeros(4, int), [4]))
    assert eleven_points(curve.recall, curve.precision) == pytest.approx((3 + 5 * 0.75) / 11)
    assert area(curve.recall, curve.precision) == pytest.approx((1 + 2 * 0.75) / 4)


def test_inclusive_pixels_overlap_as_edges_do():
    """Two of one pixel side by side share nothing; one on the other shares all."""
    row = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1], [0, 0, 2, 1]]).float()
    (picture,) = pair([Detections(row, torch.ones(3), torch.zeros(3).long())], [there((0, BOX))], 1)
    assert picture.overlaps.max() == 0
    (picture,) = pair([said((0, 1, tuple(row[0].tolist())))], [there((0, (0, 0, 2, 1)))], 1)
    assert picture.overlaps == 0.5


# COCO


def pycocotools(found, truth, num_classes: int, kind: str) -> COCOeval:
    """Objects as COCO's own files have them; the area is the mask's where there is one."""
    objects, guesses = [], []
    for i, (one, target) in enumerate(zip(found, truth, strict=True)):
        none = torch.zeros(len(target["labels"]))
        passed_over = target.get("difficult", none).bool() | target.get("crowd", none).bool()
        for j, (x1, y1, x2, y2) in enumerate(target["boxes"].tolist()):
            each = {
                "id": len(objects) + 1,
                "image_id": i,
                "category_id": int(target["labels"][j]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(passed_over[j]),
            }
            if "masks" in target:
                mask = target["masks"][j].numpy()
                each["segmentation"] = theirs.encode(np.asfortranarray(mask))
                each["area"] = float(mask.sum())
            objects.append(each)
        for j, (x1, y1, x2, y2) in enumerate(one.boxes.tolist()):
            each = {
                "image_id": i,
                "category_id": int(one.labels[j]),
                "score": float(one.scores[j]),
            }
            if kind == "segm":
                each["segmentation"] = theirs.encode(np.asfortranarray(one.masks[j].numpy()))
            else:
                each["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            guesses.append(each)
    data = COCO()
    data.dataset = {
        "info": {},
        "images": [{"id": i, "height": SIZE[1], "width": SIZE[0]} for i in range(len(truth))],
        "categories": [{"id": c} for c in range(num_classes)],
        "annotations": objects,
    }
    data.createIndex()
    judge = COCOeval(data, data.loadRes(guesses), kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return judge


def check_coco(ours: CocoScores, judge: COCOeval) -> None:
    twelve = list(ours.model_dump(exclude={"per_class"}).values())
    assert len(twelve) == 12
    for value, expected in zip(twelve, judge.stats.tolist(), strict=True):
        assert (-1 if value is None else value) == pytest.approx(expected, abs=1e-6)
    for c, each in enumerate(ours.per_class):
        precision = judge.eval["precision"][:, :, c, 0, 2]
        for value, part in (
            (each.ap, precision),
            (each.ap50, precision[0]),
            (each.ap75, precision[5]),
            (each.ar100, judge.eval["recall"][:, c, 0, 2]),
        ):
            assert (-1 if value is None else value) == pytest.approx(part.mean(), abs=1e-6)


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_coco_of_boxes_is_that_of_pycocotools(flag):
    for seed in range(3):
        found, truth = make_set(seed, flag=flag)
        ours = score_boxes(found, truth, 4)  # of the last class there is none
        assert ours.ap_small is not None
        assert ours.ap_medium is not None
        assert ours.per_class[3].ap is None
        check_coco(ours, pycocotools(found, truth, 4, "bbox"))


def with_masks(found, truth):
    """Ellipses in the boxes, so that a mask's area is not the box's."""
    y, x = torch.meshgrid(torch.arange(SIZE[1]) + 0.5, torch.arange(SIZE[0]) + 0.5, indexing="ij")

    def ellipses(boxes: torch.Tensor) -> torch.Tensor:
        if not len(boxes):
            return torch.zeros(0, SIZE[1], SIZE[0], dtype=torch.uint8)
        x1, y1, x2, y2 = boxes.T[:, :, None, None]
        across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        return (across.square() + down.square() <= 1).byte()

    return (
        [one._replace(masks=ellipses(one.boxes)) for one in found],
        [{**target, "masks": ellipses(target["boxes"])} for target in truth],
    )


def test_coco_of_masks_is_that_of_pycocotools():
    found, truth = with_masks(*make_set(1, flag="crowd"))
    judge = pycocotools(found, truth, 3, "segm")
    ours = score_masks(found, truth, 3)
    check_coco(ours, judge)
    assert 0.05 < ours.ap < 0.9
    short = [one._replace(masks=run_lengths(one.masks)) for one in found]
    assert score_masks(short, truth, 3) == ours
    # Sizes are by the masks for boxes too, as in COCO's files.
    boxes = score_boxes(found, truth, 3)
    check_coco(boxes, pycocotools(found, truth, 3, "bbox"))
    assert boxes != score_boxes(found, [{**t, "masks": t["masks"] * 0} for t in truth], 3)


def test_crowds_swallow_what_lies_in_them():
    found = said((0, 0.9, BOX), (0, 0.8, (60, 10, 70, 20)), (0, 0.7, (80, 40, 90, 50)))
    truth = there((0, BOX), (0, (55, 5, 119, 80)), crowd=[False, True])
    assert score_boxes([found], [truth], 1).ap == 1
    assert score_boxes([found], [{**truth, "crowd": torch.zeros(2)}], 1).ap50 < 0.6
    within = shares_within(found.boxes.numpy(), truth["boxes"].numpy()[1:])
    expected = theirs.iou([[60.0, 10, 10, 10]], [[55.0, 5, 64, 75]], [1])
    assert within[1] == pytest.approx(expected[0])


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    found, truth = make_set(0)
    wanted = builtins.__import__

    def without(name: str, *rest):
        if name.startswith("faster_coco_eval"):
            raise ImportError(name)
        return wanted(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'deepen\[detection\]'"):
        score_detections(found, truth, "abc")


# Errors by kind


HIT = (said((0, 0.9, BOX)), there((0, BOX)))
B_HIT = (said((1, 0.95, BOX)), there((1, BOX)))
HALF = 51 / 101  # all found up to a recall of a half
THEN_WRONG = (51 + 50 * 2 / 3) / 101  # right, wrong, right


@pytest.mark.parametrize(
    ("kind", "found", "truth", "ap", "mended"),
    [
        (  # overlaps by 0.4
            "localization",
            [HIT[0], said((0, 0.8, (10, 10, 26, 50)))],
            [HIT[1], there((0, BOX))],
            HALF,
            1,
        ),
        (  # b for a; a b is found, less surely
            "classification",
            [HIT[0], said((1, 0.8, BOX)), said((1, 0.7, BOX))],
            [HIT[1], there((0, BOX)), there((1, BOX))],
            (HALF + 0.5) / 2,
            1,
        ),
        (  # a, by 0.4 on a b, which is found
            "both",
            [HIT[0], said((0, 0.8, (10, 10, 26, 50)), (1, 0.9, BOX)), said((0, 0.7, FAR))],
            [HIT[1], there((1, BOX)), there((0, FAR))],
            (THEN_WRONG + 1) / 2,
            1,
        ),
        (
            "duplicate",
            [said((0, 0.9, BOX), (0, 0.8, BOX)), said((0, 0.7, FAR))],
            [HIT[1], there((0, FAR))],
            THEN_WRONG,
            1,
        ),
        (
            "background",
            [said((0, 0.9, BOX), (0, 0.8, FAR)), said((0, 0.7, FAR))],
            [HIT[1], there((0, FAR))],
            THEN_WRONG,
            1,
        ),
        (  # where there is nothing at all
            "background",
            [HIT[0], said((0, 0.8, BOX)), said((0, 0.7, FAR))],
            [HIT[1], there(), there((0, FAR))],
            THEN_WRONG,
            1,
        ),
        ("missed", [HIT[0], said()], [HIT[1], there((0, BOX))], HALF, 1),
    ],
)
def test_each_kind_of_error_by_hand(kind, found, truth, ap, mended):
    errors = find_errors(pair(found, truth, 2), 2)
    costs = {each.kind: each for each in errors.costs}
    assert {k: costs[k].count for k in KINDS} == dict.fromkeys(KINDS, 0) | {kind: 1}
    assert errors.ap50 == pytest.approx(ap)
    assert costs[kind].cost == pytest.approx(mended - ap)
    assert all(costs[k].cost == 0 for k in KINDS if k != kind)
    (mistake,) = errors.mistakes
    assert mistake.kind == kind
    assert (mistake.detection is None) == (kind == "missed")


def test_of_several_at_one_object_the_surest_is_mended():
    """Two badly placed and one of the wrong class: one of them finds it, and it is not missed."""
    near = (10, 10, 26, 50)
    found = [said((0, 0.9, near), (0, 0.8, near), (1, 0.7, BOX)), B_HIT[0]]
    errors = find_errors(pair(found, [there((0, BOX)), B_HIT[1]], 2), 2)
    costs = {each.kind: (each.count, each.cost) for each in errors.costs}
    assert errors.ap50 == pytest.approx(0.5)  # b: right, then wrong
    assert costs["localization"] == (2, pytest.approx(0.5))
    assert costs["classification"] == (1, 0)
    assert costs["missed"] == (0, 0)
    assert costs["any wrong"] == (3, 0)
    assert costs["any not found"] == (1, 0)  # what is left of a are two wrong ones


def test_errors_at_objects_that_are_found_are_dropped():
    """The badly placed one is the surer; its object has been found all the same."""
    found = [said((0, 0.9, (10, 10, 26, 50)), (0, 0.8, BOX))]
    errors = find_errors(pair(found, [HIT[1]], 1), 1)
    costs = {each.kind: (each.count, each.cost) for each in errors.costs}
    assert errors.ap50 == pytest.approx(0.5)
    assert costs["localization"] == (1, pytest.approx(0.5))
    assert [costs[k] for k in ("duplicate", "missed")] == [(0, 0), (0, 0)]


def test_what_lies_on_difficult_objects_is_no_error():
    found = [said((0, 0.95, FAR), (0, 0.9, BOX), (0, 0.85, FAR))]
    truth = [there((0, BOX), (0, FAR), difficult=[False, True])]
    errors = find_errors(pair(found, truth, 1), 1)
    assert errors.ap50 == 1
    assert errors.mistakes == []


@pytest.mark.parametrize("seed", range(3))
def test_the_errors_of_a_set_are_consistent(seed):
    """AP is COCO's at 0.5, and each object is found, mended or missed."""
    found, truth = make_set(seed)
    pictures = pair(found, truth, 3)
    errors = find_errors(pictures, 3)
    assert errors.ap50 == pytest.approx(score_boxes(found, truth, 3).ap50, abs=1e-6)
    costs = {each.kind: each for each in errors.costs}
    assert sum(costs[kind].count for kind in KINDS[:5]) == costs["any wrong"].count
    assert len(errors.mistakes) == sum(costs[kind].count for kind in KINDS)
    assert all(costs[kind].count > 0 for kind in KINDS)
    assert costs["missed"].count <= costs["any not found"].count
    for each in errors.mistakes:  # each is what its kind says
        picture = pictures[each.picture]
        if each.detection is None:
            assert not picture.ignored[each.object]
            continue
        shares = np.where(picture.ignored, 0, picture.overlaps[each.detection])
        own = picture.labels[each.detection] == picture.true_labels
        best, other = (np.append(shares[mask], 0).max() for mask in (own, ~own))
        holds = {
            "localization": 0.1 <= best <= 0.5,
            "classification": other >= 0.5 and best < 0.1,
            "duplicate": best >= 0.5,
            "background": max(best, other) <= 0.1,
            "both": best < 0.1 < other < 0.5,
        }
        assert holds[each.kind]


# Intervals


def simulate(rng: np.random.Generator, pictures: int) -> Ranking:
    """Objects that are found with a chance of their picture, and false alarms of lower scores."""
    objects, chance = rng.poisson(3, pictures), rng.beta(4, 2, pictures)
    hits, alarms = rng.binomial(objects, chance), rng.poisson(3, pictures)
    scores = np.concatenate([rng.normal(1.5, 1, hits.sum()), rng.normal(0, 1, alarms.sum())])
    right = np.arange(len(scores)) < hits.sum()
    places = np.concatenate([np.repeat(np.arange(pictures), n) for n in (hits, alarms)])
    order = np.argsort(-scores)
    return Ranking(scores[order], right[order], places[order], objects)


def ap_of(ranking: Ranking) -> float:
    curve = curve_of(ranking)
    return float(area(curve.recall, curve.precision))


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth = np.mean([ap_of(simulate(rng, 4000)) for _ in range(10)])
    draws = draw_again(80, 400)
    measured, held, widths = [], 0, []
    for _ in range(120):
        ranking = simulate(rng, 80)
        measured.append(ap_of(ranking))
        low, high = bootstrap_interval(measured[-1], resampled_areas(ranking, draws))
        held += low <= truth <= high
        widths.append(high - low)
    assert 0.88 <= held / 120 <= 0.99
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(measured), rel=0.2)


def test_resamples_are_of_whole_pictures():
    """A resample's area is that of a set that has each picture as often as it was drawn."""
    found, truth = make_set(3)
    draws = draw_again(len(found), 20)
    for label in range(3):
        fast = resampled_areas(rank(pair(found, truth, 3), 3)[label], draws)
        for value, drawn in zip(fast, draws, strict=True):
            places = np.repeat(np.arange(len(found)), drawn)
            again = rank(pair([found[i] for i in places], [truth[i] for i in places], 3), 3)
            assert value == pytest.approx(ap_of(again[label]), abs=1e-9)


def test_bootstrap_intervals_by_hand():
    """Without a bias they are the percentiles; NaNs are no figures."""
    values = np.append(np.arange(1001) / 1000, np.nan)
    assert bootstrap_interval(0.5, values) == pytest.approx((0.025, 0.975), abs=1e-3)
    low, high = bootstrap_interval(0.4, values)  # half of the resamples should lie below
    assert (low, high) == pytest.approx((0.0069, 0.927), abs=2e-3)
    assert bootstrap_interval(0.5, np.array([np.nan])) is None
    assert bootstrap_interval(1.0, np.ones(50)) == (1, 1)


# All together


def test_scores_are_complete_and_the_same_each_time():
    found, truth = with_masks(*make_set(2))
    sizes = [SIZE] * len(found)
    scores = score_detections(found, truth, ["a", "b", "c", "none"], sizes, protocol="made up")
    assert score_detections(found, truth, ["a", "b", "c", "none"]).map50_interval == (
        scores.map50_interval
    )
    again = DetectionScores.model_validate(json.loads(scores.model_dump_json()))
    assert again == scores
    voc = [devkit(found, truth, label) for label in range(3)]
    assert scores.figures["map07"] == pytest.approx(np.mean([each[0] for each in voc]))
    assert scores.figures["map50"] == pytest.approx(np.mean([each[1] for each in voc]))
    judge = pycocotools(found, truth, 4, "segm")
    assert scores.figures["mask_ap"] == pytest.approx(judge.stats[0], abs=1e-6)
    low, high = scores.map50_interval
    assert low < scores.figures["map50"] < high
    assert scores.headline.startswith(f"mAP50 {100 * scores.figures['map50']:.2f}% (95% interval ")
    assert "n 25 pictures), COCO AP " in scores.headline
    none = scores.per_class[3]
    assert (none.support, none.ap, none.ap_interval, none.best_f1) == (0, None, None, None)
    for each in scores.per_class[:3]:
        recall, precision, score = np.array(each.curve).T
        assert (np.diff(recall) > 0).all()
        assert (np.diff(score) <= 0).all()
        f1 = 2 * recall * precision / (recall + precision)
        assert each.best_f1 == pytest.approx(f1.max())
        assert each.best_score == pytest.approx(score[f1.argmax()])


def test_worst_mistakes_are_the_surest_and_the_largest():
    found, truth = make_set(4, pictures=60)
    keys = [f"p{i}.jpg" for i in range(60)]
    worst = score_detections(found, truth, "abc", keys=keys, resamples=0).worst
    wrong = [each for each in worst if each.kind != "missed"]
    missed = [each for each in worst if each.kind == "missed"]
    assert (len(wrong), len(missed)) == (16, 8)
    scores = [each.score for each in wrong]
    assert scores == sorted(scores, reverse=True)
    sizes = [(b[2] - b[0]) * (b[3] - b[1]) for each in missed if (b := each.true_box)]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sum(e.place == each.place for e in wrong) for each in wrong) <= 2
    first = wrong[0]
    assert first.key == keys[first.place]
    place = found[first.place].scores.tolist().index(first.score)
    assert first.box == tuple(found[first.place].boxes[place].tolist())
    assert first.predicted == "abc"[found[first.place].labels[place]]


def test_no_resample_has_no_interval():
    found, truth = make_set(0)
    scores = score_detections(found, truth, "abc", resamples=0)
    assert scores.map50_interval is None
    assert scores.headline.startswith("mAP50 ")
    assert "interval" not in scores.headline


def test_a_set_without_objects_has_no_figure():
    scores = score_detections([said((0, 0.9, BOX))], [there()], ["a"])
    assert scores.figures["map50"] is None
    assert scores.figures["coco_ap"] is None
    assert scores.headline == "no object to detect"


@pytest.mark.parametrize(
    ("found", "truth", "error", "words"),
    [
        ([], [], InputError, "detections of 0 pictures"),
        ([said()], [HIT[1], HIT[1]], InputError, "1 pictures, objects of 2"),
        ([said((2, 0.9, BOX))], [HIT[1]], InputError, r"picture 0: label 2 is outside 0\.\.1"),
        ([said((-1, 0.9, BOX))], [HIT[1]], InputError, "label -1"),
        ([HIT[0]], [there((2, BOX))], InputError, "objects of picture 0: label 2"),
        ([said((0, 0.9, (50, 50, 10, 90)))], [HIT[1]], InputError, "no box x1 y1 x2 y2"),
        ([HIT[0]], [there((0, (50, 50, 10, 90)))], InputError, "no box x1 y1 x2 y2"),
        ([said((0, float("nan"), BOX))], [HIT[1]], WorkError, "NaN"),
        ([said((0, 0.9, (10, 10, float("inf"), 50)))], [HIT[1]], WorkError, "infinite"),
        ([HIT[0]._replace(scores=torch.ones(2))], [HIT[1]], InputError, "2 scores"),
        ([HIT[0]._replace(boxes=torch.ones(2, 4))], [HIT[1]], InputError, "boxes"),
    ],
)
def test_what_does_not_fit_is_refused(found, truth, error, words):
    with pytest.raises(error, match=words):
        score_detections(found, truth, ["a", "b"])


def test_masks_of_another_size_are_refused():
    """As those of the network's input would be."""
    found, truth = with_masks(*make_set(0))
    with pytest.raises(InputError, match="masks of 120x90 px in one of 320x240"):
        score_detections(found, truth, "abc", [(320, 240)] * len(found))


def test_long_curves_are_thinned():
    ranking = Ranking(
        -np.arange(5000.0), np.ones(5000, bool), np.zeros(5000, int), np.array([5000])
    )
    points = list(thinned(curve_of(ranking), 200))
    assert len(points) == 200
    assert points[0] == (1 / 5000, 1, 0)
    assert points[-1] == (1, 1, -4999)
