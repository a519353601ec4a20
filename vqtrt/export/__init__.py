"""From a trained run to files that run without torch."""
