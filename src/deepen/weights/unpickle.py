"""A pickled checkpoint to safetensors, in a process of its own: nothing in it is trusted.

Run by `deepen.weights.foreign` as `python -P unpickle.py FILE OUTPUT MAX_BYTES`; NumPy is all that
it imports. Prints one JSON object: {"entries": {...}, "beside": [...]} when OUTPUT is written, else
{"error": words}.

A pickle is a program that builds objects by calling what it names. Here nothing that it names is
looked up, and nothing is called: a name stays a name, and a call the record of one, whatever it
is (`argparse.Namespace`, a path, a user's own class). Of these records only those of plain tensors
mean something, and their values are copied out of the file by numbers that are checked. Memory is
limited to a few times what the file says that it holds.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_SLACK_BYTES = 128 * 1024**2
_DEPTH = 3  # entries below entries: checkpoint["ema"]["model"]["state_dict"] say
_MODULES, _NESTED = 100_000, 60  # of a pickled network: in all, and inside each other
_LEGACY = 0x1950A86A20F9469CFC6C  # what torch.save began its files with before it wrote archives

# What no honest checkpoint names. It would not be run, but whoever made the file meant it to be.
_ACTS = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|ctypes|importlib|runpy|pty|commands|code|marshal"
    r"|pickle|_pickle|webbrowser|asyncio|multiprocessing)(\..*)?"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|open|input|breakpoint|exit)"
)
# By the last word of the storage's class, and by torch's name of the kind.
_KINDS = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "DoubleStorage": "F64", "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16",
    "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
    "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip


class Refused(Exception):
    """Why the file is not read, in words."""


class Name(NamedTuple):
    """A class or function that a pickle names, not looked up."""

    path: str


class Made:
    """An object that a pickle would have made: what it calls, and what it fills the result with.

    Attributes:
        maker: what is called.
        args: with what.
        items: what is then put in by key, or appended under 0, 1, 2, ...
        state: what its fields are set to.
    """

    def __init__(self, maker: Any, args: Any) -> None:
        self.maker, self.args = maker, args
        self.items: dict[Any, Any] = {}
        self.state: Any = None

    @property
    def path(self) -> str:
        """The maker's name, "" where that is no name."""
        return self.maker.path if isinstance(self.maker, Name) else ""


class Stored(NamedTuple):
    """Where the file keeps the values of tensors.

    Attributes:
        kind: as safetensors calls it.
        key: of the place.
        start: values there that come before the first.
    """

    kind: str
    key: str
    start: int = 0


class Values(NamedTuple):
    """A tensor: its kind as safetensors calls it, and which of the values at a place are its own.

    `kind` is "" for one that is not read: sparse, quantized, of complex numbers.
    """

    kind: str
    key: str = ""
    offset: int = 0
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()


Place = Callable[[str], bytes]
"""The bytes that the file has under a key."""


def main(path: str, output: str, max_bytes: int) -> dict[str, Any]:
    """Read FILE, write OUTPUT, say what is in it or what went wrong."""
    try:
        holds = unpacked_bytes(path, max_bytes)
        limit_memory(4 * holds + _SLACK_BYTES)
        with open(path, "rb") as file:
            checkpoint, place = load(file)
            found = entries(checkpoint)
            write(output, found, place, max_bytes)
            names = {entry: list(tensors) for entry, tensors in found.items()}
            return {"entries": names, "beside": beside(checkpoint, found)}
    except Refused as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "needs more memory than its size allows; it is not read"}
    except Exception as error:
        return {"error": f"truncated or damaged, or no checkpoint of PyTorch's ({_brief(error)})"}


def unpacked_bytes(path: str, max_bytes: int) -> int:
    """What the file holds, as its own table of contents says."""
    with open(path, "rb") as file:
        head = file.read(4)
    if not zipfile.is_zipfile(path):
        if head.startswith(b"PK"):
            raise Refused("truncated: a zip archive without its end")
        return os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        contents = archive.infolist()
    names = {entry.filename.rpartition("/")[2] for entry in contents}
    if "constants.pkl" in names:
        raise Refused("a TorchScript program, which is not run; save its state_dict() instead")
    if "data.pkl" not in names:
        raise Refused("a zip archive, but no checkpoint of PyTorch's")
    holds = sum(entry.file_size for entry in contents)
    if holds > max_bytes:
        raise Refused(f"unpacks to {holds / 1e6:,.0f} MB, above the cap")
    return holds


