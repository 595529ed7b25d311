"""Candidate language models: one Flax decoder for every family, its checkpoints, its generation loop."""
