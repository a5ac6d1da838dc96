"""A code location of its own beside the product: it makes weights, judges candidates, and scores what was released."""
