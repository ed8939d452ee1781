"""Shards at URLs: opened, fetched, kept in a bounded cache, ahead of their use."""