def limit_memory(more_bytes: int) -> None:
    """Let this process take `more_bytes` more than it has, where the system can say and hold it."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, now + more_bytes))
    except (ImportError, OSError, ValueError):
        return  # Windows, macOS: the file's table of contents and its size are checked anyway


def load(file: BinaryIO) -> tuple[Any, Place]:
    """What a file holds, as records, and where the values of its tensors are."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return _load_legacy(file)
    archive = zipfile.ZipFile(file)
    pickled = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
    folder = pickled[: -len("data.pkl")]
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") == b"big":
        raise Refused("written on a big-endian machine, which is not read")
    with archive.open(pickled) as opened:
        return unpickle(opened), lambda key: archive.read(f"{folder}data/{key}")


def _load_legacy(file: BinaryIO) -> tuple[Any, Place]:
    """Five pickles (a mark, a version, the machine, the objects, keys), then the values by key."""
    first = unpickle(file)
    if first != _LEGACY:
        return first, _nowhere
    unpickle(file)
    if unpickle(file).get("little_endian") is False:
        raise Refused("written on a big-endian machine, which is not read")
    stored: dict[str, Stored] = {}
    checkpoint = unpickle(file, stored)
    places = {}
    for key in unpickle(file):
        (count,) = struct.unpack("<q", file.read(8))
        size = _size_of(stored[key].kind) if stored[key].kind else 1
        places[key] = file.tell(), count * size
        file.seek(count * size, os.SEEK_CUR)

    def place(key: str) -> bytes:
        start, size = places[key]
        file.seek(start)
        return file.read(size)

    return checkpoint, place


def _nowhere(key: str) -> bytes:
    raise Refused("its tensors lie in another file")


def unpickle(file: Any, stored: dict[str, Stored] | None = None) -> Any:
    """Follow one pickle up to its end; a stack machine (see pickletools) that calls nothing.

    Args:
        file: open, at the pickle's first byte; afterwards behind its last.
        stored: gets the places that tensors were found at.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        found = stack[start:]
        del stack[start:]
        return found

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _PLAIN:
            stack.append(_PLAIN[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            last = stack.pop()
            stack.append(_named(stack.pop(), last))
        elif name in ("REDUCE", "NEWOBJ"):
            args = stack.pop()
            stack.append(Made(stack.pop(), args))
        elif name == "NEWOBJ_EX":
            stack.pop()
            args = stack.pop()
            stack.append(Made(stack.pop(), args))
        elif name == "OBJ":
            maker, *args = since_mark()
            stack.append(Made(maker, tuple(args)))
        elif name == "INST":
            stack.append(Made(_named(*argument.split(" ", 1)), tuple(since_mark())))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Made):
                stack[-1].state = state
        elif name in ("PERSID", "BINPERSID"):
            where = _stored(argument if name == "PERSID" else stack.pop())
            if isinstance(where, Stored) and stored is not None:
                stored.setdefault(where.key, where)
            stack.append(where)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "FROZENSET":
            stack.append(since_mark())  # a list will do: what is in it need have no hash
        elif name == "DICT":
            found = since_mark()
            stack.append(dict(zip(found[::2], found[1::2], strict=True)))
        elif name == "SETITEM":
            value = stack.pop()
            _fill(stack, [stack.pop(), value])
        elif name == "SETITEMS":
            _fill(stack, since_mark())
        elif name == "APPEND":
            value = stack.pop()
            _extend(stack, [value])
        elif name in ("APPENDS", "ADDITEMS"):
            _extend(stack, since_mark())
        elif name == "POP":
            if marks and marks[-1] == len(stack):
                marks.pop()
            else:
                stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"a pickle with {name}, which no checkpoint has")
    raise EOFError


_CONSTANTS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
     "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
     "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
)  # fmt: skip
_PLAIN: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}


def _named(module: str, name: str) -> Name:
    path = f"{module}.{name}"
    if _ACTS.fullmatch(path):
        raise Refused(
            f"carries a pickled {path}, which is not run; no honest checkpoint has such a thing"
        )
    return Name(path)


def _stored(place: Any) -> Stored | Name:
    """Of ("storage", class, key, device, count, part of another); of a class's source the class."""
    if isinstance(place, tuple) and place[:1] == ("module",) and isinstance(place[1], Name):
        return place[1]
    if not (isinstance(place, tuple) and len(place) >= 3 and place[0] == "storage"):
        raise Refused("keeps values in a way that is not torch.save's")
    kind = place[1].path.rpartition(".")[2] if isinstance(place[1], Name) else ""
    part = place[5] if len(place) > 5 else None  # (key, start, count), of torch before 0.4
    return Stored(_KINDS.get(kind, ""), str(place[2]), part[1] if part else 0)


