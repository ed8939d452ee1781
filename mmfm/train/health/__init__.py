"""Is the run well: not finite, out of the ordinary, standing still, and how large things are."""
