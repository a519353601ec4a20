"""Bring your own tokenizer: any torch modules to a bundle."""
