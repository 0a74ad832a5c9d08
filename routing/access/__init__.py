"""Who may send jobs: tokens, users, signatures."""
