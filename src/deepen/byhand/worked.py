"""The worked examples by name, as `deepen byhand` shows them."""

from __future__ import annotations

from deepen.byhand import worked_learning as learning
from deepen.byhand import worked_maps as maps
from deepen.byhand import worked_units as units

WORKED = {
    "linear": units.linear,
    "activations": units.activations,
    "conv": maps.conv,
    "pool": maps.pool,
    "nearest": maps.nearest,
    "bed-of-nails": maps.bed_of_nails,
    "sub-pixel": maps.sub_pixel,
    "transpose": maps.transpose,
    "batch-norm": units.batch_norm,
    "lrn": units.lrn,
    "dropout": units.dropout,
    "loss": learning.loss,
    "sgd": learning.sgd,
    "residual": learning.residual_path,
}
