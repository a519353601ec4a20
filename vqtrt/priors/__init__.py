"""The torch side of the priors: each with its full form (training) and its cached form (export)."""