def _fill(stack: list[Any], pairs: list[Any]) -> None:
    target = stack[-1].items if isinstance(stack[-1], Made) else stack[-1]
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        target[key] = value


def _extend(stack: list[Any], values: list[Any]) -> None:
    if isinstance(stack[-1], Made):
        items = stack[-1].items
        items.update(enumerate(values, len(items)))
    else:
        stack[-1].extend(values)


def entries(checkpoint: Any) -> dict[str, dict[str, Values]]:
    """The sets of named tensors in a checkpoint, by where they are: "", "state_dict", "ema/model".

    An entry's name stands before those of what lies below it. A whole network that was pickled is
    the tensors that its `state_dict()` would have.
    """
    found: dict[str, dict[str, Values]] = {}
    seen: set[int] = set()

    def visit(value: Any, path: tuple[str, ...]) -> None:
        if module := dict(_module(value)):
            found["/".join(path)] = module
            return
        inside = _mapping(value)
        if id(value) in seen or not inside:
            return
        seen.add(id(value))
        named = {key: tensor for key, each in inside.items() if (tensor := _values(each))}
        tensors = {key: tensor for key, tensor in named.items() if isinstance(key, str)}
        if tensors:
            found["/".join(path)] = tensors
        if len(path) < _DEPTH:
            for key, each in inside.items():
                if isinstance(key, str) and key not in named:
                    visit(each, (*path, _whole(key)))

    visit(checkpoint, ())
    if found:
        return found
    if isinstance(checkpoint, Made) and not _mapping(checkpoint):
        raise Refused(
            f"carries a pickled {checkpoint.path or 'object'}, which is not run; only tensors are "
            "read: save the state_dict() instead"
        )
    inside = _mapping(checkpoint)
    if not inside and checkpoint != {}:
        raise Refused(f"holds a {type(checkpoint).__name__}, no tensors by name")
    has = ", ".join(map(str, list(inside)[:5])) or "nothing"
    raise Refused(f"has no tensors by name, at the top or below; it has {has}")


def _module(network: Any) -> Iterator[tuple[str, Values]]:
    """Names and tensors of a pickled `torch.nn.Module`, in the order of its `state_dict()`."""
    waiting, count = [("", network)], 0
    while waiting:
        prefix, module = waiting.pop()
        state = module.state if isinstance(module, Made) else None
        if not (isinstance(state, dict) and {"_parameters", "_buffers", "_modules"} <= {*state}):
            continue
        count += 1
        if count > _MODULES or prefix.count(".") > _NESTED:
            raise Refused("carries a pickled network without end")
        passing = state.get("_non_persistent_buffers_set") or ()
        if isinstance(passing, Made):  # set([...])
            passing = passing.args[0] if passing.args else ()
        own = {**_mapping(state["_parameters"]), **_mapping(state["_buffers"])}
        for name, value in own.items():
            if name not in passing and (tensor := _values(value)):
                yield f"{prefix}{name}", tensor
        inside = [(f"{prefix}{name}.", each) for name, each in _mapping(state["_modules"]).items()]
        waiting.extend(reversed(inside))


