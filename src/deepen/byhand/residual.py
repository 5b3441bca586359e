"""The residual block, and why the gradient of its identity path is 1.

Lecture 003, "Res. Net Residual Block": "Input x goes through conv-relu-conv series and gives us
F(x). That result is then added to the original input x": H(x) = F(x) + x. Lectures 001 (slides 22
to 24, 30) and 004 ("Residual Learning") draw the ReLU after the sum (He et al. 2015, Figure 2).

A sum hands its gradient to both terms unchanged, so with g = dE/dH

    dE/dx = g (dF/dx + dx/dx) = g dF/dx + g

and the second term is g times exactly 1, whatever the weights. Through L blocks without the ReLU
after the sum (He et al. 2016, eq. 4 and 5): x_L = x_l + sum_i F(x_i), so

    dE/dx_l = dE/dx_L (1 + d/dx_l sum_i F(x_i))

where a plain stack has the product of all dF/dx, which vanishes when they are small. The gated
relative of lecture 001, slide 27 (highway: y = T F(x) + (1 - T) x), multiplies the path by 1 - T
in each layer; only the identity leaves it alone.
"""

from __future__ import annotations

from typing import NamedTuple

from deepen.byhand import Array
from deepen.byhand.activations import relu, relu_backward
from deepen.byhand.im2col import convolve, convolve_backward


class ResidualGradients(NamedTuple):
    """Of a block, by its arguments; dE/dx is the sum of what its two paths bring."""

    identity_path: Array  # (N, C, H, W)
    branch_path: Array  # (N, C, H, W)
    weight1: Array  # (C, C, 3, 3)
    weight2: Array  # (C, C, 3, 3)

    @property
    def x(self) -> Array:
        """dE/dx (N, C, H, W)."""
        return self.identity_path + self.branch_path


def residual_block(x: Array, weight1: Array, weight2: Array) -> Array:
    """relu(F(x) + x), F two 3x3 convolutions with a ReLU between: (N, C, H, W) to the same."""
    hidden = relu(convolve(x, weight1, padding=1))
    return relu(convolve(hidden, weight2, padding=1) + x)


def residual_block_backward(
    grad: Array, x: Array, weight1: Array, weight2: Array
) -> ResidualGradients:
    """dE/dy (N, C, H, W) to the gradients of input, by path, and of both filters."""
    before = convolve(x, weight1, padding=1)
    hidden = relu(before)
    total = convolve(hidden, weight2, padding=1) + x
    g = relu_backward(grad, total)  # arrives at the sum, and leaves it twice
    d_hidden, d_weight2, _ = convolve_backward(g, hidden, weight2, padding=1)
    d_before = relu_backward(d_hidden, before)
    d_x, d_weight1, _ = convolve_backward(d_before, x, weight1, padding=1)
    return ResidualGradients(g, d_x, d_weight1, d_weight2)


def plain_chain(slopes: Array) -> float:
    """dx_L/dx_0 through plain layers with derivatives `slopes` (L,): their product."""
    return float(slopes.prod())


def residual_chain(slopes: Array) -> float:
    """dx_L/dx_0 through residual layers whose branches have derivatives `slopes`: of 1 + slope."""
    return float((1 + slopes).prod())


def highway_carry_chain(gates: Array) -> float:
    """What of the gradient stays on the carry path of highway layers with gates T: of 1 - T."""
    return float((1 - gates).prod())
