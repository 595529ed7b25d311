"""The content-addressed store of responses: ask a model once, keep the answer for good."""
