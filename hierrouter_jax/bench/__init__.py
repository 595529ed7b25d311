"""Benchmarks: what generation, collection and routing cost, each beside a named peer in the same run."""
