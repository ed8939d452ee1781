"""What becomes of drafts: read, processed, chosen, written into shards."""
