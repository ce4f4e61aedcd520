"""GEMS (Pimpalkhute et al., WACV 2023)."""
