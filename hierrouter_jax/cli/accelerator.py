"""JAX as the commands want it: compiled programs kept on disk between processes."""

from __future__ import annotations

MIN_COMPILE_S = 0.05  # programs that compile faster are not worth a file


def keep_compiled_programs() -> None:
    """Keep compiled programs in the cache folder: a second run of a command need not compile again."""
    import jax

    from hierrouter_jax.weights.sources import default_cache_dir

    jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_S)
