"""What comes from package registries: art, voices, sounds, weights."""
