"""Readers of the formats that datasets come in: each finds images by part and class, and decodes none."""
