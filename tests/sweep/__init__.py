"""SIGKILL anywhere: what is left must be mended by the next `up`, and taken away by the next `down`."""
