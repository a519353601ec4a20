"""Images: decoding, preprocessing and the collections that they come in."""
