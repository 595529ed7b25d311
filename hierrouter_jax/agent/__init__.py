"""The router as a neural network: masked action distribution, policy and value nets, greedy and sampled routes."""
