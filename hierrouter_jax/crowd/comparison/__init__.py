"""Comparing: models by sub-task, a chain with one prompt, instructions with each other, and what people should do."""
