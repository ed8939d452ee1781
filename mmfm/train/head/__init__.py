"""What the head of a fine-tuning run is given before the first step."""
