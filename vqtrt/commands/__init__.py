"""The commands of the CLI: each parses its options, calls one function and prints what it gives."""
