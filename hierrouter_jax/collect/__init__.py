"""Filling route trees: hop prompts, the frontier of missing requests, collection, and the tree file."""
