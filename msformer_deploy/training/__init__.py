"""Training networks that keep their weights: one loop on Lightning Fabric, and a recipe for each system."""
