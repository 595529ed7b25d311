"""Sentence encoders: what the router sees of a query and of the responses so far."""
