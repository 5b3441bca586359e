"""What a run is going to do: settled and complete before it begins, and never changed."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from deepen.data.hold_out import Held, hold_out, hold_out_again
from deepen.data.parquet import HUB
from deepen.data.seen import sample_of
from deepen.data.sources import NAMED, PictureSet, open_source
from deepen.errors import InputError
from deepen.models import takes_of
from deepen.training.choice import PRETRAINED, choose
from deepen.training.initialization import Start, read_start
from deepen.training.prepare import Prepared, adopt, prepare
from deepen.training.recipe import Recipe, load_recipe
from deepen.training.request import Here, Request
from deepen.training.speed import Settings, rules, stated
from deepen.weights.from_torchvision import is_torchvision
from deepen.weights.names import TORCHVISION


@dataclass(frozen=True)
class Plan:
    """What a run does, all of it: what a resume must find unchanged, and what is read off that.

    Attributes:
        data: folder or name, as the user gave it.
        data_dir: where named data sets lie, if said.
        excluded: pictures left out.
        model: name of the network.
        recipe: complete, speed settings too.
        source: the pictures.
        input: how a picture becomes the network's input.
        start: trained weights that it starts from, if any.
        words: what was chosen for the user, and why.
        left_open: the recipe's speed settings that were chosen.
        speed: which, and why, in a line; "" where none was open.
    """

    data: str
    data_dir: str | None
    excluded: tuple[str, ...]
    model: str
    recipe: Recipe
    source: PictureSet
    input: Prepared
    start: Start | None = None
    words: tuple[str, ...] = ()
    left_open: tuple[str, ...] = ()
    speed: str = ""

    @cached_property
    def trained_on(self) -> tuple[str, ...]:
        """By what the weights' card will know these pictures again."""
        return sample_of(self.source.splits["train"], self.source.classes)

    def about(self) -> dict[str, Any]:
        """data.json."""
        source = self.source
        return {
            "name": self.data,
            "model": self.model,
            "data_dir": self.data_dir,
            "excluded": list(self.excluded),
            "root": None if source.root is None else str(source.root.absolute()),
            "place": None if source.root is None else absolute(source.name),
            "classes": list(source.classes),
            "channels": source.channels,
            "counts": {name: len(split) for name, split in source.splits.items()},
            "notes": [*source.notes, *self.words],
            "fingerprint": source.fingerprint,
            "start": None if self.start is None else self.start.about(),
        }


def settle(request: Request, here: Here) -> Plan:
    """Settle a new run: read the data, choose what the user left open, and say so.

    Raises:
        InputError: words or data are off; nothing has been written.
        WorkError: weights of others could not be fetched.
    """
    if request.data is None:
        raise InputError("name the data to train on: a folder of pictures, or a data set")
    if request.weights is not None and request.init_from is not None:
        raise InputError("--init-from copies layers, --weights takes all: give one of them")
    if request.model is not None:
        takes_of(request.model)  # a wrong name is said before the data are read
    request = with_tags(request)
    source = open_pictures(request, held_out(request))
    start = _start(request, source, here.place.type)
    card = start.loaded.card if start is not None and start.whole else None
    changes = dict(request.changes)
    fill_in = request.chooser or choose
    choice = fill_in(source, request.model, request.recipe, changes, card, here.place.type)
    for line in (*source.notes, *choice.words):
        here.reporter.message(line)
    return complete(request, here, source, choice.model, choice.recipe, start, choice.words)


def complete(
    request: Request,
    here: Here,
    source: PictureSet,
    model: str,
    recipe: Recipe,
    start: Start | None,
    words: tuple[str, ...] = (),
) -> Plan:
    """The plan for pictures, network and recipe: input and speed settings follow from these.

    Raises:
        InputError: the recipe asks for something that these data or this network cannot have.
    """
    prepared = _input(source, model, recipe, start)
    source = source.seen_with(prepared.preprocessing.white)
    plan = Plan(
        data=source.name if isinstance(request.data, PictureSet) else str(request.data),
        data_dir=None if request.folder is None else str(request.folder.expanduser().absolute()),
        excluded=tuple(request.exclude),
        model=model,
        recipe=recipe,
        source=source,
        input=prepared,
        start=start,
        words=words,
    )
    return _with_speed(plan, here)


def varied(plan: Plan, recipe: Recipe, here: Here) -> Plan:
    """The plan with another recipe: input and speed settings follow from that.

    Raises:
        InputError: the recipe asks for something that these data or this network cannot have.
    """
    same = recipe.input == plan.recipe.input
    prepared = plan.input if same else _input(plan.source, plan.model, recipe, plan.start)
    return _with_speed(replace(plan, recipe=recipe, input=prepared), here)


def _input(source: PictureSet, model: str, recipe: Recipe, start: Start | None) -> Prepared:
    """How pictures are prepared: as trained weights have it, else by the network and the data."""
    if start is not None and start.whole:
        return adopt(recipe.input, source, start.loaded.card, start.loaded.mean_image)
    return prepare(recipe.input, source, takes_of(model))


