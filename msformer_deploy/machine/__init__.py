"""What this computer has: driver, cores, memory, folders, versions."""
