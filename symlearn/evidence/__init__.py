"""The Laplace log marginal likelihood as a function of prior precisions and other hyperparameters."""
