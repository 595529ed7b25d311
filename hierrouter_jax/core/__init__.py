"""What every room shares: errors, array structs, configs as JSON, key streams, files, progress, text requests."""
