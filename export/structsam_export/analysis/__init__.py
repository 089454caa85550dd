"""Analysis of merging without timing: multiply-accumulates, spectra, and pictures."""
