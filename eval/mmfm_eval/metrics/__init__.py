"""Metrics as plain functions on numpy arrays, each with its chance level; no model, no data, no
files.
"""
