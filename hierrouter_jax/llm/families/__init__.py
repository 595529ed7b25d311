"""Model families as data: how a file's config and tensors map to the one decoder."""
