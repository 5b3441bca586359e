"""How a claim is measured: an expression over quantities, `macs("vgg16") / macs("resnet152")` say.

Numbers, strings, + - * / ** and calls of named quantities are all there is. Numbers are exact
fractions, so that nothing depends on how a computer rounds.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from deepen.errors import InputError, unknown

Value = Fraction | int | str
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: Fraction(a) / b,
    ast.Pow: operator.pow,
}


def parse(text: str) -> ast.expr:
    """The tree of a formula.

    Raises:
        InputError: it is no expression of numbers, strings and quantities.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise InputError(f"formula {text!r}: {error.msg}") from error
    for node in ast.walk(tree):
        if not _is_allowed(node):
            raise InputError(f"formula {text!r}: {type(node).__name__} has no place in one")
    return tree


def calls(text: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The quantities of a formula with the constants that they are given."""
    for node in ast.walk(parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, tuple(a.value for a in node.args if isinstance(a, ast.Constant))


def evaluate(text: str, quantities: Mapping[str, Callable[..., Value]]) -> Value:
    """What a formula comes to.

    Raises:
        InputError: no such quantity, or a quantity that does not take what it is given.
    """

    def walk(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=float() as number):
                return Fraction(str(number))
            case ast.Constant():
                return node.value
            case ast.UnaryOp():
                return -walk(node.operand)
            case ast.BinOp():
                return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
            case ast.Call(func=ast.Name(id=name)):
                if name not in quantities:
                    raise unknown("quantity", name, quantities)
                arguments = [walk(a) for a in node.args]
                named = {str(k.arg): walk(k.value) for k in node.keywords}
                try:
                    return quantities[name](*arguments, **named)
                except TypeError as error:
                    raise InputError(f"formula {text!r}: {error}") from error
        raise AssertionError(ast.dump(node))

    return walk(parse(text))


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=bool() | int() | float() | str()):
            return True
        case ast.Call(func=ast.Name()):
            return all(k.arg for k in node.keywords)
        case ast.operator():
            return type(node) in _OPERATORS
    return isinstance(node, ast.BinOp | ast.UnaryOp | ast.USub | ast.Name | ast.Load | ast.keyword)
