"""The published algorithms, one file each, as pure generators of sub-tasks."""
