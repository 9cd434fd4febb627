"""What this computer can run, and why not."""
