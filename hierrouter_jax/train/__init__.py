"""PPO on route trees: the update, its devices, its checkpoints and the run directory."""
