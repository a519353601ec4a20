"""Audio: decoding, features and the collections that recordings come in."""
