"""Encoder and decoder trunks, one family a file; the table of them is `gvae.nets.TRUNKS`."""
