"""Benchmark rows, prompts, answer extraction, scores, and the sandbox that runs generated code."""
