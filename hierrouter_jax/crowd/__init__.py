"""Human-computation algorithms whose workers are models, routers, endpoints, people, or a mix (arXiv:2307.10168)."""
