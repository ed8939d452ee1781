"""open_clip's own model and loss under mmfm's trainer, beside open_clip."""
