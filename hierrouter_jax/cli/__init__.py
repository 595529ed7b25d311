"""The `hierrouter` command: one file a subcommand."""
