"""Reinforcement-learning mathematics: pure functions of one trajectory (time leading) or of one element."""
