"""Codes in the formats that trainers of other libraries read, a file for each format."""
