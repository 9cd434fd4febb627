"""What supervised networks are trained to minimise."""