def beside(checkpoint: Any, found: dict[str, dict[str, Values]]) -> list[str]:
    """What a checkpoint has at the top beside tensors: epoch, optimizer, ..."""
    tops = {path.split("/")[0] for path in found}
    kept = [_whole(str(k)) for k, v in _mapping(checkpoint).items() if _values(v) is None]
    return [key[:100] for key in kept if key not in tops][:100]


def _whole(name: str) -> str:
    """Without halves of characters, which nothing can print."""
    return name.encode("utf-8", "replace").decode()


def _mapping(value: Any) -> dict[Any, Any]:
    """What a dictionary holds, or an object that is like one: an OrderedDict, a DotMap."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Made):
        return {}
    pairs = {}
    if value.path == "collections.OrderedDict" and value.args:  # as Python 2 pickled it
        pairs = dict(value.args[0])
    return {**pairs, **value.items}


def _values(value: Any) -> Values | None:
    """A tensor, if that is what is recorded."""
    if not isinstance(value, Made):
        return None
    module, _, function = value.path.rpartition(".")
    if module != "torch._utils" or not function.startswith("_rebuild_"):
        return None
    if function in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return _values(value.args[0])
    if function == "_rebuild_from_type_v2":
        return _values(Made(value.args[0], value.args[2]))
    if function not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        return Values("")
    where, offset, shape, stride = value.args[:4]
    kind = where.kind
    if function == "_rebuild_tensor_v3":
        kind = _KINDS.get(value.args[6].path.rpartition(".")[2], "")
    return Values(kind, where.key, where.start + offset, tuple(shape), tuple(stride))


def write(output: str, found: dict[str, dict[str, Values]], place: Place, max_bytes: int) -> None:
    """Write tensors as safetensors, each whole and by itself, as "NUMBER OF ITS ENTRY|NAME"."""
    header: dict[str, Any] = {}
    end = 0
    for number, tensors in enumerate(found.values()):
        for name, tensor in tensors.items():
            if not tensor.kind:
                raise Refused(
                    f"{name} is sparse, quantized or empty of values; plain ones are read"
                )
            numbers = (tensor.offset, *tensor.shape, *tensor.stride)
            if len(tensor.shape) != len(tensor.stride) or len(tensor.shape) > 32:
                raise Refused(f"damaged: the shape of {name}")
            if not all(type(n) is int and n >= 0 for n in numbers):
                raise Refused(f"damaged: the shape of {name}")
            begin, end = end, end + math.prod(tensor.shape) * _size_of(tensor.kind)
            header[f"{number}|{name}"] = {
                "dtype": tensor.kind, "shape": tensor.shape, "data_offsets": [begin, end],
            }  # fmt: skip
    if end > max_bytes:  # one value can be stretched to any shape
        raise Refused(f"its tensors take {end / 1e6:,.0f} MB, above the cap")
    text = json.dumps(header, ensure_ascii=False).encode()  # fails on half a character in a name
    with open(output, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in _parts(found, place):
            file.write(part)


def _parts(found: dict[str, dict[str, Values]], place: Place) -> Iterator[bytes]:
    """The values of each tensor, in rows; places are read once."""
    places: dict[str, bytes] = {}
    for tensors in found.values():
        for name, tensor in tensors.items():
            if not math.prod(tensor.shape):
                continue
            if tensor.key not in places:
                places[tensor.key] = place(tensor.key)
            size, data = _size_of(tensor.kind), places[tensor.key]
            steps = zip(tensor.shape, tensor.stride, strict=True)
            last = tensor.offset + sum((count - 1) * step for count, step in steps)
            if (last + 1) * size > len(data):
                raise Refused(f"truncated or damaged: values of {name} are not there")
            flat = np.frombuffer(data, f"V{size}", offset=tensor.offset * size)
            strides = [step * size for step in tensor.stride]
            yield np.lib.stride_tricks.as_strided(flat, tensor.shape, strides).tobytes()


def _size_of(kind: str) -> int:
    """Bytes a value."""
    return 1 if kind == "BOOL" or kind.startswith("F8") else int(re.sub(r"\D", "", kind)) // 8


def _brief(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words[:120] or type(error).__name__


if __name__ == "__main__":
    json.dump(main(sys.argv[1], sys.argv[2], int(sys.argv[3])), sys.stdout)
