"""The commands: options in, text or JSON out, one line for every error."""
