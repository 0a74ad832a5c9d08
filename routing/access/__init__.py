"""Access control: tokens, users and signatures."""
