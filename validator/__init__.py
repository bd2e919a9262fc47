"""spectral-validator: attention spectra of a language model, read as an audited validity score."""

__version__ = "0.1.0.dev0"
