"""The routing MDP on device arrays: route trees, steps, rollouts, exact values, scores of routes."""
