"""Images: to codes and back, over any engine, and whole data sets of them."""
