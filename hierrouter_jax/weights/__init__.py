"""Where weights come from and how their tensors reach the leaves of a Flax module."""
