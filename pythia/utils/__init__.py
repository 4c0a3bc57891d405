"""What comes with Pythia for a user's own tests; see ``pythia.utils.testing``."""
