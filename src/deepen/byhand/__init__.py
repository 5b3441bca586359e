"""Forward and backward of each block of the lectures, in NumPy alone, to be read beside them.

One idea a file. `block(x, ...)` is forward; `block_backward(grad, ...)` takes grad = dE/dy, shaped
as y = block(x), and gives dE/d(each array that block takes), which is all that the chain rule asks
of a block (lecture 002, "Backpropagation"). Maps are (N, C, H, W): images, channels, rows, columns.

    linear               fully connected layer
    activations          sigmoid, tanh, ReLU, leaky ReLU, ELU, SELU, Swish, maxout
    convolution          by definition; its gradients are convolutions too
    im2col               the same as one matrix product
    sparse_matrix        the same as a sparse matrix, and its transpose
    pooling              max, average, global average
    transpose_convolution
    upsampling           nearest, bed of nails, sub-pixel
    batch_norm, local_response, dropout
    losses               softmax with cross-entropy, L2, L1, Huber
    optimization         SGD, momentum, weight decay, Nesterov
    residual             why the gradient of the identity path is 1
    lenet                a network of these blocks, trained
    worked               small examples with all their numbers: `deepen byhand conv`
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
