"""What training starts from in place of drawn weights."""
