"""What a user may ask: options that several verbs share, and what they mean together."""
