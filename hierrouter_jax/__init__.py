"""Learned multi-hop routing over pools of small language models, in JAX."""
