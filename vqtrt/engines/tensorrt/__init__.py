"""TensorRT: engine files, and what runs them."""
