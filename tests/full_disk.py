"""A full disk without filling one: past a size limit a file fails in the middle of a write, as on a full disk."""

import resource
from contextlib import contextmanager


@contextmanager
def file_size_limit(size_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
