"""How good the systems are: comparison with intervals, the Pareto front, and answers given live."""