def _with_speed(plan: Plan, here: Here) -> Plan:
    """What the recipe leaves open of its speed settings, by rules."""
    train = plan.source.splits["train"]
    settings, speed = rules(plan.recipe, plan.input.preprocessing, train, here)
    left_open = tuple(name for name in Settings._fields if name not in stated(plan.recipe))
    recipe = plan.recipe.model_copy(update=settings._asdict())
    return replace(plan, recipe=recipe, left_open=left_open, speed=speed if left_open else "")


def open_pictures(request: Request, held: Held, begun: str | None = None) -> PictureSet:
    """The pictures that are asked for, or that the user has made.

    Args:
        request: what is asked for.
        held: what is held out of them.
        begun: the fingerprint of the run that they are to be of, if any.

    Raises:
        InputError: there are none.
    """
    if isinstance(request.data, PictureSet):
        if request.exclude:
            raise InputError("exclude goes with a folder; leave pictures out of your own set")
        if request.data.own or request.data.splits.keys() != {"train"}:
            return request.data
        if begun is not None:
            return hold_out_again(request.data, held, begun)
        return hold_out(request.data, held)
    return open_source(
        str(request.data),
        data_dir=request.folder,
        download=request.download,
        validation=held.validation,
        exclude=request.exclude,
        together=held.together,
        begun=begun,
    )


def absolute(word: str) -> str:
    """A word for data, a folder say or Parquet files, that holds in any working directory."""
    files, mark, columns = word.partition("?")
    if files.startswith(HUB) or files in NAMED:
        return word
    parts = (str(Path(part).expanduser().absolute()) for part in files.split(os.pathsep))
    return os.pathsep.join(parts) + mark + columns


def with_tags(request: Request, task: str | None = None) -> Request:
    """The words for pictures whose table tells several classes each, where the task is multilabel.

    `task` is the recipe's, where that is known already.
    """
    if not isinstance(request.data, str) or "?labels=" not in request.data:
        return request
    if task is None:
        task = load_recipe(request.recipe or "quick", dict(request.changes)).task
    if task != "multilabel":
        return request
    return replace(request, data=request.data.replace("?labels=", "?tags=", 1))


def same_plan(shared: dict[str, Any], request: Request, here: Here) -> Plan:
    """The plan of another process, on this one's copy of the data.

    Raises:
        InputError: this process sees no data there, or others.
    """
    recipe = Recipe.model_validate(shared["recipe"])
    asked = request
    if not isinstance(request.data, PictureSet):
        asked = Request(shared["data"], data_dir=shared["data_dir"], exclude=shared["excluded"])
    source = open_pictures(asked, held_by(recipe), shared["fingerprint"])
    if source.fingerprint != shared["fingerprint"]:
        raise InputError(
            f"data {shared['data']}: {socket.gethostname()} has other pictures there than the "
            "machine of process 0"
        )
    model, begun, start = shared["model"], shared["start"], None
    if begun is not None:
        start = read_start(begun["path"], model, whole=begun["whole"])
        if start.sha256 != begun["sha256"]:
            raise InputError(f"{begun['path']}: {socket.gethostname()} has another file there")
    return complete(asked, here, source, model, recipe, start)


def share(plan: Plan) -> dict[str, Any]:
    """What another process needs in order to make the same plan."""
    about = plan.about()
    wanted = {key: about[key] for key in ("data_dir", "excluded", "model", "fingerprint", "start")}
    data = about["place"] or plan.data
    return {**wanted, "data": data, "recipe": plan.recipe.model_dump(mode="json")}


def held_out(request: Request) -> Held:
    """What the words hold out for validation."""
    if request.recipe is not None:
        return held_by(load_recipe(request.recipe, dict(request.changes)))
    said = {key: request.changes[key] for key in Held._fields if key in request.changes}
    return held_by(load_recipe("quick", said))  # any recipe refuses what is no count


def held_by(recipe: Recipe) -> Held:
    """What a recipe holds out for validation."""
    return Held(recipe.validation, recipe.together)


def _start(request: Request, source: PictureSet, device: str) -> Start | None:
    """The weights to start from, as the user said or may have meant."""
    if request.init_from is not None:
        return read_start(request.init_from, None, whole=False)
    weights = request.weights or _consented(request, source)
    if weights is None:
        return None
    model = request.model
    if model is None and is_torchvision(str(weights)):
        model = PRETRAINED.get(device, PRETRAINED["cpu"])
    return read_start(weights, model, whole=True)


def _consented(request: Request, source: PictureSet) -> str | None:
    """Whether weights may be fetched: for a folder of photographs that nobody has a recipe for."""
    known = request.model is None or request.model in TORCHVISION.values()
    photographs = source.root is not None and source.splits["train"].files is not None
    wanted = request.download and known and request.recipe is None and photographs
    return "imagenet" if wanted else None
