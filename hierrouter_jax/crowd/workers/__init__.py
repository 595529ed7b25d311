"""What can fill a role: models of a pool, a trained router, a remote endpoint, people, a mix of these."""
