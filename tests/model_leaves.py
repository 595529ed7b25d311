"""The leaves of a decoder by name."""

import numpy as np
from flax import nnx


def leaves_of(model):
    """Return every leaf as an array, under its dotted name."""
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(model.params)}
